//! The description of an entry, and the names of its files.

use std::ffi::OsStr;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::owned::Folder;

pub(super) const DESCRIPTION: &str = "entry.json";
pub(super) const LOCK: &str = "lock";
pub(super) const BLOCK: &str = "rows";
/// A copy of a file, and the checksums of its pages.
pub(super) const COPY: &str = "copy";
pub(super) const SUMS: &str = "sums";
/// The data files of one version of a table.
pub(super) const LIST: &str = "files";
/// The suffix of files that are not complete.
pub(super) const UNFINISHED: &str = "part";
/// Earlier versions wrote to files without `new`, under locks that these do not see.
pub(super) const PART: &str = "new.part";
/// Changes when the layout of packed rows or of their files does.
pub(super) const LAYOUT: u32 = 1;
/// Changes when the pages of copies or their checksums do.
const COPIES_LAYOUT: u32 = 1;

/// The description of an entry.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
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

    pub(super) fn num_blocks(&self) -> u64 {
        self.num_rows.div_ceil(self.block_rows.max(1))
    }

    /// Returns the description of an entry, if its folder has one.
    pub(super) fn of(folder: &Folder) -> Option<Self> {
        serde_json::from_slice(&folder.read(DESCRIPTION).ok()?).ok()
    }

    pub(super) fn name(&self) -> String {
        name_of(self)
    }
}

/// The description of an entry of copies of files.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    layout: u32,
    /// The address of the folder that the files lie in.
    origin: String,
}

impl Origin {
    pub(super) fn new(origin: &str) -> Self {
        Self { layout: COPIES_LAYOUT, origin: origin.to_string() }
    }

    /// Returns the name of the folder around the entry.
    pub(super) fn table_name(&self) -> String {
        format!("{:016x}", XxHash3_64::oneshot(self.origin.as_bytes()))
    }

    pub(super) fn name(&self) -> String {
        name_of(self)
    }
}

/// Returns the name that the folder of an entry must have, by its description.
pub(super) fn name_in(folder: &Folder) -> Option<String> {
    let text = folder.read(DESCRIPTION).ok()?;
    let rows = serde_json::from_slice(&text).map(|found: Found| found.name());
    rows.or_else(|_| serde_json::from_slice(&text).map(|origin: Origin| origin.name())).ok()
}

fn name_of(description: &impl Serialize) -> String {
    let text = serde_json::to_string(description).unwrap_or_default();
    format!("{:016x}", XxHash3_64::oneshot(text.as_bytes()))
}

/// Returns whether a file is the copy of another one.
pub(super) fn is_copy(name: &OsStr) -> bool {
    name.to_string_lossy().ends_with(&format!(".{COPY}"))
}

/// Returns whether a file of an entry is one of those that are written here.
pub(super) fn is_own_file(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == DESCRIPTION
        || name == LOCK
        || [BLOCK, COPY, SUMS, LIST, UNFINISHED]
            .iter()
            .any(|suffix| name.ends_with(&format!(".{suffix}")))
}
