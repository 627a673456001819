//! `lanceloader_core::loader` as an iterator.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lanceloader_core::{Error, loader};
use pyo3::{PyRef, PyResult, Python, pyclass, pymethods};

use crate::enter::enter;
use crate::handoff::Batch;
use crate::stats::Watch;

/// The batches of an order, read ahead on a thread of its own.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Loader {
    pid: u32,
    loader: Mutex<loader::Loader>,
}

impl Loader {
    pub(crate) fn new(loader: loader::Loader) -> Self {
        Self { pid: std::process::id(), loader: Mutex::new(loader) }
    }

    fn lock(&self) -> MutexGuard<'_, loader::Loader> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Loader {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// The next batch; raises `StopIteration` at the end.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let batch = enter(py, || {
            if self.pid != std::process::id() {
                // The lock may be held by a thread that this process does not have.
                return Err(Error::forked());
            }
            self.lock().next_batch()
        })?;
        Ok(batch.map(Batch::new))
    }

    /// What counts what is handed out, also after the loader is gone.
    fn watch(&self, py: Python<'_>) -> PyResult<Watch> {
        enter(py, || Ok(Watch(self.lock().watch())))
    }

    /// The position of the first row that was not handed out yet.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<u64> {
        enter(py, || Ok(self.lock().position()))
    }
}
