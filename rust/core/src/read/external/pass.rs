//! How far pass 1 is, and who takes part in it.

use std::sync::{Condvar, Mutex};

use crate::error::Error;
use crate::runtime::lock;

/// How far pass 1 is.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) threads: usize,
    pub(super) is_done: bool,
    pub(super) error: Option<Error>,
}

/// What one thread does of pass 1. Others wait for its end, also if it panics.
pub(super) struct Part<'a>(&'a Mutex<Pass>, &'a Condvar);

impl<'a> Part<'a> {
    pub(super) fn of(pass: &'a Mutex<Pass>, passed: &'a Condvar) -> Self {
        lock(pass).threads += 1;
        Self(pass, passed)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut pass = lock(self.0);
        pass.threads -= 1;
        if std::thread::panicking() {
            let error = Error::bug("a thread that wrote rows to scratch files panicked");
            pass.error.get_or_insert(error);
        }
        self.1.notify_all();
    }
}
