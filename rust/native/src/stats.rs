//! What the core says of itself, as plain values.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lanceloader_core::{histogram, loader, read};
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

/// Returns what users call a strategy.
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
    requests: u64,
    bytes_fetched: u64,
    bytes_served: u64,
    bytes_copied: u64,
    retries: u64,
    throttled: u64,
    most_in_flight: u64,
    /// Nanoseconds with any request in flight, and those of all requests together.
    busy_nanos: u64,
    in_flight_nanos: u64,
    is_shared: bool,
    failure: Option<String>,
    copy_failure: Option<String>,
}

impl From<read::ReadStats> for ReadStats {
    fn from(stats: read::ReadStats) -> Self {
        let traffic = stats.traffic;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            rows_packed: stats.rows_packed,
            rows_direct: stats.rows_direct,
            rows_spilled: stats.rows_spilled,
            blocks_filled: stats.blocks_filled,
            blocks_mapped: stats.blocks_mapped,
            bytes_kept: stats.bytes_kept,
            fill_nanos: stats.fill_nanos,
            requests: traffic.requests,
            bytes_fetched: traffic.bytes_fetched,
            bytes_served: traffic.bytes_served,
            bytes_copied: traffic.bytes_copied,
            retries: traffic.retries,
            throttled: traffic.throttled,
            most_in_flight: traffic.most_in_flight,
            busy_nanos: nanos(traffic.busy),
            in_flight_nanos: nanos(traffic.in_flight),
            is_shared: stats.is_shared,
            failure: stats.failure,
            copy_failure: stats.copy_failure,
        }
    }
}

/// What a consumer saw, and what the threads did for it.
#[pyclass(frozen, get_all, module = "lanceloader._native")]
pub(crate) struct LoadStats {
    batches: u64,
    rows: u64,
    bytes: u64,
    first_batch_nanos: u64,
    wait_nanos: u64,
    /// Nanoseconds of threads for order, plan, read and gather.
    stage_nanos: (u64, u64, u64, u64),
    /// Batches that were ready when one was asked for, summed over batches.
    ready: u64,
}

/// How often durations were so long.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Histogram(Mutex<histogram::Histogram>);

impl Histogram {
    fn lock(&self) -> MutexGuard<'_, histogram::Histogram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Histogram {
    /// Creates a counter at zero.
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    /// Counts a duration in nanoseconds.
    fn add(&self, nanos: u64) {
        self.lock().add(nanos);
    }

    /// Returns what a share of all durations does not exceed, in nanoseconds.
    fn quantile(&self, share: f64) -> u64 {
        self.lock().quantile(share)
    }

    /// Returns the upper end of each class of durations in nanoseconds, and how many were in it.
    fn counts(&self) -> Vec<(u64, u64)> {
        self.lock().counts()
    }
}

/// Counts what a loader hands out, without holding it.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Watch(pub(crate) Arc<loader::Watch>);

/// An event: thread, start, length, the four stages, rows, bytes.
type Event = (u64, u64, u64, (u64, u64, u64, u64), u64, u64);

#[pymethods]
impl Watch {
    /// Returns what was handed out so far.
    fn stats(&self) -> LoadStats {
        LoadStats::from(&self.0.stats())
    }

    /// Keeps events from now on.
    fn trace(&self) {
        self.0.trace();
    }

    /// Returns what took time since: the thread, 0 being the consumer, the start in nanoseconds,
    /// the length, that of each stage, rows and bytes.
    fn events(&self) -> Vec<Event> {
        let event = |event: loader::Event| {
            let stages = event.stage_nanos.into();
            (event.thread, event.start_nanos, event.nanos, stages, event.rows, event.bytes)
        };
        self.0.events().into_iter().map(event).collect()
    }

    /// Returns the time on the clock of events, in nanoseconds.
    #[getter]
    fn now_nanos(&self) -> u64 {
        self.0.now_nanos()
    }
}

impl From<&loader::LoadStats> for LoadStats {
    fn from(stats: &loader::LoadStats) -> Self {
        Self {
            batches: stats.batches,
            rows: stats.rows,
            bytes: stats.bytes,
            first_batch_nanos: stats.first_batch_nanos,
            wait_nanos: stats.wait_nanos,
            stage_nanos: stats.stage_nanos.into(),
            ready: stats.ready,
        }
    }
}
