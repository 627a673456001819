//! RGB → the slot of a row: turned, mirrored, in the order and type of the batch.

use super::crop::Region;
use super::floats;
use super::recipe::{Crop, Float, Recipe, Samples};

/// How an image is to be turned, by the numbers of EXIF: 1 is upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation(u8);

impl Default for Orientation {
    fn default() -> Self {
        Self(1)
    }
}

impl Orientation {
    /// Returns the orientation of an EXIF tag, `None` unless it is 1 to 8.
    pub(super) fn of_exif(tag: u16) -> Option<Self> {
        u8::try_from(tag).ok().filter(|tag| (1..=8).contains(tag)).map(Self)
    }

    /// Returns whether rows become columns.
    fn is_transposed(self) -> bool {
        self.0 >= 5
    }

    /// Returns a height and width after turning, or before.
    pub(super) fn turned(self, (height, width): (u32, u32)) -> (u32, u32) {
        if self.is_transposed() { (width, height) } else { (height, width) }
    }

    /// Returns whether rows and columns of the stored image are counted from its end.
    ///
    /// First, those that become rows of the turned image.
    fn is_reversed(self) -> (bool, bool) {
        match self.0 {
            2 | 6 => (false, true),
            3 | 7 => (true, true),
            4 | 8 => (true, false),
            _ => (false, false),
        }
    }

    /// Returns where a region of the turned image lies in the stored one, of a height and width.
    pub(super) fn stored(self, region: Region, (height, width): (u32, u32)) -> Region {
        let (height, width) = self.turned((height, width));
        let (is_down, is_left) = self.is_reversed();
        let Region { mut left, mut top, width: w, height: h } = region;
        if is_down {
            top = f64::from(height) - top - h;
        }
        if is_left {
            left = f64::from(width) - left - w;
        }
        if self.is_transposed() {
            Region { left: top, top: left, width: h, height: w }
        } else {
            Region { left, top, width: w, height: h }
        }
    }
}

/// How to walk over the pixels of an image so that it is turned and mirrored.
#[derive(Debug, Clone, Copy)]
struct Walk {
    start: isize,
    down: isize,
    right: isize,
}

impl Walk {
    /// Returns the walk over a stored image of a width that becomes one of `height` and `width`.
    #[expect(clippy::cast_possible_wrap, reason = "an image is in memory, so these are not large")]
    fn over(orientation: Orientation, is_flipped: bool, (height, width): (usize, usize)) -> Self {
        let (height, width) = (height as isize, width as isize);
        let (mut down, mut right) =
            if orientation.is_transposed() { (1, height) } else { (width, 1) };
        let (is_down, is_left) = orientation.is_reversed();
        let mut start = 0;
        if is_down {
            start += (height - 1) * down;
            down = -down;
        }
        if is_left != is_flipped {
            start += (width - 1) * right;
            right = -right;
        }
        Self { start, down, right }
    }
}

/// Writes an image of `shown` pixels, turned already, into the middle of the slot of a row.
///
/// `rgb` is as it is stored.
pub(super) fn write(
    recipe: &Recipe,
    rgb: &[u8],
    orientation: Orientation,
    is_flipped: bool,
    shown: (u32, u32),
    size: (u32, u32),
    slot: &mut [u8],
) -> Result<(), String> {
    let shown = (shown.0 as usize, shown.1 as usize);
    let size = (size.0 as usize, size.1 as usize);
    let rgb = rgb.get(..shown.0 * shown.1 * 3).ok_or("fewer samples than pixels")?;
    let walk = Walk::over(orientation, is_flipped, shown);
    let place = Place { shown, size, channels_first: recipe.channels_first };
    let fill = match recipe.crop {
        Crop::Pad { fill } if shown != size => Some(fill),
        _ => None,
    };
    match recipe.samples {
        Samples::U8 => place.fill(rgb, walk, fill, slot, |_, sample| [sample]),
        Samples::Normalised { float: Float::F32, mean, std } => {
            let table = floats::table(mean, std, f32::to_ne_bytes);
            place.fill(rgb, walk, fill, slot, |channel, byte| table[channel][usize::from(byte)]);
        }
        Samples::Normalised { float, mean, std } => {
            let bytes = if float == Float::F16 { floats::f16_bytes } else { floats::bf16_bytes };
            let table = floats::table(mean, std, bytes);
            place.fill(rgb, walk, fill, slot, |channel, byte| table[channel][usize::from(byte)]);
        }
    }
    Ok(())
}

/// Where an image lies in its slot.
#[derive(Debug, Clone, Copy)]
struct Place {
    shown: (usize, usize),
    size: (usize, usize),
    channels_first: bool,
}

impl Place {
    /// Writes all samples, which `convert` makes from the channel and the byte.
    fn fill<const N: usize>(
        self,
        rgb: &[u8],
        walk: Walk,
        background: Option<[u8; 3]>,
        slot: &mut [u8],
        convert: impl Fn(usize, u8) -> [u8; N],
    ) {
        let ((shown_height, shown_width), (height, width)) = (self.shown, self.size);
        let (samples, _) = slot.as_chunks_mut::<N>();
        if let Some(fill) = background {
            for (at, sample) in samples.iter_mut().enumerate() {
                let channel = if self.channels_first { at / (height * width) } else { at % 3 };
                *sample = convert(channel, fill[channel]);
            }
        }
        let (top, left) = ((height - shown_height) / 2, (width - shown_width) / 2);
        let (pixels, _) = rgb.as_chunks::<3>();
        let mut row = walk.start;
        for y in 0..shown_height {
            let first = usize::try_from(row).expect("within the image");
            let start = (top + y) * width + left;
            let mut target = Target {
                samples,
                start,
                plane: self.channels_first.then_some(height * width),
                convert: &convert,
            };
            let stride = walk.right.unsigned_abs();
            match walk.right {
                1 => target.write(pixels[first..].iter().take(shown_width)),
                -1 => target.write(pixels[..=first].iter().rev().take(shown_width)),
                2.. => target.write(pixels[first..].iter().step_by(stride).take(shown_width)),
                _ => target.write(pixels[..=first].iter().rev().step_by(stride).take(shown_width)),
            }
            row += walk.down;
        }
    }
}

/// Where a row of pixels goes.
struct Target<'a, F, const N: usize> {
    samples: &'a mut [[u8; N]],
    /// The number of its first pixel.
    start: usize,
    /// The pixels of a channel, if channels follow one another.
    plane: Option<usize>,
    convert: &'a F,
}

impl<F: Fn(usize, u8) -> [u8; N], const N: usize> Target<'_, F, N> {
    #[inline]
    fn write<'p>(&mut self, pixels: impl Iterator<Item = &'p [u8; 3]>) {
        let Self { start, convert, .. } = *self;
        if let Some(plane) = self.plane {
            let (red, rest) = self.samples.split_at_mut(plane);
            let (green, blue) = rest.split_at_mut(plane);
            let planes = red[start..].iter_mut().zip(&mut green[start..]).zip(&mut blue[start..]);
            for (((red, green), blue), pixel) in planes.zip(pixels) {
                *red = convert(0, pixel[0]);
                *green = convert(1, pixel[1]);
                *blue = convert(2, pixel[2]);
            }
        } else {
            let (target, _) = self.samples[start * 3..].as_chunks_mut::<3>();
            for (out, pixel) in target.iter_mut().zip(pixels) {
                *out = [convert(0, pixel[0]), convert(1, pixel[1]), convert(2, pixel[2])];
            }
        }
    }
}

#[cfg(test)]
mod tests;
