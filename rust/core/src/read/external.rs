//! An exact shuffle of more rows than fit in memory, in two passes and without random access.
//!
//! Pass 1 scans the table in storage order. Each row's position is known from its offset, as an order
//! can be inverted; the packed row goes to the *bucket* of that run of positions, through a buffer, to
//! a scratch file. Pass 2 reads one bucket after another and serves its rows in the order of their
//! positions. Memory is that of some buckets and of a buffer for each. Long rows stay in the file until
//! they are served: however they are spread over buckets, these take no more than planned. (J. Vitter and E. Shriver,
//! "Algorithms for Parallel Memory I: Two-Level Memories", 1994, permute so by distribution.)

mod distribute;
mod loaded;
mod pass;
mod serve;
mod shape;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use arc_swap::ArcSwapOption;

use self::loaded::Slot;
use self::pass::Pass;
use self::shape::Shape;
use super::choose::Options;
use super::scan::Scan;
use super::scratch::{Extent, Pool, Scratch};
use super::weights::Weights;
use crate::address_space;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::order::Order;
use crate::packed::Packing;
use crate::runtime::lock;

/// The rows of an order, on their way through scratch files.
#[derive(Debug)]
pub(super) struct External {
    scan: Arc<dyn Scan>,
    weights: Arc<Weights>,
    order: Order,
    packing: Packing,
    shape: Shape,
    /// Offset and position, sorted, for orders that cannot be inverted.
    listed: Option<Vec<(u64, u64)>>,
    /// Taken out when it goes back to the pool.
    scratch: Option<Scratch>,
    pool: Arc<Pool>,
    /// Memory of buckets that were served, for those to come.
    memory: Arc<Mutex<Vec<Vec<u8>>>>,
    buckets: Vec<Mutex<Bucket>>,
    /// For each bit of a head, whether it is set in any row.
    bits_set: Vec<AtomicBool>,
    /// The first offset that no thread has scanned yet.
    next_offset: AtomicU64,
    pass: Mutex<Pass>,
    passed: Condvar,
    loaded: Mutex<Vec<(usize, Arc<Slot>)>>,
    /// Why nothing could be written.
    failure: ArcSwapOption<Error>,
    pub(super) rows_spilled: AtomicU64,
    is_cancelled: AtomicBool,
}

/// Rows of a bucket that were not written yet, and where those are that were.
#[derive(Debug, Default)]
struct Bucket {
    buffer: Vec<u8>,
    extents: Vec<Extent>,
    /// Long rows, by place, and where each is.
    long: Vec<(u32, Extent)>,
}

impl Drop for External {
    fn drop(&mut self) {
        self.scratch.take().into_iter().for_each(|scratch| self.pool.put(scratch));
    }
}

impl External {
    /// Prepares the shuffle of an order; nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the budget is too small; [`Error::Write`] if there is no room for scratch
    /// files.
    pub(super) fn new(
        scan: Arc<dyn Scan>,
        order: Order,
        (row_bytes, weights): (u64, Arc<Weights>),
        options: &Options,
        pool: &Arc<Pool>,
    ) -> Result<Self> {
        let packing = Packing::new(scan.schema())?;
        let (budget, threads) = (options.memory_bytes(), options.reading_threads(scan.is_remote()));
        let is_listed = !order.is_invertible();
        let pair_bytes = if is_listed { size_of::<(u64, u64)>() as u64 } else { 0 };
        let list_bytes = order.len().saturating_mul(pair_bytes);
        let limit = options.set_limit();
        let shape = Shape::new(order.len(), row_bytes, list_bytes, (budget, limit), threads)?;
        let listed = is_listed.then(|| sorted(&order)).transpose()?;
        let folder = options.scratch_folder.as_deref().or(options.cache_folder.as_deref());
        Ok(Self {
            buckets: (0..shape.num_buckets()).map(|_| Mutex::default()).collect(),
            bits_set: (0..packing.num_bits()).map(|_| AtomicBool::new(false)).collect(),
            scan,
            weights,
            order,
            packing,
            shape,
            listed,
            scratch: Some(pool.take(folder)?),
            pool: Arc::clone(pool),
            memory: Arc::default(),
            next_offset: AtomicU64::new(0),
            pass: Mutex::default(),
            passed: Condvar::new(),
            loaded: Mutex::default(),
            failure: ArcSwapOption::empty(),
            rows_spilled: AtomicU64::new(0),
            is_cancelled: AtomicBool::new(false),
        })
    }

    /// Returns whether pass 1 is over.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.pass).is_done
    }

    /// Returns why rows could not be written to scratch files.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.load_full()
    }

    /// Cancels the work of all threads for these rows.
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.passed.notify_all();
    }

    fn scratch(&self) -> &Scratch {
        self.scratch.as_ref().expect("it goes back to the pool when this is dropped")
    }

    fn check(&self) -> Result<()> {
        if self.is_cancelled.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        interrupt::check()
    }
}

/// Reserves capacity for this many bytes in all.
fn reserve(bytes: &mut Vec<u8>, len: usize) -> Result<()> {
    let more = len.saturating_sub(bytes.len());
    let failed = |_| address_space::failed("rows in scratch files", len as u64);
    bytes.try_reserve_exact(more).map_err(failed)
}

/// Returns the offsets and positions of an order that cannot be inverted, sorted by offset.
fn sorted(order: &Order) -> Result<Vec<(u64, u64)>> {
    let mut pairs = Vec::new();
    let len = usize::try_from(order.len()).unwrap_or(usize::MAX);
    let failed = |_| address_space::failed("positions", order.len().saturating_mul(16));
    pairs.try_reserve_exact(len).map_err(failed)?;
    let mut start = 0;
    while start < order.len() {
        let end = order.len().min(start + (1 << 20));
        pairs.extend(order.offsets(start..end)?.into_iter().zip(start..end));
        start = end;
    }
    pairs.sort_unstable();
    Ok(pairs)
}
