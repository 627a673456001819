//! Columns of values without children.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{Array, ArrayRef, BooleanArray, GenericByteArray, OffsetSizeTrait, make_array};
use arrow_buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType};

use crate::error::{Error, Result};
use crate::projection::width_of;

/// `(block, row)`: where a row of the answer stands.
pub(super) type Place = (usize, usize);

/// Gathers one column of values without children; `parts` has at least one block, and all have the
/// same type.
pub(super) fn gather_flat(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    match parts[0].data_type() {
        DataType::Boolean => Ok(booleans(parts, places)),
        DataType::Utf8 => byte_strings::<Utf8Type>(parts, places),
        DataType::LargeUtf8 => byte_strings::<LargeUtf8Type>(parts, places),
        DataType::Binary => byte_strings::<BinaryType>(parts, places),
        DataType::LargeBinary => byte_strings::<LargeBinaryType>(parts, places),
        data_type => match width_of(data_type) {
            Some(width) => fixed_width(parts, places, data_type, width),
            None => interleave(parts, places),
        },
    }
}

/// Gathers with Arrow's kernel, for the types not worth one of ours.
pub(super) fn interleave(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let arrays: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    arrow_select::interleave::interleave(&arrays, places).map_err(|error| too_large(&error))
}

fn fixed_width(
    parts: &[&ArrayRef],
    places: &[Place],
    data_type: &DataType,
    width: usize,
) -> Result<ArrayRef> {
    let data: Vec<ArrayData> = parts.iter().map(Array::to_data).collect();
    let values: Vec<&[u8]> = data
        .iter()
        .map(|data| &data.buffers()[0][data.offset() * width..(data.offset() + data.len()) * width])
        .collect();
    let values = match width {
        1 => copy::<1>(&values, places),
        2 => copy::<2>(&values, places),
        4 => copy::<4>(&values, places),
        8 => copy::<8>(&values, places),
        16 => copy::<16>(&values, places),
        32 => copy::<32>(&values, places),
        _ => return interleave(parts, places),
    };
    let built = ArrayData::builder(data_type.clone())
        .len(places.len())
        .add_buffer(values)
        .nulls(nulls(parts, places))
        .build();
    Ok(make_array(built.map_err(bug)?))
}

fn copy<const WIDTH: usize>(blocks: &[&[u8]], places: &[Place]) -> Buffer {
    let blocks: Vec<&[[u8; WIDTH]]> = blocks.iter().map(|block| block.as_chunks().0).collect();
    let mut out = MutableBuffer::from_len_zeroed(places.len() * WIDTH);
    let slots = out.as_slice_mut().as_chunks_mut::<WIDTH>().0;
    if let [block] = blocks.as_slice() {
        for (slot, &(_, row)) in slots.iter_mut().zip(places) {
            *slot = block[row];
        }
    } else {
        for (slot, &(block, row)) in slots.iter_mut().zip(places) {
            *slot = blocks[block][row];
        }
    }
    out.into()
}

/// Returns the validity of the answer, or `None` if all its rows are valid.
pub(super) fn nulls(parts: &[&ArrayRef], places: &[Place]) -> Option<NullBuffer> {
    let parts: Vec<Option<&NullBuffer>> = parts.iter().map(|part| part.nulls()).collect();
    if parts.iter().all(|nulls| nulls.is_none_or(|nulls| nulls.null_count() == 0)) {
        return None;
    }
    let is_valid = |&(block, row): &Place| parts[block].is_none_or(|nulls| nulls.is_valid(row));
    let valid = BooleanBuffer::collect_bool(places.len(), |at| is_valid(&places[at]));
    Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0)
}

fn booleans(parts: &[&ArrayRef], places: &[Place]) -> ArrayRef {
    let values: Vec<&BooleanBuffer> = parts.iter().map(|part| part.as_boolean().values()).collect();
    let bit = |at: usize| {
        let (block, row) = places[at];
        values[block].value(row)
    };
    let values = BooleanBuffer::collect_bool(places.len(), bit);
    Arc::new(BooleanArray::new(values, nulls(parts, places)))
}

fn byte_strings<T: ByteArrayType>(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let arrays: Vec<&GenericByteArray<T>> = parts.iter().map(|part| part.as_bytes::<T>()).collect();
    let offsets: Vec<&[T::Offset]> = arrays.iter().map(|array| array.value_offsets()).collect();
    let (ranges, new_offsets) = ranges(&offsets, places)?;
    let mut values = MutableBuffer::with_capacity(ranges.num_values);
    let data: Vec<&[u8]> = arrays.iter().map(|array| array.value_data()).collect();
    for (&(block, _), range) in places.iter().zip(ranges.each) {
        values.extend_from_slice(&data[block][range]);
    }
    let nulls = nulls(parts, places);
    let array = GenericByteArray::<T>::try_new(new_offsets, values.into(), nulls);
    Ok(Arc::new(array.map_err(|error| Error::arrow("a string column", &error))?))
}

/// Where the values of each row lie in its block.
pub(super) struct Ranges {
    pub(super) each: Vec<std::ops::Range<usize>>,
    pub(super) num_values: usize,
}

/// Returns the value ranges of all rows, and the offsets of the answer.
pub(super) fn ranges<O: OffsetSizeTrait>(
    offsets: &[&[O]],
    places: &[Place],
) -> Result<(Ranges, OffsetBuffer<O>)> {
    let mut each = Vec::with_capacity(places.len());
    let mut new_offsets = Vec::with_capacity(places.len() + 1);
    new_offsets.push(O::usize_as(0));
    let mut num_values = 0;
    for &(block, row) in places {
        let range = offsets[block][row].as_usize()..offsets[block][row + 1].as_usize();
        num_values += range.len();
        let end = O::from_usize(num_values).ok_or_else(|| {
            Error::invalid(
                format!("{} rows with more than {num_values} values in one column", places.len()),
                "fewer rows per batch, as its offsets have 32 bits",
            )
        })?;
        new_offsets.push(end);
        each.push(range);
    }
    let new_offsets = OffsetBuffer::new(ScalarBuffer::from(new_offsets));
    Ok((Ranges { each, num_values }, new_offsets))
}

pub(super) fn too_large(error: &ArrowError) -> Error {
    Error::invalid("these rows in one batch", "fewer rows per batch").caused_by(error)
}

pub(super) fn bug(error: ArrowError) -> Error {
    Error::bug("gathered columns do not fit").caused_by(&error)
}
