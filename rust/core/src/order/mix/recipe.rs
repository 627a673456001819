//! What a mixture is made from.

use crate::error::{Error, Result};

/// No mixture is longer than this.
pub(super) const MAX_LEN: u64 = 1 << 62;
/// Weights add up to no more than this, so that twice a sum stays in 64 bits.
const MAX_WEIGHT: u64 = 1 << 60;

/// When an epoch of a mixture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Before a source would begin anew.
    First,
    /// As soon as every source was served whole.
    All,
    /// After so many rows.
    Rows(u64),
}

/// Weights from a row of the training on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The row, counted over all epochs.
    pub start: u64,
    /// The weight of each source.
    pub weights: Vec<u64>,
}

/// What a mixture is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Rows of each source.
    pub sizes: Vec<u64>,
    /// The group of each source, counted from 0 without a gap: sources of a group are read together.
    pub groups: Vec<usize>,
    /// The weights, and from where on they hold: ascending, the first from row 0 on.
    pub stages: Vec<Stage>,
    /// Whether weights go in a straight line from stage to stage.
    pub is_linear: bool,
    /// The row of the training that is the first of this epoch.
    pub first_row: u64,
    /// When the epoch ends.
    pub stop: Stop,
}

impl Recipe {
    /// Returns what it is, as words to hash.
    pub(in crate::order) fn words(&self) -> Vec<u64> {
        let stop = match self.stop {
            Stop::First => [0, 0],
            Stop::All => [1, 0],
            Stop::Rows(rows) => [2, rows],
        };
        let mut words = vec![self.sizes.len() as u64, self.stages.len() as u64];
        words.extend_from_slice(&self.sizes);
        words.extend(self.groups.iter().map(|&group| group as u64));
        for stage in &self.stages {
            words.push(stage.start);
            words.extend_from_slice(&stage.weights);
        }
        words.extend([u64::from(self.is_linear), self.first_row, stop[0], stop[1]]);
        words
    }

    /// Refuses what cannot be mixed.
    pub(super) fn check(&self) -> Result<()> {
        let Self { sizes, groups, stages, .. } = self;
        if sizes.is_empty() {
            return Err(Error::invalid("a mixture of nothing", "at least one source"));
        }
        if let Some(at) = sizes.iter().position(|&size| size == 0) {
            return Err(Error::invalid(
                format!("source number {at} without rows"),
                "at least one row per source",
            ));
        }
        if groups.len() != sizes.len() || groups.iter().any(|&group| group >= groups.len()) {
            return Err(Error::invalid(
                format!("groups {groups:?} of {} sources", sizes.len()),
                "one for each, counted from 0",
            ));
        }
        let ascend = stages.windows(2).all(|pair| pair[0].start < pair[1].start);
        let starts = || stages.iter().map(|stage| stage.start).collect::<Vec<_>>();
        if !ascend || stages.first().is_none_or(|stage| stage.start != 0) {
            return Err(Error::invalid(
                format!("weights from rows {:?} on", starts()),
                "rows that ascend from 0 on",
            ));
        }
        for Stage { start, weights } in stages {
            let total = weights.iter().try_fold(0_u64, |sum, &weight| sum.checked_add(weight));
            let is_fine = total.is_some_and(|total| 0 < total && total <= MAX_WEIGHT);
            if weights.len() != sizes.len() || !is_fine || *start >= MAX_LEN {
                return Err(Error::invalid(
                    format!("weights {weights:?} from row {start} on"),
                    format!(
                        "one for each of {} sources, one above 0, and 2^60 at most",
                        sizes.len()
                    ),
                ));
            }
        }
        if self.first_row >= MAX_LEN {
            return Err(Error::invalid(
                format!("a first row of {}", self.first_row),
                "one below 2^62",
            ));
        }
        Ok(())
    }
}
