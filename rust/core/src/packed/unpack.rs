//! Packed rows, in any order of rows → the values of each leaf, end to end.

use arrow_array::{ArrayRef, new_null_array};
use arrow_buffer::{BooleanBuffer, Buffer, MutableBuffer};
use arrow_schema::Field;

use super::assemble::{Assembly, Column, Parts, bits_of};
use super::bytes::{read_u32, read_u64};
use super::heads::{Heads, fetch};
use super::packing::{Kind, Leaf, Node, Packing};
use crate::error::Result;

/// Tails are asked for so many rows ahead.
const TAILS_AHEAD: usize = 16;
/// Lines of a wide value that are asked for a row ahead: few enough to stay in L1.
const VALUE_LINES: usize = 64;
/// Wider values are lists.
const WIDEST_VALUE: usize = 16;

impl Packing {
    /// Returns the columns with the numbers `wanted`, for these rows in this order.
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

    /// Returns one row-major matrix of the columns with the numbers `wanted`, which are of one fixed
    /// width.
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
    /// Returns whether its values can be written one after another, with nothing in between.
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

    /// Returns the values written, by leaf.
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
