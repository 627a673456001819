//! The only way into the core: without the interpreter, interruptible, panics caught.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lanceloader_core::error::text_of_panic;
use lanceloader_core::{Error, Result, interrupt};
use pyo3::marker::Ungil;
use pyo3::{PyErr, PyResult, Python};

use crate::errors::raise;

thread_local! {
    /// What a signal handler raised while this thread was in the core.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Makes the core look at Python's signals.
pub(crate) fn install() {
    interrupt::install(|| {
        Python::attach(|py| match py.check_signals() {
            Ok(()) => false,
            Err(error) => {
                RAISED.set(Some(error));
                true
            }
        })
    });
}

/// Runs `work` without the interpreter.
///
/// A signal that arrives meanwhile ends it with what its handler raised, `KeyboardInterrupt` for
/// Ctrl-C. A panic becomes an `InternalError`, as one that reached Python would pass by
/// `except Exception`.
pub(crate) fn enter<T: Ungil + Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Ungil + Send,
) -> PyResult<T> {
    let work = AssertUnwindSafe(work);
    let result = py.detach(|| interrupt::listening(|| catch_unwind(work)));
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Error::Interrupted)) => {
            let raised = RAISED.take();
            Err(raised.unwrap_or_else(|| raise(py, &Error::Interrupted)))
        }
        Ok(Err(error)) => Err(raise(py, &error)),
        Err(panic) => Err(raise(py, &Error::bug(text_of_panic(&*panic).to_string()))),
    }
}
