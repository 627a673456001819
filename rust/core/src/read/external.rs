//! An exact shuffle of more rows than fit in memory, in two passes and without random access.
//!
//! Pass 1 scans the table in storage order. Each row's position is known from its offset, as an order
//! can be inverted; the packed row goes to the *bucket* of that run of positions, through a buffer, to
//! a scratch file. Pass 2 reads one bucket after another and serves its rows in the order of their
//! positions. Memory is that of some buckets and of a buffer for each. (J. Vitter and E. Shriver,
//! "Algorithms for Parallel Memory I: Two-Level Memories", 1994, permute so by distribution.)

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use arrow_array::RecordBatch;

use super::batch;
use super::choose::Options;
use super::resident::{Scan, pack_run, scan_rows};
use super::scratch::{Extent, Pool, Scratch};
use crate::error::{Error, Result};
use crate::gather::gather;
use crate::interrupt;
use crate::order::Order;
use crate::packed::{Heads, PackedRows, Packing};
use crate::plan::Rows;
use crate::runtime::lock;

/// A row of a bucket begins with its place in it.
const PLACE_BYTES: usize = size_of::<u32>();
/// Buffers are no smaller than this, or the disk would see nothing but small writes.
const MIN_BUFFER: u64 = 1 << 10;
/// And no larger than this, which is enough.
const MAX_BUFFER: u64 = 1 << 20;
/// Rows of a bucket are numbered in 32 bits.
const MAX_BUCKET_ROWS: u64 = 1 << 31;
/// The budget in parts: up to three buckets take a sixth each, the buffers of pass 1 together a
/// quarter, what is decoded at once a sixteenth, and windows under way the rest.
const BUCKET_SHARE: u64 = 6;
const BUFFER_SHARE: u64 = 4;
const SCAN_SHARE: u64 = 16;

/// How an order is cut into buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    num_rows: u64,
    bucket_rows: u64,
    buffer_bytes: usize,
    /// Rows that a thread decodes at once.
    scan_rows: u64,
}

impl Shape {
    /// The shape for `num_rows` rows of some `row_bytes` within a budget.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the budget is too small.
    pub(super) fn new(
        num_rows: u64,
        row_bytes: u64,
        list_bytes: u64,
        budget: u64,
        threads: usize,
    ) -> Result<Self> {
        let shape = |budget| Self::within(num_rows, row_bytes, list_bytes, budget, threads);
        shape(budget).ok_or_else(|| {
            let (mut least, mut most) = (budget, budget.max(1));
            while shape(most).is_none() && most < u64::MAX / 2 {
                (least, most) = (most, most * 2);
            }
            while most - least > (most / 256).max(1) {
                let middle = least + (most - least) / 2;
                if shape(middle).is_some() { most = middle } else { least = middle }
            }
            let bytes = num_rows.saturating_mul(row_bytes);
            Error::invalid(
                format!("a memory_limit of {budget} bytes to shuffle {bytes} bytes of rows"),
                format!("at least {most}"),
            )
        })
    }

    fn within(
        num_rows: u64,
        row_bytes: u64,
        list_bytes: u64,
        budget: u64,
        threads: usize,
    ) -> Option<Self> {
        // A list takes what it takes, up to half; buckets share the rest.
        let budget =
            budget.checked_sub(list_bytes.checked_mul(2)?).map(|rest| rest + list_bytes)?;
        let record = row_bytes + PLACE_BYTES as u64 + size_of::<usize>() as u64;
        let bucket_rows = (budget / BUCKET_SHARE / record).min(MAX_BUCKET_ROWS);
        let num_buckets = num_rows.checked_div(bucket_rows)? + 1;
        let buffer = budget / BUFFER_SHARE / num_buckets;
        if buffer < MIN_BUFFER && num_buckets > 1 {
            return None;
        }
        let at_once = budget / SCAN_SHARE / threads.max(1) as u64;
        Some(Self {
            num_rows,
            bucket_rows,
            buffer_bytes: usize::try_from(buffer.min(MAX_BUFFER)).unwrap_or(usize::MAX),
            scan_rows: scan_rows(row_bytes, at_once),
        })
    }

    fn num_buckets(&self) -> usize {
        usize::try_from(self.num_rows.div_ceil(self.bucket_rows)).unwrap_or(usize::MAX)
    }

    /// The bucket of a position, and its place in it.
    #[expect(clippy::cast_possible_truncation, reason = "a bucket has fewer than 2^32 rows")]
    fn place(&self, position: u64) -> (usize, u32) {
        let bucket = position / self.bucket_rows;
        (bucket as usize, (position % self.bucket_rows) as u32)
    }

    fn rows_of(&self, bucket: usize) -> Range<u64> {
        let start = bucket as u64 * self.bucket_rows;
        start..self.num_rows.min(start + self.bucket_rows)
    }
}

/// The rows of an order, on their way through scratch files.
#[derive(Debug)]
pub(super) struct External {
    scan: Arc<dyn Scan>,
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
}

/// How far pass 1 is.
#[derive(Debug, Default)]
struct Pass {
    threads: usize,
    is_done: bool,
    error: Option<Error>,
}

/// Where a bucket is put; locked while it is read.
type Slot = Mutex<Option<Arc<Loaded>>>;

/// A bucket in memory.
#[derive(Debug)]
struct Loaded {
    bytes: Vec<u8>,
    /// Where each place's row begins.
    starts: Vec<usize>,
    memory: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        lock(&self.memory).push(std::mem::take(&mut self.bytes));
    }
}

impl Drop for External {
    fn drop(&mut self) {
        self.scratch.take().into_iter().for_each(|scratch| self.pool.put(scratch));
    }
}

impl External {
    /// Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the budget is too small; [`Error::Write`] if there is no room for scratch
    /// files.
    pub(super) fn new(
        scan: Arc<dyn Scan>,
        order: Order,
        row_bytes: u64,
        options: &Options,
        pool: &Arc<Pool>,
    ) -> Result<Self> {
        let packing = Packing::new(scan.schema())?;
        let (budget, threads) = (options.memory_bytes(), options.num_threads());
        let is_listed = !order.is_invertible();
        let pair_bytes = if is_listed { size_of::<(u64, u64)>() as u64 } else { 0 };
        let list_bytes = order.len().saturating_mul(pair_bytes);
        let shape = Shape::new(order.len(), row_bytes, list_bytes, budget, threads)?;
        let listed = is_listed.then(|| sorted(&order)).transpose()?;
        let folder = options.scratch_folder.as_deref().or(options.cache_folder.as_deref());
        Ok(Self {
            buckets: (0..shape.num_buckets()).map(|_| Mutex::default()).collect(),
            bits_set: (0..packing.num_bits()).map(|_| AtomicBool::new(false)).collect(),
            scan,
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

    /// Whether pass 1 is over.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.pass).is_done
    }

    /// Why rows could not be written to scratch files.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.load_full()
    }

    /// Ends what threads are doing for it.
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.passed.notify_all();
    }

    /// Takes part in pass 1 until it is over. Every thread that wants rows does.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Interrupted`].
    pub(super) fn prepare(&self) -> Result<()> {
        lock(&self.pass).threads += 1;
        let result = self.distribute();
        let mut pass = lock(&self.pass);
        pass.threads -= 1;
        if let Err(error) = result {
            pass.error.get_or_insert(error);
        }
        loop {
            if let Some(error) = &pass.error {
                self.passed.notify_all();
                return Err(error.clone());
            }
            if pass.is_done || self.failure.load().is_some() {
                self.passed.notify_all();
                return Ok(());
            }
            if pass.threads == 0 && self.next_offset.load(Ordering::Relaxed) >= self.scan.num_rows()
            {
                if let Err(error) = self.flush() {
                    self.give_up(error);
                }
                pass.is_done = true;
                self.passed.notify_all();
                return Ok(());
            }
            self.check()?;
            let waited = self.passed.wait_timeout(pass, interrupt::PERIOD);
            pass = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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

    fn give_up(&self, error: Error) {
        self.failure.store(Some(Arc::new(error)));
    }

    /// Pass 1, as far as this thread gets.
    fn distribute(&self) -> Result<()> {
        let num_rows = self.scan.num_rows();
        let step = self.shape.scan_rows;
        let mut rows = PackedRows::default();
        let mut places = Vec::new();
        while self.failure.load().is_none() && lock(&self.pass).error.is_none() {
            self.check()?;
            let start = self.next_offset.fetch_add(step, Ordering::Relaxed);
            if start >= num_rows {
                return Ok(());
            }
            let offsets = start..num_rows.min(start + step);
            self.places_of(offsets.clone(), &mut places)?;
            if places.is_empty() {
                continue;
            }
            rows.clear();
            pack_run(self.scan.as_ref(), &self.packing, offsets, step, &mut rows)?;
            self.scan.forget();
            if let Err(error) = self.deal(&rows, &mut places) {
                self.give_up(error);
            }
        }
        Ok(())
    }

    /// Which rows of a run of offsets go where: bucket, place, row of the run.
    fn places_of(&self, offsets: Range<u64>, out: &mut Vec<(usize, u32, usize)>) -> Result<()> {
        out.clear();
        if let Some(listed) = &self.listed {
            let first = listed.partition_point(|&(offset, _)| offset < offsets.start);
            let run = listed[first..].iter().take_while(|(offset, _)| *offset < offsets.end);
            out.extend(run.map(|&(offset, position)| {
                let (bucket, place) = self.shape.place(position);
                (bucket, place, usize::try_from(offset - offsets.start).unwrap_or(usize::MAX))
            }));
            return Ok(());
        }
        let mut positions = Vec::new();
        self.order.positions_of(offsets, &mut positions)?;
        out.extend(positions.into_iter().enumerate().filter(|(_, p)| *p != Order::NOWHERE).map(
            |(row, position)| {
                let (bucket, place) = self.shape.place(position);
                (bucket, place, row)
            },
        ));
        Ok(())
    }

    /// Puts rows into the buffers of their buckets.
    fn deal(&self, rows: &PackedRows, places: &mut [(usize, u32, usize)]) -> Result<()> {
        for (bit, _) in self.bits_set.iter().zip(&rows.bits_set).filter(|(_, is_set)| **is_set) {
            bit.store(true, Ordering::Relaxed);
        }
        places.sort_unstable_by_key(|&(bucket, ..)| bucket);
        let stride = self.packing.stride();
        for run in places.chunk_by(|a, b| a.0 == b.0) {
            let mut bucket = lock(&self.buckets[run[0].0]);
            for &(_, place, row) in run {
                let head = &rows.heads[row * stride..(row + 1) * stride];
                let tail = &rows.tails[self.packing.tail_of(head)];
                let start = bucket.buffer.len();
                bucket.buffer.extend_from_slice(&place.to_le_bytes());
                bucket.buffer.extend_from_slice(head);
                self.packing.set_tail(&mut bucket.buffer[start + PLACE_BYTES..], 0);
                bucket.buffer.extend_from_slice(tail);
                if bucket.buffer.len() >= self.shape.buffer_bytes {
                    self.spill(&mut bucket)?;
                }
            }
        }
        self.rows_spilled.fetch_add(places.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn spill(&self, bucket: &mut Bucket) -> Result<()> {
        let extent = self.scratch().append(&bucket.buffer)?;
        bucket.extents.push(extent);
        bucket.buffer.clear();
        Ok(())
    }

    /// Writes what is left in the buffers, and gives their memory back.
    fn flush(&self) -> Result<()> {
        for bucket in &self.buckets {
            let mut bucket = lock(bucket);
            if !bucket.buffer.is_empty() {
                self.spill(&mut bucket)?;
            }
            bucket.buffer = Vec::new();
        }
        Ok(())
    }

    /// The rows at these positions. Pass 1 is over.
    ///
    /// Positions are asked for in about ascending order: buckets far below are forgotten.
    pub(super) fn gather(&self, positions: Range<u64>) -> Result<RecordBatch> {
        let schema = self.packing.schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let bits_set: Vec<bool> =
            self.bits_set.iter().map(|bit| bit.load(Ordering::Relaxed)).collect();
        let mut parts = Vec::new();
        let mut start = positions.start;
        while start < positions.end {
            let (number, _) = self.shape.place(start);
            let rows = self.shape.rows_of(number);
            let end = positions.end.min(rows.end);
            let loaded = self.load(number)?;
            let heads = self.heads(&loaded, start - rows.start..end - rows.start);
            let columns = self.packing.unpack(&heads, &bits_set, &all)?;
            parts.push(batch(Arc::clone(schema), columns, heads.heads.len())?);
            // The next one is read while this one is served by others.
            let is_past_half = start - rows.start >= (rows.end - rows.start) / 2;
            if is_past_half && number + 1 < self.buckets.len() && !self.is_loading(number + 1) {
                self.load(number + 1)?;
            }
            start = end;
        }
        // One bucket mostly, which is then not copied.
        Ok(gather(schema, &parts, true, &Rows::AsRead)?.batch)
    }

    fn heads<'a>(&self, bucket: &'a Loaded, places: Range<u64>) -> Heads<'a> {
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let stride = self.packing.stride();
        let starts = &bucket.starts[place(places.start)..place(places.end)];
        let mut heads = Heads::with_capacity(starts.len());
        for &start in starts {
            let (head, tail) = bucket.bytes[start..].split_at(stride);
            heads.heads.push(head);
            if self.packing.has_tails() {
                heads.tails.push(tail);
            }
        }
        heads
    }

    fn is_loading(&self, number: usize) -> bool {
        lock(&self.loaded).iter().any(|(at, _)| *at == number)
    }

    fn load(&self, number: usize) -> Result<Arc<Loaded>> {
        let slot = {
            let mut loaded = lock(&self.loaded);
            loaded.retain(|(at, _)| *at + 1 >= number);
            let at = loaded.iter().position(|(at, _)| *at == number).unwrap_or_else(|| {
                loaded.push((number, Arc::default()));
                loaded.len() - 1
            });
            Arc::clone(&loaded[at].1)
        };
        let mut slot = lock(&slot);
        if let Some(loaded) = slot.as_ref() {
            return Ok(Arc::clone(loaded));
        }
        let loaded = Arc::new(self.read_bucket(number)?);
        *slot = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    fn read_bucket(&self, number: usize) -> Result<Loaded> {
        let bucket = lock(&self.buckets[number]);
        let sum = bucket.extents.iter().map(|extent| extent.len).sum();
        let mut bytes = lock(&self.memory).pop().unwrap_or_default();
        bytes.resize(sum, 0);
        let mut at = 0;
        for &extent in &bucket.extents {
            self.check()?;
            self.scratch().read(extent, &mut bytes[at..at + extent.len])?;
            at += extent.len;
        }
        let rows = self.shape.rows_of(number);
        let count = usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX);
        let mut starts = vec![usize::MAX; count];
        let stride = self.packing.stride();
        let mut at = 0;
        while at < bytes.len() {
            let place: [u8; PLACE_BYTES] =
                bytes[at..at + PLACE_BYTES].try_into().expect("four bytes were cut");
            at += PLACE_BYTES;
            starts[u32::from_le_bytes(place) as usize] = at;
            at += stride + self.packing.tail_of(&bytes[at..at + stride]).len();
        }
        match starts.iter().position(|&start| start == usize::MAX) {
            Some(place) => Err(Error::Bug(format!("bucket {number} has no row {place}"))),
            None => Ok(Loaded { bytes, starts, memory: Arc::clone(&self.memory) }),
        }
    }
}

/// Offsets and positions of an order that cannot be inverted, by offset.
fn sorted(order: &Order) -> Result<Vec<(u64, u64)>> {
    let mut pairs = Vec::with_capacity(usize::try_from(order.len()).unwrap_or(0));
    let mut start = 0;
    while start < order.len() {
        let end = order.len().min(start + (1 << 20));
        pairs.extend(order.offsets(start..end)?.into_iter().zip(start..end));
        start = end;
    }
    pairs.sort_unstable();
    Ok(pairs)
}
