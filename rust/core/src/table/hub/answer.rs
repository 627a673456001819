//! Answers of the Hub and of the storage behind it.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, GetRange, Result};
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LINK, LOCATION, RETRY_AFTER,
};
use reqwest::{StatusCode, Url};

/// What is wrong with the request, in a word.
const CODE: &str = "x-error-code";
const ABSENT: [&str; 2] = ["RepoNotFound", "RevisionNotFound"];
/// The size of a file that lies elsewhere.
const LINKED_SIZE: &str = "x-linked-size";
/// `"api";r=0;t=55`: what may be asked in the next seconds.
const RATE_LIMIT: &str = "ratelimit";

/// An answer, with the whole body.
#[derive(Debug)]
pub(super) struct Answer {
    /// The address that was asked.
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Returns the address to ask instead.
    pub(super) fn elsewhere(&self) -> Option<Url> {
        if !self.status.is_redirection() {
            return None;
        }
        self.url.join(self.header(LOCATION.as_str())?).ok()
    }

    /// Returns the address of the next part of a list.
    pub(super) fn next_page(&self) -> Option<Url> {
        let links = self.header(LINK.as_str())?.split(',');
        let next = links.filter(|link| link.contains("rel=\"next\"")).find_map(|link| {
            let (url, _) = link.split_once('<')?.1.split_once('>')?;
            Some(url)
        });
        self.url.join(next?).ok()
    }

    /// Returns the size of the file, of an answer without a body; `None` if only another host knows.
    pub(super) fn size(&self) -> Option<u64> {
        let own = CONTENT_LENGTH.as_str();
        let name = if self.status.is_redirection() { LINKED_SIZE } else { own };
        self.header(name)?.parse().ok()
    }

    /// Returns the time after which requests are allowed again.
    pub(super) fn pause(&self) -> Option<Duration> {
        let of_limit = || {
            let mut fields = self.header(RATE_LIMIT)?.split(';');
            fields.find_map(|field| field.trim().strip_prefix("t="))
        };
        // A date, which is allowed as well, is not sent.
        let seconds = self.header(RETRY_AFTER.as_str()).or_else(of_limit)?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    }

    /// Returns where the body lies in the file, the size of the file, and the bytes.
    pub(super) fn part(self, range: Option<&GetRange>) -> Result<(u64, u64, Bytes)> {
        let encoding = self.header(CONTENT_ENCODING.as_str()).unwrap_or("identity");
        if encoding != "identity" {
            return Err(failed(format!("the answer is encoded as {encoding}")));
        }
        if self.status == StatusCode::PARTIAL_CONTENT {
            let found = self.header(CONTENT_RANGE.as_str()).and_then(content_range);
            let Some((bytes, size)) = found else {
                return Err(failed("the answer does not say which bytes it has".to_string()));
            };
            let start = bytes.start;
            if bytes.end - start != self.body.len() as u64 {
                return Err(failed(format!(
                    "{} bytes came where the answer says {bytes:?}",
                    self.body.len()
                )));
            }
            return match range {
                Some(GetRange::Bounded(wanted)) if wanted.start != start => {
                    Err(failed("the answer has other bytes than were asked for".to_string()))
                }
                _ => Ok((start, size, self.body)),
            };
        }
        if self.status != StatusCode::OK {
            return Err(failed(format!("the answer has the status {}", self.status)));
        }
        let size = self.body.len() as u64;
        let Some(range) = range else {
            return Ok((0, size, self.body));
        };
        // Ranges are optional in HTTP.
        let range = range.as_range(size).map_err(|error| failed(error.to_string()))?;
        #[expect(clippy::cast_possible_truncation, reason = "within the body")]
        let body = self.body.slice(range.start as usize..range.end as usize);
        Ok((range.start, size, body))
    }

    /// Returns the error that the answer is, if it is one.
    pub(super) fn error(&self, path: &Path) -> Option<Error> {
        let status = self.status;
        if status.is_success() || status.is_redirection() {
            return None;
        }
        // What is private is said to be absent to those who are unknown.
        let is_unknown = status == StatusCode::UNAUTHORIZED;
        let code = self.header(CODE).filter(|_| !is_unknown).unwrap_or_default();
        let mut url = self.url.clone();
        // It may be signed, or hold a password.
        url.set_query(None);
        let _ = (url.set_username(""), url.set_password(None));
        // What a user sees is found in texts of this form.
        let wait = self.pause().map(|pause| format!("; it asks to wait for {} s", pause.as_secs()));
        let wait = wait.unwrap_or_default();
        let text = format!("{url}: status code: {status}: <Code>{code}</Code>{wait}");
        let source = text.clone().into();
        let path = path.to_string();
        Some(match status {
            StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
            StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
            StatusCode::NOT_FOUND | StatusCode::GONE if !ABSENT.contains(&code) => {
                Error::NotFound { path, source }
            }
            _ => failed(text),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Returns an error of the store.
pub(super) fn failed(text: String) -> Error {
    Error::Generic { store: "Hugging Face", source: text.into() }
}

/// Returns the bytes of a range, and the size of the file.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let end = last.checked_add(1).filter(|end| *end >= first)?;
    Some((first..end, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &'static [u8]) -> Answer {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), value.parse().unwrap())
        };
        Answer {
            url: Url::parse("https://me:secret@h/datasets/o/r/resolve/main/t?Signature=secret")
                .unwrap(),
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(header).collect(),
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn the_part_that_came_is_known() {
        let range = GetRange::Bounded(2..4);
        let partial = answer(206, &[("content-range", "bytes 2-3/9")], b"cd");
        assert_eq!(partial.part(Some(&range)).unwrap(), (2, 9, Bytes::from_static(b"cd")));
        let whole = answer(200, &[], b"abcdefghi");
        assert_eq!(whole.part(Some(&range)).unwrap(), (2, 9, Bytes::from_static(b"cd")));
        let whole = answer(200, &[], b"abc");
        assert_eq!(whole.part(None).unwrap(), (0, 3, Bytes::from_static(b"abc")));
        for (status, headers) in [
            (206, ("x", "y")),
            (206, ("content-range", "bytes 3-4/9")),
            (206, ("content-range", "bytes 2-5/9")),
            (206, ("content-range", "bytes 2-1/9")),
            (200, ("content-encoding", "gzip")),
            (302, ("x", "y")),
        ] {
            assert!(answer(status, &[headers], b"abc").part(Some(&range)).is_err());
        }
    }

    #[test]
    fn addresses_and_times_are_found_in_headers() {
        let link = [("link", "<https://h/a?cursor=x>; rel=\"prev\", </b?cursor=y>; rel=\"next\"")];
        let next = answer(200, &link, b"").next_page().unwrap();
        assert_eq!((next.path(), next.query()), ("/b", Some("cursor=y")));
        assert!(answer(200, &[], b"").next_page().is_none());
        let moved = answer(302, &[("location", "/c"), ("x-linked-size", "7")], b"");
        assert_eq!(moved.elsewhere().unwrap().path(), "/c");
        assert_eq!(moved.size(), Some(7));
        assert_eq!(answer(302, &[("content-length", "9")], b"").size(), None);
        assert_eq!(answer(200, &[("content-length", "9")], b"").size(), Some(9));
        assert!(answer(200, &[("location", "/c")], b"").elsewhere().is_none());
        let refused = answer(429, &[("RateLimit", "\"api\";r=0;t=55")], b"");
        assert_eq!(refused.pause(), Some(Duration::from_secs(55)));
        let refused = answer(503, &[("Retry-After", "4")], b"");
        assert_eq!(refused.pause(), Some(Duration::from_secs(4)));
    }

    #[test]
    fn errors_are_told_apart_and_hold_no_signature() {
        let of = |status, code| answer(status, &[(CODE, code)], b"").error(&Path::from("t"));
        assert!(of(200, "").is_none() && of(307, "").is_none());
        assert!(matches!(of(404, "EntryNotFound"), Some(Error::NotFound { .. })));
        assert!(matches!(of(404, "RepoNotFound"), Some(Error::Generic { .. })));
        let unknown = of(401, "RepoNotFound").unwrap();
        assert!(matches!(unknown, Error::Unauthenticated { .. }));
        assert!(!unknown.to_string().contains("RepoNotFound"));
        let gated = of(403, "GatedRepo").unwrap();
        assert!(matches!(gated, Error::PermissionDenied { .. }));
        assert!(!gated.to_string().contains("secret"), "{gated}");
    }
}
