//! A part of an image → the size of the batch, by `fast_image_resize`.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};

use super::crop::{Region, whole};
use super::recipe::{Interpolation, Recipe};
use super::scratch::{Scratch, room};

/// Resizes a region of `Scratch::rgb`, an image of a height and width, into `Scratch::resized`.
///
/// With `is_window`, pixels around the region count at its edges, as they do if the whole image is
/// resized and cut afterwards. Otherwise the region is cut first.
pub(super) fn resize(
    recipe: &Recipe,
    scratch: &mut Scratch,
    (height, width): (u32, u32),
    region: Region,
    is_window: bool,
    (new_height, new_width): (u32, u32),
) -> Result<(), String> {
    let Scratch { rgb, resized, resizer, .. } = scratch;
    let source = TypedImageRef::<U8x3>::from_buffer(
        width,
        height,
        rgb.get(..width as usize * height as usize * 3).ok_or("fewer samples than pixels")?,
    )
    .map_err(|error| error.to_string())?;
    let len = new_width as usize * new_height as usize * 3;
    let mut target = TypedImage::<U8x3>::from_buffer(new_width, new_height, room(resized, len)?)
        .map_err(|error| error.to_string())?;
    let options = ResizeOptions::new().resize_alg(algorithm(recipe));
    let done = if is_window {
        let Region { left, top, width, height } = region;
        resizer.resize_typed(&source, &mut target, &options.crop(left, top, width, height))
    } else {
        let cut = TypedCroppedImage::from_ref(
            &source,
            whole(region.left),
            whole(region.top),
            whole(region.width),
            whole(region.height),
        )
        .map_err(|error| error.to_string())?;
        resizer.resize_typed(&cut, &mut target, &options)
    };
    done.map_err(|error| error.to_string())
}

/// Returns how many pixels beyond the edge of a window of `length` pixels count at most, if it is resized to
/// `new` pixels.
pub(super) fn reach(recipe: &Recipe, length: f64, new: u32) -> f64 {
    let support = match recipe.interpolation {
        Interpolation::Nearest | Interpolation::Bilinear => 1.0,
        Interpolation::Bicubic => 2.0,
    };
    let scale = if recipe.antialias { length / f64::from(new) } else { 1.0 };
    support * scale.max(1.0) + 1.0
}

fn algorithm(recipe: &Recipe) -> ResizeAlg {
    let filter = match recipe.interpolation {
        Interpolation::Nearest => return ResizeAlg::Nearest,
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    if recipe.antialias { ResizeAlg::Convolution(filter) } else { ResizeAlg::Interpolation(filter) }
}
