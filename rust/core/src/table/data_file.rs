//! An open data file of a table.

use std::ops::Range;
use std::sync::Arc;

use arrow_buffer::{Buffer, NullBuffer};
use arrow_data::ArrayData;
use lance_core::cache::LanceCache;
use lance_encoding::EncodingsIo;

use crate::error::{Error, Result};
use crate::files::{Copier, MappedFile, RemoteFile};

/// A data file, ready to be decoded with any projection.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) path: String,
    pub(super) keeping_io: Arc<dyn EncodingsIo>,
    /// The same, but nothing is added to a copy on a local disk.
    pub(super) passing_io: Arc<dyn EncodingsIo>,
    /// Where Lance keeps what it learns about pages.
    pub(super) pages: Arc<LanceCache>,
    pub(super) mapped: Option<Arc<MappedFile>>,
    pub(super) remote: Option<Arc<RemoteFile>>,
    pub(super) num_bytes: u64,
    /// Bytes to read at once from its end.
    pub(super) tail_bytes: u64,
}

impl DataFile {
    /// Returns whether reads wait, for another machine or a disk, so that they should not run on
    /// the caller's thread.
    pub(super) fn is_remote(&self) -> bool {
        self.mapped.is_none()
    }

    /// Returns its bytes, for Lance's decoder. With `keeps`, what is fetched is added to a copy on a local disk.
    pub(super) fn io(&self, keeps: bool) -> &Arc<dyn EncodingsIo> {
        if keeps { &self.keeping_io } else { &self.passing_io }
    }

    /// Returns whether its copy on a local disk has all bytes of these ranges, in any order, which are about
    /// to be copied.
    pub(super) fn copies_all_of(&self, ranges: &[Range<u64>]) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.copies_all_of(ranges))
    }

    /// Counts bytes that are copied from its copy on a local disk.
    pub(super) fn count_copied(&self, bytes: u64) {
        if let Some(remote) = &self.remote {
            remote.count_copied(bytes);
        }
    }

    /// Returns a copier for values of the file, or of its copy on a local disk.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the file was cut since.
    pub(super) fn copier(&self) -> Result<Copier<'_>> {
        if let Some(mapped) = &self.mapped {
            return mapped.copier();
        }
        let copier = self.remote.as_ref().and_then(|remote| remote.copier());
        copier.ok_or_else(|| Error::bug("long values that were not fetched"))
    }

    /// Returns whether any buffer of `data` is a part of the mapped file, or of a mapped copy.
    pub(super) fn holds_some_of(&self, data: &ArrayData) -> bool {
        let holds = |buffer: &Buffer| {
            self.mapped.as_ref().is_some_and(|file| file.holds(buffer))
                || self.remote.as_ref().is_some_and(|file| file.holds(buffer))
        };
        if self.mapped.is_none() && self.remote.is_none() {
            return false;
        }
        let nulls = data.nulls().map(NullBuffer::buffer);
        data.buffers().iter().chain(nulls).any(holds)
            || data.child_data().iter().any(|child| self.holds_some_of(child))
    }

    /// Checks that a mapped file still has its size.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the file was cut since.
    pub(super) fn check(&self) -> Result<()> {
        self.mapped.as_ref().map_or(Ok(()), |mapped| mapped.check())
    }
}
