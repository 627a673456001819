//! Requests to the Hub, and where it sends them to.

use std::time::{Duration, Instant};

use object_store::client::{HttpClient, HttpError, HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::{Error, GetRange, Result};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, RANGE};
use reqwest::{Method, Url, redirect};

use super::answer::{Answer, failed};
use super::settings::Settings;
use crate::error::StoreFault;
use crate::files::jittered;
use crate::runtime;

const MAX_REDIRECTS: usize = 5;
/// The first pause before another attempt, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("lanceloader/", env!("CARGO_PKG_VERSION"));

/// What asks the Hub. The token is sent to the Hub and nowhere else.
#[derive(Debug)]
pub(super) struct Client {
    http: HttpClient,
    settings: Settings,
}

impl Client {
    pub(super) fn new(settings: Settings) -> Result<Self> {
        let unusable = |error: reqwest::Error| Error::Generic {
            store: "Hugging Face",
            source: error.without_url().into(),
        };
        let mut builder = reqwest::Client::builder()
            // Where a file lies is kept, which a client that follows does not tell.
            .redirect(redirect::Policy::none())
            // Many requests at once share one connection in HTTP/2.
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .user_agent(USER_AGENT)
            .timeout(settings.timeout)
            .connect_timeout(settings.connect_timeout)
            .https_only(!settings.allow_http);
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(unusable)?);
        }
        let http = HttpClient::new(builder.build().map_err(unusable)?);
        Ok(Self { http, settings })
    }

    pub(super) fn endpoint(&self) -> &Url {
        &self.settings.endpoint
    }

    /// Returns whether an address is at the Hub.
    pub(super) fn is_at_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint().origin()
    }

    /// Asks for a file or a part of it, wherever it lies.
    ///
    /// # Errors
    ///
    /// Those of connections, and answers that are errors, once there is no point in asking again.
    pub(super) async fn get(
        &self,
        url: &Url,
        range: Option<&GetRange>,
        path: &Path,
    ) -> Result<Answer> {
        self.with_retries(&Method::GET, url, range, path).await
    }

    /// Asks where a file lies; an answer that names another host is not followed.
    ///
    /// # Errors
    ///
    /// As of [`Self::get`].
    pub(super) async fn head(&self, url: &Url, path: &Path) -> Result<Answer> {
        self.with_retries(&Method::HEAD, url, None, path).await
    }

    async fn with_retries(
        &self,
        method: &Method,
        url: &Url,
        range: Option<&GetRange>,
        path: &Path,
    ) -> Result<Answer> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut retries = 0;
        loop {
            let answered = self.follow(method, url.clone(), range).await;
            let (error, wait) = match answered {
                Ok(answer) => match answer.error(path) {
                    Some(error) => (error, answer.pause()),
                    None => return Ok(answer),
                },
                Err(error) => (error, None),
            };
            let wait = wait.unwrap_or_default() + jittered(pause, start.elapsed());
            let is_over = start.elapsed() + wait > self.settings.retry_timeout;
            let is_transient = StoreFault::of(&error).may_pass;
            if !is_transient || retries == self.settings.max_retries || is_over {
                return Err(error);
            }
            retries += 1;
            runtime::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn follow(
        &self,
        method: &Method,
        mut url: Url,
        range: Option<&GetRange>,
    ) -> Result<Answer> {
        for _ in 0..MAX_REDIRECTS {
            let answer = self
                .once(method, url, range)
                .await
                .map_err(|error| Error::Generic { store: "Hugging Face", source: error.into() })?;
            match answer.elsewhere() {
                Some(next) if *method == Method::GET || self.is_at_hub(&next) => url = next,
                _ => return Ok(answer),
            }
        }
        Err(failed(format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn once(
        &self,
        method: &Method,
        url: Url,
        range: Option<&GetRange>,
    ) -> Result<Answer, HttpError> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse().map_err(|error| {
            HttpError::new(
                object_store::client::HttpErrorKind::Unknown,
                std::io::Error::other(error),
            )
        })?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range.and_then(|range| range.to_string().parse().ok()) {
            headers.insert(RANGE, range);
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_at_hub(&url)) {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let (parts, body) = self.http.execute(request).await?.into_parts();
        Ok(Answer { url, status: parts.status, headers: parts.headers, body: body.bytes().await? })
    }
}
