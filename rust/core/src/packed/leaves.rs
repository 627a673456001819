//! What the leaves of a batch hold, as bytes.

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_schema::DataType;

use super::bytes::{Tail, fixed};
use super::nested;
use super::packing::{Kind, Node};
use crate::error::{Error, Result};

/// The values of one leaf, for each row of a batch.
pub(super) enum Values {
    /// At a fixed distance.
    Fixed(Buffer),
    Bits(BooleanBuffer),
    Tail(Tail),
}

/// The rows where a bit of the head is set.
pub(super) struct Nulls {
    pub(super) bit: usize,
    pub(super) nulls: NullBuffer,
}

/// Takes the columns of a batch apart, in the order of the leaves.
pub(super) fn take_apart(
    node: &Node,
    array: &ArrayRef,
    values: &mut Vec<Values>,
    nulls: &mut Vec<Nulls>,
) -> Result<()> {
    let valid = array.nulls().filter(|nulls| nulls.null_count() > 0);
    match (node.null_bit, valid) {
        (Some(bit), Some(valid)) => nulls.push(Nulls { bit, nulls: valid.clone() }),
        (None, Some(_)) => {
            return Err(Error::bug(format!("nulls in `{}`, which has none", node.field.name())));
        }
        (_, None) => {}
    }
    match &node.kind {
        Kind::Null => {}
        Kind::Fixed(_) => values.push(Values::Fixed(fixed(array)?)),
        Kind::Bool(_) => values.push(Values::Bits(array.as_boolean().values().clone())),
        Kind::Bytes(_) => values.push(Values::Tail(match array.data_type() {
            DataType::Utf8 => bytes::<Utf8Type>(array),
            DataType::LargeUtf8 => bytes::<LargeUtf8Type>(array),
            DataType::Binary => bytes::<BinaryType>(array),
            DataType::LargeBinary => bytes::<LargeBinaryType>(array),
            other => return Err(unexpected(node, other)),
        })),
        Kind::List { mask, width, .. } => {
            let (tail, nulls) = match array.data_type() {
                DataType::List(_) => list(array.as_list::<i32>(), *width)?,
                DataType::LargeList(_) => list(array.as_list::<i64>(), *width)?,
                other => return Err(unexpected(node, other)),
            };
            values.push(Values::Tail(tail));
            if mask.is_some() {
                values.push(Values::Tail(nulls));
            }
        }
        Kind::Vector { mask, len, .. } => {
            let child = array.as_fixed_size_list().values();
            values.push(Values::Fixed(fixed(child)?));
            if mask.is_some() {
                let ranges = (0..array.len()).map(|row| (row * len, *len));
                values.push(Values::Tail(masks(child, ranges)));
            }
        }
        Kind::Struct(fields) => {
            for (field, child) in fields.iter().zip(array.as_struct().columns()) {
                take_apart(field, child, values, nulls)?;
            }
        }
        Kind::Nested(_) => values.push(Values::Tail(nested::encode(array)?)),
    }
    Ok(())
}

fn unexpected(node: &Node, found: &DataType) -> Error {
    Error::bug(format!("column `{}` of type {found} is not what it was", node.field.name()))
}

fn bytes<T: ByteArrayType>(array: &ArrayRef) -> Tail {
    let array = array.as_bytes::<T>();
    Tail { ranges: ranges(array.value_offsets(), array.nulls(), 1), data: array.values().clone() }
}

/// Returns the range of each row, in bytes; nothing for null rows, whatever lies under them.
pub(super) fn ranges<O: OffsetSizeTrait>(
    offsets: &[O],
    nulls: Option<&NullBuffer>,
    width: usize,
) -> Vec<(usize, usize)> {
    let ends = offsets.iter().skip(1);
    let mut ranges: Vec<(usize, usize)> = offsets
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            let start = start.as_usize();
            (start * width, (end.as_usize() - start) * width)
        })
        .collect();
    if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) {
        for (row, range) in ranges.iter_mut().enumerate() {
            if nulls.is_null(row) {
                *range = (0, 0);
            }
        }
    }
    ranges
}

/// Returns the values of each list, and the masks of its nulls.
fn list<O: OffsetSizeTrait>(array: &GenericListArray<O>, width: usize) -> Result<(Tail, Tail)> {
    let ranges = ranges(array.value_offsets(), array.nulls(), width);
    let counted = ranges.iter().map(|&(start, len)| (start / width.max(1), len / width.max(1)));
    let masks = masks(array.values(), counted);
    Ok((Tail { data: fixed(array.values())?, ranges }, masks))
}

/// Returns a bitmap of the valid values for each run, empty if all of them are valid.
fn masks(values: &ArrayRef, runs: impl Iterator<Item = (usize, usize)>) -> Tail {
    let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return Tail { data: Buffer::default(), ranges: runs.map(|_| (0, 0)).collect() };
    };
    let mut data: Vec<u8> = Vec::new();
    let mut mask = |(start, len): (usize, usize)| {
        let run = nulls.slice(start, len);
        if run.null_count() == 0 {
            return (0, 0);
        }
        let at = data.len();
        data.extend_from_slice(BooleanBuffer::collect_bool(len, |k| run.is_valid(k)).values());
        data.truncate(at + len.div_ceil(8));
        (at, data.len() - at)
    };
    let ranges = runs.map(&mut mask).collect();
    Tail { data: data.into(), ranges }
}
