//! PNG, by `png`.

use std::io::Cursor;

use png::{DecodeOptions, Decoder, Limits, Transformations};

use super::exif;
use super::image::{Image, Limit, to_rgb};
use crate::images::scratch::{Scratch, room};

/// Decodes a file; of an animation, its default image.
pub(super) fn decode(file: &[u8], limit: Limit, scratch: &mut Scratch) -> Result<Image, String> {
    let broken = |error: png::DecodingError| format!("a broken PNG ({error})");
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(file), options);
    decoder.set_limits(Limits { bytes: limit.bytes() });
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(broken)?;
    let (width, height) = (header.width, header.height);
    let pixels = limit.check(width.into(), height.into())?;
    let mut reader = decoder.read_info().map_err(broken)?;
    let len = reader.output_buffer_size().ok_or("a PNG of too many bytes")?;
    let info = reader.next_frame(room(&mut scratch.raw, len)?).map_err(broken)?;
    to_rgb(scratch, pixels, info.color_type.samples())?;
    let orientation =
        reader.info().exif_metadata.as_deref().map(exif::orientation).unwrap_or_default();
    Ok(Image { height, width, orientation })
}
