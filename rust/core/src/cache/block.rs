//! A block of packed rows in memory, and the file that it is mapped from.
//!
//! # The mapping and `unsafe`
//!
//! As with data files (see `table::mapped`), a file of the cache is never written to once it has its
//! final name, and removing it leaves mappings intact. Its checksum is compared right after it is
//! mapped. Truncating the file later would kill the process where missing pages are touched; only this
//! crate has a reason to open it, and it only ever removes it.

use std::fs::File;
use std::hash::Hasher;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use memmap2::{Mmap, MmapMut, MmapOptions};
use twox_hash::XxHash3_64;

use super::verified::Identity;
use crate::advice;
use crate::error::{Error, Result};
use crate::packed::PackedRows;

const MAGIC: u64 = u64::from_le_bytes(*b"LLrows\x01\0");
const HEADER_BYTES: usize = 64;
/// The alignment of heads and tails: that of a cache line.
const ALIGNMENT: usize = 64;
/// Pages of a file that are looked at to tell whether it is in memory.
const LOOKED_AT: usize = 8;

/// Packed rows that no longer change.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Memory,
    heads: std::ops::Range<usize>,
    tails: std::ops::Range<usize>,
    num_rows: usize,
    bits_set: Vec<bool>,
}

#[derive(Debug)]
enum Memory {
    Mapped(Mmap),
    Own(MmapMut),
}

/// Packed rows, in a mapping or in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    heads: &'a [u8],
    tails: &'a [u8],
    count: usize,
    bits_set: &'a [bool],
}

impl<'a> From<&'a PackedRows> for Rows<'a> {
    fn from(rows: &'a PackedRows) -> Self {
        let PackedRows { heads, tails, num_rows, bits_set } = rows;
        Self { heads, tails, count: *num_rows, bits_set }
    }
}

impl Rows<'_> {
    /// Returns the size of their file.
    pub(super) fn num_bytes_in_file(self) -> u64 {
        Header::of_sizes(0, self).num_bytes().unwrap_or(u64::MAX)
    }
}

/// The first bytes of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// A hash of the entry and the number of the block, so that files cannot be confused.
    key: u64,
    num_rows: u64,
    num_bits: u64,
    heads: u64,
    tails: u64,
    /// The checksum of everything after the header.
    checksum: u64,
}

impl Header {
    /// Returns the header of rows of these sizes, its checksum still 0.
    fn of_sizes(key: u64, rows: Rows<'_>) -> Self {
        Self {
            key,
            num_rows: rows.count as u64,
            num_bits: rows.bits_set.len() as u64,
            heads: rows.heads.len() as u64,
            tails: rows.tails.len() as u64,
            checksum: 0,
        }
    }

    fn of(key: u64, rows: Rows<'_>) -> Self {
        let mut header = Self::of_sizes(key, rows);
        let mut hash = XxHash3_64::new();
        hash.write(&header.bits(rows));
        hash.write(rows.heads);
        hash.write(rows.tails);
        header.checksum = hash.finish();
        header
    }

    fn words(self) -> [u64; 7] {
        let Self { key, num_rows, num_bits, heads, tails, checksum } = self;
        [MAGIC, key, num_rows, num_bits, heads, tails, checksum]
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let words = self.words();
        let check = words.iter().fold(0_u64, |sum, word| sum.rotate_left(9) ^ word);
        for (slot, word) in
            bytes.as_chunks_mut::<8>().0.iter_mut().zip(words.into_iter().chain([check]))
        {
            *slot = word.to_le_bytes();
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut words = [0; 8];
        for (word, slot) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*slot);
        }
        let [_, key, num_rows, num_bits, heads, tails, checksum, _] = words;
        let header = Self { key, num_rows, num_bits, heads, tails, checksum };
        (header.to_bytes() == *bytes).then_some(header)
    }

    /// Returns a byte per bit, padded to where the heads begin.
    fn bits(self, rows: Rows<'_>) -> Vec<u8> {
        let mut bits: Vec<u8> = rows.bits_set.iter().copied().map(u8::from).collect();
        bits.resize(self.heads_start() - HEADER_BYTES, 0);
        bits
    }

    #[expect(clippy::cast_possible_truncation, reason = "compared with the size of the file")]
    fn heads_start(self) -> usize {
        HEADER_BYTES + (self.num_bits as usize).next_multiple_of(ALIGNMENT)
    }

    fn num_bytes(self) -> Option<u64> {
        self.heads.checked_add(self.tails)?.checked_add(self.heads_start() as u64)
    }
}

impl Block {
    /// Returns a block in memory of this process.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no memory.
    pub(crate) fn in_memory(rows: &PackedRows) -> Result<Self> {
        let (heads, tails) = (rows.heads.len(), rows.tails.len());
        let failed = |error: std::io::Error| Error::io("memory for rows", &error);
        let mut memory = MmapMut::map_anon((heads + tails).max(1)).map_err(failed)?;
        // A hint: rows are touched at random, which is what huge pages are for.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        memory[..heads].copy_from_slice(&rows.heads);
        memory[heads..heads + tails].copy_from_slice(&rows.tails);
        Ok(Self {
            bytes: Memory::Own(memory),
            heads: 0..heads,
            tails: heads..heads + tails,
            num_rows: rows.num_rows,
            bits_set: rows.bits_set.clone(),
        })
    }

    /// Writes a block to a file.
    pub(super) fn write(file: &mut File, key: u64, rows: Rows<'_>) -> std::io::Result<()> {
        let header = Header::of(key, rows);
        file.write_all(&header.to_bytes())?;
        file.write_all(&header.bits(rows))?;
        file.write_all(rows.heads)?;
        file.write_all(rows.tails)
    }

    /// Maps a file of rows: with `is_trusted`, which only its writer may say, or if it was verified before and is
    /// in memory, without reading it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`], and [`Error::Corrupt`] if it is not what was written.
    pub(super) fn map(path: &Path, key: u64, is_trusted: bool) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io(path.display(), &error);
        let corrupt = |reason: &str| Error::corrupt(path.display(), reason);
        let mut file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let num_bytes = found.len();
        let mut first = [0; HEADER_BYTES];
        file.read_exact(&mut first).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => corrupt("it has no header"),
            _ => failed(error),
        })?;
        let header = Header::from_bytes(&first).ok_or_else(|| corrupt("its header is damaged"))?;
        if header.key != key {
            return Err(corrupt("it holds other rows"));
        }
        if header.num_bytes() != Some(num_bytes) {
            return Err(corrupt("its size is not the one in its header"));
        }
        let mut identity = Identity::of(&found, header.checksum);
        let is_trusted = is_trusted || identity.is_verified();
        let mut mapping = map(&file, false).map_err(failed)?;
        // What is on the disk only is read in order, which is faster than row by row.
        let is_good = is_trusted || identity.is_marked(&file) && is_in_memory(&mapping);
        if !is_good {
            mapping = map(&file, true).map_err(failed)?;
            if XxHash3_64::oneshot(&mapping[HEADER_BYTES..]) != header.checksum {
                return Err(corrupt("its checksum does not match"));
            }
            identity.set_mark(&file);
            identity = Identity::of(&file.metadata().map_err(failed)?, header.checksum);
        }
        identity.note();
        let start = header.heads_start();
        let heads = start..mapping.len() - usize::try_from(header.tails).unwrap_or(0);
        let bits = usize::try_from(header.num_bits).unwrap_or(0);
        Ok(Self {
            tails: heads.end..mapping.len(),
            heads,
            num_rows: usize::try_from(header.num_rows).unwrap_or(0),
            bits_set: mapping[HEADER_BYTES..HEADER_BYTES + bits].iter().map(|&b| b != 0).collect(),
            bytes: Memory::Mapped(mapping),
        })
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Memory::Mapped(bytes) => bytes,
            Memory::Own(bytes) => bytes,
        }
    }

    /// Returns all bytes of the block, to be written, or `None` if they are in a file already.
    pub(crate) fn unwritten(&self) -> Option<Rows<'_>> {
        let Self { num_rows, bits_set, .. } = self;
        matches!(self.bytes, Memory::Own(_)).then(|| Rows {
            heads: self.heads(),
            tails: self.tails(),
            count: *num_rows,
            bits_set,
        })
    }

    /// Returns the heads, a stride apart.
    pub(crate) fn heads(&self) -> &[u8] {
        &self.bytes()[self.heads.clone()]
    }

    /// Returns the tails.
    pub(crate) fn tails(&self) -> &[u8] {
        &self.bytes()[self.tails.clone()]
    }

    /// Returns the number of rows.
    pub(crate) fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Returns which bits of a head are set in any row.
    pub(crate) fn bits_set(&self) -> &[bool] {
        &self.bits_set
    }

    /// Returns the bytes of the rows.
    pub(crate) fn num_bytes(&self) -> usize {
        self.heads.len() + self.tails.len()
    }
}

/// Returns whether some pages of a file, far from each other, are in memory.
fn is_in_memory(mapping: &Mmap) -> bool {
    (0..=LOOKED_AT).all(|at| advice::is_in_memory(mapping, mapping.len() / LOOKED_AT * at))
}

#[expect(unsafe_code, reason = "mapping a file; the contract is in the module's documentation")]
fn map(file: &File, is_read_now: bool) -> std::io::Result<Mmap> {
    let mut options = MmapOptions::new();
    if is_read_now {
        options.populate();
    }
    // SAFETY: a file of rows does not change once it has its name; see the module's documentation.
    unsafe { options.map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> PackedRows {
        PackedRows {
            heads: (0..100).collect(),
            tails: b"tails".to_vec(),
            num_rows: 10,
            bits_set: vec![true, false, true],
        }
    }

    fn written(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("a.rows");
        Block::write(&mut File::create(&path).unwrap(), 7, (&rows()).into()).unwrap();
        path
    }

    #[test]
    fn a_block_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        for block in [Block::map(&path, 7, false).unwrap(), Block::in_memory(&rows()).unwrap()] {
            assert_eq!((block.heads(), block.tails()), (rows().heads.as_slice(), &b"tails"[..]));
            assert_eq!((block.num_rows(), block.bits_set()), (10, &[true, false, true][..]));
            assert_eq!(block.num_bytes(), 105);
        }
    }

    #[test]
    fn a_failing_read_is_not_damage() {
        // A folder can be opened, but not read.
        let folder = tempfile::tempdir().unwrap();
        let error = Block::map(folder.path(), 7, false).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            matches!(Block::map(&path, 7, false), Err(Error::Corrupt { .. }))
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(refused(&bytes), "byte {at}");
        }
        for len in 0..whole.len() {
            assert!(refused(&whole[..len]), "{len} bytes");
        }
        assert!(refused(&[whole.as_slice(), b"more"].concat()));
        assert!(!refused(&whole));
        assert!(Block::map(&path, 8, false).is_err(), "another block's file");
    }

    #[test]
    fn a_file_is_compared_once_unless_it_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let open = || File::options().write(true).open(&path).unwrap();
        let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
        open().set_modified(hour_ago).unwrap();
        Block::map(&path, 7, false).unwrap();
        let identity = Identity::of(&open().metadata().unwrap(), checksum(&path));
        if !identity.is_marked(&File::open(&path).unwrap()) {
            return; // A file system without extended attributes.
        }
        // What no program does: with its old time, the damage goes unnoticed.
        let last = std::fs::metadata(&path).unwrap().len() - 1;
        std::os::unix::fs::FileExt::write_at(&open(), b"!", last).unwrap();
        open().set_modified(hour_ago).unwrap();
        assert_eq!(Block::map(&path, 7, false).unwrap().tails(), b"tail!");
        open().set_modified(hour_ago + std::time::Duration::from_secs(1)).unwrap();
        assert!(matches!(Block::map(&path, 7, false), Err(Error::Corrupt { .. })));
    }

    fn checksum(path: &Path) -> u64 {
        let bytes = std::fs::read(path).unwrap();
        Header::from_bytes(bytes.first_chunk().unwrap()).unwrap().checksum
    }
}
