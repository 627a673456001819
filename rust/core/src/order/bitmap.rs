//! A compressed set of row offsets with rank and select: what a filter is kept as.
//!
//! Offsets are grouped by their high bits into chunks of 65,536, and each chunk is stored in the
//! smallest of three forms, as in Roaring (S. Chambi, D. Lemire, O. Kaser and R. Godin, "Better
//! bitmap performance with Roaring bitmaps", 2016): runs, a sorted list of 16-bit values, or a
//! bitset. Beside Roaring, every chunk knows how many members lie before it and every bitset how
//! many lie before each 512 bits, so that [`Bitmap::select`] (position → offset) and
//! [`Bitmap::rank`] (offset → position) need a binary search and a few words.

use crate::error::{Error, Result};

const CHUNK_BITS: u32 = 16;
const CHUNK_ROWS: usize = 1 << CHUNK_BITS;
const WORDS: usize = CHUNK_ROWS / 64;
/// Words per rank entry of a bitset.
const BLOCK_WORDS: usize = 8;
const BLOCKS: usize = WORDS / BLOCK_WORDS;
/// A list of more values than this is larger than a bitset with its ranks.
const LIST_MAX: usize = usize::midpoint(CHUNK_ROWS / 8, 2 * BLOCKS);

/// A set of row offsets, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitmap {
    keys: Vec<u64>,
    chunks: Vec<Chunk>,
    /// Members before each chunk; one entry more than there are chunks.
    ranks: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    Runs(Box<[Run]>),
    List(Box<[u16]>),
    Bits(Box<Bits>),
}

/// `first..=last`, with the number of members before it in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u16,
    last: u16,
    rank: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits {
    words: [u64; WORDS],
    ranks: [u16; BLOCKS],
}

impl Bitmap {
    /// The set of `offsets`, in any order, repeats counted once.
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

    /// The number of members.
    pub fn len(&self) -> u64 {
        self.ranks.last().copied().unwrap_or(0)
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces each position, all in `0..len`, by the member that stands there.
    pub fn apply(&self, positions: &mut [u64]) {
        let mut hint = 0;
        for position in positions {
            // Neighbouring positions mostly share a chunk.
            if !(self.ranks[hint] <= *position && *position < self.ranks[hint + 1]) {
                hint = self.ranks.partition_point(|&rank| rank <= *position) - 1;
            }
            let place = self.chunks[hint].select(low16(*position - self.ranks[hint]));
            *position = (self.keys[hint] << CHUNK_BITS) | u64::from(place);
        }
    }

    /// The member at `position`, in ascending order, if there are that many.
    pub fn select(&self, position: u64) -> Option<u64> {
        let mut positions = [position];
        (position < self.len()).then(|| {
            self.apply(&mut positions);
            positions[0]
        })
    }

    /// How many members are smaller than `offset`.
    pub fn rank(&self, offset: u64) -> u64 {
        match self.keys.binary_search(&(offset >> CHUNK_BITS)) {
            Ok(at) => self.ranks[at] + u64::from(self.chunks[at].rank(low16(offset))),
            Err(at) => self.ranks.get(at).copied().unwrap_or(0),
        }
    }

    /// Whether `offset` is a member.
    pub fn contains(&self, offset: u64) -> bool {
        self.keys
            .binary_search(&(offset >> CHUNK_BITS))
            .is_ok_and(|at| self.chunks[at].contains(low16(offset)))
    }

    /// The largest member.
    pub fn last(&self) -> Option<u64> {
        self.len().checked_sub(1).and_then(|last| self.select(last))
    }

    /// Bytes of memory it takes.
    pub fn num_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(Chunk::num_bytes).sum();
        chunks + self.chunks.len() * (size_of::<Chunk>() + 16) + 8
    }

    /// A portable form: little-endian, no padding, the same on every machine.
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
    /// [`Error::Invalid`] if the bytes are something else.
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
        Ok(bitmap)
    }

    fn push(&mut self, key: u64, chunk: Chunk) {
        let len = u64::from(chunk.last_rank()) + 1;
        self.ranks.push(self.len() + len);
        self.keys.push(key);
        self.chunks.push(chunk);
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

    /// The set of everything pushed.
    pub fn finish(mut self) -> Bitmap {
        self.flush();
        if self.bitmap.ranks.is_empty() {
            self.bitmap.ranks.push(0);
        }
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

impl Chunk {
    fn smallest(runs: &[(u16, u16)]) -> Self {
        let len: usize = runs.iter().map(|&(first, last)| usize::from(last - first) + 1).sum();
        let list = if len <= LIST_MAX { len * 2 } else { usize::MAX };
        if runs.len() * size_of::<Run>() <= list.min(size_of::<Bits>()) {
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
        if list <= size_of::<Bits>() {
            return Self::List(members().collect());
        }
        let mut words = [0; WORDS];
        for member in members() {
            words[usize::from(member) / 64] |= 1 << (member % 64);
        }
        Self::Bits(Box::new(Bits::new(&words)))
    }

    fn select(&self, rank: u16) -> u16 {
        match self {
            Self::Runs(runs) => {
                let run = &runs[runs.partition_point(|run| run.rank <= rank) - 1];
                run.first + (rank - run.rank)
            }
            Self::List(list) => list[usize::from(rank)],
            Self::Bits(bits) => bits.select(rank),
        }
    }

    fn rank(&self, place: u16) -> u16 {
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

    fn contains(&self, place: u16) -> bool {
        match self {
            Self::Runs(runs) => match runs.partition_point(|run| run.first <= place) {
                0 => false,
                at => place <= runs[at - 1].last,
            },
            Self::List(list) => list.binary_search(&place).is_ok(),
            Self::Bits(bits) => bits.words[usize::from(place) / 64] >> (place % 64) & 1 == 1,
        }
    }

    /// The rank of the last member: a full chunk has 65,536, one more than 16 bits hold.
    fn last_rank(&self) -> u16 {
        match self {
            Self::Runs(runs) => {
                let last = runs[runs.len() - 1];
                last.rank + (last.last - last.first)
            }
            Self::List(list) => at_most_u16(list.len() - 1),
            Self::Bits(bits) => bits.last_rank(),
        }
    }

    fn num_bytes(&self) -> usize {
        match self {
            Self::Runs(runs) => size_of_val(&**runs),
            Self::List(list) => size_of_val(&**list),
            Self::Bits(bits) => size_of_val(&**bits),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
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
                out.extend(bits.words.iter().flat_map(|word| word.to_le_bytes()));
            }
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
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
                Ok(Self::Bits(Box::new(Bits::new(&words))))
            }
            _ => Err(not_a_bitmap()),
        }
    }
}

impl Bits {
    fn new(words: &[u64; WORDS]) -> Self {
        let mut ranks = [0; BLOCKS];
        let mut before = 0_u32;
        for (rank, block) in ranks.iter_mut().zip(words.chunks_exact(BLOCK_WORDS)) {
            // The last block of a full chunk has 65,024 before it: always within 16 bits.
            *rank = low16(u64::from(before));
            before += block.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        Self { words: *words, ranks }
    }

    fn select(&self, rank: u16) -> u16 {
        let block = self.ranks.partition_point(|&before| before <= rank) - 1;
        let mut left = u32::from(rank - self.ranks[block]);
        let mut at = block * BLOCK_WORDS;
        loop {
            let ones = self.words[at].count_ones();
            if left < ones {
                break;
            }
            left -= ones;
            at += 1;
        }
        let place = at * 64 + select_in_word(self.words[at], left);
        at_most_u16(place)
    }

    fn rank(&self, place: u16) -> u16 {
        let word = usize::from(place) / 64;
        let block = word / BLOCK_WORDS;
        let whole = &self.words[block * BLOCK_WORDS..word];
        let below = self.words[word] & ((1 << (place % 64)) - 1);
        let inside: u32 = whole.iter().map(|word| word.count_ones()).sum();
        self.ranks[block] + low16(u64::from(inside + below.count_ones()))
    }

    fn last_rank(&self) -> u16 {
        let last = BLOCKS - 1;
        let tail: u32 = self.words[last * BLOCK_WORDS..].iter().map(|w| w.count_ones()).sum();
        low16(u64::from(u32::from(self.ranks[last]) + tail - 1))
    }
}

/// The place of the set bit with `rank` set bits below it; there is one.
fn select_in_word(mut word: u64, rank: u32) -> usize {
    for _ in 0..rank {
        word &= word - 1;
    }
    word.trailing_zeros() as usize
}

#[expect(clippy::cast_possible_truncation, reason = "the place within a chunk")]
const fn low16(x: u64) -> u16 {
    x as u16
}

fn at_most_u16(x: usize) -> u16 {
    u16::try_from(x).expect("a chunk has 65,536 places")
}

fn not_a_bitmap() -> Error {
    Error::invalid("these bytes", "the serialized form of a bitmap")
}

/// What is left to read.
struct Cursor<'a> {
    bytes: &'a [u8],
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

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(offsets: &[u64]) {
        let bitmap = Bitmap::from_offsets(offsets.to_vec());
        assert_eq!(bitmap.len(), offsets.len() as u64);
        assert_eq!(bitmap.last(), offsets.last().copied());
        for (position, &offset) in (0..).zip(offsets) {
            assert_eq!(bitmap.select(position), Some(offset));
            assert_eq!(bitmap.rank(offset), position);
            assert!(bitmap.contains(offset));
            let next = offset + 1;
            let inside = offsets.binary_search(&next).is_ok();
            assert_eq!(bitmap.contains(next), inside);
            assert_eq!(bitmap.rank(next), position + 1);
        }
        assert_eq!(bitmap.select(bitmap.len()), None);
        assert_eq!(Bitmap::from_bytes(&bitmap.to_bytes()).unwrap(), bitmap);
    }

    fn kinds(bitmap: &Bitmap) -> Vec<&'static str> {
        let kind = |chunk: &Chunk| match chunk {
            Chunk::Runs(_) => "runs",
            Chunk::List(_) => "list",
            Chunk::Bits(_) => "bits",
        };
        bitmap.chunks.iter().map(kind).collect()
    }

    #[test]
    fn each_form_selects_and_ranks() {
        check(&[]);
        check(&[0]);
        check(&[u64::MAX - 1]);
        let full: Vec<u64> = (0..3 * 65_536).collect();
        check(&full);
        let bitmap = Bitmap::from_offsets(full);
        assert_eq!(kinds(&bitmap), ["runs"; 3]);
        assert!(bitmap.num_bytes() < 256);

        let even: Vec<u64> = (0..65_536).map(|i| 2 * i).collect();
        check(&even);
        assert_eq!(kinds(&Bitmap::from_offsets(even)), ["bits"; 2]);

        let sparse: Vec<u64> = (0..50).map(|i| i * i * 7919).collect();
        check(&sparse);
        assert!(kinds(&Bitmap::from_offsets(sparse)).contains(&"list"));

        let alternating_words: Vec<u64> = (0..65_536).filter(|i| i % 4 < 3).collect();
        check(&alternating_words);
    }

    #[test]
    fn random_half_of_the_rows_costs_about_a_bit_each() {
        let mut stream = super::super::bijection::SplitMix64(1);
        let offsets: Vec<u64> = (0..1_000_000).filter(|_| stream.next() & 1 == 0).collect();
        let bitmap = Bitmap::from_offsets(offsets.clone());
        assert!(bitmap.num_bytes() < 140_000, "{}", bitmap.num_bytes());
        check(&offsets[..70_000]);
    }

    #[test]
    fn ranges_are_the_offsets_in_them() {
        let mut builder = BitmapBuilder::default();
        let mut wanted = Vec::new();
        for (start, end) in [(3, 3), (5, 9), (9, 12), (65_530, 200_000), (200_001, 200_002)] {
            builder.push_range(start, end);
            wanted.extend(start..end);
        }
        assert_eq!(builder.finish(), Bitmap::from_offsets(wanted));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let good = Bitmap::from_offsets(vec![1, 5, 70_000]).to_bytes();
        for cut in 0..good.len() {
            assert!(Bitmap::from_bytes(&good[..cut]).is_err(), "{cut}");
        }
        assert!(Bitmap::from_bytes(&[good.as_slice(), &[0]].concat()).is_err());
        assert!(Bitmap::from_bytes(b"something else, of some length").is_err());
    }

    proptest! {
        #[test]
        fn any_set_of_runs_selects_and_ranks(
            gaps in prop::collection::vec((1_u64..30_000, 1_u64..4_000), 0..40),
        ) {
            let mut offsets = Vec::new();
            let mut at = 0;
            for (gap, run) in gaps {
                at += gap;
                offsets.extend(at..at + run);
                at += run;
            }
            check(&offsets);
        }
    }
}
