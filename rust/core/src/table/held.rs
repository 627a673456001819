//! What a process holds open of all its tables, within limits.
//!
//! A mapping counts against `vm.max_map_count`, an open file against `RLIMIT_NOFILE`, and metadata of
//! columns takes memory, so what was not used for longest is let go. Whoever reads holds what it reads
//! itself, and goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lance_core::cache::LanceCache;
use lance_core::deepsize::DeepSizeOf;
use lance_encoding::decoder::ColumnInfo;
use object_store::path::Path;
use rustix::process::{Resource, getrlimit};

use super::footer::Run;
use super::lru::Lru;
use super::mapped::MappedFile;
use super::storage::DataFile;
use crate::error::Result;
use crate::runtime::{PerProcess, lock};

/// Of what the system allows a process, the share taken here: forked processes inherit what their
/// parents mapped, and others in the process want some.
const SHARE: u64 = 4;
/// What Linux allows unless told otherwise.
const DEFAULT_MAPPINGS: u64 = 65_530;
/// Readers of files that are not mapped: they may hold a file descriptor, or a small file.
const MAX_READERS: u64 = 1 << 10;
/// Metadata of columns.
const METADATA_BYTES: u64 = 64 << 20;
/// What Lance keeps of pages. Mostly indexes of a few bytes for a chunk, made anew in no time, but all
/// values of a page where they are alike or from a dictionary: a row that is a page of its own is kept
/// whole.
const PAGE_BYTES: usize = 16 << 20;

static HELD: PerProcess<Held> = PerProcess::new();
static NEXT_STORAGE: AtomicU64 = AtomicU64::new(0);

/// Metadata of columns of one file.
pub(super) type Metadata = Arc<[Arc<ColumnInfo>]>;

/// A file of a table that is open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The number of the table's storage.
    pub(super) storage: u64,
    pub(super) name: Name,
}

/// Which file of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// A data file, by the index of its fragment and its own there.
    Data { fragment: usize, file: usize },
    /// A file beside these.
    Beside(Path),
}

/// Columns of a file.
type ColumnsKey = (Key, Arc<[Run]>);

/// What is open.
#[derive(Debug, Clone)]
enum Open {
    Data(Arc<DataFile>),
    Beside(Arc<MappedFile>),
}

#[derive(Debug)]
pub(super) struct Held {
    files: Mutex<Lru<Key, Open>>,
    /// What a file weighs that is not mapped; a mapping weighs 1.
    reader_weight: u64,
    metadata: Mutex<Lru<ColumnsKey, Metadata>>,
    pub(super) pages: LanceCache,
}

/// A number for a storage that no other has.
pub(super) fn new_storage() -> u64 {
    NEXT_STORAGE.fetch_add(1, Ordering::Relaxed)
}

/// What this process holds.
pub(super) fn held() -> Result<Arc<Held>> {
    HELD.get_or_make(|| Ok(Held::new(max_mappings() / SHARE, max_files() / SHARE)))
}

impl Held {
    fn new(mappings: u64, files: u64) -> Self {
        let readers = files.clamp(1, MAX_READERS);
        Self {
            files: Mutex::new(Lru::new(mappings)),
            reader_weight: (mappings / readers).max(1),
            metadata: Mutex::new(Lru::new(METADATA_BYTES)),
            pages: LanceCache::with_capacity(PAGE_BYTES),
        }
    }

    /// A data file, opened if it is not.
    pub(super) fn file(
        &self,
        key: &Key,
        open: impl FnOnce() -> Result<DataFile>,
    ) -> Result<Arc<DataFile>> {
        if let Some(Open::Data(file)) = lock(&self.files).get(key) {
            return Ok(file);
        }
        // No lock is held meanwhile: it would serialize the first batch.
        let file = Arc::new(open()?);
        let weight = if file.is_remote() { self.reader_weight } else { 1 };
        let (kept, gone) =
            lock(&self.files).insert(key.clone(), Open::Data(Arc::clone(&file)), weight);
        drop(gone);
        Ok(match kept {
            Open::Data(kept) => kept,
            Open::Beside(_) => file,
        })
    }

    /// A mapped file that is no data file, opened if it is not; `None` if it cannot be mapped.
    pub(super) fn beside(
        &self,
        key: &Key,
        open: impl FnOnce() -> Result<Option<MappedFile>>,
    ) -> Result<Option<Arc<MappedFile>>> {
        if let Some(Open::Beside(file)) = lock(&self.files).get(key) {
            return Ok(Some(file));
        }
        let Some(file) = open()?.map(Arc::new) else {
            return Ok(None);
        };
        let (_, gone) = lock(&self.files).insert(key.clone(), Open::Beside(Arc::clone(&file)), 1);
        drop(gone);
        Ok(Some(file))
    }

    /// Metadata of some columns of a data file, read if it is not there.
    pub(super) fn metadata(
        &self,
        key: &Key,
        columns: &Arc<[Run]>,
        read: impl FnOnce() -> Result<Vec<Arc<ColumnInfo>>>,
    ) -> Result<Metadata> {
        let key = (key.clone(), Arc::clone(columns));
        if let Some(found) = lock(&self.metadata).get(&key) {
            return Ok(found);
        }
        let made: Metadata = read()?.into();
        let bytes = made.iter().map(DeepSizeOf::deep_size_of).sum::<usize>();
        let (kept, gone) = lock(&self.metadata).insert(key, made, bytes as u64);
        drop(gone);
        Ok(kept)
    }

    /// Lets go of half of the files, where the system has no room for more.
    pub(super) fn make_room(&self) {
        let gone = lock(&self.files).halve();
        drop(gone);
    }

    /// Lets go of a file, which is opened anew when it is asked for again.
    pub(super) fn close_file(&self, key: &Key) {
        lock(&self.files).retain(|other| other != key);
    }

    /// Lets go of all that a storage had opened.
    fn close(&self, storage: u64) {
        lock(&self.files).retain(|key| key.storage != storage);
        lock(&self.metadata).retain(|(key, _)| key.storage != storage);
    }
}

/// Lets go of all that a storage of this process had opened.
pub(super) fn close(storage: u64) {
    if let Ok(held) = held() {
        held.close(storage);
    }
}

/// Mappings that a process may have.
fn max_mappings() -> u64 {
    let known = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    known.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_MAPPINGS)
}

/// Files that a process may have open.
fn max_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
