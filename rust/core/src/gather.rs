//! Stage 4, GATHER: blocks and the places of rows in them → one batch in the caller's order.
//!
//! Arrow only. Fixed-width values, booleans, strings, binary, lists, fixed-size lists and structs of
//! these are copied row by row into fresh buffers; anything else goes through Arrow's own kernel.

mod dictionaries;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    BinaryType, ByteArrayType, Int8Type, Int16Type, Int32Type, Int64Type, LargeBinaryType,
    LargeUtf8Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type, Utf8Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, GenericByteArray, GenericListArray,
    OffsetSizeTrait, RecordBatch, StructArray, make_array,
};
use arrow_buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, SchemaRef};

use self::dictionaries::dictionaries;
use crate::error::{Error, Result};
use crate::plan::Rows;
use crate::projection::{batch, width_of};

/// `(block, row)`: where a row of the answer stands.
type Place = (usize, usize);

/// A batch, and whether its rows may be written to.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The rows.
    pub batch: RecordBatch,
    /// Whether nothing but this batch shows these rows: `false` if a buffer may be a part of a mapped
    /// file or of data that the caller holds.
    pub is_owned: bool,
}

impl Gathered {
    /// Returns the same rows in buffers that nothing else holds.
    ///
    /// # Errors
    ///
    /// Those of [`gather`].
    pub fn to_owned(&self) -> Result<Self> {
        if self.is_owned {
            return Ok(self.clone());
        }
        let places = (0..self.batch.num_rows()).map(|row| (0, row)).collect();
        let blocks = std::slice::from_ref(&self.batch);
        gather(self.batch.schema_ref(), blocks, false, &Rows::Picked(places))
    }
}

/// Puts rows of `blocks` together.
///
/// `blocks` all have the columns of `schema`. With [`Rows::AsRead`] the answer is all rows of all
/// blocks, without a copy if there is one block; it is then owned if `blocks_are_owned`.
///
/// # Errors
///
/// [`Error::Invalid`] if a column outgrows the offsets of its type, at 2 GiB for strings.
pub fn gather(
    schema: &SchemaRef,
    blocks: &[RecordBatch],
    blocks_are_owned: bool,
    rows: &Rows,
) -> Result<Gathered> {
    let (columns, num_rows, is_owned) = match (rows, blocks) {
        (Rows::AsRead, [block]) => (block.columns().to_vec(), block.num_rows(), blocks_are_owned),
        (Rows::AsRead, blocks) => {
            let concat = |at: usize| {
                let parts: Vec<&dyn Array> = blocks.iter().map(|b| b.column(at).as_ref()).collect();
                match (parts.as_slice(), schema.field(at).data_type()) {
                    ([], data_type) => Ok(arrow_array::new_empty_array(data_type)),
                    (_, data_type) if has_dictionaries(data_type) => {
                        let parts: Vec<&ArrayRef> = blocks.iter().map(|b| b.column(at)).collect();
                        gather_column(&parts, &all_places(blocks))
                    }
                    (parts, _) => {
                        arrow_select::concat::concat(parts).map_err(|error| too_large(&error))
                    }
                }
            };
            let columns = (0..schema.fields().len()).map(concat).collect::<Result<Vec<_>>>()?;
            (columns, blocks.iter().map(RecordBatch::num_rows).sum(), true)
        }
        (Rows::Picked(places), blocks) => {
            let column = |at: usize| {
                let parts: Vec<&ArrayRef> = blocks.iter().map(|block| block.column(at)).collect();
                match parts.as_slice() {
                    [] => Ok(arrow_array::new_empty_array(schema.field(at).data_type())),
                    parts => gather_column(parts, places),
                }
            };
            let columns = (0..schema.fields().len()).map(column).collect::<Result<Vec<_>>>()?;
            (columns, places.len(), true)
        }
    };
    Ok(Gathered { batch: batch(Arc::clone(schema), columns, num_rows)?, is_owned })
}

/// Returns all rows of all blocks.
fn all_places(blocks: &[RecordBatch]) -> Vec<Place> {
    let blocks = blocks.iter().enumerate();
    blocks.flat_map(|(at, block)| (0..block.num_rows()).map(move |row| (at, row))).collect()
}

/// Returns whether a type is a dictionary or contains one.
fn has_dictionaries(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            has_dictionaries(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_dictionaries(field.data_type())),
        _ => false,
    }
}

/// Gathers one column; `parts` has at least one block, and all have the same type.
fn gather_column(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let data_type = parts[0].data_type();
    match data_type {
        DataType::Boolean => Ok(booleans(parts, places)),
        DataType::Utf8 => byte_strings::<Utf8Type>(parts, places),
        DataType::LargeUtf8 => byte_strings::<LargeUtf8Type>(parts, places),
        DataType::Binary => byte_strings::<BinaryType>(parts, places),
        DataType::LargeBinary => byte_strings::<LargeBinaryType>(parts, places),
        DataType::List(_) => lists::<i32>(parts, places),
        DataType::LargeList(_) => lists::<i64>(parts, places),
        DataType::FixedSizeList(_, size) => fixed_size_lists(parts, places, *size),
        DataType::Struct(_) => structs(parts, places),
        DataType::Dictionary(keys, _) => match **keys {
            DataType::Int8 => dictionaries::<Int8Type>(parts, places),
            DataType::Int16 => dictionaries::<Int16Type>(parts, places),
            DataType::Int32 => dictionaries::<Int32Type>(parts, places),
            DataType::Int64 => dictionaries::<Int64Type>(parts, places),
            DataType::UInt8 => dictionaries::<UInt8Type>(parts, places),
            DataType::UInt16 => dictionaries::<UInt16Type>(parts, places),
            DataType::UInt32 => dictionaries::<UInt32Type>(parts, places),
            DataType::UInt64 => dictionaries::<UInt64Type>(parts, places),
            _ => interleave(parts, places),
        },
        data_type => match width_of(data_type) {
            Some(width) => fixed_width(parts, places, data_type, width),
            None => interleave(parts, places),
        },
    }
}

/// Gathers with Arrow's kernel, for the types not worth one of ours.
fn interleave(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
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
fn nulls(parts: &[&ArrayRef], places: &[Place]) -> Option<NullBuffer> {
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
struct Ranges {
    each: Vec<std::ops::Range<usize>>,
    num_values: usize,
}

/// Returns the value ranges of all rows, and the offsets of the answer.
fn ranges<O: OffsetSizeTrait>(
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

fn lists<O: OffsetSizeTrait>(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let arrays: Vec<&GenericListArray<O>> = parts.iter().map(|part| part.as_list::<O>()).collect();
    let offsets: Vec<&[O]> = arrays.iter().map(|array| array.value_offsets()).collect();
    let (ranges, new_offsets) = ranges(&offsets, places)?;
    let values = gather_runs(
        &arrays.iter().map(|array| array.values()).collect::<Vec<_>>(),
        places,
        &ranges,
    )?;
    let (DataType::List(field) | DataType::LargeList(field)) = parts[0].data_type() else {
        return Err(Error::bug("a list column of another type"));
    };
    let nulls = nulls(parts, places);
    let array = GenericListArray::<O>::try_new(Arc::clone(field), new_offsets, values, nulls);
    Ok(Arc::new(array.map_err(bug)?))
}

/// Gathers the values of lists: each row has a run of the values of its block.
fn gather_runs(values: &[&ArrayRef], places: &[Place], ranges: &Ranges) -> Result<ArrayRef> {
    let data_type = values[0].data_type();
    let has_nulls = values.iter().any(|part| part.null_count() > 0);
    if let Some(width) = width_of(data_type).filter(|_| !has_nulls) {
        let data: Vec<ArrayData> = values.iter().map(Array::to_data).collect();
        let mut out = MutableBuffer::with_capacity(ranges.num_values * width);
        for (&(block, _), range) in places.iter().zip(&ranges.each) {
            let data = &data[block];
            let start = (data.offset() + range.start) * width;
            out.extend_from_slice(&data.buffers()[0][start..start + range.len() * width]);
        }
        let built =
            ArrayData::builder(data_type.clone()).len(ranges.num_values).add_buffer(out.into());
        return Ok(make_array(built.build().map_err(bug)?));
    }
    let each = places.iter().zip(&ranges.each);
    let inner: Vec<Place> =
        each.flat_map(|(&(block, _), range)| range.clone().map(move |row| (block, row))).collect();
    gather_column(values, &inner)
}

fn fixed_size_lists(parts: &[&ArrayRef], places: &[Place], size: i32) -> Result<ArrayRef> {
    let len = usize::try_from(size).map_err(|_| Error::bug(format!("lists of {size}")))?;
    let values: Vec<&ArrayRef> = parts.iter().map(|p| p.as_fixed_size_list().values()).collect();
    let each = places.iter().map(|&(_, row)| row * len..(row + 1) * len).collect();
    let ranges = Ranges { each, num_values: places.len() * len };
    let values = gather_runs(&values, places, &ranges)?;
    let DataType::FixedSizeList(field, _) = parts[0].data_type() else {
        return Err(Error::bug("a fixed-size list column of another type"));
    };
    let nulls = nulls(parts, places);
    let array = FixedSizeListArray::try_new_with_length(
        Arc::clone(field),
        size,
        values,
        nulls,
        places.len(),
    );
    Ok(Arc::new(array.map_err(bug)?))
}

fn structs(parts: &[&ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let arrays: Vec<&StructArray> = parts.iter().map(|part| part.as_struct()).collect();
    let child = |at: usize| {
        gather_column(&arrays.iter().map(|array| array.column(at)).collect::<Vec<_>>(), places)
    };
    let children = (0..arrays[0].num_columns()).map(child).collect::<Result<Vec<_>>>()?;
    let fields = arrays[0].fields().clone();
    let nulls = nulls(parts, places);
    let array = StructArray::try_new_with_length(fields, children, nulls, places.len());
    Ok(Arc::new(array.map_err(bug)?))
}

fn too_large(error: &ArrowError) -> Error {
    Error::invalid("these rows in one batch", "fewer rows per batch").caused_by(error)
}

fn bug(error: ArrowError) -> Error {
    Error::bug("gathered columns do not fit").caused_by(&error)
}

#[cfg(test)]
mod tests;
