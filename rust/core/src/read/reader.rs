//! The reader of the projected columns of a table, whichever way rows are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use arrow_schema::SchemaRef;

use super::base::Base;
use super::choose::{Choice, Options, Strategy};
use super::cuts::Cuts;
use super::direct::Direct;
use super::memory::{Memory, MemoryTable};
use super::next_epoch::NextEpoch;
use super::packed_reader::PackedReader;
use super::scratch::Pool;
use super::setback::Setback;
use super::stats::ReadStats;
use super::weights::Weights;
use super::window::{Form, formed};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::gather::Gathered;
use crate::projection::Projection;
use crate::table::Table;

/// Packed rows are filled once this part of a table was asked for: reading single rows costs some
/// thirty times as much as reading all of them in order.
pub(super) const WORTH_FILLING: u64 = 32;
/// And at once for readers that ask for this many rows at a time, twice: they are training.
const BATCH_ROWS: usize = 32;

/// Reads the projected columns of a table, rows by offset. Cheap to clone; clones share what they keep.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) form: Form,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) base: Base,
    pub(super) options: Options,
    pub(super) choice: ArcSwapOption<Choice>,
    pub(super) weights: ArcSwapOption<Weights>,
    /// Why rows could not be looked at for a choice.
    pub(super) unseen: Setback,
    pub(super) packed: ArcSwapOption<PackedReader>,
    /// Rows asked for at random so far, and how often.
    pub(super) rows_asked: AtomicU64,
    pub(super) takes: AtomicU64,
    pub(super) rows_direct: AtomicU64,
    pub(super) rows_spilled: AtomicU64,
    /// Why scratch files could not be used.
    pub(super) spill_failure: ArcSwapOption<Error>,
    /// The next epoch of a loader, on its way to scratch files.
    pub(super) ahead: ArcSwapOption<NextEpoch>,
    pub(super) scratch: Arc<Pool>,
}

impl Reader {
    /// Returns a reader of a Lance table.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a projected column is stored in a way
    /// this reader does not read.
    pub fn of_table(table: Arc<Table>, projection: Projection, options: Options) -> Result<Self> {
        let folder = options.cache_folder.as_deref();
        let copies = folder.map(|folder| Cache::new(folder, options.cache_limit));
        let base = Base::Direct(Arc::new(Direct::new(table, projection, copies)?));
        Ok(Self::new(base, options))
    }

    /// Returns a reader of Arrow data in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Bug`] if the projection is of another table.
    pub fn of_memory(
        table: &Arc<MemoryTable>,
        projection: Projection,
        options: Options,
    ) -> Result<Self> {
        let base = Base::Memory(Arc::new(Memory::new(table, projection)?));
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

    /// Returns the schema of the batches, unless they are matrices.
    pub fn schema(&self) -> SchemaRef {
        let projection = self.shared.base.projection();
        if self.form.is_signed {
            projection.signed_schema()
        } else {
            Arc::clone(projection.schema())
        }
    }

    /// Returns the same reader, whose ids, addresses and offsets of rows are signed numbers.
    #[must_use]
    pub fn as_signed(&self) -> Self {
        let form = Form { is_signed: true, ..self.form };
        Self { shared: Arc::clone(&self.shared), form }
    }

    /// Returns the same reader, whose batches have one column: for each row a vector of the values of
    /// all columns. These must be numbers of one type, without nulls.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if they are of several types, or of one that is no number.
    pub fn as_matrix(&self) -> Result<Self> {
        crate::matrix::type_of(&self.schema())?;
        let form = Form { is_matrix: true, ..self.form };
        Ok(Self { shared: Arc::clone(&self.shared), form })
    }

    /// Returns whether rows at random come from packed rows by now.
    pub(crate) fn has_packed_rows(&self) -> bool {
        self.shared.packed.load().is_some()
    }

    /// Returns whether rows come from another machine.
    pub fn is_remote(&self) -> bool {
        self.shared.base.scan().is_remote()
    }

    /// Returns the options of this reader.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Returns how rows in random order are read, and why. Samples about a hundred rows if their types
    /// do not say how long they are.
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

    /// Returns about how many bytes rows have, by their types or by what files say.
    pub(super) fn weights(&self) -> Result<Arc<Weights>> {
        let shared = &self.shared;
        if let Some(weights) = shared.weights.load_full() {
            return Ok(weights);
        }
        let scan = shared.base.scan();
        let weights = Arc::new(Weights::of_scan(scan.as_ref())?);
        shared.weights.store(Some(Arc::clone(&weights)));
        Ok(weights)
    }

    /// Returns the bytes that the files of a table hold of each column that is read, of all rows; none
    /// for data in memory.
    ///
    /// # Errors
    ///
    /// Those of storage, as the footer of a file may have to be read.
    pub fn stored_bytes(&self) -> Result<Vec<u64>> {
        match &self.shared.base {
            Base::Direct(direct) => direct.stored_bytes(),
            Base::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Returns the bytes that this process fetched from other machines for the table so far.
    pub(super) fn bytes_fetched(&self) -> u64 {
        match &self.shared.base {
            Base::Direct(direct) => direct.table().traffic().bytes_fetched,
            Base::Memory(_) => 0,
        }
    }

    /// Returns counts of what was read so far.
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
        if let Base::Direct(direct) = &self.shared.base {
            let table = direct.table();
            stats.traffic = table.traffic();
            stats.copy_failure =
                table.copy_failure(direct.columns()).map(|error| error.to_string());
        }
        stats
    }

    /// Returns the rows at `offsets`, in that order, repeats included.
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

    /// Returns the rows at `offsets` cut into batches, planned and read together.
    ///
    /// A row that is wanted by several batches is read once.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Self::take).
    pub fn take_window(&self, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        self.take_from(self.shared.packed.load_full().as_deref(), offsets, cuts)
    }

    /// Returns how a loader reads an order of `num_rows` rows.
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

    /// Returns the strategy for an order that is about to be read, and opens packed rows if it needs
    /// them.
    pub(super) fn prepare(&self, num_rows: u64, is_ascending: bool) -> Result<Strategy> {
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

    /// Returns the bytes of rows that may be held in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        let known = self.shared.choice.load();
        known
            .as_ref()
            .map_or_else(|| self.shared.options.memory_bytes(), |known| known.memory_bytes)
    }

    /// Returns packed rows if all of them are there.
    pub(super) fn kept(&self) -> Option<Arc<PackedReader>> {
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

    pub(super) fn packed(&self, choice: &Choice) -> Result<Arc<PackedReader>> {
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
