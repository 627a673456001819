//! What a loader counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::runtime::lock;
use crate::stages::Nanos;

/// Events kept at most: a hundred megabytes.
const MAX_EVENTS: usize = 1 << 20;

/// What a consumer saw, and what the threads did for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadStats {
    /// Batches handed out.
    pub batches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Nanoseconds from the first time a batch was asked for until it was there.
    pub first_batch_nanos: u64,
    /// Nanoseconds spent waiting for batches, the first one included.
    pub wait_nanos: u64,
    /// Nanoseconds that threads spent on each stage, in the order of
    /// [`Stage`](crate::stages::Stage).
    pub stage_nanos: Nanos,
    /// Batches that were ready when one was asked for, summed over `batches`.
    pub ready: u64,
}

/// Something that took time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The reading thread from 1 on, or 0 for the consumer, who waited.
    pub thread: u64,
    /// Nanoseconds from the making of the loader to its start.
    pub start_nanos: u64,
    /// Nanoseconds it took.
    pub nanos: u64,
    /// Of each stage.
    pub stage_nanos: Nanos,
    /// Rows read or handed out.
    pub rows: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Counts on while a loader runs, and outlives it.
///
/// Counters take no lock, which a fork may have left locked in a child.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    made: Instant,
    counts: Counts,
    is_tracing: AtomicBool,
    events: Mutex<Vec<Event>>,
}

/// [`LoadStats`] that several threads add to.
#[derive(Debug, Default)]
struct Counts {
    batches: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    first_batch_nanos: AtomicU64,
    wait_nanos: AtomicU64,
    stage_nanos: [AtomicU64; 4],
    ready: AtomicU64,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            pid: std::process::id(),
            made: Instant::now(),
            counts: Counts::default(),
            is_tracing: AtomicBool::new(false),
            events: Mutex::default(),
        }
    }

    /// Returns the counts so far.
    pub fn stats(&self) -> LoadStats {
        let counts = &self.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoadStats {
            batches: of(&counts.batches),
            rows: of(&counts.rows),
            bytes: of(&counts.bytes),
            first_batch_nanos: of(&counts.first_batch_nanos),
            wait_nanos: of(&counts.wait_nanos),
            stage_nanos: counts.stage_nanos.each_ref().map(of),
            ready: of(&counts.ready),
        }
    }

    /// Keeps events from now on, the first 2²⁰ of them.
    pub fn trace(&self) {
        self.is_tracing.store(true, Ordering::Relaxed);
    }

    /// Returns the events since [`trace`](Self::trace).
    ///
    /// In a child of the process that is traced, none if they were just being written at the fork.
    pub fn events(&self) -> Vec<Event> {
        if self.pid == std::process::id() {
            return lock(&self.events).clone();
        }
        self.events.try_lock().map(|events| events.clone()).unwrap_or_default()
    }

    /// Returns the time on the clock of events.
    pub fn now_nanos(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts a batch that was handed out, with the batches that were `ready` and the time waited for it.
    pub(super) fn handed(&self, rows: u64, bytes: u64, ready: u64, nanos: u64) {
        let counts = &self.counts;
        if counts.batches.fetch_add(1, Ordering::Relaxed) == 0 {
            counts.first_batch_nanos.store(nanos, Ordering::Relaxed);
        }
        counts.rows.fetch_add(rows, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        counts.wait_nanos.fetch_add(nanos, Ordering::Relaxed);
        counts.ready.fetch_add(ready, Ordering::Relaxed);
    }

    /// Adds what a thread spent on each stage.
    pub(super) fn spent(&self, nanos: Nanos) {
        for (sum, nanos) in self.counts.stage_nanos.iter().zip(nanos) {
            sum.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    pub(super) fn happened(&self, event: impl FnOnce() -> Event) {
        if self.is_tracing.load(Ordering::Relaxed) {
            let mut events = lock(&self.events);
            if events.len() < MAX_EVENTS {
                events.push(event());
            }
        }
    }
}
