//! Columns of numbers that lie end to end, as one buffer: what makes a dict of tensors cheap.

use std::ffi::{c_int, c_void};
use std::ptr;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_schema::{DataType, Field};
use lanceloader_core::projection::is_bfloat16;
use pyo3::exceptions::PyBufferError;
use pyo3::{Bound, PyResult, ffi, pyclass, pymethods};

/// Bytes of a run of columns, for `torch.frombuffer` and `numpy.frombuffer`.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Block {
    /// Every column of the run, so that the bytes between the first and the last stay alive even if
    /// each column has an allocation of its own.
    columns: Vec<Buffer>,
    num_bytes: usize,
}

impl Block {
    /// Returns bytes that nothing else holds.
    pub(crate) fn owned(buffer: Buffer) -> Self {
        let num_bytes = buffer.len();
        Self { columns: vec![buffer], num_bytes }
    }
}

#[pymethods]
impl Block {
    /// Returns where the bytes begin in the memory of this process.
    #[getter]
    fn address(&self) -> usize {
        self.columns.first().map_or(0, |buffer| buffer.as_ptr().addr())
    }

    #[expect(unsafe_code, reason = "the buffer protocol")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("a request for a buffer without a view"));
        }
        let block = slf.get();
        let start = block.columns.first().map_or(ptr::null(), Buffer::as_ptr);
        let len = isize::try_from(block.num_bytes)?;
        // SAFETY: `view` is the interpreter's. The bytes live as long as `slf`, of which the view
        // takes a reference. They are those of batches that own their buffers, and are written to only as
        // columns of numbers, which nothing but the batch they came from shows; other buffers are only sent.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_any().as_ptr(),
                start.cast::<c_void>().cast_mut(),
                len,
                0,
                flags,
            )
        };
        if filled == 0 { Ok(()) } else { Err(pyo3::PyErr::fetch(slf.py())) }
    }
}

/// A run: the numbers of its columns, their dtype, the shape of each row's values, bytes.
pub(crate) type Run = (Vec<usize>, &'static str, Vec<usize>, Block);

/// Returns the runs of columns that hold numbers, and the numbers of the other columns.
pub(crate) fn runs_of(batch: &RecordBatch) -> (Vec<Run>, Vec<usize>) {
    let schema = batch.schema_ref();
    let mut numbers = Vec::new();
    let mut others = Vec::new();
    for (at, column) in batch.columns().iter().enumerate() {
        match values_of(schema.field(at), column) {
            Some((dtype, shape, values)) => numbers.push((values, at, dtype, shape)),
            None => others.push(at),
        }
    }
    numbers.sort_by_key(|(values, ..)| values.as_ptr());
    let mut runs: Vec<Run> = Vec::new();
    for (values, at, dtype, shape) in numbers {
        if let Some((columns, kind, known, block)) = runs.last_mut()
            && *kind == dtype
            && *known == shape
            && let Some(last) = block.columns.last()
            && last.as_ptr().wrapping_add(last.len()) == values.as_ptr()
        {
            columns.push(at);
            block.num_bytes += values.len();
            block.columns.push(values);
        } else {
            let num_bytes = values.len();
            runs.push((vec![at], dtype, shape, Block { columns: vec![values], num_bytes }));
        }
    }
    (runs, others)
}

/// Returns the dtype, the shape of each row's values, empty for numbers, and the bytes of a column
/// without nulls.
fn values_of(field: &Field, column: &ArrayRef) -> Option<(&'static str, Vec<usize>, Buffer)> {
    let is_bfloat16 = is_bfloat16(field);
    // Other extension types have shapes of their own.
    let is_plain = is_bfloat16 || field.extension_type_name().is_none();
    if column.null_count() > 0 || !is_plain {
        return None;
    }
    if let DataType::FixedSizeList(child, size) = column.data_type() {
        let len = usize::try_from(*size).ok().filter(|&len| len > 0)?;
        let values = column.as_fixed_size_list().values();
        let (dtype, mut shape, values) = values_of(child, values)?;
        shape.insert(0, len);
        return Some((dtype, shape, values));
    }
    if let Some(flags) = column.as_boolean_opt() {
        // Arrays of other libraries have a byte for each.
        let bytes: Vec<u8> = flags.values().iter().map(u8::from).collect();
        return Some(("bool", Vec::new(), Buffer::from_vec(bytes)));
    }
    let dtype = match column.data_type() {
        DataType::FixedSizeBinary(_) if is_bfloat16 => "bfloat16",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        _ => return None,
    };
    let width = if is_bfloat16 { 2 } else { column.data_type().primitive_width()? };
    let data = column.to_data();
    let values = data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width);
    Some((dtype, Vec::new(), values))
}
