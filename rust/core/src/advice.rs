//! What the system is told about the pages of a mapping that are about to be read.
//!
//! By default a page fault reads 128 KiB around the page, one fault after another: 47 times the bytes of
//! scattered rows, with a single request in flight. So mappings are advised as read at random, and what is
//! wanted is asked for ahead, all ranges at once. Where pages are in memory already this would only cost
//! time, so a few are looked at first.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use memmap2::{Advice, Mmap};

/// Pages that are looked at, to know whether what is asked for is in memory.
const LOOKED_AT: usize = 8;
/// Ranges that are at most so far from each other are asked for together.
const JOINED_BYTES: usize = 16 << 10;

/// Tells the system that a mapping is read at random.
pub(crate) fn at_random(map: &Mmap) {
    // It is faster with it, and works without.
    let _ = map.advise(Advice::Random);
}

/// Asks for the pages of ascending ranges, if they do not seem to be in memory.
pub(crate) fn ahead(map: &Mmap, ranges: &[Range<usize>]) {
    if ranges.is_empty() || are_in_memory(map, ranges) {
        return;
    }
    let mut joined: Option<Range<usize>> = None;
    let ask = |range: Range<usize>| {
        let length = range.end.min(map.len()).saturating_sub(range.start);
        let _ = map.advise_range(Advice::WillNeed, range.start, length);
    };
    for range in ranges.iter().filter(|range| range.start < range.end) {
        joined = Some(match joined {
            Some(last) if range.start >= last.start && range.start <= last.end + JOINED_BYTES => {
                last.start..last.end.max(range.end)
            }
            Some(last) => {
                ask(last);
                range.clone()
            }
            None => range.clone(),
        });
    }
    joined.into_iter().for_each(ask);
}

/// Returns whether all pages that were looked at are in memory: of some ranges, the first.
fn are_in_memory(map: &Mmap, ranges: &[Range<usize>]) -> bool {
    let step = ranges.len().div_ceil(LOOKED_AT);
    ranges.iter().step_by(step).chain(ranges.last()).all(|range| is_in_memory(map, range.start))
}

/// Returns whether the system tells this process which pages of a file are in memory. It only tells the
/// owner of the file, and users that may write to it.
pub(crate) fn can_look(file: &File) -> bool {
    let user = rustix::process::geteuid().as_raw();
    file.metadata().is_ok_and(|about| user == 0 || about.uid() == user)
}

/// Returns whether the page at a place of a mapping is in memory; also if the system does not say.
#[expect(unsafe_code, reason = "a system call about a mapping")]
pub(crate) fn is_in_memory(map: &Mmap, at: usize) -> bool {
    // SAFETY: a question about a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let start = at.min(map.len().saturating_sub(1)) / page * page;
    let mut state = 0_u8;
    // SAFETY: the page begins inside of the mapping, which is aligned to pages, and the answer is one byte.
    let answer =
        unsafe { libc::mincore(map.as_ptr().add(start).cast_mut().cast(), 1, &raw mut state) };
    answer != 0 || state & 1 == 1
}
