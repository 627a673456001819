//! Which way rows are read, and why.

use std::path::PathBuf;

use super::resident::Scan;
use crate::budget::available_memory;
use crate::error::{Error, Result};
use crate::packed::{PackedRows, Packing};

/// Rows wider than this are read directly: one read of the page cache costs what one of packed rows
/// would, so keeping them twice gains nothing.
const WIDE_BYTES: u64 = 16 << 10;
/// Rows wider than this are not shuffled by writing them out again, where they do not fit in memory.
const MEDIUM_BYTES: u64 = 4 << 10;
/// Rows looked at, all over the table, to learn how long they are where their types do not say.
const SAMPLE_ROWS: u64 = 128;
/// Less than this is not worth a file.
const SMALL_BYTES: u64 = 8 << 20;

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
    /// Where packed rows are kept for other processes and later runs; by default nowhere.
    pub cache_folder: Option<PathBuf>,
    /// Bytes that the cache folder may hold; by default half of the disk's free space.
    pub cache_limit: Option<u64>,
    /// Where scratch files of the external strategy go; by default to the cache folder, or the
    /// system's folder for temporary files.
    pub scratch_folder: Option<PathBuf>,
    /// Threads that decode, gather and fill; by default one per core.
    pub threads: Option<usize>,
}

impl Options {
    /// The number of threads.
    pub fn num_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores).max(1)
    }

    /// Bytes of rows that may be held in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_limit.unwrap_or_else(|| available_memory().unwrap_or(1 << 30) / 2)
    }
}

/// A strategy, and what it was chosen from.
#[derive(Debug, Clone)]
pub struct Choice {
    /// How rows are read at random or in a shuffled order.
    pub strategy: Strategy,
    /// Why.
    pub reason: String,
    /// Bytes of a packed row, on average; 0 if rows cannot be packed.
    pub row_bytes: u64,
    /// Rows of the table.
    pub num_rows: u64,
    /// Bytes of rows that may be held in memory.
    pub memory_bytes: u64,
}

impl Choice {
    /// Bytes of all rows, packed.
    pub fn packed_bytes(&self) -> u64 {
        self.row_bytes.saturating_mul(self.num_rows)
    }

    /// Whether packed rows are worth a file.
    pub fn is_worth_a_file(&self) -> bool {
        self.packed_bytes() >= SMALL_BYTES
    }

    /// The one for a table that `scan` reads. Looks at a few rows if their types do not say how long
    /// they are.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Unsupported`] if a strategy was asked for that cannot be.
    pub(super) fn new(scan: &dyn Scan, options: &Options, is_in_memory: bool) -> Result<Self> {
        let memory_bytes = options.memory_bytes();
        let choice = |strategy, reason: String, row_bytes| Self {
            strategy,
            reason,
            row_bytes,
            num_rows: scan.num_rows(),
            memory_bytes,
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
        let row_bytes = match average_bytes(scan, &packing) {
            Ok(bytes) => bytes,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // Reading them directly will say what is wrong with them.
            Err(error) if options.strategy.is_none() => {
                return Ok(choice(Strategy::Direct, error.to_string(), 0));
            }
            Err(error) => return Err(error),
        };
        let packed_bytes = row_bytes.saturating_mul(scan.num_rows());
        if let Some(strategy) = options.strategy {
            if memory_bytes < row_bytes {
                return Err(Error::invalid(
                    format!("a memory_limit of {memory_bytes} bytes"),
                    format!("at least one row, which has about {row_bytes}"),
                ));
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

/// Bytes of a packed row, from its types or from a few rows all over the table.
fn average_bytes(scan: &dyn Scan, packing: &Packing) -> Result<u64> {
    let num_rows = scan.num_rows();
    let stride = packing.stride() as u64;
    if !packing.has_tails() || num_rows == 0 {
        return Ok(stride);
    }
    let count = SAMPLE_ROWS.min(num_rows);
    let middle =
        |part: u64| (u128::from(2 * part + 1) * u128::from(num_rows)) / u128::from(2 * count);
    let offsets: Vec<u64> =
        (0..count).map(|part| u64::try_from(middle(part)).unwrap_or(0)).collect();
    let mut rows = PackedRows::default();
    for batch in scan.sample(&offsets)? {
        packing.pack(&batch, &mut rows)?;
    }
    Ok(stride + (rows.tails.len() as u64).div_ceil(rows.num_rows.max(1) as u64))
}
