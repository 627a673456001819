//! Values as bytes: how many each has, and where they lie.

use arrow_array::{Array, ArrayRef};
use arrow_buffer::Buffer;
use arrow_schema::{DataType, Field};

use crate::error::{Error, Result};

/// Bytes of any number for each row.
pub(super) struct Tail {
    pub(super) data: Buffer,
    /// Where each row's bytes begin, and how many there are.
    pub(super) ranges: Vec<(usize, usize)>,
}

impl Tail {
    pub(super) fn of(&self, row: usize) -> &[u8] {
        let (start, len) = self.ranges[row];
        &self.data[start..start + len]
    }
}

/// Returns the bytes of fixed-width values.
pub(super) fn fixed(array: &ArrayRef) -> Result<Buffer> {
    let data = array.to_data();
    let width = match data.data_type() {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        other => other.primitive_width(),
    };
    let width =
        width.ok_or_else(|| Error::bug(format!("{} has no fixed width", data.data_type())))?;
    Ok(data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width))
}

/// Returns the bytes of each value, for types whose values are bytes at a fixed distance.
pub(super) fn width_of(field: &Field) -> Option<usize> {
    crate::projection::width_of(field.data_type())
}

/// Returns the error for a value whose length does not fit in its head.
pub(super) fn too_long(bytes: usize) -> Error {
    Error::invalid(format!("a value of {bytes} bytes"), "less than 4 GiB in a row that is kept")
}

pub(super) fn read_u32(head: &[u8], slot: usize) -> usize {
    let bytes: [u8; 4] = head[slot..slot + 4].try_into().expect("four bytes were cut");
    u32::from_le_bytes(bytes) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "what is kept in memory has an address")]
pub(super) fn read_u64(head: &[u8], slot: usize) -> usize {
    let bytes: [u8; 8] = head[slot..slot + 8].try_into().expect("eight bytes were cut");
    u64::from_le_bytes(bytes) as usize
}
