//! `lanceloader_core::order::Episodes` as an immutable class, and batches of neighbours.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, FixedSizeListArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use lanceloader_core::gather::Gathered;
use lanceloader_core::order;
use pyo3::{Bound, PyAny, PyResult, Python, pyclass, pyfunction, pymethods};

use crate::arguments::Numbers;
use crate::classes::Order;
use crate::enter::enter;
use crate::handoff::{Batch, arrow, batch_of};

/// Rows of a table in episodes, the rows of each one after another.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Episodes(Arc<order::Episodes>);

#[pymethods]
impl Episodes {
    /// Creates episodes of row offsets, `None` for `0..num_rows`; `starts` ends with their number.
    #[new]
    fn new(
        py: Python<'_>,
        rows: Option<Numbers>,
        starts: Numbers,
        num_rows: u64,
    ) -> PyResult<Self> {
        let rows = rows.map(|rows| rows.0);
        enter(py, || Ok(Self(Arc::new(order::Episodes::new(rows, starts.0, num_rows)?))))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of rows of all episodes.
    #[getter]
    fn num_rows(&self) -> u64 {
        self.0.num_rows()
    }

    /// Returns the bytes of memory they take.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    /// Returns the rows around those of `order`, one at each step.
    fn neighbours(&self, py: Python<'_>, order: &Order, steps: Vec<i64>) -> PyResult<Order> {
        enter(py, || Ok(Order(order.0.neighbours(&self.0, &steps)?)))
    }

    /// Returns which steps lead beyond the episode, as a column of booleans for each set of steps.
    fn padding(
        &self,
        py: Python<'_>,
        order: &Order,
        start: u64,
        stop: u64,
        sets: Vec<Vec<i64>>,
    ) -> PyResult<Vec<Batch>> {
        let padding = enter(py, || order.0.padding(start..stop, &self.0, &sets))?;
        let schema = Schema::new(vec![Field::new("is_pad", DataType::Boolean, false)]);
        let schema = Arc::new(schema);
        let batch = |flags| {
            let column: ArrayRef = Arc::new(BooleanArray::from(flags));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]);
            batch.map(Batch::owned).map_err(arrow)
        };
        padding.into_iter().map(batch).collect()
    }

    /// Returns the rows at which a window begins, ascending.
    fn starts_of(
        &self,
        py: Python<'_>,
        steps: Vec<i64>,
        stride: u64,
        is_full: bool,
    ) -> PyResult<Order> {
        enter(py, || Ok(Order(order::Order::bitmap(self.0.starts_of(&steps, stride, is_full)?))))
    }
}

/// Returns columns of several batches side by side, without a copy. `columns` are
/// `(name, batch, column, steps)`: with steps, as many neighbouring values become one list.
#[pyfunction]
pub(crate) fn stacked(
    py: Python<'_>,
    batches: Vec<Bound<'_, PyAny>>,
    columns: Vec<(String, usize, usize, Option<usize>)>,
) -> PyResult<Batch> {
    let batches = batches.iter().map(|batch| batch_of(py, batch));
    let batches = batches.collect::<PyResult<Vec<Gathered>>>()?;
    let stacked = enter(py, || {
        let mut fields = Vec::with_capacity(columns.len());
        let mut arrays = Vec::with_capacity(columns.len());
        for (name, at, column, steps) in columns {
            let batch = &batches.get(at).ok_or_else(|| none("batch", at))?.batch;
            let values = batch.columns().get(column).ok_or_else(|| none("column", column))?;
            let field = batch.schema_ref().field(column).clone();
            let (field, values) = match steps {
                None => (field.with_name(name), Arc::clone(values)),
                Some(steps) => lists(name, field, values, steps)?,
            };
            fields.push(field);
            arrays.push(values);
        }
        let metadata = batches.first().map(|batch| batch.batch.schema_ref().metadata().clone());
        let schema = Schema::new_with_metadata(fields, metadata.unwrap_or_default());
        let batch = RecordBatch::try_new(Arc::new(schema), arrays)
            .map_err(|error| lanceloader_core::Error::arrow("neighbours", &error))?;
        Ok(Gathered { batch, is_owned: batches.iter().all(|batch| batch.is_owned) })
    })?;
    Ok(Batch::new(stacked))
}

/// Returns a column of lists of so many values each.
fn lists(
    name: String,
    field: Field,
    values: &ArrayRef,
    steps: usize,
) -> lanceloader_core::Result<(Field, ArrayRef)> {
    let size = i32::try_from(steps).map_err(|_| none("list of so many steps", steps))?;
    let item = Arc::new(field.with_name("item"));
    let lists = FixedSizeListArray::try_new(Arc::clone(&item), size, Arc::clone(values), None)
        .map_err(|error| lanceloader_core::Error::arrow("neighbours", &error))?;
    let kind = DataType::FixedSizeList(item, size);
    debug_assert_eq!(lists.data_type(), &kind);
    Ok((Field::new(name, kind, false), Arc::new(lists)))
}

fn none(what: &str, at: usize) -> lanceloader_core::Error {
    lanceloader_core::Error::invalid(format!("{what} {at}"), "one that is there")
}
