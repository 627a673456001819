//! A data file on a local disk, mapped into memory, as an input of Lance's decoder.
//!
//! Every request is answered at once by a slice of the mapping: no thread, no system call, no copy.
//! Decoding then runs on the thread that asks for a batch.
//!
//! # The mapping and `unsafe`
//!
//! A mapping shows what happens to its file. The bytes of a `&[u8]` must not change while they are
//! borrowed, which holds because Lance never writes to a data file once it is committed, and removing
//! the file leaves the mapping intact. If another program truncates the file, touching the mapping
//! beyond the new end kills the process with SIGBUS. So [`MappedFile::check`] compares the size before
//! each read, and network file systems, where other machines can truncate files, are not mapped.
//!
//! # Memory
//!
//! Pages of a mapping that were touched count as memory of the process until they are released,
//! although the system may reclaim them, and has them in its page cache. They are released once some
//! [`KEPT_BYTES`] were requested.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arrow_buffer::Buffer;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lance_encoding::EncodingsIo;
use memmap2::{Mmap, UncheckedAdvice};
use rustix::process::{Resource, getrlimit};

use crate::advice;
use crate::disk::is_remote;
use crate::error::{Error, Result};
use crate::runtime::{PerProcess, lock};

/// Bytes that may be requested before the pages of all mappings are released.
const KEPT_BYTES: u64 = 128 << 20;
/// Bytes that a range takes beyond its own: the system maps pages around those that are touched.
const AROUND_BYTES: u64 = 64 << 10;
/// Ranges shorter than this count an eighth: bringing their pages back costs a page fault for a few
/// values each, and not for some hundred thousand.
const SHORT_BYTES: u64 = 64 << 10;
const SHORT_SHARE: u64 = 8;

/// Where address space is limited (`ulimit -v`): the bytes left for allocations, and how many times
/// larger than a file the rest must be for the file to be mapped.
const ADDRESSES_LEFT: u64 = 128 << 20;
const ADDRESSES_PER_BYTE: u64 = 8;

static TOUCHED: PerProcess<Touched> = PerProcess::new();

/// What was requested since pages were last released.
#[derive(Debug, Default)]
struct Touched {
    bytes: AtomicU64,
    mappings: Mutex<Mappings>,
}

#[derive(Debug, Default)]
struct Mappings {
    now: Vec<Weak<Mapping>>,
    /// Mappings of the period before: a slow reader may have touched them after their release.
    before: Vec<Weak<Mapping>>,
}

/// A mapped data file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    mapping: Arc<Mapping>,
    bytes: Bytes,
}

#[derive(Debug)]
struct Mapping {
    map: Mmap,
    /// Bytes that were requested since its pages were last released.
    touched: AtomicU64,
    /// Whether the system reads what is asked for, and nothing around it.
    is_planned: bool,
}

/// The outcome of an attempt to map a file.
#[derive(Debug)]
pub(crate) enum Attempt {
    Mapped(MappedFile),
    /// Files of its file system should not be mapped.
    Unsuitable,
    /// The system gives this process no more mappings, open files or address space.
    NoRoom,
}

/// The owner of the `Bytes` of a mapping.
struct Shown(Arc<Mapping>);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

impl MappedFile {
    /// Maps the file at `path`, whose size the manifest says is `expected_bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`], and [`Error::Corrupt`] if the size is another one.
    pub(crate) fn open(path: &Path, expected_bytes: Option<u64>) -> Result<Attempt> {
        let failed = |error: std::io::Error| Error::io(path.display(), &error);
        let file = match File::open(path) {
            Err(error) if has_no_room(&error) => return Ok(Attempt::NoRoom),
            file => file.map_err(failed)?,
        };
        if is_remote(&file) {
            return Ok(Attempt::Unsuitable);
        }
        let found = file.metadata().map_err(failed)?.len();
        if let Some(wanted) = expected_bytes.filter(|&wanted| wanted != found) {
            return Err(wrong_size(path, found, wanted));
        }
        if !has_addresses_for(found) {
            return Ok(Attempt::NoRoom);
        }
        let mapping = match map(&file) {
            Err(error) if has_no_room(&error) => return Ok(Attempt::NoRoom),
            map => Mapping {
                map: map.map_err(failed)?,
                touched: AtomicU64::new(0),
                is_planned: advice::can_look(&file),
            },
        };
        if mapping.is_planned {
            advice::at_random(&mapping.map);
        }
        let mapping = Arc::new(mapping);
        let bytes = Bytes::from_owner(Shown(Arc::clone(&mapping)));
        Ok(Attempt::Mapped(Self { path: path.to_path_buf(), mapping, bytes }))
    }

    /// Returns the bytes of the file.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the bytes of a range.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the file has fewer.
    pub(crate) fn slice(&self, range: Range<u64>) -> Result<Bytes> {
        self.slices(vec![range]).map(|mut slices| slices.remove(0))
    }

    fn slices(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        if let Ok(touched) = TOUCHED.get_or_make(|| Ok(Touched::default())) {
            touched.add(&self.mapping, touched_by(&ranges));
        }
        if self.mapping.is_planned {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            let places = ranges.iter().map(|range| place(range.start)..place(range.end));
            advice::ahead(&self.mapping.map, &places.collect::<Vec<_>>());
        }
        ranges.into_iter().map(|range| self.part(range)).collect()
    }

    fn part(&self, range: Range<u64>) -> Result<Bytes> {
        let inside = |at: u64| usize::try_from(at).ok().filter(|&at| at <= self.bytes.len());
        match (inside(range.start), inside(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(self.bytes.slice(start..end)),
            _ => Err(Error::corrupt(
                self.path.display(),
                format!("it has {} bytes, and bytes {range:?} are wanted", self.bytes.len()),
            )),
        }
    }

    /// Returns whether a buffer is a part of the mapping.
    pub(crate) fn holds(&self, buffer: &Buffer) -> bool {
        self.bytes.as_ptr_range().contains(&buffer.as_ptr())
    }

    /// Returns whether the file still has the size that was mapped.
    ///
    /// A file that was removed is fine: the mapping keeps its contents.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if it was cut.
    pub(crate) fn check(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(now) if now.len() < self.bytes.len() as u64 => {
                Err(wrong_size(&self.path, now.len(), self.bytes.len() as u64))
            }
            _ => Ok(()),
        }
    }
}

impl Touched {
    /// Takes note that so many bytes of a mapping are about to be touched.
    fn add(&self, mapping: &Arc<Mapping>, bytes: u64) {
        if self.bytes.load(Ordering::Relaxed) > KEPT_BYTES {
            self.forget();
        }
        let before = mapping.touched.fetch_add(bytes, Ordering::Relaxed);
        if before == 0 && bytes > 0 {
            lock(&self.mappings).now.push(Arc::downgrade(mapping));
        }
        // The pages in memory cannot exceed the length of the file.
        let all = mapping.map.len() as u64;
        let new = all.min(before.saturating_add(bytes)) - all.min(before);
        self.bytes.fetch_add(new, Ordering::Relaxed);
    }

    /// Takes the pages of what was touched out of this process, and says how many mappings that were.
    fn forget(&self) -> usize {
        self.bytes.store(0, Ordering::Relaxed);
        let leaving = {
            let mut mappings = lock(&self.mappings);
            let now = std::mem::take(&mut mappings.now);
            let now: Vec<_> = now.into_iter().filter_map(|mapping| mapping.upgrade()).collect();
            let held = now.iter().map(Arc::downgrade).collect();
            let before = std::mem::replace(&mut mappings.before, held);
            for mapping in &now {
                mapping.touched.store(0, Ordering::Relaxed);
            }
            now.into_iter().chain(before.iter().filter_map(Weak::upgrade)).collect::<Vec<_>>()
        };
        for mapping in &leaving {
            mapping.leave();
        }
        leaving.len()
    }
}

impl Mapping {
    /// Takes its pages out of this process; they stay in the page cache, from where they come back when
    /// they are touched.
    #[expect(unsafe_code, reason = "advice on a mapping")]
    fn leave(&self) {
        // SAFETY: the mapping is of a file and is never written to, so its pages come back with the
        // same contents.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

/// Returns the bytes of a file that come into memory when these ranges are touched, those of short
/// ones in part.
fn touched_by(ranges: &[Range<u64>]) -> u64 {
    let mut end = 0;
    let mut bytes = 0;
    for range in ranges {
        let between =
            range.start.checked_sub(end).map_or(AROUND_BYTES, |gap| gap.min(AROUND_BYTES));
        let length = range.end.saturating_sub(range.start);
        let share = if length < SHORT_BYTES { SHORT_SHARE } else { 1 };
        bytes += (between + length) / share;
        end = range.end;
    }
    bytes
}

/// Takes the pages of all mappings that were touched since the last time out of this process.
pub(crate) fn forget_touched() {
    if let Ok(touched) = TOUCHED.get_or_make(|| Ok(Touched::default())) {
        touched.forget();
    }
}

impl EncodingsIo for MappedFile {
    fn submit_request(
        &self,
        ranges: Vec<Range<u64>>,
        _priority: u64,
    ) -> BoxFuture<'static, lance_core::Result<Vec<Bytes>>> {
        let slices = self.slices(ranges);
        let slices =
            slices.map_err(|error| lance_core::Error::invalid_input_source(Box::new(error)));
        std::future::ready(slices).boxed()
    }
}

/// Returns whether the address space, if it is limited, has room for a mapping of so many bytes,
/// and more.
fn has_addresses_for(bytes: u64) -> bool {
    let Some(limit) = getrlimit(Resource::As).current else {
        return true;
    };
    let used = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    let left = used().map_or(limit, |used| limit.saturating_sub(used));
    left > ADDRESSES_LEFT && bytes <= left / ADDRESSES_PER_BYTE
}

/// Returns whether the error says that this process has too many files or mappings open.
fn has_no_room(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE))
}

fn wrong_size(path: &Path, found: u64, wanted: u64) -> Error {
    Error::corrupt(path.display(), format!("it has {found} bytes where {wanted} were written"))
}

#[expect(unsafe_code, reason = "mapping a file; the contract is in the module's documentation")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: a committed Lance data file does not change; see the module's documentation.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(contents: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(contents).unwrap();
        file
    }

    fn open(path: &Path, expected_bytes: Option<u64>) -> MappedFile {
        match MappedFile::open(path, expected_bytes).unwrap() {
            Attempt::Mapped(mapped) => mapped,
            other => panic!("{other:?}"),
        }
    }

    fn ask(mapped: &MappedFile, ranges: Vec<Range<u64>>) -> lance_core::Result<Vec<Bytes>> {
        mapped.submit_request(ranges, 0).now_or_never().expect("a mapping answers at once")
    }

    #[test]
    fn requests_are_slices_of_the_mapping() {
        let file = file(b"0123456789");
        let mapped = open(file.path(), Some(10));
        let slices = ask(&mapped, vec![2..5, 9..10, 4..4]).unwrap();
        assert_eq!(slices, ["234".as_bytes(), b"9", b""]);
        assert_eq!(slices[0].as_ptr(), mapped.bytes[2..].as_ptr());
        assert!(mapped.holds(&Buffer::from(slices[1].clone())));
        assert!(!mapped.holds(&Buffer::from(vec![1_u8])));
        for (start, end) in [(9, 11), (11, 12), (5, 2)] {
            assert!(ask(&mapped, vec![0..1, start..end]).is_err());
        }
    }

    #[test]
    fn a_file_of_another_size_is_damaged() {
        let file = file(b"0123456789");
        let error = MappedFile::open(file.path(), Some(12)).unwrap_err().to_string();
        assert!(error.contains("it has 10 bytes where 12 were written"), "{error}");
    }

    #[test]
    fn a_file_cut_after_mapping_is_noticed_and_a_removed_one_is_not_missed() {
        let file = file(&[7; 10_000]);
        let mapped = open(file.path(), None);
        mapped.check().unwrap();
        file.as_file().set_len(5_000).unwrap();
        assert!(matches!(mapped.check(), Err(Error::Corrupt { .. })));
        file.as_file().set_len(10_000).unwrap();
        drop(file);
        mapped.check().unwrap();
        assert_eq!(ask(&mapped, vec![0..1, 2..2]).unwrap()[0].len(), 1);
    }

    #[test]
    fn pages_of_what_was_touched_leave_and_of_nothing_else() {
        let large = |file: &tempfile::NamedTempFile| file.as_file().set_len(KEPT_BYTES).unwrap();
        let files: Vec<_> = (0..10).map(|_| file(b"")).inspect(large).collect();
        let mapped: Vec<_> = files.iter().map(|file| open(file.path(), None)).collect();
        let touched = Touched::default();
        let add = |at: usize, bytes| touched.add(&mapped[at].mapping, bytes);
        assert_eq!(touched.forget(), 0);
        add(3, 1);
        add(3, 1);
        add(5, 1);
        assert_eq!(touched.forget(), 2);
        add(4, 1);
        // Those of the time before as well.
        assert_eq!(touched.forget(), 3);
        assert_eq!([touched.forget(), touched.forget()], [1, 0]);
        // Once there is too much.
        for at in 0..10 {
            add(at, KEPT_BYTES / 4);
        }
        assert_eq!(lock(&touched.mappings).now.len(), 5);
        assert_eq!(touched.bytes.load(Ordering::Relaxed), KEPT_BYTES / 4 * 5);
        drop((mapped, files));
        assert_eq!(touched.forget(), 0);
    }

    #[test]
    fn a_small_file_is_never_much_to_keep() {
        let file = file(&[7; 10_000]);
        let mapped = open(file.path(), None);
        let touched = Touched::default();
        for _ in 0..3 {
            touched.add(&mapped.mapping, KEPT_BYTES);
        }
        assert_eq!(touched.bytes.load(Ordering::Relaxed), 10_000);
        assert_eq!(lock(&touched.mappings).now.len(), 1);
    }

    #[test]
    fn ranges_touch_what_lies_around_them_once() {
        let (around, share) = (AROUND_BYTES, SHORT_SHARE);
        assert_eq!(touched_by(&[]), 0);
        let one = 10 * around..10 * around + 800;
        assert_eq!(touched_by(std::slice::from_ref(&one)), (around + 800) / share);
        let near = [0..80, 160..240, 9 * around..9 * around + 8];
        assert_eq!(touched_by(&near), (80 + 160 + around + 8) / share);
        // Out of order.
        assert_eq!(touched_by(&[800..880, 0..80]), (880 + around + 80) / share);
        // Long ones count in full.
        let long = [0..80, 80..80 + SHORT_BYTES, 9 * around..9 * around + 2 * SHORT_BYTES];
        assert_eq!(touched_by(&long), 80 / share + 3 * SHORT_BYTES + around);
    }

    #[test]
    fn only_a_lack_of_room_is_one() {
        let of = std::io::Error::from_raw_os_error;
        for number in [12, 23, 24] {
            assert!(has_no_room(&of(number)), "{number}");
        }
        for number in [1, 2, 5, 13] {
            assert!(!has_no_room(&of(number)), "{number}");
        }
        assert!(!has_no_room(&std::io::Error::other("no number")));
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let missing = Path::new("/nowhere/at/all");
        assert!(matches!(MappedFile::open(missing, None), Err(Error::NotFound { .. })));
    }
}
