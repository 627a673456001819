//! Where a table is, and which version of it is meant.

use super::options::StorageOptions;
use super::stores::Store;

/// Which version of a table to open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Version {
    /// The newest one of a branch, or of the main line.
    #[default]
    Latest,
    /// The version with this number.
    Number(u64),
    /// The version that a tag points at; tags name their branch themselves.
    Tag(String),
}

/// Where a table is and which version of it is meant.
#[derive(Debug, Clone, Default)]
pub struct Address {
    /// A path or URI.
    pub uri: String,
    /// The branch, or `None` for the main line.
    pub branch: Option<String>,
    /// The version.
    pub version: Version,
    /// Options of the object store, credentials among them.
    pub options: StorageOptions,
}

impl Address {
    pub(super) fn is_remote(&self) -> bool {
        Store::of(&self.uri).is_some()
    }
}
