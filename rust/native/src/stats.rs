//! What the core says of itself, as plain values.

use std::sync::{Arc, Mutex, PoisonError};

use lanceloader_core::{loader, read};
use pyo3::{pyclass, pymethods};

/// A strategy, and what it was chosen from.
#[pyclass(frozen, get_all, module = "lanceloader._native")]
pub(crate) struct Choice {
    strategy: &'static str,
    reason: String,
    row_bytes: u64,
    num_rows: u64,
    memory_bytes: u64,
}

impl From<&read::Choice> for Choice {
    fn from(choice: &read::Choice) -> Self {
        Self {
            strategy: name_of(choice.strategy),
            reason: choice.reason.clone(),
            row_bytes: choice.row_bytes,
            num_rows: choice.num_rows,
            memory_bytes: choice.memory_bytes,
        }
    }
}

/// What users call a strategy.
pub(crate) fn name_of(strategy: read::Strategy) -> &'static str {
    match strategy {
        read::Strategy::Direct => "direct",
        read::Strategy::Resident => "resident",
        read::Strategy::External => "external",
    }
}

/// What a reader did so far.
#[pyclass(frozen, get_all, module = "lanceloader._native")]
pub(crate) struct ReadStats {
    rows_packed: u64,
    rows_direct: u64,
    rows_spilled: u64,
    blocks_filled: u64,
    blocks_mapped: u64,
    bytes_kept: u64,
    fill_nanos: u64,
    is_shared: bool,
    failure: Option<String>,
}

impl From<read::ReadStats> for ReadStats {
    fn from(stats: read::ReadStats) -> Self {
        Self {
            rows_packed: stats.rows_packed,
            rows_direct: stats.rows_direct,
            rows_spilled: stats.rows_spilled,
            blocks_filled: stats.blocks_filled,
            blocks_mapped: stats.blocks_mapped,
            bytes_kept: stats.bytes_kept,
            fill_nanos: stats.fill_nanos,
            is_shared: stats.is_shared,
            failure: stats.failure,
        }
    }
}

/// What a consumer saw.
#[pyclass(frozen, get_all, module = "lanceloader._native")]
pub(crate) struct LoadStats {
    batches: u64,
    rows: u64,
    bytes: u64,
    first_batch_nanos: u64,
    wait_nanos: u64,
}

/// Counts what a loader hands out, without holding it.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Watch(pub(crate) Arc<Mutex<loader::LoadStats>>);

#[pymethods]
impl Watch {
    /// What was handed out so far.
    fn stats(&self) -> LoadStats {
        LoadStats::from(&*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<&loader::LoadStats> for LoadStats {
    fn from(stats: &loader::LoadStats) -> Self {
        let &loader::LoadStats { batches, rows, bytes, first_batch_nanos, wait_nanos } = stats;
        Self { batches, rows, bytes, first_batch_nanos, wait_nanos }
    }
}
