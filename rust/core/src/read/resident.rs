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
use super::weights::Weights;
use crate::cache::{Block, Entry};
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
    entry: Option<Entry>,
    /// Why the entry could not be written to.
    detached: ArcSwapOption<Error>,
    blocks: ArcSwap<Blocks>,
    filling: PerProcess<Filling>,
    failure: ArcSwapOption<Error>,
    pub(super) counters: Counters,
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

/// The work of filling, shared by the threads of one process.
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
}

/// What became of an attempt to fill a block.
enum Attempt {
    Filled(Block),
    Mapped(Block),
    /// Another process is at it.
    Busy,
}

impl Resident {
    /// Nothing is read yet.
    pub(super) fn new(
        scan: Arc<dyn Scan>,
        packing: Packing,
        sizes: Sizes,
        entry: Option<Entry>,
        detached: Option<Error>,
    ) -> Self {
        let num_rows = scan.num_rows();
        let count = usize::try_from(num_rows.div_ceil(sizes.block_rows)).unwrap_or(usize::MAX);
        let bits_set = vec![false; packing.num_bits()];
        let blocks = Blocks { all: vec![None; count], bits_set, missing: count };
        Self {
            scan,
            packing,
            num_rows,
            shift: sizes.block_rows.ilog2(),
            sizes,
            packed_rows: AtomicU64::new(0),
            packed_bytes: AtomicU64::new(0),
            entry,
            detached: ArcSwapOption::from(detached.map(Arc::new)),
            blocks: ArcSwap::from_pointee(blocks),
            filling: PerProcess::new(),
            failure: ArcSwapOption::empty(),
            counters: Counters::default(),
        }
    }

    /// The columns of a row.
    pub(super) fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Whether every row is there.
    pub(super) fn is_complete(&self) -> bool {
        self.blocks.load().missing == 0
    }

    /// Why filling ended early.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.load_full()
    }

    /// Why rows are not shared with other processes any more.
    pub(super) fn detached(&self) -> Option<Arc<Error>> {
        self.detached.load_full()
    }

    /// Whether blocks are files that other processes can map, and none had to be kept otherwise.
    pub(super) fn is_shared(&self) -> bool {
        self.entry.is_some() && self.detached.load().is_none()
    }

    /// Bytes of the blocks that are there.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.blocks.load().all.iter().flatten().map(|block| block.num_bytes() as u64).sum()
    }

    /// Starts filling, unless this process is at it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if no thread can be started.
    pub(super) fn fill(self: &Arc<Self>, threads: usize) -> Result<()> {
        if self.is_complete() || self.failure.load().is_some() {
            return Ok(());
        }
        let mut is_new = false;
        let filling = self.filling.get_or_make(|| {
            is_new = true;
            let blocks = self.blocks.load();
            let missing = (0..blocks.all.len()).filter(|&at| blocks.all[at].is_none());
            let queue: VecDeque<usize> = missing.collect();
            Ok(Filling {
                num_blocks: queue.len(),
                queue: Mutex::new(queue),
                progress: Condvar::new(),
                started: Instant::now(),
                done: AtomicUsize::new(0),
                threads: AtomicUsize::new(0),
            })
        })?;
        if is_new {
            for _ in 0..self.threads(threads).clamp(1, filling.num_blocks.max(1)) {
                let (resident, filling) = (Arc::downgrade(self), Arc::clone(&filling));
                let counted = Arc::clone(&filling);
                counted.threads.fetch_add(1, Ordering::Relaxed);
                runtime::spawn("lanceloader-fill", move || run(&resident, &filling)).inspect_err(
                    |_| {
                        counted.threads.fetch_sub(1, Ordering::Relaxed);
                    },
                )?;
            }
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
        let none = || Err(Error::Bug("nothing is filled".into()));
        let Ok(filling) = self.filling.get_or_make(none) else {
            // It failed before this process was forked.
            return Ok(self.is_complete());
        };
        loop {
            interrupt::check()?;
            if self.is_complete() {
                return Ok(true);
            }
            let is_over = filling.threads.load(Ordering::Relaxed) == 0;
            let is_slow = filling.remaining() > WORTH_WAITING
                && filling.started.elapsed() > WORTH_WAITING / 4;
            if is_over || is_slow || self.failure.load().is_some() {
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
        let room = limit.saturating_sub(kept) + UNDER_WAY_BYTES;
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
        let entry = self.entry.as_ref().filter(|_| self.is_shared());
        let is_whole = |found: &Block| {
            found.num_rows() == count && found.heads().len() == count * self.packing.stride()
        };
        let load = || entry.and_then(|entry| entry.load(block)).filter(is_whole);
        if let Some(found) = load() {
            return Ok(Attempt::Mapped(found));
        }
        let claim = match entry.map(|entry| entry.claim(block)) {
            Some(Ok(None)) if !is_alone => return Ok(Attempt::Busy),
            Some(Ok(claim)) => claim,
            Some(Err(error)) => {
                self.detached.store(Some(Arc::new(error)));
                None
            }
            None => None,
        };
        // Somebody may have finished it between the look and the claim.
        if claim.is_some()
            && let Some(found) = load()
        {
            claim.into_iter().for_each(crate::cache::Claim::abandon);
            return Ok(Attempt::Mapped(found));
        }
        if let Err(error) = self.pack(wanted, rows) {
            claim.into_iter().for_each(crate::cache::Claim::abandon);
            return Err(error);
        }
        if rows.num_rows != count {
            return Err(Error::Bug(format!("block {block} has {} rows of {count}", rows.num_rows)));
        }
        match claim.map(|claim| claim.publish(rows)) {
            Some(Ok(block)) => Ok(Attempt::Filled(block)),
            Some(Err(error)) => {
                // The disk is full, or somebody took the folder away: go on in memory.
                self.detached.store(Some(Arc::new(error)));
                Block::in_memory(rows).map(Attempt::Filled)
            }
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
                Err(too_little(limit, u64::try_from(all).unwrap_or(u64::MAX)))
            }
            _ => Ok(()),
        };
        check(sum)?;
        rows.reserve(heads, expected - heads)?;
        let at_once = scan_rows(self.sizes.row_bytes, SCAN_BYTES);
        let mut start = wanted.start;
        while start < wanted.end {
            let run = scan_at_once(&self.sizes.weights, start..wanted.end, at_once, SCAN_BYTES);
            start = run.end;
            for batch in self.scan.scan(run)? {
                self.packing.pack(&batch, rows)?;
            }
            check(sum - expected + rows.num_bytes() as u64)?;
        }
        let found = rows.num_bytes() as u64;
        self.packed_bytes.fetch_add(found, Ordering::Relaxed);
        self.packed_bytes.fetch_sub(expected, Ordering::Relaxed);
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
        resident.failure.store(Some(Arc::new(error)));
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
        if resident.failure.load().is_some() {
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
        }
        let done = filling.done.fetch_add(1, Ordering::Relaxed) + 1;
        last_progress = (done, Instant::now());
        if done == filling.num_blocks {
            let nanos = u64::try_from(filling.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            resident.counters.fill_nanos.store(nanos, Ordering::Relaxed);
        }
        filling.progress.notify_all();
    }
}
