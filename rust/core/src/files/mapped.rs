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

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_buffer::Buffer;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lance_encoding::EncodingsIo;
use rustix::process::{Resource, getrlimit};

use crate::disk::is_remote;
use crate::error::{Error, Result};
use crate::mapping::Mapping;

/// Where address space is limited (`ulimit -v`): the bytes left for allocations, and how many times
/// larger than a file the rest must be for the file to be mapped.
const ADDRESSES_LEFT: u64 = 128 << 20;
const ADDRESSES_PER_BYTE: u64 = 8;

/// A mapped data file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    mapping: Arc<Mapping>,
    bytes: Bytes,
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
            mapping => mapping.map_err(failed)?,
        };
        let bytes = mapping.bytes();
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

    /// Returns the bytes of ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the file has fewer.
    pub(crate) fn slices(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        self.mapping.ahead(&ranges);
        ranges.into_iter().map(|range| self.part(range)).collect()
    }

    fn part(&self, range: Range<u64>) -> Result<Bytes> {
        let inside = |at: u64| usize::try_from(at).ok().filter(|&at| at <= self.bytes.len());
        match (inside(range.start), inside(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(self.bytes.slice(start..end)),
            _ => Err(too_short(&self.path, self.num_bytes(), &range)),
        }
    }

    /// Returns the error that says what is wrong with the file.
    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::corrupt(self.path.display(), reason.into())
    }

    /// Asks for the pages of ascending ranges that are about to be copied, which brings none of them into this
    /// process.
    pub(crate) fn ahead_of_copy(&self, ranges: &[Range<u64>]) {
        self.mapping.read_ahead(ranges);
    }

    /// Opens the file again; `None` if it cannot be opened, as when it was removed.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if it has another length than when it was mapped.
    pub(super) fn open_again(&self) -> Result<Option<File>> {
        let Ok(file) = File::open(&self.path) else {
            return Ok(None);
        };
        let failed = |error: std::io::Error| Error::io(self.path.display(), &error);
        let found = file.metadata().map_err(failed)?.len();
        if found != self.num_bytes() {
            return Err(wrong_size(&self.path, found, self.num_bytes()));
        }
        Ok(Some(file))
    }

    /// Returns where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
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

pub(super) fn too_short(path: &Path, found: u64, wanted: &Range<u64>) -> Error {
    let reason = format!("it has {found} bytes, and bytes {wanted:?} are wanted");
    Error::corrupt(path.display(), reason)
}

fn wrong_size(path: &Path, found: u64, wanted: u64) -> Error {
    Error::corrupt(path.display(), format!("it has {found} bytes where {wanted} were written"))
}

#[expect(unsafe_code, reason = "mapping a file; the contract is in the module's documentation")]
fn map(file: &File) -> std::io::Result<Arc<Mapping>> {
    // SAFETY: a committed Lance data file does not change; see the module's documentation.
    unsafe { Mapping::new(file) }
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
