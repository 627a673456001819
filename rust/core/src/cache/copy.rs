//! The copy of one file of another machine: the pages that were read.
//!
//! A copy is a file of the size of the original with holes where nothing was fetched yet, and a file of
//! checksums, one for each page, or 0 where there is none. A page counts once its checksum does, so pages
//! are written first. Processes that fetch the same page write the same bytes, so no lock is needed;
//! a page that was torn by a crash does not match its checksum, and is fetched again.
//!
//! # The mapping and `unsafe`
//!
//! A copy is mapped. It gets its size when it is made, nothing cuts it, and removing it leaves
//! mappings intact. A page is only shown once its checksum was compared, and only the same bytes are
//! written to it afterwards.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use twox_hash::XxHash3_64;

use super::copies::Copies;
use super::description::{COPY, SUMS};
use super::owned::private;
use super::versions::stem_of;
use crate::error::{Error, Result};
use crate::mapping::Mapping;

/// Bytes that are kept or not: small, so that single rows do not bring many others.
pub(crate) const PAGE: u64 = 4 << 10;
const SUM_BYTES: u64 = 4;

/// The copy of one file.
#[derive(Debug)]
pub(crate) struct Copy {
    copies: Arc<Copies>,
    path: PathBuf,
    data: File,
    sums: File,
    num_bytes: u64,
    /// `None` for an empty file.
    mapping: Option<Arc<Mapping>>,
    bytes: Bytes,
    /// A bit for each page whose checksum was compared in this process.
    known: Vec<AtomicU64>,
}

impl Copy {
    /// Opens the copy of the file called `name`, which has `num_bytes`; makes an empty one if there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if it cannot be made.
    pub(crate) fn open(copies: &Arc<Copies>, name: &str, num_bytes: u64) -> Result<Self> {
        let num_pages = num_bytes.div_ceil(PAGE);
        let stem = stem_of(name, num_bytes);
        let path_of = |suffix: &str| copies.path().join(format!("{stem}.{suffix}"));
        let file = |suffix: &str, bytes: u64| {
            let path = path_of(suffix);
            sized(&path, bytes).map_err(|error| Error::write(path.display(), &error))
        };
        let data = file(COPY, num_bytes)?;
        let sums = file(SUMS, num_pages * SUM_BYTES)?;
        let mapping = match num_bytes {
            0 => None,
            _ => Some(map(&data).map_err(|error| Error::write(copies.path().display(), &error))?),
        };
        let bytes = mapping.as_ref().map_or_else(Bytes::new, Mapping::bytes);
        let known = (0..num_pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (copies, path) = (Arc::clone(copies), path_of(COPY));
        Ok(Self { copies, path, data, sums, num_bytes, mapping, bytes, known })
    }

    /// Returns the parts of ascending ranges that are not there, of whole pages. The others are about to be
    /// read.
    pub(crate) fn missing(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let looked: Vec<Looked> = ranges.iter().map(|range| self.look(range)).collect();
        if let Some(mapping) = &self.mapping {
            // All of them at once, before the first page is waited for.
            let there = |looked: &Looked| self.runs(looked.pages(|_, sum| sum != Some(0)));
            mapping.ahead(&looked.iter().flat_map(there).collect::<Vec<_>>());
        }
        let is_missing = |page, sum: Option<u32>| sum.is_some_and(|sum| !self.is_whole(page, sum));
        looked.iter().flat_map(|looked| self.runs(looked.pages(is_missing))).collect()
    }

    /// Returns whether all bytes of these ranges, in any order, are there. They are about to be read, and not by
    /// the mapping.
    pub(crate) fn has_all(&self, ranges: &[Range<u64>]) -> bool {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable_by_key(|range| range.start);
        let look = |range| Some(self.look(range)).filter(Looked::seems_whole);
        let Some(looked) = ranges.iter().map(look).collect::<Option<Vec<Looked>>>() else {
            return false;
        };
        if let Some(mapping) = &self.mapping {
            mapping.read_ahead(&ranges);
            // What is to be compared is touched.
            let unknown = |looked: &Looked| self.runs(looked.pages(|_, sum| sum.is_some()));
            mapping.ahead(&looked.iter().flat_map(unknown).collect::<Vec<_>>());
        }
        let is_there = |page, sum: Option<u32>| sum.is_none_or(|sum| self.is_whole(page, sum));
        looked.iter().all(|looked| looked.pages(|page, sum| !is_there(page, sum)).next().is_none())
    }

    /// Returns whether all pages of a range seem to be there, without reading them.
    pub(crate) fn seems_to_have(&self, range: &Range<u64>) -> bool {
        self.look(range).seems_whole()
    }

    /// Returns what is known of the pages of a range, none of which is touched.
    fn look(&self, range: &Range<u64>) -> Looked {
        let start = range.start / PAGE;
        let pages = start..range.end.min(self.num_bytes).div_ceil(PAGE).max(start);
        let unknown = pages.clone().find(|&page| !self.is_known(page)).unwrap_or(pages.end);
        let sums = self.read_sums(unknown..pages.end);
        let known = std::iter::repeat_n(None, usize::try_from(unknown - pages.start).unwrap_or(0));
        let sum_of = |(page, sum)| (!self.is_known(page)).then_some(sum);
        Looked {
            first: pages.start,
            sums: known.chain((unknown..).zip(sums).map(sum_of)).collect(),
        }
    }

    /// Returns whether a page has this checksum, which is compared only once.
    fn is_whole(&self, page: u64, sum: u32) -> bool {
        let is_whole = sum != 0 && sum_of(self.shown(&self.place(page))) == sum;
        if is_whole {
            self.mark(page);
        }
        is_whole
    }

    /// Returns where ascending pages are: those of neighbours as one range.
    fn runs(&self, pages: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for place in pages.map(|page| self.place(page)) {
            match runs.last_mut() {
                Some(last) if last.end == place.start => last.end = place.end,
                _ => runs.push(place),
            }
        }
        runs
    }

    /// Keeps whole pages from `start` on. Whether that could be done shows in [`missing`](Self::missing).
    pub(crate) fn keep(&self, start: u64, bytes: &[u8]) {
        let is_whole = start.is_multiple_of(PAGE)
            && ((bytes.len() as u64).is_multiple_of(PAGE)
                || start + bytes.len() as u64 == self.num_bytes);
        if !is_whole || bytes.is_empty() || !self.copies.reserve(bytes.len() as u64) {
            return;
        }
        let first = start / PAGE;
        let page_bytes = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let sums: Vec<u8> =
            bytes.chunks(page_bytes).flat_map(|page| sum_of(page).to_le_bytes()).collect();
        let written = self
            .data
            .write_all_at(bytes, start)
            .and_then(|()| self.sums.write_all_at(&sums, first * SUM_BYTES));
        self.copies.written(bytes.len() as u64);
        match written {
            Ok(()) => (first..first + bytes.chunks(page_bytes).len() as u64)
                .for_each(|page| self.mark(page)),
            Err(error) => {
                let error = Error::write(self.copies.path().display(), &error);
                self.copies.fail(error);
            }
        }
    }

    /// Returns the bytes of a range that is not [`missing`](Self::missing), as a part of the mapping.
    pub(crate) fn slice(&self, range: &Range<u64>) -> Bytes {
        let at = |place: u64| usize::try_from(place.min(self.num_bytes)).unwrap_or(0);
        self.bytes.slice(at(range.start)..at(range.end).max(at(range.start)))
    }

    /// Returns the file, of which only those parts may be read that are not [`missing`](Self::missing).
    pub(crate) fn file(&self) -> &File {
        &self.data
    }

    /// Returns the size of the file.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// Returns where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a buffer is a part of the mapping.
    pub(crate) fn holds(&self, start: *const u8) -> bool {
        self.bytes.as_ptr_range().contains(&start)
    }

    fn place(&self, page: u64) -> Range<u64> {
        page * PAGE..((page + 1) * PAGE).min(self.num_bytes)
    }

    fn shown(&self, place: &Range<u64>) -> &[u8] {
        let at = |place: u64| usize::try_from(place).unwrap_or(0);
        &self.bytes[at(place.start)..at(place.end)]
    }

    /// Returns the checksums of pages; 0 where they cannot be read.
    fn read_sums(&self, pages: Range<u64>) -> Vec<u32> {
        let length = usize::try_from((pages.end - pages.start) * SUM_BYTES).unwrap_or(0);
        let mut sums = vec![0; length];
        if length > 0 && self.sums.read_exact_at(&mut sums, pages.start * SUM_BYTES).is_err() {
            sums.fill(0);
        }
        let (sums, _) = sums.as_chunks::<4>();
        sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect()
    }

    fn is_known(&self, page: u64) -> bool {
        let (word, bit) = word_of(page);
        self.known[word].load(Ordering::Acquire) & bit != 0
    }

    fn mark(&self, page: u64) {
        let (word, bit) = word_of(page);
        self.known[word].fetch_or(bit, Ordering::Release);
    }
}

/// What is known of some pages: from `first` on the checksum of each, or `None` where it was compared.
struct Looked {
    first: u64,
    sums: Vec<Option<u32>>,
}

impl Looked {
    /// Returns whether every page has a checksum, or had one that was compared.
    fn seems_whole(&self) -> bool {
        self.sums.iter().all(|sum| *sum != Some(0))
    }

    /// Returns the numbers of those pages that are wanted.
    fn pages(&self, is_wanted: impl Fn(u64, Option<u32>) -> bool) -> impl Iterator<Item = u64> {
        let pages = (self.first..).zip(&self.sums);
        pages.filter_map(move |(page, sum)| is_wanted(page, *sum).then_some(page))
    }
}

fn word_of(page: u64) -> (usize, u64) {
    (usize::try_from(page / 64).unwrap_or(usize::MAX), 1 << (page % 64))
}

/// Returns the checksum of a page, which is never 0.
#[expect(clippy::cast_possible_truncation, reason = "half of the bits are enough")]
fn sum_of(page: &[u8]) -> u32 {
    (XxHash3_64::oneshot(page) as u32).max(1)
}

/// Opens a file of this size, made if there is none; one of another size is replaced.
fn sized(path: &Path, bytes: u64) -> std::io::Result<File> {
    let mut options = private();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path)?;
    match file.metadata()?.len() {
        found if found == bytes => Ok(file),
        0 => file.set_len(bytes).map(|()| file),
        _ => {
            fs::remove_file(path)?;
            let file = options.open(path)?;
            file.set_len(bytes)?;
            Ok(file)
        }
    }
}

#[expect(unsafe_code, reason = "mapping a file; the contract is in the module's documentation")]
fn map(file: &File) -> std::io::Result<Arc<Mapping>> {
    // SAFETY: pages that are shown do not change; see the module's documentation.
    unsafe { Mapping::new(file) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::room::Cache;

    fn copies(folder: &Path, limit: Option<u64>) -> Arc<Copies> {
        Arc::new(Copies::open(&Cache::new(folder, limit), "s3://bucket/t.lance").unwrap())
    }

    fn original(num_bytes: usize) -> Vec<u8> {
        (0..num_bytes).map(|at| u8::try_from(at * 7 % 253).unwrap()).collect()
    }

    fn gaps(copy: &Copy, of: Range<u64>) -> Vec<Range<u64>> {
        copy.missing(&[of])
    }

    /// Checks that exactly one range is missing of another.
    fn is_missing(copy: &Copy, of: Range<u64>, wanted: Range<u64>) {
        let missing = gaps(copy, of);
        assert!(missing.len() == 1 && missing[0] == wanted, "{missing:?}");
    }

    #[test]
    fn pages_that_were_kept_are_there_also_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = original(50_000);
        let (ours, theirs) = (copies(folder.path(), None), copies(folder.path(), None));
        let copy = Copy::open(&ours, "data/a.lance", 50_000).unwrap();
        is_missing(&copy, 5000..6000, 4096..8192);
        is_missing(&copy, 0..50_000, 0..50_000);
        copy.keep(4096, &file[4096..12_288]);
        copy.keep(49_152, &file[49_152..]);
        let other = Copy::open(&theirs, "data/a.lance", 50_000).unwrap();
        for copy in [&copy, &other] {
            assert!(gaps(copy, 5000..12_000).is_empty());
            assert_eq!(copy.slice(&(5000..12_000)), file[5000..12_000]);
            assert_eq!(copy.slice(&(49_999..50_000)), file[49_999..]);
            assert_eq!(gaps(copy, 0..50_000), [0..4096, 12_288..49_152]);
            assert!(copy.has_all(&[49_999..50_000, 5000..12_000, 5000..5000]));
            assert!(copy.seems_to_have(&(5000..12_000)));
            assert!(!copy.seems_to_have(&(0..50_000)) && !copy.seems_to_have(&(12_287..12_289)));
            // Nothing lies beyond the end, where a damaged file may look for something.
            assert_eq!(gaps(copy, 70_000..90_000), []);
            assert!(
                copy.has_all(&[5000..6000, 70_000..90_000])
                    && copy.seems_to_have(&(70_000..90_000))
            );
            assert!(!copy.has_all(&[49_999..50_000, 5000..12_289]));
        }
        let unread = Copy::open(&theirs, "data/a.lance", 50_000).unwrap();
        assert!(unread.has_all(&[5000..9000, 8000..12_000]));
        // Another file, and the same name with another size.
        for (name, num_bytes) in [("data/b.lance", 50_000), ("data/a.lance", 40_000)] {
            let copy = Copy::open(&ours, name, num_bytes).unwrap();
            assert_eq!(gaps(&copy, 0..num_bytes).len(), 1, "{name}");
        }
    }

    #[test]
    fn damaged_and_unfinished_pages_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = original(20_000);
        let ours = copies(folder.path(), None);
        let copy = Copy::open(&ours, "a", 20_000).unwrap();
        copy.keep(0, &file);
        copy.data.write_all_at(b"x", 9000).unwrap();
        copy.sums.write_all_at(&[0; 4], 0).unwrap();
        let again = Copy::open(&ours, "a", 20_000).unwrap();
        assert!(again.has_all(&[12_288..20_000, 4096..8192]));
        for damaged in [4095..5000, 8000..8193, 0..20_000] {
            assert!(!again.has_all(&[12_288..20_000, damaged]));
        }
        assert_eq!(gaps(&again, 0..20_000), [0..4096, 8192..12_288]);
        again.keep(0, &file[..4096]);
        assert_eq!(gaps(&again, 0..8192), []);
        // Parts of pages are not kept.
        again.keep(8192, &file[8192..8200]);
        again.keep(8200, &file[8200..12_288]);
        is_missing(&again, 8192..9000, 8192..12_288);
    }

    #[test]
    fn what_has_no_room_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = original(400_000);
        let ours = copies(folder.path(), Some(200_000));
        let copy = Copy::open(&ours, "a", 400_000).unwrap();
        for start in (0..400_000).step_by(40_960) {
            let end = file.len().min(start + 40_960);
            copy.keep(start as u64, &file[start..end]);
        }
        let missing: u64 = gaps(&copy, 0..400_000).iter().map(|r| r.end - r.start).sum();
        assert!((200_000..400_000).contains(&missing), "{missing}");
        assert!(ours.failure().unwrap().to_string().contains("limit of 200000"));
        drop((copy, ours));
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 3, "the marker, the lock and the entry");
    }
}
