//! Fits the documents of one window into blocks.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::error::Result;
use crate::interrupt;

/// Parts placed between two looks at whether the caller was interrupted.
const INTERRUPT_PARTS: usize = 1 << 14;

/// Tokens `start..start + len` of the document at place `row` of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) row: u32,
    pub(super) start: u32,
    pub(super) len: u32,
}

/// How a part finds its block among those that have room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Documents as they come, each into the block opened first.
    First,
    /// The longest document first, each into the block with the least room left; of equal ones the
    /// earlier document, into the block opened first.
    Best,
}

/// The blocks of a window: parts, and the end of each block's among them.
#[derive(Debug, Default)]
pub(super) struct Fitted {
    pub(super) parts: Vec<Part>,
    pub(super) ends: Vec<usize>,
}

/// Returns how many blocks `lengths` need.
pub(super) fn count(lengths: &[u32], block: u32, rule: Rule) -> Result<u64> {
    let full: u64 = lengths.iter().map(|&len| u64::from(len / block)).sum();
    let (_, openers) = place(&rests(lengths, block), block, rule)?;
    Ok(full + openers.len() as u64)
}

/// Returns the blocks of `lengths`.
///
/// Documents of more than a block give full blocks from their start on, and what is left is fitted.
/// Blocks come in the order of the part that opened them, the parts of a block in the order of their
/// documents: neither says anything of length, if the documents come in random order.
pub(super) fn fit(lengths: &[u32], block: u32, rule: Rule) -> Result<Fitted> {
    let mut rests = rests(lengths, block);
    let (places, openers) = place(&rests, block, rule)?;
    // Each part with the part that opened its block.
    let mut parts: Vec<(Part, Part)> =
        places.iter().map(|&(rest, block)| (rests[openers[block as usize]], rests[rest])).collect();
    rests.clear();
    for (&len, row) in lengths.iter().zip(0..) {
        for start in (0..len / block).map(|k| k * block) {
            let part = Part { row, start, len: block };
            parts.push((part, part));
        }
    }
    parts.sort_unstable();
    let mut fitted = Fitted::default();
    for (at, (opener, part)) in parts.iter().enumerate() {
        fitted.parts.push(*part);
        if parts.get(at + 1).is_none_or(|(next, _)| next != opener) {
            fitted.ends.push(at + 1);
        }
    }
    Ok(fitted)
}

/// Returns what is left of each document after its full blocks.
fn rests(lengths: &[u32], block: u32) -> Vec<Part> {
    let rest = |(&len, row): (&u32, u32)| Part { row, start: len - len % block, len: len % block };
    lengths.iter().zip(0..).map(rest).filter(|part| part.len > 0).collect()
}

/// `(part, block)` of each part, and the part that opened each block.
type Placed = (Vec<(usize, u32)>, Vec<usize>);

fn place(parts: &[Part], block: u32, rule: Rule) -> Result<Placed> {
    match rule {
        Rule::First => first_fit(parts, block),
        Rule::Best => best_fit(parts, block),
    }
}

/// Room left in each block, as a tree of maxima: the first block with room is found from the top.
struct Rooms {
    tree: Vec<u32>,
    leaves: usize,
}

impl Rooms {
    /// Makes a tree for up to `most` blocks.
    fn new(most: usize) -> Self {
        let leaves = most.next_power_of_two();
        Self { tree: vec![0; 2 * leaves], leaves }
    }

    fn first_with(&self, len: u32) -> Option<usize> {
        if self.tree[1] < len {
            return None;
        }
        let mut node = 1;
        while node < self.leaves {
            node = 2 * node + usize::from(self.tree[2 * node] < len);
        }
        Some(node - self.leaves)
    }

    fn room(&self, block: usize) -> u32 {
        self.tree[self.leaves + block]
    }

    fn set(&mut self, block: usize, room: u32) {
        let mut node = self.leaves + block;
        self.tree[node] = room;
        while node > 1 {
            node /= 2;
            let room = self.tree[2 * node].max(self.tree[2 * node + 1]);
            if self.tree[node] == room {
                break;
            }
            self.tree[node] = room;
        }
    }
}

fn first_fit(parts: &[Part], block: u32) -> Result<Placed> {
    let mut rooms = Rooms::new(parts.len().max(1));
    let mut openers = Vec::new();
    let mut places = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        if at.is_multiple_of(INTERRUPT_PARTS) {
            interrupt::check()?;
        }
        let found = rooms.first_with(part.len).unwrap_or_else(|| {
            openers.push(at);
            rooms.set(openers.len() - 1, block);
            openers.len() - 1
        });
        rooms.set(found, rooms.room(found) - part.len);
        places.push((at, u32::try_from(found).expect("a block for each row at most")));
    }
    Ok((places, openers))
}

fn best_fit(parts: &[Part], block: u32) -> Result<Placed> {
    let mut longest_first: Vec<usize> = (0..parts.len()).collect();
    longest_first.sort_unstable_by_key(|&at| (Reverse(parts[at].len), at));
    let mut rooms: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut openers = Vec::new();
    let mut places = Vec::with_capacity(parts.len());
    for (number, at) in longest_first.into_iter().enumerate() {
        if number.is_multiple_of(INTERRUPT_PARTS) {
            interrupt::check()?;
        }
        let len = parts[at].len;
        let found = rooms.range((len, 0)..).next().copied();
        let (room, found) = found.unwrap_or_else(|| {
            openers.push(at);
            (block, u32::try_from(openers.len() - 1).expect("a block for each row at most"))
        });
        rooms.remove(&(room, found));
        if room > len {
            rooms.insert((room - len, found));
        }
        places.push((at, found));
    }
    Ok((places, openers))
}
