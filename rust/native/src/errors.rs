//! The core's error as a Python exception.
//!
//! The classes are defined in `lanceloader.errors`, in Python, because several of them inherit from a
//! built-in class beside our own.

use lanceloader_core::Error;
use lanceloader_core::error::Fault;
use pyo3::exceptions::{
    PyFileNotFoundError, PyIndexError, PyKeyboardInterrupt, PyMemoryError, PyValueError,
};
use pyo3::types::{PyAnyMethods, PyType};
use pyo3::{Bound, PyErr, PyResult, Python};

/// Returns the exception for an error of the core.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::OutOfRange { .. } => PyIndexError::new_err(message),
        Error::Invalid { .. } => PyValueError::new_err(message),
        Error::NotFound { .. } => PyFileNotFoundError::new_err(message),
        Error::Memory { .. } => PyMemoryError::new_err(message),
        Error::Io { .. } | Error::Write { .. } => {
            let class = match error.fault() {
                Some(Fault::Denied | Fault::NoCredentials) => "StorageDeniedError",
                Some(Fault::Unreachable) => "StorageUnreachableError",
                Some(Fault::TimedOut) => "StorageTimeoutError",
                _ => "StorageError",
            };
            ours(py, class, message)
        }
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::NoColumn { .. } => ours(py, "ColumnNotFoundError", message),
        Error::TableChanged { .. } => ours(py, "TableChangedError", message),
        Error::Corrupt { .. } => ours(py, "CorruptFileError", message),
        Error::Unsupported { .. } => ours(py, "UnsupportedError", message),
        _ => ours(py, "InternalError", message),
    }
}

fn ours(py: Python<'_>, class: &str, message: String) -> PyErr {
    let found = || -> PyResult<Bound<'_, PyType>> {
        Ok(py.import("lanceloader.errors")?.getattr(class)?.cast_into::<PyType>()?)
    };
    match found() {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}
