//! Locks of files that are released when their process ends, even if it has forked children.
//!
//! `flock` locks an open file, which a fork shares: children would keep the locks of a parent that was
//! killed. Record locks belong to a process. Two of their properties must be lived with: they do not
//! keep threads of one process apart, and closing any descriptor of a file gives its lock up. So each
//! process keeps a list of the files it has locked, and opens none of them a second time.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::owned::private;
use crate::runtime::{PerProcess, lock};

/// A file, whatever its name.
type Key = (u64, u64);

/// The files that this process has locked.
static HELD: PerProcess<Mutex<HashSet<Key>>> = PerProcess::new();

/// A file that is locked until this is dropped, or the process ends.
#[derive(Debug)]
pub(super) struct ProcessLock {
    file: ManuallyDrop<File>,
    key: Key,
    pid: u32,
}

impl ProcessLock {
    /// Locks the file at `path`, making it if there is none; `None` while any process has it locked.
    pub(super) fn try_new(path: &Path) -> std::io::Result<Option<Self>> {
        let held = held();
        let mut held = lock(&held);
        let mut options = private();
        options.read(true).write(true);
        let file = match options.clone().create_new(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Looked up before it is opened, as closing it would give our own lock up.
                let found = fs::symlink_metadata(path);
                if found.as_ref().is_ok_and(|found| held.contains(&key_of(found))) {
                    return Ok(None);
                }
                match found.and_then(|_| options.open(path)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    other => other?,
                }
            }
            Err(error) => return Err(error),
        };
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(None),
            other => other?,
        }
        let key = key_of(&file.metadata()?);
        // It may have been renamed or removed between opening and locking.
        if !fs::symlink_metadata(path).is_ok_and(|found| key_of(&found) == key) {
            return Ok(None);
        }
        held.insert(key);
        Ok(Some(Self { file: ManuallyDrop::new(file), key, pid: std::process::id() }))
    }

    /// Returns the file, open for writing.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for ProcessLock {
    #[expect(unsafe_code, reason = "the file must be closed before the list is unlocked")]
    fn drop(&mut self) {
        // A forked child has no part in it, and closing the file there could give up its own lock.
        if self.pid != std::process::id() {
            return;
        }
        let held = held();
        let mut held = lock(&held);
        // SAFETY: this is the only place where it is dropped, and it is not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.file) };
        held.remove(&self.key);
    }
}

fn held() -> Arc<Mutex<HashSet<Key>>> {
    HELD.get_or_make(|| Ok(Mutex::default())).expect("a list can be made")
}

fn key_of(file: &Metadata) -> Key {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_in_a_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let taken = ProcessLock::try_new(&path).unwrap().unwrap();
        let other_way = folder.path().join(".").join("lock");
        for path in [&path, &other_way] {
            assert!(ProcessLock::try_new(path).unwrap().is_none());
        }
        drop(taken);
        let again = ProcessLock::try_new(&other_way).unwrap();
        assert!(again.is_some());
        assert!(ProcessLock::try_new(&path).unwrap().is_none());
    }

    #[test]
    fn threads_never_have_it_together() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (inside, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while done.load(Ordering::Relaxed) < 400 {
                        let Some(taken) = ProcessLock::try_new(&path).unwrap() else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::Relaxed);
                        drop(taken);
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_that_was_renamed_is_free_under_its_old_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, name) = (folder.path().join("part"), folder.path().join("whole"));
        let taken = ProcessLock::try_new(&path).unwrap().unwrap();
        fs::rename(&path, &name).unwrap();
        assert!(ProcessLock::try_new(&path).unwrap().is_some());
        assert!(ProcessLock::try_new(&name).unwrap().is_none());
        drop(taken);
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("lock"), folder.path().join("other"));
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(ProcessLock::try_new(&path).is_err());
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    }
}
