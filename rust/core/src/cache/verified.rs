//! Files of the cache whose checksums were compared, by this process or one that it was forked from.
//!
//! Comparing reads every byte, which workers need not do again for what their parent mapped.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

/// So many files are remembered at most.
const MOST: usize = 1 << 16;

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
}
