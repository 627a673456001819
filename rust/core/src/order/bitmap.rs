//! A compressed set of row offsets with rank and select: what a filter is kept as.
//!
//! Offsets are grouped by their high bits into chunks of 65,536, and each chunk is stored in the
//! smallest of three forms, as in Roaring (S. Chambi, D. Lemire, O. Kaser and R. Godin, "Better
//! bitmap performance with Roaring bitmaps", 2016): runs, a sorted list of 16-bit values, or a
//! bitset. Beside Roaring, every chunk knows how many members lie before it and every bitset how
//! many lie before each 256 bits, so that [`Bitmap::select`] (position → offset) and
//! [`Bitmap::rank`] (offset → position) read two or three cache lines. Many at a time are taken in
//! tiles, so that the processor waits for many lines at once.

#![expect(clippy::inline_always, reason = "compiled anew for the processor, see `Tuned`")]

mod chunk;

use self::chunk::{CHUNK_BITS, Chunk, Cursor, low16, not_a_bitmap};
use super::nowhere::NOWHERE;
use crate::error::Result;
use crate::processor::{Processor, Tuned, tuned};

/// Positions or offsets looked up side by side: enough for memory to be busy, few enough for what
/// was fetched to be there still.
const TILE: usize = 128;

/// A set of row offsets, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitmap {
    keys: Vec<u64>,
    chunks: Vec<Chunk>,
    /// Members before each chunk; one entry more than there are chunks.
    ranks: Vec<u64>,
    /// The chunk of every `1 << shift`-th position, and the last chunk: where to look for a position.
    samples: Vec<usize>,
    shift: u32,
    /// Halvings that find a chunk between any sample and the next.
    halvings: u32,
}

impl Bitmap {
    /// Returns the set of `offsets`, in any order, repeats counted once.
    pub fn from_offsets(mut offsets: Vec<u64>) -> Self {
        if !offsets.is_sorted() {
            offsets.sort_unstable();
        }
        let mut builder = BitmapBuilder::default();
        for offset in offsets {
            builder.push(offset);
        }
        builder.finish()
    }

    /// Returns the number of members.
    pub fn len(&self) -> u64 {
        self.ranks.last().copied().unwrap_or(0)
    }

    /// Returns whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces each position, all in `0..len`, by the member that stands there.
    pub fn apply(&self, positions: &mut [u64]) {
        tuned(Select { bitmap: self, positions });
    }

    /// Writes the members at positions `start, start + 1, …`, all in `0..len`, to `out`.
    pub(super) fn fill(&self, start: u64, mut out: &mut [u64]) {
        if out.is_empty() {
            return;
        }
        let mut at = self.chunk_at(start);
        let mut rank = start - self.ranks[at];
        while !out.is_empty() {
            let left = self.ranks[at + 1] - self.ranks[at] - rank;
            let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (head, rest) = out.split_at_mut(count);
            self.chunks[at].fill(self.keys[at] << CHUNK_BITS, low16(rank), head);
            (out, at, rank) = (rest, at + 1, 0);
        }
    }

    /// Returns the chunk that a position, in `0..len`, lies in.
    ///
    /// Takes as many steps wherever it lies, as a loop that ended sooner would be mispredicted.
    #[inline(always)]
    fn chunk_at(&self, position: u64) -> usize {
        let sample = usize::try_from(position >> self.shift).expect("fewer than there are chunks");
        let (mut at, last) = (self.samples[sample], self.chunks.len() - 1);
        for halving in (0..self.halvings).rev() {
            let next = last.min(at + (1 << halving));
            at = if self.ranks[next] <= position { next } else { at };
        }
        at
    }

    /// Returns the member at `position`, in ascending order, if there are that many.
    pub fn select(&self, position: u64) -> Option<u64> {
        let mut positions = [position];
        (position < self.len()).then(|| {
            self.apply(&mut positions);
            positions[0]
        })
    }

    /// Returns how many members are smaller than `offset`.
    pub fn rank(&self, offset: u64) -> u64 {
        match self.chunk_of(offset >> CHUNK_BITS) {
            Ok(at) => self.ranks[at] + u64::from(self.chunks[at].rank(low16(offset))),
            Err(at) => self.ranks.get(at).copied().unwrap_or(0),
        }
    }

    /// Replaces each offset by its position, and by [`NOWHERE`] if it is no member.
    ///
    /// Costs least for neighbouring offsets: they share a chunk, and mostly a word of it.
    pub(super) fn invert(&self, offsets: &mut [u64]) {
        tuned(Rank { bitmap: self, offsets });
    }

    /// Returns whether `offset` is a member.
    pub fn contains(&self, offset: u64) -> bool {
        self.chunk_of(offset >> CHUNK_BITS).is_ok_and(|at| self.chunks[at].contains(low16(offset)))
    }

    /// Returns the chunk of this key, or where it would stand.
    #[inline]
    fn chunk_of(&self, key: u64) -> Result<usize, usize> {
        // Where no chunk is empty, a chunk stands where its key says.
        match usize::try_from(key) {
            Ok(at) if self.keys.get(at) == Some(&key) => Ok(at),
            _ => self.keys.binary_search(&key),
        }
    }

    /// Returns the largest member.
    pub fn last(&self) -> Option<u64> {
        self.len().checked_sub(1).and_then(|last| self.select(last))
    }

    /// Returns the bytes of memory it takes.
    pub fn num_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(Chunk::num_bytes).sum();
        let samples = size_of_val(&*self.samples);
        chunks + self.chunks.len() * (size_of::<Chunk>() + 16) + 8 + samples
    }

    /// Returns a portable form: little-endian, no padding, the same on every machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.num_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, chunk) in self.keys.iter().zip(&self.chunks) {
            out.extend(key.to_le_bytes());
            chunk.write(&mut out);
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut bitmap = Self { ranks: vec![0], ..Self::default() };
        let mut cursor = Cursor { bytes };
        for _ in 0..cursor.u64()? {
            let key = cursor.u64()?;
            let chunk = Chunk::read(&mut cursor)?;
            if key > u64::MAX >> CHUNK_BITS || bitmap.keys.last().is_some_and(|&last| last >= key) {
                return Err(not_a_bitmap());
            }
            bitmap.push(key, chunk);
        }
        if !cursor.bytes.is_empty() {
            return Err(not_a_bitmap());
        }
        bitmap.sample();
        Ok(bitmap)
    }

    fn push(&mut self, key: u64, chunk: Chunk) {
        let len = u64::from(chunk.last_rank()) + 1;
        self.ranks.push(self.len() + len);
        self.keys.push(key);
        self.chunks.push(chunk);
    }

    /// Takes the samples, of which there are one or two for each chunk.
    fn sample(&mut self) {
        let Some(last) = self.chunks.len().checked_sub(1) else {
            return;
        };
        self.shift = (self.len() / self.chunks.len() as u64).ilog2();
        let mut at = 0;
        for position in (0..self.len()).step_by(1 << self.shift) {
            while self.ranks[at + 1] <= position {
                at += 1;
            }
            self.samples.push(at);
        }
        self.samples.push(last);
        let between = self.samples.windows(2).map(|pair| pair[1] - pair[0]).max();
        self.halvings = between.map_or(0, |most| usize::BITS - most.leading_zeros());
    }
}

/// [`Bitmap::apply`], a tile at a time: each loop asks for what the next one reads.
struct Select<'a> {
    bitmap: &'a Bitmap,
    positions: &'a mut [u64],
}

impl Tuned for Select<'_> {
    #[inline(always)]
    fn run(self, processor: Processor) {
        let Bitmap { keys, chunks, ranks, .. } = self.bitmap;
        let Some(first) = chunks.first() else {
            return;
        };
        let mut found = [(first, 0, 0); TILE];
        for tile in self.positions.chunks_mut(TILE) {
            for (position, found) in tile.iter_mut().zip(&mut found) {
                let at = self.bitmap.chunk_at(*position);
                let (chunk, rank) = (&chunks[at], low16(*position - ranks[at]));
                *found = (chunk, rank, chunk.group_of(rank));
                *position = keys[at] << CHUNK_BITS;
            }
            for (chunk, rank, part) in &mut found[..tile.len()] {
                *part = chunk.block_of(*part, *rank);
            }
            for (offset, &(chunk, rank, part)) in tile.iter_mut().zip(&found) {
                *offset |= u64::from(chunk.select(part, rank, processor));
            }
        }
    }
}

/// [`Bitmap::invert`], likewise.
struct Rank<'a> {
    bitmap: &'a Bitmap,
    offsets: &'a mut [u64],
}

impl Tuned for Rank<'_> {
    #[inline(always)]
    fn run(self, _: Processor) {
        let Bitmap { chunks, ranks, .. } = self.bitmap;
        let key = |offset: &u64| offset >> CHUNK_BITS;
        for tile in self.offsets.chunks_mut(TILE) {
            // Neighbours share their lines.
            if tile.first().map(key) != tile.last().map(key) {
                for offset in tile.iter() {
                    if let Ok(at) = self.bitmap.chunk_of(key(offset)) {
                        chunks[at].fetch(low16(*offset));
                    }
                }
            }
            for run in tile.chunk_by_mut(|a, b| key(a) == key(b)) {
                match self.bitmap.chunk_of(key(&run[0])) {
                    Ok(at) => chunks[at].invert(ranks[at], run),
                    Err(_) => run.fill(NOWHERE),
                }
            }
        }
    }
}

/// Builds a [`Bitmap`] from ascending offsets without holding them.
#[derive(Debug, Default)]
pub struct BitmapBuilder {
    bitmap: Bitmap,
    key: u64,
    /// Disjoint, ascending, not touching: the chunk being built.
    runs: Vec<(u16, u16)>,
}

impl BitmapBuilder {
    /// Adds an offset. It must not be smaller than the last one; a repeat changes nothing.
    ///
    /// # Panics
    ///
    /// If `offset` is smaller than an earlier one.
    pub fn push(&mut self, offset: u64) {
        let key = offset >> CHUNK_BITS;
        let place = low16(offset);
        if key != self.key {
            assert!(key > self.key, "offsets must ascend, got {offset}");
            self.flush();
            self.key = key;
        }
        match self.runs.last_mut() {
            Some((_, last)) if *last == place => {}
            Some((_, last)) if last.checked_add(1) == Some(place) => *last = place,
            Some((_, last)) => {
                assert!(*last < place, "offsets must ascend, got {offset}");
                self.runs.push((place, place));
            }
            None => self.runs.push((place, place)),
        }
    }

    /// Adds `start..end`, all larger than any offset so far.
    ///
    /// # Panics
    ///
    /// If `start` is not.
    pub fn push_range(&mut self, start: u64, end: u64) {
        let mut start = start;
        while start < end {
            let key = start >> CHUNK_BITS;
            let last = (end - 1).min(key << CHUNK_BITS | u64::from(u16::MAX));
            self.push(start);
            if let Some(run) = self.runs.last_mut() {
                run.1 = low16(last);
            }
            start = last + 1;
        }
    }

    /// Returns the set of everything pushed.
    pub fn finish(mut self) -> Bitmap {
        self.flush();
        if self.bitmap.ranks.is_empty() {
            self.bitmap.ranks.push(0);
        }
        self.bitmap.sample();
        self.bitmap
    }

    fn flush(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        if self.bitmap.ranks.is_empty() {
            self.bitmap.ranks.push(0);
        }
        let chunk = Chunk::smallest(&self.runs);
        self.bitmap.push(self.key, chunk);
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests;
