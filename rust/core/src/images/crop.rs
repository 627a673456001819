//! Which part of an image is taken: pure, from the key of its row.

use super::draws::Draws;
use super::recipe::{Crop, Recipe};

/// Part of an image, in pixels, of which there may be fractions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Region {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// What becomes of an image as it is to be seen: turned already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    /// What is taken.
    pub(super) region: Region,
    /// Whether pixels around the region may count, as if all of the image were resized.
    pub(super) is_window: bool,
    /// The height and width it is resized to.
    pub(super) resized: (u32, u32),
    /// The height and width of the image of the batch.
    pub(super) size: (u32, u32),
    /// Whether it is mirrored.
    pub(super) is_flipped: bool,
}

/// What the draws of crops and of flips begin with, so that neither depends on the other.
const OF_CROP: u64 = 0x6372_6f70;
const OF_FLIP: u64 = 0x666c_6970;

/// Returns what becomes of an image of a height and width.
pub(super) fn plan(recipe: &Recipe, (height, width): (u32, u32), key: u64) -> Plan {
    let is_flipped = recipe.flip > 0.0 && Draws::new(key, OF_FLIP).unit() < recipe.flip;
    let whole = Region { left: 0.0, top: 0.0, width: width.into(), height: height.into() };
    let size = recipe.size.unwrap_or((height, width));
    let of = |region, is_window, resized| Plan { region, is_window, resized, size, is_flipped };
    match recipe.crop {
        Crop::Whole => of(whole, false, size),
        Crop::Random { scale, ratio } => {
            of(random(&mut Draws::new(key, OF_CROP), (height, width), scale, ratio), false, size)
        }
        Crop::Center { resize } => of(center((height, width), size, resize), true, size),
        Crop::Pad { .. } => of(whole, false, fitted((height, width), size)),
    }
}

/// Returns a part as torchvision's `RandomResizedCrop` chooses it.
fn random(
    draws: &mut Draws,
    (height, width): (u32, u32),
    scale: (f64, f64),
    ratio: (f64, f64),
) -> Region {
    let area = f64::from(height) * f64::from(width);
    let log_ratio = (libm::log(ratio.0), libm::log(ratio.1));
    for _ in 0..10 {
        let target = area * draws.between(scale);
        let aspect = libm::exp(draws.between(log_ratio));
        let w = (target * aspect).sqrt().round_ties_even();
        let h = (target / aspect).sqrt().round_ties_even();
        if w > 0.0 && w <= width.into() && h > 0.0 && h <= height.into() {
            let (w, h) = (whole(w), whole(h));
            let top = draws.below(height - h + 1);
            let left = draws.below(width - w + 1);
            return region(left, top, w, h);
        }
    }
    let own = f64::from(width) / f64::from(height);
    let (w, h) = if own < ratio.0 {
        (width, whole((f64::from(width) / ratio.0).round_ties_even()).clamp(1, height))
    } else if own > ratio.1 {
        (whole((f64::from(height) * ratio.1).round_ties_even()).clamp(1, width), height)
    } else {
        (width, height)
    };
    region((width - w) / 2, (height - h) / 2, w, h)
}

/// Returns what of an image the middle shows after its short side was resized.
///
/// The middle of an image that is smaller is all of it: it is made larger rather than padded.
fn center((height, width): (u32, u32), size: (u32, u32), resize: u32) -> Region {
    let short = height.min(width);
    let resized = |side: u32| {
        if side == short {
            resize
        } else {
            let long = u64::from(side) * u64::from(resize) / u64::from(short);
            u32::try_from(long).unwrap_or(u32::MAX)
        }
    };
    let (new_height, new_width) = (resized(height).max(1), resized(width).max(1));
    let along = |side: u32, new: u32, size: u32| {
        if new <= size {
            return (0.0, f64::from(side));
        }
        let ratio = f64::from(side) / f64::from(new);
        let start = (f64::from(new - size) / 2.0).round_ties_even();
        (start * ratio, f64::from(size) * ratio)
    };
    let (top, height) = along(height, new_height, size.0);
    let (left, width) = along(width, new_width, size.1);
    Region { left, top, width, height }
}

/// Returns the largest height and width within `size` of an image's own proportions.
fn fitted((height, width): (u32, u32), size: (u32, u32)) -> (u32, u32) {
    let (h, w) = (f64::from(size.0) / f64::from(height), f64::from(size.1) / f64::from(width));
    let along = |side: u32, scale: f64, most: u32| {
        whole((f64::from(side) * scale).round_ties_even()).clamp(1, most)
    };
    if h <= w { (size.0, along(width, h, size.1)) } else { (along(height, w, size.0), size.1) }
}

fn region(left: u32, top: u32, width: u32, height: u32) -> Region {
    Region { left: left.into(), top: top.into(), width: width.into(), height: height.into() }
}

/// Returns a whole number that is one already.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sides of images, and saturating"
)]
pub(super) fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests;
