//! Values that are compressed each for itself → the end of a buffer.

use std::cell::RefCell;

use arrow_buffer::MutableBuffer;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::{MAGICNUMBER, WriteBuf, get_frame_content_size};

/// The bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 8;

thread_local! {
    /// One context for all values of a thread, as it takes longer to make than a short value.
    static ZSTD: RefCell<Decompressor<'static>> = RefCell::default();
}

/// Returns the length of a value that is stored as its length and one frame of zstd of that length, and the
/// frame. Lance's decompressor reads what is stored in another way.
pub(crate) fn frame_of(stored: &[u8]) -> Option<(usize, &[u8])> {
    let (length, frame) = stored.split_first_chunk::<LENGTH_BYTES>()?;
    let magic = MAGICNUMBER.to_le_bytes();
    if length.starts_with(&magic) || !frame.starts_with(&magic) {
        return None;
    }
    let length = u64::from_le_bytes(*length);
    let is_said_twice = matches!(get_frame_content_size(frame), Ok(Some(size)) if size == length);
    Some((usize::try_from(length).ok().filter(|_| is_said_twice)?, frame))
}

/// Appends the `len` bytes of a frame to a buffer, without a copy in between.
pub(crate) fn append(frame: &[u8], len: usize, out: &mut MutableBuffer) -> Result<(), String> {
    let start = out.len();
    out.reserve(len);
    let written = ZSTD.with_borrow_mut(|zstd| {
        zstd.decompress_to_buffer(frame, &mut Spare { buffer: out, start, len })
    });
    match written {
        Ok(written) if written == len => Ok(()),
        other => {
            out.truncate(start);
            Err(other.map_or_else(
                |error| error.to_string(),
                |written| format!("a value of {written} bytes, where {len} are announced"),
            ))
        }
    }
}

/// The next `len` bytes of a buffer, which are reserved and not set yet.
struct Spare<'a> {
    buffer: &'a mut MutableBuffer,
    start: usize,
    len: usize,
}

// SAFETY: `len` bytes from `start` on are reserved, and those that `filled_until` says are written are within.
#[expect(unsafe_code, reason = "memory that is filled without being cleared first")]
unsafe impl WriteBuf for Spare<'_> {
    fn as_slice(&self) -> &[u8] {
        &self.buffer.as_slice()[self.start..]
    }

    fn capacity(&self) -> usize {
        self.len
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: `start` is the length of the buffer before.
        unsafe { self.buffer.as_mut_ptr().add(self.start) }
    }

    unsafe fn filled_until(&mut self, n: usize) {
        // SAFETY: as the caller says; `n` is at most the capacity.
        unsafe { self.buffer.set_len(self.start + n) };
    }
}

#[cfg(test)]
mod tests;
