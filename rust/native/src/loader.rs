//! `lanceloader_core::loader` as an iterator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lanceloader_core::loader;
use lanceloader_core::turns::Turns;
use pyo3::{PyRef, PyResult, Python, pyclass, pymethods};

use crate::enter::enter;
use crate::handoff::Batch;
use crate::stats::Watch;

/// The batches of an order, read ahead on a thread of its own.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Loader {
    turns: Turns<loader::Loader>,
    watch: Arc<loader::Watch>,
    position: AtomicU64,
}

impl Loader {
    pub(crate) fn new(loader: loader::Loader) -> Self {
        let (watch, position) = (loader.watch(), loader.position());
        Self { turns: Turns::new(loader), watch, position: AtomicU64::new(position) }
    }
}

#[pymethods]
impl Loader {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// Returns the next batch; raises `StopIteration` at the end.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let batch = enter(py, || {
            self.turns.take(|loader| {
                let batch = loader.next_batch();
                self.position.store(loader.position(), Ordering::Relaxed);
                batch
            })
        })?;
        Ok(batch.map(Batch::new))
    }

    /// Returns what counts what is handed out, also after the loader is gone.
    fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.watch))
    }

    /// Returns the position of the first row that was not handed out yet.
    #[getter]
    fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }
}
