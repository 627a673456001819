//! Reads the data files of a Lance table, a window of offsets at a time.
//!
//! Nothing is kept between windows but open files and where their columns are, and of these no more
//! than the limits of a process. Local files are decoded on the caller's thread, straight from their
//! mapping; for remote files all requests of a window are under way before the first one is decoded,
//! and the caller's thread only waits, so that it can be interrupted.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::admission::{Admission, admit};
use super::cuts::Cuts;
use super::scan::Scan;
use super::weights::{self, Weights};
use super::window::{Blocks, cut};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::files::{Ahead, SINGLE_BYTES, copy_parts};
use crate::gather::Gathered;
use crate::plan::{Plan, Read, Rows, plan, plan_run};
use crate::projection::{Projection, Source, batch};
use crate::runtime;
use crate::stages::{Stage, measure};
use crate::table::{
    ALL_COPIED, Block, Columns, FragmentReader, Pending, Table, least_apart, remote_files_at_once,
};

/// Fragments that are asked how long their rows are, at most: each may have to be opened.
const LOOKED_AT: usize = 8;

/// Fragments of local files whose rows are asked for before the first are decoded.
const ASKED_AT_ONCE: usize = 32;
/// What takes longer has waited for another machine, or a disk.
const A_WAIT: Duration = Duration::from_millis(1);
/// Threads that wait at once for what files say of their pages.
const ASKED_TOGETHER: usize = 128;

/// The most bytes of what files say of their pages that are asked for ahead.
const MAX_INDEX_BYTES: u64 = 32 << 20;

/// Rows that touch less than this fraction (one in `FEW`) of a table may be fetched twice.
const FEW: u128 = 32;

/// What is done once rows are asked for.
pub(super) type Then = Box<dyn FnOnce() + Send>;

/// How many of the bytes of a table on another machine some rows touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touched {
    Few,
    /// Neither few nor most, or unknown, as for rows on this machine. What would be most is so too if the copies
    /// on a local disk seem to have all of it.
    Some,
    Most,
}

/// Reads a projection of a Lance table.
#[derive(Debug)]
pub(super) struct Direct {
    table: Arc<Table>,
    projection: Projection,
    columns: Columns,
    weights: OnceLock<Weights>,
}

impl Direct {
    /// Returns a reader that keeps what it fetches from another machine in `copies`.
    pub(super) fn new(
        table: Arc<Table>,
        projection: Projection,
        copies: Option<Cache>,
    ) -> Result<Self> {
        let columns = table.columns(&projection, copies)?;
        Ok(Self { table, projection, columns, weights: OnceLock::new() })
    }

    pub(super) fn take_window(&self, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        self.take_window_then(offsets, cuts, None)
    }

    /// As [`Self::take_window`], and calls `then` once remote rows are requested, of the first files if not
    /// all may be open.
    pub(super) fn take_window_then(
        &self,
        offsets: &[u64],
        cuts: Cuts<'_>,
        then: Option<Then>,
    ) -> Result<Vec<Gathered>> {
        let layout = self.table.layout();
        let Plan { reads, rows } = measure(Stage::Plan, || match run_of(offsets) {
            Some(run) => Ok(Plan { reads: plan_run(layout, run)?, rows: Rows::AsRead }),
            None => plan(layout, offsets),
        })?;
        let _admission = self.admit(|weights| weights.of_rows(offsets))?;
        let schema = self.columns.schema();
        let read = if schema.fields().is_empty() {
            let counted = |read: &Read| {
                let rows = batch(Arc::clone(schema), Vec::new(), read.num_rows)?;
                Ok(Block { rows, long: Vec::new(), is_owned: true })
            };
            reads.iter().map(counted).collect::<Result<Vec<_>>>()?
        } else {
            let least_apart = match rows {
                Rows::Picked(_) => least_apart(reads.len()),
                Rows::AsRead => ALL_COPIED,
            };
            let read = measure(Stage::Read, || self.read(reads, true, least_apart, then));
            read.map_err(|error| self.table.changed(error))?
        };
        let are_owned = read.iter().all(|block| block.is_owned);
        let (blocks, long): (Vec<_>, Vec<_>) =
            read.into_iter().map(|Block { rows, long, .. }| (rows, long)).unzip();
        let blocks = Blocks { schema, rows: &blocks, long: &long, are_owned };
        let cut = cut(&blocks, rows, offsets, cuts, &self.projection, |source, offsets| {
            self.system(source, offsets)
        });
        cut.map_err(|error| self.table.changed(error))
    }

    /// Returns the columns that are read, as blocks have them.
    pub(super) fn columns(&self) -> &Columns {
        &self.columns
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub(super) fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Returns the ids or addresses of rows.
    pub(super) fn system(&self, source: &Source, offsets: &[u64]) -> Result<Vec<u64>> {
        match source {
            Source::RowId => self.table.row_ids(offsets),
            Source::RowAddress => {
                let addresses = self.table.layout().addresses(offsets)?;
                Ok(addresses.into_iter().map(|address| address.0).collect())
            }
            other => Err(Error::bug(format!("{other:?} is not kept by the table"))),
        }
    }

    /// Returns the bytes that files hold of each column that is read, of all rows. One fragment is looked
    /// at; the others are taken to be like it.
    pub(super) fn stored_bytes(&self) -> Result<Vec<u64>> {
        let shares = self.shares();
        let Some(index) = looked_at(&shares).into_iter().find(|&index| shares[index] > 0) else {
            return Ok(Vec::new());
        };
        let reader = self.table.fragment(index, &self.columns);
        let reader = reader.map_err(|error| self.table.changed(error))?;
        let all: u128 = shares.iter().copied().map(u128::from).sum();
        let bytes_of = |pages: &Vec<(u64, u64)>| {
            let bytes: u128 = pages.iter().map(|(_, bytes)| u128::from(*bytes)).sum();
            u64::try_from(bytes * all / u128::from(shares[index])).unwrap_or(u64::MAX)
        };
        Ok(reader.pages().iter().map(bytes_of).collect())
    }

    /// Returns what each fragment has of the table: the bytes of its files, or its rows if an old writer
    /// did not say how many bytes they have.
    fn shares(&self) -> Vec<u64> {
        let fragments = self.table.layout().fragments();
        let bytes = (0..fragments.len()).map(|index| self.table.bytes_of_fragment(index));
        bytes.collect::<Option<_>>().unwrap_or_else(|| {
            fragments.iter().map(|fragment| fragment.num_places.into()).collect()
        })
    }

    /// Returns how many of the bytes of a table on another machine `count` rows at random would touch.
    pub(super) fn touched_by(&self, count: usize) -> Result<Touched> {
        let layout = self.table.layout();
        // Otherwise fragments would be opened that these rows do not need.
        let are_all_needed = layout.fragments().len() <= (count / 2).min(remote_files_at_once());
        if !are_all_needed || !self.table.is_remote(&self.columns)? {
            return Ok(Touched::Some);
        }
        let readers = self.all_fragments()?;
        let (mut touched, mut stored) = (0_u128, 0_u128);
        for (reader, fragment) in readers.iter().zip(layout.fragments()) {
            let share = count as u128 * u128::from(fragment.num_rows());
            let most = share * u128::from(SINGLE_BYTES) / u128::from(layout.num_rows().max(1));
            for pages in reader.pages() {
                let bytes = pages.iter().map(|(_, bytes)| u128::from(*bytes)).sum::<u128>();
                touched += bytes.min(most);
                stored += bytes;
            }
        }
        Ok(match touched {
            touched if 2 * touched >= stored => {
                let is_here = readers.iter().all(FragmentReader::seems_copied);
                if is_here { Touched::Some } else { Touched::Most }
            }
            touched if FEW * touched <= stored => Touched::Few,
            _ => Touched::Some,
        })
    }

    /// Adds all rows to the copies on a local disk, in order and by few requests, and says whether there
    /// was room for them.
    pub(super) fn fetch_all(&self) -> Result<bool> {
        let files = self.all_fragments()?.iter().flat_map(FragmentReader::far_pages).collect();
        runtime::wait(copy_parts(files)).map_err(|error| self.table.changed(error))
    }

    /// Returns the bytes of all files, `None` if an old writer did not say how many they are.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        let fragments = self.table.layout().fragments();
        (0..fragments.len()).map(|index| self.table.bytes_of_fragment(index)).sum()
    }

    /// Returns the readers of all fragments.
    fn all_fragments(&self) -> Result<Vec<FragmentReader>> {
        let indexes: Vec<usize> = (0..self.table.layout().fragments().len()).collect();
        let readers = self.table.fragments(&indexes, &self.columns);
        readers.map_err(|error| self.table.changed(error))
    }

    /// Fetches all rows if `count` random rows would touch most of them.
    pub(super) fn fetch_if_scattered(&self, count: usize) -> Result<()> {
        if self.touched_by(count)? == Touched::Most {
            self.fetch_all()?;
        }
        Ok(())
    }

    /// Waits until there is room for rows that have so many bytes.
    fn admit(&self, bytes: impl FnOnce(&Weights) -> u64) -> Result<Admission> {
        admit("rows", || {
            let weights = if let Some(known) = self.weights.get() {
                known
            } else {
                let found = Weights::of_scan(self)?;
                self.weights.get_or_init(|| found)
            };
            Ok(weights.at_most(bytes(weights)))
        })
    }

    /// Reads rows whose values are all copied.
    fn read_rows(&self, reads: Vec<Read>, keeps: bool) -> Result<Vec<RecordBatch>> {
        let blocks = self.read(reads, keeps, ALL_COPIED, None);
        let blocks = blocks.map_err(|error| self.table.changed(error))?;
        Ok(blocks.into_iter().map(|block| block.rows).collect())
    }

    fn read(
        &self,
        reads: Vec<Read>,
        keeps: bool,
        least_apart: usize,
        then: Option<Then>,
    ) -> Result<Vec<Block>> {
        if self.table.is_remote(&self.columns)? {
            return self.read_remote(&reads, keeps, least_apart, then);
        }
        let mut blocks = Vec::with_capacity(reads.len());
        // Some at a time: there may be more mapped files than a process can have open.
        for reads in reads.chunks(ASKED_AT_ONCE) {
            let open = |read: &Read| self.table.fragment(read.fragment, &self.columns);
            let readers = reads.iter().map(open).collect::<Result<Vec<_>>>()?;
            let decoded = if readers.iter().any(FragmentReader::is_remote) {
                let reads = reads.to_vec();
                runtime::blocking(move || decode_all(&readers, &reads, keeps, least_apart, None))?
            } else {
                decode_all(&readers, reads, keeps, least_apart, None)?
            };
            blocks.extend(decoded);
        }
        Ok(blocks)
    }

    fn read_remote(
        &self,
        reads: &[Read],
        keeps: bool,
        least_apart: usize,
        mut then: Option<Then>,
    ) -> Result<Vec<Block>> {
        let mut blocks = Vec::with_capacity(reads.len());
        for reads in reads.chunks(remote_files_at_once()) {
            let indexes: Vec<usize> = reads.iter().map(|read| read.fragment).collect();
            let readers = self.table.fragments(&indexes, &self.columns)?;
            let (reads, then) = (reads.to_vec(), then.take());
            let decode = move || decode_all(&readers, &reads, keeps, least_apart, then);
            blocks.extend(runtime::blocking(decode)?);
        }
        Ok(blocks)
    }
}

impl Scan for Direct {
    fn schema(&self) -> &SchemaRef {
        self.columns.schema()
    }

    fn num_rows(&self) -> u64 {
        self.table.layout().num_rows()
    }

    fn scan(&self, offsets: Range<u64>, keeps: bool) -> Result<Vec<RecordBatch>> {
        let _admission = self.admit(|weights| weights.of_run(offsets.clone()))?;
        let reads = plan_run(self.table.layout(), offsets)?;
        self.read_rows(reads, keeps)
    }

    fn scan_parts(
        &self,
        offsets: Range<u64>,
        at_once: u64,
        keeps: bool,
        each: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let _admission = self.admit(|weights| weights.of_run(offsets.clone()))?;
        let reads = plan_run(self.table.layout(), offsets)?;
        let at_once = usize::try_from(at_once).unwrap_or(usize::MAX).max(1);
        let read = reads.chunks(remote_files_at_once()).try_for_each(|reads| {
            let indexes: Vec<usize> = reads.iter().map(|read| read.fragment).collect();
            let readers = self.table.fragments(&indexes, &self.columns)?;
            let pending = request_all(&readers, reads, |reader, read| {
                let at_once = at_once.min(read.num_rows);
                reader.request_parts(&read.places, read.num_rows, at_once, keeps)
            })?;
            pending.into_iter().try_for_each(|pending| pending.decode_parts(each))
        });
        read.map_err(|error| self.table.changed(error))
    }

    fn sample(&self, offsets: &[u64]) -> Result<Vec<RecordBatch>> {
        let _admission = self.admit(|weights| weights.of_rows(offsets))?;
        let reads = plan(self.table.layout(), offsets)?.reads;
        self.read_rows(reads, true)
    }

    fn weights(&self) -> Result<Weights> {
        let fragments = self.table.layout().fragments();
        // The bytes of a fragment that its files hold of the columns, and what they are a share of.
        let (mut stored, mut shared, mut longest) = (0_u128, 0_u128, 0);
        let parts = self.shares();
        let share_of = |index: usize| u128::from(parts[index]);
        let mut known = vec![None; fragments.len()];
        for index in looked_at(&parts) {
            let reader = self.table.fragment(index, &self.columns);
            let reader = reader.map_err(|error| self.table.changed(error))?;
            let pages = reader.pages();
            stored += pages.iter().flatten().map(|(_, bytes)| u128::from(*bytes)).sum::<u128>();
            shared += share_of(index);
            longest =
                longest.max(pages.iter().flatten().map(|(_, bytes)| *bytes).max().unwrap_or(0));
            known[index] = Some(weights::of_pages(u64::from(fragments[index].num_places), &pages));
            if reader.is_remote() && shared > 0 {
                break;
            }
        }
        let runs = known.into_iter().enumerate().flat_map(|(index, runs)| {
            let fragment = &fragments[index];
            let places = u64::from(fragment.num_places).max(1);
            let runs = runs.unwrap_or_else(|| {
                let bytes = share_of(index) * stored / shared.max(1);
                let row_bytes = bytes.div_ceil(places.into());
                vec![(places, u64::try_from(row_bytes).unwrap_or(u64::MAX))]
            });
            // Rows that were deleted are taken to be spread evenly.
            let (live, mut place, mut row) = (fragment.num_rows(), 0_u64, 0);
            let scaled = move |(rows, row_bytes)| {
                place += rows;
                let end = u128::from(place) * u128::from(live) / u128::from(places);
                let end = u64::try_from(end).unwrap_or(live);
                (end - std::mem::replace(&mut row, end), row_bytes)
            };
            runs.into_iter().map(scaled).collect::<Vec<_>>()
        });
        Ok(Weights::new(runs).with_longest(longest))
    }

    fn ask_ahead(&self) -> Result<Vec<Ahead>> {
        let num_fragments = self.table.layout().fragments().len();
        if num_fragments > remote_files_at_once() || !self.table.is_remote(&self.columns)? {
            return Ok(Vec::new());
        }
        let readers = self.all_fragments()?;
        let all: Vec<_> = readers.iter().flat_map(FragmentReader::far_indexes).collect();
        let length = |range: &Range<u64>| range.end - range.start;
        let bytes: u64 = all.iter().flat_map(|(_, ranges)| ranges).map(length).sum();
        if bytes > MAX_INDEX_BYTES {
            return Ok(Vec::new());
        }
        let all = all.into_iter().filter(|(_, ranges)| !ranges.is_empty());
        Ok(all.map(|(file, ranges)| file.ask_ahead(ranges)).collect())
    }

    fn is_remote(&self) -> bool {
        self.table.is_remote(&self.columns).unwrap_or(false)
    }

    fn forget(&self) {
        crate::mapping::forget_touched();
    }
}

/// Returns the fragments to sample for row lengths: those with the largest files, and some spread over
/// the table.
fn looked_at(shares: &[u64]) -> Vec<usize> {
    let mut largest: Vec<usize> = (0..shares.len()).collect();
    largest.sort_by_key(|&index| std::cmp::Reverse(shares[index]));
    largest.truncate(LOOKED_AT / 2);
    let step = shares.len().div_ceil(LOOKED_AT / 2).max(1);
    for index in (0..shares.len()).step_by(step) {
        if !largest.contains(&index) {
            largest.push(index);
        }
    }
    largest
}

/// Returns `offsets` as a run if they are consecutive.
fn run_of(offsets: &[u64]) -> Option<Range<u64>> {
    let (first, last) = (*offsets.first()?, *offsets.last()?);
    let is_run = last.checked_sub(first).is_some_and(|len| len == offsets.len() as u64 - 1)
        && offsets.windows(2).all(|pair| pair[0] < pair[1]);
    is_run.then(|| first..last + 1)
}

/// Sends the requests of some fragments. Lance first waits for what files say of their pages: this is
/// kept, but if it has to be fetched for one fragment, the others are asked at the same time.
fn request_all<'a>(
    readers: &'a [FragmentReader],
    reads: &[Read],
    request: impl Fn(&'a FragmentReader, &Read) -> Result<Pending<'a>> + Sync,
) -> Result<Vec<Pending<'a>>> {
    let request = |reader: &'a FragmentReader, read: &Read| {
        crate::interrupt::check()?;
        request(reader, read)
    };
    let mut left = readers.iter().zip(reads);
    let mut pending = Vec::with_capacity(reads.len());
    while let Some((reader, read)) = left.next() {
        let start = Instant::now();
        pending.push(request(reader, read)?);
        if reader.is_remote() && start.elapsed() > A_WAIT {
            let left: Vec<_> = left.collect();
            let asked =
                runtime::together(&left, ASKED_TOGETHER, |(reader, read)| request(reader, read));
            pending.extend(asked.into_iter().collect::<Result<Vec<_>>>()?);
            break;
        }
    }
    Ok(pending)
}

/// Returns blocks; sends every request before it waits for the first answer.
fn decode_all(
    readers: &[FragmentReader],
    reads: &[Read],
    keeps: bool,
    least_apart: usize,
    then: Option<Then>,
) -> Result<Vec<Block>> {
    let pending = request_all(readers, reads, |reader, read| {
        reader.request(&read.places, read.num_rows, keeps)
    })?;
    if let Some(then) = then {
        then();
    }
    pending.into_iter().map(|pending| pending.into_block(least_apart)).collect()
}
