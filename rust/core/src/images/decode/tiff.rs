//! TIFF, by `tiff`: the first image, of eight or 16 bits.

use std::io::Cursor;

use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use super::image::{Image, Limit, to_rgb};
use crate::images::pixels::Orientation;
use crate::images::scratch::{Scratch, room};

/// Decodes the first image of a file.
pub(super) fn decode(file: &[u8], limit: Limit, scratch: &mut Scratch) -> Result<Image, String> {
    let broken = |error: tiff::TiffError| format!("a broken TIFF ({error})");
    let mut limits = Limits::default();
    limits.decoding_buffer_size = limit.bytes();
    limits.intermediate_buffer_size = limit.bytes();
    let mut decoder = Decoder::new(Cursor::new(file)).map_err(broken)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(broken)?;
    let pixels = limit.check(width.into(), height.into())?;
    let kind = decoder.colortype().map_err(broken)?;
    let channels = match kind {
        ColorType::Gray(8 | 16) => 1,
        ColorType::GrayA(8 | 16) => 2,
        ColorType::RGB(8 | 16) => 3,
        ColorType::RGBA(8 | 16) | ColorType::CMYK(8 | 16) => 4,
        other => return Err(format!("a TIFF of {other:?}: wanted grey, RGB or CMYK")),
    };
    let raw = match decoder.read_image().map_err(broken)? {
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) => {
            samples.into_iter().map(|sample| sample.to_be_bytes()[0]).collect()
        }
        _ => return Err("a TIFF of signed numbers or floats: wanted 8 or 16 bits".into()),
    };
    scratch.raw = raw;
    if matches!(kind, ColorType::CMYK(_)) {
        cmyk_to_rgb(scratch, pixels)?;
    } else {
        to_rgb(scratch, pixels, channels)?;
    }
    let tag = decoder.find_tag_unsigned::<u16>(Tag::Orientation).ok().flatten();
    let orientation = tag.and_then(Orientation::of_exif).unwrap_or_default();
    Ok(Image { height, width, orientation })
}

/// Converts ink to light as Pillow does.
fn cmyk_to_rgb(scratch: &mut Scratch, pixels: usize) -> Result<(), String> {
    let Scratch { raw, rgb, .. } = scratch;
    let rgb = room(rgb, pixels * 3)?;
    let raw = raw.get(..pixels * 4).ok_or("fewer samples than pixels")?;
    for (out, ink) in rgb.chunks_exact_mut(3).zip(raw.chunks_exact(4)) {
        let light = u32::from(255 - ink[3]);
        for (sample, &ink) in out.iter_mut().zip(ink) {
            let product = light * u32::from(255 - ink) + 127;
            *sample = u8::try_from(product / 255).unwrap_or(255);
        }
    }
    Ok(())
}
