//! Blocks, and the threads that fill them in the background.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::super::choose::too_little;
use super::super::scan::{scan_at_once, scan_rows};
use super::filling::Filling;
use super::{BLOCK_BYTES, LARGE_BLOCKS, Resident};
use crate::address_space::check_room;
use crate::cache::{Block, Rows};
use crate::error::{Error, Result, text_of_panic};
use crate::interrupt;
use crate::packed::PackedRows;
use crate::runtime;

/// What all that is under way may take beside the rows that are kept.
const UNDER_WAY_BYTES: u64 = 192 << 20;
/// A block that is being filled is there up to three times: decoded, packed, and where it is kept.
const COPIES: u64 = 3;
/// Bytes that are decoded at a time while a block is filled.
const SCAN_BYTES: u64 = 8 << 20;
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

/// The outcome of an attempt to fill a block.
enum Attempt {
    Filled(Block),
    Mapped(Block),
    /// The block was in memory; it is now in a file if that could be written.
    Moved(Option<Block>),
    /// Another process is filling it.
    Busy,
}

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
        let threads = self.threads(threads).clamp(1, queue.len().max(1));
        let filling = Arc::new(Filling {
            num_blocks: queue.len(),
            queue: Mutex::new(queue),
            progress: Condvar::new(),
            started: Instant::now(),
            done: AtomicUsize::new(0),
            threads: AtomicUsize::new(threads),
        });
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
        filling.threads.fetch_sub(failed.len(), Ordering::Relaxed);
        // Fewer threads are enough; only without any it is an error.
        if let (true, Some(Err(error))) = (started.is_empty(), failed.into_iter().next()) {
            self.failure.note(error);
        }
        Ok(())
    }

    /// Waits until every row is there, if that is worth it: within two seconds, going by the pace so
    /// far. Says whether they are.
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

    fn rows_of(&self, block: usize) -> Range<u64> {
        let start = (block as u64) << self.shift;
        start..self.num_rows.min(start + (1 << self.shift))
    }

    fn attempt(&self, block: usize, rows: &mut PackedRows, is_alone: bool) -> Result<Attempt> {
        let wanted = self.rows_of(block);
        let count = usize::try_from(wanted.end - wanted.start).unwrap_or(usize::MAX);
        let entry = self.entry();
        let entry = entry.as_deref();
        let is_whole = |found: &Block| {
            found.num_rows() == count && found.heads().len() == count * self.packing.stride()
        };
        let load = || entry.and_then(|entry| entry.load(block)).filter(is_whole);
        let kept = self.blocks.load().all[block].clone();
        let mapped = |found| {
            if kept.is_some() { Attempt::Moved(Some(found)) } else { Attempt::Mapped(found) }
        };
        if let Some(found) = load() {
            return Ok(mapped(found));
        }
        let claim = match entry.map(|entry| entry.claim(block)) {
            Some(Ok(None)) if !is_alone => return Ok(Attempt::Busy),
            Some(Ok(claim)) => claim,
            Some(Err(error)) => {
                self.detach(error);
                None
            }
            None => None,
        };
        // Another process may have finished it between the look and the claim.
        if claim.is_some()
            && let Some(found) = load()
        {
            return Ok(mapped(found));
        }
        let publish = |rows: Rows<'_>| match claim.map(|claim| claim.publish(rows)) {
            Some(Ok(block)) => {
                self.detached.end();
                Some(block)
            }
            Some(Err(error)) => {
                // The disk is full, or the folder was removed: go on in memory.
                self.detach(error);
                None
            }
            None => None,
        };
        if let Some(kept) = &kept {
            return Ok(Attempt::Moved(kept.unwritten().and_then(publish)));
        }
        self.pack(wanted, rows)?;
        if rows.num_rows != count {
            return Err(Error::bug(format!("block {block} has {} rows of {count}", rows.num_rows)));
        }
        match publish((&*rows).into()) {
            Some(block) => Ok(Attempt::Filled(block)),
            None => Block::in_memory(rows).map(Attempt::Filled),
        }
    }

    /// Packs the rows of a block, unless all would be more than may be kept.
    fn pack(&self, wanted: Range<u64>, rows: &mut PackedRows) -> Result<()> {
        if rows.num_bytes() as u64 > LARGE_BLOCKS * BLOCK_BYTES {
            // As much will not be wanted again soon.
            *rows = PackedRows::default();
        }
        rows.clear();
        let count = wanted.end - wanted.start;
        let heads = count * self.packing.stride() as u64;
        let expected = heads.max(self.sizes.weights.of_run(wanted.clone()));
        let packed_rows = self.packed_rows.fetch_add(count, Ordering::Relaxed) + count;
        let sum = self.packed_bytes.fetch_add(expected, Ordering::Relaxed) + expected;
        let check = |sum: u64| match self.limit() {
            Some(limit) if sum > limit => {
                let all = u128::from(sum) * u128::from(self.num_rows) / u128::from(packed_rows);
                let all = u64::try_from(all).unwrap_or(u64::MAX);
                Err(too_little(limit, all, self.sizes.set_limit))
            }
            _ => Ok(()),
        };
        let packed = check(sum)
            .and_then(|()| check_room("packed rows", self.sizes.weights.at_most(expected)))
            .and_then(|()| rows.reserve(heads, expected - heads))
            .and_then(|()| self.pack_runs(wanted, rows, |found| check(sum - expected + found)));
        let found = if packed.is_ok() {
            rows.num_bytes() as u64
        } else {
            // It is not there, and may be tried again.
            self.packed_rows.fetch_sub(count, Ordering::Relaxed);
            0
        };
        self.packed_bytes.fetch_add(found, Ordering::Relaxed);
        self.packed_bytes.fetch_sub(expected, Ordering::Relaxed);
        packed
    }

    fn pack_runs(
        &self,
        wanted: Range<u64>,
        rows: &mut PackedRows,
        check: impl Fn(u64) -> Result<()>,
    ) -> Result<()> {
        let at_once = scan_rows(self.sizes.row_bytes, SCAN_BYTES);
        // Rows that are kept packed need no copy of the files they came from.
        let keeps = self.home.is_none();
        if self.scan.is_remote() && self.sizes.weights.of_run(wanted.clone()) <= 2 * BLOCK_BYTES {
            // A round trip for the whole block, and few requests.
            return self.scan.scan_parts(wanted, at_once, keeps, &mut |batch| {
                self.packing.pack(batch, rows)?;
                check(rows.num_bytes() as u64)
            });
        }
        let mut start = wanted.start;
        while start < wanted.end {
            let run = scan_at_once(&self.sizes.weights, start..wanted.end, at_once, SCAN_BYTES);
            start = run.end;
            for batch in self.scan.scan(run, keeps)? {
                self.packing.pack(&batch, rows)?;
            }
            check(rows.num_bytes() as u64)?;
        }
        Ok(())
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
    filling.threads.fetch_sub(1, Ordering::Relaxed);
    filling.progress.notify_all();
}

fn fill_blocks(resident: &Weak<Resident>, filling: &Arc<Filling>) -> Result<()> {
    let mut rows = PackedRows::default();
    let mut last_progress = (filling.done.load(Ordering::Relaxed), Instant::now());
    loop {
        let Some(resident) = resident.upgrade() else {
            return Ok(());
        };
        if resident.failure.error().is_some() {
            return Ok(());
        }
        let Some(block) = filling.lock().pop_front() else {
            return Ok(());
        };
        let is_alone = last_progress.1.elapsed() > PATIENCE;
        match resident.attempt(block, &mut rows, is_alone)? {
            Attempt::Busy => {
                filling.lock().push_back(block);
                drop(resident);
                let done = filling.done.load(Ordering::Relaxed);
                if done != last_progress.0 {
                    last_progress = (done, Instant::now());
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            Attempt::Filled(found) => {
                resident.install(block, found);
                resident.counters.blocks_filled.fetch_add(1, Ordering::Relaxed);
            }
            Attempt::Mapped(found) => {
                resident.install(block, found);
                resident.counters.blocks_mapped.fetch_add(1, Ordering::Relaxed);
            }
            Attempt::Moved(found) => {
                if let Some(found) = found {
                    resident.install(block, found);
                }
            }
        }
        let done = filling.done.fetch_add(1, Ordering::Relaxed) + 1;
        last_progress = (done, Instant::now());
        if done == filling.num_blocks {
            resident.failure.end();
            let nanos = u64::try_from(filling.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let counter = &resident.counters.fill_nanos;
            let _ = counter.compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed);
        }
        filling.progress.notify_all();
    }
}
