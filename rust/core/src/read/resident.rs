//! Keeps all rows of a table packed in memory, shared with other processes where a cache folder allows.
//!
//! Blocks of rows are decoded once, at the speed of a scan, by threads in the background; until then
//! rows that are not there yet are read directly. A batch is then a gather of packed rows.

mod attempt;
mod buffers;
mod fill;
mod filling;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::{ArcSwap, ArcSwapOption};
use arrow_buffer::Buffer;

use self::filling::Filling;
use super::choose::SetLimit;
use super::scan::Scan;
use super::setback::Setback;
use super::weights::Weights;
use crate::cache::{Block, Cache, Entry, Found};
use crate::error::{Error, Result};
use crate::packed::{Heads, Packing};
use crate::runtime::PerProcess;

/// What a block aims to hold: large enough to decode at full speed, small enough that threads and
/// processes can share the work.
const BLOCK_BYTES: u64 = 16 << 20;
/// A block may be so many times as large, where rows are long.
const LARGE_BLOCKS: u64 = 4;

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
    /// The limit that a user set.
    pub(super) set_limit: Option<SetLimit>,
}

/// Returns the rows of a block, a power of two: blocks have about [`BLOCK_BYTES`], and none has far
/// more.
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

impl Resident {
    /// Prepares packed rows; nothing is read yet.
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

    /// Returns the columns of a row.
    pub(super) fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Returns whether every row is there.
    pub(super) fn is_complete(&self) -> bool {
        self.blocks.load().missing == 0
    }

    /// Returns why rows are not packed, or not shared with other processes.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.error().or_else(|| self.detached.error())
    }

    /// Returns whether blocks are files that other processes can map, and none had to be kept
    /// otherwise.
    pub(super) fn is_shared(&self) -> bool {
        let is_attached = self.entry.load().is_some() && self.detached.error().is_none();
        is_attached && self.blocks.load().all.iter().flatten().all(|b| b.unwritten().is_none())
    }

    /// Returns the cache entry that blocks are written to; opens it if it is time to try again.
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

    /// Goes on without the entry until it is time to try again.
    fn detach(&self, error: Error) {
        self.entry.store(None);
        self.detached.note(error);
    }

    /// Returns the bytes of the blocks that are there.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.blocks.load().all.iter().flatten().map(|block| block.num_bytes() as u64).sum()
    }

    /// Returns the rows at `offsets` with the columns numbered `wanted`, or `None` if some are not
    /// there yet.
    ///
    /// `offsets` are in bounds.
    pub(super) fn gather(
        &self,
        offsets: &[u64],
        wanted: &[usize],
    ) -> Option<Result<Vec<arrow_array::ArrayRef>>> {
        let blocks = self.blocks.load_full();
        let heads = self.heads(&blocks, offsets)?;
        Some(self.packing.unpack(&heads, &blocks.bits_set, wanted))
    }

    /// Returns the values of the columns numbered `wanted`, row after row; `None` if some rows are not
    /// there yet, the columns are not all of fixed width, or any may have nulls.
    pub(super) fn gather_matrix(&self, offsets: &[u64], wanted: &[usize]) -> Option<Buffer> {
        let blocks = self.blocks.load_full();
        if self.packing.may_be_null(wanted, &blocks.bits_set) {
            return None;
        }
        let heads = self.heads(&blocks, offsets)?;
        self.packing.unpack_matrix(&heads, wanted)
    }

    /// Returns which of `offsets` are there.
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

    /// Returns the bytes of all rows that may be packed, if there is a limit.
    fn limit(&self) -> Option<u64> {
        (self.sizes.limits_files || !self.is_shared()).then_some(self.sizes.limit)
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

#[cfg(test)]
mod tests;
