//! A column of long values while it is filled.

use std::sync::Arc;

use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{ArrayRef, GenericByteArray, OffsetSizeTrait};
use arrow_buffer::{MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;

use crate::error::{Error, Result};

/// The values of a column, and where each of them ends.
pub(super) struct Out {
    values: MutableBuffer,
    ends: Vec<usize>,
}

impl Out {
    /// Returns no values, with room for values that have so many bytes as they are stored: what hardly shrinks
    /// when it is compressed may also grow a little.
    pub(super) fn with_room(stored_bytes: usize) -> Self {
        let bytes = stored_bytes.saturating_add(stored_bytes / 16);
        Self { values: MutableBuffer::with_capacity(bytes), ends: Vec::new() }
    }

    /// Adds the value of a column.
    pub(super) fn add(&mut self, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.ends.push(self.values.len());
    }

    /// Adds values of these lengths, which `append` appends, and returns what it returns.
    pub(super) fn add_all<T>(
        &mut self,
        lens: impl Iterator<Item = usize>,
        append: impl FnOnce(&mut MutableBuffer) -> Result<T>,
    ) -> Result<T> {
        let mut end = self.values.len();
        let appended = append(&mut self.values).inspect_err(|_| self.values.truncate(end))?;
        self.ends.extend(lens.map(|len| {
            end += len;
            end
        }));
        Ok(appended)
    }

    /// Returns the values as a column of this type.
    pub(super) fn into_column(
        self,
        data_type: &DataType,
        nulls: Option<NullBuffer>,
        path: &str,
    ) -> Result<ArrayRef> {
        match data_type {
            DataType::Utf8 => self.into_array::<Utf8Type>(nulls, path),
            DataType::LargeUtf8 => self.into_array::<LargeUtf8Type>(nulls, path),
            DataType::Binary => self.into_array::<BinaryType>(nulls, path),
            DataType::LargeBinary => self.into_array::<LargeBinaryType>(nulls, path),
            other => Err(Error::bug(format!("long values of type {other}"))),
        }
    }

    fn into_array<T: ByteArrayType>(
        self,
        nulls: Option<NullBuffer>,
        path: &str,
    ) -> Result<ArrayRef> {
        let offsets = offsets::<T::Offset>(&self.ends)?;
        let array = GenericByteArray::<T>::try_new(offsets, self.values.into(), nulls);
        Ok(Arc::new(array.map_err(|error| Error::corrupt(path, error.to_string()))?))
    }
}

/// Returns the offsets of a column whose values end so.
fn offsets<O: OffsetSizeTrait>(ends: &[usize]) -> Result<OffsetBuffer<O>> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(O::usize_as(0));
    for &end in ends {
        offsets.push(O::from_usize(end).ok_or_else(|| {
            Error::invalid(
                format!("{} rows with more than {end} bytes in one column", ends.len()),
                "fewer rows per batch, as its offsets have 32 bits",
            )
        })?);
    }
    Ok(OffsetBuffer::new(ScalarBuffer::from(offsets)))
}
