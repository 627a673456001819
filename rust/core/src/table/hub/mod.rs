//! Repositories at Hugging Face, read like an object store.
//!
//! A file is asked for at the Hub, which answers with the signed address of it in the storage behind, valid
//! for an hour. The Hub allows a few thousand such requests in five minutes, so each data file is
//! resolved once, and its ranges are requested from that storage.

mod address;
mod answer;
mod client;
mod settings;
mod store;

use std::sync::Arc;

use lance_io::object_store::ObjectStore;
use object_store::path::Path;
use reqwest::Url;

use self::address::Repository;
pub(super) use self::address::{SEGMENTS, is_hub, repository_of};
use self::client::Client;
use self::settings::Settings;
pub(super) use self::settings::{RETRY_TIMEOUT, endpoint_variable};
use self::store::HubStore;
use super::options::StorageOptions;
use crate::error::{Error, Result};

/// The bytes read first at the end of a file, as in Lance.
const BLOCK_BYTES: usize = 64 << 10;
/// Requests at once, as in Lance.
const PARALLELISM: usize = 64;
/// Retries of a download, as in Lance.
const DOWNLOAD_RETRIES: usize = 3;

/// Connects to the folder at `uri`. No request is made.
pub(super) fn connect(uri: &str, options: &StorageOptions) -> Result<(Arc<ObjectStore>, Path)> {
    let Some((repository, path)) = Repository::of(uri, options) else {
        return Err(Error::unsupported(format!("an address like {uri}")));
    };
    let settings = Settings::new(options).map_err(|error| Error::store(uri, error))?;
    if settings.is_xet {
        return Err(Error::unsupported("the download mode `xet` of Hugging Face"));
    }
    let client = Client::new(settings).map_err(|error| Error::store(uri, error))?;
    let location = Url::parse(uri).map_err(|error| Error::invalid(uri, error))?;
    let prefix = format!("hf${}", repository.name());
    let store = Arc::new(HubStore::new(client, repository));
    // The order of listings is not documented.
    let (constant_parts, sorted) = (false, false);
    let mut store = ObjectStore::new(
        store,
        location,
        Some(BLOCK_BYTES),
        None,
        constant_parts,
        sorted,
        PARALLELISM,
        DOWNLOAD_RETRIES,
        Some(options),
    );
    store.store_prefix = prefix;
    Ok((Arc::new(store), path))
}
