//! A data file of a local disk, mapped into memory, as Lance's decoder wants its input.
//!
//! Every request is answered at once by a slice of the mapping: no thread, no system call, no copy.
//! Decoding then runs on the thread that asks for a batch.
//!
//! # The mapping and `unsafe`
//!
//! A mapping is only as good as the file under it. Rust's rule for `&[u8]`, that nobody changes the
//! bytes while they are borrowed, rests on this: Lance never writes to a data file once it is
//! committed, and removing one leaves the mapping intact. A file that something else truncates would
//! kill the process with SIGBUS where it is touched beyond its new end, so [`MappedFile::check`]
//! looks at the size before each read, and file systems of other machines, where this can happen
//! behind our back, are not mapped at all.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_buffer::Buffer;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lance_encoding::EncodingsIo;
use memmap2::{Mmap, UncheckedAdvice};

use crate::disk::is_remote;
use crate::error::{Error, Result};

/// A mapped data file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    mapping: Arc<Mmap>,
    bytes: Bytes,
}

/// What `Bytes` holds of a mapping.
struct Shown(Arc<Mmap>);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MappedFile {
    /// Maps the file at `path`, whose size the manifest says is `expected_bytes`.
    ///
    /// `Ok(None)` if its file system should not be mapped.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`], and [`Error::Corrupt`] if the size is another one.
    pub(crate) fn open(path: &Path, expected_bytes: Option<u64>) -> Result<Option<Self>> {
        let failed = |error: std::io::Error| Error::io(path.display(), &error);
        let file = File::open(path).map_err(failed)?;
        if is_remote(&file) {
            return Ok(None);
        }
        let found = file.metadata().map_err(failed)?.len();
        if let Some(wanted) = expected_bytes.filter(|&wanted| wanted != found) {
            return Err(wrong_size(path, found, wanted));
        }
        let mapping = Arc::new(map(&file).map_err(failed)?);
        let bytes = Bytes::from_owner(Shown(Arc::clone(&mapping)));
        Ok(Some(Self { path: path.to_path_buf(), mapping, bytes }))
    }

    /// Some of its bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the file has fewer.
    pub(crate) fn slice(&self, range: Range<u64>) -> Result<Bytes> {
        let inside = |at: u64| usize::try_from(at).ok().filter(|&at| at <= self.bytes.len());
        match (inside(range.start), inside(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(self.bytes.slice(start..end)),
            _ => Err(Error::Corrupt {
                path: self.path.display().to_string(),
                reason: format!(
                    "it has {} bytes, and bytes {range:?} are wanted",
                    self.bytes.len()
                ),
            }),
        }
    }

    /// Takes the mapping's pages out of this process; they stay in the page cache, from where they
    /// come back when they are touched.
    #[expect(unsafe_code, reason = "advice on a mapping")]
    pub(crate) fn forget(&self) {
        // SAFETY: the mapping is of a file and is never written to, so its pages come back with the
        // same contents.
        let _ = unsafe { self.mapping.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// Whether a buffer is a part of the mapping.
    pub(crate) fn holds(&self, buffer: &Buffer) -> bool {
        self.bytes.as_ptr_range().contains(&buffer.as_ptr())
    }

    /// Whether the file still has the size that was mapped.
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
        let slice = |range| {
            self.slice(range).map_err(|error| lance_core::Error::invalid_input(error.to_string()))
        };
        let slices = ranges.into_iter().map(slice).collect();
        std::future::ready(slices).boxed()
    }
}

fn wrong_size(path: &Path, found: u64, wanted: u64) -> Error {
    Error::Corrupt {
        path: path.display().to_string(),
        reason: format!("it has {found} bytes where {wanted} were written"),
    }
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

    fn ask(mapped: &MappedFile, ranges: Vec<Range<u64>>) -> lance_core::Result<Vec<Bytes>> {
        mapped.submit_request(ranges, 0).now_or_never().expect("a mapping answers at once")
    }

    #[test]
    fn requests_are_slices_of_the_mapping() {
        let file = file(b"0123456789");
        let mapped = MappedFile::open(file.path(), Some(10)).unwrap().unwrap();
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
        let mapped = MappedFile::open(file.path(), None).unwrap().unwrap();
        mapped.check().unwrap();
        file.as_file().set_len(5_000).unwrap();
        assert!(matches!(mapped.check(), Err(Error::Corrupt { .. })));
        file.as_file().set_len(10_000).unwrap();
        drop(file);
        mapped.check().unwrap();
        assert_eq!(ask(&mapped, vec![0..1, 2..2]).unwrap()[0].len(), 1);
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let missing = Path::new("/nowhere/at/all");
        assert!(matches!(MappedFile::open(missing, None), Err(Error::NotFound { .. })));
    }
}
