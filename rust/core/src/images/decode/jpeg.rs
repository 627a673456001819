//! JPEG, by `zune-jpeg`.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::exif;
use super::image::{Image, Limit, side};
use super::jpeg_top::Header;
use crate::images::scratch::{Scratch, room};

/// The most pixels along a side that the format has.
const MOST: usize = 65535;
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// Decodes a file, or its first rows, of which `rows` returns how many are looked at.
///
/// A file that ends early is broken; other damage that libjpeg only warns about is not.
pub(super) fn decode(
    file: &[u8],
    limit: Limit,
    scratch: &mut Scratch,
    rows: &dyn Fn(Image) -> u32,
) -> Result<Image, String> {
    if let Some(image) = decode_top(file, limit, scratch, rows) {
        return Ok(image);
    }
    let Scratch { rgb, .. } = scratch;
    match decode_as(file, limit, rgb, true) {
        // What a strict decoder refuses may be complete all the same.
        Err(_) if file[2..].windows(2).any(|pair| pair == END_OF_IMAGE) => {
            decode_as(file, limit, rgb, false)
        }
        result => result,
    }
    .map_err(|error| match error {
        Failure::Limit(text) => text,
        Failure::Decoder(error) => format!("a broken JPEG ({error})"),
    })
}

/// Decodes the first rows of a file. `None` if that is all, or another kind, or something is wrong with it.
fn decode_top(
    file: &[u8],
    limit: Limit,
    scratch: &mut Scratch,
    rows: &dyn Fn(Image) -> u32,
) -> Option<Image> {
    let header = Header::of(file)?;
    let Header { height, width, orientation, .. } = header;
    limit.check(width.into(), height.into()).ok()?;
    let image = Image { height, width, orientation };
    let rows = header.rows_for(rows(image))?;
    let Scratch { raw, rgb, .. } = scratch;
    header.copy(file, rows, raw)?;
    let found = decode_as(raw, limit, rgb, true).ok()?;
    // Who resizes looks at a buffer of all rows, but not into the lower ones.
    room(rgb, height as usize * width as usize * 3).ok()?;
    (found == Image { height: rows.into(), ..image }).then_some(image)
}

#[derive(Debug)]
enum Failure {
    Limit(String),
    Decoder(DecodeErrors),
}

fn decode_as(
    file: &[u8],
    limit: Limit,
    rgb: &mut Vec<u8>,
    is_strict: bool,
) -> Result<Image, Failure> {
    let options = DecoderOptions::new_fast()
        .set_strict_mode(is_strict)
        .set_max_width(MOST)
        .set_max_height(MOST)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(Failure::Decoder)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let pixels = limit.check(width as u64, height as u64).map_err(Failure::Limit)?;
    let rgb = room(rgb, pixels * 3).map_err(Failure::Limit)?;
    decoder.decode_into(rgb).map_err(Failure::Decoder)?;
    let orientation = decoder.exif().map(|exif| exif::orientation(exif)).unwrap_or_default();
    let side = |length| side(length).map_err(Failure::Limit);
    Ok(Image { height: side(height)?, width: side(width)?, orientation })
}
