//! `lanceloader_core::order::mix` as an immutable class.

use std::sync::Arc;

use lanceloader_core::gather::Gathered;
use lanceloader_core::merge::{Labels, merge};
use lanceloader_core::order::mix::{self, Recipe, Stage, Stop};
use lanceloader_core::order::{self, Mixed};
use pyo3::exceptions::PyValueError;
use pyo3::types::{PyAnyMethods, PyTuple};
use pyo3::{Bound, IntoPyObject, PyAny, PyRef, PyResult, Python, pymethods};

use crate::classes::{Mix, Order};
use crate::enter::enter;
use crate::handoff::{Batch, batch_of};
use crate::share::Share;

#[pymethods]
impl Mix {
    /// Returns a mixture of sources of `sizes` rows. Sources with equal numbers in `groups` are
    /// read together; `stages` are weights by the row that they hold from; `stop` is `"first"`,
    /// `"all"` or `"rows"`.
    #[new]
    #[pyo3(signature = (sizes, groups, stages, *, linear=false, first_row=0, stop="first", rows=0))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        py: Python<'_>,
        sizes: Vec<u64>,
        groups: Vec<usize>,
        stages: Vec<(u64, Vec<u64>)>,
        linear: bool,
        first_row: u64,
        stop: &str,
        rows: u64,
    ) -> PyResult<Self> {
        let stop = match stop {
            "first" => Stop::First,
            "all" => Stop::All,
            "rows" => Stop::Rows(rows),
            other => {
                return Err(PyValueError::new_err(format!(
                    "stop {other:?}: wanted \"first\", \"all\" or \"rows\""
                )));
            }
        };
        let stages = stages.into_iter().map(|(start, weights)| Stage { start, weights }).collect();
        let recipe = Recipe { sizes, groups, stages, is_linear: linear, first_row, stop };
        enter(py, || Ok(Self(Arc::new(mix::Mix::new(recipe)?))))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let recipe = self.0.recipe();
        let (stop, rows) = match recipe.stop {
            Stop::First => ("first", 0),
            Stop::All => ("all", 0),
            Stop::Rows(rows) => ("rows", rows),
        };
        let stages = recipe.stages.iter().map(|stage| (stage.start, stage.weights.clone()));
        let positional = (recipe.sizes.clone(), recipe.groups.clone(), stages.collect::<Vec<_>>());
        let keywords = (recipe.is_linear, recipe.first_row, stop, rows);
        let make = py.get_type::<Self>().getattr("from_parts")?;
        (make, (positional, keywords)).into_pyobject(py)
    }

    /// Returns the inverse of `__reduce__`.
    #[staticmethod]
    #[expect(clippy::type_complexity, reason = "the parts of a recipe")]
    fn from_parts(
        py: Python<'_>,
        recipe: (Vec<u64>, Vec<usize>, Vec<(u64, Vec<u64>)>),
        keywords: (bool, u64, String, u64),
    ) -> PyResult<Self> {
        let (sizes, groups, stages) = recipe;
        let (linear, first_row, stop, rows) = keywords;
        Self::new(py, sizes, groups, stages, linear, first_row, &stop, rows)
    }

    /// Returns the rows of the epoch.
    #[getter]
    fn num_rows(&self) -> u64 {
        self.0.len()
    }

    /// Returns the rows that each source has of the first `position` rows.
    fn counts(&self, position: u64) -> Vec<u64> {
        self.0.counts(position)
    }

    /// Returns the number of the source at each of the positions `start..stop`.
    fn sources(&self, py: Python<'_>, start: u64, stop: u64) -> PyResult<Batch> {
        let sources = enter(py, || Ok(self.0.sources(start..stop)))?;
        Batch::of_numbers("source", sources)
    }

    /// Returns the rows of a group, whose sources have `orders`: all of them, or those of a share.
    #[pyo3(signature = (group, orders, epoch=None, share=None))]
    fn order(
        &self,
        py: Python<'_>,
        group: usize,
        orders: Vec<PyRef<'_, Order>>,
        epoch: Option<u64>,
        share: Option<Share>,
    ) -> PyResult<Order> {
        let orders: Vec<order::Order> = orders.iter().map(|order| order.0.clone()).collect();
        enter(py, || {
            let share = share.map(Into::into);
            let mixed = Mixed::new(Arc::clone(&self.0), group, orders.into(), epoch, share)?;
            Ok(Order(order::Order::mixed(mixed)))
        })
    }

    /// Returns the rows of a group in each batch of a share, added up.
    fn ends(&self, py: Python<'_>, group: usize, share: Share) -> PyResult<Batch> {
        let ends = enter(py, || Ok(self.0.ends(group, &share.into())))?;
        Batch::of_numbers("end", ends)
    }

    /// Returns the batch at positions `start..start + size`, of what each group has there. With
    /// `column`, a column of this name says which of `names` a row is from.
    #[pyo3(signature = (start, size, batches, column=None, names=None))]
    fn merge(
        &self,
        py: Python<'_>,
        start: u64,
        size: u64,
        batches: Vec<Bound<'_, PyAny>>,
        column: Option<String>,
        names: Option<Vec<String>>,
    ) -> PyResult<Batch> {
        let batches: Vec<Gathered> =
            batches.iter().map(|batch| batch_of(py, batch)).collect::<PyResult<_>>()?;
        let labels = column.map(|column| Labels { column, names: names.unwrap_or_default() });
        let merged = enter(py, || merge(&self.0, start..start + size, &batches, labels.as_ref()))?;
        Ok(Batch::new(merged))
    }
}
