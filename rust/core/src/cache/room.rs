//! The limit of a cache folder, and which entries are removed to keep it.
//!
//! # Which files may be removed
//!
//! A user may choose a folder that holds other files too, so an entry is only removed if it is
//! certainly one of this crate: it and the folder around it belong to this user alone, neither is a
//! link, and its name is the hash of its description, which parses. Nothing is removed from a folder
//! without a marker. A folder gets the marker when it is first used, even if an earlier version has
//! used it, unless something in it is named like an entry but is not one.
//!
//! # The limit
//!
//! The files of all entries together never exceed it. Before a block is written, its file gets its
//! final size, under the lock of the whole folder, after copies of files that only older versions of a
//! table used, and then the least recently used entries, were removed to make room. A file that a killed process was writing counts until it is taken over or removed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use super::description::{DESCRIPTION, LOCK, is_copy, is_own_file, name_in};
use super::locks::ProcessLock;
use super::owned::{Folder, make_private};
use super::versions::stale_in;
use crate::error::{Error, Result};
use crate::interrupt;

const MARKER: &str = "lanceloader-cache";
const MARK: &str =
    "lanceloader keeps packed rows in this folder. They may be removed at any time.\n";
/// Descriptions and locks, which are not counted before they are written.
const SMALL_FILES: u64 = 8 << 10;
/// How long others may hold the lock of the folder, which they do for milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// A folder for packed rows, and how many bytes of them it may hold: by default half of what its disk
/// has free, so that a cache is never what fills a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Cache {
    path: PathBuf,
    limit: Option<u64>,
}

/// The names of the folders of an entry: of its table and of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) table: OsString,
    pub(super) columns: OsString,
}

impl Cache {
    pub(crate) fn new(path: &Path, limit: Option<u64>) -> Self {
        Self { path: path.to_path_buf(), limit }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(&name.table).join(&name.columns)
    }

    /// Locks the folder, so that no other process makes or takes room in it.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if it cannot be written to; [`Error::Interrupted`].
    pub(super) fn enter(&self) -> Result<Room<'_>> {
        let failed = |error: std::io::Error| Error::write(self.path.display(), &error);
        make_private(&self.path).map_err(failed)?;
        let root = Folder::open(&self.path).map_err(failed)?;
        // One lock per user: a user cannot lock a file of another.
        let user = rustix::process::geteuid().as_raw();
        let path = self.path.join(format!("lanceloader.{user}.lock"));
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(lock) = ProcessLock::try_new(&path).map_err(failed)? {
                return Ok(Room { cache: self, root, _lock: lock });
            }
            interrupt::check()?;
            std::thread::sleep(PAUSE);
        }
        Err(Error::refused_now(path.display(), "another process has it locked"))
    }
}

/// A cache folder that is locked.
pub(super) struct Room<'a> {
    cache: &'a Cache,
    root: Folder,
    _lock: ProcessLock,
}

impl Room<'_> {
    /// Makes room for an entry of `needed` bytes, of which those that it has count, or for `more`
    /// bytes beside all there is. Removes the entries that were not used for longest, but not `own`.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if there is none.
    pub(super) fn make(&self, own: &Name, needed: Needed) -> Result<()> {
        let mut kept = entries(&self.root);
        let mut used: u64 = kept.iter().map(|entry| entry.bytes).sum();
        let own_bytes: u64 =
            kept.iter().filter(|entry| entry.name == *own).map(|entry| entry.bytes).sum();
        let more = match needed {
            Needed::InAll(bytes) => bytes.saturating_sub(own_bytes),
            Needed::More(bytes) => bytes.saturating_add(SMALL_FILES),
        };
        let limit = self.cache.limit.unwrap_or_else(|| self.free().saturating_add(used) / 2);
        let fits = |used: u64| used.saturating_add(more) <= limit && more <= self.free();
        if fits(used) {
            return Ok(());
        }
        let is_marked = self.is_marked();
        for entry in kept.iter_mut().filter(|_| is_marked) {
            let stale = entry.remove_stale(false).bytes;
            (used, entry.bytes) = (used.saturating_sub(stale), entry.bytes.saturating_sub(stale));
        }
        if fits(used) {
            return Ok(());
        }
        kept.retain(|entry| entry.name != *own);
        kept.sort_by_key(|entry| entry.last_used);
        // Nothing is removed for what does not fit anyway.
        let removable: u64 = kept.iter().map(|entry| entry.bytes).sum();
        if (used - removable).saturating_add(more) > limit {
            kept.clear();
        }
        for entry in kept.iter().filter(|_| is_marked) {
            if entry.remove(&self.root) {
                used -= entry.bytes;
            }
            if fits(used) {
                return Ok(());
            }
        }
        let why = if is_marked {
            ""
        } else {
            ", and nothing is removed from it, as it holds entries of something else: give cache_dir a \
             folder of its own"
        };
        // The same from try to try, as each reason is reported once.
        let what = match needed {
            Needed::InAll(bytes) => format!("{} bytes", bytes.max(own_bytes)),
            Needed::More(_) => "more rows".to_string(),
        };
        let within = self.cache.limit.map_or_else(
            || "half of the free space".to_string(),
            |limit| format!("its limit of {limit} bytes"),
        );
        let reason = if more > self.free() {
            format!("No space left on its disk for {what}{why}")
        } else {
            format!("there is no room for {what} within {within}{why}")
        };
        Err(Error::refused_now(self.cache.path.display(), reason))
    }

    /// Removes an entry, unless a process uses it.
    pub(super) fn discard(&self, name: &Name) {
        if self.is_marked()
            && let Some(entry) = entries(&self.root).into_iter().find(|entry| entry.name == *name)
        {
            entry.remove(&self.root);
        }
    }

    /// Removes copies of files that only older versions of tables used.
    fn prune(&self, is_dry: bool) -> Pruned {
        let all = entries(&self.root).into_iter().filter(|_| self.is_marked());
        all.map(|entry| entry.remove_stale(is_dry)).fold(Pruned::default(), |sum, one| Pruned {
            files: sum.files + one.files,
            bytes: sum.bytes + one.bytes,
        })
    }

    fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.cache.path)
            .map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    /// Returns whether entries may be removed from it. Marks it if nothing speaks against that.
    pub(super) fn is_marked(&self) -> bool {
        if self.root.about(OsStr::new(MARKER)).is_ok_and(|about| about.is_file) {
            return self.root.read(MARKER).is_ok_and(|text| text == MARK.as_bytes());
        }
        for (table, folder) in self.root.folders() {
            for (columns, entry) in folder.folders() {
                let is_like_one = entry.about(OsStr::new(DESCRIPTION)).is_ok();
                if is_like_one && Kept::new(&table, &folder, columns, entry).is_none() {
                    return false;
                }
            }
        }
        let mut made = self.root.create(MARKER, OFlags::EXCL);
        made.as_mut().is_ok_and(|file| std::io::Write::write_all(file, MARK.as_bytes()).is_ok())
    }
}

/// What was removed of a cache folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Copies of files.
    pub files: u64,
    /// What they took of the disk.
    pub bytes: u64,
}

/// Removes copies of files that belong neither to the newest version of their table that was opened nor to
/// one that a process reads. `is_dry` only counts them.
///
/// # Errors
///
/// [`Error::Write`] if the folder cannot be written to.
pub fn prune(folder: &Path, is_dry: bool) -> Result<Pruned> {
    if !folder.exists() {
        return Ok(Pruned::default());
    }
    Ok(Cache::new(folder, None).enter()?.prune(is_dry))
}

/// How much room is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Needed {
    /// For all of an entry, of which a part may be there.
    InAll(u64),
    /// Beside all there is.
    More(u64),
}

/// An entry that is there.
struct Kept {
    name: Name,
    folder: Folder,
    bytes: u64,
    last_used: SystemTime,
}

/// Returns the entries that are ours.
fn entries(root: &Folder) -> Vec<Kept> {
    let of_table = |(table, folder): (OsString, Folder)| {
        let entries = folder.folders().into_iter();
        entries
            .filter_map(|(columns, entry)| Kept::new(&table, &folder, columns, entry))
            .collect::<Vec<_>>()
    };
    root.folders().into_iter().flat_map(of_table).collect()
}

impl Kept {
    /// Returns what is in the folder of an entry, if it is one of ours.
    fn new(table: &OsStr, around: &Folder, columns: OsString, folder: Folder) -> Option<Self> {
        let last_used = folder.about(OsStr::new(DESCRIPTION)).ok()?.modified;
        if !around.is_trusted() || !folder.is_trusted() || columns != *name_in(&folder)? {
            return None;
        }
        let files = folder.names().into_iter().filter_map(|name| folder.about(&name).ok());
        let bytes = files.filter(|about| about.is_file).map(|about| about.bytes).sum();
        Some(Self { name: Name { table: table.into(), columns }, folder, bytes, last_used })
    }

    /// Removes copies of files that only older versions of their table used.
    fn remove_stale(&self, is_dry: bool) -> Pruned {
        let mut done = Pruned::default();
        for name in stale_in(&self.folder) {
            let about = self.folder.about(&name);
            let Some(about) = about.ok().filter(|about| about.is_file) else {
                continue;
            };
            if is_dry || self.folder.remove(&name).is_ok() {
                done.files += u64::from(is_copy(&name));
                done.bytes += about.bytes;
            }
        }
        done
    }

    /// Removes it, unless a process uses it. Only files that this crate wrote are touched.
    fn remove(&self, root: &Folder) -> bool {
        let Ok(lock) = self.folder.create(LOCK, OFlags::empty()) else {
            return false;
        };
        if lock.try_lock().is_err() {
            return false;
        }
        let is_file = |name: &OsStr| self.folder.about(name).is_ok_and(|about| about.is_file);
        // The lock is removed last: a process that finds none makes a new one.
        for name in self.folder.names().iter().filter(|name| *name != LOCK) {
            if is_own_file(name) && is_file(name) {
                let _ = self.folder.remove(name);
            }
        }
        let _ = self.folder.remove(OsStr::new(LOCK));
        if let Ok(table) = root.folder(&self.name.table) {
            let _ = table.remove_folder(&self.name.columns);
        }
        let _ = root.remove_folder(&self.name.table);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::folder::tests::{fill, found};
    use super::*;
    use crate::cache::Entry;
    use crate::packed::PackedRows;

    fn cache(path: &Path, limit: u64) -> Cache {
        Cache::new(path, Some(limit))
    }

    fn used(path: &Path) -> u64 {
        entries(&Folder::open(path).unwrap()).iter().map(|entry| entry.bytes).sum()
    }

    fn count(path: &Path) -> usize {
        entries(&Folder::open(path).unwrap()).len()
    }

    fn make(path: &Path, needed: u64, limit: u64) -> bool {
        let none = Name { table: "none".into(), columns: "none".into() };
        cache(path, limit).enter().unwrap().make(&none, Needed::InAll(needed)).is_ok()
    }

    fn filled(path: &Path, table: &str, column: &str) {
        let all = Cache::new(path, Some(1 << 30));
        fill(&Entry::open(&all, table, &found(&[column]), 0).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }

    #[test]
    fn entries_that_nobody_uses_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        filled(path, "t", "old");
        filled(path, "t", "young");
        fs::write(path.join("t").join("stranger"), b"not ours").unwrap();
        let used = used(path);
        assert!(make(path, 0, used));
        assert_eq!(count(path), 2);
        let all = cache(path, 1 << 30);
        let young = Entry::open(&all, "t", &found(&["young"]), 0).unwrap();
        assert!(make(path, 10, used));
        assert_eq!(count(path), 1, "the old one went");
        assert!(!make(path, used, used), "the young one is in use");
        drop(young);
        assert!(make(path, used, used));
        assert!(path.join("t").join("stranger").exists());
    }

    #[test]
    fn a_cache_over_its_limit_is_trimmed_by_whoever_opens_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        filled(path, "t", "old");
        filled(path, "t", "young");
        let one = used(path) / 2 + 20;
        let small = cache(path, one);
        drop(Entry::open(&small, "t", &found(&["young"]), 0).unwrap());
        assert_eq!(count(path), 1, "another entry went, though nothing was to be written");
        let tiny = cache(path, 50);
        let error = Entry::open(&tiny, "t", &found(&["young"]), 0).unwrap_err();
        assert!(error.may_pass(), "{error}");
        assert_eq!(count(path), 0, "its own entry went, as it exceeds the limit alone");
    }

    #[test]
    fn what_is_about_to_be_written_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        filled(path, "t", "first");
        let one = used(path);
        let limit = 3 * one + SMALL_FILES;
        let room = cache(path, limit);
        let entry = Entry::open(&room, "t", &found(&["second"]), 0).unwrap();
        let first = Entry::open(&room, "t", &found(&["first"]), 0).unwrap();
        let mut claim = entry.claim(0).unwrap().unwrap();
        claim.reserve(one).unwrap();
        assert!(used(path) >= 2 * one);
        let mut other = entry.claim(1).unwrap().unwrap();
        let error = other.reserve(2 * one).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
        assert!(used(path) <= limit);
        drop(first);
        other.reserve(one + one / 2).unwrap();
        assert_eq!(count(path), 1, "the first one made room");
        drop((claim, other));
        assert!(used(path) < one, "what was given up counts no more");
    }

    #[test]
    fn a_block_counts_while_it_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let all = cache(folder.path(), 1 << 30);
        let heads = vec![7; 1 << 16];
        let rows = PackedRows { heads, tails: Vec::new(), num_rows: 5, bits_set: Vec::new() };
        let entry = Entry::open(&all, "t", &found(&["a"]), 0).unwrap();
        let reserved = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for block in 0..500 {
                    let mut claim = entry.claim(block).unwrap().unwrap();
                    claim.reserve(1 << 16).unwrap();
                    reserved.fetch_add(1 << 16, Ordering::SeqCst);
                    claim.publish((&rows).into()).unwrap();
                }
            });
            while !writer.is_finished() {
                let _room = all.enter().unwrap();
                let at_least = reserved.load(Ordering::SeqCst);
                assert!(used(folder.path()) >= at_least);
            }
        });
    }

    /// A tree as text: every path, with the content or target.
    fn listing(path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![path.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for each in fs::read_dir(&folder).unwrap().flatten() {
                let (path, kind) = (each.path(), each.file_type().unwrap());
                let content = if kind.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if kind.is_dir() {
                    folders.push(path.clone());
                    String::new()
                } else {
                    format!("{:?}", fs::read(&path).unwrap())
                };
                found.push(format!("{} {content}", path.display()));
            }
        }
        found.sort();
        found
    }

    fn project(path: &Path, description: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(DESCRIPTION), description).unwrap();
        for name in ["000000.rows", "data.rows", "a.part", LOCK, "notes.txt"] {
            fs::write(path.join(name), "weeks of work").unwrap();
        }
    }

    /// Projects of others in the same folder, none of which may lose a file.
    fn strangers(path: &Path) {
        let ours = found(&["theirs"]);
        let text = serde_json::to_string(&ours).unwrap();
        project(&path.join("web").join("blog"), r#"{"title": "an entry"}"#);
        project(&path.join("web").join("empty"), "");
        project(&path.join("web").join("list"), "[1, 2]");
        project(&path.join("0123456789abcdef").join("fedcba9876543210"), "{}");
        // Our description, under another name.
        project(&path.join("copied").join("here"), &text);
        // With more than we say.
        let more = text.replacen('{', r#"{"owner": "somebody", "#, 1);
        project(&path.join("more").join(ours.name()), &more);
        fs::create_dir_all(path.join("folder").join(ours.name()).join(DESCRIPTION)).unwrap();
        fs::write(path.join("folder").join(ours.name()).join("0.rows"), "x").unwrap();
        fs::write(path.join("loose.rows"), "x").unwrap();
        fs::create_dir_all(path.join("deep/er/t").join(ours.name())).unwrap();
        project(&path.join("deep/er/t").join(ours.name()), &text);
    }

    #[test]
    fn strangers_in_a_folder_of_ours_keep_everything() {
        let (folder, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = folder.path();
        filled(path, "t", "a");
        // Links to entries of a cache that is elsewhere.
        filled(apart.path(), "t", "theirs");
        let theirs = found(&["theirs"]).name();
        let away = apart.path().join("t");
        symlink(&away, path.join("linked")).unwrap();
        fs::create_dir(path.join("half")).unwrap();
        symlink(away.join(&theirs), path.join("half").join(&theirs)).unwrap();
        strangers(path);
        // Entries that others can write to.
        for (table, mode) in [("open", 0o777), ("group", 0o775)] {
            filled(path, table, "theirs");
            let entry = path.join(table).join(&theirs);
            fs::set_permissions(&entry, fs::Permissions::from_mode(mode)).unwrap();
        }
        filled(path, "around", "theirs");
        fs::set_permissions(path.join("around"), fs::Permissions::from_mode(0o777)).unwrap();
        // A link instead of a description.
        filled(path, "pointing", "theirs");
        let description = path.join("pointing").join(&theirs).join(DESCRIPTION);
        fs::rename(&description, description.with_extension("moved")).unwrap();
        symlink(description.with_extension("moved"), &description).unwrap();
        let ours = path.join("t");
        let before: Vec<String> = listing(path);
        assert_eq!(count(path), 1);
        // What does not fit anyway removes nothing; what fits without ours removes ours.
        assert!(!make(path, 1 << 40, 1 << 30));
        assert_eq!(listing(path), before);
        assert!(make(path, 1 << 20, 1 << 20));
        let is_of_ours = |line: &&String| line.starts_with(&*ours.display().to_string());
        let theirs: Vec<&String> = before.iter().filter(|line| !is_of_ours(line)).collect();
        let after = listing(path);
        assert_eq!(after.iter().collect::<Vec<_>>(), theirs);
        assert!(!ours.exists());
        assert_eq!(listing(apart.path()).len(), 8, "{:?}", listing(apart.path()));
    }

    #[test]
    fn a_folder_without_a_marker_that_holds_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        strangers(path);
        // It can be used, but nothing goes.
        filled(path, "t", "a");
        let before = listing(path);
        assert!(!make(path, 1 << 40, 1 << 30));
        let none = Name { table: "none".into(), columns: "none".into() };
        let small = cache(path, 1);
        let room = small.enter().unwrap();
        let error = room.make(&none, Needed::InAll(0)).unwrap_err();
        assert!(error.to_string().contains("a folder of its own"), "{error}");
        assert_eq!(listing(path), before);
        assert!(!path.join(MARKER).exists());
    }

    #[test]
    fn a_folder_of_an_earlier_version_is_marked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        filled(path, "t", "a");
        fs::remove_file(path.join(MARKER)).unwrap();
        fs::create_dir_all(path.join("something").join("else")).unwrap();
        assert!(make(path, 1 << 20, 1 << 20));
        assert_eq!(count(path), 0);
        assert!(path.join(MARKER).exists());
    }

    #[test]
    fn a_marker_of_something_else_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        filled(path, "t", "a");
        fs::write(path.join(MARKER), "a text of mine").unwrap();
        assert!(!make(path, 1 << 20, 1 << 20));
        assert_eq!(count(path), 1);
        let marker = path.join("marker");
        fs::write(&marker, MARK).unwrap();
        fs::remove_file(path.join(MARKER)).unwrap();
        symlink(&marker, path.join(MARKER)).unwrap();
        assert!(!make(path, 1 << 20, 1 << 20));
        assert_eq!(count(path), 1);
    }
}
