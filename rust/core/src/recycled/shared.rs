//! Blocks that another process can map: pieces of one anonymous file.
//!
//! The file is as large as all that may ever be given out, but pages that nobody wrote take no memory. A
//! block that is given back keeps its pages for the next one, or loses them and keeps its place.
//!
//! As with the other blocks, no lock is waited for long.

use std::cell::UnsafeCell;
use std::fs::File;
use std::hint;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};

use super::sizes::{ALIGN, KEPT, MOST_IDLE, NUM_SIZES, bytes_of};
use crate::address_space;

/// Bytes of the file, of which all blocks are pieces.
const FILE_BYTES: usize = 4 << 30;
/// Blocks of one size that are remembered, with pages and without.
const PER_SIZE: usize = 48;
/// How often a lock is tried that somebody has for a moment.
const ATTEMPTS: usize = 200;

/// The file, once this process shares its blocks.
#[derive(Debug)]
struct Region {
    file: File,
    memory: MmapRaw,
    pid: u32,
}

#[derive(Debug)]
pub(super) struct Shared {
    region: OnceLock<Region>,
    is_locked: AtomicBool,
    places: UnsafeCell<Places>,
}

// SAFETY: `places` is only reached by whoever has set `is_locked`.
unsafe impl Sync for Shared {}

/// The places in the file that are free, in units of [`ALIGN`].
#[derive(Debug)]
struct Places {
    /// The first that was never given out.
    next: usize,
    idle_bytes: usize,
    swept: Option<Instant>,
    by_size: [OfSize; NUM_SIZES],
}

#[derive(Debug, Clone, Copy)]
struct OfSize {
    /// Those with pages, and those without.
    full: Stack,
    empty: Stack,
    /// The fewest with pages since they were looked through.
    fewest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Stack {
    len: usize,
    places: [u32; PER_SIZE],
}

impl Stack {
    fn pop(&mut self) -> Option<usize> {
        self.len = self.len.checked_sub(1)?;
        Some(self.places[self.len] as usize)
    }

    fn push(&mut self, place: usize) -> bool {
        let (true, Ok(place)) = (self.len < PER_SIZE, u32::try_from(place)) else {
            return false;
        };
        self.places[self.len] = place;
        self.len += 1;
        true
    }
}

impl Shared {
    pub(super) const fn new() -> Self {
        let none = Stack { len: 0, places: [0; PER_SIZE] };
        let of_size = OfSize { full: none, empty: none, fewest: 0 };
        let places = Places { next: 0, idle_bytes: 0, swept: None, by_size: [of_size; NUM_SIZES] };
        Self {
            region: OnceLock::new(),
            is_locked: AtomicBool::new(false),
            places: UnsafeCell::new(places),
        }
    }

    /// Shares all blocks from now on; returns the file, and where it is in memory.
    pub(super) fn start(&self) -> std::io::Result<(RawFd, usize, usize)> {
        if address_space::is_limited() {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        if self.region.get().is_none() {
            let file = File::from(memfd_create("lanceloader", MemfdFlags::CLOEXEC)?);
            ftruncate(&file, FILE_BYTES as u64)?;
            let memory = MmapOptions::new().len(FILE_BYTES).map_raw(&file)?;
            // If another thread was faster, its region stays.
            let _ = self.region.set(Region { file, memory, pid: std::process::id() });
        }
        let Some(region) = self.own() else {
            // A fork of a process that shares.
            return Err(std::io::ErrorKind::Unsupported.into());
        };
        Ok((region.file.as_raw_fd(), region.memory.as_ptr().addr(), FILE_BYTES))
    }

    /// The region, if this process made it: a fork of that process shares its pages, so they must not
    /// be given out there.
    fn own(&self) -> Option<&Region> {
        self.region.get().filter(|region| region.pid == std::process::id())
    }

    fn try_with<T>(&self, with: impl FnOnce(&mut Places) -> T) -> Option<T> {
        for _ in 0..ATTEMPTS {
            if !self.is_locked.swap(true, Ordering::Acquire) {
                // SAFETY: nobody else has it until `is_locked` is unset, and `with` allocates nothing.
                let done = with(unsafe { &mut *self.places.get() });
                self.is_locked.store(false, Ordering::Release);
                return Some(done);
            }
            hint::spin_loop();
        }
        None
    }

    /// Returns a block of a size, if this process shares its blocks and there is room.
    pub(super) fn take(&self, number: usize) -> Option<*mut u8> {
        let region = self.own()?;
        let place = self.try_with(|places| places.take(number)).flatten()?;
        Some(region.memory.as_mut_ptr().wrapping_add(place * ALIGN))
    }

    /// Takes a block back, if it is one of these.
    pub(super) fn put(&self, number: usize, block: *mut u8) -> bool {
        let Some(region) = self.region.get() else {
            return false;
        };
        let at = block.addr().wrapping_sub(region.memory.as_ptr().addr());
        if at >= FILE_BYTES {
            return false;
        }
        if region.pid == std::process::id() {
            let place = at / ALIGN;
            let kept = self.try_with(|places| places.put(region, number, place));
            if kept.is_none() {
                empty(region, number, place);
            }
        }
        true
    }
}

impl Places {
    fn take(&mut self, number: usize) -> Option<usize> {
        let of_size = &mut self.by_size[number];
        if let Some(place) = of_size.full.pop() {
            of_size.fewest = of_size.fewest.min(of_size.full.len);
            self.idle_bytes -= bytes_of(number);
            return Some(place);
        }
        if let Some(place) = of_size.empty.pop() {
            return Some(place);
        }
        let place = self.next;
        let end = place + bytes_of(number).div_ceil(ALIGN);
        if end > FILE_BYTES / ALIGN {
            return None;
        }
        self.next = end;
        Some(place)
    }

    fn put(&mut self, region: &Region, number: usize, place: usize) {
        self.sweep(region);
        let of_size = &mut self.by_size[number];
        if self.idle_bytes + bytes_of(number) <= MOST_IDLE && of_size.full.push(place) {
            self.idle_bytes += bytes_of(number);
            return;
        }
        empty(region, number, place);
        of_size.empty.push(place);
    }

    /// Empties blocks that were not used since the last sweep.
    fn sweep(&mut self, region: &Region) {
        let now = Instant::now();
        if self.swept.is_some_and(|swept| now.duration_since(swept) < KEPT) {
            return;
        }
        self.swept = Some(now);
        for (number, of_size) in self.by_size.iter_mut().enumerate() {
            for _ in 0..of_size.fewest {
                if let Some(place) = of_size.full.pop() {
                    self.idle_bytes -= bytes_of(number);
                    empty(region, number, place);
                    of_size.empty.push(place);
                }
            }
            of_size.fewest = of_size.full.len;
        }
    }
}

/// Gives the pages of a block back to the system.
fn empty(region: &Region, number: usize, place: usize) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let (start, len) = ((place * ALIGN) as u64, bytes_of(number) as u64);
    // If that fails, they only take memory.
    let _ = fallocate(&region.file, flags, start, len);
}

#[cfg(test)]
mod tests;
