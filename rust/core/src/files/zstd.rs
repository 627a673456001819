//! Values that are compressed each for itself → the end of a buffer.

use std::cell::RefCell;

use arrow_buffer::MutableBuffer;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::{MAGICNUMBER, WriteBuf, get_frame_content_size};

/// The bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 8;
/// A block of a frame takes at least so many bytes, and holds at most so many (RFC 8878).
const LEAST_BLOCK_BYTES: usize = 3;
const MOST_IN_BLOCK: usize = 128 << 10;

thread_local! {
    /// One context for all values of a thread, as it takes longer to make than a short value.
    static ZSTD: RefCell<Decompressor<'static>> = RefCell::default();
}

/// Returns the length of a value that is stored as its length and one frame of zstd that says the same, and
/// the frame. `None` is for what is stored in another way, which Lance's decompressor reads.
///
/// # Errors
///
/// If the two lengths differ, or are more than the frame can hold: memory for such a value is not asked for, as
/// the process ends if there is none.
pub(crate) fn frame_of(stored: &[u8]) -> Result<Option<(usize, &[u8])>, String> {
    let Some((length, frame)) = stored.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let magic = MAGICNUMBER.to_le_bytes();
    if length.starts_with(&magic) || !frame.starts_with(&magic) {
        return Ok(None);
    }
    let length = u64::from_le_bytes(*length);
    let most = (frame.len() / LEAST_BLOCK_BYTES + 1).saturating_mul(MOST_IN_BLOCK);
    let size = get_frame_content_size(frame).unwrap_or(None);
    match usize::try_from(length) {
        Ok(len) if len <= most && size == Some(length) => Ok(Some((len, frame))),
        Ok(len) if len <= most && size.is_none() => Ok(None),
        _ => Err(format!("a value of {length} bytes in {} compressed ones", frame.len())),
    }
}

/// Appends the `len` bytes of a frame to a buffer, without a copy in between.
pub(crate) fn append(frame: &[u8], len: usize, out: &mut MutableBuffer) -> Result<(), String> {
    let start = out.len();
    if out.capacity() - start < len {
        // A buffer that cannot grow ends the process.
        let room = Vec::<u8>::new().try_reserve_exact(len);
        room.map_err(|error| format!("a value of {len} bytes: {error}"))?;
        out.reserve(len);
    }
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
