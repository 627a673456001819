//! How far the filling of packed rows is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::runtime::lock;

/// The work of filling, shared by the threads of one process, and done once.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) queue: Mutex<VecDeque<usize>>,
    pub(super) progress: Condvar,
    pub(super) started: Instant,
    pub(super) num_blocks: usize,
    pub(super) done: AtomicUsize,
    pub(super) threads: AtomicUsize,
}

impl Filling {
    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        lock(&self.queue)
    }

    /// Returns the time until the rest will be filled, at the pace so far.
    pub(super) fn remaining(&self) -> Duration {
        let done = self.done.load(Ordering::Relaxed);
        let left = self.num_blocks.saturating_sub(done);
        if done == 0 {
            return if left == 0 { Duration::ZERO } else { Duration::MAX };
        }
        let each = self.started.elapsed() / u32::try_from(done).unwrap_or(u32::MAX);
        each.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX))
    }

    pub(super) fn is_over(&self) -> bool {
        self.threads.load(Ordering::Relaxed) == 0
    }
}
