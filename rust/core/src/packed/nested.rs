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

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait, make_array};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, Buffer, NullBuffer};
use arrow_data::ArrayData;
use arrow_schema::{DataType, Field};

use super::leaves::{Tail, fixed};
use super::{too_long, width_of};
use crate::error::{Error, Result};

/// Whether values of a type can be encoded.
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

/// Every value of `array`, nothing for those that are null.
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

/// The values that were encoded, one per end; `nulls` says which rows have none.
pub(super) fn decode(
    field: &Field,
    data: &[u8],
    ends: &[usize],
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let mut builder = Builder::new(field);
    let mut start = 0;
    for &end in ends {
        let mut run = Cursor { bytes: &data[start..end] };
        if start == end {
            builder.append_empty(1);
        } else {
            builder.read_values(&mut run, 1)?;
        }
        start = end;
    }
    let data = builder.finish(nulls)?;
    Ok(make_array(data))
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or_else(|| {
            Error::corrupt(
                "packed rows",
                format!("a nested value has {} bytes where {len} are wanted", self.bytes.len()),
            )
        })?;
        self.bytes = rest;
        Ok(head)
    }

    fn lengths(&mut self, count: usize) -> Result<impl Iterator<Item = usize> + use<'a>> {
        let lengths = self.take(count * size_of::<u32>())?.as_chunks().0;
        Ok(lengths.iter().map(|&length| u32::from_le_bytes(length) as usize))
    }
}

/// Collects elements of one type.
struct Builder {
    data_type: DataType,
    len: usize,
    valid: BooleanBufferBuilder,
    has_nulls: bool,
    values: Values,
}

enum Values {
    Null,
    Bool(BooleanBufferBuilder),
    Fixed { width: usize, data: Vec<u8> },
    Bytes { ends: Vec<usize>, data: Vec<u8> },
    List { ends: Vec<usize>, child: Box<Builder> },
    Vector { len: usize, child: Box<Builder> },
    Struct(Vec<Builder>),
}

impl Builder {
    fn new(field: &Field) -> Self {
        let values = match field.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                Values::Bytes { ends: Vec::new(), data: Vec::new() }
            }
            DataType::List(child) | DataType::LargeList(child) | DataType::Map(child, _) => {
                Values::List { ends: Vec::new(), child: Box::new(Self::new(child)) }
            }
            DataType::FixedSizeList(child, size) => Values::Vector {
                len: usize::try_from(*size).unwrap_or(0),
                child: Box::new(Self::new(child)),
            },
            DataType::Struct(fields) => {
                Values::Struct(fields.iter().map(|field| Self::new(field)).collect())
            }
            _ => Values::Fixed { width: width_of(field).unwrap_or(0), data: Vec::new() },
        };
        Self {
            data_type: field.data_type().clone(),
            len: 0,
            valid: BooleanBufferBuilder::new(0),
            has_nulls: false,
            values,
        }
    }

    fn read(&mut self, run: &mut Cursor<'_>, count: usize) -> Result<()> {
        if run.take(1)?[0] == 0 {
            self.valid.append_n(count, true);
        } else {
            self.has_nulls = true;
            self.valid.append_packed_range(0..count, run.take(count.div_ceil(8))?);
        }
        self.read_values(run, count)
    }

    fn read_values(&mut self, run: &mut Cursor<'_>, count: usize) -> Result<()> {
        self.len += count;
        match &mut self.values {
            Values::Null => {}
            Values::Bool(bits) => {
                bits.append_packed_range(0..count, run.take(count.div_ceil(8))?);
            }
            Values::Fixed { width, data } => data.extend_from_slice(run.take(count * *width)?),
            Values::Bytes { ends, data } => {
                let mut end = data.len();
                for length in run.lengths(count)? {
                    end += length;
                    ends.push(end);
                }
                data.extend_from_slice(run.take(end - data.len())?);
            }
            Values::List { ends, child } => {
                let mut end = child.len;
                for length in run.lengths(count)? {
                    end += length;
                    ends.push(end);
                }
                let values = end - child.len;
                child.read(run, values)?;
            }
            Values::Vector { len, child } => child.read(run, count * *len)?,
            Values::Struct(fields) => {
                for field in fields {
                    field.read(run, count)?;
                }
            }
        }
        Ok(())
    }

    /// Elements that are null, or inside of something that is.
    fn append_empty(&mut self, count: usize) {
        self.len += count;
        match &mut self.values {
            Values::Null => {}
            Values::Bool(bits) => bits.append_n(count, false),
            Values::Fixed { width, data } => data.resize(data.len() + count * *width, 0),
            Values::Bytes { ends, data } => ends.resize(ends.len() + count, data.len()),
            Values::List { ends, child } => ends.resize(ends.len() + count, child.len),
            Values::Vector { len, child } => {
                let inner = count * *len;
                child.valid.append_n(inner, true);
                child.append_empty(inner);
            }
            Values::Struct(fields) => {
                for field in fields {
                    field.valid.append_n(count, true);
                    field.append_empty(count);
                }
            }
        }
    }

    /// The elements. `nulls` replaces what was read of the top level.
    fn finish(mut self, nulls: Option<NullBuffer>) -> Result<ArrayData> {
        let is_long = matches!(self.data_type, DataType::LargeUtf8 | DataType::LargeBinary)
            || matches!(self.data_type, DataType::LargeList(_));
        let nulls = nulls.or_else(|| {
            (self.has_nulls && self.valid.len() == self.len)
                .then(|| NullBuffer::new(self.valid.finish()))
        });
        let mut array = ArrayData::builder(self.data_type).len(self.len).nulls(nulls);
        match self.values {
            Values::Null => {}
            Values::Bool(mut bits) => array = array.add_buffer(bits.finish().into_inner()),
            Values::Fixed { data, .. } => array = array.add_buffer(Buffer::from_vec(data)),
            Values::Bytes { ends, data } => {
                array = array.add_buffer(offsets(&ends, is_long)?).add_buffer(data.into());
            }
            Values::List { ends, child } => {
                array =
                    array.add_buffer(offsets(&ends, is_long)?).add_child_data(child.finish(None)?);
            }
            Values::Vector { child, .. } => array = array.add_child_data(child.finish(None)?),
            Values::Struct(fields) => {
                for field in fields {
                    array = array.add_child_data(field.finish(None)?);
                }
            }
        }
        array.align_buffers(true).build().map_err(|error| {
            Error::corrupt("packed rows", "a column does not fit").caused_by(&error)
        })
    }
}

fn offsets(ends: &[usize], is_long: bool) -> Result<Buffer> {
    fn of<O: OffsetSizeTrait>(ends: &[usize]) -> Option<Buffer> {
        let offsets = std::iter::once(&0).chain(ends).map(|&end| O::from_usize(end));
        Some(Buffer::from_vec(offsets.collect::<Option<Vec<O>>>()?))
    }
    let found = if is_long { of::<i64>(ends) } else { of::<i32>(ends) };
    found.ok_or_else(|| {
        Error::invalid(
            format!("{} rows with {} values in one column", ends.len(), ends.last().unwrap_or(&0)),
            "fewer rows per batch, as its offsets have 32 bits",
        )
    })
}
