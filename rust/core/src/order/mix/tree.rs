//! Rows dealt out by a tree of nodes with two sides each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Sources by their weights.
#[derive(Debug)]
pub(super) struct Tree {
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

impl Tree {
    /// Returns the tree of the sources whose weight is above 0, groups first.
    pub(super) fn new(weights: &[u64], groups: &[usize], num_groups: usize) -> Self {
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

    /// Counts the rows of each part among the first `rows` of a node.
    pub(super) fn count(
        &self,
        node: usize,
        rows: u64,
        to_groups: bool,
        each: &mut impl FnMut(usize, u64),
    ) {
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

    /// Returns the node of everything.
    pub(super) fn root(&self) -> usize {
        self.root
    }

    /// Returns the node of a group, if it has a weight.
    pub(super) fn group(&self, group: usize) -> Option<usize> {
        self.groups[group]
    }

    /// Deals rows of a node out, from `start` on, one for each of `slots`: calls `each` with a part, the
    /// first of its rows, and the slots of its rows.
    pub(super) fn deal(
        &self,
        node: usize,
        start: u64,
        slots: Vec<u32>,
        to_groups: bool,
        each: &mut impl FnMut(usize, u64, &[u32]),
    ) {
        let mut waiting = vec![(node, start, slots)];
        while let Some((node, start, slots)) = waiting.pop() {
            if slots.is_empty() {
                continue;
            }
            match self.nodes[node] {
                Node::Group { group, .. } if to_groups => each(group, start, &slots),
                Node::Source(source) => each(source, start, &slots),
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

/// Returns `rows · first / total`, rounded half up.
fn share_of(rows: u64, first: u64, total: u64) -> u64 {
    let doubled = rows.checked_mul(2).and_then(|rows| rows.checked_mul(first));
    if let Some(sum) = doubled.and_then(|product| product.checked_add(total)) {
        return sum / (2 * total);
    }
    let sum = 2 * u128::from(rows) * u128::from(first) + u128::from(total);
    // OK: it is at most `rows`.
    u64::try_from(sum / (2 * u128::from(total))).unwrap_or(rows)
}

/// Returns the slots of each side, for rows from `start` on.
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
