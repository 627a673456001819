//! What the threads of a loader read windows of an order from.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::base::Base;
use super::choose::Strategy;
use super::cuts::Cuts;
use super::external::External;
use super::first::{First, Turn};
use super::next_epoch::NextEpoch;
use super::reader::{Reader, Shared, WORTH_FILLING};
use super::weights::Weights;
use super::window::formed;
use crate::address_space::check_room;
use crate::error::{Error, Result};
use crate::gather::Gathered;
use crate::order::Order;
use crate::runtime;
use crate::stages::{Stage, measure};

/// What a window aims to hold where single rows are read from files: reading gains from every
/// doubling (1,024 narrow rows at a time read 70,000 rows/s, 8,192 read 200,000 and 262,144 read
/// 460,000 of a table of 18 columns), so this is what several loaders at once may take.
const DIRECT_WINDOW_BYTES: u64 = 16 << 20;
/// Where rows are gathered from memory, a window is only as long as handing over is worth.
const PACKED_WINDOW_BYTES: u64 = 1 << 20;
/// How long other windows wait for the first one, and for a table that is fetched as a whole.
const FIRST_READ: Duration = Duration::from_millis(300);
const FIRST_READ_FAR: Duration = Duration::from_mins(1);
/// Of a budget, what one window under way may take.
const WINDOW_SHARE: u64 = 32;

/// Windows of an order, read by several threads at once.
#[derive(Debug)]
pub(crate) struct Feed {
    reader: Reader,
    order: Order,
    kind: Kind,
    /// The order that is expected after this one.
    next: Option<Order>,
    /// Whether what is read may never be requested.
    is_guess: bool,
    /// Bytes of rows that may be held in memory.
    memory_bytes: u64,
    weights: Arc<Weights>,
    is_uneven: bool,
    first: First,
}

#[derive(Debug)]
enum Kind {
    Direct,
    Resident,
    External(Arc<External>),
}

impl Reader {
    /// Returns the source of the last `left` rows of an order for a loader; `next` is the order it will
    /// probably read after that, and `first` the rows of the first batch, if that does not go by their bytes.
    pub(crate) fn feed(
        &self,
        order: &Order,
        left: u64,
        next: Option<Order>,
        is_guess: bool,
        first: Option<usize>,
    ) -> Result<Feed> {
        let num_rows = self.shared.base.scan().num_rows();
        let is_worth_filling = left.saturating_mul(WORTH_FILLING) >= num_rows;
        if let Some(first) = first
            && is_worth_filling
            && !is_guess
            && !order.is_ascending()
        {
            self.fetch_if_small(first)?;
        }
        if first.is_none() && is_worth_filling {
            // How long a window may be goes by the rows of the whole table.
            self.choice()?;
        }
        let kind = match self.prepare(left, order.is_ascending())? {
            // Scratch files of a whole epoch are too much for a guess.
            Strategy::External if is_guess => Kind::Direct,
            Strategy::Direct => Kind::Direct,
            Strategy::Resident => Kind::Resident,
            Strategy::External => self.external_or_direct(order)?,
        };
        let weights = match self.weights() {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // Reading rows will say what is wrong with them.
            weights => weights.unwrap_or_default(),
        };
        Ok(Feed {
            reader: self.clone(),
            order: order.clone(),
            kind,
            next,
            is_guess,
            memory_bytes: self.memory_bytes(),
            is_uneven: weights.is_uneven(),
            weights,
            first: First::default(),
        })
    }

    fn external_or_direct(&self, order: &Order) -> Result<Kind> {
        self.shared.spill_failure.store(None);
        match self.external(order) {
            Ok(rows) => Ok(Kind::External(rows)),
            // A disk that cannot be used is no error: there is another way.
            Err(error @ Error::Write { .. }) => {
                self.shared.spill_failure.store(Some(Arc::new(error)));
                Ok(Kind::Direct)
            }
            Err(Error::Interrupted) => Err(Error::Interrupted),
            // A limit that is too small is no error either, unless the strategy was chosen by the user.
            Err(_) if self.shared.options.strategy.is_none() => Ok(Kind::Direct),
            Err(error) => Err(error),
        }
    }

    /// Returns the rows of an order in scratch files; pass 1 may be under way already.
    fn external(&self, order: &Order) -> Result<Arc<External>> {
        let is_wanted =
            |ahead: &Arc<NextEpoch>| ahead.pid != std::process::id() || ahead.order.is_same(order);
        if self.shared.ahead.load().as_ref().is_some_and(is_wanted)
            && let Some(ahead) = self.shared.ahead.swap(None)
        {
            if ahead.pid != std::process::id() {
                // Its locks may be held by threads that this process does not have.
                std::mem::forget(ahead);
            } else if ahead.order.is_same(order) {
                ahead.is_taken.store(true, Ordering::Relaxed);
                return Ok(Arc::clone(&ahead.rows));
            }
        }
        self.new_external(order)
    }

    fn new_external(&self, order: &Order) -> Result<Arc<External>> {
        let row_bytes = self.choice()?.row_bytes;
        let Shared { base, options, scratch, .. } = self.shared.as_ref();
        let sizes = (row_bytes, self.weights()?);
        External::new(base.scan(), order.clone(), sizes, options, scratch).map(Arc::new)
    }

    /// Starts pass 1 of an order that will probably be read next.
    fn start_ahead(&self, order: &Order) -> Result<()> {
        let known = self.shared.ahead.load_full();
        if known.is_some_and(|ahead| ahead.order.is_same(order)) {
            return Ok(());
        }
        let rows = self.new_external(order)?;
        let ahead = NextEpoch {
            pid: std::process::id(),
            order: order.clone(),
            rows: Arc::clone(&rows),
            is_taken: AtomicBool::new(false),
        };
        self.shared.ahead.store(Some(Arc::new(ahead)));
        // Its error, if there is one, is raised when the rows are requested.
        runtime::spawn("lanceloader-ahead", move || drop(rows.prepare()))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Kind::External(rows) = &self.kind {
            // Pass 1 may be under way on a thread whose result is no longer needed.
            rows.cancel();
        }
    }
}

impl Feed {
    /// Returns the rows at these positions, cut into batches.
    pub(crate) fn read(&self, positions: Range<u64>, cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        let _first = self.begin(&positions, cuts)?;
        if let Kind::External(rows) = &self.kind
            && (positions.start > 0 || rows.is_ready())
            && let Some(batches) = self.read_external(rows, &positions, cuts)?
        {
            return Ok(batches);
        }
        let offsets = measure(Stage::Order, || self.order.offsets(positions))?;
        self.reader.take_window(&offsets, cuts)
    }

    /// Waits for the first rows, unless these are about to be read.
    fn begin(&self, positions: &Range<u64>, cuts: Cuts<'_>) -> Result<Option<Turn<'_>>> {
        let base = &self.reader.shared.base;
        let is_remote = base.scan().is_remote();
        match &self.kind {
            Kind::Direct if !is_remote => self.first.begin(FIRST_READ),
            // Pass 1 is about to read all rows in any case.
            Kind::External(rows) if is_remote && !rows.is_ready() => {
                let turn = self.first.begin(FIRST_READ_FAR)?;
                let count = usize::try_from(positions.end - positions.start).unwrap_or(usize::MAX);
                let batch = cuts.ranges(count).next().unwrap_or_default();
                if let (Some(_), Base::Direct(direct)) = (&turn, base) {
                    direct.fetch_if_scattered(batch.len())?;
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Reads from scratch files; `None` if they cannot be used.
    fn read_external(
        &self,
        rows: &External,
        positions: &Range<u64>,
        cuts: Cuts<'_>,
    ) -> Result<Option<Vec<Gathered>>> {
        let shared = &self.reader.shared;
        measure(Stage::Read, || rows.prepare())?;
        shared
            .rows_spilled
            .fetch_add(rows.rows_spilled.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        if let Some(failure) = rows.failure() {
            shared.spill_failure.store(Some(failure));
            return Ok(None);
        }
        if let Some(next) = &self.next {
            // Optional: an error shows again when that epoch is read.
            let _ = self.reader.start_ahead(next);
        }
        let count = usize::try_from(positions.end - positions.start).unwrap_or(usize::MAX);
        let cut = |range: Range<usize>| {
            crate::interrupt::check()?;
            let place = |place: usize| positions.start + place as u64;
            let range = place(range.start)..place(range.end);
            let read = measure(Stage::Read, || rows.gather(range.clone()))?;
            let offsets = || self.order.offsets(range.clone());
            let batch = shared.base.assemble_lazily(&read, offsets)?;
            Ok(Gathered { batch, is_owned: true })
        };
        let batches = cuts.ranges(count).map(cut).collect::<Result<Vec<_>>>()?;
        let projection = self.reader.shared.base.projection();
        formed(projection, batches, self.reader.form).map(Some)
    }

    /// Returns the bytes that a window should hold.
    pub(crate) fn window_bytes(&self) -> usize {
        let bytes = match &self.kind {
            Kind::Resident if self.reader.kept().is_some() => PACKED_WINDOW_BYTES,
            Kind::External(_) => PACKED_WINDOW_BYTES,
            Kind::Direct if self.is_guess => DIRECT_WINDOW_BYTES / 4,
            Kind::Resident | Kind::Direct => DIRECT_WINDOW_BYTES,
        };
        let most = (self.memory_bytes / WINDOW_SHARE).max(1);
        usize::try_from(bytes.min(most)).unwrap_or(usize::MAX)
    }

    /// Returns the bytes that all windows under way may hold.
    pub(crate) fn budget(&self) -> u64 {
        self.memory_bytes / 4
    }

    /// Returns the bytes of a row on average, as far as is known.
    pub(crate) fn row_bytes(&self) -> usize {
        let choice = self.reader.shared.choice.load();
        let bytes = choice.as_ref().map_or(0, |choice| choice.row_bytes);
        usize::try_from(bytes.max(self.weights.mean())).unwrap_or(usize::MAX)
    }

    /// Returns whether some rows are far longer than others.
    pub(crate) fn is_uneven(&self) -> bool {
        self.is_uneven
    }

    /// Checks that there is room to read rows of about this many bytes.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<()> {
        check_room("rows", self.weights.at_most(bytes))
    }

    /// Returns about how many bytes the rows at these positions have.
    pub(crate) fn weigh(&self, positions: Range<u64>) -> Result<u64> {
        if self.is_uneven {
            return Ok(self.weights.of_rows(&self.order.offsets(positions)?));
        }
        Ok((positions.end - positions.start).saturating_mul(self.row_bytes() as u64))
    }

    /// Returns whether rows are fetched from another machine, one by one.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::Direct) && self.reader.shared.base.scan().is_remote()
    }

    /// Returns how many threads should read, if there is work for all.
    ///
    /// It asks the system for the number of cores, which takes longer than to read a small window.
    pub(crate) fn num_threads(&self) -> usize {
        let is_remote = !self.is_here() && self.reader.shared.base.scan().is_remote();
        self.reader.options().reading_threads(is_remote)
    }

    /// Returns the bytes that this process fetched from other machines for the table so far.
    pub(crate) fn bytes_fetched(&self) -> u64 {
        self.reader.bytes_fetched()
    }

    /// Returns how many threads are enough once nothing is fetched from another machine any more.
    pub(crate) fn num_threads_here(&self) -> usize {
        self.reader.options().reading_threads(false)
    }

    /// Returns whether all rows are packed on this machine.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.kind, Kind::Resident) && self.reader.kept().is_some()
    }
}
