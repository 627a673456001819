//! Runs of rows in storage order, which rows are packed from.

use std::ops::Range;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::weights::Weights;
use crate::error::Result;
use crate::files::Ahead;
use crate::packed::Packing;

/// Rows that are decoded at a time, at most.
const SCAN_ROWS: u64 = 1 << 14;

/// Reads runs of rows, in storage order: what rows are packed from.
pub(super) trait Scan: std::fmt::Debug + Send + Sync {
    /// Returns the columns.
    fn schema(&self) -> &SchemaRef;

    /// Returns the number of rows.
    fn num_rows(&self) -> u64;

    /// Returns the rows at these offsets, in one batch or several. `keeps` says whether what is fetched
    /// from another machine is added to the copies on a local disk.
    fn scan(&self, offsets: Range<u64>, keeps: bool) -> Result<Vec<RecordBatch>>;

    /// Reads the rows at these offsets, and hands them on in storage order, some `at_once` rows at a time
    /// where that is of use: from another machine all of them are asked for before the first are decoded.
    fn scan_parts(
        &self,
        offsets: Range<u64>,
        at_once: u64,
        keeps: bool,
        each: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut start = offsets.start;
        while start < offsets.end {
            let end = offsets.end.min(start.saturating_add(at_once.max(1)));
            self.scan(start..end, keeps)?.iter().try_for_each(&mut *each)?;
            start = end;
        }
        Ok(())
    }

    /// Returns the rows at ascending offsets, far from each other.
    fn sample(&self, offsets: &[u64]) -> Result<Vec<RecordBatch>> {
        let rows = offsets.iter().map(|&offset| self.scan(offset..offset + 1, true));
        Ok(rows.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Returns about how many bytes the rows have, by what is known without reading them.
    fn weights(&self) -> Result<Weights>;

    /// Asks another machine for what files say of their pages, of all files together, before rows are
    /// scanned: each page would be waited for otherwise. It is kept until what is returned is dropped.
    fn ask_ahead(&self) -> Result<Vec<Ahead>> {
        Ok(Vec::new())
    }

    /// Returns whether rows come from another machine, where reading waits and does not compute.
    fn is_remote(&self) -> bool {
        false
    }

    /// Gives memory back that holds what was scanned, and will not be wanted again soon.
    fn forget(&self) {}
}

impl Weights {
    /// Weighs the rows that `scan` reads: by their types, or by what files say.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub(super) fn of_scan(scan: &dyn Scan) -> Result<Self> {
        match Packing::new(scan.schema()) {
            Ok(packing) if !packing.has_tails() => {
                Ok(Self::new([(scan.num_rows(), packing.stride() as u64)]))
            }
            _ => scan.weights(),
        }
    }
}

/// Returns the rows to scan at once.
pub(super) fn scan_rows(row_bytes: u64, budget: u64) -> u64 {
    (budget / row_bytes.max(1)).clamp(1, SCAN_ROWS)
}

/// Returns the beginning of a run of rows to scan at once, by the bytes of rows on average and by where
/// the long ones are.
pub(super) fn scan_at_once(
    weights: &Weights,
    offsets: Range<u64>,
    most_rows: u64,
    most_bytes: u64,
) -> Range<u64> {
    let end = offsets.end.min(offsets.start.saturating_add(most_rows));
    offsets.start..weights.end_of_run(offsets.start..end, most_bytes)
}
