//! What decoders return and share.

use crate::images::pixels::Orientation;
use crate::images::scratch::{Scratch, room};

/// An image that was decoded: what its pixels in `Scratch::rgb` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The number of rows of pixels, as they are stored.
    pub height: u32,
    /// The number of pixels in each.
    pub width: u32,
    /// How they are to be turned.
    pub orientation: Orientation,
}

/// The most pixels of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(pub(super) u64);

impl Limit {
    /// Returns the number of pixels, if it is allowed.
    pub(super) fn check(self, width: u64, height: u64) -> Result<usize, String> {
        let pixels = u128::from(width) * u128::from(height);
        if pixels == 0 {
            return Err(format!("an image of {width} x {height} pixels"));
        }
        if pixels > u128::from(self.0) {
            return Err(format!("{width} x {height} are more than max_pixels={} pixels", self.0));
        }
        usize::try_from(pixels).map_err(|_| format!("an image of {width} x {height} pixels"))
    }

    /// Returns the bytes that so many pixels may take in a decoder, several times over.
    pub(super) fn bytes(self) -> usize {
        usize::try_from(self.0.saturating_mul(16)).unwrap_or(usize::MAX).max(1 << 20)
    }
}

/// Writes samples of 1 to 4 channels to `Scratch::rgb`.
pub(super) fn to_rgb(scratch: &mut Scratch, pixels: usize, channels: usize) -> Result<(), String> {
    let Scratch { raw, rgb, .. } = scratch;
    let rgb = room(rgb, pixels * 3)?;
    let raw = raw.get(..pixels * channels).ok_or("fewer samples than pixels")?;
    match channels {
        1 | 2 => {
            for (out, from) in rgb.chunks_exact_mut(3).zip(raw.chunks_exact(channels)) {
                out.fill(from[0]);
            }
        }
        3 => rgb.copy_from_slice(raw),
        4 => {
            for (out, from) in rgb.chunks_exact_mut(3).zip(raw.chunks_exact(4)) {
                out.copy_from_slice(&from[..3]);
            }
        }
        _ => return Err(format!("{channels} channels: wanted 1 to 4")),
    }
    Ok(())
}

/// Returns a side of an image.
pub(super) fn side(length: usize) -> Result<u32, String> {
    u32::try_from(length).map_err(|_| format!("a side of {length} pixels"))
}
