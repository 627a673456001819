//! Copies of files of other machines: the folder of a table, and the room that is taken for what is kept in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::description::{Origin, PART};
use super::folder::{clean, open_folder};
use super::locks::ProcessLock;
use super::owned::Folder;
use super::room::{Cache, Name, Needed};
use super::versions::Listing;
use crate::error::{Error, Result};
use crate::runtime::{PerProcess, lock};

/// Bytes that a process takes room for at once: making room looks at the whole folder.
const ALLOWANCE: u64 = 32 << 20;
/// How long nothing is kept after there was no room.
const RETRY: Duration = Duration::from_secs(30);
/// The name of the file that a process locks while it fetches files as a whole.
const TURN: &str = "turn";
/// How often, and after which time, a folder that another process has locked is tried again.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// The copies that are open in this process, by cache and origin.
static OPEN: PerProcess<Mutex<HashMap<Key, Weak<Copies>>>> = PerProcess::new();

/// A cache and an origin.
type Key = (Cache, String);

/// The copies of files of one table, in a folder of their own.
#[derive(Debug)]
pub(crate) struct Copies {
    cache: Cache,
    name: Name,
    path: PathBuf,
    allowance: Mutex<Allowance>,
    /// Why nothing more is kept, and since when.
    failure: ArcSwapOption<(Arc<Error>, Instant)>,
    /// Locked, shared: files must not be removed while a process reads them.
    _lock: File,
}

/// Room that was taken and is not filled yet: a file of that size, which counts like others.
#[derive(Debug, Default)]
struct Allowance {
    left: u64,
    /// What is being written, and counted neither as left nor, for certain, as a part of the copies.
    under_way: u64,
    file: Option<(ProcessLock, PathBuf)>,
}

impl Copies {
    /// Returns the copies of what lies at `origin`, an address, which all tables of this process share.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to.
    pub(crate) fn shared(cache: &Cache, origin: &str) -> Result<Arc<Self>> {
        let known = OPEN.get_or_init(Mutex::default);
        let mut known = lock(&known);
        known.retain(|_, copies| copies.strong_count() > 0);
        let key = (cache.clone(), origin.to_string());
        if let Some(copies) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(copies);
        }
        let mut attempts = 0;
        let copies = loop {
            match Self::open(cache, origin) {
                // Another process may be checking whether it is in use.
                Err(error) if error.may_pass() && attempts < ATTEMPTS => attempts += 1,
                other => break Arc::new(other?),
            }
            std::thread::sleep(PAUSE);
        };
        known.insert(key, Arc::downgrade(&copies));
        Ok(copies)
    }

    /// Opens the copies of what lies at `origin`, an address.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to.
    pub(super) fn open(cache: &Cache, origin: &str) -> Result<Self> {
        let origin = Origin::new(origin);
        let name = Name { table: origin.table_name().into(), columns: origin.name().into() };
        cache.enter()?.is_marked();
        let (path, file) = open_folder(cache, &name, &origin)?;
        Ok(Self {
            cache: cache.clone(),
            name,
            path,
            allowance: Mutex::default(),
            failure: ArcSwapOption::empty(),
            _lock: file,
        })
    }

    /// Returns the folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says that a process reads the files of a version, as long as the file that is returned is open.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the list cannot be written.
    pub(crate) fn list(&self, listing: &Listing) -> Result<File> {
        let failed = |error: std::io::Error| Error::write(self.path.display(), &error);
        let _room = self.cache.enter()?;
        let folder = Folder::open(&self.path).map_err(failed)?;
        listing.put(&folder).map_err(failed)
    }

    /// Returns why nothing more is kept, if that is so.
    pub(crate) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.load().as_ref().map(|failure| Arc::clone(&failure.0))
    }

    /// Notes why nothing more is kept for a while.
    pub(crate) fn fail(&self, error: Error) {
        self.failure.store(Some(Arc::new((Arc::new(error), Instant::now()))));
    }

    /// Returns the turn of a process that fetches files as a whole; `None` while another one has it.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to.
    pub(crate) fn turn(&self) -> Result<Option<Turn>> {
        let path = self.path.join(format!("{TURN}.{PART}"));
        let lock = ProcessLock::try_new(&path);
        let lock = lock.map_err(|error| Error::write(self.path.display(), &error))?;
        Ok(lock.map(|lock| Turn { path, _lock: lock }))
    }

    /// Takes room for so many bytes that are about to be kept; `false` if there is none.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.allowance_of(bytes).is_some()
    }

    /// Takes room for so many bytes, and fills it; `false` if there is none.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let Some(mut allowance) = self.allowance_of(bytes) else {
            return false;
        };
        allowance.left -= bytes;
        allowance.under_way += bytes;
        true
    }

    /// Notes that what [`reserve`](Self::reserve) took was filled, or was not.
    pub(super) fn written(&self, bytes: u64) {
        lock(&self.allowance).under_way -= bytes;
    }

    /// Returns room of which so many bytes are left.
    fn allowance_of(&self, bytes: u64) -> Option<MutexGuard<'_, Allowance>> {
        if let Some(failure) = self.failure.load_full() {
            if !failure.0.may_pass() || failure.1.elapsed() < RETRY {
                return None;
            }
            self.failure.store(None);
        }
        let mut allowance = lock(&self.allowance);
        if allowance.left < bytes {
            let taken = allowance.take(self, bytes.max(ALLOWANCE));
            // Near the limit, only what is needed.
            let taken = taken.or_else(|_| allowance.take(self, bytes));
            if let Err(error) = taken {
                self.fail(error);
                return None;
            }
        }
        Some(allowance)
    }
}

/// Says that a process fetches files as a whole.
#[derive(Debug)]
pub(crate) struct Turn {
    path: PathBuf,
    _lock: ProcessLock,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if let Some((file, path)) = lock(&self.allowance).file.take() {
            let _ = fs::remove_file(path);
            drop(file);
        }
    }
}

impl Allowance {
    fn take(&mut self, copies: &Copies, bytes: u64) -> Result<()> {
        let failed = |error: std::io::Error| Error::write(copies.path.display(), &error);
        if self.file.is_none() {
            // Another one may be open in this process, with another limit.
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = copies.path.join(format!("room-{process}-{count}.{PART}"));
            self.file = ProcessLock::try_new(&path).map_err(failed)?.map(|file| (file, path));
        }
        let room = copies.cache.enter()?;
        let mut resize = |bytes| match &mut self.file {
            Some((file, _)) => file.file().set_len(bytes).map_err(failed),
            None => Ok(()),
        };
        // What was taken before and is filled by now counts as such.
        let all = bytes.saturating_add(self.under_way);
        resize(0)?;
        self.left = 0;
        if room.make(&copies.name, Needed::More(all)).is_err() {
            // Processes that were killed may have left room that they had taken.
            clean(&copies.path);
            room.make(&copies.name, Needed::More(all))?;
        }
        resize(all)?;
        self.left = bytes;
        Ok(())
    }
}
