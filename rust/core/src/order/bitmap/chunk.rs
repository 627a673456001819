//! The three forms of a chunk of a bitmap.

#![expect(clippy::inline_always, reason = "compiled anew for the processor, see `Tuned`")]

use super::super::nowhere::NOWHERE;
use crate::error::{Error, Result};
use crate::processor::{Processor, prefetch};

pub(super) const CHUNK_BITS: u32 = 16;
pub(super) const CHUNK_ROWS: usize = 1 << CHUNK_BITS;
const WORDS: usize = CHUNK_ROWS / 64;
/// Words per rank entry of a bitset.
const BLOCK_WORDS: usize = 4;
const BLOCKS: usize = WORDS / BLOCK_WORDS;
/// Rank entries that are looked through at once: a cache line.
const GROUP: usize = 32;
const GROUPS: usize = BLOCKS / GROUP;
/// A list of more values than this is larger than a bitset with its ranks.
const LIST_MAX: usize = usize::midpoint(CHUNK_ROWS / 8, 2 * BLOCKS);

/// The places that are members of one chunk; at least one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    Runs(Box<[Run]>),
    List(Box<[u16]>),
    Bits(Bits),
}

/// `first..=last`, with the number of members before it in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    first: u16,
    last: u16,
    rank: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    /// Members before each group of blocks. They lie with the chunk, and are not waited for.
    starts: [u16; GROUPS],
    blocks: Box<Blocks>,
}

// Aligned, so that a block lies in one cache line, and a group too.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(align(64))]
struct Blocks {
    words: [u64; WORDS],
    /// Members before each block.
    ranks: [[u16; GROUP]; GROUPS],
}

impl Chunk {
    pub(super) fn smallest(runs: &[(u16, u16)]) -> Self {
        let len: usize = runs.iter().map(|&(first, last)| usize::from(last - first) + 1).sum();
        let list = if len <= LIST_MAX { len * 2 } else { usize::MAX };
        if runs.len() * size_of::<Run>() <= list.min(size_of::<Blocks>()) {
            let mut rank = 0_u16;
            let runs = runs.iter().map(|&(first, last)| {
                let run = Run { first, last, rank };
                // Wraps only after the last run of a full chunk, where it is not used.
                rank = rank.wrapping_add(last - first).wrapping_add(1);
                run
            });
            return Self::Runs(runs.collect());
        }
        let members = || runs.iter().flat_map(|&(first, last)| first..=last);
        if list <= size_of::<Blocks>() {
            return Self::List(members().collect());
        }
        let mut words = [0; WORDS];
        for member in members() {
            words[usize::from(member) / 64] |= 1 << (member % 64);
        }
        Self::Bits(Bits::new(&words))
    }

    /// Returns the group of blocks that the member of a rank lies in, whose ranks are fetched; 0
    /// where there are none.
    #[inline(always)]
    pub(super) fn group_of(&self, rank: u16) -> u8 {
        match self {
            Self::Runs(_) => 0,
            Self::List(list) => {
                prefetch(&list[usize::from(rank)]);
                0
            }
            Self::Bits(bits) => {
                let group = bits.group_of(rank);
                prefetch(&bits.blocks.ranks[usize::from(group)]);
                group
            }
        }
    }

    /// Returns the block of that group, whose words are fetched.
    #[inline(always)]
    pub(super) fn block_of(&self, group: u8, rank: u16) -> u8 {
        match self {
            Self::Runs(_) | Self::List(_) => 0,
            Self::Bits(bits) => {
                let block = bits.block_of(group, rank);
                prefetch(&bits.blocks.words[usize::from(block) * BLOCK_WORDS]);
                block
            }
        }
    }

    /// Returns the member of a rank, which lies in this block.
    #[inline(always)]
    pub(super) fn select(&self, block: u8, rank: u16, processor: Processor) -> u16 {
        match self {
            Self::Runs(runs) => {
                let run = &runs[runs.partition_point(|run| run.rank <= rank) - 1];
                run.first + (rank - run.rank)
            }
            Self::List(list) => list[usize::from(rank)],
            Self::Bits(bits) => {
                let (at, left) = bits.word_of(block, rank);
                let word = bits.blocks.words[at];
                let place = match processor.select(word, left) {
                    Some(place) => low16(place.into()),
                    None => select_in_word(word, left),
                };
                low16(at as u64 * 64) | place
            }
        }
    }

    /// Writes the members from `rank` on, each added to `base`, to `out`.
    pub(super) fn fill(&self, base: u64, rank: u16, out: &mut [u64]) {
        match self {
            Self::Runs(runs) => {
                let (mut rank, mut out) = (rank, out);
                for run in &runs[runs.partition_point(|run| run.rank <= rank) - 1..] {
                    if out.is_empty() {
                        break;
                    }
                    let first = run.first + (rank - run.rank);
                    let count = out.len().min(usize::from(run.last - first) + 1);
                    let (head, rest) = out.split_at_mut(count);
                    for (member, place) in head.iter_mut().zip(base + u64::from(first)..) {
                        *member = place;
                    }
                    out = rest;
                    // As in `smallest`: wraps only where there is no next run.
                    rank = run.rank.wrapping_add(run.last - run.first).wrapping_add(1);
                }
            }
            Self::List(list) => {
                for (member, &place) in out.iter_mut().zip(&list[usize::from(rank)..]) {
                    *member = base + u64::from(place);
                }
            }
            Self::Bits(bits) => bits.fill(base, rank, out),
        }
    }

    pub(super) fn rank(&self, place: u16) -> u16 {
        match self {
            Self::Runs(runs) => match runs.partition_point(|run| run.first < place) {
                0 => 0,
                at => {
                    let run = &runs[at - 1];
                    let end = u32::from(place).min(u32::from(run.last) + 1);
                    // Fits, as `place` itself is not counted.
                    run.rank + low16(u64::from(end - u32::from(run.first)))
                }
            },
            Self::List(list) => at_most_u16(list.partition_point(|&member| member < place)),
            Self::Bits(bits) => bits.rank(place),
        }
    }

    /// Fetches what [`invert`](Self::invert) reads for a place, where that is known beforehand.
    #[inline(always)]
    pub(super) fn fetch(&self, place: u16) {
        if let Self::Bits(bits) = self {
            let word = usize::from(place) / 64;
            prefetch(&bits.blocks.words[word]);
            prefetch(&bits.blocks.ranks.as_flattened()[word / BLOCK_WORDS]);
        }
    }

    /// Replaces each offset, all of this chunk, by its position, of which `before` come before the
    /// chunk; and by [`NOWHERE`] if it is no member.
    #[inline(always)]
    pub(super) fn invert(&self, before: u64, offsets: &mut [u64]) {
        match self {
            Self::Runs(runs) => {
                let mut next = 0;
                for offset in offsets {
                    let place = low16(*offset);
                    // The run the last one was in, or the gap after it, mostly has this one too.
                    let follows = next > 0 && runs[next - 1].first <= place;
                    if !follows || runs.get(next).is_some_and(|run| run.first <= place) {
                        next = runs.partition_point(|run| run.first <= place);
                    }
                    let run = next.checked_sub(1).map(|at| &runs[at]);
                    *offset = match run.filter(|run| place <= run.last) {
                        Some(run) => before + u64::from(run.rank) + u64::from(place - run.first),
                        None => NOWHERE,
                    };
                }
            }
            Self::List(list) => {
                let mut next = 0;
                for offset in offsets {
                    let place = low16(*offset);
                    let follows = next == 0 || list[next - 1] < place;
                    if !follows || list.get(next).is_some_and(|&member| member < place) {
                        next = list.partition_point(|&member| member < place);
                    }
                    *offset = NOWHERE;
                    if list.get(next) == Some(&place) {
                        *offset = before + next as u64;
                        next += 1;
                    }
                }
            }
            Self::Bits(bits) => bits.invert(before, offsets),
        }
    }

    pub(super) fn contains(&self, place: u16) -> bool {
        match self {
            Self::Runs(runs) => match runs.partition_point(|run| run.first <= place) {
                0 => false,
                at => place <= runs[at - 1].last,
            },
            Self::List(list) => list.binary_search(&place).is_ok(),
            Self::Bits(bits) => bits.blocks.words[usize::from(place) / 64] >> (place % 64) & 1 == 1,
        }
    }

    /// Returns the rank of the last member: a full chunk has 65,536, one more than 16 bits hold.
    pub(super) fn last_rank(&self) -> u16 {
        match self {
            Self::Runs(runs) => {
                let last = runs[runs.len() - 1];
                last.rank + (last.last - last.first)
            }
            Self::List(list) => at_most_u16(list.len() - 1),
            Self::Bits(bits) => bits.last_rank(),
        }
    }

    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::Runs(runs) => size_of_val(&**runs),
            Self::List(list) => size_of_val(&**list),
            Self::Bits(bits) => size_of_val(&*bits.blocks),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Runs(runs) => {
                out.push(0);
                out.extend(at_most_u16(runs.len() - 1).to_le_bytes());
                for run in runs {
                    out.extend(run.first.to_le_bytes());
                    out.extend(run.last.to_le_bytes());
                }
            }
            Self::List(list) => {
                out.push(1);
                out.extend(at_most_u16(list.len() - 1).to_le_bytes());
                out.extend(list.iter().flat_map(|member| member.to_le_bytes()));
            }
            Self::Bits(bits) => {
                out.push(2);
                out.extend(bits.blocks.words.iter().flat_map(|word| word.to_le_bytes()));
            }
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        match cursor.take::<1>()? {
            [0] => {
                let count = usize::from(cursor.u16()?) + 1;
                let mut runs: Vec<(u16, u16)> = Vec::with_capacity(count);
                for _ in 0..count {
                    let (first, last) = (cursor.u16()?, cursor.u16()?);
                    let fits = runs.last().is_none_or(|&(_, before)| before < first);
                    if first > last || !fits {
                        return Err(not_a_bitmap());
                    }
                    runs.push((first, last));
                }
                Ok(Self::smallest(&runs))
            }
            [1] => {
                let count = usize::from(cursor.u16()?) + 1;
                let list = (0..count).map(|_| cursor.u16()).collect::<Result<Box<[u16]>>>()?;
                if list.is_sorted_by(|a, b| a < b) {
                    Ok(Self::List(list))
                } else {
                    Err(not_a_bitmap())
                }
            }
            [2] => {
                let mut words = [0; WORDS];
                for word in &mut words {
                    *word = cursor.u64()?;
                }
                if words == [0; WORDS] {
                    return Err(not_a_bitmap());
                }
                Ok(Self::Bits(Bits::new(&words)))
            }
            _ => Err(not_a_bitmap()),
        }
    }
}

impl Bits {
    fn new(words: &[u64; WORDS]) -> Self {
        let mut ranks = [[0; GROUP]; GROUPS];
        let mut before = 0_u32;
        for (rank, block) in
            ranks.as_flattened_mut().iter_mut().zip(words.chunks_exact(BLOCK_WORDS))
        {
            // The last block of a full chunk has 65,280 before it: always within 16 bits.
            *rank = low16(u64::from(before));
            before += block.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        let starts = ranks.map(|group| group[0]);
        Self { starts, blocks: Box::new(Blocks { words: *words, ranks }) }
    }

    /// Returns the group of blocks that the member of a rank lies in.
    #[inline(always)]
    fn group_of(&self, rank: u16) -> u8 {
        let mut group = 0;
        for half in [GROUPS / 2, GROUPS / 4, GROUPS / 8] {
            group += if self.starts[group + half] <= rank { half } else { 0 };
        }
        group.to_le_bytes()[0]
    }

    /// Returns the block of that group. Compares all, side by side: a search would wait for each
    /// comparison.
    #[inline(always)]
    fn block_of(&self, group: u8, rank: u16) -> u8 {
        let mut count = 0_u16;
        for &before in &self.blocks.ranks[usize::from(group)] {
            count = count.wrapping_add(u16::from(before <= rank));
        }
        // The first one always is, and there are no more than 32.
        group << GROUP.ilog2() | count.wrapping_sub(1).to_le_bytes()[0]
    }

    /// Returns the word that the member of a rank lies in, and its rank there.
    ///
    /// Written without a branch that depends on the bits: for random ranks it would be mispredicted.
    #[inline(always)]
    fn word_of(&self, block: u8, rank: u16) -> (usize, u32) {
        let block = usize::from(block);
        let mut left = u32::from(rank - self.blocks.ranks.as_flattened()[block]);
        let mut at = block * BLOCK_WORDS;
        let mut half = BLOCK_WORDS / 2;
        while half > 0 {
            let count: u32 =
                self.blocks.words[at..at + half].iter().map(|word| word.count_ones()).sum();
            let is_later = count <= left;
            at += if is_later { half } else { 0 };
            left -= if is_later { count } else { 0 };
            half /= 2;
        }
        (at, left)
    }

    fn fill(&self, base: u64, rank: u16, out: &mut [u64]) {
        let block = self.block_of(self.group_of(rank), rank);
        let (first, left) = self.word_of(block, rank);
        let mut word =
            self.blocks.words[first] & (u64::MAX << select_in_word(self.blocks.words[first], left));
        let mut base = base + first as u64 * 64;
        let mut words = self.blocks.words[first + 1..].iter();
        for member in out {
            while word == 0 {
                word = *words.next().expect("there are as many members as asked for");
                base += 64;
            }
            *member = base + u64::from(word.trailing_zeros());
            word &= word - 1;
        }
    }

    #[inline(always)]
    fn rank(&self, place: u16) -> u16 {
        let word = usize::from(place) / 64;
        let block = word / BLOCK_WORDS;
        let whole = &self.blocks.words[block * BLOCK_WORDS..word];
        let below = self.blocks.words[word] & ((1 << (place % 64)) - 1);
        let inside: u32 = whole.iter().map(|word| word.count_ones()).sum();
        self.blocks.ranks.as_flattened()[block] + low16(u64::from(inside + below.count_ones()))
    }

    #[inline(always)]
    fn invert(&self, before: u64, offsets: &mut [u64]) {
        let (mut at, mut word, mut rank) = (usize::MAX, 0, 0);
        for offset in offsets {
            let place = low16(*offset);
            if usize::from(place) / 64 != at {
                at = usize::from(place) / 64;
                word = self.blocks.words[at];
                rank = before + u64::from(self.rank(place & !63));
            }
            let bit = 1_u64 << (place % 64);
            let position = rank + u64::from((word & (bit - 1)).count_ones());
            *offset = if word & bit == 0 { NOWHERE } else { position };
        }
    }

    fn last_rank(&self) -> u16 {
        let last = BLOCKS - 1;
        let tail: u32 =
            self.blocks.words[last * BLOCK_WORDS..].iter().map(|w| w.count_ones()).sum();
        low16(u64::from(u32::from(self.blocks.ranks.as_flattened()[last]) + tail - 1))
    }
}

/// Returns the place of the set bit with `rank` set bits below it; there is one.
///
/// In bytes side by side, as in S. Vigna, "Broadword Implementation of Rank/Select Queries", 2008.
fn select_in_word(word: u64, rank: u32) -> u16 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let pairs = word - ((word >> 1) & (LOW * 0x55));
    let fours = (pairs & (LOW * 0x33)) + ((pairs >> 2) & (LOW * 0x33));
    let bytes = (fours + (fours >> 4)) & (LOW * 0x0F);
    // Byte `k`: the bits set in bytes `0..=k`, at most 64, so that no byte borrows from another.
    let ends = bytes.wrapping_mul(LOW);
    let is_before = ((u64::from(rank) * LOW) | HIGH).wrapping_sub(ends) & HIGH;
    let byte = (is_before >> 7).wrapping_mul(LOW) >> 56;
    let before = (ends << 8) >> (byte * 8) & 0xFF;
    let within = IN_BYTE[(word >> (byte * 8) & 0xFF) as usize];
    let place = within >> (4 * (u64::from(rank) - before)) & 0xF;
    low16(byte * 8 + u64::from(place))
}

/// For each byte the places of its set bits, from the lowest on, four bits each.
static IN_BYTE: [u32; 256] = {
    let mut places = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut left, mut shift) = (byte, 0);
        while left != 0 {
            places[byte] |= left.trailing_zeros() << shift;
            left &= left - 1;
            shift += 4;
        }
        byte += 1;
    }
    places
};

#[expect(clippy::cast_possible_truncation, reason = "the place within a chunk")]
pub(super) const fn low16(x: u64) -> u16 {
    x as u16
}

fn at_most_u16(x: usize) -> u16 {
    u16::try_from(x).expect("a chunk has 65,536 places")
}

pub(super) fn not_a_bitmap() -> Error {
    Error::invalid("these bytes", "the serialized form of a bitmap")
}

/// What is left to read.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or_else(not_a_bitmap)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}
