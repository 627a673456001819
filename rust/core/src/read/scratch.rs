//! A file for rows on their way, which is gone whatever happens.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(target_os = "linux")]
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};

/// A file without a name: it takes room on a disk for as long as this process holds it open, and no
/// longer, even if the process is killed.
#[derive(Debug)]
pub(super) struct Scratch {
    file: File,
    folder: PathBuf,
    end: AtomicU64,
    pid: u32,
}

/// Scratch files that were used and can be written again: the next epoch finds their pages in
/// memory and their room on the disk.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Scratch>>);

impl Pool {
    /// Returns a file of the pool, or a new one.
    pub(super) fn take(&self, folder: Option<&Path>) -> Result<Scratch> {
        let pid = std::process::id();
        // Not waited for: a fork may have left it locked.
        let known = self.0.try_lock().ok().and_then(|mut files| {
            // A parent may write to those that a fork left here.
            files.retain(|file| file.pid == pid);
            files.pop()
        });
        known.map_or_else(|| Scratch::new(folder), Ok)
    }

    /// Takes a file back.
    pub(super) fn put(&self, mut file: Scratch) {
        *file.end.get_mut() = 0;
        // One is enough: the next epoch is written while this one is read.
        if let Ok(mut files) = self.0.try_lock()
            && files.is_empty()
        {
            files.push(file);
        }
    }
}

/// Bytes of a scratch file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) len: usize,
}

impl Scratch {
    /// Returns a new file in `folder`, or in the system's folder for temporary files.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] if it cannot be made.
    pub(super) fn new(folder: Option<&Path>) -> Result<Self> {
        let folder = folder.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let file = std::fs::create_dir_all(&folder)
            .and_then(|()| nameless(&folder))
            .map_err(|error| failed(&folder, &error))?;
        Ok(Self { file, folder, end: AtomicU64::new(0), pid: std::process::id() })
    }

    /// Appends bytes. Several threads may.
    ///
    /// # Errors
    ///
    /// [`Error::Write`], mostly because the disk is full.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<Extent> {
        self.append_parts(&[bytes])
    }

    /// Appends parts that lie end to end afterwards. Several threads may.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub(super) fn append_parts(&self, parts: &[&[u8]]) -> Result<Extent> {
        let len = parts.iter().map(|part| part.len()).sum();
        let start = self.end.fetch_add(len as u64, Ordering::Relaxed);
        let mut at = start;
        for part in parts {
            self.file.write_all_at(part, at).map_err(|error| failed(&self.folder, &error))?;
            at += part.len() as u64;
        }
        Ok(Extent { start, len })
    }

    /// Reads an extent into `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub(super) fn read(&self, extent: Extent, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, extent.start).map_err(|error| failed(&self.folder, &error))
    }
}

/// Names that were taken so far.
static COUNT: AtomicU64 = AtomicU64::new(0);

fn nameless(folder: &Path) -> std::io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
            return Ok(File::from(file));
        }
    }
    // Not every system and file system can; a name is then taken back at once.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".lanceloader-{}-{count}.scratch", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn failed(folder: &Path, error: &std::io::Error) -> Error {
    Error::write(format!("a scratch file in {}", folder.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_the_folder_stays_empty() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(Some(&folder.path().join("made"))).unwrap();
        let extents = [&b"one"[..], b"", b"three"].map(|bytes| scratch.append(bytes).unwrap());
        let parts = scratch.append_parts(&[b"a", b"", b"bc"]).unwrap();
        let read = |extent: Extent| {
            let mut out = vec![0; extent.len];
            scratch.read(extent, &mut out).unwrap();
            out
        };
        assert_eq!(extents.map(read), [b"one".to_vec(), vec![], b"three".to_vec()]);
        assert_eq!(read(parts), b"abc");
        assert_eq!(std::fs::read_dir(folder.path().join("made")).unwrap().count(), 0);
    }
}
