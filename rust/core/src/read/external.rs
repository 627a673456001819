//! An exact shuffle of more rows than fit in memory, in two passes and without random access.
//!
//! Pass 1 scans the table in storage order. Each row's position is known from its offset, as an order
//! can be inverted; the packed row goes to the *bucket* of that run of positions, through a buffer, to
//! a scratch file. Pass 2 reads one bucket after another and serves its rows in the order of their
//! positions. Memory is that of some buckets and of a buffer for each. Long rows stay in the file until
//! they are served: however they are spread over buckets, these take no more than planned. (J. Vitter and E. Shriver,
//! "Algorithms for Parallel Memory I: Two-Level Memories", 1994, permute so by distribution.)

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use arrow_array::RecordBatch;

use super::batch;
use super::choose::Options;
use super::resident::{Scan, scan_at_once, scan_rows};
use super::scratch::{Extent, Pool, Scratch};
use super::weights::Weights;
use crate::address_space;
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
/// Rows longer than this are not read with their bucket, but when they are served.
const LONG_BYTES: usize = 64 << 10;
/// A bucket that is larger than planned by more than this is not read whole: an order that is no shuffle
/// may put the longer rows side by side.
const SPARE_BYTES: usize = 32 << 20;
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
    bucket_bytes: usize,
    buffer_bytes: usize,
    /// Rows and bytes that a thread decodes at once.
    scan_rows: u64,
    scan_bytes: u64,
}

impl Shape {
    /// The shape for `num_rows` rows of some `row_bytes` within a budget.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the budget is too small, [`Error::Memory`] if nobody set it.
    pub(super) fn new(
        num_rows: u64,
        row_bytes: u64,
        list_bytes: u64,
        (budget, is_set): (u64, bool),
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
            if !is_set {
                return Error::Memory(format!(
                    "no memory to shuffle {bytes} bytes of rows, as {budget} may be used of what is free: \
                     memory_limit={most} allows it"
                ));
            }
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
        let record =
            row_bytes.min(LONG_BYTES as u64) + PLACE_BYTES as u64 + size_of::<usize>() as u64;
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
            bucket_bytes: usize::try_from(budget / BUCKET_SHARE).unwrap_or(usize::MAX),
            buffer_bytes: usize::try_from(buffer.min(MAX_BUFFER)).unwrap_or(usize::MAX),
            scan_rows: scan_rows(row_bytes, at_once),
            scan_bytes: at_once,
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

/// How far pass 1 is.
#[derive(Debug, Default)]
struct Pass {
    threads: usize,
    is_done: bool,
    error: Option<Error>,
}

/// What one thread does of pass 1. Others wait for its end, also if it panics.
struct Part<'a>(&'a Mutex<Pass>, &'a Condvar);

impl<'a> Part<'a> {
    fn of(pass: &'a Mutex<Pass>, passed: &'a Condvar) -> Self {
        lock(pass).threads += 1;
        Self(pass, passed)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut pass = lock(self.0);
        pass.threads -= 1;
        if std::thread::panicking() {
            let error = Error::Bug("a thread that wrote rows to scratch files panicked".into());
            pass.error.get_or_insert(error);
        }
        self.1.notify_all();
    }
}

/// Where a bucket is put; locked while it is read.
type Slot = Mutex<Option<Arc<Loaded>>>;

/// Instead of where a row begins.
const NOT_HERE: usize = usize::MAX;

/// A bucket in memory.
#[derive(Debug)]
struct Loaded {
    bytes: Vec<u8>,
    /// Where each place's row begins, or [`NOT_HERE`].
    starts: Vec<usize>,
    /// Places whose rows are still in the file.
    far: HashMap<u32, Extent>,
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
        (row_bytes, weights): (u64, Arc<Weights>),
        options: &Options,
        pool: &Arc<Pool>,
    ) -> Result<Self> {
        let packing = Packing::new(scan.schema())?;
        let (budget, threads) = (options.memory_bytes(), options.reading_threads());
        let is_listed = !order.is_invertible();
        let pair_bytes = if is_listed { size_of::<(u64, u64)>() as u64 } else { 0 };
        let list_bytes = order.len().saturating_mul(pair_bytes);
        let is_set = options.memory_limit.is_some();
        let shape = Shape::new(order.len(), row_bytes, list_bytes, (budget, is_set), threads)?;
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
        let part = Part::of(&self.pass, &self.passed);
        let result = self.distribute();
        if let Err(error) = result {
            lock(&self.pass).error.get_or_insert(error);
        }
        drop(part);
        let mut pass = lock(&self.pass);
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
            let end = num_rows.min(start + step);
            let mut start = start;
            while start < end && self.failure.load().is_none() {
                let run = scan_at_once(&self.weights, start..end, step, self.shape.scan_bytes);
                start = run.end;
                self.places_of(run.clone(), &mut places)?;
                if places.is_empty() {
                    continue;
                }
                self.check()?;
                let most = (LONG_BYTES as u64).max(2 * self.shape.scan_bytes);
                if rows.num_bytes() as u64 > most {
                    // As much will not be wanted again soon.
                    rows = PackedRows::default();
                }
                rows.clear();
                for batch in self.scan.scan(run)? {
                    self.packing.pack(&batch, &mut rows)?;
                }
                self.scan.forget();
                if let Err(error) = self.deal(&rows, &mut places) {
                    self.give_up(error);
                }
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
                let record = PLACE_BYTES + stride + tail.len();
                if record > LONG_BYTES {
                    let mut head = head.to_vec();
                    self.packing.set_tail(&mut head, 0);
                    let extent = self.scratch().append_parts(&[&head, tail])?;
                    bucket.long.push((place, extent));
                    continue;
                }
                if bucket.buffer.len() + record > self.shape.buffer_bytes {
                    self.spill(&mut bucket)?;
                }
                let most = record.max(self.shape.buffer_bytes);
                if bucket.buffer.capacity() < record {
                    reserve(&mut bucket.buffer, most)?;
                }
                let start = bucket.buffer.len();
                bucket.buffer.extend_from_slice(&place.to_le_bytes());
                bucket.buffer.extend_from_slice(head);
                self.packing.set_tail(&mut bucket.buffer[start + PLACE_BYTES..], 0);
                bucket.buffer.extend_from_slice(tail);
            }
        }
        self.rows_spilled.fetch_add(places.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn spill(&self, bucket: &mut Bucket) -> Result<()> {
        if bucket.buffer.is_empty() {
            return Ok(());
        }
        let extent = self.scratch().append(&bucket.buffer)?;
        bucket.extents.push(extent);
        bucket.buffer.clear();
        Ok(())
    }

    /// Writes what is left in the buffers, and gives their memory back.
    fn flush(&self) -> Result<()> {
        for bucket in &self.buckets {
            let mut bucket = lock(bucket);
            self.spill(&mut bucket)?;
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
            let places = start - rows.start..end - rows.start;
            let far = self.read_far(&loaded, places.clone())?;
            let heads = self.heads(&loaded, &far, places);
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

    /// The rows at these places that are still in the file, one after another.
    fn read_far(&self, bucket: &Loaded, places: Range<u64>) -> Result<Vec<Vec<u8>>> {
        if bucket.far.is_empty() {
            return Ok(Vec::new());
        }
        let places = places.filter_map(|place| bucket.far.get(&u32::try_from(place).ok()?));
        places
            .map(|&extent| {
                self.check()?;
                let mut row = Vec::new();
                reserve(&mut row, extent.len)?;
                row.resize(extent.len, 0);
                self.scratch().read(extent, &mut row)?;
                Ok(row)
            })
            .collect()
    }

    fn heads<'a>(&self, bucket: &'a Loaded, far: &'a [Vec<u8>], places: Range<u64>) -> Heads<'a> {
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let stride = self.packing.stride();
        let starts = &bucket.starts[place(places.start)..place(places.end)];
        let mut heads = Heads::with_capacity(starts.len());
        let mut far = far.iter();
        for &start in starts {
            let row = match start {
                NOT_HERE => far.next().expect("a row is in memory or in the file"),
                start => &bucket.bytes[start..],
            };
            let (head, tail) = row.split_at(stride);
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
        let sum: usize = bucket.extents.iter().map(|extent| extent.len).sum();
        let is_here = sum <= self.shape.bucket_bytes.saturating_add(SPARE_BYTES);
        let rows = self.shape.rows_of(number);
        let count = usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX);
        let mut bytes = lock(&self.memory).pop().unwrap_or_default();
        bytes.clear();
        if is_here {
            reserve(&mut bytes, sum)?;
        }
        let mut starts = vec![NOT_HERE; count];
        let mut far: HashMap<u32, Extent> = bucket.long.iter().copied().collect();
        for &extent in &bucket.extents {
            self.check()?;
            if !is_here {
                bytes.clear();
                reserve(&mut bytes, extent.len)?;
            }
            let first = bytes.len();
            bytes.resize(first + extent.len, 0);
            self.scratch().read(extent, &mut bytes[first..])?;
            for (place, row) in self.records(&bytes[first..]) {
                if is_here {
                    starts[place as usize] = first + row.start;
                } else {
                    let start = extent.start + row.start as u64;
                    far.insert(place, Extent { start, len: row.len() });
                }
            }
        }
        let found = starts.iter().filter(|&&start| start != NOT_HERE).count() + far.len();
        if found != count {
            return Err(Error::Bug(format!("bucket {number} has {found} rows of {count}")));
        }
        Ok(Loaded { bytes, starts, far, memory: Arc::clone(&self.memory) })
    }

    /// The place of each row of an extent, and where the row is.
    fn records<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (u32, Range<usize>)> + 'a {
        let stride = self.packing.stride();
        let mut at = 0;
        std::iter::from_fn(move || {
            let place = bytes.get(at..at + PLACE_BYTES)?;
            let start = at + PLACE_BYTES;
            at = start + stride + self.packing.tail_of(&bytes[start..start + stride]).len();
            let place = u32::from_le_bytes(place.try_into().expect("four bytes were cut"));
            Some((place, start..at))
        })
    }
}

/// Makes room for so many bytes in all.
fn reserve(bytes: &mut Vec<u8>, len: usize) -> Result<()> {
    let more = len.saturating_sub(bytes.len());
    let failed = |_| address_space::failed("rows in scratch files", len as u64);
    bytes.try_reserve_exact(more).map_err(failed)
}

/// Offsets and positions of an order that cannot be inverted, by offset.
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
