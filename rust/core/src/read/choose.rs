//! Which way rows are read, and why.

use std::path::PathBuf;
use std::sync::Arc;

use super::scan::Scan;
use super::weights::Weights;
use crate::budget::available_memory;
use crate::error::{Error, Result};
use crate::packed::{PackedRows, Packing};
use crate::projection::num_bytes;

/// Rows wider than this are read directly: one read of the page cache costs what one of packed rows
/// would, so keeping them twice gains nothing.
pub(super) const WIDE_BYTES: u64 = 16 << 10;
/// Rows wider than this are not shuffled by writing them out again, where they do not fit in memory.
const MEDIUM_BYTES: u64 = 4 << 10;
/// Rows looked at, all over the table, to learn how long they are where their types do not say; fewer
/// if they have this many bytes together.
const SAMPLE_ROWS: u64 = 128;
const SAMPLE_BYTES: u64 = 8 << 20;
/// Neighbours that are looked at together where rows are on another machine, and if they are short: the
/// slowest of many requests would keep the first batch waiting.
const SAMPLE_RUN_FAR: u64 = 8;
const SAMPLE_RUN_SHORT: u64 = 32;
const SHORT_BYTES: u64 = 1 << 10;
/// How many times as long as in files rows may be in memory, for a first guess.
const UNPACKED: u64 = 16;
/// Less than this is not worth a file.
const SMALL_BYTES: u64 = 8 << 20;

/// Threads of a loader, unless a user says otherwise: one gathers faster than most consumers can take.
const READING_THREADS: usize = 4;
/// The same where threads mostly wait for another machine.
const WAITING_THREADS: usize = 8;

/// Why, where a user said so.
const ASKED_FOR: &str = "it was asked for";

/// How rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// From the data files, a window of batches at a time.
    Direct,
    /// From packed rows in memory.
    Resident,
    /// From packed rows in scratch files, written in the order they are served in.
    External,
}

/// What a user may ask for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The strategy, or `None` to let the table decide.
    pub strategy: Option<Strategy>,
    /// Bytes of rows that may be held in memory; by default half of what is free.
    pub memory_limit: Option<u64>,
    /// Of how many readers that share the memory equally this is one; 0 is read as 1.
    pub num_readers: u64,
    /// Where packed rows are kept for other processes and later runs; by default nowhere.
    pub cache_folder: Option<PathBuf>,
    /// Bytes that the cache folder may hold; by default half of the disk's free space.
    pub cache_limit: Option<u64>,
    /// Where scratch files of the external strategy go; by default to the cache folder, or the
    /// system's folder for temporary files.
    pub scratch_folder: Option<PathBuf>,
    /// Threads that read, and threads that pack; by default one per core, of those that read at most
    /// four.
    pub threads: Option<usize>,
}

impl Options {
    /// Returns the number of threads that pack. Those that wait for another machine need no core.
    pub fn num_threads(&self, is_remote: bool) -> usize {
        let default = || if is_remote { num_cores().max(WAITING_THREADS) } else { num_cores() };
        self.threads.unwrap_or_else(default).max(1)
    }

    /// Returns the number of threads of a loader, if there is work for all.
    pub fn reading_threads(&self, is_remote: bool) -> usize {
        let default = if is_remote { WAITING_THREADS } else { num_cores().min(READING_THREADS) };
        self.threads.unwrap_or(default).max(1)
    }

    /// Returns whether packed rows are bound by the limit even if they were asked for. Those in files
    /// of a cache folder, which the system can take out of memory, are only where a user set one.
    pub(super) fn is_limited(&self) -> bool {
        self.memory_limit.is_some() || self.cache_folder.is_none()
    }

    /// Returns the bytes of rows that may be held in memory.
    pub fn memory_bytes(&self) -> u64 {
        let all = self.memory_limit.unwrap_or_else(|| available_memory().unwrap_or(1 << 30) / 2);
        all / self.num_readers.max(1)
    }

    /// Returns the limit that a user set.
    pub(super) fn set_limit(&self) -> Option<SetLimit> {
        let num_readers = self.num_readers.max(1);
        self.memory_limit.map(|bytes| SetLimit { bytes, num_readers })
    }
}

/// A limit of memory that a user set, for all readers that share it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetLimit {
    pub(super) bytes: u64,
    pub(super) num_readers: u64,
}

impl SetLimit {
    /// Returns the error for a limit of which the share of one reader is too little for some purpose.
    pub(super) fn too_little(self, purpose: &str, least_share: u64, instead: &str) -> Error {
        let Self { bytes, num_readers } = self;
        let shared = if num_readers > 1 {
            format!(", shared by {num_readers} sets of columns with the same steps,")
        } else {
            String::new()
        };
        Error::invalid(
            format!("a memory_limit of {bytes} bytes{shared} to {purpose}"),
            format!("at least {}{instead}", least_share.saturating_mul(num_readers)),
        )
    }
}

pub(super) fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A strategy, and what it was chosen from.
#[derive(Debug, Clone)]
pub struct Choice {
    /// How rows are read at random or in a shuffled order.
    pub strategy: Strategy,
    /// Why it was chosen.
    pub reason: String,
    /// Bytes of a packed row, on average; 0 if rows cannot be packed.
    pub row_bytes: u64,
    /// Rows of the table.
    pub num_rows: u64,
    /// Bytes of rows that may be held in memory.
    pub memory_bytes: u64,
    /// Why no rows could be sampled; another choice is made once the failure has passed.
    pub failure: Option<Error>,
}

impl Choice {
    /// Returns the bytes of all rows, packed.
    pub fn packed_bytes(&self) -> u64 {
        self.row_bytes.saturating_mul(self.num_rows)
    }

    /// Returns whether packed rows are worth a file.
    pub fn is_worth_a_file(&self) -> bool {
        self.packed_bytes() >= SMALL_BYTES
    }

    /// Returns the choice for the table that `scan` reads. Looks at `weights` and a few rows if their
    /// types do not say how long they are.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Unsupported`] if a strategy was asked for that cannot be, and
    /// [`Error::Invalid`] if it cannot be within the limit.
    pub(super) fn new(
        scan: &dyn Scan,
        weights: impl FnOnce() -> Result<Arc<Weights>>,
        options: &Options,
        is_in_memory: bool,
    ) -> Result<Self> {
        let memory_bytes = options.memory_bytes();
        let choice = |strategy, reason: String, row_bytes| Self {
            strategy,
            reason,
            row_bytes,
            num_rows: scan.num_rows(),
            memory_bytes,
            failure: None,
        };
        let packing = match Packing::new(scan.schema()) {
            Ok(packing) => packing,
            Err(error) if matches!(options.strategy, None | Some(Strategy::Direct)) => {
                return Ok(choice(Strategy::Direct, error.to_string(), 0));
            }
            Err(error) => return Err(error),
        };
        if options.strategy == Some(Strategy::Direct) {
            return Ok(choice(Strategy::Direct, ASKED_FOR.into(), packing.stride() as u64));
        }
        let row_bytes = match average_bytes(scan, &packing, weights) {
            Ok(bytes) => bytes,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // Reading them directly will say what is wrong with them.
            Err(error) if options.strategy.is_none() => {
                let choice = choice(Strategy::Direct, error.to_string(), 0);
                return Ok(Self { failure: Some(error), ..choice });
            }
            Err(error) => return Err(error),
        };
        let packed_bytes = row_bytes.saturating_mul(scan.num_rows());
        if let Some(strategy) = options.strategy {
            if strategy == Strategy::Resident && options.is_limited() && memory_bytes < packed_bytes
            {
                return Err(too_little(memory_bytes, packed_bytes, options.set_limit()));
            }
            return Ok(choice(strategy, ASKED_FOR.into(), row_bytes));
        }
        let (strategy, reason) = if scan.schema().fields().is_empty() {
            (Strategy::Direct, "no column is read from files".to_string())
        } else if is_in_memory {
            (Strategy::Direct, "the rows are in memory already".to_string())
        } else if row_bytes > WIDE_BYTES {
            (Strategy::Direct, format!("rows are wide: {row_bytes} bytes on average"))
        } else if packed_bytes <= memory_bytes {
            let fits =
                format!("{packed_bytes} bytes of packed rows fit in {memory_bytes} of memory");
            (Strategy::Resident, fits)
        } else if row_bytes <= MEDIUM_BYTES {
            let fits =
                format!("{packed_bytes} bytes of packed rows exceed {memory_bytes} of memory");
            (Strategy::External, fits)
        } else {
            let wide = format!(
                "{packed_bytes} bytes of rows exceed {memory_bytes} of memory, and at {row_bytes} bytes \
                 each, reading them one by one costs no more than writing them out"
            );
            (Strategy::Direct, wide)
        };
        Ok(choice(strategy, reason, row_bytes))
    }
}

/// Returns the error for rows that do not fit in memory.
pub(super) fn too_little(memory_bytes: u64, packed_bytes: u64, limit: Option<SetLimit>) -> Error {
    match limit {
        Some(limit) => limit.too_little(
            &format!("keep {packed_bytes} bytes of packed rows"),
            packed_bytes,
            ", or read=\"external\" or \"direct\"",
        ),
        None => Error::Memory(format!(
            "no memory for {packed_bytes} bytes of packed rows, as {memory_bytes} may be used of what is \
             free: read=\"external\" or \"direct\" needs less, and memory_limit={packed_bytes} allows it"
        )),
    }
}

/// Returns the bytes of a packed row on average, from its types, or from a few rows and what files say.
fn average_bytes(
    scan: &dyn Scan,
    packing: &Packing,
    weights: impl FnOnce() -> Result<Arc<Weights>>,
) -> Result<u64> {
    let stride = packing.stride() as u64;
    if !packing.has_tails() || scan.num_rows() == 0 {
        return Ok(stride);
    }
    let stored = weights()?.mean();
    if stored > WIDE_BYTES && scan.is_remote() {
        // However long they are in memory: looking would keep the first batch waiting.
        return Ok(stored.max(stride));
    }
    let Sample { rows, bytes, longest } = sample(scan, packing, stored)?;
    // Files know all rows, but not how long compressed ones are. A sample does, but misses long rows that
    // are rare, or makes too much of the one that it met.
    let is_explained = (bytes - longest).div_ceil((rows - 1).max(1)) <= stored;
    let sampled = stride + bytes.div_ceil(rows);
    Ok(if is_explained { stored.max(stride) } else { sampled.max(stored) })
}

/// Rows that were looked at, the bytes of their tails, and those of the longest.
#[derive(Debug, Default)]
struct Sample {
    rows: u64,
    bytes: u64,
    longest: u64,
}

/// Samples rows from all over the table, which have `stored` bytes on average in files.
fn sample(scan: &dyn Scan, packing: &Packing, stored: u64) -> Result<Sample> {
    let num_rows = scan.num_rows();
    // On another machine neighbours cost one request, and each fragment some more.
    let run = match scan.is_remote() {
        true if stored <= SHORT_BYTES => SAMPLE_RUN_SHORT,
        true => SAMPLE_RUN_FAR,
        false => 1,
    };
    let places = SAMPLE_ROWS.min(num_rows).div_ceil(run);
    let count = (places * run).min(num_rows);
    let middle =
        |place: u64| (u128::from(2 * place + 1) * u128::from(num_rows)) / u128::from(2 * places);
    let offset = |at: u64| {
        let middle = u64::try_from(middle(scattered(at / run, places))).unwrap_or(0);
        (middle.saturating_sub(run / 2) + at % run).min(num_rows - 1)
    };
    let mut rows = PackedRows::default();
    let mut found = Sample::default();
    // From another machine all at once, unless files say that they are long.
    let first = if scan.is_remote() { SAMPLE_BYTES / (UNPACKED * stored).max(1) } else { 1 };
    let mut seen = 0;
    while seen < count && found.bytes < SAMPLE_BYTES {
        // As many as were seen, or as seem to fit: long rows are met one by one.
        let fitting = (SAMPLE_BYTES - found.bytes) * seen.max(1) / found.bytes.max(1);
        let group = seen.clamp(first.max(1), fitting.max(first).max(1)).min(count - seen);
        let mut offsets: Vec<u64> = (seen..seen + group).map(offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        for batch in scan.sample(&offsets)? {
            rows.clear();
            rows.reserve(0, num_bytes(&batch) as u64)?;
            packing.pack(&batch, &mut rows)?;
            found.bytes += rows.tails.len() as u64;
            let lengths =
                rows.heads.chunks_exact(packing.stride()).map(|head| packing.tail_of(head).len());
            found.longest = found.longest.max(lengths.max().unwrap_or(0) as u64);
        }
        found.rows += offsets.len() as u64;
        seen += group;
    }
    Ok(found)
}

/// Returns the numbers `0..count` in an order whose beginnings are spread evenly.
fn scattered(at: u64, count: u64) -> u64 {
    // Steps of about the golden ratio of `count`, and without a common divisor, meet every number.
    let mut step = (count * 618 / 1000).max(1);
    while greatest_common_divisor(step, count) > 1 {
        step += 1;
    }
    (at * step + count / 2) % count
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_numbers_are_all_of_them() {
        for count in 1..=SAMPLE_ROWS {
            let mut all: Vec<u64> = (0..count).map(|at| scattered(at, count)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
