//! The storage of a table as one process opens it: object stores, schedulers and data files.
//!
//! Connections and I/O tasks do not survive a fork, so a table keeps its storage per process and
//! opens files on first use.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lance_file::LanceEncodingsIo;
use lance_io::local::to_local_path;
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, ObjectStoreRegistry, StorageOptionsAccessor,
};
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_io::utils::CachedFileSize;
use lance_table::format::BasePath;
use object_store::path::Path;

use super::data_file::DataFile;
use super::footer::{Run, read_columns};
use super::mapped::{Attempt, MappedFile};
use super::open_files::{self, Key, Metadata, Name, OpenFiles, open_files};
use crate::error::{Error, Result};
use crate::runtime;

/// Options of an object store, by name.
pub type StorageOptions = HashMap<String, String>;

/// A folder of an object store.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) store: Arc<ObjectStore>,
    pub(super) path: Path,
}

impl Place {
    /// Connects to `uri`. No request is made.
    pub(super) async fn connect(uri: &str, options: &StorageOptions) -> Result<Self> {
        let params = params(options);
        let registry = Arc::new(ObjectStoreRegistry::default());
        let opened = ObjectStore::from_uri_and_params(registry, uri, &params).await;
        let (store, path) = opened.map_err(|error| match error {
            // Of a scheme, mostly, that only the table's own library knows.
            lance_core::Error::InvalidInput { .. } => {
                Error::unsupported(format!("an address like {uri}")).caused_by(&error)
            }
            error => Error::lance(uri, &error),
        })?;
        Ok(Self { store, path })
    }

    /// Returns the folder for `name` inside this one; slashes separate folders.
    pub(super) fn join(&self, name: &str) -> Self {
        let mut path = self.path.clone();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            path = path.join(part);
        }
        Self { store: Arc::clone(&self.store), path }
    }
}

pub(super) fn params(options: &StorageOptions) -> ObjectStoreParams {
    let accessor = StorageOptionsAccessor::with_static_options(options.clone());
    ObjectStoreParams {
        storage_options_accessor: (!options.is_empty()).then(|| Arc::new(accessor)),
        ..ObjectStoreParams::default()
    }
}

/// What one process reads a table through. Open files are kept with those of other tables.
#[derive(Debug)]
pub(super) struct Storage {
    number: u64,
    open_files: Arc<OpenFiles>,
    data: Folder,
    bases: HashMap<u32, Folder>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        open_files::close(self.number);
    }
}

/// A folder of data files and the scheduler of its store.
#[derive(Debug)]
struct Folder {
    place: Place,
    scheduler: Arc<ScanScheduler>,
}

impl Folder {
    fn new(place: Place) -> Self {
        let config = SchedulerConfig::max_bandwidth(&place.store);
        let scheduler = ScanScheduler::new(Arc::clone(&place.store), config);
        Self { place, scheduler }
    }
}

impl Storage {
    /// Opens the storage of a table at `root`, whose manifest names other `bases`. No request is made.
    ///
    /// Must run inside the runtime.
    pub(super) async fn open(
        root: &Place,
        bases: &HashMap<u32, BasePath>,
        options: &StorageOptions,
    ) -> Result<Self> {
        let mut folders = HashMap::with_capacity(bases.len());
        for (&id, base) in bases {
            let place = Place::connect(&base.path, options).await?;
            let place = if base.is_dataset_root { place.join("data") } else { place };
            folders.insert(id, Folder::new(place));
        }
        let data = Folder::new(root.join("data"));
        Ok(Self {
            number: open_files::new_storage(),
            open_files: open_files()?,
            data,
            bases: folders,
        })
    }

    /// Returns the key of a file, given the index of its fragment and its own in the fragment.
    pub(super) fn key(&self, fragment: usize, file: usize) -> Key {
        Key { storage: self.number, name: Name::Data { fragment, file } }
    }

    /// Returns a data file, opened on first use and kept for a while.
    pub(super) fn file(
        &self,
        key: &Key,
        base: Option<u32>,
        name: &str,
        size: &CachedFileSize,
    ) -> Result<Arc<DataFile>> {
        self.open_files.file(key, || self.open_file(base, name, size))
    }

    /// Returns the metadata of some columns of a data file, read on first use and kept for a while.
    pub(super) fn metadata(
        &self,
        key: &Key,
        file: &DataFile,
        columns: &Arc<[Run]>,
    ) -> Result<Metadata> {
        let read = || read_columns(&file.path, &file.io, file.num_bytes, file.tail_bytes, columns);
        self.open_files.metadata(key, columns, read).inspect_err(|_| {
            // Lance keeps what it was answered for a small file, also where that was an error.
            self.open_files.close_file(key);
        })
    }

    /// Returns the bytes of a file other than a data file, kept open for a while if it is mapped.
    ///
    /// `path` makes its path from that of the folder of `base`.
    pub(super) fn read_ranges(
        &self,
        base: Option<u32>,
        path: impl Fn(&Path) -> Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>> {
        let folder = self.folder(base, "a blob")?;
        let path = path(&folder.place.path);
        let store = &folder.place.store;
        if store.has_direct_local_paths()
            && let Some(mapped) = self.mapped_file(&path)?
        {
            mapped.check()?;
            return ranges.iter().map(|range| mapped.slice(range.clone())).collect();
        }
        let read = store.inner.get_ranges(&path, ranges);
        runtime::wait(async { read.await.map_err(|error| Error::store(&path, error)) })
    }

    fn mapped_file(&self, path: &Path) -> Result<Option<Arc<MappedFile>>> {
        let key = Key { storage: self.number, name: Name::Other(path.clone()) };
        self.open_files.other_file(&key, || self.map(path, None))
    }

    /// Maps a local file; `None` if its file system should not be mapped, or there is no room.
    fn map(&self, path: &Path, size: Option<u64>) -> Result<Option<MappedFile>> {
        let local = to_local_path(path);
        let attempt = || MappedFile::open(std::path::Path::new(&local), size);
        let first = attempt()?;
        let second = match first {
            Attempt::NoRoom => {
                self.open_files.make_room();
                attempt()?
            }
            other => other,
        };
        Ok(match second {
            Attempt::Mapped(mapped) => Some(mapped),
            Attempt::NoRoom | Attempt::Unsuitable => None,
        })
    }

    fn folder(&self, base: Option<u32>, name: &str) -> Result<&Folder> {
        match base {
            None => Ok(&self.data),
            Some(id) => self.bases.get(&id).ok_or_else(|| {
                Error::corrupt(
                    name,
                    format!("it lies at base {id}, which the manifest does not name"),
                )
            }),
        }
    }

    fn open_file(&self, base: Option<u32>, name: &str, size: &CachedFileSize) -> Result<DataFile> {
        let folder = self.folder(base, name)?;
        let place = folder.place.join(name).path;
        let path = place.to_string();
        let number = self.number;
        let pages =
            Arc::new(self.open_files.pages.with_key_prefix(&format!("{number} {base:?} {path}")));
        if folder.place.store.has_direct_local_paths()
            && let Some(mapped) = self.map(&place, size.get().map(u64::from))?
        {
            let mapped = Arc::new(mapped);
            let (io, num_bytes) = (Arc::clone(&mapped) as _, mapped.num_bytes());
            return Ok(DataFile {
                path,
                io,
                pages,
                mapped: Some(mapped),
                num_bytes,
                tail_bytes: 0,
            });
        }
        let lance = |error: &lance_core::Error| Error::lance(&path, error);
        let (file, num_bytes) = runtime::wait(async {
            // A copy: an unknown size is filled in, and the manifest must stay as it was read.
            let file = folder.scheduler.open_file(&place, &size.clone()).await;
            let file = file.map_err(|e| lance(&e))?;
            let num_bytes = file.reader().size().await;
            let num_bytes = num_bytes.map_err(|error| lance(&error.into()))? as u64;
            Ok((file, num_bytes))
        })?;
        let tail_bytes = file.reader().block_size() as u64;
        let io = Arc::new(LanceEncodingsIo::new(file)) as _;
        Ok(DataFile { path, io, pages, mapped: None, num_bytes, tail_bytes })
    }
}
