//! Stage 5, HAND-OFF: Arrow data crosses the border by capsule, without a copy.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, to_ffi};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchIterator, RecordBatchReader, StructArray, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use lanceloader_core::gather::Gathered;
use lanceloader_core::projection::num_bytes;
use lanceloader_core::{Error, Result};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::types::{PyAnyMethods, PyCapsule, PyCapsuleMethods, PyTuple, PyTypeMethods};
use pyo3::{Bound, PyAny, PyResult, Python, pyclass, pyfunction, pymethods};

use crate::enter::enter;
use crate::runs::{Run, runs_of};
use crate::stream::Stream;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const STREAM: &CStr = c"arrow_array_stream";

/// Rows that were read, as an Arrow struct array for `pyarrow.record_batch` and its kin.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Batch(Gathered);

impl Batch {
    pub(crate) fn new(gathered: Gathered) -> Self {
        Self(gathered)
    }

    /// Returns the rows in buffers that nothing else holds.
    pub(crate) fn owned(batch: RecordBatch) -> Self {
        Self(Gathered { batch, is_owned: true })
    }

    pub(crate) fn rows(&self) -> &RecordBatch {
        &self.0.batch
    }

    /// Returns a copy of the rows.
    pub(crate) fn copied(&self) -> Result<RecordBatch> {
        let Gathered { batch, .. } = &self.0;
        Ok(Gathered { batch: batch.clone(), is_owned: false }.to_owned()?.batch)
    }

    /// Returns the column at a place.
    pub(crate) fn column(&self, at: usize) -> Option<ArrayRef> {
        self.0.batch.columns().get(at).map(Arc::clone)
    }

    /// Creates a batch of one column of integers.
    pub(crate) fn of_numbers(name: &str, numbers: impl Into<UInt64Array>) -> PyResult<Self> {
        let numbers: UInt64Array = numbers.into();
        let field = Field::new(name, DataType::UInt64, numbers.null_count() > 0);
        let schema = Arc::new(Schema::new(vec![field]));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(numbers)]).map_err(arrow)?;
        Ok(Self(Gathered { batch, is_owned: true }))
    }
}

#[pymethods]
impl Batch {
    /// Returns the number of rows.
    #[getter]
    fn num_rows(&self) -> usize {
        self.0.batch.num_rows()
    }

    /// Returns the bytes of all values.
    #[getter]
    fn nbytes(&self) -> usize {
        num_bytes(&self.0.batch)
    }

    /// Returns whether nothing else holds its buffers, so that they may be written to.
    #[getter]
    pub(crate) fn is_owned(&self) -> bool {
        self.0.is_owned
    }

    /// Returns the same rows in buffers that nothing else holds.
    fn to_owned(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(Self(enter(py, || self.0.to_owned())?))
    }

    /// Returns the names of the columns; runs of columns of numbers as `(columns, dtype, shape,
    /// block)`, `shape` that of the values of a row; and the columns that are in no run.
    ///
    /// Only for batches that own their buffers.
    fn runs(&self) -> PyResult<(Vec<&str>, Vec<Run>, Vec<usize>)> {
        if !self.0.is_owned {
            return Err(PyValueError::new_err(
                "these rows share their buffers with others: call to_owned() first",
            ));
        }
        let (runs, others) = runs_of(&self.0.batch);
        let fields = self.0.batch.schema_ref().fields();
        Ok((fields.iter().map(|field| field.name().as_str()).collect(), runs, others))
    }

    /// Returns the schema, by the Arrow `PyCapsule` interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        schema_capsule(py, self.0.batch.schema_ref())
    }

    /// Returns the rows, by the Arrow `PyCapsule` interface. A requested schema is ignored, as it
    /// may be.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let _ = requested_schema;
        let batch = &self.0.batch;
        let schema = schema_capsule(py, batch.schema_ref())?;
        let rows = StructArray::try_new_with_length(
            batch.schema_ref().fields().clone(),
            batch.columns().to_vec(),
            None,
            batch.num_rows(),
        );
        let (array, _) = to_ffi(&rows.map_err(arrow)?.to_data()).map_err(arrow)?;
        let array: FFI_ArrowArray = array;
        PyTuple::new(
            py,
            [schema.into_any(), PyCapsule::new_with_value(py, array, ARRAY)?.into_any()],
        )
    }
}

/// Returns a schema as a capsule, with its metadata.
pub(crate) fn schema_capsule<'py>(
    py: Python<'py>,
    schema: &SchemaRef,
) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(schema.as_ref()).map_err(arrow)?;
    PyCapsule::new_with_value(py, schema, SCHEMA)
}

/// Returns batches as a stream capsule.
pub(crate) fn stream_capsule<'py>(
    py: Python<'py>,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> PyResult<Bound<'py, PyCapsule>> {
    let batches: Vec<_> = batches.iter().cloned().map(Ok).collect();
    let reader = RecordBatchIterator::new(batches, Arc::clone(schema));
    let stream = FFI_ArrowArrayStream::new(Box::new(reader));
    PyCapsule::new_with_value(py, stream, STREAM)
}

/// Returns the batches of any object with `__arrow_c_stream__`, as they are produced.
pub(crate) fn stream_of(object: &Bound<'_, PyAny>) -> PyResult<Stream> {
    if !object.hasattr("__arrow_c_stream__")? {
        return Err(PyTypeError::new_err(format!(
            "wanted Arrow data (an object with __arrow_c_stream__), got {}",
            object.get_type().name()?
        )));
    }
    let capsule = object.call_method0("__arrow_c_stream__")?.cast_into::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(STREAM))?;
    let stream = pointer.cast::<FFI_ArrowArrayStream>().as_ptr();
    import(stream)
}

#[expect(unsafe_code, reason = "the consumer's side of the Arrow C stream interface")]
fn import(stream: *mut FFI_ArrowArrayStream) -> PyResult<Stream> {
    // SAFETY: the pointer comes from a capsule whose name was checked to be that of an Arrow C
    // stream, and whoever made a capsule of that name promises that it holds one. The stream is moved
    // out, which leaves a released one behind for the capsule to drop.
    unsafe { Stream::of(stream) }.map_err(arrow)
}

/// Returns all batches of a stream.
pub(crate) fn collect(stream: impl RecordBatchReader) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let schema = stream.schema();
    // arrow panics on some data that contradict themselves. OK to go on: the stream is gone.
    let batches = catch_unwind(AssertUnwindSafe(|| stream.collect::<Result<Vec<_>, _>>()));
    match batches {
        Ok(Ok(batches)) => Ok((schema, batches)),
        Ok(Err(error)) => Err(Error::arrow("Arrow data", &error)),
        Err(_) => Err(Error::invalid(
            "this Arrow data, which do not fit their types",
            "data that are valid, as pyarrow's `validate(full=True)` checks",
        )),
    }
}

/// Returns a batch of ours, or the rows of anything with `__arrow_c_stream__` as one.
pub(crate) fn batch_of(py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Gathered> {
    if let Ok(batch) = object.cast::<Batch>() {
        return Ok(batch.get().0.clone());
    }
    let stream = stream_of(object)?;
    enter(py, || {
        let (schema, batches) = collect(stream)?;
        let batch = arrow_select::concat::concat_batches(&schema, &batches)
            .map_err(|error| Error::arrow("Arrow data", &error))?;
        Ok(Gathered { batch, is_owned: false })
    })
}

/// Returns all columns of all batches, chunks put together.
pub(crate) fn columns_of(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
) -> PyResult<(Vec<ArrayRef>, usize)> {
    let stream = stream_of(object)?;
    enter(py, || {
        let (schema, batches) = collect(stream)?;
        let num_rows = batches.iter().map(RecordBatch::num_rows).sum();
        let whole = arrow_select::concat::concat_batches(&schema, &batches)
            .map_err(|error| Error::arrow("Arrow data", &error))?;
        Ok((whole.columns().to_vec(), num_rows))
    })
}

/// Returns the rows of Arrow data, whose parts of `lengths` rows lie end to end, one of each part in
/// turn.
#[pyfunction]
pub(crate) fn round_robin(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    lengths: Vec<usize>,
) -> PyResult<Batch> {
    let stream = stream_of(data)?;
    let found = enter(py, || {
        let (schema, batches) = collect(stream)?;
        lanceloader_core::round_robin::round_robin(&schema, &batches, &lengths)
    })?;
    Ok(Batch::new(found))
}

pub(crate) fn arrow(error: arrow_schema::ArrowError) -> pyo3::PyErr {
    PyValueError::new_err(error.to_string())
}
