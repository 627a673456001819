//! A column of files.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use crate::error::{Error, Result};

/// A column of files: bytes, or structs with a field `bytes`, as Hugging Face stores images.
#[derive(Debug, Clone)]
pub(super) struct Files {
    column: ArrayRef,
    bytes: ArrayRef,
}

impl Files {
    /// Returns the files of a column.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the column holds something else.
    pub(super) fn of(column: &ArrayRef) -> Result<Self> {
        let bytes = match column.data_type() {
            DataType::Struct(_) => column.as_struct().column_by_name("bytes").cloned(),
            _ => Some(Arc::clone(column)),
        };
        match bytes {
            Some(bytes)
                if matches!(
                    bytes.data_type(),
                    DataType::Binary | DataType::LargeBinary | DataType::BinaryView
                ) =>
            {
                Ok(Self { column: Arc::clone(column), bytes })
            }
            _ => Err(Error::invalid(
                format!("a column of type {}", column.data_type()),
                "the bytes of files, or structs with a field `bytes`",
            )),
        }
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        self.column.len()
    }

    /// Returns the file of a row, or `None` if it is null.
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        if self.column.is_null(row) || self.bytes.is_null(row) {
            return None;
        }
        Some(match self.bytes.data_type() {
            DataType::Binary => self.bytes.as_binary::<i32>().value(row),
            DataType::LargeBinary => self.bytes.as_binary::<i64>().value(row),
            _ => self.bytes.as_binary_view().value(row),
        })
    }
}
