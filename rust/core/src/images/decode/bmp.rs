//! BMP, by `zune-bmp`.

use zune_bmp::BmpDecoder;
use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;

use super::image::{Image, Limit, side, to_rgb};
use crate::images::pixels::Orientation;
use crate::images::scratch::{Scratch, room};

/// Decodes a file.
pub(super) fn decode(file: &[u8], limit: Limit, scratch: &mut Scratch) -> Result<Image, String> {
    check_depth(file)?;
    let most = usize::try_from(limit.0).unwrap_or(usize::MAX);
    let options = DecoderOptions::new_fast().set_max_width(most).set_max_height(most);
    let mut decoder = BmpDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| format!("a broken BMP ({error:?})"))?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let pixels = limit.check(width as u64, height as u64)?;
    let channels = decoder.colorspace().map_or(0, |space| space.num_components());
    let raw = room(&mut scratch.raw, pixels * channels)?;
    // Rows that a file lacks stay as they are.
    raw.fill(0);
    decoder.decode_into(raw).map_err(|error| format!("a broken BMP ({error:?})"))?;
    to_rgb(scratch, pixels, channels)?;
    Ok(Image { height: side(height)?, width: side(width)?, orientation: Orientation::default() })
}

/// Checks that a pixel takes whole bytes: rows of others are read wrongly where their length is odd.
fn check_depth(file: &[u8]) -> Result<(), String> {
    let at = if file.get(14) == Some(&12) { 24 } else { 28 };
    match file.get(at..at + 2) {
        Some(&[bits, 0]) if bits >= 8 => Ok(()),
        Some(&[low, high]) => Err(format!(
            "a BMP of {} bits a pixel: wanted 8 or more",
            u16::from_le_bytes([low, high])
        )),
        _ => Err("a broken BMP (its header ends early)".into()),
    }
}
