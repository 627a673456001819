//! The files and metadata that a process keeps open for all its tables, within limits.
//!
//! A mapping counts against `vm.max_map_count`, an open file against `RLIMIT_NOFILE`, and metadata of
//! columns takes memory, so the least recently used ones are dropped. A reader holds what it reads
//! itself, and is not disturbed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lance_core::cache::{LanceCache, QuickCacheBackend};
use lance_core::deepsize::DeepSizeOf;
use lance_encoding::decoder::ColumnInfo;
use object_store::path::Path;
use rustix::process::{Resource, getrlimit};

use super::data_file::DataFile;
use super::footer::Run;
use super::long::LongColumn;
use super::lru::Lru;
use crate::error::Result;
use crate::files::{MappedFile, RemoteFile};
use crate::runtime::{PerProcess, lock};

/// The divisor of what the system allows a process: forked processes inherit the mappings of their
/// parents, and other libraries of the process need some too.
const SHARE: u64 = 4;
/// The default of `vm.max_map_count` on Linux.
const DEFAULT_MAPPINGS: u64 = 65_530;
/// The most readers of files that are not mapped: each may hold a file descriptor, or a small file.
const MAX_READERS: u64 = 1 << 10;
/// The fewest and the most remote files that are read at once: as many as requests that are in flight.
const REMOTE_AT_ONCE: (usize, usize) = (32, 256);
/// The most bytes of metadata of columns.
const METADATA_BYTES: u64 = 64 << 20;
/// The most bytes that Lance keeps about pages. These are mostly indexes of a few bytes per chunk,
/// which are cheap to rebuild, but a page of equal values or of a dictionary is kept with its values,
/// and a row that is a page of its own is kept whole. The backend makes room with every insertion;
/// Lance's default one does so some dozen pages later, and takes twice the memory for small entries.
const PAGE_BYTES: usize = 16 << 20;

static OPEN_FILES: PerProcess<OpenFiles> = PerProcess::new();
static NEXT_STORAGE: AtomicU64 = AtomicU64::new(0);

/// Metadata of columns of one file.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) infos: Vec<Arc<ColumnInfo>>,
    /// Those that are read without Lance's decoder.
    long: Vec<Option<LongColumn>>,
}

impl Metadata {
    /// Returns the columns that are read by Lance's decoder.
    pub(super) fn decoded(&self) -> impl Iterator<Item = &Arc<ColumnInfo>> {
        let all = self.infos.iter().zip(&self.long);
        all.filter(|(_, long)| long.is_none()).map(|(info, _)| info)
    }

    /// Returns the column at a place among `infos`, if it holds long values.
    pub(super) fn long(&self, at: u32) -> Option<&LongColumn> {
        self.long.get(at as usize)?.as_ref()
    }
}

/// A file of a table that is open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The number of the table's storage.
    pub(super) storage: u64,
    pub(super) name: Name,
}

/// The name of a file within a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// A data file, by the index of its fragment and its own there.
    Data { fragment: usize, file: usize },
    /// Another file, such as one of blobs.
    Other(Path),
}

/// Which columns of a file.
type ColumnsKey = (Key, Arc<[Run]>);

/// An open file.
#[derive(Debug, Clone)]
enum OpenFile {
    Data(Arc<DataFile>),
    Mapped(Arc<MappedFile>),
    Remote(Arc<RemoteFile>),
}

#[derive(Debug)]
pub(super) struct OpenFiles {
    files: Mutex<Lru<Key, OpenFile>>,
    /// The weight of a file that is not mapped; a mapping weighs 1.
    reader_weight: u64,
    metadata: Mutex<Lru<ColumnsKey, Arc<Metadata>>>,
    pub(super) pages: LanceCache,
}

/// Returns a number that no other storage has.
pub(super) fn new_storage() -> u64 {
    NEXT_STORAGE.fetch_add(1, Ordering::Relaxed)
}

/// Returns the open files of this process.
pub(super) fn open_files() -> Result<Arc<OpenFiles>> {
    OPEN_FILES.get_or_make(|| Ok(OpenFiles::new(max_mappings() / SHARE, max_files() / SHARE)))
}

impl OpenFiles {
    fn new(mappings: u64, files: u64) -> Self {
        let readers = files.clamp(1, MAX_READERS);
        Self {
            files: Mutex::new(Lru::new(mappings)),
            reader_weight: (mappings / readers).max(1),
            metadata: Mutex::new(Lru::new(METADATA_BYTES)),
            pages: LanceCache::with_backend(Arc::new(QuickCacheBackend::with_capacity(PAGE_BYTES))),
        }
    }

    /// Returns a data file, if it is open.
    pub(super) fn file(&self, key: &Key) -> Option<Arc<DataFile>> {
        match lock(&self.files).get(key) {
            Some(OpenFile::Data(file)) => Some(file),
            _ => None,
        }
    }

    /// Keeps a data file open for a while, and returns it, or the one that another thread has opened
    /// meanwhile: no lock is held while opening, as it would serialize the first batch.
    pub(super) fn keep_file(&self, key: &Key, file: DataFile) -> Arc<DataFile> {
        // The copy of a remote file and its checksums are files, too.
        let weight = if file.is_remote() { 2 * self.reader_weight } else { 1 };
        let file = Arc::new(file);
        match self.keep(key, OpenFile::Data(Arc::clone(&file)), weight) {
            OpenFile::Data(kept) => kept,
            OpenFile::Mapped(_) | OpenFile::Remote(_) => file,
        }
    }

    /// Returns a mapped file other than a data file, opened if it is not open; `None` if it cannot be
    /// mapped.
    pub(super) fn mapped_file(
        &self,
        key: &Key,
        open: impl FnOnce() -> Result<Option<MappedFile>>,
    ) -> Result<Option<Arc<MappedFile>>> {
        if let Some(OpenFile::Mapped(file)) = lock(&self.files).get(key) {
            return Ok(Some(file));
        }
        let Some(file) = open()?.map(Arc::new) else {
            return Ok(None);
        };
        self.keep(key, OpenFile::Mapped(Arc::clone(&file)), 1);
        Ok(Some(file))
    }

    /// Returns a remote file other than a data file, if it is open.
    pub(super) fn remote_file(&self, key: &Key) -> Option<Arc<RemoteFile>> {
        match lock(&self.files).get(key) {
            Some(OpenFile::Remote(file)) => Some(file),
            _ => None,
        }
    }

    /// Keeps a remote file other than a data file open for a while.
    pub(super) fn keep_remote_file(&self, key: &Key, file: &Arc<RemoteFile>) {
        self.keep(key, OpenFile::Remote(Arc::clone(file)), self.reader_weight);
    }

    fn keep(&self, key: &Key, file: OpenFile, weight: u64) -> OpenFile {
        let (kept, gone) = lock(&self.files).insert(key.clone(), file, weight);
        drop(gone);
        kept
    }

    /// Returns the metadata of some columns of a data file, if it is kept.
    pub(super) fn metadata(&self, key: &Key, columns: &Arc<[Run]>) -> Option<Arc<Metadata>> {
        lock(&self.metadata).get(&(key.clone(), Arc::clone(columns)))
    }

    /// Keeps the metadata of some columns of a data file for a while, and returns it.
    pub(super) fn keep_metadata(
        &self,
        key: &Key,
        columns: &Arc<[Run]>,
        found: Vec<Arc<ColumnInfo>>,
    ) -> Arc<Metadata> {
        let bytes = found.iter().map(DeepSizeOf::deep_size_of).sum::<usize>() as u64;
        let long: Vec<_> = found.iter().map(|info| LongColumn::of(info)).collect();
        let indexes: u64 = long.iter().flatten().map(LongColumn::index_bytes).sum();
        let found = Arc::new(Metadata { infos: found, long });
        let key = (key.clone(), Arc::clone(columns));
        let (kept, gone) = lock(&self.metadata).insert(key, found, bytes + indexes);
        drop(gone);
        kept
    }

    /// Closes half of the files, for when the system has no room for more.
    pub(super) fn make_room(&self) {
        let gone = lock(&self.files).halve();
        drop(gone);
    }

    /// Closes a file; it is opened anew when it is used again.
    pub(super) fn close_file(&self, key: &Key) {
        lock(&self.files).retain(|other| other != key);
    }

    /// Closes everything that a storage has opened.
    fn close(&self, storage: u64) {
        lock(&self.files).retain(|key| key.storage != storage);
        lock(&self.metadata).retain(|(key, _)| key.storage != storage);
    }
}

/// Closes everything that a storage of this process has opened.
pub(super) fn close(storage: u64) {
    if let Ok(open_files) = open_files() {
        open_files.close(storage);
    }
}

/// Returns how many remote files are read at once: each has a copy and checksums that are open meanwhile.
pub(crate) fn remote_files_at_once() -> usize {
    usize::try_from(max_files() / SHARE / 2)
        .unwrap_or(usize::MAX)
        .clamp(REMOTE_AT_ONCE.0, REMOTE_AT_ONCE.1)
}

/// Returns how many mappings a process may have.
fn max_mappings() -> u64 {
    let known = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    known.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_MAPPINGS)
}

/// Returns how many files a process may have open.
fn max_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
