//! The memory of a batch, of which each row fills its own part from any thread.
//!
//! # Rows and `unsafe`
//!
//! A slot is handed out at most once, which a flag for each slot makes sure of, and slots do not
//! overlap. The buffer is reached in no other way until [`Slots::into_buffer`] owns all of it.

#![expect(unsafe_code, reason = "threads fill disjoint parts of one buffer")]

use std::sync::atomic::{AtomicBool, Ordering};

use arrow_buffer::{Buffer, MutableBuffer};

/// Disjoint parts of one buffer, each of which may be taken once.
#[derive(Debug)]
pub(super) struct Slots {
    buffer: MutableBuffer,
    start: *mut u8,
    slot_len: usize,
    is_taken: Vec<AtomicBool>,
}

// SAFETY: `start` points into `buffer`, which moves along; see the module's documentation for who
// writes where.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Makes `count` slots of `slot_len` zeros.
    pub(super) fn new(count: usize, slot_len: usize) -> Self {
        let mut buffer = MutableBuffer::from_len_zeroed(count * slot_len);
        let start = buffer.as_mut_ptr();
        let is_taken = (0..count).map(|_| AtomicBool::new(false)).collect();
        Self { buffer, start, slot_len, is_taken }
    }

    /// Returns a slot to write to; `None` if it was taken before, or there is no such slot.
    #[expect(clippy::mut_from_ref, reason = "each slot once")]
    pub(super) fn take(&self, at: usize) -> Option<&mut [u8]> {
        if self.is_taken.get(at)?.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: the slot lies within the buffer, as `at` is less than the number of slots, and
        // nobody else has it: see the module's documentation.
        Some(unsafe {
            std::slice::from_raw_parts_mut(self.start.add(at * self.slot_len), self.slot_len)
        })
    }

    /// Returns all slots.
    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_once() {
        let slots = Slots::new(3, 2);
        slots.take(1).unwrap().copy_from_slice(&[7, 8]);
        assert!(slots.take(1).is_none());
        assert!(slots.take(3).is_none());
        slots.take(2).unwrap()[1] = 9;
        assert_eq!(slots.into_buffer().as_slice(), [0, 0, 7, 8, 0, 9]);
    }

    #[test]
    fn slots_may_be_empty() {
        assert_eq!(Slots::new(2, 0).take(1).unwrap(), &mut [] as &mut [u8]);
        assert!(Slots::new(0, 5).into_buffer().is_empty());
    }
}
