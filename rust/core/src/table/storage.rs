//! The storage of a table as one process opens it: object stores, schedulers and data files.
//!
//! Connections and I/O tasks do not survive a fork, so a table keeps its storage per process and
//! opens files on first use.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lance_encoding::EncodingsIo;
use lance_file::LanceEncodingsIo;
use lance_io::local::to_local_path;
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, ObjectStoreRegistry, StorageOptionsAccessor,
};
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_io::utils::CachedFileSize;
use lance_table::format::Manifest;
use object_store::path::Path;

use super::data_file::DataFile;
use super::footer::{Run, read_columns};
use super::hub;
use super::open_files::{self, Key, Metadata, Name, OpenFiles, open_files};
use super::options::{StorageOptions, check_numbers, option};
use crate::cache::{Cache, Copies, Listing};
use crate::error::{Error, Result};
use crate::files::{Attempt, MappedFile, Meter, RemoteFile, Retries, Source};
use crate::runtime;

const MAX_RETRIES: &str = "client_max_retries";
const RETRY_TIMEOUT: &str = "client_retry_timeout";
/// How long requests for data are made again, unless an option says otherwise.
const PATIENCE: Duration = Duration::from_mins(3);

/// Which version is the newest is not known to the bucket.
const DYNAMODB: &str = "s3+ddb://";

/// A folder of an object store.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) store: Arc<ObjectStore>,
    pub(super) path: Path,
}

impl Place {
    /// Connects to `uri`. No request is made.
    pub(super) async fn connect(uri: &str, options: &StorageOptions) -> Result<Self> {
        if uri.starts_with(DYNAMODB) {
            let what = format!("an address like {uri}, whose versions are kept in DynamoDB,");
            return Err(Error::unsupported(what));
        }
        check_numbers(options)?;
        if hub::is_hub(uri) {
            let (store, path) = hub::connect(uri, options)?;
            return Ok(Self { store, path });
        }
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

/// Returns the address of an object, given the path of it in its bucket.
pub(super) fn absolute(uri: &str, path: &str) -> String {
    let segments = if hub::is_hub(uri) { hub::SEGMENTS } else { 3 };
    let bucket: Vec<&str> = uri.split('/').take(segments).collect();
    format!("{}/{path}", bucket.join("/"))
}

/// Returns options for data files, whose requests are made again by [`Source`] instead.
pub(super) fn without_retries(options: &StorageOptions) -> StorageOptions {
    let mut all = options.clone();
    all.retain(|name, _| !name.eq_ignore_ascii_case(MAX_RETRIES));
    all.insert(MAX_RETRIES.to_string(), "0".to_string());
    // Lance's limit of requests per second, unless it was set.
    if !options.keys().any(|name| name.to_ascii_lowercase().starts_with("lance_aimd_")) {
        all.insert("lance_aimd_max_retries".to_string(), "0".to_string());
    }
    all
}

/// Returns how long, and how often, requests for data are made again.
fn retries(uri: &str, options: &StorageOptions) -> Retries {
    let number = |name| option(options, &[name])?.trim().parse::<u32>().ok();
    let patience = if hub::is_hub(uri) { hub::RETRY_TIMEOUT } else { PATIENCE };
    let patience =
        number(RETRY_TIMEOUT).map_or(patience, |seconds| Duration::from_secs(seconds.into()));
    Retries { patience, most: number(MAX_RETRIES).unwrap_or(u32::MAX) }
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

/// A folder of data files, and what reads them.
#[derive(Debug)]
struct Folder {
    place: Place,
    reach: Reach,
}

#[derive(Debug)]
enum Reach {
    /// Files that are mapped, or read by Lance where they cannot be.
    Local(Arc<ScanScheduler>),
    Remote(Arc<Source>),
}

/// How the files of a table are read, whichever folder they are in.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) options: &'a StorageOptions,
    /// Where copies of remote files are kept.
    pub(super) copies: Option<&'a Cache>,
    pub(super) meter: &'a Arc<Meter>,
    /// What all versions of the table have in common, and what this one consists of.
    pub(super) table: &'a str,
    pub(super) manifest: &'a Manifest,
}

impl Reading<'_> {
    /// Lists the data files that lie in a folder.
    fn listing(&self, base: Option<u32>, folder: &Place) -> Listing {
        let files = self.manifest.fragments.iter().flat_map(|fragment| &fragment.files);
        let files = files.filter(|file| file.base_id == base).map(|file| {
            let path = folder.join(&file.path).path.to_string();
            (path, file.file_size_bytes.get().map(u64::from))
        });
        let files: Vec<_> = files.collect();
        let files = files.iter().map(|(path, size)| (path.as_str(), *size));
        Listing::new(self.table, self.manifest.timestamp_nanos, files)
    }
}

impl Folder {
    fn new(place: Place, base: Option<u32>, uri: &str, reading: &Reading<'_>) -> Self {
        let store = &place.store;
        if store.has_direct_local_paths() {
            let config = SchedulerConfig::max_bandwidth(store);
            let scheduler = ScanScheduler::new(Arc::clone(store), config);
            return Self { place, reach: Reach::Local(scheduler) };
        }
        let origin = absolute(uri, place.path.as_ref());
        let copies = reading.copies.map(|cache| {
            let copies = Copies::shared(cache, &origin)?;
            // Without the list, others may remove copies, which are fetched again.
            let list = copies.list(&reading.listing(base, &place)).ok();
            Ok((copies, list))
        });
        let retries = retries(uri, reading.options);
        let source = Source::new(Arc::clone(store), Arc::clone(reading.meter), copies, retries);
        Self { place, reach: Reach::Remote(Arc::new(source)) }
    }
}

/// A data file of a fragment, and which of its columns are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) key: &'a Key,
    pub(super) base: Option<u32>,
    pub(super) name: &'a str,
    pub(super) size: &'a CachedFileSize,
    pub(super) columns: &'a Arc<[Run]>,
}

impl Storage {
    /// Opens the storage of a table at `root`, whose address is `uri`. No request is made.
    ///
    /// Must run inside the runtime.
    pub(super) async fn open(root: &Place, uri: &str, reading: &Reading<'_>) -> Result<Self> {
        let bases = &reading.manifest.base_paths;
        let mut folders = HashMap::with_capacity(bases.len());
        for (&id, base) in bases {
            let place = Place::connect(&base.path, &without_retries(reading.options)).await?;
            let place = if base.is_dataset_root { place.join("data") } else { place };
            folders.insert(id, Folder::new(place, Some(id), &base.path, reading));
        }
        let data = Folder::new(root.join("data"), None, uri, reading);
        Ok(Self {
            number: open_files::new_storage(),
            open_files: open_files()?,
            data,
            bases: folders,
        })
    }

    /// Returns whether any file is on another machine.
    pub(super) fn is_remote(&self) -> bool {
        let folders = self.bases.values().chain([&self.data]);
        folders.into_iter().any(|folder| matches!(folder.reach, Reach::Remote(_)))
    }

    /// Returns why nothing more is kept of remote files, if that is so.
    pub(super) fn copy_failure(&self) -> Option<Arc<Error>> {
        let folders = self.bases.values().chain([&self.data]);
        folders.into_iter().find_map(|folder| match &folder.reach {
            Reach::Remote(source) => source.copy_failure(),
            Reach::Local(_) => None,
        })
    }

    /// Returns the key of a file, given the index of its fragment and its own in the fragment.
    pub(super) fn key(&self, fragment: usize, file: usize) -> Key {
        Key { storage: self.number, name: Name::Data { fragment, file } }
    }

    /// Returns a data file and the metadata of some of its columns, opened and read on first use, and kept
    /// for a while.
    pub(super) async fn open_columns(
        &self,
        part: Part<'_>,
    ) -> Result<(Arc<DataFile>, Arc<Metadata>)> {
        let Part { key, columns, .. } = part;
        let file = match self.open_files.file(key) {
            Some(file) => file,
            None => self.open_files.keep_file(key, self.open_file(part).await?),
        };
        if let Some(metadata) = self.open_files.metadata(key, columns) {
            return Ok((file, metadata));
        }
        let found =
            read_columns(&file.path, file.io(true), file.num_bytes, file.tail_bytes, columns);
        let found = found.await.inspect_err(|_| {
            // Lance keeps the answer for a small file, even if it was an error.
            self.open_files.close_file(key);
        })?;
        Ok((file, self.open_files.keep_metadata(key, columns, found)))
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
        let Reach::Remote(source) = &folder.reach else {
            let read = store.inner.get_ranges(&path, ranges);
            return runtime::wait(async { read.await.map_err(|error| Error::store(&path, error)) });
        };
        runtime::wait(async {
            let key = Key { storage: self.number, name: Name::Other(path.clone()) };
            let file = if let Some(file) = self.open_files.remote_file(&key) {
                file
            } else {
                let num_bytes = source.num_bytes(&path).await?;
                let file = Arc::new(RemoteFile::new(source, path.clone(), num_bytes));
                self.open_files.keep_remote_file(&key, &file);
                file
            };
            file.read(ranges.to_vec()).await
        })
    }

    fn mapped_file(&self, path: &Path) -> Result<Option<Arc<MappedFile>>> {
        let key = Key { storage: self.number, name: Name::Other(path.clone()) };
        self.open_files.mapped_file(&key, || self.map(path, None))
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

    async fn open_file(&self, part: Part<'_>) -> Result<DataFile> {
        let Part { base, name, size, .. } = part;
        let folder = self.folder(base, name)?;
        let place = folder.place.join(name).path;
        let path = place.to_string();
        let number = self.number;
        let pages =
            Arc::new(self.open_files.pages.with_key_prefix(&format!("{number} {base:?} {path}")));
        let size_bytes = size.get().map(u64::from);
        let scheduler = match &folder.reach {
            Reach::Remote(source) => {
                let num_bytes = match size_bytes {
                    Some(num_bytes) => num_bytes,
                    None => source.num_bytes(&place).await?,
                };
                let remote = Arc::new(RemoteFile::new(source, place, num_bytes));
                return Ok(DataFile {
                    path,
                    keeping_io: Arc::clone(&remote) as _,
                    passing_io: Arc::new(remote.without_keeping()),
                    pages,
                    mapped: None,
                    remote: Some(remote),
                    num_bytes,
                    tail_bytes: folder.place.store.block_size() as u64,
                });
            }
            Reach::Local(scheduler) => scheduler,
        };
        if let Some(mapped) = self.map(&place, size_bytes)? {
            let mapped = Arc::new(mapped);
            return Ok(DataFile {
                path,
                keeping_io: Arc::clone(&mapped) as _,
                passing_io: Arc::clone(&mapped) as _,
                pages,
                num_bytes: mapped.num_bytes(),
                mapped: Some(mapped),
                remote: None,
                tail_bytes: 0,
            });
        }
        let lance = |error: &lance_core::Error| Error::lance(&path, error);
        // A copy: an unknown size is filled in, and the manifest must stay as it was read.
        let file = scheduler.open_file(&place, &size.clone()).await;
        let file = file.map_err(|e| lance(&e))?;
        let num_bytes = file.reader().size().await;
        let num_bytes = num_bytes.map_err(|error| lance(&error.into()))? as u64;
        let tail_bytes = file.reader().block_size() as u64;
        let io: Arc<dyn EncodingsIo> = Arc::new(LanceEncodingsIo::new(file));
        Ok(DataFile {
            path,
            keeping_io: Arc::clone(&io),
            passing_io: io,
            pages,
            mapped: None,
            remote: None,
            num_bytes,
            tail_bytes,
        })
    }
}
