//! What one process holds open of a table: object stores, schedulers and data files.
//!
//! Connections and I/O tasks do not survive a fork, so a table keeps its storage per process and
//! opens files on first use.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_buffer::NullBuffer;
use arrow_data::ArrayData;
use bytes::Bytes;
use lance_core::cache::LanceCache;
use lance_encoding::decoder::DecoderPlugins;
use lance_file::reader::{FileReader, FileReaderOptions};
use lance_io::local::to_local_path;
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, ObjectStoreRegistry, StorageOptionsAccessor,
};
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_io::utils::CachedFileSize;
use lance_table::format::BasePath;
use object_store::path::Path;

use super::guard::guard;
use super::mapped::MappedFile;
use crate::error::{Error, Result};
use crate::runtime;

/// Page indexes of data files are kept up to this size; they hold no data.
const PAGE_CACHE_BYTES: usize = 1 << 30;

/// Where the data of a table lies, as a plain description.
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
                Error::Unsupported(format!("the address {uri} ({error})"))
            }
            error => Error::lance(uri, &error),
        })?;
        Ok(Self { store, path })
    }

    /// The folder for `name` inside this one; slashes separate folders.
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

/// A data file, ready to be decoded with any projection.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) reader: FileReader,
    pub(super) path: String,
    mapped: Option<Arc<MappedFile>>,
}

impl DataFile {
    /// Whether reads wait for another machine, so that they should not run on the caller's thread.
    pub(super) fn is_remote(&self) -> bool {
        self.mapped.is_none()
    }

    /// Whether any buffer of `data` is a part of the mapped file.
    pub(super) fn holds_some_of(&self, data: &ArrayData) -> bool {
        let Some(mapped) = &self.mapped else {
            return false;
        };
        let nulls = data.nulls().map(NullBuffer::buffer);
        data.buffers().iter().chain(nulls).any(|buffer| mapped.holds(buffer))
            || data.child_data().iter().any(|child| self.holds_some_of(child))
    }

    /// Gives the memory back that the mapped file takes in this process.
    pub(super) fn forget(&self) {
        if let Some(mapped) = &self.mapped {
            mapped.forget();
        }
    }

    /// # Errors
    ///
    /// [`Error::Corrupt`] if a mapped file was cut since.
    pub(super) fn check(&self) -> Result<()> {
        self.mapped.as_ref().map_or(Ok(()), |mapped| mapped.check())
    }
}

/// What one process holds open.
#[derive(Debug)]
pub(super) struct Storage {
    data: Folder,
    bases: HashMap<u32, Folder>,
    cache: LanceCache,
    files: Mutex<HashMap<String, Arc<DataFile>>>,
    blobs: Mutex<HashMap<Path, Arc<MappedFile>>>,
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
    /// Storage for a table at `root`, whose manifest names other `bases`. No request is made.
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
        Ok(Self {
            data: Folder::new(root.join("data")),
            bases: folders,
            cache: LanceCache::with_capacity(PAGE_CACHE_BYTES),
            files: Mutex::default(),
            blobs: Mutex::default(),
        })
    }

    /// A data file, opened on first use and kept.
    pub(super) fn file(
        &self,
        base: Option<u32>,
        name: &str,
        size: &CachedFileSize,
    ) -> Result<Arc<DataFile>> {
        let folder = self.folder(base, name)?;
        let path = folder.place.join(name).path;
        let key = format!("{base:?} {path}");
        // Held only to look and to store: a lock held over I/O would serialize the first batch.
        let lock = || self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().get(&key) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.open_file(folder, &path, size)?);
        Ok(Arc::clone(lock().entry(key).or_insert(file)))
    }

    /// Bytes of a file that is no data file, kept open if it is mapped.
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
        runtime::wait(async {
            read.await.map_err(|error| match error {
                object_store::Error::NotFound { .. } => {
                    Error::NotFound { uri: path.to_string(), reason: error.to_string() }
                }
                error => Error::Io { path: path.to_string(), reason: error.to_string() },
            })
        })
    }

    fn mapped_file(&self, path: &Path) -> Result<Option<Arc<MappedFile>>> {
        let lock = || self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mapped) = lock().get(path) {
            return Ok(Some(Arc::clone(mapped)));
        }
        let local = to_local_path(path);
        let Some(mapped) = MappedFile::open(std::path::Path::new(&local), None)? else {
            return Ok(None);
        };
        Ok(Some(Arc::clone(lock().entry(path.clone()).or_insert(Arc::new(mapped)))))
    }

    fn folder(&self, base: Option<u32>, name: &str) -> Result<&Folder> {
        match base {
            None => Ok(&self.data),
            Some(id) => self.bases.get(&id).ok_or_else(|| Error::Corrupt {
                path: name.to_string(),
                reason: format!("it lies at base {id}, which the manifest does not name"),
            }),
        }
    }

    fn open_file(&self, folder: &Folder, path: &Path, size: &CachedFileSize) -> Result<DataFile> {
        let name = path.to_string();
        let known_size = size.get().map(u64::from);
        let mapped = if folder.place.store.has_direct_local_paths() {
            let local = to_local_path(path);
            MappedFile::open(std::path::Path::new(&local), known_size)?.map(Arc::new)
        } else {
            None
        };
        let open = async {
            let file = folder.scheduler.open_file(path, size).await;
            let file = file.map_err(|error| Error::lance(&name, &error))?;
            let plugins = Arc::<DecoderPlugins>::default();
            let options = FileReaderOptions::default();
            FileReader::try_open(file, None, plugins, &self.cache, options)
                .await
                .map_err(|error| Error::lance(&name, &error))
        };
        let reader = guard(&name, || runtime::wait(open))?;
        let reader = match &mapped {
            Some(mapped) => reader.with_scheduler(Arc::clone(mapped) as _),
            None => reader,
        };
        Ok(DataFile { reader, path: name, mapped })
    }
}
