//! WebP, by `image-webp`.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::exif;
use super::image::{Image, Limit, to_rgb};
use crate::images::scratch::{Scratch, room};

/// Decodes a file; of an animation, its first frame.
pub(super) fn decode(file: &[u8], limit: Limit, scratch: &mut Scratch) -> Result<Image, String> {
    let broken = |error: image_webp::DecodingError| format!("a broken WebP ({error})");
    check_frames(file, limit)?;
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(broken)?;
    decoder.set_memory_limit(limit.bytes());
    let (width, height) = decoder.dimensions();
    let pixels = limit.check(width.into(), height.into())?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    decoder.read_image(room(&mut scratch.raw, pixels * channels)?).map_err(broken)?;
    to_rgb(scratch, pixels, channels)?;
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif.as_deref().map(exif::orientation).unwrap_or_default();
    Ok(Image { height, width, orientation })
}

/// Checks the size of each frame, for which the decoder takes memory whatever the header says.
fn check_frames(file: &[u8], limit: Limit) -> Result<(), String> {
    let mut rest = file.get(12..).unwrap_or_default();
    while let Some((header, body)) = rest.split_first_chunk::<8>() {
        let (kind, len) = header.split_at(4);
        let len = u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize;
        match kind {
            // Its header is 16 bytes, and chunks follow.
            b"ANMF" => {
                rest = body.get(16..).unwrap_or_default();
                continue;
            }
            b"VP8 " => check_size(lossy(body), limit)?,
            b"VP8L" => check_size(lossless(body), limit)?,
            _ => (),
        }
        rest = body.get(len + len % 2..).unwrap_or_default();
    }
    Ok(())
}

fn check_size(size: Option<(u64, u64)>, limit: Limit) -> Result<(), String> {
    size.map_or(Ok(()), |(width, height)| limit.check(width, height).map(drop))
}

fn lossy(frame: &[u8]) -> Option<(u64, u64)> {
    let side = |at: usize| {
        let bytes = frame.get(at..at + 2)?.try_into().ok()?;
        Some(u64::from(u16::from_le_bytes(bytes) & 0x3fff))
    };
    Some((side(6)?, side(8)?))
}

fn lossless(frame: &[u8]) -> Option<(u64, u64)> {
    let bits = u32::from_le_bytes(frame.get(1..5)?.try_into().ok()?);
    Some((u64::from(bits & 0x3fff) + 1, u64::from(bits >> 14 & 0x3fff) + 1))
}
