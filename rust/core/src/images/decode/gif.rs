//! GIF, by `gif`: the first frame.

use std::num::NonZeroU64;

use gif::{DecodeOptions, MemoryLimit};

use super::image::{Image, Limit};
use crate::images::pixels::Orientation;
use crate::images::scratch::{Scratch, room};

/// Decodes the first frame of a file, on the screen that the file describes.
pub(super) fn decode(file: &[u8], limit: Limit, scratch: &mut Scratch) -> Result<Image, String> {
    let broken = |error: gif::DecodingError| format!("a broken GIF ({error})");
    let mut options = DecodeOptions::new();
    let most = NonZeroU64::new(limit.0).unwrap_or(NonZeroU64::MIN);
    options.set_memory_limit(MemoryLimit::Bytes(most));
    let mut decoder = options.read_info(file).map_err(broken)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let pixels = limit.check(width as u64, height as u64)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(broken)?.ok_or("a GIF without a frame")?;
    let palette =
        frame.palette.as_deref().or(global.as_deref()).ok_or("a GIF without a palette")?;
    let colour = |index: u8| {
        let at = usize::from(index) * 3;
        palette.get(at..at + 3).unwrap_or(&[0; 3])
    };
    let rgb = room(&mut scratch.rgb, pixels * 3)?;
    let around = colour(frame.transparent.unwrap_or_default());
    for pixel in rgb.chunks_exact_mut(3) {
        pixel.copy_from_slice(around);
    }
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let frame_width = usize::from(frame.width);
    if frame_width > 0 && left < width {
        let shown = frame_width.min(width - left);
        let rows = rgb.chunks_exact_mut(width * 3).skip(top);
        for (row, indices) in rows.zip(frame.buffer.chunks_exact(frame_width)) {
            let pixels = row[left * 3..].chunks_exact_mut(3).zip(&indices[..shown]);
            for (pixel, &index) in pixels {
                pixel.copy_from_slice(colour(index));
            }
        }
    }
    Ok(Image {
        height: decoder.height().into(),
        width: decoder.width().into(),
        orientation: Orientation::default(),
    })
}
