//! The threads of a loader, and the line in which their windows wait for the consumer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arrow_array::{Array, RecordBatch};

use super::watch::{Event, Watch};
use super::{Batches, FIRST_ROWS};
use crate::error::{Error, Result, text_of_panic};
use crate::gather::Gathered;
use crate::interrupt;
use crate::read::{Cuts, Feed};
use crate::runtime::{self, lock};
use crate::stages;

/// A window never has more rows than this, however narrow they are.
const WINDOW_ROWS: usize = 1 << 20;
/// A window is at most this many times as long as the one before it.
const GROWTH: usize = 4;

/// A batch, and its bytes: they are counted by the thread that read it.
#[derive(Debug)]
pub(super) struct Weighed {
    pub(super) gathered: Gathered,
    pub(super) bytes: usize,
}

impl From<Gathered> for Weighed {
    fn from(gathered: Gathered) -> Self {
        let bytes = num_bytes(&gathered.batch);
        Self { gathered, bytes }
    }
}

/// The threads at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: u32,
    line: Arc<Line>,
    stop: Arc<AtomicBool>,
}

/// Windows on their way from the threads to the consumer.
#[derive(Debug)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The first position and the first batch that no thread has taken.
    position: u64,
    batch: usize,
    /// Whether there is nothing more to take.
    is_over: bool,
    /// Rows that the next window should have.
    rows: usize,
    /// Bytes of a row of the first window, once it was read.
    row_bytes: usize,
    /// Windows taken by threads, and those handed to the consumer.
    taken: u64,
    served: u64,
    done: BTreeMap<u64, Result<Vec<Weighed>>>,
    /// Windows that may be under way or waiting at once.
    depth: u64,
    threads: usize,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Running {
    /// Starts threads that read everything from `position` and `batch` on.
    pub(super) fn start(
        feed: Feed,
        batches: &Batches,
        (position, batch): (u64, usize),
        num_rows: u64,
        watch: &Arc<Watch>,
    ) -> Result<Self> {
        let feed = Arc::new(feed);
        let threads = feed.num_threads();
        // One in each thread's hands, and one for each in line.
        let most_depth = 2 * threads as u64;
        let state = State {
            position,
            batch,
            is_over: false,
            rows: match batches {
                Batches::AsRead => FIRST_ROWS,
                Batches::Every(size) => *size,
                Batches::Ends(_) => 1,
            },
            row_bytes: 0,
            taken: 0,
            served: 0,
            done: BTreeMap::new(),
            depth: most_depth,
            threads,
        };
        let line = Arc::new(Line { state: Mutex::new(state), changed: Condvar::new() });
        let stop = Arc::new(AtomicBool::new(false));
        // Made first: if a thread cannot be started, this stops the others.
        let running = Self { pid: std::process::id(), line, stop };
        for thread in 1..=threads {
            let work = Work {
                thread: thread as u64,
                feed: Arc::clone(&feed),
                batches: batches.clone(),
                num_rows,
                most_depth,
                line: Arc::clone(&running.line),
                stop: Arc::clone(&running.stop),
                watch: Arc::clone(watch),
            };
            runtime::spawn("lanceloader-read", move || work.run())?;
        }
        Ok(running)
    }

    /// The next window; the second value is the number of batches that were ready.
    pub(super) fn next_window(&self) -> Result<(Vec<Weighed>, usize)> {
        if self.pid != std::process::id() {
            return Err(Error::forked());
        }
        let line = &self.line;
        let mut state = line.lock();
        let ready = state.done.values().flatten().map(Vec::len).sum();
        loop {
            let next = state.served;
            if let Some(window) = state.done.remove(&next) {
                state.served += 1;
                line.changed.notify_all();
                return window.map(|window| (window, ready));
            }
            if state.threads == 0 {
                return Err(Error::Bug("the reading threads stopped early".into()));
            }
            let waited = line.changed.wait_timeout(state, interrupt::PERIOD);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if let Err(error) = interrupt::check() {
                drop(state);
                return Err(error);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn stop(&self) -> std::sync::Weak<AtomicBool> {
        Arc::downgrade(&self.stop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.pid == std::process::id() {
            // Held for the store, so that no thread goes to sleep in between.
            drop(self.line.lock());
            self.line.changed.notify_all();
        }
    }
}

/// What a thread does.
struct Work {
    thread: u64,
    feed: Arc<Feed>,
    batches: Batches,
    num_rows: u64,
    /// Windows under way or waiting if they are small.
    most_depth: u64,
    line: Arc<Line>,
    stop: Arc<AtomicBool>,
    watch: Arc<Watch>,
}

/// A run of positions to read.
struct Ticket {
    number: u64,
    positions: Range<u64>,
    batches: Range<usize>,
    /// Rows that were meant to be in it.
    rows: usize,
}

impl Ticket {
    fn num_rows(&self) -> usize {
        usize::try_from(self.positions.end - self.positions.start).unwrap_or(usize::MAX)
    }
}

impl Work {
    fn run(self) {
        while let Some(ticket) = self.next_ticket() {
            let window = self.read(&ticket);
            let mut state = self.line.lock();
            match &window {
                Ok(batches) => {
                    let bytes = batches.iter().map(|batch| batch.bytes).sum();
                    self.learn(&mut state, &ticket, bytes);
                }
                // Nothing behind this one will be asked for.
                Err(_) => state.is_over = true,
            }
            state.done.insert(ticket.number, window);
            self.line.changed.notify_all();
        }
        self.line.lock().threads -= 1;
        self.line.changed.notify_all();
    }

    fn read(&self, ticket: &Ticket) -> Result<Vec<Weighed>> {
        let read = || -> Result<Vec<Weighed>> {
            interrupt::until(&self.stop, || {
                let start = ticket.positions.start;
                let positions = ticket.positions.clone();
                let batches = match &self.batches {
                    Batches::AsRead => self.feed.read(positions, Cuts::Every(ticket.rows))?,
                    Batches::Every(size) => self.feed.read(positions, Cuts::Every(*size))?,
                    Batches::Ends(ends) => {
                        let place = |end: &u64| usize::try_from(end - start).unwrap_or(usize::MAX);
                        let ends: Vec<usize> =
                            ends[ticket.batches.clone()].iter().map(place).collect();
                        self.feed.read(positions, Cuts::Ends(&ends))?
                    }
                };
                Ok(batches.into_iter().map(Weighed::from).collect())
            })
        };
        stages::take();
        let start_nanos = self.watch.now_nanos();
        let window = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
            Err(Error::Bug(format!("a reading thread: {}", text_of_panic(&*panic))))
        });
        let stage_nanos = stages::take();
        self.watch.count(|stats| {
            for (sum, nanos) in stats.stage_nanos.iter_mut().zip(stage_nanos) {
                *sum += nanos;
            }
        });
        self.watch.happened(|| {
            let bytes: usize = window.iter().flatten().map(|batch| batch.bytes).sum();
            Event {
                thread: self.thread,
                start_nanos,
                nanos: self.watch.now_nanos() - start_nanos,
                stage_nanos,
                rows: ticket.num_rows() as u64,
                bytes: bytes as u64,
            }
        });
        window
    }

    /// How long the next windows should be, and how many.
    fn learn(&self, state: &mut State, ticket: &Ticket, bytes: usize) {
        let found = ticket.num_rows();
        let row_bytes = bytes.div_ceil(found.max(1)).max(1);
        let fitting = self.feed.budget() / (bytes as u64).max(1);
        state.depth = fitting.clamp(1, self.most_depth);
        if matches!(self.batches, Batches::AsRead) {
            if ticket.number == 0 {
                let row_bytes = row_bytes.max(self.feed.row_bytes());
                state.row_bytes = row_bytes;
                state.rows = self.next_rows(row_bytes, ticket.rows);
            }
        } else if ticket.rows >= state.rows {
            // A late answer to a small window must not shrink those that followed.
            state.rows = self.next_rows(row_bytes, ticket.rows.max(found));
        }
    }

    /// The next window to read, once there is room for it; `None` at the end.
    fn next_ticket(&self) -> Option<Ticket> {
        let mut state = self.line.lock();
        loop {
            let is_over = match &self.batches {
                Batches::Ends(ends) => state.batch == ends.len(),
                Batches::AsRead | Batches::Every(_) => state.position >= self.num_rows,
            };
            if is_over || state.is_over || self.stop.load(Ordering::Relaxed) {
                return None;
            }
            // Where windows are batches, their lengths must not depend on which thread was faster.
            let is_free = matches!(self.batches, Batches::AsRead);
            let is_known = !is_free || state.taken == 0 || state.row_bytes > 0;
            if is_known && state.taken < state.served + state.depth {
                break;
            }
            let woken = self.line.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let rows = state.rows;
        let wanted = self.num_rows.min(state.position + rows as u64);
        let (end, batch) = match &self.batches {
            Batches::AsRead => {
                if state.taken > 0 {
                    state.rows = self.next_rows(state.row_bytes, rows);
                }
                (wanted, state.batch)
            }
            Batches::Every(_) => (wanted, state.batch),
            Batches::Ends(ends) => {
                let rest = &ends[state.batch..];
                // Whole batches up to what is wanted, but one at least.
                let batch = state.batch + rest.partition_point(|&end| end <= wanted).max(1);
                (ends[batch - 1], batch)
            }
        };
        let ticket = Ticket {
            number: state.taken,
            positions: state.position..end,
            batches: state.batch..batch,
            rows,
        };
        state.position = end;
        state.batch = batch;
        state.taken += 1;
        Some(ticket)
    }

    /// Whole batches that fill a window, after one of `rows` rows.
    fn next_rows(&self, row_bytes: usize, rows: usize) -> usize {
        let unit = match self.batches {
            Batches::Every(size) => size,
            Batches::AsRead | Batches::Ends(_) => 1,
        };
        let most = WINDOW_ROWS.min(rows.saturating_mul(GROWTH));
        let fitting = (self.feed.window_bytes() / row_bytes).min(most);
        (fitting / unit).max(1) * unit
    }
}

/// Bytes of the rows themselves, without what else their buffers hold.
fn num_bytes(batch: &RecordBatch) -> usize {
    let bytes =
        |column: &arrow_array::ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(bytes).sum()
}
