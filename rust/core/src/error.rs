//! The one error type of the crate.
//!
//! A variant carries the values that went wrong, and its message says what was wanted, so that the
//! binding can choose an exception class without looking at text.

mod fault;

use std::io::ErrorKind;
use std::sync::Arc;

use arrow_schema::ArrowError;

pub use fault::{Cause, Fault};

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a position and a batch.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A position or row offset outside the rows there are.
    #[error("row {offset} is out of range for {num_rows} rows")]
    OutOfRange {
        /// The first offending position or offset.
        offset: u64,
        /// The number of rows there are.
        num_rows: u64,
    },

    /// An argument outside its domain.
    #[error("Invalid input, {0}")]
    Invalid(String),

    /// The projection names a column the table does not have.
    #[error("column `{name}` does not exist; {}", nearest(name, known))]
    NoColumn {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },

    /// There is no table at this address.
    #[error("no Lance table at {uri}: {reason}")]
    NotFound {
        /// The address.
        uri: String,
        /// What storage said.
        reason: String,
    },

    /// The version an open table was pinned to is gone, or its files are.
    #[error(
        "version {version} of {uri} is not there ({reason} was not found): if it was pinned before, it \
         has been cleaned away since; tag a version to keep it"
    )]
    TableChanged {
        /// The table.
        uri: String,
        /// The pinned version.
        version: u64,
        /// The file that is missing.
        reason: String,
    },

    /// A file does not hold what its metadata says.
    #[error("{path} is damaged: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What did not fit.
        reason: String,
    },

    /// Storage failed.
    #[error("could not read {path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// What storage said, in one line.
        reason: String,
        /// All that it said.
        source: Option<Arc<Cause>>,
    },

    /// A file of our own could not be written.
    #[error("could not write {path}: {reason}")]
    Write {
        /// The file, or its folder.
        path: String,
        /// What the system said, or why it was not asked.
        reason: String,
        /// What the system said, if it was asked.
        source: Option<Arc<Cause>>,
    },

    /// There is no memory for what was asked.
    #[error("{0}")]
    Memory(String),

    /// Something a Lance table may contain that this reader does not read.
    #[error("not supported by the native reader: {0}")]
    Unsupported(String),

    /// A signal arrived while waiting.
    #[error("interrupted")]
    Interrupted,

    /// An invariant broke.
    #[error("internal error, please report it: {0}")]
    Bug(String),
}

impl Error {
    /// An argument outside its domain: `what` was got, `wanted` would have been right.
    pub fn invalid(what: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("{what}: wanted {wanted}"))
    }

    /// There is no memory for so many bytes of `what`.
    pub fn memory(what: &'static str, bytes: u64) -> Self {
        Self::Memory(format!("no memory for {bytes} bytes of {what}"))
    }

    /// An iterator that is asked in a child of the process that has its threads.
    pub fn forked() -> Self {
        Self::invalid(
            "an iterator that was started before this process was forked",
            "one made in this process",
        )
    }

    /// What Lance reported while reading `path`.
    ///
    /// Lance adds the source location of its own code to messages; it is cut off, as it tells a
    /// user nothing.
    pub fn lance(path: impl std::fmt::Display, error: &lance_core::Error) -> Self {
        use lance_core::Error as Lance;
        let path = path.to_string();
        let reason = fault::line_of(error).unwrap_or_else(|| without_location(&error.to_string()));
        let source = Some(Cause::of(error));
        let is_fault = fault::fault_of(error) != Fault::Lasting;
        let error = error.find_root();
        if let Lance::External { source } = error
            && let Some(inner) = source.downcast_ref::<Lance>()
        {
            return Self::lance(path, inner);
        }
        match error {
            Lance::NotFound { .. } | Lance::DatasetNotFound { .. } => {
                Self::NotFound { uri: path, reason }
            }
            Lance::NotSupported { .. } | Lance::VersionConflict { .. } => {
                Self::Unsupported(format!("{path}: {reason}"))
            }
            Lance::IO { source, .. } if is_missing(source.as_ref()) => {
                Self::NotFound { uri: path, reason }
            }
            Lance::IO { .. } | Lance::Timeout { .. } => Self::Io { path, reason, source },
            // Whatever it was doing, what stopped it was not what the file holds.
            _ if is_fault => Self::Io { path, reason, source },
            _ => Self::Corrupt { path, reason },
        }
    }

    /// What an object store reported for `path`.
    pub fn store(path: impl std::fmt::Display, error: object_store::Error) -> Self {
        let is_missing = matches!(error, object_store::Error::NotFound { .. });
        let error = lance_core::Error::io_source(Box::new(error));
        match Self::lance(path, &error) {
            Self::Io { path, reason, .. } if is_missing => Self::NotFound { uri: path, reason },
            other => other,
        }
    }

    /// What Arrow reported while decoding `path`.
    pub fn arrow(path: impl std::fmt::Display, error: &ArrowError) -> Self {
        if let ArrowError::ExternalError(source) = error
            && let Some(error) = source.downcast_ref::<lance_core::Error>()
        {
            return Self::lance(path, error);
        }
        let reason = without_location(&error.to_string());
        if fault::fault_of(error) != Fault::Lasting {
            return Self::Io { path: path.to_string(), reason, source: Some(Cause::of(error)) };
        }
        Self::Corrupt { path: path.to_string(), reason }
    }

    /// What the operating system reported for `path`.
    pub fn io(path: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let path = path.to_string();
        let reason = error.to_string();
        if error.kind() == ErrorKind::NotFound {
            Self::NotFound { uri: path, reason }
        } else {
            Self::Io { path, reason, source: Some(Cause::of(error)) }
        }
    }

    /// What the operating system reported when `path`, which is ours, was to be written. Also where
    /// something is not found: what is missing is a place to write to, not data.
    pub fn write(path: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let source = Some(Cause::of(error));
        Self::Write { path: path.to_string(), reason: error.to_string(), source }
    }

    /// Why `path` is not written to, whatever the operating system would say.
    pub fn refused(path: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        Self::Write { path: path.to_string(), reason: reason.into(), source: None }
    }

    /// The same, where it may be right another time.
    pub fn refused_now(path: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let source = Some(Cause::new(&*reason, Fault::Passing));
        Self::Write { path: path.to_string(), reason, source }
    }

    /// What kind of failure of storage or the system is behind it, if one is.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => {
                source.as_ref().map(|cause| cause.fault())
            }
            _ => None,
        }
    }

    /// Whether the same may succeed later, as nothing is damaged or missing.
    pub fn may_pass(&self) -> bool {
        match (self, self.fault()) {
            // Whoever owns a folder can mend it.
            (Self::Interrupted, _) | (Self::Write { .. }, Some(_)) => true,
            (_, fault) => fault.is_some_and(Fault::may_pass),
        }
    }
}

/// What a panic said.
pub fn text_of_panic(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Whether an error from storage says that the object is not there.
fn is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(object_store::Error::NotFound { .. }) = error.downcast_ref() {
            return true;
        }
        if error.downcast_ref::<lance_core::Error>().is_some_and(lance_core::Error::is_not_found) {
            return true;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            if matches!(io.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
                return true;
            }
            if let Some(inner) = io.get_ref()
                && is_missing(inner)
            {
                return true;
            }
        }
        if let Some(shared) = error.downcast_ref::<Arc<object_store::Error>>()
            && matches!(shared.as_ref(), object_store::Error::NotFound { .. })
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Cuts each `, /path/to/source.rs:12:5` that Lance appends, layer by layer.
fn without_location(message: &str) -> String {
    let mut parts = message.split(", ");
    let mut kept = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = location_len(part);
        if end == 0 {
            kept.push_str(", ");
        }
        kept.push_str(&part[end..]);
    }
    kept
}

/// The length of the `/path/to/source.rs:12:5` that a text begins with.
fn location_len(text: &str) -> usize {
    match text.split_once(".rs:") {
        Some((path, place)) if !path.contains(char::is_whitespace) => {
            text.len() - place.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').len()
        }
        _ => 0,
    }
}

/// "the nearest are `a`, `b`" or, for short tables, all the names.
fn nearest(name: &str, known: &[String]) -> String {
    const SHOWN: usize = 5;
    if known.is_empty() {
        return "the table has no columns".to_string();
    }
    let quote = |names: &[&String]| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let mut names: Vec<&String> = known.iter().collect();
    if names.len() <= SHOWN {
        return format!("the columns are {}", quote(&names));
    }
    names.sort_by_key(|candidate| distance(name, candidate));
    format!("the nearest of {} columns are {}", known.len(), quote(&names[..SHOWN]))
}

/// Levenshtein distance between the lower-cased names.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_lists_the_nearest_columns() {
        let known: Vec<String> = ["dep_delay", "arr_delay", "carrier", "hour", "minute", "dest"]
            .map(String::from)
            .to_vec();
        let message = Error::NoColumn { name: "dep_dealy".into(), known }.to_string();
        assert!(
            message.starts_with(
                "column `dep_dealy` does not exist; the nearest of 6 columns are `dep_delay`"
            ),
            "{message}"
        );
    }

    #[test]
    fn source_locations_of_lance_are_cut_off() {
        assert_eq!(
            without_location("Not found: x, /registry/src/lance-io/a.rs:12:5"),
            "Not found: x"
        );
        assert_eq!(without_location("A: x, /a/b.rs:1:2, /c.rs:3:4"), "A: x");
        assert_eq!(without_location("A: x, /a/b.rs:1:2 (y, z)"), "A: x (y, z)");
        assert_eq!(without_location("a, b"), "a, b");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("Same", "same"), 0);
    }
}
