//! Batches of flat columns as their buffers, from which another process makes the same Arrow arrays.

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::{Buffer, NullBuffer};
use arrow_schema::{DataType, Field, SchemaRef};
use lanceloader_core::projection::num_bytes;
use pyo3::types::PyCapsule;
use pyo3::{Bound, PyResult, Python, pyclass, pymethods};

use crate::enter::enter;
use crate::handoff::{Batch, schema_capsule};
use crate::runs::Block;

/// Batches whose buffers exceed twice the bytes of their rows by more than this are parts of larger ones.
const SLACK_BYTES: usize = 4096;

/// A schema whose columns consist of buffers alone, without children or a dictionary.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct FlatSchema(SchemaRef);

#[pymethods]
impl FlatSchema {
    /// Returns the schema of a batch, or `None` if not all of its columns are flat.
    #[staticmethod]
    fn of(batch: &Batch) -> Option<Self> {
        let schema = batch.rows().schema();
        let fields = schema.fields();
        let is_flat = !fields.is_empty() && fields.iter().all(|field| is_flat(field));
        is_flat.then_some(Self(schema))
    }

    /// Returns the buffers of the columns of a batch with this schema, each column's in Arrow's order, with
    /// `None` for validity where no value is null.
    ///
    /// Rows that share their buffers with others are copied. Returns `None` if the batch has another schema, or
    /// other metadata.
    fn buffers(&self, py: Python<'_>, batch: &Batch) -> PyResult<Option<Vec<Option<Block>>>> {
        if self.0 != batch.rows().schema() {
            return Ok(None);
        }
        let own = batch.is_owned().then(|| buffers_of(batch.rows())).flatten();
        own.map_or_else(|| Ok(buffers_of(&enter(py, || batch.copied())?)), |own| Ok(Some(own)))
    }

    /// Returns the schema, by the Arrow `PyCapsule` interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        schema_capsule(py, &self.0)
    }
}

/// Returns whether arrays of a field consist of buffers alone. Extension types may be classes of their own.
fn is_flat(field: &Field) -> bool {
    let data_type = field.data_type();
    let is_flat = data_type.is_primitive()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Binary
                | DataType::LargeBinary
        );
    is_flat && field.extension_type_name().is_none()
}

/// Returns the buffers of the columns, or `None` if they are parts of larger ones.
fn buffers_of(rows: &RecordBatch) -> Option<Vec<Option<Block>>> {
    let mut buffers = Vec::with_capacity(3 * rows.num_columns());
    let mut total = 0;
    for column in rows.columns() {
        total += add_buffers(column, &mut buffers)?;
    }
    (total <= 2 * num_bytes(rows) + SLACK_BYTES).then_some(buffers)
}

/// Adds the buffers of a column and returns their bytes, or `None` if they begin before its first value.
fn add_buffers(column: &ArrayRef, buffers: &mut Vec<Option<Block>>) -> Option<usize> {
    let data = column.to_data();
    let nulls = data.nulls().filter(|nulls| nulls.null_count() > 0);
    if data.offset() > 0 || nulls.is_some_and(|nulls| nulls.offset() > 0) {
        return None;
    }
    let bits = |nulls: &NullBuffer| {
        nulls.buffer().slice_with_length(0, nulls.len().div_ceil(u8::BITS as usize))
    };
    buffers.push(nulls.map(|nulls| Block::owned(bits(nulls))));
    buffers.extend(data.buffers().iter().map(|buffer| Some(Block::owned(buffer.clone()))));
    Some(data.buffers().iter().map(Buffer::len).sum())
}
