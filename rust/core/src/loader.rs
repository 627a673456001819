//! Runs order → plan → read → gather ahead of the consumer.
//!
//! A loader has threads of its own. Each takes the next window of positions, reads it, and puts its
//! batches in line; the consumer gets them in order. Threads run ahead by a few windows, which bounds
//! memory, start with the first batch asked for and stop when the loader is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow_array::{Array, RecordBatch};

use crate::error::{Error, Result, text_of_panic};
use crate::gather::Gathered;
use crate::interrupt;
use crate::order::Order;
use crate::read::{Feed, Reader, Stride};
use crate::runtime::{self, lock};

/// The first window where its size is ours to choose: rows may be images.
const FIRST_ROWS: usize = 64;
/// A window never has more rows than this, however narrow they are.
const WINDOW_ROWS: usize = 1 << 20;
/// A window is at most this many times as long as the one before it.
const GROWTH: usize = 4;

/// Batches of an order, one after another.
#[derive(Debug)]
pub struct Loader {
    source: Source,
    batch_size: Option<usize>,
    num_rows: u64,
    position: u64,
    running: Option<Running>,
    ready: VecDeque<Weighed>,
    stats: Arc<Mutex<LoadStats>>,
    next: Option<Order>,
    stride: Option<Stride>,
}

/// What a consumer saw.
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
}

/// A batch, and its bytes: they are counted by the thread that read it.
#[derive(Debug)]
struct Weighed {
    gathered: Gathered,
    bytes: usize,
}

impl From<Gathered> for Weighed {
    fn from(gathered: Gathered) -> Self {
        let bytes = num_bytes(&gathered.batch);
        Self { gathered, bytes }
    }
}

/// What windows are read from.
#[derive(Debug, Clone)]
struct Source {
    reader: Reader,
    order: Order,
}

/// The threads at work.
#[derive(Debug)]
struct Running {
    pid: u32,
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
    /// The first position that no thread has taken.
    position: u64,
    num_rows: u64,
    /// Rows of the next window.
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

impl Loader {
    /// A loader of `order` in batches of `batch_size` rows.
    ///
    /// Only the last batch may be shorter; with `drop_last` it is left out. Without a batch size a
    /// batch is what was read at once: as many rows as make some megabytes. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `batch_size` is 0.
    pub fn new(
        reader: Reader,
        order: Order,
        batch_size: impl Into<Option<usize>>,
        drop_last: bool,
    ) -> Result<Self> {
        let batch_size = batch_size.into();
        if batch_size == Some(0) {
            return Err(Error::invalid("batch_size 0", "at least 1 row"));
        }
        let left_over = if drop_last { order.len() % batch_size.unwrap_or(1) as u64 } else { 0 };
        Ok(Self {
            num_rows: order.len() - left_over,
            source: Source { reader, order },
            batch_size,
            position: 0,
            running: None,
            ready: VecDeque::new(),
            stats: Arc::default(),
            next: None,
            stride: None,
        })
    }

    /// Says which order will probably be loaded after this one, so that it can be prepared meanwhile.
    #[must_use]
    pub fn followed_by(mut self, next: Order) -> Self {
        self.next = Some(next);
        self
    }

    /// A loader of some batches of an order: those of `batch_size` rows that begin at `start`,
    /// `start + stride` and so on. Its positions count the rows of these batches.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new); [`Error::OutOfRange`] if `start` is beyond the order.
    pub fn every(
        reader: Reader,
        order: Order,
        start: u64,
        batch_size: u64,
        stride: u64,
    ) -> Result<Self> {
        let rest = order.slice(start, order.len().saturating_sub(start))?;
        let rows = usize::try_from(batch_size)
            .map_err(|_| Error::invalid(format!("batch_size {batch_size}"), "a smaller one"))?;
        let whole = rest.len() / stride * batch_size;
        let left = (rest.len() % stride).min(batch_size);
        let mut loader = Self::new(reader, rest, rows, false)?;
        loader.num_rows = whole + left;
        loader.stride = Some(Stride { batch_size, stride });
        Ok(loader)
    }

    /// The position of the first row that was not handed out yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What was handed out so far; it goes on counting, and outlives the loader.
    pub fn stats(&self) -> Arc<Mutex<LoadStats>> {
        Arc::clone(&self.stats)
    }

    /// The next batch, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Those of reading, after which there are no more batches; [`Error::Interrupted`], after which
    /// the next call goes on.
    pub fn next_batch(&mut self) -> Result<Option<Gathered>> {
        if self.position >= self.num_rows {
            return Ok(None);
        }
        if self.ready.is_empty() {
            let start = Instant::now();
            let window = self.next_window();
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut stats = lock(&self.stats);
            stats.wait_nanos += nanos;
            if stats.batches == 0 {
                stats.first_batch_nanos += nanos;
            }
            drop(stats);
            match window {
                Ok(window) => self.ready.extend(window),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    self.position = self.num_rows;
                    self.running = None;
                    return Err(error);
                }
            }
        }
        let Some(Weighed { gathered, bytes }) = self.ready.pop_front() else {
            return Ok(None);
        };
        let rows = gathered.batch.num_rows() as u64;
        self.position += rows;
        let mut stats = lock(&self.stats);
        stats.batches += 1;
        stats.rows += rows;
        stats.bytes += bytes as u64;
        Ok(Some(gathered))
    }

    fn next_window(&mut self) -> Result<Vec<Weighed>> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().expect("it was just started");
        if running.pid != std::process::id() {
            return Err(Error::invalid(
                "an iterator that was started before this process was forked",
                "one made in this process",
            ));
        }
        let line = &running.line;
        let mut state = line.lock();
        loop {
            let next = state.served;
            if let Some(window) = state.done.remove(&next) {
                state.served += 1;
                line.changed.notify_all();
                return window;
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

    fn start(&self) -> Result<Running> {
        let Source { reader, order } = &self.source;
        let left = self.num_rows - self.position;
        let feed = Arc::new(reader.feed(
            order,
            left,
            self.next.clone(),
            self.stride,
            self.batch_size.is_none(),
        )?);
        let threads = feed.num_threads();
        // One in each thread's hands, and one for each in line.
        let most_depth = 2 * threads as u64;
        let state = State {
            position: self.position,
            num_rows: self.num_rows,
            rows: self.batch_size.unwrap_or(FIRST_ROWS),
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
        let running = Running { pid: std::process::id(), line, stop };
        for _ in 0..threads {
            let work = Work {
                feed: Arc::clone(&feed),
                batch_size: self.batch_size,
                most_depth,
                line: Arc::clone(&running.line),
                stop: Arc::clone(&running.stop),
            };
            runtime::spawn("lanceloader-read", move || work.run())?;
        }
        Ok(running)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && running.pid != std::process::id()
        {
            // The lock may be held by a thread that this process does not have.
            std::mem::forget(running);
        }
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
    feed: Arc<Feed>,
    batch_size: Option<usize>,
    /// Windows under way or waiting if they are small.
    most_depth: u64,
    line: Arc<Line>,
    stop: Arc<AtomicBool>,
}

/// A run of positions to read.
struct Ticket {
    number: u64,
    start: u64,
    end: u64,
    /// Rows that were meant to be in it.
    rows: usize,
}

impl Work {
    fn run(self) {
        while let Some(ticket) = self.next_ticket() {
            let Ticket { number, start, end, rows } = ticket;
            let read = || -> Result<Vec<Weighed>> {
                interrupt::until(&self.stop, || {
                    let batches = self.feed.read(start..end, self.batch_size.unwrap_or(rows))?;
                    Ok(batches.into_iter().map(Weighed::from).collect())
                })
            };
            let window = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
                Err(Error::Bug(format!("a reading thread: {}", text_of_panic(&*panic))))
            });
            let mut state = self.line.lock();
            match &window {
                Ok(batches) => {
                    let bytes: usize = batches.iter().map(|batch| batch.bytes).sum();
                    let found = usize::try_from(end - start).unwrap_or(usize::MAX);
                    let row_bytes = bytes.div_ceil(found.max(1)).max(1);
                    let fitting = self.feed.budget() / (bytes as u64).max(1);
                    state.depth = fitting.clamp(1, self.most_depth);
                    if self.batch_size.is_none() {
                        if number == 0 {
                            let row_bytes = row_bytes.max(self.feed.row_bytes());
                            state.row_bytes = row_bytes;
                            state.rows = self.next_rows(row_bytes, rows);
                        }
                    } else if rows >= state.rows {
                        // A late answer to a small window must not shrink those that followed.
                        state.rows = self.next_rows(row_bytes, rows);
                    }
                }
                // Nothing behind this one will be asked for.
                Err(_) => state.position = state.num_rows,
            }
            state.done.insert(number, window);
            self.line.changed.notify_all();
        }
        self.line.lock().threads -= 1;
        self.line.changed.notify_all();
    }

    /// The next window to read, once there is room for it; `None` at the end.
    fn next_ticket(&self) -> Option<Ticket> {
        let mut state = self.line.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) || state.position >= state.num_rows {
                return None;
            }
            // Where windows are batches, their lengths must not depend on which thread was faster.
            let is_known = self.batch_size.is_some() || state.taken == 0 || state.row_bytes > 0;
            if is_known && state.taken < state.served + state.depth {
                break;
            }
            let woken = self.line.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let rows = state.rows;
        if self.batch_size.is_none() && state.taken > 0 {
            state.rows = self.next_rows(state.row_bytes, rows);
        }
        let start = state.position;
        let end = state.num_rows.min(start + rows as u64);
        state.position = end;
        state.taken += 1;
        Some(Ticket { number: state.taken - 1, start, end, rows })
    }

    /// Whole batches that fill a window, after one of `rows` rows.
    fn next_rows(&self, row_bytes: usize, rows: usize) -> usize {
        let unit = self.batch_size.unwrap_or(1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::offsets_reader as reader;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;

    fn batches(mut loader: Loader) -> Vec<Vec<u64>> {
        let mut batches = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            batches.push(batch.batch.column(0).as_primitive::<UInt64Type>().values().to_vec());
        }
        assert!(loader.next_batch().unwrap().is_none());
        batches
    }

    #[test]
    fn batches_are_full_in_order_and_complete() {
        let order = Order::all(100_000).shuffled(3, 0, 1).unwrap();
        for batch_size in [7, 4096, 99_999, 100_000, 200_000] {
            let loader = Loader::new(reader(100_000), order.clone(), batch_size, false).unwrap();
            let batches = batches(loader);
            let (last, full) = batches.split_last().unwrap();
            assert!(full.iter().all(|batch| batch.len() == batch_size));
            assert!(!last.is_empty());
            assert_eq!(batches.concat(), order.to_vec());
        }
    }

    #[test]
    fn a_short_last_batch_can_be_left_out() {
        let loader = |n| Loader::new(reader(10), Order::all(n), 4, true).unwrap();
        assert_eq!(batches(loader(10)), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(batches(loader(8)).len(), 2);
        assert!(batches(loader(3)).is_empty());
        assert!(batches(loader(0)).is_empty());
    }

    #[test]
    fn an_error_ends_the_batches() {
        let mut loader = Loader::new(reader(10), Order::all(20), 4, false).unwrap();
        let mut rows = 0;
        let error = loop {
            match loader.next_batch() {
                Ok(batch) => rows += batch.unwrap().batch.num_rows(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
        assert!(rows <= 8);
        assert!(loader.next_batch().unwrap().is_none());
    }

    #[test]
    fn dropping_a_loader_stops_its_thread() {
        let reader = reader(1000);
        let order = Order::all(1000).repeat(1_000_000).unwrap();
        let mut loader = Loader::new(reader, order, 10, false).unwrap();
        loader.next_batch().unwrap().unwrap();
        let stop = Arc::downgrade(&loader.running.as_ref().unwrap().stop);
        drop(loader);
        // The thread holds the flag for as long as it runs.
        let end = Instant::now() + std::time::Duration::from_secs(10);
        while stop.strong_count() > 0 && Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(stop.strong_count(), 0);
    }
}
