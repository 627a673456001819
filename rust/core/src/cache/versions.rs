//! Which copies of files a version of a table uses: those of the newest one stay, and those that only older
//! ones used make room first.
//!
//! A process that reads a version lists its data files in a file beside their copies, and holds it locked,
//! shared. Lists of older versions are removed once no process holds them. A copy that no list names is stale.
//! All of this happens under the lock of the cache folder.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::description::{COPY, LIST, SUMS, UNFINISHED};
use super::owned::Folder;

/// The files of these lie in a folder that has the name of their data file.
const BLOB: &str = ".blob";

/// The data files of one version of a table that lie in one folder.
#[derive(Debug)]
pub(crate) struct Listing {
    table: u64,
    /// When the version was written, in nanoseconds.
    written: u128,
    list: List,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    /// Hashes of data files and of the folders beside them; `None` where not all can be named.
    files: Option<Vec<u64>>,
}

impl Listing {
    /// Lists the files of a version: their paths and sizes. `table` is the same for all versions of it.
    pub(crate) fn new<'a>(
        table: &str,
        written: u128,
        files: impl Iterator<Item = (&'a str, Option<u64>)>,
    ) -> Self {
        let hashes =
            |(path, size): (&str, Option<u64>)| Some([of_file(path, size?), of_folder(path)]);
        let files: Option<Vec<_>> = files.map(hashes).collect();
        let files = files.map(|files| {
            let mut files = files.concat();
            files.sort_unstable();
            files.dedup();
            files
        });
        Self { table: XxHash3_64::oneshot(table.as_bytes()), written, list: List { files } }
    }

    /// Puts the list into the folder of copies, and returns the file that keeps it there.
    pub(super) fn put(&self, folder: &Folder) -> std::io::Result<File> {
        let text = serde_json::to_vec(&self.list)?;
        let content = XxHash3_64::oneshot(&text);
        let name = format!("{:016x}-{:030}-{content:016x}.{LIST}", self.table, self.written);
        let file = if let Ok(file) = folder.open_file(&name) {
            file
        } else {
            let part = format!("{name}.{UNFINISHED}");
            let mut file = folder.create(&part, rustix::fs::OFlags::TRUNC)?;
            file.write_all(&text)?;
            folder.rename(&part, &name)?;
            file
        };
        file.lock_shared()?;
        Ok(file)
    }
}

/// Returns the stem of the names of a copy and its checksums.
pub(super) fn stem_of(path: &str, num_bytes: u64) -> String {
    let stem = of_file(path, num_bytes);
    match path.strip_suffix(BLOB).and_then(|path| path.rsplit_once('/')) {
        Some((folder, _)) => format!("{stem:016x}-{:016x}", of_folder(folder)),
        None => format!("{stem:016x}"),
    }
}

fn of_file(path: &str, num_bytes: u64) -> u64 {
    XxHash3_64::oneshot(format!("{num_bytes} {path}").as_bytes())
}

/// Returns the hash of the folder beside a data file, which has its name without the suffix.
fn of_folder(path: &str) -> u64 {
    let folder = path.strip_suffix(".lance").unwrap_or(path);
    XxHash3_64::oneshot(format!("{folder}/").as_bytes())
}

/// Returns the names of copies, and of their checksums, that no version uses which is the newest of its
/// table or is read by a process.
pub(super) fn stale_in(folder: &Folder) -> Vec<OsString> {
    let names = folder.names();
    let lists: Vec<&str> = names.iter().filter_map(|name| list_name(name)).collect();
    // The names of lists begin with the table and the time.
    let mut newest: HashMap<&str, &str> = HashMap::new();
    for list in &lists {
        let of_table = newest.entry(&list[..16]).or_insert(list);
        *of_table = (*of_table).max(list);
    }
    if lists.is_empty() {
        return Vec::new();
    }
    let mut used = HashSet::new();
    for list in lists {
        if newest.get(&list[..16]) != Some(&list) && is_free(folder, list) {
            let _ = folder.remove(OsStr::new(list));
            continue;
        }
        let found = folder.read(list).ok();
        match found.and_then(|text| serde_json::from_slice::<List>(&text).ok()?.files) {
            Some(files) => used.extend(files),
            None => return Vec::new(),
        }
    }
    let is_stale = |name: &OsString| {
        let name = name.to_string_lossy();
        let stem = [COPY, SUMS].iter().find_map(|suffix| name.strip_suffix(&format!(".{suffix}")));
        // Blobs stay as long as the data file that they belong to.
        let hash = stem.map(|stem| stem.rsplit('-').next().unwrap_or(stem));
        let hash = hash.and_then(|hash| u64::from_str_radix(hash, 16).ok());
        hash.is_some_and(|hash| !used.contains(&hash))
    };
    names.iter().filter(|name| is_stale(name)).cloned().collect()
}

fn list_name(name: &OsStr) -> Option<&str> {
    let name = name.to_str()?;
    let is_one = name.strip_suffix(&format!(".{LIST}"))?.len() == 16 + 1 + 30 + 1 + 16;
    (is_one && name.is_ascii()).then_some(name)
}

/// Returns whether no process holds a list.
fn is_free(folder: &Folder, list: &str) -> bool {
    folder.open_file(list).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn put(folder: &Path, table: &str, written: u128, files: &[(&str, Option<u64>)]) -> File {
        let listing = Listing::new(table, written, files.iter().copied());
        listing.put(&Folder::open(folder).unwrap()).unwrap()
    }

    fn copy(folder: &Path, path: &str, num_bytes: u64) {
        for suffix in [COPY, SUMS] {
            fs::write(folder.join(format!("{}.{suffix}", stem_of(path, num_bytes))), "x").unwrap();
        }
    }

    /// How many copies are stale.
    fn stale(folder: &Path) -> usize {
        stale_in(&Folder::open(folder).unwrap()).len() / 2
    }

    const A: (&str, Option<u64>) = ("t/data/a.lance", Some(10));
    const B: (&str, Option<u64>) = ("t/data/b.lance", Some(20));
    const C: (&str, Option<u64>) = ("t/data/c.lance", Some(30));

    fn filled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, size) in [A, B, C] {
            copy(folder.path(), path, size.unwrap());
        }
        copy(folder.path(), "t/data/a/0001.blob", 7);
        folder
    }

    #[test]
    fn what_only_older_versions_use_is_stale() {
        let folder = filled();
        let path = folder.path();
        assert_eq!(stale(path), 0, "nothing is known of versions");
        drop(put(path, "t", 1, &[A, B]));
        assert_eq!(stale(path), 1);
        drop(put(path, "t", 2, &[B, C]));
        assert_eq!(stale(path), 2, "a data file, and the blob that belongs to it");
        // Another table that shares a file.
        drop(put(path, "clone of t", 1, &[A]));
        assert_eq!(stale(path), 0);
        drop(put(path, "clone of t", 2, &[C]));
        assert_eq!(stale(path), 2);
        assert_eq!(fs::read_dir(path).unwrap().count(), 8 + 2, "lists of older versions went");
    }

    #[test]
    fn what_a_process_reads_is_not_stale() {
        let folder = filled();
        let path = folder.path();
        let older = put(path, "t", 1, &[A]);
        drop(put(path, "t", 2, &[B, C]));
        assert_eq!(stale(path), 0);
        // Opened again, though it is not the newest.
        let again = put(path, "t", 1, &[A]);
        drop(older);
        assert_eq!(stale(path), 0);
        drop(again);
        assert_eq!(stale(path), 2);
    }

    #[test]
    fn nothing_is_stale_where_files_cannot_be_named() {
        let folder = filled();
        let path = folder.path();
        drop(put(path, "t", 1, &[A, ("t/data/b.lance", None)]));
        assert_eq!(stale(path), 0);
        let other = filled();
        drop(put(other.path(), "t", 1, &[A]));
        assert_eq!(stale(other.path()), 2);
        let mut files = fs::read_dir(other.path()).unwrap().flatten().map(|file| file.path());
        let list = files.find(|file| file.extension().is_some_and(|end| end == LIST));
        fs::write(list.unwrap(), "[").unwrap();
        assert_eq!(stale(other.path()), 0);
    }
}
