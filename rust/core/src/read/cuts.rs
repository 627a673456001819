//! Where the batches of a window end.

use std::ops::Range;

/// How a window of rows is cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts<'a> {
    /// Batches of so many rows; only the last may be shorter. Even no rows are a batch.
    Every(usize),
    /// The places where batches end, ascending, the last one being the rows of the window.
    Ends(&'a [usize]),
}

impl Cuts<'_> {
    /// Returns the batches of a window of `num_rows` rows.
    pub(crate) fn ranges(self, num_rows: usize) -> impl Iterator<Item = Range<usize>> {
        let count = match self {
            Self::Every(size) => num_rows.div_ceil(size).max(1),
            Self::Ends(ends) => ends.len(),
        };
        (0..count).map(move |batch| match self {
            Self::Every(size) => batch * size..num_rows.min((batch + 1) * size),
            Self::Ends(ends) => batch.checked_sub(1).map_or(0, |before| ends[before])..ends[batch],
        })
    }
}

impl From<usize> for Cuts<'_> {
    fn from(batch_size: usize) -> Self {
        Self::Every(batch_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_whole() {
        let cut = |cuts: Cuts<'_>, rows| cuts.ranges(rows).collect::<Vec<_>>();
        assert_eq!(cut(Cuts::Every(3), 7), [0..3, 3..6, 6..7]);
        assert_eq!(cut(Cuts::Every(3), 6), [0..3, 3..6]);
        assert_eq!(cut(Cuts::Every(3), 0), vec![0..0]);
        assert_eq!(cut(Cuts::Ends(&[2, 2, 7]), 7), [0..2, 2..2, 2..7]);
    }
}
