//! Finding a version of a table: its address, tags, the manifest, and what it means that one is missing.

use lance_file::version::ConcreteFileVersion;
use lance_io::object_store::ObjectStore;
use lance_table::feature_flags::ensure_can_read_manifest;
use lance_table::format::{Manifest, pb};
use lance_table::io::commit::{CommitHandler, ManifestNamingScheme, commit_handler_from_url};
use lance_table::io::manifest::read_manifest;
use object_store::ObjectStoreExt;
use prost::Message;

use super::address::{Address, Version};
use super::storage::{self, Place};
use super::{absent, remote};
use crate::error::{Error, Result};

/// Returns the branch of a version, or `None` for the main line, given its manifest as Lance
/// serializes it.
///
/// For objects of other libraries, which say where their table is and which version they are at, but
/// not on which branch.
///
/// # Errors
///
/// [`Error::Invalid`] if the bytes are no manifest.
pub fn branch_of_manifest(bytes: &[u8]) -> Result<Option<String>> {
    pb::Manifest::decode(bytes)
        .map(|manifest| manifest.branch)
        .map_err(|error| Error::invalid("these bytes", "a Lance manifest").caused_by(&error))
}

/// Returns the folder of the branch of a table. No request is made.
pub(super) async fn connect(address: &Address) -> Result<Place> {
    let main = Place::connect(&address.uri, &address.options).await?;
    Ok(match &address.branch {
        None => main,
        Some(branch) => main.join("tree").join(branch),
    })
}

/// The content of a tag's file.
#[derive(serde::Deserialize)]
pub(super) struct Tag {
    pub(super) branch: Option<String>,
    pub(super) version: u64,
}

pub(super) async fn read_tag(main: &Place, uri: &str, name: &str) -> Result<Tag> {
    let path = main.join("_refs").join("tags").path.join(format!("{name}.json"));
    let bytes = main.store.read_one_all(&path).await;
    let bytes = bytes.map_err(|error| match Error::lance(&path, &error) {
        Error::NotFound { source, .. } => Error::NotFound {
            uri: format!("{uri} (tag {name})"),
            reason: "the table has no tag of this name".to_string(),
            source,
        },
        other => other,
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::corrupt(&path, "it is not the file of a tag").caused_by(&error))
}

/// A manifest of up to this size is read in one round trip; parts of a longer one are fetched together.
const SHORT_BYTES: u64 = 1 << 20;

/// Returns a version by a single request, where Lance makes two; `None` if Lance must look for it.
async fn read_at_once(root: &Place, version: u64) -> lance_core::Result<Option<Manifest>> {
    let path = ManifestNamingScheme::V2.manifest_path(&root.path, version);
    let found = match root.store.inner.get(&path).await {
        Ok(found) => found,
        // It may have the name that older writers gave it.
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = found.meta.size;
    if !(1..=SHORT_BYTES).contains(&size) {
        return Ok(None);
    }
    let Ok(bytes) = found.bytes().await else {
        return Ok(None);
    };
    // Lance parses manifests only from a store.
    let memory = ObjectStore::memory();
    memory.inner.put(&path, bytes.into()).await?;
    Ok(read_manifest(&memory, &path, Some(size)).await.ok())
}

pub(super) async fn read_version(root: &Place, address: &Address) -> Result<Manifest> {
    let uri = &address.uri;
    let lance = |error: &lance_core::Error| Error::lance(uri, error);
    if let (true, Version::Number(version)) = (address.is_remote(), &address.version) {
        let read = async { read_at_once(root, *version).await.map_err(|error| lance(&error)) };
        match remote::first_answer(address, read).await {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => {}
            Err(error) => return Err(table_not_found(root, address, error).await),
        }
    }
    let params = Some(storage::params(&address.options));
    let handler = commit_handler_from_url(uri, &params).await.map_err(|e| lance(&e))?;
    let location = remote::first_answer(address, async {
        match address.version {
            Version::Number(version) => {
                let store = root.store.inner.as_ref();
                handler.resolve_version_location(&root.path, version, store).await
            }
            _ => handler.resolve_latest_location(&root.path, &root.store).await,
        }
        .map_err(|error| lance(&error))
    });
    let location = match location.await {
        Ok(location) => location,
        Err(error) => return Err(table_not_found(root, address, error).await),
    };
    if location.size == Some(0) {
        return Err(Error::corrupt(location.path, "it is empty"));
    }
    let manifest = read_manifest(&root.store, &location.path, location.size).await;
    match (manifest, &address.version) {
        (Ok(manifest), _) => Ok(manifest),
        (Err(error), Version::Number(version)) => match lance(&error) {
            Error::NotFound { source, .. } if exists(root, handler.as_ref()).await => {
                Err(Error::TableChanged {
                    uri: uri.clone(),
                    version: *version,
                    reason: "its manifest".to_string(),
                    source,
                })
            }
            error => Err(table_not_found(root, address, error).await),
        },
        (Err(error), _) => Err(table_not_found(root, address, lance(&error)).await),
    }
}

async fn exists(root: &Place, handler: &dyn CommitHandler) -> bool {
    handler.resolve_latest_location(&root.path, &root.store).await.is_ok()
}

/// Turns "not found" of a file inside a table into what it means for a user: there is no table.
async fn table_not_found(root: &Place, address: &Address, error: Error) -> Error {
    match error {
        Error::NotFound { source, .. } => {
            let reason = match &address.branch {
                None => absent::reason(root, &address.uri).await,
                Some(branch) => format!("it has no branch {branch}"),
            };
            Error::NotFound { uri: address.uri.clone(), reason, source }
        }
        other => other,
    }
}

/// Turns "not found" of a file that the manifest names into what it means: the version was cleaned up.
pub(super) fn changed(address: &Address, version: u64, error: Error) -> Error {
    match error {
        Error::NotFound { uri: path, source, .. } => {
            Error::TableChanged { uri: address.uri.clone(), version, reason: path, source }
        }
        other => other,
    }
}

/// Refuses a manifest that uses what this reader does not know.
pub(super) fn check(uri: &str, manifest: &Manifest) -> Result<()> {
    let unsupported = |what: &str| Err(Error::unsupported(format!("{uri}: {what}")));
    ensure_can_read_manifest(manifest).map_err(|error| Error::lance(uri, &error))?;
    for fragment in manifest.fragments.iter() {
        if !fragment.overlays.is_empty() {
            return unsupported("data overlay files");
        }
        for file in &fragment.files {
            match file.file_version() {
                Ok(ConcreteFileVersion::V1) => {
                    return unsupported("data files of the legacy format 0.1");
                }
                Ok(_) => {}
                Err(error) => return Err(Error::lance(&file.path, &error)),
            }
        }
    }
    Ok(())
}
