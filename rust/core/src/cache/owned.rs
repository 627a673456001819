//! Folders and files that only this user can read and write, opened without following a link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Result};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};

use crate::disk::is_remote;

/// What is read of a file at most: a list has some 40 bytes for each data file of a table.
const MOST_READ: u64 = 64 << 20;
/// The end of the names of files with holes.
const COPY_SUFFIX: &[u8] = b".copy";

/// An open folder, so that no other folder can be put in its place.
#[derive(Debug)]
pub(super) struct Folder(File);

/// The metadata of a file that decides whether it is trusted.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) is_file: bool,
    /// What it takes of the disk, or will once it is written: of a copy with holes, only what is there.
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

impl Folder {
    /// Opens the folder at `path`, which may be a link, as a user passed it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(File::from(rustix::fs::open(path, flags, Mode::empty())?)))
    }

    /// Opens a folder in this one; a link is an error.
    pub(super) fn folder(&self, name: &OsStr) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(File::from(openat(&self.0, name, flags, Mode::empty())?)))
    }

    /// Returns the folders in this one.
    pub(super) fn folders(&self) -> Vec<(OsString, Self)> {
        let names = self.names().into_iter();
        names.filter_map(|name| self.folder(&name).ok().map(|folder| (name, folder))).collect()
    }

    /// Returns the names of all that is in it.
    pub(super) fn names(&self) -> Vec<OsString> {
        let found = Dir::read_from(&self.0).into_iter().flatten().flatten();
        let names = found.map(|found| OsString::from_vec(found.file_name().to_bytes().to_vec()));
        names.filter(|name| name != "." && name != "..").collect()
    }

    /// Returns the owner, mode and size of a file of this folder.
    pub(super) fn about(&self, name: &OsStr) -> Result<About> {
        let stat = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        // Widths and signs of the fields differ between machines.
        let seconds = u64::try_from(i128::from(stat.st_mtime)).unwrap_or(0);
        let nanos = u32::try_from(i128::from(stat.st_mtime_nsec)).unwrap_or(0);
        let modified = Duration::new(seconds, nanos);
        Ok(About {
            is_file: FileType::from_raw_mode(stat.st_mode).is_file(),
            bytes: if name.as_encoded_bytes().ends_with(COPY_SUFFIX) {
                u64::try_from(i128::from(stat.st_blocks)).unwrap_or(0).saturating_mul(512)
            } else {
                u64::try_from(stat.st_size).unwrap_or(0)
            },
            modified: SystemTime::UNIX_EPOCH + modified,
        })
    }

    /// Returns the content of a file of this folder.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.open_file(name)?.take(MOST_READ).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Opens a file of this folder for writing, or makes it.
    pub(super) fn create(&self, name: &str, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Opens a file of this folder for reading.
    pub(super) fn open_file(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Gives a file of this folder another name in it.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a file of this folder.
    pub(super) fn remove(&self, name: &OsStr) -> Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty folder of this one.
    pub(super) fn remove_folder(&self, name: &OsStr) -> Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Returns why what lies in it cannot be believed: others can write to it, or it is on another
    /// machine, where files may change under a mapping.
    pub(super) fn distrust(&self) -> Result<Option<&'static str>> {
        let about = self.0.metadata()?;
        let is_own = about.uid() == rustix::process::geteuid().as_raw();
        Ok(if !is_own || about.mode() & 0o022 != 0 {
            Some("others can write to it")
        } else if is_remote(&self.0) {
            Some("its file system is on another machine; give cache_dir a local folder")
        } else {
            None
        })
    }

    /// Returns whether it belongs to this user alone.
    pub(super) fn is_trusted(&self) -> bool {
        matches!(self.distrust(), Ok(None))
    }
}

/// Returns options for opening a file that only this user can read, without following a link.
pub(super) fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Makes a folder that only this user can look into: a table may be readable by fewer people than a
/// machine has.
pub(super) fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
