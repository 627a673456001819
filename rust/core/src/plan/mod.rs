//! Stage 2, PLAN: row offsets → the reads that cover them, and the position of each row in them.
//!
//! Pure arithmetic: no I/O, no Lance.

mod layout;

use std::ops::Range;

pub use layout::{FragmentRows, Layout, RowAddress};

use crate::error::Result;

/// The rows to read from one fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The fragment's index in its [`Layout`].
    pub fragment: usize,
    /// Places in the fragment: ascending, disjoint, not touching, never empty.
    pub places: Vec<Range<u32>>,
    /// Rows in all of `places`.
    pub num_rows: usize,
}

/// Where the rows of one batch come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By ascending fragment.
    pub reads: Vec<Read>,
    /// The rows of the batch, in its order.
    pub rows: Rows,
}

/// Which row of which read each row of a batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// Every row of every read, in the order read.
    AsRead,
    /// `(read, row)` for each, `row` counted from the first row of that read.
    Picked(Vec<(usize, usize)>),
}

/// Finds the reads that cover `offsets`, and the place of every row in them.
///
/// `offsets` are row offsets in `0..layout.num_rows()`, in the order the caller wants the rows;
/// repeats are fine. A row asked for twice is read once. Costs `O(b log b)` time and `O(b)` memory
/// for `b = offsets.len()`, without the sort if they ascend.
///
/// # Errors
///
/// [`OutOfRange`](crate::Error::OutOfRange), naming an offset that is too large.
pub fn plan(layout: &Layout, offsets: &[u64]) -> Result<Plan> {
    let mut reads = Vec::new();
    if offsets.is_sorted_by(|a, b| a < b) {
        let mut walk = Walk { layout, reads: &mut reads, hint: 0 };
        for &offset in offsets {
            walk.add(offset)?;
        }
        return Ok(Plan { reads, rows: Rows::AsRead });
    }
    let mut sorted: Vec<(u64, usize)> = offsets.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let mut rows = vec![(0, 0); offsets.len()];
    let mut walk = Walk { layout, reads: &mut reads, hint: 0 };
    let mut last = None;
    for (offset, row) in sorted {
        if last != Some(offset) {
            walk.add(offset)?;
            last = Some(offset);
        }
        rows[row] = walk.last();
    }
    Ok(Plan { reads, rows: Rows::Picked(rows) })
}

/// Returns the reads that cover a run of offsets, in storage order.
///
/// Like [`plan`] for consecutive offsets, without looking at each where nothing was deleted.
///
/// # Errors
///
/// [`OutOfRange`](crate::Error::OutOfRange) if it ends beyond the last row.
pub fn plan_run(layout: &Layout, offsets: Range<u64>) -> Result<Vec<Read>> {
    let mut reads = Vec::new();
    if offsets.is_empty() {
        return Ok(reads);
    }
    let (first, _) = layout.locate(offsets.start, 0)?;
    layout.locate(offsets.end - 1, first)?;
    for fragment in first..layout.fragments().len() {
        let rows = layout.offsets_of(fragment);
        let (start, end) = (offsets.start.max(rows.start), offsets.end.min(rows.end));
        if start >= end {
            if rows.start >= offsets.end {
                break;
            }
            continue;
        }
        let places = layout.fragments()[fragment].places(start - rows.start..end - rows.start);
        let num_rows = places.iter().map(ExactSizeIterator::len).sum();
        reads.push(Read { fragment, places, num_rows });
    }
    Ok(reads)
}

/// Collects ascending, distinct offsets into reads.
struct Walk<'a> {
    layout: &'a Layout,
    reads: &'a mut Vec<Read>,
    hint: usize,
}

impl Walk<'_> {
    fn add(&mut self, offset: u64) -> Result<()> {
        let (fragment, place) = self.layout.locate(offset, self.hint)?;
        self.hint = fragment;
        if self.reads.last().is_none_or(|read| read.fragment != fragment) {
            let places = Vec::new();
            self.reads.push(Read { fragment, places, num_rows: 0 });
        }
        let read = self.reads.last_mut().expect("one was just pushed");
        read.num_rows += 1;
        match read.places.last_mut() {
            Some(range) if range.end == place => range.end = place + 1,
            _ => read.places.push(place..place + 1),
        }
        Ok(())
    }

    /// Returns the read and row of the offset added last.
    fn last(&self) -> (usize, usize) {
        let at = self.reads.len() - 1;
        (at, self.reads[at].num_rows - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Bitmap;
    use proptest::prelude::*;

    fn layout(fragments: &[(u32, Vec<bool>)]) -> Layout {
        let fragments = fragments.iter().map(|(id, live)| FragmentRows {
            id: *id,
            num_places: u32::try_from(live.len()).unwrap(),
            live: live.contains(&false).then(|| {
                let live = live.iter().zip(0..).filter(|(live, _)| **live);
                Bitmap::from_offsets(live.map(|(_, place)| place).collect())
            }),
        });
        Layout::new(fragments.collect()).unwrap()
    }

    /// Every live row's address, the obvious way.
    fn rows(fragments: &[(u32, Vec<bool>)]) -> Vec<(u32, u32)> {
        let rows = fragments.iter().flat_map(|(id, live)| {
            let places = live.iter().zip(0..).filter(|(live, _)| **live);
            places.map(|(_, place)| (*id, place))
        });
        rows.collect()
    }

    /// The address of each row a plan gives, in batch order.
    fn answer(layout: &Layout, plan: &Plan) -> Vec<(u32, u32)> {
        let read = |read: &Read| -> Vec<(u32, u32)> {
            let id = layout.fragments()[read.fragment].id;
            let places = read.places.iter().cloned().flatten();
            places.map(|place| (id, place)).collect()
        };
        let reads: Vec<_> = plan.reads.iter().map(read).collect();
        match &plan.rows {
            Rows::AsRead => reads.concat(),
            Rows::Picked(rows) => rows.iter().map(|&(read, row)| reads[read][row]).collect(),
        }
    }

    proptest! {
        #[test]
        fn every_row_is_read_once_and_answered_where_it_was_asked(
            fragments in prop::collection::vec(prop::collection::vec(any::<bool>(), 0..20), 1..6),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            ascending in any::<bool>(),
        ) {
            let fragments: Vec<(u32, Vec<bool>)> = (0..).step_by(3).zip(fragments).collect();
            let layout = layout(&fragments);
            let rows = rows(&fragments);
            prop_assert_eq!(layout.num_rows(), rows.len() as u64);
            prop_assume!(!rows.is_empty());
            let mut offsets: Vec<u64> = picks.iter().map(|p| p.index(rows.len()) as u64).collect();
            if ascending {
                offsets.sort_unstable();
                offsets.dedup();
            }
            let plan = plan(&layout, &offsets).unwrap();
            let wanted: Vec<_> = offsets.iter().map(|&k| rows[usize::try_from(k).unwrap()]).collect();
            prop_assert_eq!(answer(&layout, &plan), wanted);

            let mut distinct = offsets.clone();
            distinct.sort_unstable();
            distinct.dedup();
            if let (Some(&first), Some(&last)) = (offsets.first(), offsets.last())
                && ascending
            {
                let run = plan_run(&layout, first..last + 1).unwrap();
                let all: Vec<u64> = (first..=last).collect();
                prop_assert_eq!(run, super::plan(&layout, &all).unwrap().reads);
            }
            let read: usize = plan.reads.iter().map(|read| read.num_rows).sum();
            prop_assert_eq!(read, distinct.len());
            prop_assert!(plan.reads.is_sorted_by(|a, b| a.fragment < b.fragment));
            for read in &plan.reads {
                prop_assert!(read.places.iter().all(|range| range.start < range.end));
                prop_assert!(read.places.is_sorted_by(|a, b| a.end < b.start));
                prop_assert_eq!(read.places.iter().map(ExactSizeIterator::len).sum::<usize>(), read.num_rows);
            }
        }
    }

    #[test]
    fn no_offsets_need_no_reads_and_a_large_one_is_refused() {
        let layout = layout(&[(0, vec![true; 3])]);
        assert_eq!(plan(&layout, &[]).unwrap().reads, []);
        assert!(plan(&layout, &[0, 3]).is_err());
        assert!(plan(&layout, &[3, 0]).is_err());
    }
}
