//! Files of the cache whose checksums were compared: by this process, one that it was forked from, or any since
//! the system started.
//!
//! Comparing reads every byte, which many workers and ranks need not do one after another. What may damage a file
//! without changing its times is a system that stops while it writes, so a mark on a file holds until the
//! system starts again.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use twox_hash::XxHash3_64;

/// So many files are remembered at most.
const MOST: usize = 1 << 16;
/// The extended attribute of files that were verified.
const MARK: &str = "user.lanceloader.verified";
/// Files that were written to a moment ago are not marked: if they are written to again, the time may be the same.
const YOUNG: Duration = Duration::from_secs(2);

static VERIFIED: Mutex<Option<HashSet<Identity>>> = Mutex::new(None);

/// What changes if a file is another one, or is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    num_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    checksum: u64,
}

impl Identity {
    /// Returns the identity of an open file whose header names a checksum.
    pub(super) fn of(file: &Metadata, checksum: u64) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            num_bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            checksum,
        }
    }

    /// Returns whether the checksum of the file was compared before.
    pub(super) fn is_verified(self) -> bool {
        // A thread that held the lock when this process was forked never releases it.
        let Ok(known) = VERIFIED.try_lock() else {
            return false;
        };
        known.as_ref().is_some_and(|known| known.contains(&self))
    }

    /// Takes note that the checksum of the file was compared.
    pub(super) fn note(self) {
        let Ok(mut known) = VERIFIED.try_lock() else {
            return;
        };
        let known = known.get_or_insert_default();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(self);
    }

    /// Returns whether a file is marked as verified since the system started.
    pub(super) fn is_marked(self, file: &File) -> bool {
        let mut found = [0; 8];
        self.mark().is_some_and(|mark| fgetxattr(file, MARK, &mut found) == Ok(8) && found == mark)
    }

    /// Marks a file as verified, where its file system has room for that. This changes the file, so its identity
    /// is another one afterwards.
    pub(super) fn set_mark(self, file: &File) {
        let seconds = u64::try_from(self.modified.0).unwrap_or(u64::MAX);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if age.saturating_sub(Duration::from_secs(seconds)) > YOUNG
            && let Some(mark) = self.mark()
        {
            let _ = fsetxattr(file, MARK, &mark, XattrFlags::empty());
        }
    }

    /// Returns the mark of this file in this run of the system, if the system says which run it is.
    fn mark(self) -> Option<[u8; 8]> {
        // The number of a device may change, and setting the mark counts as a change.
        let Self { device: _, inode, num_bytes, modified: (seconds, nanos), changed: _, checksum } =
            self;
        let words = [inode, num_bytes, seconds.cast_unsigned(), nanos.cast_unsigned(), checksum];
        let bytes = words.map(u64::to_le_bytes).concat();
        Some(XxHash3_64::oneshot(&[bytes.as_slice(), boot_id()?].concat()).to_le_bytes())
    }
}

/// Returns what tells this run of the system from others.
fn boot_id() -> Option<&'static [u8]> {
    static ID: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    ID.get_or_init(|| std::fs::read("/proc/sys/kernel/random/boot_id").ok()).as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_until_it_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, b"some rows").unwrap();
        let of = || Identity::of(&std::fs::metadata(&path).unwrap(), 7);
        let first = of();
        assert!(!first.is_verified());
        first.note();
        assert!(of().is_verified());
        assert!(!Identity { checksum: 8, ..first }.is_verified());
        std::fs::write(&path, b"other rows").unwrap();
        assert!(!of().is_verified());
    }

    #[test]
    fn a_mark_holds_until_the_file_is_written_to_or_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, b"some rows").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let of = || Identity::of(&open().metadata().unwrap(), 7);
        of().set_mark(&open());
        assert!(!of().is_marked(&open()), "it is young");
        let hour_ago = SystemTime::now() - Duration::from_hours(1);
        open().set_modified(hour_ago).unwrap();
        of().set_mark(&open());
        if fgetxattr(open(), MARK, &mut [0; 8]) != Ok(8) {
            return; // A file system without extended attributes.
        }
        assert!(of().is_marked(&open()));
        assert!(!Identity { checksum: 8, ..of() }.is_marked(&open()));
        assert!(!Identity { inode: 8, ..of() }.is_marked(&open()), "a copy");
        std::fs::write(&path, b"more rows").unwrap();
        assert!(!of().is_marked(&open()));
    }
}
