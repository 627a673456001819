//! Stage 3, READ: row offsets → batches of the projected columns.
//!
//! Behind [`Reader`] stand `direct`, which reads the data files of a Lance table for each window of
//! offsets; `memory`, which holds Arrow data that came in whole; `resident`, which keeps
//! packed rows of either of them; and `external`, which writes packed rows out in the order they are
//! served in. `choose` says which of them it is.

mod choose;
mod cuts;
mod direct;
mod external;
mod feed;
mod memory;
mod packed_reader;
mod resident;
mod scratch;
mod setback;
mod weights;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::SchemaRef;

pub use choose::{Choice, Options, Strategy};
pub use cuts::Cuts;
pub(crate) use feed::Feed;
pub use memory::MemoryTable;

use crate::error::{Error, Result};
use crate::gather::{Gathered, gather};
use crate::plan::Rows;
use crate::projection::{Projection, Source, batch};
use crate::stages::{Stage, measure};
use crate::table::Table;
use packed_reader::PackedReader;
use resident::Scan;
use setback::Setback;
use weights::Weights;

/// Packed rows are filled once this part of a table was asked for: reading single rows costs some
/// thirty times as much as reading all of them in order.
const WORTH_FILLING: u64 = 32;
/// And at once for readers that ask for this many rows at a time, twice: they are training.
const BATCH_ROWS: usize = 32;

/// Reads the projected columns of a table, rows by offset. Cheap to clone; clones share what they keep.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
    form: Form,
}

/// What batches are handed out as.
#[derive(Debug, Clone, Copy, Default)]
struct Form {
    /// Whether a batch is one column, of a vector with the values of all columns for each row.
    is_matrix: bool,
    /// Whether ids, addresses and offsets of rows are signed, as torch wants them.
    is_signed: bool,
}

#[derive(Debug)]
struct Shared {
    base: Base,
    options: Options,
    choice: ArcSwapOption<Choice>,
    weights: ArcSwapOption<Weights>,
    /// Why rows could not be looked at for a choice.
    unseen: Setback,
    packed: ArcSwapOption<PackedReader>,
    /// Rows asked for at random so far, and how often.
    rows_asked: AtomicU64,
    takes: AtomicU64,
    rows_direct: AtomicU64,
    rows_spilled: AtomicU64,
    /// Why scratch files could not be used.
    spill_failure: ArcSwapOption<Error>,
    /// The next epoch of a loader, on its way to scratch files.
    ahead: ArcSwapOption<feed::NextEpoch>,
    scratch: Arc<scratch::Pool>,
}

/// What reads rows when nothing is kept.
#[derive(Debug, Clone)]
enum Base {
    Direct(Arc<direct::Direct>),
    Memory(Arc<memory::Memory>),
}

impl Base {
    fn projection(&self) -> &Projection {
        match self {
            Self::Direct(reader) => reader.projection(),
            Self::Memory(reader) => reader.projection(),
        }
    }

    fn take_window(&self, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        match self {
            Self::Direct(reader) => reader.take_window(offsets, cuts),
            Self::Memory(reader) => reader.take_window(offsets, cuts),
        }
    }

    fn scan(&self) -> Arc<dyn Scan> {
        match self {
            Self::Direct(reader) => Arc::clone(reader) as _,
            Self::Memory(reader) => Arc::clone(reader) as _,
        }
    }

    fn system(&self, source: &Source, offsets: &[u64]) -> Result<Vec<u64>> {
        match self {
            Self::Direct(reader) => reader.system(source, offsets),
            Self::Memory(reader) => reader.system(source, offsets),
        }
    }

    /// A batch with its system columns, from the columns read.
    fn assemble(&self, read: &RecordBatch, offsets: &[u64]) -> Result<RecordBatch> {
        self.assemble_lazily(read, || Ok(offsets.to_vec()))
    }

    /// The same, if offsets are only known at a cost.
    fn assemble_lazily(
        &self,
        read: &RecordBatch,
        offsets: impl Fn() -> Result<Vec<u64>>,
    ) -> Result<RecordBatch> {
        assemble(self.projection(), read, offsets, |source, offsets| self.system(source, offsets))
    }
}

/// A batch with its system columns, from the columns read; `system` gives the ids or addresses of row
/// offsets.
fn assemble(
    projection: &Projection,
    read: &RecordBatch,
    offsets: impl Fn() -> Result<Vec<u64>>,
    system: impl Fn(&Source, &[u64]) -> Result<Vec<u64>>,
) -> Result<RecordBatch> {
    let column = |source: &Source| -> Result<ArrayRef> {
        Ok(Arc::new(UInt64Array::from(match source {
            Source::RowOffset => offsets()?,
            source => system(source, &offsets()?)?,
        })))
    };
    projection.assemble(read, column)
}

/// What a reader did so far, in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Rows gathered from packed rows.
    pub rows_packed: u64,
    /// Rows read from the data files.
    pub rows_direct: u64,
    /// Rows written to scratch files.
    pub rows_spilled: u64,
    /// Blocks of packed rows that were decoded here.
    pub blocks_filled: u64,
    /// Blocks that another process, or an earlier run, had left.
    pub blocks_mapped: u64,
    /// Bytes of packed rows that are there.
    pub bytes_kept: u64,
    /// Nanoseconds that filling took, or 0 if it is not over.
    pub fill_nanos: u64,
    /// Whether packed rows are shared with other processes.
    pub is_shared: bool,
    /// Why rows could not be packed, or not be kept in files.
    pub failure: Option<String>,
}

impl Reader {
    /// A reader of a Lance table.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a projected column is stored in a way
    /// this reader does not read.
    pub fn of_table(table: Arc<Table>, projection: Projection, options: Options) -> Result<Self> {
        let base = Base::Direct(Arc::new(direct::Direct::new(table, projection)?));
        Ok(Self::new(base, options))
    }

    /// A reader of Arrow data in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Bug`] if the projection is of another table.
    pub fn of_memory(
        table: &Arc<MemoryTable>,
        projection: Projection,
        options: Options,
    ) -> Result<Self> {
        let base = Base::Memory(Arc::new(memory::Memory::new(table, projection)?));
        Ok(Self::new(base, options))
    }

    fn new(base: Base, options: Options) -> Self {
        let shared = Arc::new(Shared {
            base,
            options,
            choice: ArcSwapOption::empty(),
            weights: ArcSwapOption::empty(),
            unseen: Setback::default(),
            packed: ArcSwapOption::empty(),
            rows_asked: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            rows_direct: AtomicU64::new(0),
            rows_spilled: AtomicU64::new(0),
            spill_failure: ArcSwapOption::empty(),
            ahead: ArcSwapOption::empty(),
            scratch: Arc::default(),
        });
        Self { shared, form: Form::default() }
    }

    /// The schema of the batches it gives, unless they are matrices.
    pub fn schema(&self) -> SchemaRef {
        let projection = self.shared.base.projection();
        if self.form.is_signed {
            projection.signed_schema()
        } else {
            Arc::clone(projection.schema())
        }
    }

    /// The same reader, whose ids, addresses and offsets of rows are signed numbers.
    #[must_use]
    pub fn as_signed(&self) -> Self {
        let form = Form { is_signed: true, ..self.form };
        Self { shared: Arc::clone(&self.shared), form }
    }

    /// The same reader, whose batches have one column: for each row a vector of the values of all
    /// columns. These must be numbers of one type, without nulls.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if they are of several types, or of one that is no number.
    pub fn as_matrix(&self) -> Result<Self> {
        crate::matrix::type_of(&self.schema())?;
        let form = Form { is_matrix: true, ..self.form };
        Ok(Self { shared: Arc::clone(&self.shared), form })
    }

    /// Whether rows at random come from packed rows by now.
    pub(crate) fn has_packed_rows(&self) -> bool {
        self.shared.packed.load().is_some()
    }

    /// What it was asked to do.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// How rows in random order are read, and why. Looks at some hundred rows if their types do not
    /// say how long they are.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Unsupported`] and
    /// [`Error::Invalid`] for options that cannot be met.
    pub fn choice(&self) -> Result<Arc<Choice>> {
        let shared = &self.shared;
        if let Some(choice) = shared.choice.load_full()
            && (choice.failure.is_none() || shared.unseen.forbids())
        {
            return Ok(choice);
        }
        let is_in_memory = matches!(shared.base, Base::Memory(_));
        let scan = shared.base.scan();
        let weights = || self.weights();
        let choice = Choice::new(scan.as_ref(), weights, &shared.options, is_in_memory)?;
        let choice = Arc::new(choice);
        if let Some(error) = &choice.failure {
            shared.unseen.note(error.clone());
        }
        shared.choice.store(Some(Arc::clone(&choice)));
        Ok(choice)
    }

    /// About how many bytes rows have, by their types or by what files say.
    fn weights(&self) -> Result<Arc<Weights>> {
        let shared = &self.shared;
        if let Some(weights) = shared.weights.load_full() {
            return Ok(weights);
        }
        let scan = shared.base.scan();
        let weights = Arc::new(Weights::of_scan(scan.as_ref())?);
        shared.weights.store(Some(Arc::clone(&weights)));
        Ok(weights)
    }

    /// What was read so far.
    pub fn stats(&self) -> ReadStats {
        let mut stats = self
            .shared
            .packed
            .load()
            .as_ref()
            .map_or_else(ReadStats::default, |packed| packed.stats());
        stats.rows_direct += self.shared.rows_direct.load(Ordering::Relaxed);
        stats.rows_spilled += self.shared.rows_spilled.load(Ordering::Relaxed);
        let failure = self.shared.spill_failure.load();
        stats.failure = stats.failure.or_else(|| failure.as_ref().map(ToString::to_string));
        stats
    }

    /// The rows at `offsets`, in that order, repeats included.
    ///
    /// Readers that ask for many rows at random get them from packed rows after a while, which are
    /// filled in the background.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], those of storage, and
    /// [`Error::Interrupted`].
    pub fn take(&self, offsets: &[u64]) -> Result<Gathered> {
        let packed = if offsets.is_sorted() { self.kept() } else { self.packed_if_worth(offsets)? };
        let mut batches =
            self.take_from(packed.as_deref(), offsets, Cuts::Every(offsets.len().max(1)))?;
        Ok(batches.pop().expect("even no rows are a batch"))
    }

    /// The rows at `offsets` cut into batches, planned and read together.
    ///
    /// A row that is wanted by several batches is read once.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Self::take).
    pub fn take_window(&self, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        self.take_from(self.shared.packed.load_full().as_deref(), offsets, cuts)
    }

    /// How a loader reads an order of `num_rows` rows.
    ///
    /// # Errors
    ///
    /// Those of [`choice`](Self::choice).
    pub fn strategy(&self, num_rows: u64, is_ascending: bool) -> Result<Strategy> {
        let is_asked_for = self.shared.options.strategy.is_some();
        if is_ascending && !is_asked_for {
            return Ok(Strategy::Direct);
        }
        let choice = self.choice()?;
        let is_worth = is_asked_for || num_rows.saturating_mul(WORTH_FILLING) >= choice.num_rows;
        Ok(if is_worth { choice.strategy } else { Strategy::Direct })
    }

    /// The same for an order that is about to be read: opens packed rows if that is how.
    fn prepare(&self, num_rows: u64, is_ascending: bool) -> Result<Strategy> {
        let strategy = self.strategy(num_rows, is_ascending)?;
        if strategy == Strategy::Resident {
            self.packed(&*self.choice()?)?;
        }
        Ok(strategy)
    }

    fn take_from(
        &self,
        packed: Option<&PackedReader>,
        offsets: &[u64],
        cuts: Cuts<'_>,
    ) -> Result<Vec<Gathered>> {
        let base = &self.shared.base;
        if let Some(packed) = packed {
            return packed.take_window(base, offsets, cuts, self.form);
        }
        self.shared.rows_direct.fetch_add(offsets.len() as u64, Ordering::Relaxed);
        formed(base.projection(), base.take_window(offsets, cuts)?, self.form)
    }

    /// Bytes of rows that may be held in memory.
    fn memory_bytes(&self) -> u64 {
        let known = self.shared.choice.load();
        known
            .as_ref()
            .map_or_else(|| self.shared.options.memory_bytes(), |known| known.memory_bytes)
    }

    /// Packed rows that are there already and complete.
    fn kept(&self) -> Option<Arc<PackedReader>> {
        self.shared.packed.load_full().filter(|packed| packed.is_complete())
    }

    fn packed_if_worth(&self, offsets: &[u64]) -> Result<Option<Arc<PackedReader>>> {
        let shared = &self.shared;
        if shared.options.strategy == Some(Strategy::Direct) {
            return Ok(None);
        }
        if let Some(packed) = shared.packed.load_full() {
            return Ok(Some(packed));
        }
        let asked = shared.rows_asked.fetch_add(offsets.len() as u64, Ordering::Relaxed);
        let asked = asked + offsets.len() as u64;
        let takes = if offsets.len() >= BATCH_ROWS {
            shared.takes.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            shared.takes.load(Ordering::Relaxed)
        };
        let is_asked_for = shared.options.strategy == Some(Strategy::Resident);
        let num_rows = shared.base.scan().num_rows();
        if !is_asked_for && takes < 2 && asked.saturating_mul(WORTH_FILLING) < num_rows {
            return Ok(None);
        }
        let choice = self.choice()?;
        if choice.strategy != Strategy::Resident {
            return Ok(None);
        }
        self.packed(&choice).map(Some)
    }

    fn packed(&self, choice: &Choice) -> Result<Arc<PackedReader>> {
        let shared = &self.shared;
        if let Some(packed) = shared.packed.load_full() {
            packed.begin()?;
            return Ok(packed);
        }
        let weights = self.weights()?;
        let made = PackedReader::open(&shared.base, choice, &weights, &shared.options)?;
        let made = Arc::new(made);
        let none = None::<Arc<PackedReader>>;
        let before = shared.packed.compare_and_swap(&none, Some(Arc::clone(&made)));
        Ok(before.as_ref().map_or(made, Arc::clone))
    }
}

/// Batches of the columns of a projection, as they are handed out.
fn formed(
    projection: &Projection,
    mut batches: Vec<Gathered>,
    form: Form,
) -> Result<Vec<Gathered>> {
    for gathered in &mut batches {
        if form.is_signed {
            gathered.batch = projection.signed(&gathered.batch)?;
        }
        if form.is_matrix {
            let batch = crate::matrix::side_by_side(&gathered.batch)?;
            *gathered = Gathered { batch, is_owned: true };
        }
    }
    Ok(batches)
}

/// Blocks of rows and the columns they hold.
struct Blocks<'a> {
    schema: &'a SchemaRef,
    rows: &'a [RecordBatch],
    /// Whether nothing else shows their rows.
    are_owned: bool,
}

/// Cuts a window of rows into batches and gives each its system columns.
///
/// `system` is as for [`assemble`].
fn cut(
    blocks: &Blocks<'_>,
    rows: Rows,
    offsets: &[u64],
    cuts: Cuts<'_>,
    projection: &Projection,
    system: impl Fn(&Source, &[u64]) -> Result<Vec<u64>>,
) -> Result<Vec<Gathered>> {
    let finish = |gathered: Gathered, range: Range<usize>| {
        let of_batch = || Ok(offsets[range.clone()].to_vec());
        let batch = assemble(projection, &gathered.batch, of_batch, &system)?;
        Ok(Gathered { batch, ..gathered })
    };
    match rows {
        Rows::AsRead => {
            let gathered = || gather(blocks.schema, blocks.rows, blocks.are_owned, &Rows::AsRead);
            let whole = measure(Stage::Gather, gathered)?;
            // Slices share buffers, but no row.
            let is_owned = whole.is_owned;
            let slice = |range: Range<usize>| {
                let batch = whole.batch.slice(range.start, range.len());
                finish(Gathered { batch, is_owned }, range)
            };
            cuts.ranges(offsets.len()).map(slice).collect()
        }
        Rows::Picked(places) => {
            let pick = |range: Range<usize>| {
                crate::interrupt::check()?;
                let places = Rows::Picked(places[range.clone()].to_vec());
                let gathered = || gather(blocks.schema, blocks.rows, blocks.are_owned, &places);
                finish(measure(Stage::Gather, gathered)?, range)
            };
            cuts.ranges(offsets.len()).map(pick).collect()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
