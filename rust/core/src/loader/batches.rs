//! Where the batches of a loader end.

use std::sync::Arc;

/// Where batches end.
#[derive(Debug, Clone)]
pub enum Batches {
    /// A batch is what was read at once: as many rows as make some megabytes.
    AsRead,
    /// Each has so many rows, but the last one may have fewer.
    Every(usize),
    /// The positions where they end, ascending. A batch may be empty.
    Ends(Arc<[u64]>),
}

impl Batches {
    /// Returns an upper bound for the batches left, with `num_rows` rows left and from this batch on.
    pub(super) fn left(&self, num_rows: u64, batch: usize) -> usize {
        match self {
            Self::AsRead => usize::try_from(num_rows).unwrap_or(usize::MAX),
            Self::Every(size) => {
                usize::try_from(num_rows.div_ceil(*size as u64)).unwrap_or(usize::MAX)
            }
            Self::Ends(ends) => ends.len() - batch,
        }
    }

    /// Returns the rows of a batch that begins at `position`, `None` where that goes by their bytes.
    pub(super) fn rows_from(&self, position: u64, batch: usize) -> Option<usize> {
        match self {
            Self::AsRead => None,
            Self::Every(size) => Some(*size),
            Self::Ends(ends) => {
                let end = ends.get(batch).copied().unwrap_or(position);
                Some(usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX))
            }
        }
    }
}

impl From<usize> for Batches {
    fn from(batch_size: usize) -> Self {
        Self::Every(batch_size)
    }
}
