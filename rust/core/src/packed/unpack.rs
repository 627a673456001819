//! Packed rows → columns, in any order of rows.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, StructArray,
    make_array, new_null_array,
};
use arrow_buffer::{
    BooleanBuffer, BooleanBufferBuilder, Buffer, MutableBuffer, NullBuffer, OffsetBuffer,
    ScalarBuffer,
};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, Field};

use super::{Kind, Leaf, Node, Packing, nested, read_u32, read_u64, width_of};
use crate::error::{Error, Result};
use crate::processor::prefetch;

/// Rows that are taken apart while their heads stay in L1.
const TILE_ROWS: usize = 64;
/// The distance of bytes that share a cache line.
const LINE_BYTES: usize = 64;
/// Lines of a head that are asked for a tile ahead.
const HEAD_LINES: usize = 4;
/// Lines of a tail that are asked for, and so many rows ahead. No more, and always as many: tails of any
/// length follow, which are mostly longer, and a loop over the lines of each would be mispredicted.
const TAIL_LINES: usize = 2;
const TAILS_AHEAD: usize = 16;
/// Lines of a wide value that are asked for a row ahead: few enough to stay in L1.
const VALUE_LINES: usize = 64;
/// Wider values are lists.
const WIDEST_VALUE: usize = 16;

/// The rows of an answer: for each its head and the tails of its block.
pub struct Heads<'a> {
    /// One for each row.
    pub heads: Vec<&'a [u8]>,
    /// As many, or none if rows have no tails.
    pub tails: Vec<&'a [u8]>,
}

impl Heads<'_> {
    /// No rows, with room for so many.
    pub fn with_capacity(rows: usize) -> Self {
        Self { heads: Vec::with_capacity(rows), tails: Vec::new() }
    }

    /// Runs of rows whose heads are close to the processor. Those of the next run are asked for when a
    /// run begins, so that memory is waited for while rows are taken apart.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let num_rows = self.heads.len();
        self.fetch(0..TILE_ROWS);
        (0..num_rows).step_by(TILE_ROWS).map(move |start| {
            let end = start + TILE_ROWS;
            self.fetch(end..end + TILE_ROWS);
            start..num_rows.min(end)
        })
    }

    /// Asks for the heads of these rows, as far as there are so many.
    fn fetch(&self, rows: Range<usize>) {
        let end = rows.end.min(self.heads.len());
        for head in &self.heads[rows.start.min(end)..end] {
            fetch(head, HEAD_LINES);
            head.last().map(prefetch);
        }
    }

    /// Asks for the beginning of the tail of a row, if there is such a row.
    fn fetch_tail(&self, row: usize, slot: usize) {
        if let Some(head) = self.heads.get(row) {
            let tail = self.tails[row].get(read_u64(head, slot)..);
            fetch(tail.unwrap_or_default(), TAIL_LINES);
        }
    }
}

/// Asks for the first `lines` cache lines of these bytes.
fn fetch(bytes: &[u8], lines: usize) {
    for line in bytes.chunks(LINE_BYTES).take(lines) {
        prefetch(&line[0]);
    }
}

/// What was taken out of one leaf.
enum Column {
    Fixed(Buffer),
    Bits(BooleanBuffer),
    Tail(Parts),
}

/// The parts of the tails that belong to a leaf, end to end.
struct Parts {
    // Aligned, as values of any width may lie in it.
    data: MutableBuffer,
    /// Where each row's part ends.
    ends: Vec<usize>,
}

impl Packing {
    /// The columns with the numbers `wanted`, for these rows in this order.
    ///
    /// `bits_set` says which bits are set in any row, so that the others need not be looked at.
    /// Columns of one type lie end to end in one allocation.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a column outgrows the offsets of its type.
    pub fn unpack(
        &self,
        rows: &Heads<'_>,
        bits_set: &[bool],
        wanted: &[usize],
    ) -> Result<Vec<ArrayRef>> {
        let nodes: Vec<&Node> = wanted.iter().map(|&column| &self.columns[column]).collect();
        if rows.heads.is_empty() {
            let empty = |node: &&Node| new_null_array(node.field.data_type(), 0);
            return Ok(nodes.iter().map(empty).collect());
        }
        let mut is_wanted = vec![None; self.leaves.len()];
        for node in &nodes {
            want(node, &mut is_wanted);
        }
        let mut out = self.outputs(rows, is_wanted);
        out.fill(self, rows);
        let mut columns = out.finish();
        let assemble = |node: &&Node| Assembly { rows, bits_set, columns: &mut columns }.node(node);
        nodes.iter().map(assemble).collect()
    }

    /// One row-major matrix of the columns with the numbers `wanted`, which are of one fixed width.
    pub(crate) fn unpack_matrix(&self, rows: &Heads<'_>, wanted: &[usize]) -> Option<Buffer> {
        let leaf = |&column: &usize| match self.columns[column].kind {
            Kind::Fixed(leaf) => Some(self.leaves[leaf]),
            _ => None,
        };
        let slot = |leaf| match leaf {
            Leaf::Fixed { slot, width } => Some((slot, width)),
            Leaf::Bit { .. } | Leaf::Tail { .. } => None,
        };
        let slots: Vec<(usize, usize)> =
            wanted.iter().map(|column| leaf(column).and_then(slot)).collect::<Option<_>>()?;
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (slot, width) in slots {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == slot => *len += width,
                _ => runs.push((slot, width)),
            }
        }
        let row_bytes: usize = runs.iter().map(|(_, len)| len).sum();
        let mut out = MutableBuffer::with_capacity(rows.heads.len() * row_bytes);
        for tile in rows.tiles() {
            for head in &rows.heads[tile] {
                for &(slot, len) in &runs {
                    out.extend_from_slice(&head[slot..slot + len]);
                }
            }
        }
        Some(out.into())
    }

    fn outputs<'a>(&self, rows: &Heads<'_>, is_wanted: Vec<Option<&'a Field>>) -> Outputs<'a> {
        let num_rows = rows.heads.len();
        let mut groups: Vec<Group<'a>> = Vec::new();
        for (leaf, field) in is_wanted.iter().enumerate() {
            let (Some(field), Leaf::Fixed { width, .. }) = (*field, self.leaves[leaf]) else {
                continue;
            };
            match groups.iter_mut().find(|group| group.field.data_type() == field.data_type()) {
                Some(group) => group.leaves.push(leaf),
                None => groups.push(Group {
                    field,
                    width,
                    leaves: vec![leaf],
                    out: MutableBuffer::new(0),
                }),
            }
        }
        for group in &mut groups {
            let bytes = group.leaves.len() * group.width * num_rows;
            group.out = if group.is_appended() {
                MutableBuffer::with_capacity(bytes)
            } else {
                MutableBuffer::from_len_zeroed(bytes)
            };
        }
        let bits = |(leaf, field): (usize, Option<&Field>)| match (field, self.leaves[leaf]) {
            (Some(_), Leaf::Bit { bit }) => Some((leaf, bit)),
            _ => None,
        };
        let bits = is_wanted.iter().copied().enumerate().filter_map(bits).collect();
        let tails = |(leaf, field): (usize, Option<&Field>)| match self.leaves[leaf] {
            Leaf::Tail { slot } => Some(TailOut {
                leaf,
                slot,
                parts: field.map(|_| Parts {
                    data: MutableBuffer::new(0),
                    ends: Vec::with_capacity(num_rows),
                }),
            }),
            Leaf::Fixed { .. } | Leaf::Bit { .. } => None,
        };
        let tails: Vec<TailOut> = is_wanted.iter().copied().enumerate().filter_map(tails).collect();
        let has_tails = tails.iter().any(|tail| tail.parts.is_some());
        Outputs {
            num_leaves: self.leaves.len(),
            groups,
            bits,
            booleans: Vec::new(),
            tails: if has_tails { tails } else { Vec::new() },
        }
    }
}

/// Marks the leaves of a column with the field that their values belong to.
fn want<'a>(node: &'a Node, wanted: &mut [Option<&'a Field>]) {
    match &node.kind {
        Kind::Null => {}
        Kind::Fixed(leaf) | Kind::Bool(leaf) | Kind::Bytes(leaf) | Kind::Nested(leaf) => {
            wanted[*leaf] = Some(node.field.as_ref());
        }
        Kind::List { values, mask, .. } | Kind::Vector { values, mask, .. } => {
            wanted[*values] = Some(node.field.as_ref());
            if let Some(mask) = mask {
                wanted[*mask] = Some(node.field.as_ref());
            }
        }
        Kind::Struct(fields) => fields.iter().for_each(|field| want(field, wanted)),
    }
}

/// Where the values of an answer are written.
struct Outputs<'a> {
    num_leaves: usize,
    groups: Vec<Group<'a>>,
    /// Boolean leaves and their bits.
    bits: Vec<(usize, usize)>,
    booleans: Vec<BooleanBuffer>,
    tails: Vec<TailOut>,
}

/// Fixed-width leaves of one type, in one allocation.
struct Group<'a> {
    field: &'a Field,
    width: usize,
    leaves: Vec<usize>,
    out: MutableBuffer,
}

impl Group<'_> {
    /// Whether its values can be written one after another, with nothing in between.
    fn is_appended(&self) -> bool {
        self.leaves.len() == 1 && self.width > WIDEST_VALUE
    }
}

/// A part of the tails; `None` where it is only passed over.
struct TailOut {
    leaf: usize,
    slot: usize,
    parts: Option<Parts>,
}

impl TailOut {
    /// Notes where the parts of these rows will end.
    fn measure(&mut self, heads: &[&[u8]]) {
        if let Some(Parts { ends, .. }) = &mut self.parts {
            let mut end = ends.last().copied().unwrap_or(0);
            ends.extend(heads.iter().map(|head| {
                end += read_u32(head, self.slot);
                end
            }));
        }
    }
}

impl Outputs<'_> {
    fn fill(&mut self, packing: &Packing, rows: &Heads<'_>) {
        let num_rows = rows.heads.len();
        for tile in rows.tiles() {
            let heads = &rows.heads[tile.clone()];
            for group in &mut self.groups {
                let is_appended = group.is_appended();
                let Group { width, leaves, out, .. } = group;
                if let (true, Leaf::Fixed { slot, width }) =
                    (is_appended, packing.leaves[leaves[0]])
                {
                    for (at, head) in heads.iter().enumerate() {
                        if let Some(next) = heads.get(at + 1) {
                            fetch(&next[slot..slot + width], VALUE_LINES);
                        }
                        out.extend_from_slice(&head[slot..slot + width]);
                    }
                    continue;
                }
                let regions = out.as_slice_mut().chunks_exact_mut((*width * num_rows).max(1));
                for (region, leaf) in regions.zip(leaves.iter()) {
                    if let Leaf::Fixed { slot, width } = packing.leaves[*leaf] {
                        let region = &mut region[tile.start * width..tile.end * width];
                        copy_out(heads, slot, width, region);
                    }
                }
            }
            for tail in &mut self.tails {
                tail.measure(heads);
            }
        }
        if let (Some(slot), false) = (packing.tail_slot, self.tails.is_empty()) {
            self.fill_tails(rows, slot);
        }
        let boolean = |&(_, bit): &(usize, usize)| bits_of(rows, bit);
        self.booleans = self.bits.iter().map(boolean).collect();
    }

    fn fill_tails(&mut self, rows: &Heads<'_>, slot: usize) {
        // Lengths may come from a file that was changed behind our back: memory is asked for only
        // if there is so much to copy.
        let most: usize = rows.tails.iter().map(|tails| tails.len()).sum();
        for parts in self.tails.iter_mut().filter_map(|tail| tail.parts.as_mut()) {
            let bytes = parts.ends.last().copied().unwrap_or(0);
            parts.data = MutableBuffer::with_capacity(bytes.min(most));
        }
        for row in 0..TAILS_AHEAD {
            rows.fetch_tail(row, slot);
        }
        for (row, (head, tails)) in rows.heads.iter().zip(&rows.tails).enumerate() {
            rows.fetch_tail(row + TAILS_AHEAD, slot);
            let mut at = read_u64(head, slot);
            for tail in &mut self.tails {
                let end = at + read_u32(head, tail.slot);
                if let Some(parts) = &mut tail.parts {
                    parts.data.extend_from_slice(&tails[at..end]);
                }
                at = end;
            }
        }
    }

    /// What was written, by leaf.
    fn finish(self) -> Vec<Option<Column>> {
        let mut columns: Vec<Option<Column>> = Vec::new();
        columns.resize_with(self.num_leaves, || None);
        for Group { leaves, out, .. } in self.groups {
            let bytes = out.len() / leaves.len();
            let whole = Buffer::from(out);
            for (at, leaf) in leaves.into_iter().enumerate() {
                columns[leaf] = Some(Column::Fixed(whole.slice_with_length(at * bytes, bytes)));
            }
        }
        for ((leaf, _), values) in self.bits.into_iter().zip(self.booleans) {
            columns[leaf] = Some(Column::Bits(values));
        }
        for tail in self.tails {
            columns[tail.leaf] = tail.parts.map(Column::Tail);
        }
        columns
    }
}

fn copy_out(heads: &[&[u8]], slot: usize, width: usize, out: &mut [u8]) {
    match width {
        1 => copy_array_out::<1>(heads, slot, out),
        2 => copy_array_out::<2>(heads, slot, out),
        4 => copy_array_out::<4>(heads, slot, out),
        8 => copy_array_out::<8>(heads, slot, out),
        16 => copy_array_out::<16>(heads, slot, out),
        0 => {}
        _ => {
            for (value, head) in out.chunks_exact_mut(width).zip(heads) {
                value.copy_from_slice(&head[slot..slot + width]);
            }
        }
    }
}

fn copy_array_out<const WIDTH: usize>(heads: &[&[u8]], slot: usize, out: &mut [u8]) {
    for (value, head) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(heads) {
        value.copy_from_slice(&head[slot..slot + WIDTH]);
    }
}

/// One bit of every head.
fn bits_of(rows: &Heads<'_>, bit: usize) -> BooleanBuffer {
    let is_set = |row: usize| rows.heads[row][bit / 8] & (1 << (bit % 8)) != 0;
    BooleanBuffer::collect_bool(rows.heads.len(), is_set)
}

/// Puts leaves together into arrays.
struct Assembly<'a, 'b> {
    rows: &'a Heads<'a>,
    bits_set: &'a [bool],
    columns: &'b mut Vec<Option<Column>>,
}

impl Assembly<'_, '_> {
    fn node(&mut self, node: &Node) -> Result<ArrayRef> {
        let num_rows = self.rows.heads.len();
        let nulls = self.nulls(node);
        let data_type = node.field.data_type();
        Ok(match &node.kind {
            Kind::Null => new_null_array(data_type, num_rows),
            Kind::Fixed(leaf) => primitive(data_type, num_rows, self.fixed(*leaf)?, nulls)?,
            Kind::Bool(leaf) => match self.columns[*leaf].take() {
                Some(Column::Bits(values)) => Arc::new(BooleanArray::new(values, nulls)),
                _ => return Err(missing()),
            },
            Kind::Bytes(leaf) => self.bytes(*leaf, data_type, nulls)?,
            Kind::List { values, mask, width } => {
                let parts = self.tail(*values)?;
                let mask = mask.map(|mask| self.tail(mask)).transpose()?;
                match data_type {
                    DataType::List(child) => list::<i32>(child, parts, mask, *width, nulls)?,
                    DataType::LargeList(child) => list::<i64>(child, parts, mask, *width, nulls)?,
                    _ => return Err(missing()),
                }
            }
            Kind::Vector { values, mask, len } => {
                let DataType::FixedSizeList(child, size) = data_type else {
                    return Err(missing());
                };
                let values = self.fixed(*values)?;
                let lengths = || (0..num_rows).map(|_| *len);
                let mask = match mask {
                    Some(mask) => masked(&self.tail(*mask)?, lengths(), num_rows * len),
                    None => None,
                };
                let values = primitive(child.data_type(), num_rows * len, values, mask)?;
                let child = Arc::clone(child);
                let array =
                    FixedSizeListArray::try_new_with_length(child, *size, values, nulls, num_rows);
                Arc::new(array.map_err(misfit)?)
            }
            Kind::Struct(fields) => {
                let children: Vec<ArrayRef> =
                    fields.iter().map(|field| self.node(field)).collect::<Result<_>>()?;
                let names = fields.iter().map(|field| Arc::clone(&field.field)).collect();
                let array = StructArray::try_new_with_length(names, children, nulls, num_rows);
                Arc::new(array.map_err(misfit)?)
            }
            Kind::Nested(leaf) => {
                let parts = self.tail(*leaf)?;
                nested::decode(&node.field, &parts.data, &parts.ends, nulls)?
            }
        })
    }

    fn nulls(&self, node: &Node) -> Option<NullBuffer> {
        let bit = node.null_bit.filter(|&bit| self.bits_set[bit])?;
        let valid = !&bits_of(self.rows, bit);
        Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0)
    }

    fn fixed(&mut self, leaf: usize) -> Result<Buffer> {
        match self.columns[leaf].take() {
            Some(Column::Fixed(values)) => Ok(values),
            _ => Err(missing()),
        }
    }

    fn tail(&mut self, leaf: usize) -> Result<Parts> {
        match self.columns[leaf].take() {
            Some(Column::Tail(parts)) => Ok(parts),
            _ => Err(missing()),
        }
    }

    fn bytes(
        &mut self,
        leaf: usize,
        data_type: &DataType,
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef> {
        let parts = self.tail(leaf)?;
        let offsets = match data_type {
            DataType::Utf8 | DataType::Binary => {
                offsets::<i32>(&parts, 1)?.into_inner().into_inner()
            }
            _ => offsets::<i64>(&parts, 1)?.into_inner().into_inner(),
        };
        let array = ArrayData::builder(data_type.clone())
            .len(parts.ends.len())
            .add_buffer(offsets)
            .add_buffer(Buffer::from(parts.data))
            .nulls(nulls);
        // Checked: the bytes may come from a file that was changed behind our back.
        Ok(make_array(array.build().map_err(misfit)?))
    }
}

fn primitive(
    data_type: &DataType,
    len: usize,
    values: Buffer,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let array = ArrayData::builder(data_type.clone()).len(len).add_buffer(values).nulls(nulls);
    Ok(make_array(array.build().map_err(misfit)?))
}

fn offsets<O: OffsetSizeTrait>(parts: &Parts, width: usize) -> Result<OffsetBuffer<O>> {
    let mut offsets = Vec::with_capacity(parts.ends.len() + 1);
    offsets.push(O::usize_as(0));
    for end in &parts.ends {
        let values = end / width.max(1);
        offsets.push(O::from_usize(values).ok_or_else(|| {
            Error::invalid(
                format!("{} rows with more than {values} values in one column", parts.ends.len()),
                "fewer rows per batch, as its offsets have 32 bits",
            )
        })?);
    }
    Ok(OffsetBuffer::new(ScalarBuffer::from(offsets)))
}

fn list<O: OffsetSizeTrait>(
    child: &Arc<Field>,
    parts: Parts,
    mask: Option<Parts>,
    width: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let offsets = offsets::<O>(&parts, width)?;
    let num_values = parts.data.len() / width.max(1);
    let lengths = offsets.lengths();
    let mask = mask.and_then(|mask| masked(&mask, lengths, num_values));
    debug_assert_eq!(width_of(child), Some(width));
    let values = primitive(child.data_type(), num_values, Buffer::from(parts.data), mask)?;
    let array = GenericListArray::<O>::try_new(Arc::clone(child), offsets, values, nulls);
    Ok(Arc::new(array.map_err(misfit)?))
}

/// The validity of the values of lists of these lengths, or `None` if all are valid.
fn masked(
    parts: &Parts,
    lengths: impl Iterator<Item = usize>,
    num_values: usize,
) -> Option<NullBuffer> {
    if parts.data.is_empty() {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(num_values);
    let mut start = 0;
    for (&end, len) in parts.ends.iter().zip(lengths) {
        if start == end {
            valid.append_n(len, true);
        } else {
            valid.append_packed_range(start * 8..start * 8 + len, &parts.data);
        }
        start = end;
    }
    Some(NullBuffer::new(valid.finish())).filter(|nulls| nulls.null_count() > 0)
}

fn missing() -> Error {
    Error::bug("a column was not unpacked")
}

fn misfit(error: ArrowError) -> Error {
    Error::corrupt("packed rows", "a column does not fit").caused_by(&error)
}
