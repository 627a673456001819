//! The threads of a loader, and the line in which their windows wait for the consumer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::batches::Batches;
use super::depth::Depth;
use super::watch::{Event, Watch};
use crate::error::{Error, Result, text_of_panic};
use crate::gather::Gathered;
use crate::interrupt;
use crate::projection::num_bytes;
use crate::read::{Cuts, Feed};
use crate::runtime::{self, lock};
use crate::stages;

/// The first window where its size is ours to choose: rows may be images.
const FIRST_ROWS: usize = 64;
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
    done: BTreeMap<u64, Window>,
    /// Bytes of batches in line, with the consumer, and, as far as is known, of those being read.
    held: u64,
    /// Of these, what the consumer was given last.
    given: u64,
    depth: Depth,
    threads: usize,
}

/// What was read of a window, and is in line.
#[derive(Debug, Default)]
struct Window {
    batches: Vec<Weighed>,
    /// Whether nothing more will come.
    is_over: bool,
    error: Option<Error>,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Returns whether another window may be read.
    fn has_room(&self) -> bool {
        let in_line = self.taken - self.served;
        let read = self.done.values().filter(|window| window.is_over).count() as u64;
        self.depth.has_room(in_line, in_line - read)
    }

    /// Returns the next batches for the consumer, if they have been read.
    fn next(&mut self) -> Option<Result<Vec<Weighed>>> {
        loop {
            let window = self.done.get_mut(&self.served)?;
            let batches = std::mem::take(&mut window.batches);
            let error = if batches.is_empty() { window.error.take() } else { None };
            if window.is_over && window.error.is_none() {
                self.done.remove(&self.served);
                self.served += 1;
            } else if batches.is_empty() {
                return None;
            }
            if let Some(error) = error {
                return Some(Err(error));
            }
            if !batches.is_empty() {
                self.given = batches.iter().map(|batch| batch.bytes as u64).sum();
                return Some(Ok(batches));
            }
        }
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
        let threads = feed.num_threads().min(batches.left(num_rows - position, batch)).max(1);
        let enough = feed.num_threads_here() as u64;
        let state = State {
            position,
            batch,
            is_over: false,
            rows: match batches {
                Batches::AsRead => {
                    (feed.window_bytes() / feed.row_bytes().max(1)).clamp(1, FIRST_ROWS)
                }
                Batches::Every(size) => *size,
                Batches::Ends(_) => 1,
            },
            row_bytes: 0,
            taken: 0,
            served: 0,
            done: BTreeMap::new(),
            held: 0,
            given: 0,
            depth: Depth::new(threads as u64, enough),
            threads,
        };
        let line = Arc::new(Line { state: Mutex::new(state), changed: Condvar::new() });
        let stop = Arc::new(AtomicBool::new(false));
        // Made first: if a thread cannot be started, this stops the others.
        let running = Self { pid: std::process::id(), line, stop };
        for thread in 1..=threads {
            let work = Work {
                thread: thread as u64,
                enough,
                feed: Arc::clone(&feed),
                batches: batches.clone(),
                num_rows,
                line: Arc::clone(&running.line),
                stop: Arc::clone(&running.stop),
                watch: Arc::clone(watch),
            };
            runtime::spawn("lanceloader-read", move || work.run())?;
        }
        Ok(running)
    }

    /// Returns the next window; the second value is the number of batches that were ready.
    pub(super) fn next_window(&self) -> Result<(Vec<Weighed>, usize)> {
        if self.pid != std::process::id() {
            return Err(Error::forked());
        }
        let line = &self.line;
        let mut state = line.lock();
        // The consumer is done with what it was given before.
        let given = std::mem::take(&mut state.given);
        state.held = state.held.saturating_sub(given);
        let ready = state.done.values().map(|window| window.batches.len()).sum();
        if given > 0 {
            line.changed.notify_all();
        }
        loop {
            let served = state.served;
            let window = state.next();
            if window.is_some() || state.served != served {
                line.changed.notify_all();
            }
            if let Some(window) = window {
                return window.map(|window| (window, ready));
            }
            if state.threads == 0 {
                return Err(Error::bug("the reading threads stopped early"));
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
    /// How many threads are enough once nothing is fetched from another machine.
    enough: u64,
    feed: Arc<Feed>,
    batches: Batches,
    num_rows: u64,
    line: Arc<Line>,
    stop: Arc<AtomicBool>,
    watch: Arc<Watch>,
}

/// A run of positions to read.
#[derive(Debug, Clone)]
struct Ticket {
    number: u64,
    positions: Range<u64>,
    /// The first of its batches, and how many they are.
    batch: usize,
    num_batches: usize,
    /// Rows that were meant to be in it.
    rows: usize,
}

impl Ticket {
    fn num_rows(&self) -> usize {
        usize::try_from(self.positions.end - self.positions.start).unwrap_or(usize::MAX)
    }
}

/// A thread at work, which the consumer waits for; not any more once it ends, also by a panic.
struct Working<'a>(&'a Line);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}

impl Work {
    fn run(self) {
        let _working = Working(&self.line);
        while !self.is_surplus()
            && let Some(ticket) = self.next_ticket()
        {
            let read = || self.read_window(&ticket);
            let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
                Err(Error::bug(format!("a reading thread: {}", text_of_panic(&*panic))))
            });
            let mut state = self.line.lock();
            let is_failed = result.is_err();
            let window = state.done.entry(ticket.number).or_default();
            window.is_over = true;
            window.error = result.err();
            // Nothing behind a window that failed will be asked for.
            state.is_over |= is_failed;
            self.line.changed.notify_all();
        }
    }

    /// Returns whether the other threads are enough by now: more would only hold windows that leave the
    /// caches of the processor before they are asked for.
    fn is_surplus(&self) -> bool {
        if self.thread <= self.enough || !self.feed.is_here() {
            return false;
        }
        let mut state = self.line.lock();
        state.depth.end_fetching();
        true
    }

    /// Reads a window in parts that have room, and puts them in line.
    fn read_window(&self, ticket: &Ticket) -> Result<()> {
        let mut rest = ticket.clone();
        while let Some((part, expected)) = self.next_part(&mut rest)? {
            if !self.make_room(ticket.number, expected) {
                return Err(Error::Interrupted);
            }
            let fetched = self.feed.bytes_fetched();
            let read = self.feed.check_room(expected).and_then(|()| self.read(&part));
            let has_fetched = self.feed.bytes_fetched() > fetched;
            let mut state = self.line.lock();
            // Before other threads are woken.
            state.depth.note(has_fetched);
            state.held = state.held.saturating_sub(expected);
            let batches = read?;
            let bytes = batches.iter().map(|batch| batch.bytes).sum();
            state.held += bytes as u64;
            self.learn(&mut state, &part, bytes);
            state.done.entry(ticket.number).or_default().batches.extend(batches);
            self.line.changed.notify_all();
        }
        Ok(())
    }

    /// Returns the first of the batches that are left, as many as a window should have, and about how
    /// many bytes they have.
    fn next_part(&self, rest: &mut Ticket) -> Result<Option<(Ticket, u64)>> {
        if rest.num_batches == 0 {
            return Ok(None);
        }
        if matches!(self.batches, Batches::AsRead) || !self.feed.is_uneven() {
            let expected = self.feed.weigh(rest.positions.clone())?;
            let part = rest.clone();
            rest.num_batches = 0;
            return Ok(Some((part, expected)));
        }
        let most = self.feed.window_bytes() as u64;
        let (mut count, mut end, mut expected) = (0, rest.positions.start, 0);
        while count < rest.num_batches {
            let next = match &self.batches {
                Batches::Ends(ends) => ends[rest.batch + count],
                Batches::Every(size) => rest.positions.end.min(end + *size as u64),
                Batches::AsRead => rest.positions.end,
            };
            let bytes = self.feed.weigh(end..next)?;
            if count > 0 && expected + bytes > most {
                break;
            }
            (count, end, expected) = (count + 1, next, expected + bytes);
        }
        let part =
            Ticket { positions: rest.positions.start..end, num_batches: count, ..rest.clone() };
        rest.positions.start = end;
        rest.batch += count;
        rest.num_batches -= count;
        Ok(Some((part, expected)))
    }

    /// Waits until so many bytes may be read for a window; `false` if they are no longer needed.
    ///
    /// The window that the consumer waits for always has room.
    fn make_room(&self, number: u64, bytes: u64) -> bool {
        let mut state = self.line.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let is_wanted = number == state.served
                && state.done.get(&number).is_none_or(|window| window.batches.is_empty());
            if is_wanted || state.held == 0 || state.held + bytes <= self.feed.budget() {
                state.held += bytes;
                return true;
            }
            let woken = self.line.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn read(&self, ticket: &Ticket) -> Result<Vec<Weighed>> {
        let read = || -> Result<Vec<Weighed>> {
            interrupt::until(&self.stop, || {
                let start = ticket.positions.start;
                let positions = ticket.positions.clone();
                let batches = match &self.batches {
                    Batches::AsRead => self.feed.read(positions, Cuts::Every(ticket.num_rows()))?,
                    Batches::Every(size) => self.feed.read(positions, Cuts::Every(*size))?,
                    Batches::Ends(ends) => {
                        let place = |end: &u64| usize::try_from(end - start).unwrap_or(usize::MAX);
                        let ends = &ends[ticket.batch..ticket.batch + ticket.num_batches];
                        let ends: Vec<usize> = ends.iter().map(place).collect();
                        self.feed.read(positions, Cuts::Ends(&ends))?
                    }
                };
                Ok(batches.into_iter().map(Weighed::from).collect())
            })
        };
        stages::take();
        let start_nanos = self.watch.now_nanos();
        let window = read();
        let stage_nanos = stages::take();
        self.watch.spent(stage_nanos);
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

    /// Learns from a window how long the next ones should be.
    fn learn(&self, state: &mut State, ticket: &Ticket, bytes: usize) {
        let found = ticket.num_rows();
        let row_bytes = bytes.div_ceil(found.max(1)).max(1);
        let row_bytes = row_bytes.max(self.feed.row_bytes());
        if ticket.number == 0 {
            state.row_bytes = row_bytes;
        }
        if matches!(self.batches, Batches::AsRead) {
            if ticket.number == 0 {
                state.rows = self.next_rows(row_bytes, ticket.rows);
            }
        } else if ticket.rows >= state.rows {
            // A late answer to a small window must not shrink those that followed.
            state.rows = self.next_rows(row_bytes, ticket.rows.max(found));
        }
    }

    /// Returns the next window to read, once there is room for it; `None` at the end.
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
            // Where windows are batches, their lengths must not depend on which thread was faster. From
            // another machine the first batch comes sooner if nothing else is fetched meanwhile.
            let waits = matches!(self.batches, Batches::AsRead) || self.feed.is_remote();
            let is_known = !waits || state.taken == 0 || state.row_bytes > 0;
            if is_known && state.has_room() {
                break;
            }
            let woken = self.line.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let rows = state.rows;
        let start = state.position;
        let mut end = self.num_rows.min(start + rows as u64);
        let mut num_batches = 1;
        match &self.batches {
            Batches::AsRead => {
                if state.taken > 0 {
                    state.rows = self.next_rows(state.row_bytes, rows);
                }
                end = self.end_of_batch(start..end);
            }
            Batches::Every(size) => {
                num_batches =
                    usize::try_from((end - start).div_ceil(*size as u64)).unwrap_or(usize::MAX);
            }
            Batches::Ends(ends) => {
                let rest = &ends[state.batch..];
                // Whole batches up to what is wanted, but one at least.
                num_batches = rest.partition_point(|&at| at <= end).max(1);
                end = rest[num_batches - 1];
            }
        }
        let ticket = Ticket {
            number: state.taken,
            positions: start..end,
            batch: state.batch,
            num_batches,
            rows,
        };
        state.position = end;
        state.batch += num_batches;
        state.taken += 1;
        Some(ticket)
    }

    /// Returns the end of a batch that is as large as a window should be, where rows differ in length.
    fn end_of_batch(&self, positions: Range<u64>) -> u64 {
        let Range { start, mut end } = positions;
        if !self.feed.is_uneven() {
            return end;
        }
        let most = self.feed.window_bytes() as u64;
        while end - start > 1 && self.feed.weigh(start..end).is_ok_and(|bytes| bytes > most) {
            end = start + (end - start) / 2;
        }
        end
    }

    /// Returns the rows of whole batches that fill a window, after a window of `rows` rows.
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
