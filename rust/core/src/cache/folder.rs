//! Files of rows that processes share, and the folder that holds them under a limit.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::Block;
use crate::disk::is_remote;
use crate::error::{Error, Result};
use crate::packed::PackedRows;

const DESCRIPTION: &str = "entry.json";
const LOCK: &str = "lock";
const BLOCK: &str = "rows";
const PART: &str = "part";
/// Changes when the layout of packed rows or of their files does.
const LAYOUT: u32 = 1;

/// The rows of some columns of one table, in a folder of their own.
#[derive(Debug)]
pub(crate) struct Entry {
    path: PathBuf,
    key: u64,
    /// Locked, shared: whoever cleans up must not take the files of someone who reads them.
    _lock: File,
}

/// What an entry says of itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) layout: u32,
    /// Paths of the columns: names from the top.
    pub(crate) columns: Vec<Vec<String>>,
    pub(crate) num_rows: u64,
    pub(crate) block_rows: u64,
    pub(crate) stride: usize,
    /// Of the layout of a row.
    pub(crate) signature: u64,
}

impl Found {
    pub(crate) fn new(
        columns: Vec<Vec<String>>,
        num_rows: u64,
        block_rows: u64,
        stride: usize,
        signature: u64,
    ) -> Self {
        Self { layout: LAYOUT, columns, num_rows, block_rows, stride, signature }
    }

    fn num_blocks(&self) -> u64 {
        self.num_rows.div_ceil(self.block_rows.max(1))
    }

    fn name(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        format!("{:016x}", XxHash3_64::oneshot(text.as_bytes()))
    }
}

/// What is needed to write a block: nobody else writes it meanwhile.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    entry: &'a Entry,
    block: usize,
    part: PathBuf,
    file: File,
}

impl Entry {
    /// Opens an entry, making its folder if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to.
    pub(crate) fn open(cache: &Path, table: &str, found: &Found) -> Result<Self> {
        let path = cache.join(table).join(found.name());
        Self::open_at(path, found)
    }

    fn open_at(path: PathBuf, found: &Found) -> Result<Self> {
        let failed = |error: std::io::Error| cannot_write(&path, &error);
        make_private(&path).map_err(failed)?;
        check(&path)?;
        let lock = open_lock(&path).map_err(failed)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Write {
                    path: path.display().to_string(),
                    reason: "it is being removed".into(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let description = path.join(DESCRIPTION);
        let text = serde_json::to_string_pretty(found).unwrap_or_default();
        // Written anew each time, which also says when it was last used.
        let part = path.join(format!("{DESCRIPTION}.{}.{PART}", std::process::id()));
        fs::write(&part, text).and_then(|()| fs::rename(&part, &description)).map_err(|error| {
            let _ = fs::remove_file(&part);
            failed(error)
        })?;
        let key = XxHash3_64::oneshot(path_key(&path).as_bytes());
        Ok(Self { path, key, _lock: lock })
    }

    /// A complete entry of this table whose columns include `columns`: the one with the shortest rows.
    pub(crate) fn find(
        cache: &Path,
        table: &str,
        includes: impl Fn(&Found) -> bool,
    ) -> Option<Found> {
        let folders = fs::read_dir(cache.join(table)).ok()?;
        let describe = |folder: fs::DirEntry| {
            let found = describe(&folder.path())?;
            let name = |block: u64| format!("{block:06}.{BLOCK}");
            let is_there = |block| folder.path().join(name(block)).exists();
            let is_complete = found.layout == LAYOUT && (0..found.num_blocks()).all(is_there);
            (is_complete && includes(&found)).then_some(found)
        };
        folders.flatten().filter_map(describe).min_by_key(|found| found.stride)
    }

    fn file(&self, block: usize, suffix: &str) -> PathBuf {
        self.path.join(format!("{block:06}.{suffix}"))
    }

    fn block_key(&self, block: usize) -> u64 {
        self.key.wrapping_add((block as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A block that somebody wrote, or `None`. One that is damaged is removed.
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

    /// The right to write a block, or `None` while another process has it.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if the folder cannot be written to.
    pub(crate) fn claim(&self, block: usize) -> Result<Option<Claim<'_>>> {
        let part = self.file(block, PART);
        let open = || private().write(true).create(true).truncate(false).open(&part);
        let file = match open() {
            // Somebody removed the whole folder.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_private(&self.path).and_then(|()| open())
            }
            other => other,
        };
        let file = file.map_err(|error| cannot_write(&part, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(cannot_write(&part, &error)),
        }
        // It may have got its name between opening and locking.
        if !is_same_file(&file, &part) {
            return Ok(None);
        }
        file.set_len(0).map_err(|error| cannot_write(&part, &error))?;
        Ok(Some(Claim { entry: self, block, part, file }))
    }
}

impl Claim<'_> {
    /// Writes the block and gives it its name.
    ///
    /// # Errors
    ///
    /// [`Error::Write`], after which nothing is left behind.
    pub(crate) fn publish(mut self, rows: &PackedRows) -> Result<Block> {
        let key = self.entry.block_key(self.block);
        let path = self.entry.file(self.block, BLOCK);
        let written = Block::write(&mut self.file, key, rows)
            .and_then(|()| fs::rename(&self.part, &path))
            .map_err(|error| cannot_write(&self.part, &error));
        if let Err(error) = written {
            let _ = fs::remove_file(&self.part);
            return Err(error);
        }
        Block::map(&path, key, true)
    }

    /// Gives the claim up.
    pub(crate) fn abandon(self) {
        let _ = fs::remove_file(&self.part);
    }
}

/// Makes room for an entry of `needed` bytes in a cache that may hold `limit`, by removing the entries
/// that were not used for longest. Says whether there is room now. What `entry` holds already counts.
///
/// # Errors
///
/// [`Error::Write`] if the folder cannot be written to.
pub(crate) fn make_room(
    cache: &Path,
    needed: u64,
    limit: Option<u64>,
    entry: Option<&Entry>,
) -> Result<bool> {
    let failed = |error: std::io::Error| cannot_write(cache, &error);
    make_private(cache).map_err(failed)?;
    let mut entries = entries(cache);
    let mut used: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let is_own = |kept: &Kept| entry.is_some_and(|entry| entry.path == kept.path);
    let own: u64 = entries.iter().filter(|kept| is_own(kept)).map(|kept| kept.bytes).sum();
    let needed = needed.saturating_sub(own);
    entries.retain(|kept| !is_own(kept));
    let free = |cache: &Path| {
        rustix::fs::statvfs(cache).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    };
    // Half of what is there, so that a cache never is what fills a disk.
    let limit = limit.unwrap_or_else(|| free(cache).saturating_add(used) / 2);
    entries.sort_by_key(|entry| entry.last_used);
    for entry in entries {
        if used.saturating_add(needed) <= limit && needed <= free(cache) {
            break;
        }
        if remove(&entry.path) {
            used -= entry.bytes;
        }
    }
    Ok(used.saturating_add(needed) <= limit && needed <= free(cache))
}

struct Kept {
    path: PathBuf,
    bytes: u64,
    last_used: SystemTime,
}

fn entries(cache: &Path) -> Vec<Kept> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let found = fs::read_dir(path).into_iter().flatten().flatten();
        found.map(|found| found.path()).filter(|path| path.is_dir()).collect()
    };
    let entry = |path: PathBuf| {
        let last_used =
            fs::metadata(path.join(DESCRIPTION)).and_then(|file| file.modified()).ok()?;
        let files = fs::read_dir(&path).ok()?.flatten();
        let bytes = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        Some(Kept { path, bytes, last_used })
    };
    folders(cache).iter().flat_map(|table| folders(table)).filter_map(entry).collect()
}

/// Removes an entry that nobody uses. Only files of ours are touched.
fn remove(path: &Path) -> bool {
    let Ok(lock) = open_lock(path) else {
        return false;
    };
    if lock.try_lock().is_err() {
        return false;
    }
    let is_ours = |name: &str| {
        name == DESCRIPTION
            || name == LOCK
            || [BLOCK, PART].iter().any(|suffix| name.ends_with(&format!(".{suffix}")))
    };
    for file in fs::read_dir(path).into_iter().flatten().flatten() {
        if file.file_name().to_str().is_some_and(is_ours) {
            let _ = fs::remove_file(file.path());
        }
    }
    let _ = fs::remove_dir(path);
    let _ = path.parent().map(fs::remove_dir);
    true
}

fn describe(path: &Path) -> Option<Found> {
    serde_json::from_slice(&fs::read(path.join(DESCRIPTION)).ok()?).ok()
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    private().read(true).write(true).create(true).truncate(false).open(path.join(LOCK))
}

/// Options for files that only this user can read, and that are no links to others.
fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    options.mode(0o600).custom_flags(flags.cast_signed());
    options
}

/// Refuses a folder that others can write to, as what lies in it is mapped and believed, and one of
/// another machine, whose files may change under a mapping.
fn check(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let folder = File::open(path).map_err(|error| cannot_write(path, &error))?;
    let about = folder.metadata().map_err(|error| cannot_write(path, &error))?;
    let reason = if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0
    {
        "others can write to it"
    } else if is_remote(&folder) {
        "its file system is on another machine; give cache_dir a local folder"
    } else {
        return Ok(());
    };
    Err(Error::Write { path: path.display().to_string(), reason: reason.into() })
}

/// Makes a folder that only this user can look into: a table may be readable by fewer people than a
/// machine has.
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The table's name and the columns' name.
fn path_key(path: &Path) -> String {
    let names = path.components().rev().take(2);
    names.map(|name| name.as_os_str().to_string_lossy().into_owned()).collect()
}

fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Also where something is not found: what is missing is a place to write to, not data.
fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::Write { path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(columns: &[&str]) -> Found {
        let columns = columns.iter().map(|name| vec![(*name).to_string()]).collect();
        Found::new(columns, 10, 5, 8, 1)
    }

    fn rows(value: u8) -> PackedRows {
        PackedRows { heads: vec![value; 40], tails: Vec::new(), num_rows: 5, bits_set: Vec::new() }
    }

    fn fill(entry: &Entry) {
        for block in 0..2 {
            entry.claim(block).unwrap().unwrap().publish(&rows(7)).unwrap();
        }
    }

    #[test]
    fn a_block_is_written_by_one_and_read_by_all() {
        let cache = tempfile::tempdir().unwrap();
        let ours = Entry::open(cache.path(), "t", &found(&["a"])).unwrap();
        let theirs = Entry::open(cache.path(), "t", &found(&["a"])).unwrap();
        assert!(ours.load(0).is_none());
        let claim = ours.claim(0).unwrap().unwrap();
        assert!(theirs.claim(0).unwrap().is_none(), "somebody writes it");
        assert!(theirs.claim(1).unwrap().is_some(), "but not the others");
        claim.publish(&rows(3)).unwrap();
        assert_eq!(theirs.load(0).unwrap().heads(), [3; 40]);
        assert!(theirs.load(1).is_none());
    }

    #[test]
    fn a_part_that_was_left_behind_is_taken_over() {
        let cache = tempfile::tempdir().unwrap();
        let entry = Entry::open(cache.path(), "t", &found(&["a"])).unwrap();
        fs::write(entry.file(0, PART), b"half a block, and longer than a whole one".repeat(9))
            .unwrap();
        entry.claim(0).unwrap().unwrap().publish(&rows(4)).unwrap();
        assert_eq!(entry.load(0).unwrap().heads(), [4; 40]);
        assert!(!entry.file(0, PART).exists());
        entry.claim(1).unwrap().unwrap().abandon();
        assert!(!entry.file(1, PART).exists());
    }

    #[test]
    fn a_damaged_block_is_removed_and_written_again() {
        let cache = tempfile::tempdir().unwrap();
        let entry = Entry::open(cache.path(), "t", &found(&["a"])).unwrap();
        fill(&entry);
        let path = entry.file(0, BLOCK);
        let len = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
        assert!(entry.load(0).is_none());
        assert!(!path.exists());
        assert!(entry.claim(0).unwrap().is_some());
        fs::rename(entry.file(1, BLOCK), entry.file(0, BLOCK)).unwrap();
        assert!(entry.load(0).is_none(), "another block under its name");
    }

    #[test]
    fn a_folder_that_was_removed_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let entry = Entry::open(cache.path(), "t", &found(&["a"])).unwrap();
        fs::remove_dir_all(cache.path().join("t")).unwrap();
        entry.claim(0).unwrap().unwrap().publish(&rows(1)).unwrap();
        assert!(entry.load(0).is_some());
    }

    #[test]
    fn a_complete_entry_with_more_columns_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let wide = found(&["a", "b"]);
        let entry = Entry::open(cache.path(), "t", &wide).unwrap();
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
    fn entries_that_nobody_uses_make_room() {
        let cache = tempfile::tempdir().unwrap();
        for name in ["old", "young"] {
            fill(&Entry::open(cache.path(), "t", &found(&[name])).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        fs::write(cache.path().join("t").join("stranger"), b"not ours").unwrap();
        let used: u64 = entries(cache.path()).iter().map(|entry| entry.bytes).sum();
        assert!(make_room(cache.path(), 0, Some(used), None).unwrap());
        assert_eq!(entries(cache.path()).len(), 2);
        let young = Entry::open(cache.path(), "t", &found(&["young"])).unwrap();
        assert!(make_room(cache.path(), 10, Some(used), None).unwrap());
        assert_eq!(entries(cache.path()).len(), 1, "the old one went");
        assert!(
            !make_room(cache.path(), used, Some(used), None).unwrap(),
            "the young one is in use"
        );
        drop(young);
        assert!(make_room(cache.path(), used, Some(used), None).unwrap());
        assert!(cache.path().join("t").join("stranger").exists());
    }
}
