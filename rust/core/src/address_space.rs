//! The address space of a process that has a limit of it, as `ulimit -v` sets one.
//!
//! Arrow, Lance and the standard library end the process when an allocation fails. So under a limit
//!
//! * a read is admitted (by `read/admission.rs`) once there is room for all that it may allocate beside the reads under way;
//! * a reserve is held, which the allocator releases when an allocation fails nevertheless. No read is
//!   admitted until it is held again, so those under way can finish in it, and the error be raised;
//! * threads share one arena of glibc's `malloc`, as each arena takes 64 MiB of addresses, and blocks go
//!   back to the system when they are freed.
//!
//! Without a limit all of this costs one system call per read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, TryLockError};

use memmap2::{MmapMut, MmapOptions};
use rustix::process::{Resource, getrlimit};

use crate::error::{Error, Result};

/// What a read takes beside its rows: footers, descriptions of pages, tables of a decompressor.
pub(crate) const BESIDE_BYTES: u64 = 8 << 20;
/// What is held back for allocations for which no room was requested.
const RESERVE_BYTES: u64 = 24 << 20;

/// tokio's own limit of threads that wait.
const MOST_THREADS: usize = 512;

static RESERVE: Mutex<Option<MmapMut>> = Mutex::new(None);
static IS_LIMITED: AtomicBool = AtomicBool::new(false);
static PREPARED: Once = Once::new();

/// Checks that there is room for so many bytes of `what`.
///
/// # Errors
///
/// [`Error::Memory`].
pub(crate) fn check_room(what: &'static str, bytes: u64) -> Result<()> {
    let wanted = bytes.saturating_add(BESIDE_BYTES);
    if !is_limited() || (hold_reserve() && has_room(wanted)) {
        return Ok(());
    }
    Err(no_room(what, bytes, wanted))
}

/// Returns the bytes that the limit still allows, if there is one.
pub(crate) fn left() -> Option<u64> {
    Some(limit()?.saturating_sub(used()?))
}

/// Returns how many threads may wait for files at the same time under a limit, as each takes a stack.
///
/// Reads that were admitted wait on one each, for requests that take further ones: there are always some
/// more than such reads can be.
pub(crate) fn blocking_threads() -> Option<usize> {
    let reads = left()? / BESIDE_BYTES;
    Some(usize::try_from(reads).unwrap_or(usize::MAX).clamp(8, MOST_THREADS - 8) + 8)
}

/// Returns whether room was found to be limited, for callers that must not make a system call.
pub(crate) fn was_limited() -> bool {
    IS_LIMITED.load(Ordering::Relaxed)
}

/// Releases the reserve for an allocation that failed. Neither allocates nor waits for a lock.
pub(crate) fn release_reserve() {
    let mut reserve = match RESERVE.try_lock() {
        Ok(reserve) => reserve,
        Err(TryLockError::Poisoned(reserve)) => reserve.into_inner(),
        // Another thread has it, or had it when this process was forked.
        Err(TryLockError::WouldBlock) => return,
    };
    *reserve = None;
}

/// Returns whether the reserve is held, or could be taken again.
pub(crate) fn hold_reserve() -> bool {
    let mut reserve = match RESERVE.try_lock() {
        Ok(reserve) => reserve,
        Err(TryLockError::Poisoned(reserve)) => reserve.into_inner(),
        Err(TryLockError::WouldBlock) => return true,
    };
    if reserve.is_none() {
        *reserve = mapped(RESERVE_BYTES);
    }
    reserve.is_some()
}

pub(crate) fn has_room(bytes: u64) -> bool {
    mapped(bytes).is_some()
}

/// Returns a mapping of so many addresses, without memory behind them.
fn mapped(bytes: u64) -> Option<MmapMut> {
    MmapOptions::new().len(usize::try_from(bytes).ok()?).map_anon().ok()
}

fn limit() -> Option<u64> {
    getrlimit(Resource::As).current
}

pub(crate) fn is_limited() -> bool {
    let is_limited = limit().is_some();
    if is_limited {
        PREPARED.call_once(|| {
            IS_LIMITED.store(true, Ordering::Relaxed);
            malloc::spare_addresses();
        });
    }
    is_limited
}

fn used() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns the error of an allocation of so many bytes that failed.
pub(crate) fn failed(what: &'static str, bytes: u64) -> Error {
    if is_limited() { no_room(what, bytes, bytes) } else { Error::memory(what, bytes) }
}

pub(crate) fn no_room(what: &'static str, bytes: u64, wanted: u64) -> Error {
    let needed = used().unwrap_or(0).saturating_add(wanted).saturating_add(RESERVE_BYTES);
    let limit = needed.max(limit().unwrap_or(0)) / 1024 + 1;
    Error::Memory(format!(
        "no memory for {bytes} bytes of {what} in the address space that `ulimit -v` allows: a limit of \
         about {limit} KiB would do"
    ))
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod malloc {
    use std::ffi::c_int;

    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;

    /// Larger blocks have mappings of their own, which are gone when they are freed.
    const LARGE_BYTES: c_int = 256 << 10;

    #[expect(unsafe_code, reason = "glibc's parameters of `malloc` have no safe wrapper")]
    unsafe extern "C" {
        safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    pub(super) fn spare_addresses() {
        for (parameter, value) in
            [(M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGE_BYTES), (M_TRIM_THRESHOLD, LARGE_BYTES)]
        {
            // An unknown parameter is refused and changes nothing.
            mallopt(parameter, value);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod malloc {
    pub(super) fn spare_addresses() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_held_and_released() {
        assert!(hold_reserve());
        assert!(RESERVE.lock().unwrap().is_some());
        release_reserve();
        assert!(RESERVE.lock().unwrap().is_none());
        let held = RESERVE.lock().unwrap();
        // Neither waits for who has it.
        release_reserve();
        assert!(hold_reserve());
        drop(held);
    }

    #[test]
    fn there_is_room_for_some_bytes_but_not_for_all() {
        assert!(has_room(1 << 20));
        assert!(!has_room(u64::MAX));
        let error = no_room("rows", 5, 1 << 40).to_string();
        assert!(error.starts_with("no memory for 5 bytes of rows"), "{error}");
        assert!(error.contains("`ulimit -v`"), "{error}");
    }
}
