//! An allocator that gives out large blocks again, instead of giving them back to the system.
//!
//! A batch is as large as the one before it. Memory that is given back between the two has to be
//! mapped, faulted in and cleared by the kernel each time, which costs more than to fill it.
//!
//! No lock is waited for: whoever does not get it at once asks the system allocator. So a process
//! that was forked while another thread had the lock goes on, without recycling.
//!
//! A process that sends its batches to another one calls [`Recycled::share`]: its blocks are pieces of a file
//! then, which the other process maps.
//!
//! Where address space is limited, nothing is kept, and an allocation that failed is tried again: without
//! the reserve of `address_space`, and for a while, as other threads may free what they have. The process
//! would end otherwise.

#![expect(unsafe_code, reason = "an allocator; the contract is that of `GlobalAlloc`")]

mod shared;
mod sizes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::address_space;
use shared::Shared;
use sizes::{KEPT, MOST_IDLE, NUM_SIZES, bytes_of, layout_of, number_of};

/// Blocks of one size that are kept.
const PER_SIZE: usize = 16;
/// How often an allocation is tried again that failed, and the time in between.
const ATTEMPTS: usize = 200;
const PAUSE: Duration = Duration::from_millis(1);

/// The system allocator, but for Arrow's buffers of 128 KiB to 32 MiB, of which up to 256 MiB are kept.
#[derive(Debug)]
pub struct Recycled {
    is_locked: AtomicBool,
    shelves: UnsafeCell<Shelves>,
    shared: Shared,
}

// SAFETY: `shelves` is only reached by whoever has set `is_locked`.
unsafe impl Sync for Recycled {}

#[derive(Debug)]
struct Shelves {
    idle_bytes: usize,
    /// When blocks were last looked through for old ones.
    swept: Option<Instant>,
    by_size: [Shelf; NUM_SIZES],
}

#[derive(Debug, Clone, Copy)]
struct Shelf {
    count: usize,
    blocks: [*mut u8; PER_SIZE],
    /// The fewest that there were since they were looked through: so many nobody asked for.
    fewest: usize,
}

impl Recycled {
    /// Makes an allocator that keeps nothing yet.
    pub const fn new() -> Self {
        let shelf = Shelf { count: 0, blocks: [ptr::null_mut(); PER_SIZE], fewest: 0 };
        let shelves = Shelves { idle_bytes: 0, swept: None, by_size: [shelf; NUM_SIZES] };
        Self {
            is_locked: AtomicBool::new(false),
            shelves: UnsafeCell::new(shelves),
            shared: Shared::new(),
        }
    }

    /// Allocates blocks in shared memory from now on; returns the file that other processes map, which
    /// stays open, and the address and the size of its mapping in this one.
    ///
    /// # Errors
    ///
    /// If the system refuses it, if address space is limited, or in a fork of a process that did so.
    pub fn share(&self) -> std::io::Result<(RawFd, usize, usize)> {
        self.shared.start()
    }

    /// Calls `with` if nobody else is at it.
    fn try_with<T>(&self, with: impl FnOnce(&mut Shelves) -> T) -> Option<T> {
        if self.is_locked.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: nobody else has it until `is_locked` is unset, and `with` cannot come back here,
        // as the system allocator does not call this one.
        let done = with(unsafe { &mut *self.shelves.get() });
        self.is_locked.store(false, Ordering::Release);
        Some(done)
    }

    fn take(&self, number: usize) -> Option<*mut u8> {
        self.try_with(|shelves| shelves.take(number)).flatten()
    }

    /// Allocates with `attempt`, again if it fails at first.
    fn insist(&self, attempt: impl Fn() -> *mut u8) -> *mut u8 {
        let block = attempt();
        if block.is_null() { self.try_again(attempt) } else { block }
    }

    #[cold]
    fn try_again(&self, attempt: impl Fn() -> *mut u8) -> *mut u8 {
        self.try_with(Shelves::clear);
        address_space::release_reserve();
        let mut block = attempt();
        let attempts = if address_space::was_limited() { ATTEMPTS } else { 0 };
        for _ in 0..attempts {
            if !block.is_null() {
                break;
            }
            std::thread::sleep(PAUSE);
            // It may have been taken again.
            address_space::release_reserve();
            block = attempt();
        }
        block
    }
}

impl Default for Recycled {
    fn default() -> Self {
        Self::new()
    }
}

impl Shelves {
    fn take(&mut self, number: usize) -> Option<*mut u8> {
        let kept = &mut self.by_size[number];
        kept.count = kept.count.checked_sub(1)?;
        kept.fewest = kept.fewest.min(kept.count);
        self.idle_bytes -= bytes_of(number);
        Some(kept.blocks[kept.count])
    }

    /// Keeps a block, unless there are enough.
    fn put(&mut self, number: usize, block: *mut u8) -> bool {
        if address_space::was_limited() {
            self.clear();
            return false;
        }
        self.sweep();
        let kept = &mut self.by_size[number];
        if kept.count == PER_SIZE || self.idle_bytes + bytes_of(number) > MOST_IDLE {
            return false;
        }
        kept.blocks[kept.count] = block;
        kept.count += 1;
        self.idle_bytes += bytes_of(number);
        true
    }

    /// Frees all blocks that are kept.
    fn clear(&mut self) {
        if self.idle_bytes == 0 {
            return;
        }
        for number in 0..NUM_SIZES {
            while let Some(block) = self.take(number) {
                // SAFETY: it was allocated so, and is on no shelf any more.
                unsafe { System.dealloc(block, layout_of(number)) };
            }
        }
    }

    /// Frees blocks that were not used since the last sweep.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.swept.is_some_and(|swept| now.duration_since(swept) < KEPT) {
            return;
        }
        self.swept = Some(now);
        for number in 0..NUM_SIZES {
            for _ in 0..self.by_size[number].fewest {
                if let Some(block) = self.take(number) {
                    // SAFETY: it was allocated so, and is on no shelf any more.
                    unsafe { System.dealloc(block, layout_of(number)) };
                }
            }
            self.by_size[number].fewest = self.by_size[number].count;
        }
    }
}

// SAFETY: blocks come from the system allocator. Whether one is recycled, and how large it is, follow from
// the layout, which is the same when it is freed; so a block is freed as it was allocated.
unsafe impl GlobalAlloc for Recycled {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(number) = number_of(layout) else {
            // SAFETY: as the caller says.
            return self.insist(|| unsafe { System.alloc(layout) });
        };
        // SAFETY: no size is zero.
        let allocate = || unsafe { System.alloc(layout_of(number)) };
        if let Some(block) = self.shared.take(number) {
            return block;
        }
        self.take(number).unwrap_or_else(|| self.insist(allocate))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(number) = number_of(layout) else {
            // SAFETY: as the caller says.
            return self.insist(|| unsafe { System.alloc_zeroed(layout) });
        };
        let Some(block) = self.shared.take(number).or_else(|| self.take(number)) else {
            // SAFETY: no size is zero.
            return self.insist(|| unsafe { System.alloc_zeroed(layout_of(number)) });
        };
        // SAFETY: it has at least so many bytes.
        unsafe { block.write_bytes(0, layout.size()) };
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(number) = number_of(layout) else {
            // SAFETY: as the caller says.
            return unsafe { System.dealloc(block, layout) };
        };
        if self.shared.put(number, block) {
            return;
        }
        if self.try_with(|shelves| shelves.put(number, block)) != Some(true) {
            // SAFETY: it was allocated so, and is on no shelf.
            unsafe { System.dealloc(block, layout_of(number)) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as the caller says, and alignments are those of a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (number_of(layout), number_of(new)) {
            // SAFETY: as the caller says.
            (None, None) => self.insist(|| unsafe { System.realloc(block, layout, new_size) }),
            (old, new) if old == new => block,
            _ => {
                // SAFETY: both blocks have so many bytes, and they are two.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
