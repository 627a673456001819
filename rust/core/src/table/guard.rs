//! Lance's readers on the bytes of damaged files, where they may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result, text_of_panic};

/// Runs `work`, which reads the file at `path`; a panic means that the file is damaged.
pub(super) fn guard<T>(path: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // OK to go on after a panic: a reader is not changed by reading.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Corrupt {
            path: path.to_string(),
            reason: format!("its decoder failed: {}", text_of_panic(&*panic)),
        })
    })
}
