//! Which source stands where in a mixture, and which of its rows: arithmetic, no tables.
//!
//! A mixture is a tree. Each node has two sides and gives its row `k` to the one that is furthest behind
//! its share, so the first side has `k · share` rows of the first `k`, rounded. Rows of a side are counted
//! on, and the next node below deals them out in turn. A position is found by one division a node, a run
//! of positions by one addition a node and row.
//!
//! The two lightest nodes are put together until one is left (D. Huffman, 1952), so that errors shrink on
//! their way down: after any number of rows a source is at most 1.7 rows from its share, and at most twice
//! that where sources are read in groups.

mod ramp;
mod recipe;
mod tree;

use std::ops::Range;

use self::ramp::Ramp;
use self::recipe::MAX_LEN;
pub use self::recipe::{Recipe, Stage, Stop};
use self::tree::Tree;
use super::Share;
use crate::error::{Error, Result};

/// An epoch of a mixture: position → source and row of it.
#[derive(Debug)]
pub struct Mix {
    recipe: Recipe,
    num_groups: usize,
    segments: Vec<Segment>,
    len: u64,
}

/// Positions with the same weights.
#[derive(Debug)]
struct Segment {
    start: u64,
    /// Rows of each source, and of each group, before it.
    rows: Vec<u64>,
    group_rows: Vec<u64>,
    tree: Tree,
}

/// A run of rows of a source, or of a group, and their positions.
#[derive(Debug)]
pub struct Dealt<'a> {
    /// The source, or the group.
    pub part: usize,
    /// Its first row; the others follow.
    pub start: u64,
    /// The place of each row.
    pub slots: &'a [u32],
}

/// What rows are dealt out to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Rows of the mixture, to groups.
    Groups,
    /// Rows of the mixture, to sources.
    Sources,
    /// Rows of a group, to its sources.
    SourcesOf(usize),
}

impl Mix {
    /// Returns the mixture of a recipe.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are no sources, one has no rows, stages do not ascend from row 0 on,
    /// there is not a weight for each source or none above 0, or if the epoch would not end.
    pub fn new(recipe: Recipe) -> Result<Self> {
        recipe.check()?;
        let num_groups = recipe.groups.iter().max().map_or(0, |last| last + 1);
        let mut mix = Self { recipe, num_groups, segments: Vec::new(), len: 0 };
        mix.segments = mix.cut();
        mix.len = mix.end()?;
        Ok(mix)
    }

    /// Returns what it was made from.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Returns the number of groups.
    pub fn num_groups(&self) -> usize {
        self.num_groups
    }

    /// Returns the rows of the epoch.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the epoch has no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the rows that each source has of the first `position` rows.
    pub fn counts(&self, position: u64) -> Vec<u64> {
        counts(&self.segments, position)
    }

    /// Returns the rows that a group has of the first `position` rows.
    pub fn group_rows(&self, group: usize, position: u64) -> u64 {
        let segment = at(&self.segments, |segment| segment.start, position);
        let mut rows = segment.group_rows[group];
        segment.tree.count(
            segment.tree.root(),
            position - segment.start,
            true,
            &mut |part, count| {
                if part == group {
                    rows += count;
                }
            },
        );
        rows
    }

    /// Deals the rows at `positions` out, a run of rows of one part at a time. Slots count from `positions.start`.
    ///
    /// There are at most 2³² of them.
    pub fn deal(&self, parts: Parts, positions: Range<u64>, each: &mut impl FnMut(Dealt<'_>)) {
        let start = |segment: &Segment| match parts {
            Parts::SourcesOf(group) => segment.group_rows[group],
            Parts::Groups | Parts::Sources => segment.start,
        };
        let mut position = positions.start;
        while position < positions.end {
            let index = self.segments.partition_point(|segment| start(segment) <= position) - 1;
            let segment = &self.segments[index];
            let next = self.segments.get(index + 1).map_or(u64::MAX, start);
            let end = next.min(positions.end);
            let slots = place(position - positions.start)..place(end - positions.start);
            segment.deal(parts, position - start(segment), slots.collect(), each);
            position = end;
        }
    }

    /// Returns the number of the source at each position.
    pub fn sources(&self, positions: Range<u64>) -> Vec<u64> {
        let count = usize::try_from(positions.end.saturating_sub(positions.start)).unwrap_or(0);
        let mut sources = vec![0; count];
        self.deal(Parts::Sources, positions, &mut |dealt| {
            for &slot in dealt.slots {
                sources[slot as usize] = dealt.part as u64;
            }
        });
        sources
    }

    /// Returns the part of the row at a position, and which of its rows it is.
    pub fn locate(&self, parts: Parts, position: u64) -> (usize, u64) {
        let mut found = (0, 0);
        self.deal(parts, position..position + 1, &mut |dealt| found = (dealt.part, dealt.start));
        found
    }

    /// Returns where the rows of a group lie in a share of the mixture: the first of each batch's,
    /// and where each batch ends if they are laid end to end.
    pub fn runs(&self, group: usize, share: &Share) -> (Vec<u64>, Vec<u64>) {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        let mut end = 0;
        for batch in share.batches() {
            for piece in self.pieces(batch) {
                let start = self.group_rows(group, piece.start);
                end += self.group_rows(group, piece.end) - start;
                starts.push(start);
                ends.push(end);
            }
        }
        (starts, ends)
    }

    /// Returns the rows of a group in each batch of a share, added up.
    pub fn ends(&self, group: usize, share: &Share) -> Vec<u64> {
        let mut end = 0;
        let rows = |batch: Range<u64>| -> u64 {
            let pieces = self.pieces(batch);
            pieces.map(|p| self.group_rows(group, p.end) - self.group_rows(group, p.start)).sum()
        };
        let next = |batch| {
            end += rows(batch);
            end
        };
        share.batches().map(next).collect()
    }

    /// Returns a run of positions that goes on from the start beyond the end, as runs that do not.
    pub fn pieces(&self, positions: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let len = self.len.max(1);
        let mut position = positions.start;
        std::iter::from_fn(move || {
            if position >= positions.end {
                return None;
            }
            let start = position % len;
            let count = (positions.end - position).min(len - start);
            position += count;
            Some(start..start + count)
        })
    }

    /// Returns the segments of an epoch without an end.
    fn cut(&self) -> Vec<Segment> {
        let recipe = &self.recipe;
        let mut segments: Vec<Segment> = Vec::new();
        let mut rows = vec![0; recipe.sizes.len()];
        let mut add = |start: u64, end: u64, weights: &[u64]| -> Vec<u64> {
            let tree = Tree::new(weights, &recipe.groups, self.num_groups);
            let mut group_rows = vec![0; self.num_groups];
            for (&group, &count) in recipe.groups.iter().zip(&rows) {
                group_rows[group] += count;
            }
            let mut counts = vec![0; recipe.sizes.len()];
            tree.count(tree.root(), end - start, false, &mut |source, count| {
                counts[source] = count;
            });
            segments.push(Segment {
                start: start - recipe.first_row,
                rows: rows.clone(),
                group_rows,
                tree,
            });
            for (sum, count) in rows.iter_mut().zip(&counts) {
                *sum += count;
            }
            counts
        };
        for (at, stage) in recipe.stages.iter().enumerate() {
            let next = recipe.stages.get(at + 1);
            let end = next.map_or(recipe.first_row + MAX_LEN, |next| next.start);
            let start = stage.start.max(recipe.first_row);
            if start >= end {
                continue;
            }
            match next.filter(|_| recipe.is_linear) {
                None => {
                    add(start, end, &stage.weights);
                }
                Some(next) => {
                    let mut ramp = Ramp::new(stage, next);
                    for (start, end) in ramp::stretches(start, end) {
                        let counts = add(start, end, &ramp.weights(start, end));
                        ramp.served(&counts);
                    }
                }
            }
        }
        segments
    }

    /// Returns where the epoch ends.
    fn end(&self) -> Result<u64> {
        let sizes = &self.recipe.sizes;
        let counts = |position| counts(&self.segments, position);
        let holds = |position: u64| match self.recipe.stop {
            Stop::First => counts(position).iter().zip(sizes).all(|(count, size)| count <= size),
            Stop::All => counts(position).iter().zip(sizes).any(|(count, size)| count < size),
            Stop::Rows(_) => false,
        };
        if let Stop::Rows(rows) = self.recipe.stop {
            return if rows < MAX_LEN {
                Ok(rows)
            } else {
                Err(Error::invalid(format!("a mixture of {rows} rows"), "fewer than 2^62"))
            };
        }
        // It holds at `low`, and does not at `high`.
        let (mut low, mut high) = (0, MAX_LEN);
        if holds(high) {
            let missing = counts(high).iter().zip(sizes).position(|(count, size)| count < size);
            return Err(Error::invalid(
                format!("source number {}, which is never served whole", missing.unwrap_or(0)),
                "a weight above 0, or an end after a number of rows",
            ));
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            *(if holds(middle) { &mut low } else { &mut high }) = middle;
        }
        Ok(if self.recipe.stop == Stop::First { low } else { high })
    }
}

impl Segment {
    fn deal(&self, parts: Parts, start: u64, slots: Vec<u32>, each: &mut impl FnMut(Dealt<'_>)) {
        let root = match parts {
            Parts::SourcesOf(group) => self.tree.group(group),
            Parts::Groups | Parts::Sources => Some(self.tree.root()),
        };
        let to_groups = parts == Parts::Groups;
        let before = if to_groups { &self.group_rows } else { &self.rows };
        // Only a group without weight has no node, and it has no rows here.
        if let Some(root) = root {
            self.tree.deal(root, start, slots, to_groups, &mut |part, start, slots| {
                each(Dealt { part, start: before[part] + start, slots });
            });
        }
    }
}

fn counts(segments: &[Segment], position: u64) -> Vec<u64> {
    let segment = at(segments, |segment| segment.start, position);
    let mut rows = segment.rows.clone();
    let tree = &segment.tree;
    tree.count(tree.root(), position - segment.start, false, &mut |part, count| {
        rows[part] += count;
    });
    rows
}

fn at(segments: &[Segment], start: impl Fn(&Segment) -> u64, position: u64) -> &Segment {
    // OK: the first one starts at 0.
    &segments[segments.partition_point(|segment| start(segment) <= position) - 1]
}

#[expect(clippy::cast_possible_truncation, reason = "a place in a batch")]
fn place(distance: u64) -> u32 {
    distance as u32
}

#[cfg(test)]
mod tests;
