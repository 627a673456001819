//! What a thread needs to decode a row, kept from one row to the next.

use fast_image_resize::Resizer;

/// Memory of this many bytes is kept; more is given back after a row.
const MOST_KEPT: usize = 16 << 20;

/// Memory that rows take turns to use.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Samples as the decoder has them.
    pub(super) raw: Vec<u8>,
    /// The image as RGB.
    pub(super) rgb: Vec<u8>,
    /// Its part at the size of the batch.
    pub(super) resized: Vec<u8>,
    pub(super) resizer: Resizer,
}

impl Scratch {
    /// Gives back what a large image took.
    pub(super) fn shrink(&mut self) {
        for memory in [&mut self.raw, &mut self.rgb, &mut self.resized] {
            if memory.capacity() > MOST_KEPT {
                *memory = Vec::new();
            }
        }
        if self.resizer.size_of_internal_buffers() > MOST_KEPT {
            self.resizer.reset_internal_buffers();
        }
    }
}

/// Returns `len` bytes of memory with anything in them.
///
/// # Errors
///
/// If there is no memory.
pub(super) fn room(memory: &mut Vec<u8>, len: usize) -> Result<&mut [u8], String> {
    if memory.len() < len {
        let more = len - memory.len();
        memory.try_reserve_exact(more).map_err(|_| format!("no memory for {len} bytes"))?;
        memory.resize(len, 0);
    }
    Ok(&mut memory[..len])
}
