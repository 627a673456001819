//! Values of nested types as bytes: lists of strings, of lists, of structs, maps, and so on.
//!
//! A value is written as a run of one element. A run of `n` elements is
//!
//! ```text
//! 1 byte: whether a mask follows │ mask: n bits │ by type:
//!   fixed width   the values                booleans  n bits
//!   strings       n lengths (u32), bytes    lists     n lengths (u32), one run of all their values
//!   vectors       one run of all values     structs   a run of each field
//! ```
//!
//! so that reading one back is a few copies, however many values it has.

mod decode;

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field};

pub(super) use self::decode::decode;
use super::bytes::{Tail, fixed, too_long, width_of};
use crate::error::{Error, Result};

/// Returns whether values of a type can be encoded.
///
/// # Errors
///
/// [`Error::Unsupported`] if not.
pub(super) fn check(field: &Field) -> Result<()> {
    match field.data_type() {
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::FixedSizeList(child, _)
        | DataType::Map(child, _) => check(child),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check(field)),
        DataType::Null
        | DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary => Ok(()),
        _ if width_of(field).is_some() => Ok(()),
        other => Err(Error::unsupported(format!(
            "column `{}` of type {other} cannot be packed into rows",
            field.name()
        ))),
    }
}

/// Returns every value of `array`, nothing for those that are null.
pub(super) fn encode(array: &ArrayRef) -> Result<Tail> {
    let mut data = Vec::new();
    let mut ranges = Vec::with_capacity(array.len());
    for row in 0..array.len() {
        let start = data.len();
        if array.is_valid(row) {
            write_values(array, row..row + 1, &mut data)?;
        }
        ranges.push((start, data.len() - start));
    }
    Ok(Tail { data: data.into(), ranges })
}

fn write(array: &ArrayRef, run: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
    let nulls = array.nulls().map(|nulls| nulls.slice(run.start, run.len()));
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => {
            out.push(1);
            write_bits(nulls.inner(), out);
        }
        None => out.push(0),
    }
    write_values(array, run, out)
}

fn write_values(array: &ArrayRef, run: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => {
            write_bits(&array.as_boolean().values().slice(run.start, run.len()), out);
        }
        DataType::Utf8 => write_bytes::<Utf8Type>(array, run, out)?,
        DataType::LargeUtf8 => write_bytes::<LargeUtf8Type>(array, run, out)?,
        DataType::Binary => write_bytes::<BinaryType>(array, run, out)?,
        DataType::LargeBinary => write_bytes::<LargeBinaryType>(array, run, out)?,
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            write_list(list.value_offsets(), list.values(), run, out)?;
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            write_list(list.value_offsets(), list.values(), run, out)?;
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries = Arc::new(map.entries().clone()) as ArrayRef;
            write_list(map.value_offsets(), &entries, run, out)?;
        }
        DataType::FixedSizeList(_, size) => {
            let len = usize::try_from(*size).unwrap_or(0);
            let values = array.as_fixed_size_list().values();
            write(values, run.start * len..run.end * len, out)?;
        }
        DataType::Struct(_) => {
            for child in array.as_struct().columns() {
                write(child, run.clone(), out)?;
            }
        }
        _ => {
            let values = fixed(array)?;
            let width = values.len() / array.len().max(1);
            out.extend_from_slice(&values[run.start * width..run.end * width]);
        }
    }
    Ok(())
}

fn write_bits(bits: &BooleanBuffer, out: &mut Vec<u8>) {
    let start = out.len();
    let aligned = BooleanBuffer::collect_bool(bits.len(), |at| bits.value(at));
    out.extend_from_slice(aligned.values());
    out.truncate(start + bits.len().div_ceil(8));
}

fn write_lengths<O: OffsetSizeTrait>(
    offsets: &[O],
    run: &Range<usize>,
    out: &mut Vec<u8>,
) -> Result<Range<usize>> {
    for pair in offsets[run.start..=run.end].windows(2) {
        let len = (pair[1] - pair[0]).as_usize();
        out.extend_from_slice(&u32::try_from(len).map_err(|_| too_long(len))?.to_le_bytes());
    }
    Ok(offsets[run.start].as_usize()..offsets[run.end].as_usize())
}

fn write_bytes<T: ByteArrayType>(
    array: &ArrayRef,
    run: Range<usize>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let array = array.as_bytes::<T>();
    let range = write_lengths(array.value_offsets(), &run, out)?;
    out.extend_from_slice(&array.value_data()[range]);
    Ok(())
}

fn write_list<O: OffsetSizeTrait>(
    offsets: &[O],
    values: &ArrayRef,
    run: Range<usize>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let range = write_lengths(offsets, &run, out)?;
    write(values, range, out)
}
