//! The one error type of the crate.
//!
//! A variant carries the values that went wrong, and its message says what was wanted, so that the
//! binding can choose an exception class without looking at text.

mod fault;
mod text;

use std::io::ErrorKind;
use std::sync::Arc;

use arrow_schema::ArrowError;

pub(crate) use fault::StoreFault;
pub use fault::{Cause, Fault};
use text::{nearest, without_location};

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
    #[error("Invalid input, {message}")]
    Invalid {
        /// What was passed, and what was wanted.
        message: String,
        /// What refused it, if that was a library.
        source: Option<Arc<Cause>>,
    },

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
        /// What storage said, or what is there instead.
        reason: String,
        /// What storage said, if it was asked.
        source: Option<Arc<Cause>>,
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
        /// What storage said of it.
        source: Option<Arc<Cause>>,
    },

    /// A file does not hold what its metadata says.
    #[error("{path} is damaged: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What did not fit.
        reason: String,
        /// What the decoder said, if it failed.
        source: Option<Arc<Cause>>,
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
    #[error("not supported by the native reader: {message}")]
    Unsupported {
        /// What it is.
        message: String,
        /// What refused it, if that was a library.
        source: Option<Arc<Cause>>,
    },

    /// A signal arrived while waiting.
    #[error("interrupted")]
    Interrupted,

    /// An invariant broke.
    #[error("internal error, please report it: {message}")]
    Bug {
        /// What did not hold.
        message: String,
        /// What failed, if that was a library.
        source: Option<Arc<Cause>>,
    },
}

impl Error {
    /// Returns the error for an argument outside its domain: `what` was passed, `wanted` would have
    /// been right.
    pub fn invalid(what: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Self {
        Self::invalid_text(format!("{what}: wanted {wanted}"))
    }

    /// Returns the error for an argument outside its domain, in other words than ours.
    pub fn invalid_text(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), source: None }
    }

    /// Returns the error for something that this reader does not read.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported { message: message.into(), source: None }
    }

    /// Returns the error for a file that does not hold what its metadata says.
    pub fn corrupt(path: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_string(), reason: reason.into(), source: None }
    }

    /// Returns the error for an invariant that broke.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::Bug { message: message.into(), source: None }
    }

    /// Adds what a library said: to the text, and with all that is behind it as the source.
    ///
    /// Errors that come from no library stay as they are.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let (text, source) = match &mut self {
            Self::Invalid { message, source }
            | Self::Unsupported { message, source }
            | Self::Bug { message, source } => (message, source),
            Self::NotFound { reason, source, .. }
            | Self::TableChanged { reason, source, .. }
            | Self::Corrupt { reason, source, .. }
            | Self::Io { reason, source, .. }
            | Self::Write { reason, source, .. } => (reason, source),
            Self::OutOfRange { .. }
            | Self::NoColumn { .. }
            | Self::Memory { .. }
            | Self::Interrupted => return self,
        };
        *text = format!("{text} ({})", without_location(&error.to_string()));
        *source = Some(Cause::of(error));
        self
    }

    /// Returns the error for memory that the system does not have: `bytes` for `what`.
    pub fn memory(what: &'static str, bytes: u64) -> Self {
        Self::Memory(format!("no memory for {bytes} bytes of {what}"))
    }

    /// Returns an iterator that is asked in a child of the process that has its threads.
    pub fn forked() -> Self {
        Self::invalid(
            "an iterator that was started before this process was forked",
            "one made in this process",
        )
    }

    /// Returns what Lance reported while reading `path`.
    ///
    /// Lance adds the source location of its own code to messages; it is cut off, as it tells a
    /// user nothing.
    pub fn lance(path: impl std::fmt::Display, error: &lance_core::Error) -> Self {
        use lance_core::Error as Lance;
        // An error of our own reader, which came back through Lance.
        if let Some(ours) = fault::find::<Self>(error) {
            return ours.clone();
        }
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
                Self::NotFound { uri: path, reason, source }
            }
            Lance::NotSupported { .. } | Lance::VersionConflict { .. } => {
                Self::Unsupported { message: format!("{path}: {reason}"), source }
            }
            Lance::IO { source: cause, .. } if is_missing(cause.as_ref()) => {
                Self::NotFound { uri: path, reason, source }
            }
            Lance::IO { .. } | Lance::Timeout { .. } => Self::Io { path, reason, source },
            // The failure was not caused by what the file holds.
            _ if is_fault => Self::Io { path, reason, source },
            _ => Self::Corrupt { path, reason, source },
        }
    }

    /// Returns what an object store reported for `path`.
    pub fn store(path: impl std::fmt::Display, error: object_store::Error) -> Self {
        let is_missing = matches!(error, object_store::Error::NotFound { .. });
        let error = lance_core::Error::io_source(Box::new(error));
        match Self::lance(path, &error) {
            Self::Io { path, reason, source } if is_missing => {
                Self::NotFound { uri: path, reason, source }
            }
            other => other,
        }
    }

    /// Returns what Arrow reported while decoding `path`.
    pub fn arrow(path: impl std::fmt::Display, error: &ArrowError) -> Self {
        if let ArrowError::ExternalError(source) = error
            && let Some(error) = source.downcast_ref::<lance_core::Error>()
        {
            return Self::lance(path, error);
        }
        let reason = without_location(&error.to_string());
        let (path, source) = (path.to_string(), Some(Cause::of(error)));
        if fault::fault_of(error) == Fault::Lasting {
            Self::Corrupt { path, reason, source }
        } else {
            Self::Io { path, reason, source }
        }
    }

    /// Returns what the operating system reported for `path`.
    pub fn io(path: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let path = path.to_string();
        let (reason, source) = (error.to_string(), Some(Cause::of(error)));
        if error.kind() == ErrorKind::NotFound {
            Self::NotFound { uri: path, reason, source }
        } else {
            Self::Io { path, reason, source }
        }
    }

    /// Returns what the operating system reported when `path`, which is ours, was to be written.
    /// Also where something is not found: what is missing is a place to write to, not data.
    pub fn write(path: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let source = Some(Cause::of(error));
        Self::Write { path: path.to_string(), reason: error.to_string(), source }
    }

    /// Returns why `path` is not written to, whatever the operating system would say.
    pub fn refused(path: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        Self::Write { path: path.to_string(), reason: reason.into(), source: None }
    }

    /// Returns the same, where it may be right another time.
    pub fn refused_now(path: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let source = Some(Cause::new(&*reason, Fault::Passing));
        Self::Write { path: path.to_string(), reason, source }
    }

    /// Returns what kind of failure of storage or the system is behind it, if one is.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => {
                source.as_ref().map(|cause| cause.fault())
            }
            // A failure of storage or the system may pass, whatever it interrupted.
            Self::Invalid { source, .. }
            | Self::Corrupt { source, .. }
            | Self::Unsupported { source, .. }
            | Self::Bug { source, .. } => {
                source.as_ref().map(|cause| cause.fault()).filter(|fault| fault.may_pass())
            }
            _ => None,
        }
    }

    /// Returns whether the same may succeed later, as nothing is damaged or missing.
    pub fn may_pass(&self) -> bool {
        match (self, self.fault()) {
            // The owner of a folder can fix it.
            (Self::Interrupted, _) | (Self::Write { .. }, Some(_)) => true,
            (_, fault) => fault.is_some_and(Fault::may_pass),
        }
    }
}

/// Returns what a panic said.
pub fn text_of_panic(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Returns whether an error from storage says that the object is not there.
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

#[cfg(test)]
mod tests;
