//! Memory for rows that are being packed.
//!
//! Threads that read from another machine mostly wait, and those that pack compute, so fewer threads pack than read:
//! the memory that they share stays in the caches of the processor, and is not faulted in for each of them.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::packed::PackedRows;
use crate::runtime::lock;

/// Memory for as many blocks as may be packed at the same time.
#[derive(Debug)]
pub(super) struct Buffers {
    free: Mutex<Vec<PackedRows>>,
    returned: Condvar,
    /// The most bytes that are kept of one.
    most_kept: usize,
}

/// Memory for a block, which goes back when this is dropped.
#[derive(Debug)]
pub(super) struct PackBuffer<'a> {
    /// `None` for memory that is nobody else's.
    buffers: Option<&'a Buffers>,
    rows: Option<PackedRows>,
}

impl Buffers {
    /// Returns memory for `count` blocks, none of it allocated yet; that of a block with more than `most_kept` bytes
    /// is not used again, as so much will not be wanted again soon.
    pub(super) fn new(count: usize, most_kept: usize) -> Self {
        let free = vec![PackedRows::default(); count.max(1)];
        Self { free: Mutex::new(free), returned: Condvar::new(), most_kept }
    }

    /// Returns a buffer that waits for its memory when rows are packed into it.
    pub(super) fn buffer(&self) -> PackBuffer<'_> {
        PackBuffer { buffers: Some(self), rows: None }
    }

    /// Frees memory that is not in use.
    pub(super) fn clear(&self) {
        lock(&self.free).fill_with(PackedRows::default);
    }

    fn take(&self) -> PackedRows {
        let free = self.returned.wait_while(lock(&self.free), |free| free.is_empty());
        free.unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }
}

impl PackBuffer<'_> {
    /// Returns a buffer with memory of its own.
    pub(super) fn alone() -> Self {
        Self { buffers: None, rows: None }
    }

    /// Returns the rows; waits for memory the first time.
    pub(super) fn rows(&mut self) -> &mut PackedRows {
        let take = || self.buffers.map_or_else(PackedRows::default, Buffers::take);
        self.rows.get_or_insert_with(take)
    }
}

impl Drop for PackBuffer<'_> {
    fn drop(&mut self) {
        let (Some(buffers), Some(mut rows)) = (self.buffers, self.rows.take()) else {
            return;
        };
        if rows.num_bytes() > buffers.most_kept {
            rows = PackedRows::default();
        }
        rows.clear();
        lock(&buffers.free).push(rows);
        buffers.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn no_more_threads_pack_than_there_are_buffers() {
        let buffers = Buffers::new(2, 100);
        let (at_once, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Nobody goes on before another one packs as well.
        let both = Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut buffer = buffers.buffer();
                    buffer.rows().heads.push(1);
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    both.wait();
                    assert_eq!(buffer.rows().heads, [1], "they come back empty");
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
    }

    #[test]
    fn memory_is_used_again_and_waited_for_late() {
        let buffers = Buffers::new(1, 100);
        let mut first = buffers.buffer();
        let second = buffers.buffer();
        first.rows().heads.extend([0; 100]);
        drop((first, second));
        let capacity = || buffers.buffer().rows().heads.capacity();
        assert!(capacity() >= 100);
        buffers.buffer().rows().heads.extend([0; 101]);
        assert_eq!(capacity(), 0);
        let mut alone = PackBuffer::alone();
        alone.rows().heads.push(1);
        let mut other = buffers.buffer();
        assert!(other.rows().heads.is_empty());
        other.rows().heads.push(1);
        drop((alone, other));
        assert!(capacity() > 0);
        buffers.clear();
        assert_eq!(capacity(), 0);
    }
}
