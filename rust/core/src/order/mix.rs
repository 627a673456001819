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

use std::ops::Range;

use super::Share;
use crate::error::{Error, Result};

/// Weights of a segment add up to no more than this, so that twice a sum stays in 64 bits.
const MAX_WEIGHT: u64 = 1 << 60;
/// What the weights of a stretch of a ramp add up to, about.
const RAMP_WEIGHT: f64 = (1_u64 << 40) as f64;
/// Stretches that a ramp is cut into.
const RAMP_SEGMENTS: u64 = 1024;
/// No mixture is longer than this.
const MAX_LEN: u64 = 1 << 62;

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
    /// What it is, as words to hash.
    pub(super) fn words(&self) -> Vec<u64> {
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
}

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

#[derive(Debug)]
struct Tree {
    nodes: Vec<Node>,
    root: usize,
    /// The node of each group, if it has a weight here.
    groups: Vec<Option<usize>>,
}

#[derive(Debug)]
enum Node {
    Source(usize),
    Group { group: usize, node: usize },
    Split { sides: [usize; 2], first: u64, total: u64 },
}

/// A run of rows of a source, or of a group, and where they stand.
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
    /// The mixture of a recipe.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are no sources, one has no rows, stages do not ascend from row 0 on,
    /// there is not a weight for each source or none above 0, or if the epoch would not end.
    pub fn new(recipe: Recipe) -> Result<Self> {
        check(&recipe)?;
        let num_groups = recipe.groups.iter().max().map_or(0, |last| last + 1);
        let mut mix = Self { recipe, num_groups, segments: Vec::new(), len: 0 };
        mix.segments = mix.cut()?;
        mix.len = mix.end()?;
        Ok(mix)
    }

    /// What it was made from.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The number of groups.
    pub fn num_groups(&self) -> usize {
        self.num_groups
    }

    /// Rows of the epoch.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the epoch has no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rows that each source has of the first `position` rows.
    pub fn counts(&self, position: u64) -> Vec<u64> {
        counts(&self.segments, position)
    }

    /// The rows that a group has of the first `position` rows.
    pub fn group_rows(&self, group: usize, position: u64) -> u64 {
        let segment = at(&self.segments, |segment| segment.start, position);
        let mut rows = segment.group_rows[group];
        segment.tree.count(
            segment.tree.root,
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

    /// The part of the row at a position, and which of its rows it is.
    pub fn locate(&self, parts: Parts, position: u64) -> (usize, u64) {
        let mut found = (0, 0);
        self.deal(parts, position..position + 1, &mut |dealt| found = (dealt.part, dealt.start));
        found
    }

    /// Where the rows of a group lie in a share of the mixture: the first of each batch's, and where each
    /// batch ends if they are laid end to end.
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

    /// The rows of a group in each batch of a share, added up.
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

    /// A run of positions that goes on from the start beyond the end, as runs that do not.
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

    /// The segments of an epoch without an end.
    fn cut(&self) -> Result<Vec<Segment>> {
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
            tree.count(tree.root, end - start, false, &mut |source, count| counts[source] = count);
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
                    let ramp = Ramp::new(stage, next);
                    let mut behind = vec![0.0; recipe.sizes.len()];
                    let count = RAMP_SEGMENTS.min(end - start);
                    let cut = |k: u64| {
                        let length = u128::from(end - start) * u128::from(k) / u128::from(count);
                        start + u64::try_from(length).unwrap_or(0)
                    };
                    for (start, end) in (0..count).map(|k| (cut(k), cut(k + 1))) {
                        let wanted = ramp.rows(start, end);
                        for (behind, wanted) in behind.iter_mut().zip(&wanted) {
                            *behind += wanted;
                        }
                        let counts = add(start, end, &whole(&behind));
                        for (behind, count) in behind.iter_mut().zip(counts) {
                            *behind -= real(count);
                        }
                    }
                }
            }
        }
        Ok(segments)
    }

    /// Where the epoch ends.
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
            Parts::SourcesOf(group) => self.tree.groups[group],
            Parts::Groups | Parts::Sources => Some(self.tree.root),
        };
        let before = if parts == Parts::Groups { &self.group_rows } else { &self.rows };
        // Only a group without weight has no node, and it has no rows here.
        let mut waiting: Vec<_> = root.map(|root| (root, start, slots)).into_iter().collect();
        while let Some((node, start, slots)) = waiting.pop() {
            if slots.is_empty() {
                continue;
            }
            match self.tree.nodes[node] {
                Node::Group { group: part, .. } if parts == Parts::Groups => {
                    each(Dealt { part, start: before[part] + start, slots: &slots });
                }
                Node::Source(part) => {
                    each(Dealt { part, start: before[part] + start, slots: &slots });
                }
                Node::Group { node, .. } => waiting.push((node, start, slots)),
                Node::Split { sides, first, total } => {
                    let count = share_of(start, first, total);
                    let [left, right] = dealt_to_two(start, first, total, &slots);
                    waiting.push((sides[0], count, left));
                    waiting.push((sides[1], start - count, right));
                }
            }
        }
    }
}

impl Tree {
    fn new(weights: &[u64], groups: &[usize], num_groups: usize) -> Self {
        let mut tree = Self { nodes: Vec::new(), root: 0, groups: vec![None; num_groups] };
        let mut tops = Vec::new();
        let mut members: Vec<Vec<(u64, usize)>> = vec![Vec::new(); num_groups];
        for (source, (&weight, &group)) in weights.iter().zip(groups).enumerate() {
            if weight > 0 {
                members[group].push((weight, tree.add(Node::Source(source))));
            }
        }
        for (group, members) in members.into_iter().enumerate() {
            if let Some((weight, node)) = tree.join(members) {
                let top = tree.add(Node::Group { group, node });
                tree.groups[group] = Some(node);
                tops.push((weight, top));
            }
        }
        tree.root = tree.join(tops).map_or(0, |(_, node)| node);
        tree
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Puts nodes together: the two lightest, of equals those that came first, until one is left.
    fn join(&mut self, nodes: Vec<(u64, usize)>) -> Option<(u64, usize)> {
        use std::cmp::Reverse;
        use std::collections::BinaryHeap;

        let mut heap: BinaryHeap<_> = nodes.into_iter().map(Reverse).collect();
        while let Some(Reverse((weight, node))) = heap.pop() {
            let Some(Reverse((other, sibling))) = heap.pop() else {
                return Some((weight, node));
            };
            let total = weight + other;
            // The heavier side first; of two equals, the one that came first.
            let (first, sides) =
                if other > weight { (other, [sibling, node]) } else { (weight, [node, sibling]) };
            heap.push(Reverse((total, self.add(Node::Split { sides, first, total }))));
        }
        None
    }

    /// The rows of each part in the first `rows` of a node.
    fn count(&self, node: usize, rows: u64, to_groups: bool, each: &mut impl FnMut(usize, u64)) {
        let mut waiting = vec![(node, rows)];
        while let Some((node, rows)) = waiting.pop() {
            match self.nodes[node] {
                Node::Source(part) => each(part, rows),
                Node::Group { group, .. } if to_groups => each(group, rows),
                Node::Group { node, .. } => waiting.push((node, rows)),
                Node::Split { sides, first, total } => {
                    let count = share_of(rows, first, total);
                    waiting.push((sides[0], count));
                    waiting.push((sides[1], rows - count));
                }
            }
        }
    }
}

/// `rows · first / total`, rounded; halves up.
fn share_of(rows: u64, first: u64, total: u64) -> u64 {
    let doubled = rows.checked_mul(2).and_then(|rows| rows.checked_mul(first));
    if let Some(sum) = doubled.and_then(|product| product.checked_add(total)) {
        return sum / (2 * total);
    }
    let sum = 2 * u128::from(rows) * u128::from(first) + u128::from(total);
    // OK: it is at most `rows`.
    u64::try_from(sum / (2 * u128::from(total))).unwrap_or(rows)
}

/// The slots of each side, for rows from `start` on.
fn dealt_to_two(start: u64, first: u64, total: u64, slots: &[u32]) -> [Vec<u32>; 2] {
    let whole = 2 * u128::from(total);
    let rest = (2 * u128::from(start) * u128::from(first) + u128::from(total)) % whole;
    // OK: totals are at most 2^60.
    let mut rest = u64::try_from(rest).unwrap_or(0);
    let (whole, step) = (2 * total, 2 * first);
    let mut sides = [Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len() / 2 + 1)];
    for &slot in slots {
        rest += step;
        let is_first = rest >= whole;
        rest -= if is_first { whole } else { 0 };
        sides[usize::from(!is_first)].push(slot);
    }
    sides
}

fn counts(segments: &[Segment], position: u64) -> Vec<u64> {
    let segment = at(segments, |segment| segment.start, position);
    let mut rows = segment.rows.clone();
    let tree = &segment.tree;
    tree.count(tree.root, position - segment.start, false, &mut |part, count| rows[part] += count);
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

/// Weights on their way from one stage to the next.
struct Ramp {
    start: f64,
    end: f64,
    from: Vec<f64>,
    to: Vec<f64>,
}

impl Ramp {
    fn new(stage: &Stage, next: &Stage) -> Self {
        let (start, end) = (real(stage.start), real(next.start));
        Self { start, end, from: shares(&stage.weights), to: shares(&next.weights) }
    }

    /// The rows of each source between two rows.
    fn rows(&self, start: u64, end: u64) -> Vec<f64> {
        let middle = (real(start) + real(end)) / 2.0;
        let way = (middle - self.start) / (self.end - self.start);
        let share = |(from, to): (&f64, &f64)| (from + (to - from) * way) * real(end - start);
        self.from.iter().zip(&self.to).map(share).collect()
    }
}

fn shares(weights: &[u64]) -> Vec<f64> {
    let total = real(weights.iter().sum());
    weights.iter().map(|&weight| real(weight) / total).collect()
}

/// Weights as whole numbers.
fn whole(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().map(|weight| weight.max(0.0)).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^40")]
    let number = |weight: &f64| (weight.max(0.0) / total * RAMP_WEIGHT).round() as u64;
    weights.iter().map(number).collect()
}

#[expect(clippy::cast_precision_loss, reason = "rows beyond 2^53 may be off by a few")]
fn real(number: u64) -> f64 {
    number as f64
}

fn check(recipe: &Recipe) -> Result<()> {
    let Recipe { sizes, groups, stages, .. } = recipe;
    if sizes.is_empty() {
        return Err(Error::invalid("a mixture of nothing", "at least one source"));
    }
    if let Some(at) = sizes.iter().position(|&size| size == 0) {
        return Err(Error::invalid(format!("source number {at} without rows"), "at least one"));
    }
    if groups.len() != sizes.len() || groups.iter().any(|&group| group >= groups.len()) {
        return Err(Error::invalid(
            format!("groups {groups:?} of {} sources", sizes.len()),
            "one for each, counted from 0",
        ));
    }
    let ascend = stages.windows(2).all(|pair| pair[0].start < pair[1].start);
    if !ascend || stages.first().is_none_or(|stage| stage.start != 0) {
        return Err(Error::invalid("weights", "rows that ascend from 0 on"));
    }
    for Stage { start, weights } in stages {
        let total = weights.iter().try_fold(0_u64, |sum, &weight| sum.checked_add(weight));
        let is_fine = total.is_some_and(|total| 0 < total && total <= MAX_WEIGHT);
        if weights.len() != sizes.len() || !is_fine || *start >= MAX_LEN {
            return Err(Error::invalid(
                format!("weights {weights:?} from row {start} on"),
                format!("one for each of {} sources, one above 0, and 2^60 at most", sizes.len()),
            ));
        }
    }
    if recipe.first_row >= MAX_LEN {
        return Err(Error::invalid(format!("row {}", recipe.first_row), "fewer than 2^62 rows"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
