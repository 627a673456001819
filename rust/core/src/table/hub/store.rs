//! The files of a repository, as Lance reads them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::{BoxFuture, Shared};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};
use reqwest::Url;

use super::address::Repository;
use super::answer::{Answer, failed};
use super::client::Client;
use crate::runtime::lock;

/// How long an address is used that does not say when it expires.
const LIFETIME: Duration = Duration::from_mins(10);
/// How long before that it is no longer used.
const MARGIN: Duration = Duration::from_secs(30);
/// How many locations are remembered at most.
const MAX_LOCATIONS: usize = 8192;
/// The most pages of a list, each of up to a thousand files; a list may refer to itself.
const MAX_PAGES: usize = 2_000;
/// The endings of files that are never written twice, and read in many parts.
const DATA: [&str; 2] = ["lance", "blob"];

/// A repository. It is only read.
#[derive(Debug)]
pub(super) struct HubStore {
    client: Arc<Client>,
    repository: Repository,
    locations: Mutex<HashMap<Path, LocationRequest>>,
}

/// Where a file lies; the errors of a request are those of all that wait for it.
type Found = std::result::Result<Location, Arc<Error>>;
type LocationRequest = Shared<BoxFuture<'static, Found>>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Location {
    url: Url,
    until: Instant,
}

impl Location {
    fn of(answer: &Answer) -> Self {
        let url = answer.elsewhere().unwrap_or_else(|| answer.url.clone());
        let lifetime = lifetime(&url, SystemTime::now());
        let now = Instant::now();
        Self { url, until: now.checked_add(lifetime).unwrap_or(now + LIFETIME) }
    }

    fn is_valid(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Returns how long a signed address is used.
fn lifetime(url: &Url, now: SystemTime) -> Duration {
    let expires = url.query_pairs().find(|(name, _)| name == "Expires");
    let end = expires
        .and_then(|(_, value)| UNIX_EPOCH.checked_add(Duration::from_secs(value.parse().ok()?)));
    let Some(end) = end else {
        return LIFETIME;
    };
    end.duration_since(now).unwrap_or_default().saturating_sub(MARGIN)
}

impl HubStore {
    pub(super) fn new(client: Client, repository: Repository) -> Self {
        Self { client: Arc::new(client), repository, locations: Mutex::default() }
    }

    fn url(&self, path: &Path) -> Url {
        self.repository.file(self.client.endpoint(), path)
    }

    async fn read(&self, path: &Path, range: Option<&GetRange>) -> Result<Answer> {
        let is_data = path.extension().is_some_and(|extension| DATA.contains(&extension));
        if !is_data {
            return self.client.get(&self.url(path), range, path).await;
        }
        let location = self.location(path).await?;
        let answer = self.client.get(&location.url, range, path).await;
        // An address that has expired, or whose key was replaced, is refused.
        let is_refused = matches!(
            answer,
            Err(Error::Unauthenticated { .. }
                | Error::PermissionDenied { .. }
                | Error::NotFound { .. })
        );
        if !is_refused || self.client.is_at_hub(&location.url) {
            return answer;
        }
        self.forget(path, &location);
        self.client.get(&self.location(path).await?.url, range, path).await
    }

    async fn size(&self, path: &Path) -> Result<u64> {
        let url = self.url(path);
        let answer = self.client.head(&url, path).await?;
        if let Some(size) = answer.size() {
            return Ok(size);
        }
        // Where a mirror sends to another Hub.
        let start = GetRange::Bounded(0..1);
        let (_, size, _) = self.client.get(&url, Some(&start), path).await?.part(Some(&start))?;
        Ok(size)
    }

    /// Returns where a file lies.
    async fn location(&self, path: &Path) -> Result<Location> {
        self.request(path).await.map_err(|error| match &*error {
            Error::NotFound { path, .. } => {
                Error::NotFound { path: path.clone(), source: error.into() }
            }
            _ => Error::Generic { store: "Hugging Face", source: error.into() },
        })
    }

    /// Returns the request for the location of a file, which those that wait at the same time share.
    fn request(&self, path: &Path) -> LocationRequest {
        let mut locations = lock(&self.locations);
        let known = locations.get(path).filter(|request| match request.peek() {
            None => true,
            Some(Ok(location)) => location.is_valid(),
            Some(Err(_)) => false,
        });
        if let Some(known) = known {
            return known.clone();
        }
        if locations.len() >= MAX_LOCATIONS {
            // Each costs a request.
            locations.clear();
        }
        let (client, url, asked) = (Arc::clone(&self.client), self.url(path), path.clone());
        let request = async move {
            let answer = client.head(&url, &asked).await;
            answer.map(|answer| Location::of(&answer)).map_err(Arc::new)
        };
        let request = request.boxed().shared();
        locations.insert(path.clone(), request.clone());
        request
    }

    fn forget(&self, path: &Path, location: &Location) {
        let mut locations = lock(&self.locations);
        let known = locations.get(path).and_then(Shared::peek);
        if known.is_some_and(|known| known.as_ref().is_ok_and(|known| known == location)) {
            locations.remove(path);
        }
    }

    /// Lists a folder, page by page; a folder that does not exist is empty.
    fn entries(
        &self,
        folder: Option<&Path>,
        is_recursive: bool,
    ) -> BoxStream<'static, Result<Entry>> {
        let client = Arc::clone(&self.client);
        let folder = folder.cloned().unwrap_or_default();
        let first = self.repository.tree(client.endpoint(), &folder, is_recursive);
        let pages = stream::try_unfold((Some(first), MAX_PAGES), move |(next, left)| {
            let (client, folder) = (Arc::clone(&client), folder.clone());
            async move {
                let Some(url) = next else {
                    return Ok(None);
                };
                if left == 0 {
                    return Err(failed(format!("a list of files has more than {MAX_PAGES} pages")));
                }
                let found = page(&client, &url, &folder).await?;
                Ok(found.map(|(entries, next)| (entries, (next, left - 1))))
            }
        });
        let pages = pages.map_ok(|entries| stream::iter(entries.into_iter().map(Ok)));
        pages.try_flatten().boxed()
    }
}

/// Returns a part of a list, and the address of the next one; `None` if the folder does not exist.
async fn page(
    client: &Client,
    url: &Url,
    folder: &Path,
) -> Result<Option<(Vec<Entry>, Option<Url>)>> {
    let answer = match client.get(url, None, folder).await {
        Err(Error::NotFound { .. }) => return Ok(None),
        answered => answered?,
    };
    let next = answer.next_page();
    let (_, _, body) = answer.part(None)?;
    let entries = serde_json::from_slice(&body)
        .map_err(|error| failed(format!("the list of files is unknown: {error}")))?;
    Ok(Some((entries, next)))
}

/// A file or a folder, in a list.
#[derive(Debug, serde::Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
}

impl Entry {
    fn meta(&self) -> ObjectMeta {
        meta(&Path::from(&*self.path), self.size)
    }
}

fn meta(path: &Path, size: u64) -> ObjectMeta {
    let location = path.clone();
    let last_modified = UNIX_EPOCH.into();
    ObjectMeta { location, last_modified, size, e_tag: None, version: None }
}

fn result(path: &Path, size: u64, range: Range<u64>, body: bytes::Bytes) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed()),
        meta: meta(path, size),
        range,
        attributes: Attributes::default(),
        extensions: Extensions::default(),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_string(), implementer: "hf://".to_string() }
}

impl fmt::Display for HubStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.repository.name())
    }
}

#[async_trait]
impl ObjectStore for HubStore {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let GetOptions { if_match, if_none_match, if_modified_since, if_unmodified_since, .. } =
            &options;
        let dates = if_modified_since.is_some() || if_unmodified_since.is_some();
        if dates || if_match.is_some() || if_none_match.is_some() || options.version.is_some() {
            return Err(unsupported("conditional reads"));
        }
        if options.head {
            let size = self.size(path).await?;
            return Ok(result(path, size, 0..size, bytes::Bytes::new()));
        }
        let answer = self.read(path, options.range.as_ref()).await?;
        let (start, size, body) = answer.part(options.range.as_ref())?;
        let end = start + body.len() as u64;
        Ok(result(path, size, start..end, body))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let files = self.entries(prefix, true).try_filter_map(|entry| async move {
            Ok((entry.r#type == "file").then(|| entry.meta()))
        });
        files.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Extensions::default(),
        };
        let mut entries = self.entries(prefix, false);
        while let Some(entry) = entries.try_next().await? {
            match &*entry.r#type {
                "file" => found.objects.push(entry.meta()),
                "directory" => found.common_prefixes.push(Path::from(entry.path)),
                _ => {}
            }
        }
        Ok(found)
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(unsupported("writing"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported("writing"))
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        paths.and_then(|_| async { Err(unsupported("deleting")) }).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unsupported("copying"))
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use object_store::ObjectStoreExt as _;

    use super::super::settings::Settings;
    use super::*;
    use crate::table::options::StorageOptions;

    fn store() -> HubStore {
        let options = StorageOptions::new();
        let (repository, _) = Repository::of("hf://datasets/o/r", &options).unwrap();
        HubStore::new(Client::new(Settings::new(&options).unwrap()).unwrap(), repository)
    }

    #[test]
    fn nothing_is_written() {
        let (store, path) = (store(), Path::from("t"));
        let refused = [
            block_on(store.put(&path, PutPayload::new())).map(drop),
            block_on(store.put_multipart(&path)).map(drop),
            block_on(store.delete(&path)),
            block_on(store.copy(&path, &path)),
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::NotImplemented { .. })), "{result:?}");
        }
    }

    #[test]
    fn as_many_locations_are_remembered_as_may_be() {
        let store = store();
        let pending = || futures::future::pending::<Found>().boxed().shared();
        for number in 0..MAX_LOCATIONS {
            lock(&store.locations).insert(Path::from(number.to_string()), pending());
        }
        let path = Path::from("one more");
        drop(store.request(&path));
        assert_eq!(lock(&store.locations).keys().collect::<Vec<_>>(), [&path]);
    }

    #[test]
    fn signed_addresses_are_used_until_they_expire() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let of = |query: &str| lifetime(&Url::parse(&format!("https://h/x{query}")).unwrap(), now);
        assert_eq!(of("?a=b&Expires=1100"), Duration::from_secs(70));
        assert_eq!(of("?Expires=900"), Duration::ZERO);
        assert_eq!(of("?Expires=soon"), LIFETIME);
        assert_eq!(of(&format!("?Expires={}", u64::MAX)), LIFETIME);
        assert_eq!(of(""), LIFETIME);
    }
}
