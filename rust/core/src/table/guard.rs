//! Panics of Lance's readers, which damaged files cause.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result, text_of_panic};

/// Runs `work`, which reads the file at `path`; a panic means that the file is damaged.
pub(super) fn guard<T>(path: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // OK to go on after a panic: a reader is not changed by reading.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::corrupt(path, format!("decoding failed: {}", text_of_panic(&*panic))))
    })
}
