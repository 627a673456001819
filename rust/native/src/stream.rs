//! Batches of an Arrow C stream, as they are produced.
//!
//! arrow's own reader panics on slices of structs within structs, whose offset it applies twice, and on
//! buffers that are not aligned.

#![expect(unsafe_code, reason = "the consumer's side of the Arrow C stream interface")]

use std::ffi::CStr;
use std::sync::Arc;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchOptions, RecordBatchReader, StructArray};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};

type Result<T> = std::result::Result<T, ArrowError>;

/// A stream, and the schema of its batches.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: FFI_ArrowArrayStream,
    schema: SchemaRef,
}

impl Stream {
    /// Returns the stream at an address, where a released one is left behind.
    ///
    /// # Safety
    ///
    /// The address must be that of an Arrow C stream.
    pub(crate) unsafe fn of(address: *mut FFI_ArrowArrayStream) -> Result<Self> {
        // SAFETY: as promised by the caller.
        let mut stream = unsafe { FFI_ArrowArrayStream::from_raw(address) };
        let get_schema = stream.get_schema.ok_or_else(released)?;
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: the function is the stream's own.
        let code = unsafe { get_schema(&raw mut stream, &raw mut schema) };
        if code != 0 {
            return Err(error_of(&mut stream, code));
        }
        let schema = Arc::new(Schema::try_from(&schema)?);
        Ok(Self { stream, schema })
    }
}

impl Iterator for Stream {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(get_next) = self.stream.get_next else {
            return Some(Err(released()));
        };
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: the function is the stream's own.
        let code = unsafe { get_next(&raw mut self.stream, &raw mut array) };
        if code != 0 {
            return Some(Err(error_of(&mut self.stream, code)));
        }
        if array.is_released() {
            return None;
        }
        let kind = DataType::Struct(self.schema.fields().clone());
        // SAFETY: the stream says that its arrays are of its schema.
        let data = unsafe { from_ffi_and_data_type(array, kind) };
        Some(data.and_then(|mut data| {
            data.align_buffers();
            let len = data.len();
            let (_, columns, _) = StructArray::from(without_offsets(data)?).into_parts();
            let options = RecordBatchOptions::new().with_row_count(Some(len));
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
        }))
    }
}

impl RecordBatchReader for Stream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Returns the same values, of which no struct and no list of a fixed size has an offset: those of their children
/// count instead.
fn without_offsets(data: ArrayData) -> Result<ArrayData> {
    let (len, offset) = (data.len(), data.offset());
    let each = match data.data_type() {
        DataType::Struct(_) => Some(1),
        DataType::FixedSizeList(_, size) => usize::try_from(*size).ok(),
        _ => None,
    };
    let mut children = Vec::with_capacity(data.child_data().len());
    for child in data.child_data() {
        let part = match each {
            Some(each) => part_of(child, offset * each, len * each)?,
            None => child.clone(),
        };
        children.push(without_offsets(part)?);
    }
    let data = data.into_builder().child_data(children);
    // Nulls have an offset of their own.
    let data = if each.is_some() { data.offset(0) } else { data };
    // SAFETY: these are the values of data that were valid.
    Ok(unsafe { data.build_unchecked() })
}

/// Returns rows of an array, whose children stay as they are.
fn part_of(data: &ArrayData, offset: usize, len: usize) -> Result<ArrayData> {
    let end = offset.checked_add(len).filter(|&end| end <= data.len());
    if end.is_none() {
        let rows = data.len();
        return Err(ArrowError::CDataInterface(format!(
            "{len} rows from {offset} of an array of {rows}"
        )));
    }
    let nulls = data.nulls().map(|nulls| nulls.slice(offset, len));
    let part = data.clone().into_builder().len(len).offset(data.offset() + offset).nulls(nulls);
    // SAFETY: rows of an array that was valid.
    Ok(unsafe { part.build_unchecked() })
}

fn released() -> ArrowError {
    ArrowError::CDataInterface("an Arrow stream that is released already".into())
}

/// Returns the error that a stream tells, or its number.
fn error_of(stream: &mut FFI_ArrowArrayStream, code: i32) -> ArrowError {
    let told = stream.get_last_error.and_then(|get_last_error| {
        // SAFETY: the function is the stream's own.
        let text = unsafe { get_last_error(&raw mut *stream) };
        // SAFETY: it points to a text until the stream is called again, or is null.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    });
    ArrowError::CDataInterface(told.unwrap_or_else(|| format!("an Arrow stream failed: {code}")))
}
