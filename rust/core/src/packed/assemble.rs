//! Values of packed rows, leaf by leaf → arrays.

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

use super::bytes::width_of;
use super::heads::Heads;
use super::nested;
use super::packing::{Kind, Node};
use crate::error::{Error, Result};

/// The values of one leaf.
pub(super) enum Column {
    Fixed(Buffer),
    Bits(BooleanBuffer),
    Tail(Parts),
}

/// The parts of the tails that belong to a leaf, end to end.
pub(super) struct Parts {
    // Aligned, as values of any width may lie in it.
    pub(super) data: MutableBuffer,
    /// Where each row's part ends.
    pub(super) ends: Vec<usize>,
}

/// Puts leaves together into arrays.
pub(super) struct Assembly<'a, 'b> {
    pub(super) rows: &'a Heads<'a>,
    pub(super) bits_set: &'a [bool],
    pub(super) columns: &'b mut Vec<Option<Column>>,
}

impl Assembly<'_, '_> {
    pub(super) fn node(&mut self, node: &Node) -> Result<ArrayRef> {
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

/// Returns the validity of the values of lists of these lengths, or `None` if all are valid.
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

/// Returns one bit of every head.
pub(super) fn bits_of(rows: &Heads<'_>, bit: usize) -> BooleanBuffer {
    let is_set = |row: usize| rows.heads[row][bit / 8] & (1 << (bit % 8)) != 0;
    BooleanBuffer::collect_bool(rows.heads.len(), is_set)
}
