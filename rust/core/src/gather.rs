//! Stage 4, GATHER: blocks and the places of rows in them → one batch in the caller's order.
//!
//! Arrow only. Fixed-width values, booleans, strings, binary, lists, fixed-size lists and structs of
//! these are copied row by row into fresh buffers; anything else goes through Arrow's own kernel.

mod dictionaries;
mod flat;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, GenericListArray, OffsetSizeTrait, RecordBatch,
    StructArray, make_array,
};
use arrow_buffer::MutableBuffer;
use arrow_data::ArrayData;
use arrow_schema::{DataType, SchemaRef};

use self::dictionaries::dictionaries;
use self::flat::{Place, Ranges, bug, gather_flat, interleave, nulls, ranges, too_large};
use crate::error::{Error, Result};
use crate::plan::Rows;
use crate::projection::{batch, width_of};

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
    match parts[0].data_type() {
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
        _ => gather_flat(parts, places),
    }
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

#[cfg(test)]
mod tests;
