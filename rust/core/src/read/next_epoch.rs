//! An order that is expected next, on its way to scratch files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::external::External;
use crate::order::Order;

/// An order on its way to scratch files before anyone asked for it.
#[derive(Debug)]
pub(super) struct NextEpoch {
    pub(super) pid: u32,
    pub(super) order: Order,
    pub(super) rows: Arc<External>,
    pub(super) is_taken: AtomicBool,
}

impl Drop for NextEpoch {
    fn drop(&mut self) {
        if !self.is_taken.load(Ordering::Relaxed) && self.pid == std::process::id() {
            self.rows.cancel();
        }
    }
}
