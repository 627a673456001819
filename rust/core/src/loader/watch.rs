//! What a loader counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
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
#[derive(Debug)]
pub struct Watch {
    made: Instant,
    stats: Mutex<LoadStats>,
    is_tracing: AtomicBool,
    events: Mutex<Vec<Event>>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            made: Instant::now(),
            stats: Mutex::default(),
            is_tracing: AtomicBool::new(false),
            events: Mutex::default(),
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> LoadStats {
        lock(&self.stats).clone()
    }

    /// Keeps events from now on, the first 2²⁰ of them.
    pub fn trace(&self) {
        self.is_tracing.store(true, Ordering::Relaxed);
    }

    /// What took time since [`trace`](Self::trace).
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// The time on the clock of events.
    pub fn now_nanos(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut LoadStats)) {
        change(&mut lock(&self.stats));
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
