//! Batches from packed rows, and from the data files for rows that are not packed yet.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{Field, SchemaRef};

use super::base::Base;
use super::choose::{Choice, Options, Strategy};
use super::cuts::Cuts;
use super::direct::{Direct, Touched};
use super::resident::{Home, Resident, Sizes, block_rows};
use super::scan::Scan;
use super::stats::ReadStats;
use super::weights::Weights;
use super::window::{Form, formed};
use crate::cache::{Cache, Entry, Found};
use crate::error::{Error, Result};
use crate::files::Traffic;
use crate::gather::{Gathered, gather};
use crate::interrupt;
use crate::matrix;
use crate::packed::Packing;
use crate::plan::Rows;
use crate::projection::{batch, by_name};
use crate::runtime::{self, PerProcess, lock};
use crate::stages::{Stage, measure};
use crate::table::Table;

/// Packed rows of tables that are open in this process, by table, columns and folder: readers of the
/// same columns share them.
static OPEN: PerProcess<Mutex<HashMap<String, Weak<Resident>>>> = PerProcess::new();

/// How long everything else waits for the first batch.
const FIRST_READ: Duration = Duration::from_millis(300);
/// The same where rows come from another machine: requests are answered in the order in which they are
/// made, and what both need would be fetched twice.
const FIRST_READ_FAR: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(1);
/// Packing begins once no more than one in `SLOWEST` of the requests is in flight.
const SLOWEST: u64 = 4;
/// How often that is looked at.
const SHORT_WHILE: Duration = Duration::from_millis(5);

/// Reads a projection from packed rows.
#[derive(Debug)]
pub(super) struct PackedReader {
    resident: Arc<Resident>,
    /// Which of the packed columns are read.
    wanted: Vec<usize>,
    /// Of these columns; they may be wider than what is read where rows were packed for others.
    schema: SchemaRef,
    /// Threads that fill.
    threads: usize,
    /// Whether a user wants all rows to be kept.
    is_asked_for: bool,
    /// The packed columns that a matrix of what is read is made of, if it can be made of those alone.
    matrix: Option<Vec<usize>>,
    /// The process that asked for a first batch, or 0, and whether it was read. It should not wait for
    /// anything, and nothing should take its processors away; if all rows only need to be mapped there is
    /// none.
    first_taken_by: AtomicU32,
    is_first_read: AtomicBool,
}

impl PackedReader {
    /// Returns the packed rows for what `base` reads. Nothing is read yet.
    pub(super) fn open(
        base: &Base,
        choice: &Choice,
        weights: &Arc<Weights>,
        options: &Options,
    ) -> Result<Self> {
        let scan = base.scan();
        let schema = Arc::clone(scan.schema());
        let is_asked_for = options.strategy == Some(Strategy::Resident);
        let sizes = Sizes {
            row_bytes: choice.row_bytes,
            weights: Arc::clone(weights),
            block_rows: block_rows(choice.row_bytes, weights, choice.num_rows),
            limit: choice.memory_bytes,
            limits_files: !is_asked_for || options.is_limited(),
            set_limit: options.set_limit(),
        };
        let (resident, is_warm) = match base {
            Base::Memory(_) => {
                let packing = Packing::new(&schema)?;
                (Arc::new(Resident::new(scan, packing, sizes, None)), false)
            }
            Base::Direct(direct) => open_shared(direct, choice, sizes, options)?,
        };
        let wanted = numbers_of(resident.packing().schema(), &schema)?;
        let packed = resident.packing().schema();
        let schema = packed
            .project(&wanted)
            .map_err(|error| Error::bug("packed columns").caused_by(&error))?;
        let matrix = base.projection().columns().and_then(|names| {
            let known = by_name(packed);
            names.into_iter().map(|name| known.get(name).copied()).collect()
        });
        Ok(Self {
            resident,
            wanted,
            schema: Arc::new(schema),
            threads: options.num_threads(base.scan().is_remote()),
            is_asked_for,
            matrix,
            first_taken_by: AtomicU32::new(if is_warm { std::process::id() } else { 0 }),
            is_first_read: AtomicBool::new(is_warm),
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.resident.is_complete()
    }

    /// Notes that a reader begins: rows that could not be shared before may be shared now.
    pub(super) fn begin(&self) -> Result<()> {
        self.resident.share()
    }

    pub(super) fn stats(&self) -> ReadStats {
        let counters = &self.resident.counters;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        ReadStats {
            rows_packed: of(&counters.rows_packed),
            rows_direct: of(&counters.rows_direct),
            rows_spilled: 0,
            blocks_filled: of(&counters.blocks_filled),
            blocks_mapped: of(&counters.blocks_mapped),
            bytes_kept: self.resident.kept_bytes(),
            fill_nanos: of(&counters.fill_nanos),
            traffic: Traffic::default(),
            is_shared: self.resident.is_shared(),
            failure: self.resident.failure().map(|error| error.to_string()),
            copy_failure: None,
        }
    }

    pub(super) fn take_window(
        &self,
        base: &Base,
        offsets: &[u64],
        cuts: Cuts<'_>,
        form: Form,
    ) -> Result<Vec<Gathered>> {
        let num_rows = base.scan().num_rows();
        if let Some(&offset) = offsets.iter().find(|&&offset| offset >= num_rows) {
            return Err(Error::OutOfRange { offset, num_rows });
        }
        if !self.resident.is_complete() {
            let process = std::process::id();
            let before = self.first_taken_by.compare_exchange(
                0,
                process,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if before.is_ok() {
                let first = self.first(base, offsets, cuts);
                self.is_first_read.store(true, Ordering::Relaxed);
                self.resident.fill(self.threads)?;
                if let Some(first) = first? {
                    return formed(base.projection(), first, form);
                }
            }
            let most = if base.scan().is_remote() { FIRST_READ_FAR } else { FIRST_READ };
            let start = Instant::now();
            // In a forked process nobody reads what its parent was about to.
            while before == Err(process)
                && !self.is_first_read.load(Ordering::Relaxed)
                && start.elapsed() < most
            {
                interrupt::check()?;
                std::thread::sleep(PAUSE);
            }
            // Also after a fork, which threads do not survive.
            self.resident.fill(self.threads)?;
            self.resident.wait()?;
            if self.is_asked_for
                && let Some(failure) = self.resident.failure()
                && matches!(*failure, Error::Invalid { .. })
            {
                return Err(Error::clone(&failure));
            }
        }
        if let Some(columns) = self.matrix.as_ref().filter(|_| form.is_matrix)
            && let Some(matrices) = self.matrices(base, offsets, cuts, columns)?
        {
            return Ok(matrices);
        }
        let packed = |range: Range<usize>| -> Result<Option<Gathered>> {
            interrupt::check()?;
            let offsets = &offsets[range];
            let columns = measure(Stage::Gather, || self.resident.gather(offsets, &self.wanted))
                .transpose()?;
            columns.map(|columns| self.finish(base, offsets, columns)).transpose()
        };
        let mut batches = Vec::new();
        for range in cuts.ranges(offsets.len()) {
            let Some(gathered) = packed(range)? else {
                let mixed = self.mixed(base, offsets, cuts)?;
                return formed(base.projection(), mixed, form);
            };
            batches.push(gathered);
        }
        self.count_packed(offsets.len());
        formed(base.projection(), batches, form)
    }

    /// Returns matrices straight from packed rows; `None` if the columns do not allow it, or rows are
    /// missing.
    fn matrices(
        &self,
        base: &Base,
        offsets: &[u64],
        cuts: Cuts<'_>,
        columns: &[usize],
    ) -> Result<Option<Vec<Gathered>>> {
        let mut matrices = Vec::new();
        for range in cuts.ranges(offsets.len()) {
            interrupt::check()?;
            let offsets = &offsets[range];
            let gathered = || self.resident.gather_matrix(offsets, columns);
            let Some(values) = measure(Stage::Gather, gathered) else {
                return Ok(None);
            };
            let batch = matrix::from_values(base.projection().schema(), values, offsets.len())?;
            matrices.push(Gathered { batch, is_owned: true });
        }
        self.count_packed(offsets.len());
        Ok(Some(matrices))
    }

    /// Counts rows that are handed out, and not those of windows that turned out to lack some.
    fn count_packed(&self, rows: usize) {
        self.resident.counters.rows_packed.fetch_add(rows as u64, Ordering::Relaxed);
    }

    fn finish(
        &self,
        base: &Base,
        offsets: &[u64],
        columns: Vec<arrow_array::ArrayRef>,
    ) -> Result<Gathered> {
        let read = batch(Arc::clone(&self.schema), columns, offsets.len())?;
        Ok(Gathered { batch: base.assemble(&read, offsets)?, is_owned: true })
    }

    /// Reads the first rows that are wanted; `None` if they should wait for all rows to be packed.
    ///
    /// On another machine, that is so where these rows alone touch most pages of the table. Where they
    /// touch few, packing begins while the slowest of their requests are waited for.
    fn first(&self, base: &Base, offsets: &[u64], cuts: Cuts<'_>) -> Result<Option<Vec<Gathered>>> {
        let is_begun = self.resident.has(offsets).into_iter().any(|is_there| is_there);
        let Base::Direct(direct) = base else {
            return self.mixed(base, offsets, cuts).map(Some);
        };
        let touched = if is_begun { Touched::Some } else { direct.touched_by(offsets.len())? };
        match touched {
            // Processes of a node share what they pack, or else the copies of files.
            Touched::Most if self.resident.is_shared() || !direct.fetch_all()? => return Ok(None),
            Touched::Few => {
                let (resident, threads) = (Arc::downgrade(&self.resident), self.threads);
                let table = Arc::clone(direct.table());
                let fill = move || fill_when_idle(&resident, threads, &table);
                let first = direct.take_window_then(offsets, cuts, Some(Box::new(fill)))?;
                let counter = &self.resident.counters.rows_direct;
                counter.fetch_add(offsets.len() as u64, Ordering::Relaxed);
                return Ok(Some(first));
            }
            Touched::Some | Touched::Most => {}
        }
        self.mixed(base, offsets, cuts).map(Some)
    }

    /// Gathers some rows from memory and reads the others from the files.
    fn mixed(&self, base: &Base, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        let is_there = self.resident.has(offsets);
        let pick = |there: bool| -> Vec<u64> {
            let kept = offsets.iter().zip(&is_there).filter(|(_, is)| **is == there);
            kept.map(|(&offset, _)| offset).collect()
        };
        let (kept, missing) = (pick(true), pick(false));
        let counter = &self.resident.counters.rows_direct;
        counter.fetch_add(missing.len() as u64, Ordering::Relaxed);
        let direct = base.take_window(&missing, Cuts::Every(missing.len().max(1)))?;
        let packed = match self.resident.gather(&kept, &self.wanted) {
            Some(columns) => self.finish(base, &kept, columns?)?,
            None => return Err(Error::bug("packed rows went away")),
        };
        self.count_packed(kept.len());
        let blocks: Vec<RecordBatch> =
            [packed].into_iter().chain(direct).map(|gathered| gathered.batch).collect();
        let mut next = [0, 0];
        let place = |&there: &bool| {
            let block = usize::from(!there);
            next[block] += 1;
            (block, next[block] - 1)
        };
        let places: Vec<(usize, usize)> = is_there.iter().map(place).collect();
        let schema = base.projection().schema();
        let cut = |range: Range<usize>| {
            gather(schema, &blocks, true, &Rows::Picked(places[range].to_vec()))
        };
        cuts.ranges(offsets.len()).map(cut).collect()
    }
}

/// Begins to fill rows, in the background, once most of the requests in flight were answered: the store would
/// be idle while the slowest ones are waited for. Otherwise rows are filled after the first batch.
fn fill_when_idle(resident: &Weak<Resident>, threads: usize, table: &Arc<Table>) {
    let (resident, table) = (Weak::clone(resident), Arc::clone(table));
    let wait = move || {
        let (start, mut most) = (Instant::now(), 0);
        while start.elapsed() < FIRST_READ_FAR {
            // By then all of them are in flight.
            std::thread::sleep(SHORT_WHILE);
            let now = table.in_flight();
            most = most.max(now);
            if now <= most / SLOWEST {
                break;
            }
        }
        if let Some(resident) = resident.upgrade() {
            drop(resident.fill(threads));
        }
    };
    drop(runtime::spawn("lanceloader-fill", wait));
}

/// Returns the packed rows of a table, which other readers may share, and whether all of them are in
/// files already.
fn open_shared(
    direct: &Arc<Direct>,
    choice: &Choice,
    sizes: Sizes,
    options: &Options,
) -> Result<(Arc<Resident>, bool)> {
    let table = direct.table();
    let identity = table.identity();
    let folder = options.cache_folder.as_deref().filter(|_| choice.is_worth_a_file());
    let paths = paths_of(direct);
    let share = options.memory_limit.map(|_| options.memory_bytes());
    let key = format!("{identity} {paths:?} {folder:?} {share:?}");
    let open = OPEN.get_or_make(|| Ok(Mutex::default()))?;
    if let Some(resident) = lock(&open).get(&key).and_then(Weak::upgrade) {
        resident.share()?;
        return Ok((resident, false));
    }
    let (resident, is_warm) = open_rows(direct, choice, sizes, options, &identity, paths, folder)?;
    let resident = Arc::new(resident);
    let mut open = lock(&open);
    open.retain(|_, resident| resident.strong_count() > 0);
    if let Some(other) = open.get(&key).and_then(Weak::upgrade) {
        return Ok((other, false));
    }
    open.insert(key, Arc::downgrade(&resident));
    Ok((resident, is_warm))
}

fn open_rows(
    direct: &Arc<Direct>,
    choice: &Choice,
    sizes: Sizes,
    options: &Options,
    identity: &str,
    paths: Vec<Vec<String>>,
    folder: Option<&Path>,
) -> Result<(Resident, bool)> {
    let packing = Packing::new(direct.columns().schema())?;
    let rows = sizes.block_rows;
    let ours = Found::new(paths, choice.num_rows, rows, packing.stride(), packing.signature());
    let Some(folder) = folder else {
        let scan = Arc::clone(direct) as _;
        return Ok((Resident::new(scan, packing, sizes, None), false));
    };
    let home = |found: Found, needed: u64| {
        let cache = Cache::new(folder, options.cache_limit);
        Some(Home { cache, table: identity.to_string(), found, needed })
    };
    // Rows that hold these columns among others do as well, if they are there already.
    if let Some(found) =
        Entry::find(folder, identity, |found| includes(found, ours.num_rows, &ours.columns))
        && found != ours
        && let Ok(wider) = reader_of(direct.table(), &found.columns)
        && let Ok(packing) = Packing::new(wider.columns().schema())
        && packing.signature() == found.signature
    {
        let scan = Arc::new(wider);
        let weights = Arc::new(scan.weights()?);
        let (wider, home) =
            (Sizes { block_rows: found.block_rows, weights, ..sizes.clone() }, home(found, 0));
        let resident = Resident::new(scan, packing, wider, home);
        // The wider rows are of no use if they are not shared, for example because they exceed the limit.
        if resident.is_shared() {
            return Ok((resident, true));
        }
    }
    let is_warm = Entry::find(folder, identity, |found| *found == ours).is_some();
    let needed = if is_warm { 0 } else { choice.packed_bytes() };
    let scan = Arc::clone(direct) as _;
    let resident = Resident::new(scan, packing, sizes, home(ours, needed));
    let is_warm = is_warm && resident.is_shared();
    Ok((resident, is_warm))
}

/// Returns whether all rows of the columns are in files of the cache folder already, packed.
pub(super) fn is_packed(direct: &Direct, options: &Options) -> bool {
    let (num_rows, paths) = (direct.table().layout().num_rows(), paths_of(direct));
    options.cache_folder.as_deref().is_some_and(|folder| {
        let identity = direct.table().identity();
        Entry::find(folder, &identity, |found| includes(found, num_rows, &paths)).is_some()
    })
}

/// Returns whether packed rows hold these columns, among others.
fn includes(found: &Found, num_rows: u64, paths: &[Vec<String>]) -> bool {
    let has = |path: &Vec<String>| found.columns.iter().any(|part| path.starts_with(part));
    found.num_rows == num_rows && paths.iter().all(has)
}

/// Returns the paths of the columns that are read.
fn paths_of(direct: &Direct) -> Vec<Vec<String>> {
    direct.projection().paths().into_iter().map(<[String]>::to_vec).collect()
}

fn reader_of(table: &Arc<Table>, paths: &[Vec<String>]) -> Result<Direct> {
    let names: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
    let columns: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    Direct::new(Arc::clone(table), table.projection(&columns)?, None)
}

/// Returns the numbers of the columns of `packed` that `wanted` names.
fn numbers_of(packed: &SchemaRef, wanted: &SchemaRef) -> Result<Vec<usize>> {
    let known = by_name(packed);
    let number = |field: &Arc<Field>| {
        let missing = || Error::bug(format!("column {} is not packed", field.name()));
        known.get(field.name().as_str()).copied().ok_or_else(missing)
    };
    wanted.fields().iter().map(number).collect()
}
