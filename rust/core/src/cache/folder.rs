//! Files of rows that processes share: which process writes a file, and which use it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FallocateFlags;
use serde::Serialize;
use twox_hash::XxHash3_64;

use super::block::{Block, Rows};
use super::description::{BLOCK, DESCRIPTION, Found, LAYOUT, LOCK, PART, UNFINISHED};
use super::locks::ProcessLock;
use super::owned::{Folder, make_private, private};
use super::room::{Cache, Name, Needed};
use crate::error::{Error, Result};

/// A description is written in no time.
const ABANDONED: Duration = Duration::from_mins(1);

/// The rows of some columns of one table, in a folder of their own.
#[derive(Debug)]
pub(crate) struct Entry {
    cache: Cache,
    name: Name,
    found: Found,
    path: PathBuf,
    key: u64,
    /// Locked, shared: files must not be removed while a process reads them.
    _lock: File,
}

/// The right to write a block, which no other process has. Dropping it removes the unfinished file.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    entry: &'a Entry,
    block: usize,
    part: PathBuf,
    lock: ProcessLock,
    is_published: bool,
}

impl Entry {
    /// Opens an entry that will have `needed` bytes, making its folder if there is none, and room for
    /// it. 0 for one that is complete.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to, or there is no room in it.
    pub(crate) fn open(cache: &Cache, table: &str, found: &Found, needed: u64) -> Result<Self> {
        let name = Name { table: table.into(), columns: found.name().into() };
        // With the lock held, no process removes the entry before it is in use, or takes the room.
        let room = cache.enter()?;
        room.is_marked();
        if room.make(&name, Needed::InAll(needed)).is_err() {
            // What is there of it may exceed the limit by itself.
            room.make(&name, Needed::InAll(0)).inspect_err(|_| room.discard(&name))?;
            room.make(&name, Needed::InAll(needed))?;
        }
        Self::open_at(cache.clone(), name, found)
    }

    fn open_at(cache: Cache, name: Name, found: &Found) -> Result<Self> {
        let (path, lock) = open_folder(&cache, &name, found)?;
        let key = XxHash3_64::oneshot(path_key(&path).as_bytes());
        Ok(Self { cache, name, found: found.clone(), path, key, _lock: lock })
    }

    /// Returns a complete entry of this table whose columns include `columns`: the one with the
    /// shortest rows.
    pub(crate) fn find(
        cache: &Path,
        table: &str,
        includes: impl Fn(&Found) -> bool,
    ) -> Option<Found> {
        let folders = Folder::open(cache).ok()?.folder(OsStr::new(table)).ok()?.folders();
        let describe = |(name, folder): (OsString, Folder)| {
            let found = Found::of(&folder).filter(|found| name == *found.name())?;
            let block = |block: u64| format!("{block:06}.{BLOCK}");
            let is_there = |number| folder.about(OsStr::new(&block(number))).is_ok();
            let is_complete = found.layout == LAYOUT && (0..found.num_blocks()).all(is_there);
            (is_complete && includes(&found)).then_some(found)
        };
        folders.into_iter().filter_map(describe).min_by_key(|found| found.stride)
    }

    fn file(&self, block: usize, suffix: &str) -> PathBuf {
        self.path.join(format!("{block:06}.{suffix}"))
    }

    fn block_key(&self, block: usize) -> u64 {
        self.key.wrapping_add((block as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Returns a block that was written before, or `None`. A damaged one is removed.
    pub(crate) fn load(&self, block: usize) -> Option<Block> {
        let path = self.file(block, BLOCK);
        match Block::map(&path, self.block_key(block), false) {
            Ok(block) => Some(block),
            Err(Error::Corrupt { .. }) => {
                let _ = fs::remove_file(&path);
                None
            }
            Err(_) => None,
        }
    }

    /// Returns the right to write a block, or `None` while another process has it.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to.
    pub(crate) fn claim(&self, block: usize) -> Result<Option<Claim<'_>>> {
        let part = self.file(block, PART);
        let lock = match ProcessLock::try_new(&part) {
            // The whole folder was removed.
            Err(error) if error.kind() == ErrorKind::NotFound => make_private(&self.path)
                .and_then(|()| describe(&self.path, &self.found))
                .and_then(|()| ProcessLock::try_new(&part)),
            other => other,
        };
        let failed = |error: std::io::Error| Error::write(self.path.display(), &error);
        let Some(mut lock) = lock.map_err(failed)? else {
            return Ok(None);
        };
        // Left by a process that was killed.
        lock.file().set_len(0).map_err(failed)?;
        Ok(Some(Claim { entry: self, block, part, lock, is_published: false }))
    }
}

impl Claim<'_> {
    /// Takes room for a block of this many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if there is none.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<()> {
        let room = self.entry.cache.enter()?;
        room.make(&self.entry.name, Needed::More(bytes))?;
        let file = self.lock.file();
        // Room on the disk too, where its file system can; the size is what counts.
        let _ = rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, bytes);
        file.set_len(bytes).map_err(|error| self.failed(&error))
    }

    /// Writes the block and gives it its name.
    ///
    /// # Errors
    ///
    /// [`Error::Write`], after which nothing is left behind.
    pub(crate) fn publish(mut self, rows: Rows<'_>) -> Result<Block> {
        let key = self.entry.block_key(self.block);
        let path = self.entry.file(self.block, BLOCK);
        self.reserve(rows.num_bytes_in_file())?;
        Block::write(self.lock.file(), key, rows).map_err(|error| self.failed(&error))?;
        // Under the lock: who adds up the files of the folder would find neither of its names.
        let room = self.entry.cache.enter()?;
        fs::rename(&self.part, &path).map_err(|error| self.failed(&error))?;
        drop(room);
        self.is_published = true;
        Block::map(&path, key, true)
    }

    /// Names the folder in an error: what fails for one block fails for the others too, and is reported
    /// once.
    fn failed(&self, error: &std::io::Error) -> Error {
        Error::write(self.entry.path.display(), error)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Makes the folder of an entry if there is none, and returns its path and the file that keeps it from being
/// removed.
///
/// # Errors
///
/// [`Error::Write`] if it cannot be written to, or is not to be trusted.
pub(super) fn open_folder(
    cache: &Cache,
    name: &Name,
    description: &impl Serialize,
) -> Result<(PathBuf, File)> {
    let path = cache.path_of(name);
    let failed = |error: std::io::Error| Error::write(path.display(), &error);
    make_private(&path).map_err(failed)?;
    check(cache, name)?;
    let mut options = private();
    options.read(true).write(true).create(true).truncate(false);
    let lock = options.open(path.join(LOCK)).map_err(failed)?;
    match lock.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::refused_now(path.display(), "it is being removed"));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    clean(&path);
    // Written anew each time, which also says when it was last used.
    describe(&path, description).map_err(failed)?;
    Ok((path, lock))
}

fn describe(path: &Path, found: &impl Serialize) -> std::io::Result<()> {
    /// So that threads do not take each other's files away.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let text = serde_json::to_string_pretty(found)?;
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let part = path.join(format!("{DESCRIPTION}.{process}.{count}.{UNFINISHED}"));
    fs::write(&part, text).and_then(|()| fs::rename(&part, path.join(DESCRIPTION))).inspect_err(
        |_| {
            let _ = fs::remove_file(&part);
        },
    )
}

/// Removes what processes that were killed while writing have left in an entry.
pub(super) fn clean(path: &Path) {
    for file in fs::read_dir(path).into_iter().flatten().flatten() {
        let (name, path) = (file.file_name(), file.path());
        let name = name.to_string_lossy();
        let Some(what) = name.strip_suffix(&format!(".{UNFINISHED}")) else {
            continue;
        };
        let mut held = None;
        let is_abandoned = if what.starts_with(DESCRIPTION) {
            let modified = file.metadata().and_then(|about| about.modified());
            let age = modified.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
            age.is_ok_and(|age| age > ABANDONED)
        } else if name.ends_with(PART) {
            held = ProcessLock::try_new(&path).ok().flatten();
            held.is_some()
        } else {
            // Of an earlier version, whose processes lock in another way.
            let file = private().read(true).open(&path);
            file.is_ok_and(|file| file.try_lock().is_ok())
        };
        if is_abandoned {
            let _ = fs::remove_file(&path);
        }
        drop(held);
    }
}

/// Refuses an entry that cannot be trusted, as its files are mapped.
fn check(cache: &Cache, name: &Name) -> Result<()> {
    let path = cache.path_of(name);
    let failed = |error: std::io::Error| Error::write(path.display(), &error);
    let table =
        Folder::open(cache.path()).and_then(|root| root.folder(&name.table)).map_err(failed)?;
    let entry = table.folder(&name.columns).map_err(failed)?;
    for folder in [table, entry] {
        if let Some(reason) = folder.distrust().map_err(failed)? {
            return Err(Error::refused(path.display(), reason));
        }
    }
    Ok(())
}

/// Returns the table's name and the columns' name.
fn path_key(path: &Path) -> String {
    let names = path.components().rev().take(2);
    names.map(|name| name.as_os_str().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::packed::PackedRows;

    pub(in crate::cache) fn found(columns: &[&str]) -> Found {
        let columns = columns.iter().map(|name| vec![(*name).to_string()]).collect();
        Found::new(columns, 10, 5, 8, 1)
    }

    fn open(cache: &Path, found: &Found) -> Result<Entry> {
        Entry::open(&Cache::new(cache, Some(1 << 30)), "t", found, 0)
    }

    fn rows(value: u8) -> PackedRows {
        PackedRows { heads: vec![value; 40], tails: Vec::new(), num_rows: 5, bits_set: Vec::new() }
    }

    pub(in crate::cache) fn fill(entry: &Entry) {
        for block in 0..2 {
            entry.claim(block).unwrap().unwrap().publish((&rows(7)).into()).unwrap();
        }
    }

    #[test]
    fn a_block_is_written_by_one_and_read_by_all() {
        let cache = tempfile::tempdir().unwrap();
        let ours = open(cache.path(), &found(&["a"])).unwrap();
        let theirs = open(cache.path(), &found(&["a"])).unwrap();
        assert!(ours.load(0).is_none());
        let claim = ours.claim(0).unwrap().unwrap();
        assert!(theirs.claim(0).unwrap().is_none(), "somebody writes it");
        assert!(theirs.claim(1).unwrap().is_some(), "but not the others");
        claim.publish((&rows(3)).into()).unwrap();
        assert_eq!(theirs.load(0).unwrap().heads(), [3; 40]);
        assert!(theirs.load(1).is_none());
    }

    #[test]
    fn a_part_that_was_left_behind_is_taken_over() {
        let cache = tempfile::tempdir().unwrap();
        let entry = open(cache.path(), &found(&["a"])).unwrap();
        fs::write(entry.file(0, PART), b"half a block, and longer than a whole one".repeat(9))
            .unwrap();
        entry.claim(0).unwrap().unwrap().publish((&rows(4)).into()).unwrap();
        assert_eq!(entry.load(0).unwrap().heads(), [4; 40]);
        assert!(!entry.file(0, PART).exists());
        drop(entry.claim(1).unwrap().unwrap());
        assert!(!entry.file(1, PART).exists());
    }

    #[test]
    fn a_damaged_block_is_removed_and_written_again() {
        let cache = tempfile::tempdir().unwrap();
        let entry = open(cache.path(), &found(&["a"])).unwrap();
        fill(&entry);
        let path = entry.file(0, BLOCK);
        let len = fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
        assert!(entry.load(0).is_none());
        assert!(!path.exists());
        assert!(entry.claim(0).unwrap().is_some());
        fs::rename(entry.file(1, BLOCK), entry.file(0, BLOCK)).unwrap();
        assert!(entry.load(0).is_none(), "another block under its name");
    }

    #[test]
    fn a_folder_that_was_removed_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let entry = open(cache.path(), &found(&["a"])).unwrap();
        fs::remove_dir_all(cache.path().join("t")).unwrap();
        fill(&entry);
        assert!(entry.load(0).is_some());
        assert!(Entry::find(cache.path(), "t", |_| true).is_some(), "with its description");
    }

    #[test]
    fn a_complete_entry_with_more_columns_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let wide = found(&["a", "b"]);
        let entry = open(cache.path(), &wide).unwrap();
        let has = |name: &'static str| {
            move |found: &Found| found.columns.iter().any(|path| path[0] == name)
        };
        assert!(Entry::find(cache.path(), "t", has("a")).is_none(), "it is not complete");
        fill(&entry);
        assert_eq!(Entry::find(cache.path(), "t", has("a")), Some(wide));
        assert!(Entry::find(cache.path(), "t", has("c")).is_none());
        assert!(Entry::find(cache.path(), "u", has("a")).is_none(), "another table");
    }

    #[test]
    fn what_killed_processes_have_left_is_removed() {
        let cache = tempfile::tempdir().unwrap();
        let entry = open(cache.path(), &found(&["a"])).unwrap();
        let left = |name: &str| entry.path.join(name);
        let hour_ago = SystemTime::now() - Duration::from_hours(1);
        for name in ["000000.new.part", "000001.part", "entry.json.77.part", "000000.rows"] {
            fs::write(left(name), "left").unwrap();
            File::options().write(true).open(left(name)).unwrap().set_modified(hour_ago).unwrap();
        }
        fs::write(left("entry.json.78.part"), "being written").unwrap();
        fs::write(left("notes"), "of a user").unwrap();
        let of_earlier = File::create(left("000002.part")).unwrap();
        of_earlier.try_lock().unwrap();
        let claim = entry.claim(1).unwrap().unwrap();
        drop(open(cache.path(), &found(&["a"])).unwrap());
        let mut names: Vec<_> =
            fs::read_dir(&entry.path).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        let wanted = [
            "000000.rows",
            "000001.new.part",
            "000002.part",
            "entry.json",
            "entry.json.78.part",
            "lock",
            "notes",
        ];
        assert_eq!(names, wanted);
        claim.publish((&rows(5)).into()).unwrap();
        assert_eq!(entry.load(1).unwrap().heads(), [5; 40]);
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let (cache, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(away.path(), cache.path().join("t")).unwrap();
        assert!(open(cache.path(), &found(&["a"])).is_err());
        fs::remove_file(cache.path().join("t")).unwrap();
        let entry = cache.path().join("t").join(found(&["a"]).name());
        fs::create_dir(cache.path().join("t")).unwrap();
        std::os::unix::fs::symlink(away.path(), &entry).unwrap();
        assert!(open(cache.path(), &found(&["a"])).is_err());
        assert!(Entry::find(cache.path(), "t", |_| true).is_none());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused_for_good() {
        use std::os::unix::fs::PermissionsExt;
        for of_table in [true, false] {
            let cache = tempfile::tempdir().unwrap();
            let entry = open(cache.path(), &found(&["a"])).unwrap();
            let path = if of_table { cache.path().join("t") } else { entry.path.clone() };
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
            let error = open(cache.path(), &found(&["a"])).unwrap_err();
            assert!(error.to_string().contains("others can write to it"), "{error}");
            assert!(!error.may_pass());
        }
    }
}
