//! How far the filling of packed rows is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use crate::files::Ahead;
use crate::runtime::lock;

/// The work of filling, shared by the threads of one process, and done once.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) queue: Mutex<VecDeque<usize>>,
    /// How many neighbours are filled together.
    pub(super) run: usize,
    pub(super) progress: Condvar,
    pub(super) started: Instant,
    pub(super) num_blocks: usize,
    pub(super) done: AtomicUsize,
    pub(super) threads: AtomicUsize,
    pub(super) buffers: Buffers,
    /// What another machine was asked for before it is scanned.
    ahead: Mutex<Vec<Ahead>>,
}

impl Filling {
    /// Prepares to fill the blocks of `queue`, `run` neighbours together, with some threads, in `buffers`.
    pub(super) fn new(
        queue: VecDeque<usize>,
        run: usize,
        threads: usize,
        buffers: Buffers,
    ) -> Self {
        Self {
            num_blocks: queue.len(),
            run,
            queue: Mutex::new(queue),
            progress: Condvar::new(),
            started: Instant::now(),
            done: AtomicUsize::new(0),
            threads: AtomicUsize::new(threads),
            buffers,
            ahead: Mutex::default(),
        }
    }

    /// Keeps what was asked for ahead, until the last thread ends.
    pub(super) fn keep_ahead(&self, ahead: Vec<Ahead>) {
        lock(&self.ahead).extend(ahead);
    }

    /// Ends threads; the last one gives back what all had.
    pub(super) fn end_threads(&self, count: usize) {
        if self.threads.fetch_sub(count, Ordering::Relaxed) == count {
            let gone = std::mem::take(&mut *lock(&self.ahead));
            drop(gone);
            self.buffers.clear();
        }
        self.progress.notify_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        lock(&self.queue)
    }

    /// Takes the next blocks, neighbours of each other; none if there are none left.
    pub(super) fn next_run(&self) -> Vec<usize> {
        let mut queue = self.lock();
        let mut blocks: Vec<usize> = queue.pop_front().into_iter().collect();
        while blocks.len() < self.run
            && let (Some(last), Some(next)) = (blocks.last(), queue.front())
            && last + 1 == *next
        {
            blocks.extend(queue.pop_front());
        }
        blocks
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_neighbours() {
        let filling = Filling::new([0, 1, 2, 3, 5, 6, 9, 8].into(), 3, 1, Buffers::new(1, 0));
        let runs: Vec<_> = std::iter::repeat_with(|| filling.next_run()).take(6).collect();
        assert_eq!(runs, [vec![0, 1, 2], vec![3], vec![5, 6], vec![9], vec![8], vec![]]);
    }
}
