//! The bytes of a file → RGB, eight bits each.
//!
//! The decoder is chosen by what the bytes begin with. As Pillow's `convert("RGB")` does: alpha is left
//! out, grey is repeated, of 16 bits the upper eight are taken, and colour profiles are ignored.
//! Every decoder asks [`Limit`] before it takes memory for pixels.

mod bmp;
mod exif;
mod gif;
pub(super) mod image;
mod jpeg;
mod jpeg_top;
mod png;
mod tiff;
mod webp;

use image::{Image, Limit};

use super::scratch::Scratch;

/// Decodes a file to `Scratch::rgb`.
///
/// # Errors
///
/// Why it is none, or is broken or too large.
pub fn decode_any(file: &[u8], max_pixels: u64, scratch: &mut Scratch) -> Result<Image, String> {
    decode_rows(file, max_pixels, scratch, &|image| image.height)
}

/// Decodes a file to `Scratch::rgb`, of which the first rows are looked at, as they are stored.
///
/// `rows` returns how many of an image. What lies below may be anything, and damage there may go unnoticed.
///
/// # Errors
///
/// Those of [`decode_any`].
pub(super) fn decode_rows(
    file: &[u8],
    max_pixels: u64,
    scratch: &mut Scratch,
    rows: &dyn Fn(Image) -> u32,
) -> Result<Image, String> {
    let limit = Limit(max_pixels);
    match file {
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(file, limit, scratch, rows),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => {
            png::decode(file, limit, scratch)
        }
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            webp::decode(file, limit, scratch)
        }
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::decode(file, limit, scratch),
        [b'B', b'M', ..] => bmp::decode(file, limit, scratch),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => tiff::decode(file, limit, scratch),
        [] => Err("no bytes".into()),
        _ => Err(unknown(file)),
    }
}

/// Says what a file is that is no image that can be decoded.
fn unknown(file: &[u8]) -> String {
    const WANTED: &str = "JPEG, PNG, WebP, GIF, BMP or TIFF";
    if let [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] = file {
        let brand: String = brand
            .iter()
            .take(4)
            .map(|&byte| char::from(byte))
            .filter(char::is_ascii_graphic)
            .collect();
        return format!("a file of brand {brand:?}, such as AVIF or HEIC: wanted {WANTED}");
    }
    let start = file.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    format!("a file that begins with {start}: wanted {WANTED}")
}
