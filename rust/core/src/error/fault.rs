//! Why storage or the system failed: what it said, and whether it may be right another time.

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

use lance_core::Error as Lance;
use object_store::Error as Store;
use object_store::client::{HttpError, HttpErrorKind};

use super::text::without_location;

/// What kind of failure it was, as far as what to do about it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An outage, a limit that was reached, a full disk: it may pass.
    Passing,
    /// There is no answer at the address, or the connection broke.
    Unreachable,
    /// An answer did not come in time.
    TimedOut,
    /// The answer is that this is not allowed.
    Denied,
    /// There are no credentials to ask with.
    NoCredentials,
    /// The bucket does not exist.
    NoBucket,
    /// The bucket is in another region.
    OtherRegion,
    /// Plain HTTP was asked for, but not allowed.
    PlainHttp,
    /// Anything else.
    Lasting,
}

impl Fault {
    /// Returns whether the same request may succeed later without a change.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Passing | Self::Unreachable | Self::TimedOut)
    }
}

/// What may be done about the error of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreFault {
    /// Whether the same request may succeed later.
    pub(crate) may_pass: bool,
    /// Whether the store refused it because there were too many.
    pub(crate) is_throttled: bool,
    /// Whether it was not answered in time, as is to be expected where too many share a slow link.
    pub(crate) is_late: bool,
}

impl StoreFault {
    pub(crate) fn of(error: &Store) -> Self {
        let text = chain(error).map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let is_throttled = matches!(status_of(&text), Some(429 | 503));
        // Of an answer that broke off, libraries say little more than that.
        let is_cut = chain(error).any(|error| {
            let kind = error.downcast_ref().map(HttpError::kind);
            let io = error.downcast_ref().map(std::io::Error::kind);
            matches!(kind, Some(HttpErrorKind::Decode | HttpErrorKind::Unknown))
                || io == Some(ErrorKind::UnexpectedEof)
        });
        let fault = fault_of(error);
        Self {
            may_pass: is_throttled || is_cut || fault.may_pass(),
            is_throttled,
            is_late: fault == Fault::TimedOut,
        }
    }
}

/// What an [`Error`](super::Error) came from: a copy of the chain, as the errors of libraries can
/// neither be cloned nor shared.
#[derive(Debug, Clone)]
pub struct Cause {
    text: String,
    fault: Fault,
    source: Option<Arc<Cause>>,
}

impl Cause {
    /// Returns a copy of `error` and all that is behind it.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Arc<Self> {
        let source = next(error).map(Self::of);
        Arc::new(Self { text: error.to_string(), fault: fault_of(error), source })
    }

    /// Creates a cause with nothing behind it.
    pub(crate) fn new(text: impl Into<String>, fault: Fault) -> Arc<Self> {
        Arc::new(Self { text: text.into(), fault, source: None })
    }

    /// Returns what kind of failure it was.
    pub fn fault(&self) -> Fault {
        self.fault
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

/// Returns what is behind an error. Some wrappers answer `source` with the source of what they
/// wrap.
fn next<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref() {
        Some(Lance::External { source }) => return Some(source.as_ref()),
        Some(Lance::Shared { source }) => return Some(source.as_ref()),
        _ => {}
    }
    if let Some(shared) = error.downcast_ref::<Arc<Store>>() {
        return Some(shared.as_ref());
    }
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return Some(inner);
    }
    error.source()
}

/// Returns an error, and all that is behind it.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| next(*error))
}

/// Returns the first error of a chain that is of this type.
pub(super) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// Returns what kind of failure an error is, by the first of its chain that says so.
pub(super) fn fault_of(error: &(dyn StdError + 'static)) -> Fault {
    // Known by their text only: their types are private, or were dropped on the way.
    const TEXTS: [(&str, Fault); 13] = [
        ("<Code>ExpiredToken</Code>", Fault::Denied),
        ("<Code>RequestTimeout</Code>", Fault::Passing),
        ("<Code>NoSuchBucket</Code>", Fault::NoBucket),
        ("<Code>ContainerNotFound</Code>", Fault::NoBucket),
        ("<Code>RepoNotFound</Code>", Fault::NoBucket),
        ("<Code>RevisionNotFound</Code>", Fault::NoBucket),
        ("Bucket '", Fault::NoBucket),
        ("Failed to get AWS credentials", Fault::NoCredentials),
        ("URL scheme is not allowed", Fault::PlainHttp),
        ("<Code>PermanentRedirect</Code>", Fault::OtherRegion),
        ("<Code>AuthorizationHeaderMalformed</Code>", Fault::OtherRegion),
        ("redirect without LOCATION", Fault::OtherRegion),
        ("Failed to resolve region for bucket", Fault::Unreachable),
    ];
    let is_of_a_store = chain(error).any(<dyn StdError>::is::<Store>);
    if is_of_a_store || matches!(error.downcast_ref(), Some(Lance::IO { .. })) {
        // Some errors say nothing of what is behind them.
        let text = chain(error).map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let known = TEXTS.iter().find(|(part, _)| text.contains(part));
        if let Some((_, fault)) = known {
            return *fault;
        }
        match status_of(&text) {
            Some(401 | 403) => return Fault::Denied,
            Some(408 | 429 | 500 | 502..=504 | 509 | 520..) => return Fault::Passing,
            _ => {}
        }
    }
    chain(error).find_map(fault_of_one).unwrap_or(Fault::Lasting)
}

fn fault_of_one(error: &(dyn StdError + 'static)) -> Option<Fault> {
    if let Some(Lance::Timeout { .. }) = error.downcast_ref() {
        return Some(Fault::TimedOut);
    }
    match error.downcast_ref::<Store>() {
        Some(Store::PermissionDenied { .. } | Store::Unauthenticated { .. }) => {
            return Some(Fault::Denied);
        }
        Some(_) => return None,
        None => {}
    }
    if let Some(http) = error.downcast_ref::<HttpError>() {
        return match http.kind() {
            HttpErrorKind::Timeout => Some(Fault::TimedOut),
            HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Interrupted => {
                Some(Fault::Unreachable)
            }
            _ => None,
        };
    }
    error.downcast_ref::<std::io::Error>().and_then(fault_of_io)
}

fn fault_of_io(error: &std::io::Error) -> Option<Fault> {
    use rustix::io::Errno;
    if let Some(code) = error.raw_os_error() {
        let passes =
            [Errno::IO, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOLCK, Errno::ROFS];
        if passes.contains(&Errno::from_raw_os_error(code)) {
            return Some(Fault::Passing);
        }
    }
    Some(match error.kind() {
        ErrorKind::PermissionDenied => Fault::Denied,
        ErrorKind::TimedOut => Fault::TimedOut,
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::NotConnected
        | ErrorKind::BrokenPipe
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => Fault::Unreachable,
        ErrorKind::Interrupted
        | ErrorKind::WouldBlock
        | ErrorKind::OutOfMemory
        | ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::ResourceBusy
        | ErrorKind::StaleNetworkFileHandle => Fault::Passing,
        _ => return None,
    })
}

/// Returns what an object store said, in one line without its protocol; `None` if no store is
/// behind it.
pub(super) fn line_of(error: &(dyn StdError + 'static)) -> Option<String> {
    if !chain(error).any(<dyn StdError>::is::<Store>) {
        return None;
    }
    let text = error.to_string();
    let code = between(&text, "<Code>", "</Code>");
    let system = chain(error)
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .filter(|error| error.get_ref().is_none())
        .last()
        .map(ToString::to_string);
    let detail = |what: &str, more: Option<String>| match more {
        Some(more) => format!("{what} ({more})"),
        None => what.to_string(),
    };
    let status = status_of(&text).map(|status| format!("status {status}"));
    let answer = code.map(str::to_string).or(status);
    Some(match fault_of(error) {
        Fault::NoCredentials => "no credentials were found".into(),
        Fault::NoBucket => "there is no such bucket".into(),
        Fault::OtherRegion => "the bucket is in another region".into(),
        Fault::PlainHttp => "the endpoint is plain HTTP, which is not allowed".into(),
        Fault::Denied => detail("access was denied", answer.or(system)),
        Fault::TimedOut => "it did not answer in time".into(),
        Fault::Unreachable => detail("it cannot be reached", system.or_else(|| innermost(error))),
        Fault::Passing | Fault::Lasting => match (answer, system) {
            (Some(answer), _) => format!("the server answered with an error ({answer})"),
            (None, Some(system)) => system,
            (None, None) => innermost(error).unwrap_or_else(|| "the request failed".into()),
        },
    })
}

/// Returns the text of the last error of a chain, up to where a protocol or a second line begins.
fn innermost(error: &(dyn StdError + 'static)) -> Option<String> {
    let text = chain(error).last()?.to_string();
    let text = text.split(['\n', '<']).next().unwrap_or_default();
    let text = without_location(text);
    (!text.trim().is_empty()).then(|| text.trim().to_string())
}

/// Returns the status of an HTTP answer that an error tells of.
fn status_of(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (found, _) = text.split_once(start)?.1.split_once(end)?;
    let is_word = !found.is_empty() && found.chars().all(|c| c.is_ascii_alphanumeric());
    is_word.then_some(found)
}

#[cfg(test)]
mod tests;
