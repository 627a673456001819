//! Bytes → the values of a nested type.

use arrow_array::{ArrayRef, OffsetSizeTrait, make_array};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer};
use arrow_data::ArrayData;
use arrow_schema::{DataType, Field};

use super::super::bytes::width_of;
use crate::error::{Error, Result};

/// Returns the values that were encoded, one per end; `nulls` says which rows have none.
pub(in crate::packed) fn decode(
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

    /// Returns the elements. `nulls` replaces what was read of the top level.
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
