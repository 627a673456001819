//! Keeps all rows of a table packed in memory, shared with other processes where a cache folder allows.
//!
//! Blocks of rows are decoded once, at the speed of a scan, by threads in the background; until then
//! rows that are not there yet are read directly. A batch is then a gather of packed rows.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_schema::SchemaRef;

use super::choose::too_little;
use super::setback::Setback;
use super::weights::Weights;
use crate::address_space::check_room;
use crate::cache::{Block, Cache, Entry, Found, Rows};
use crate::error::{Error, Result, text_of_panic};
use crate::interrupt;
use crate::packed::{Heads, PackedRows, Packing};
use crate::runtime::{self, PerProcess, lock};

/// What a block aims to hold: large enough to decode at full speed, small enough that threads and
/// processes can share the work.
const BLOCK_BYTES: u64 = 16 << 20;
/// A block may be so many times as large, where rows are long.
const LARGE_BLOCKS: u64 = 4;
/// What all that is under way may take beside the rows that are kept.
const UNDER_WAY_BYTES: u64 = 192 << 20;
/// A block that is being filled is there up to three times: decoded, packed, and where it is kept.
const COPIES: u64 = 3;
/// Rows and bytes that are decoded at a time while a block is filled.
const SCAN_ROWS: u64 = 1 << 14;
const SCAN_BYTES: u64 = 8 << 20;
/// How long to look on while other processes write the blocks that are left, without a single one
/// getting done, before they are read for this process alone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(5);
/// A reader waits for blocks if they will be there within this time, as reading single rows
/// meanwhile takes longer and slows the filling down.
const WORTH_WAITING: Duration = Duration::from_secs(2);

/// Reads runs of rows, in storage order: what rows are packed from.
pub(super) trait Scan: std::fmt::Debug + Send + Sync {
    /// The columns.
    fn schema(&self) -> &SchemaRef;

    /// The number of rows.
    fn num_rows(&self) -> u64;

    /// The rows at these offsets, in one batch or several.
    fn scan(&self, offsets: Range<u64>) -> Result<Vec<RecordBatch>>;

    /// The rows at ascending offsets, far from each other.
    fn sample(&self, offsets: &[u64]) -> Result<Vec<RecordBatch>> {
        let rows = offsets.iter().map(|&offset| self.scan(offset..offset + 1));
        Ok(rows.collect::<Result<Vec<_>>>()?.concat())
    }

    /// About how many bytes the rows have, by what is known without reading them.
    fn weights(&self) -> Result<Weights>;

    /// Gives memory back that holds what was scanned, and will not be wanted again soon.
    fn forget(&self) {}
}

/// How large rows are, and how many bytes of them may be kept.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    /// Of a row, on average.
    pub(super) row_bytes: u64,
    pub(super) weights: Arc<Weights>,
    /// A power of two.
    pub(super) block_rows: u64,
    /// Bytes of all rows that may be packed.
    pub(super) limit: u64,
    /// Whether the limit also holds where rows are kept in files.
    pub(super) limits_files: bool,
    /// Whether a user set the limit.
    pub(super) is_limit_set: bool,
}

/// How many rows a block has, so that it has some [`BLOCK_BYTES`], and none far more; a power of two.
pub(super) fn block_rows(row_bytes: u64, weights: &Weights, num_rows: u64) -> u64 {
    let rows = (BLOCK_BYTES / row_bytes.max(1)).clamp(1, 1 << 20);
    let mut rows = 1 << rows.ilog2();
    let most_blocks = 8 * (num_rows / rows + 1);
    let is_large = |start: u64, rows| {
        weights.of_run(start..num_rows.min(start + rows)) > LARGE_BLOCKS * BLOCK_BYTES
    };
    while rows > 1
        && num_rows / rows < most_blocks
        && (0..num_rows)
            .step_by(usize::try_from(rows).unwrap_or(usize::MAX))
            .any(|start| is_large(start, rows))
    {
        rows /= 2;
    }
    rows
}

/// Rows to scan at once.
pub(super) fn scan_rows(row_bytes: u64, budget: u64) -> u64 {
    (budget / row_bytes.max(1)).clamp(1, SCAN_ROWS)
}

/// The beginning of a run of rows to scan at once, by the bytes of rows on average and by where the long
/// ones are.
pub(super) fn scan_at_once(
    weights: &Weights,
    offsets: Range<u64>,
    most_rows: u64,
    most_bytes: u64,
) -> Range<u64> {
    let end = offsets.end.min(offsets.start.saturating_add(most_rows));
    offsets.start..weights.end_of_run(offsets.start..end, most_bytes)
}

/// All rows of a table, as far as they were packed.
#[derive(Debug)]
pub(super) struct Resident {
    scan: Arc<dyn Scan>,
    packing: Packing,
    num_rows: u64,
    /// A block has two to the power of this many rows.
    shift: u32,
    sizes: Sizes,
    /// Rows that were packed here or are being packed, and their bytes.
    packed_rows: AtomicU64,
    packed_bytes: AtomicU64,
    home: Option<Home>,
    entry: ArcSwapOption<Entry>,
    /// Why the entry could not be opened or written to.
    detached: Setback,
    blocks: ArcSwap<Blocks>,
    filling: PerProcess<ArcSwapOption<Filling>>,
    /// Why filling ended early.
    failure: Setback,
    pub(super) counters: Counters,
}

/// Where packed rows are kept for other processes.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) cache: Cache,
    pub(super) table: String,
    pub(super) found: Found,
    /// Bytes that it will need, or 0 if all of them are there.
    pub(super) needed: u64,
}

impl Home {
    fn open(&self) -> Result<Entry> {
        Entry::open(&self.cache, &self.table, &self.found, self.needed)
    }
}

/// The blocks there are.
#[derive(Debug, Clone)]
struct Blocks {
    all: Vec<Option<Arc<Block>>>,
    /// For each bit of a head, whether it is set in any of them.
    bits_set: Vec<bool>,
    missing: usize,
}

/// What happened, for those who ask.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) blocks_filled: AtomicU64,
    pub(super) blocks_mapped: AtomicU64,
    pub(super) rows_packed: AtomicU64,
    pub(super) rows_direct: AtomicU64,
    /// Nanoseconds until all blocks were there.
    pub(super) fill_nanos: AtomicU64,
}

/// The work of filling, shared by the threads of one process, and done once.
#[derive(Debug)]
struct Filling {
    queue: Mutex<VecDeque<usize>>,
    progress: Condvar,
    started: Instant,
    num_blocks: usize,
    done: AtomicUsize,
    threads: AtomicUsize,
}

impl Filling {
    fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        lock(&self.queue)
    }

    /// When the rest will be there, going by what is done.
    fn remaining(&self) -> Duration {
        let done = self.done.load(Ordering::Relaxed);
        let left = self.num_blocks.saturating_sub(done);
        if done == 0 {
            return if left == 0 { Duration::ZERO } else { Duration::MAX };
        }
        let each = self.started.elapsed() / u32::try_from(done).unwrap_or(u32::MAX);
        each.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX))
    }

    fn is_over(&self) -> bool {
        self.threads.load(Ordering::Relaxed) == 0
    }
}

/// What became of an attempt to fill a block.
enum Attempt {
    Filled(Block),
    Mapped(Block),
    /// It was in memory, and is in a file now if that could be.
    Moved(Option<Block>),
    /// Another process is at it.
    Busy,
}

impl Resident {
    /// Nothing is read yet.
    pub(super) fn new(
        scan: Arc<dyn Scan>,
        packing: Packing,
        sizes: Sizes,
        home: Option<Home>,
    ) -> Self {
        let num_rows = scan.num_rows();
        let count = usize::try_from(num_rows.div_ceil(sizes.block_rows)).unwrap_or(usize::MAX);
        let bits_set = vec![false; packing.num_bits()];
        let blocks = Blocks { all: vec![None; count], bits_set, missing: count };
        let resident = Self {
            scan,
            packing,
            num_rows,
            shift: sizes.block_rows.ilog2(),
            sizes,
            packed_rows: AtomicU64::new(0),
            packed_bytes: AtomicU64::new(0),
            home,
            entry: ArcSwapOption::empty(),
            detached: Setback::default(),
            blocks: ArcSwap::from_pointee(blocks),
            filling: PerProcess::new(),
            failure: Setback::default(),
            counters: Counters::default(),
        };
        // A folder that cannot be used is no reason to stop: this process then keeps rows alone.
        resident.entry();
        resident
    }

    /// The columns of a row.
    pub(super) fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Whether every row is there.
    pub(super) fn is_complete(&self) -> bool {
        self.blocks.load().missing == 0
    }

    /// Why rows are not packed, or not shared with other processes.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.error().or_else(|| self.detached.error())
    }

    /// Whether blocks are files that other processes can map, and none had to be kept otherwise.
    pub(super) fn is_shared(&self) -> bool {
        let is_attached = self.entry.load().is_some() && self.detached.error().is_none();
        is_attached && self.blocks.load().all.iter().flatten().all(|b| b.unwritten().is_none())
    }

    /// Where blocks are written to, opened if there is another chance.
    fn entry(&self) -> Option<Arc<Entry>> {
        let home = self.home.as_ref().filter(|_| !self.detached.forbids())?;
        self.detached.lift();
        if let Some(entry) = self.entry.load_full() {
            return Some(entry);
        }
        match home.open() {
            Ok(entry) => {
                let entry = Arc::new(entry);
                self.entry.store(Some(Arc::clone(&entry)));
                Some(entry)
            }
            Err(error) => {
                self.detached.note(error);
                None
            }
        }
    }

    /// Goes on without the entry, which is opened anew when there is another chance.
    fn detach(&self, error: Error) {
        self.entry.store(None);
        self.detached.note(error);
    }

    /// Bytes of the blocks that are there.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.blocks.load().all.iter().flatten().map(|block| block.num_bytes() as u64).sum()
    }

    /// Starts filling, unless this process is at it, or should not try again yet.
    ///
    /// # Errors
    ///
    /// Those of making what a process needs for it.
    pub(super) fn fill(self: &Arc<Self>, threads: usize) -> Result<()> {
        if self.is_complete() { Ok(()) } else { self.start(threads) }
    }

    /// Shares rows that could not be shared before, if there is another chance: for those who begin
    /// to read.
    ///
    /// # Errors
    ///
    /// Those of [`fill`](Self::fill).
    pub(super) fn share(self: &Arc<Self>) -> Result<()> {
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
        // A few threads do as well.
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
    pub(super) fn wait(&self) -> Result<bool> {
        let slot = self.filling.get_or_make(|| Ok(ArcSwapOption::empty()))?;
        let Some(filling) = slot.load_full() else {
            // It failed before this process was forked.
            return Ok(self.is_complete());
        };
        loop {
            interrupt::check()?;
            if self.is_complete() {
                return Ok(true);
            }
            let is_slow = filling.remaining() > WORTH_WAITING
                && filling.started.elapsed() > WORTH_WAITING / 4;
            if filling.is_over() || is_slow || self.failure.error().is_some() {
                return Ok(self.is_complete());
            }
            let queue = filling.lock();
            drop(filling.progress.wait_timeout(queue, interrupt::PERIOD));
        }
    }

    /// The rows at `offsets` with the columns numbered `wanted`, or `None` if some are not there yet.
    ///
    /// `offsets` are in bounds.
    pub(super) fn gather(
        &self,
        offsets: &[u64],
        wanted: &[usize],
    ) -> Option<Result<Vec<arrow_array::ArrayRef>>> {
        let blocks = self.blocks.load_full();
        let heads = self.heads(&blocks, offsets)?;
        self.counters.rows_packed.fetch_add(offsets.len() as u64, Ordering::Relaxed);
        Some(self.packing.unpack(&heads, &blocks.bits_set, wanted))
    }

    /// The values of the columns numbered `wanted`, row after row; `None` if some rows are not there
    /// yet, the columns are not all of fixed width, or any may have nulls.
    pub(super) fn gather_matrix(&self, offsets: &[u64], wanted: &[usize]) -> Option<Buffer> {
        let blocks = self.blocks.load_full();
        if self.packing.may_be_null(wanted, &blocks.bits_set) {
            return None;
        }
        let heads = self.heads(&blocks, offsets)?;
        let values = self.packing.unpack_matrix(&heads, wanted)?;
        self.counters.rows_packed.fetch_add(offsets.len() as u64, Ordering::Relaxed);
        Some(values)
    }

    /// Which of `offsets` are there.
    pub(super) fn has(&self, offsets: &[u64]) -> Vec<bool> {
        let blocks = self.blocks.load();
        let has = |&offset: &u64| {
            let at = usize::try_from(offset >> self.shift).unwrap_or(usize::MAX);
            blocks.all.get(at).is_some_and(Option::is_some)
        };
        offsets.iter().map(has).collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "what is kept in memory has an address")]
    fn heads<'a>(&self, blocks: &'a Blocks, offsets: &[u64]) -> Option<Heads<'a>> {
        let stride = self.packing.stride();
        let has_tails = self.packing.has_tails();
        let mask = (1 << self.shift) - 1;
        let mut rows = Heads::with_capacity(offsets.len());
        if has_tails {
            rows.tails.reserve(offsets.len());
        }
        for &offset in offsets {
            let block = blocks.all[(offset >> self.shift) as usize].as_deref()?;
            let start = (offset & mask) as usize * stride;
            rows.heads.push(&block.heads()[start..start + stride]);
            if has_tails {
                rows.tails.push(block.tails());
            }
        }
        Some(rows)
    }

    /// How many of `threads` may fill blocks at once without taking more than they should.
    fn threads(&self, threads: usize) -> usize {
        let Some(limit) = self.limit() else {
            return threads;
        };
        let kept = self.sizes.row_bytes.saturating_mul(self.num_rows);
        let room = limit.saturating_sub(kept).saturating_add(UNDER_WAY_BYTES);
        threads.min(usize::try_from(room / (COPIES * BLOCK_BYTES)).unwrap_or(usize::MAX))
    }

    /// Bytes of all rows that may be packed, if there is a limit.
    fn limit(&self) -> Option<u64> {
        (self.sizes.limits_files || !self.is_shared()).then_some(self.sizes.limit)
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
        // Somebody may have finished it between the look and the claim.
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
                // The disk is full, or somebody took the folder away: go on in memory.
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
            return Err(Error::Bug(format!("block {block} has {} rows of {count}", rows.num_rows)));
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
                Err(too_little(limit, all, self.sizes.is_limit_set))
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
        let mut start = wanted.start;
        while start < wanted.end {
            let run = scan_at_once(&self.sizes.weights, start..wanted.end, at_once, SCAN_BYTES);
            start = run.end;
            for batch in self.scan.scan(run)? {
                self.packing.pack(&batch, rows)?;
            }
            check(rows.num_bytes() as u64)?;
        }
        Ok(())
    }

    fn install(&self, at: usize, block: Block) {
        let block = Arc::new(block);
        self.blocks.rcu(|blocks| {
            let mut blocks = Blocks::clone(blocks);
            for (all, &one) in blocks.bits_set.iter_mut().zip(block.bits_set()) {
                *all |= one;
            }
            if blocks.all[at].replace(Arc::clone(&block)).is_none() {
                blocks.missing -= 1;
            }
            blocks
        });
    }
}

/// What a thread does: blocks, as long as anybody wants them.
fn run(resident: &Weak<Resident>, filling: &Arc<Filling>) {
    let work = AssertUnwindSafe(|| fill_blocks(resident, filling));
    let result = catch_unwind(work).unwrap_or_else(|panic| {
        Err(Error::Bug(format!("filling rows: {}", text_of_panic(&*panic))))
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

#[cfg(test)]
mod tests;
