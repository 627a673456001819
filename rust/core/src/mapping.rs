//! Mapped files: their pages are asked for ahead, and leave the process some time after they were read.
//!
//! # Memory
//!
//! Pages of a mapping that were touched count as memory of the process until they are released,
//! although the system may reclaim them, and has them in its page cache. They are released once some
//! [`KEPT_BYTES`] were requested.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};

use crate::advice;
use crate::runtime::{PerProcess, lock};

/// Bytes that may be requested before the pages of all mappings are released.
const KEPT_BYTES: u64 = 128 << 20;
/// Bytes that a range takes beyond its own: the system maps pages around those that are touched.
const AROUND_BYTES: u64 = 64 << 10;
/// Ranges shorter than this count an eighth: bringing their pages back costs a page fault for a few
/// values each, and not for some hundred thousand.
const SHORT_BYTES: u64 = 64 << 10;
const SHORT_SHARE: u64 = 8;

static TOUCHED: PerProcess<Touched> = PerProcess::new();

/// What was requested since pages were last released.
#[derive(Debug, Default)]
struct Touched {
    bytes: AtomicU64,
    mappings: Mutex<Mappings>,
}

#[derive(Debug, Default)]
struct Mappings {
    now: Vec<Weak<Mapping>>,
    /// Mappings of the period before: a slow reader may have touched them after their release.
    before: Vec<Weak<Mapping>>,
}

/// A file that is mapped, to be read.
#[derive(Debug)]
pub(crate) struct Mapping {
    map: Mmap,
    /// Bytes that were requested since its pages were last released.
    touched: AtomicU64,
    /// Whether the system reads what is asked for, and nothing around it.
    is_planned: bool,
}

/// The owner of the `Bytes` of a mapping.
struct Shown(Arc<Mapping>);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

impl Mapping {
    /// Maps a file, whose pages will be asked for ahead.
    ///
    /// # Safety
    ///
    /// What is shown of the file must not change, and the file must not be cut, as long as the mapping is in use.
    #[expect(unsafe_code, reason = "mapping a file; the contract is the caller's")]
    pub(crate) unsafe fn new(file: &File) -> std::io::Result<Arc<Self>> {
        // SAFETY: that of this function.
        let map = unsafe { Mmap::map(file)? };
        let is_planned = advice::can_look(file);
        if is_planned {
            advice::at_random(&map);
        }
        Ok(Arc::new(Self { map, touched: AtomicU64::new(0), is_planned }))
    }

    /// Returns the bytes of the file.
    pub(crate) fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shown(Arc::clone(self)))
    }

    /// Asks for the pages of ascending ranges that are about to be read, all at once, and takes note of
    /// them.
    pub(crate) fn ahead(self: &Arc<Self>, ranges: &[Range<u64>]) {
        if let Ok(touched) = TOUCHED.get_or_make(|| Ok(Touched::default())) {
            touched.add(self, touched_by(ranges));
        }
        self.read_ahead(ranges);
    }

    /// Asks for the pages of ascending ranges, which will not be touched.
    pub(crate) fn read_ahead(&self, ranges: &[Range<u64>]) {
        if self.is_planned {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            let places = ranges.iter().map(|range| place(range.start)..place(range.end));
            advice::ahead(&self.map, &places.collect::<Vec<_>>());
        }
    }

    /// Takes its pages out of this process; they stay in the page cache, from where they come back when
    /// they are touched.
    #[expect(unsafe_code, reason = "advice on a mapping")]
    fn leave(&self) {
        // SAFETY: the mapping is of a file and is never written to, so its pages come back with the
        // same contents.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

impl Touched {
    /// Takes note that so many bytes of a mapping are about to be touched.
    fn add(&self, mapping: &Arc<Mapping>, bytes: u64) {
        if self.bytes.load(Ordering::Relaxed) > KEPT_BYTES {
            self.forget();
        }
        let before = mapping.touched.fetch_add(bytes, Ordering::Relaxed);
        if before == 0 && bytes > 0 {
            lock(&self.mappings).now.push(Arc::downgrade(mapping));
        }
        // The pages in memory cannot exceed the length of the file.
        let all = mapping.map.len() as u64;
        let new = all.min(before.saturating_add(bytes)) - all.min(before);
        self.bytes.fetch_add(new, Ordering::Relaxed);
    }

    /// Takes the pages of what was touched out of this process, and says how many mappings that were.
    fn forget(&self) -> usize {
        self.bytes.store(0, Ordering::Relaxed);
        let leaving = {
            let mut mappings = lock(&self.mappings);
            let now = std::mem::take(&mut mappings.now);
            let now: Vec<_> = now.into_iter().filter_map(|mapping| mapping.upgrade()).collect();
            let held = now.iter().map(Arc::downgrade).collect();
            let before = std::mem::replace(&mut mappings.before, held);
            for mapping in &now {
                mapping.touched.store(0, Ordering::Relaxed);
            }
            now.into_iter().chain(before.iter().filter_map(Weak::upgrade)).collect::<Vec<_>>()
        };
        for mapping in &leaving {
            mapping.leave();
        }
        leaving.len()
    }
}

/// Returns the bytes of a file that come into memory when these ranges are touched, those of short
/// ones in part.
fn touched_by(ranges: &[Range<u64>]) -> u64 {
    let mut end = 0;
    let mut bytes = 0;
    for range in ranges {
        let between =
            range.start.checked_sub(end).map_or(AROUND_BYTES, |gap| gap.min(AROUND_BYTES));
        let length = range.end.saturating_sub(range.start);
        let share = if length < SHORT_BYTES { SHORT_SHARE } else { 1 };
        bytes += (between + length) / share;
        end = range.end;
    }
    bytes
}

/// Takes the pages of all mappings that were touched since the last time out of this process.
pub(crate) fn forget_touched() {
    if let Ok(touched) = TOUCHED.get_or_make(|| Ok(Touched::default())) {
        touched.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[expect(unsafe_code, reason = "files of the test itself")]
    fn mapped(num_bytes: u64) -> Arc<Mapping> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(num_bytes).unwrap();
        // SAFETY: nobody else has the file.
        unsafe { Mapping::new(&file).unwrap() }
    }

    #[test]
    fn pages_of_what_was_touched_leave_and_of_nothing_else() {
        let mapped: Vec<_> = (0..10).map(|_| mapped(KEPT_BYTES)).collect();
        let touched = Touched::default();
        let add = |at: usize, bytes| touched.add(&mapped[at], bytes);
        assert_eq!(touched.forget(), 0);
        add(3, 1);
        add(3, 1);
        add(5, 1);
        assert_eq!(touched.forget(), 2);
        add(4, 1);
        // Those of the time before as well.
        assert_eq!(touched.forget(), 3);
        assert_eq!([touched.forget(), touched.forget()], [1, 0]);
        // Once there is too much.
        for at in 0..10 {
            add(at, KEPT_BYTES / 4);
        }
        assert_eq!(lock(&touched.mappings).now.len(), 5);
        assert_eq!(touched.bytes.load(Ordering::Relaxed), KEPT_BYTES / 4 * 5);
        drop(mapped);
        assert_eq!(touched.forget(), 0);
    }

    #[test]
    fn a_small_file_is_never_much_to_keep() {
        let mapped = mapped(10_000);
        let touched = Touched::default();
        for _ in 0..3 {
            touched.add(&mapped, KEPT_BYTES);
        }
        assert_eq!(touched.bytes.load(Ordering::Relaxed), 10_000);
        assert_eq!(lock(&touched.mappings).now.len(), 1);
    }

    #[test]
    fn ranges_touch_what_lies_around_them_once() {
        let (around, share) = (AROUND_BYTES, SHORT_SHARE);
        assert_eq!(touched_by(&[]), 0);
        let one = 10 * around..10 * around + 800;
        assert_eq!(touched_by(std::slice::from_ref(&one)), (around + 800) / share);
        let near = [0..80, 160..240, 9 * around..9 * around + 8];
        assert_eq!(touched_by(&near), (80 + 160 + around + 8) / share);
        // Out of order.
        assert_eq!(touched_by(&[800..880, 0..80]), (880 + around + 80) / share);
        // Long ones count in full.
        let long = [0..80, 80..80 + SHORT_BYTES, 9 * around..9 * around + 2 * SHORT_BYTES];
        assert_eq!(touched_by(&long), 80 / share + 3 * SHORT_BYTES + around);
    }

    #[test]
    #[expect(unsafe_code, reason = "a file of the test itself")]
    fn pages_that_are_asked_for_come_without_being_touched() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        // SAFETY: nobody else has the file.
        let mapping = unsafe { Mapping::new(&file).unwrap() };
        mapping.ahead(&[300_000..310_000, 900_000..2_000_000]);
        let end = Instant::now() + Duration::from_mins(1);
        for place in [300_000, 309_000, 1_000_000] {
            while !advice::is_in_memory(&mapping.map, place) {
                assert!(Instant::now() < end, "{place}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        mapping.ahead(&[]);
        assert_eq!(mapping.bytes().len(), 1 << 20);
    }
}
