//! The threads that fill blocks in the background.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::super::choose::num_cores;
use super::attempt::Attempt;
use super::buffers::Buffers;
use super::filling::Filling;
use super::{BLOCK_BYTES, LARGE_BLOCKS, Resident};
use crate::cache::Block;
use crate::error::{Error, Result, text_of_panic};
use crate::interrupt;
use crate::runtime;

/// What all that is under way may take beside the rows that are kept.
const UNDER_WAY_BYTES: u64 = 192 << 20;
/// A block that is being filled is there up to three times: decoded, packed, and where it is kept.
const COPIES: u64 = 3;
/// How long to look on while other processes write the blocks that are left, without a single one
/// getting done, before they are read for this process alone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(5);
/// A reader waits for blocks if they will be there within this time, as reading single rows
/// meanwhile takes longer and slows the filling down.
const WORTH_WAITING: Duration = Duration::from_secs(2);
/// The same where every single row is a request to another machine for each of its columns: these are some
/// hundred times slower than reading all rows in order.
const WORTH_WAITING_FAR: Duration = Duration::from_mins(1);

impl Resident {
    /// Starts filling, unless this process is filling already, or should not try again yet.
    ///
    /// # Errors
    ///
    /// Those of making what a process needs for it.
    pub(in crate::read) fn fill(self: &Arc<Self>, threads: usize) -> Result<()> {
        if self.is_complete() { Ok(()) } else { self.start(threads) }
    }

    /// Shares rows that could not be shared before, if there is another chance: for those who begin
    /// to read.
    ///
    /// # Errors
    ///
    /// Those of [`fill`](Self::fill).
    pub(in crate::read) fn share(self: &Arc<Self>) -> Result<()> {
        let is_alone = self.home.is_some() && self.is_complete() && !self.is_shared();
        if is_alone && !self.detached.forbids() { self.start(1) } else { Ok(()) }
    }

    fn start(self: &Arc<Self>, threads: usize) -> Result<()> {
        let slot = self.filling.get_or_make(|| Ok(ArcSwapOption::empty()))?;
        let before = slot.load_full();
        if before.as_ref().is_some_and(|before| !before.is_over()) || self.failure.forbids() {
            return Ok(());
        }
        let blocks = self.blocks.load_full();
        let is_left = |block: &Option<Arc<Block>>| {
            let may_move = |block: &Arc<Block>| self.home.is_some() && block.unwritten().is_some();
            block.as_ref().is_none_or(may_move)
        };
        let queue: VecDeque<usize> =
            (0..blocks.all.len()).filter(|&at| is_left(&blocks.all[at])).collect();
        let at_once = self.blocks_at_once(queue.len());
        // Those of a run are under way together.
        let threads = if at_once > 1 { threads.div_ceil(2) } else { threads };
        let threads = self.threads(threads).clamp(1, queue.len().max(1));
        // On this machine, nothing is waited for: all threads pack. Otherwise one may wait while the others pack.
        let most = if self.scan.is_remote() { num_cores().max(2) } else { threads };
        let packing = threads.min(most);
        let most_kept = usize::try_from(LARGE_BLOCKS * BLOCK_BYTES).unwrap_or(usize::MAX);
        let buffers = Buffers::new(packing, most_kept);
        let filling = Arc::new(Filling::new(queue, at_once, threads, buffers));
        let found = slot.compare_and_swap(&before, Some(Arc::clone(&filling)));
        if found.as_ref().map(Arc::as_ptr) != before.as_ref().map(Arc::as_ptr) {
            // Another thread was faster.
            return Ok(());
        }
        self.failure.lift();
        let spawn = |_| {
            let (resident, filling) = (Arc::downgrade(self), Arc::clone(&filling));
            runtime::spawn("lanceloader-fill", move || run(&resident, &filling))
        };
        let (started, failed): (Vec<_>, Vec<_>) = (0..threads).map(spawn).partition(Result::is_ok);
        filling.end_threads(failed.len());
        // Fewer threads are enough; only without any it is an error.
        if let (true, Some(Err(error))) = (started.is_empty(), failed.into_iter().next()) {
            self.failure.note(error);
        }
        Ok(())
    }

    /// Waits until every row is packed, if that is worth it at the pace so far: within two seconds, or a
    /// minute for a table on another machine. Returns whether all are.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub(in crate::read) fn wait(&self) -> Result<bool> {
        let slot = self.filling.get_or_make(|| Ok(ArcSwapOption::empty()))?;
        let Some(filling) = slot.load_full() else {
            // It failed before this process was forked.
            return Ok(self.is_complete());
        };
        let most = if self.scan.is_remote() { WORTH_WAITING_FAR } else { WORTH_WAITING };
        loop {
            interrupt::check()?;
            if self.is_complete() {
                return Ok(true);
            }
            let is_slow = filling.remaining() > most && filling.started.elapsed() > most / 4;
            if filling.is_over() || is_slow || self.failure.error().is_some() {
                return Ok(self.is_complete());
            }
            let queue = filling.lock();
            drop(filling.progress.wait_timeout(queue, interrupt::PERIOD));
        }
    }

    /// Returns how many of `threads` may fill blocks at once without taking more than they should.
    fn threads(&self, threads: usize) -> usize {
        let Some(limit) = self.limit() else {
            return threads;
        };
        let kept = self.sizes.row_bytes.saturating_mul(self.num_rows);
        let room = limit.saturating_sub(kept).saturating_add(UNDER_WAY_BYTES);
        threads.min(usize::try_from(room / (COPIES * BLOCK_BYTES)).unwrap_or(usize::MAX))
    }
}

/// Runs a thread, which fills blocks as long as the rows are in use.
fn run(resident: &Weak<Resident>, filling: &Arc<Filling>) {
    let work = AssertUnwindSafe(|| fill_blocks(resident, filling));
    let result = catch_unwind(work).unwrap_or_else(|panic| {
        Err(Error::bug(format!("filling rows: {}", text_of_panic(&*panic))))
    });
    if let (Err(error), Some(resident)) = (result, resident.upgrade()) {
        resident.failure.note(error);
    }
    filling.end_threads(1);
}

fn fill_blocks(resident: &Weak<Resident>, filling: &Arc<Filling>) -> Result<()> {
    let mut last_progress = (filling.done.load(Ordering::Relaxed), Instant::now());
    loop {
        let Some(resident) = resident.upgrade() else {
            return Ok(());
        };
        if resident.failure.error().is_some() {
            return Ok(());
        }
        let blocks = filling.next_run();
        if blocks.is_empty() {
            return Ok(());
        }
        let is_alone = last_progress.1.elapsed() > PATIENCE;
        let mut is_busy = true;
        resident.attempt(filling, &blocks, is_alone, &mut |block, attempt| {
            let counters = &resident.counters;
            match attempt {
                Attempt::Busy => {
                    filling.lock().push_back(block);
                    return;
                }
                Attempt::Filled(found) => {
                    resident.install(block, found);
                    counters.blocks_filled.fetch_add(1, Ordering::Relaxed);
                }
                Attempt::Mapped(found) => {
                    resident.install(block, found);
                    counters.blocks_mapped.fetch_add(1, Ordering::Relaxed);
                }
                Attempt::Moved(Some(found)) => resident.install(block, found),
                Attempt::Moved(None) => {}
            }
            is_busy = false;
            let done = filling.done.fetch_add(1, Ordering::Relaxed) + 1;
            last_progress = (done, Instant::now());
            if done == filling.num_blocks {
                resident.failure.end();
                let nanos = u64::try_from(filling.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let counter = &counters.fill_nanos;
                let _ = counter.compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed);
            }
            filling.progress.notify_all();
        })?;
        if is_busy {
            drop(resident);
            let done = filling.done.load(Ordering::Relaxed);
            if done != last_progress.0 {
                last_progress = (done, Instant::now());
            }
            std::thread::sleep(PAUSE);
        }
    }
}
