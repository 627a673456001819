use super::*;
use crate::images::recipe::{Interpolation, Jitter, Samples};

fn recipe(crop: Crop, flip: f64) -> Recipe {
    Recipe {
        size: Some((224, 224)),
        crop,
        flip,
        interpolation: Interpolation::Bilinear,
        antialias: true,
        channels_first: true,
        samples: Samples::U8,
        jitter: Jitter::default(),
        exif: true,
        max_pixels: 1 << 26,
    }
}

const USUAL: Crop = Crop::Random { scale: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0) };

#[test]
fn crops_lie_within_the_image_and_have_the_distribution_of_torchvision() {
    let recipe = recipe(USUAL, 0.5);
    let (height, width) = (375, 500);
    let mut areas = 0.0;
    let mut logs = 0.0;
    let mut flips = 0.0;
    let count = 20_000;
    for key in 0..count {
        let plan = plan(&recipe, (height, width), key * 0x9e37_79b9);
        let Region { left, top, width: w, height: h } = plan.region;
        assert!(left >= 0.0 && top >= 0.0 && left + w <= 500.0 && top + h <= 375.0);
        areas += w * h / (375.0 * 500.0);
        logs += (w / h).ln();
        flips += f64::from(u8::from(plan.is_flipped));
    }
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let count = count as f64;
    // What 200,000 draws of torchvision's algorithm give on average. Those that do not fit are drawn
    // again, so large and upright ones are rarer than in a uniform distribution.
    assert!((areas / count - 0.433).abs() < 0.01, "{}", areas / count);
    assert!((logs / count - 0.031).abs() < 0.01, "{}", logs / count);
    assert!((flips / count - 0.5).abs() < 0.02);
}

#[test]
fn the_same_key_gives_the_same_crop() {
    let recipe = recipe(USUAL, 0.5);
    assert_eq!(plan(&recipe, (375, 500), 7), plan(&recipe, (375, 500), 7));
    assert_ne!(plan(&recipe, (375, 500), 7).region, plan(&recipe, (375, 500), 8).region);
}

#[test]
fn a_flip_changes_no_crop() {
    for key in 0..20 {
        let with = plan(&recipe(USUAL, 1.0), (375, 500), key);
        let without = plan(&recipe(USUAL, 0.0), (375, 500), key);
        assert_eq!(with.region, without.region);
        assert!(with.is_flipped && !without.is_flipped);
    }
}

#[test]
fn images_of_extreme_proportions_get_the_middle() {
    let at = |height, width| plan(&recipe(USUAL, 0.0), (height, width), 3).region;
    assert_eq!(at(1, 1000), region(499, 0, 1, 1));
    assert_eq!(at(3000, 3), region(0, 1498, 3, 4));
    assert_eq!(at(1, 1), region(0, 0, 1, 1));
}

#[test]
fn the_middle_is_that_of_the_resized_image() {
    let of = |resize, size| center(size, (224, 224), resize);
    // 256 x 341, of which 16 and 58 pixels are cut: half of 117 is rounded to the even number.
    let found = of(256, (375, 500));
    assert!((found.top - 16.0 * 375.0 / 256.0).abs() < 1e-9);
    assert!((found.left - 58.0 * 500.0 / 341.0).abs() < 1e-9);
    assert!((found.width - 224.0 * 500.0 / 341.0).abs() < 1e-9);
    // All of an image whose short side becomes smaller than wanted.
    assert_eq!(of(100, (50, 50)), region(0, 0, 50, 50));
}

#[test]
fn padded_images_keep_their_proportions() {
    assert_eq!(fitted((375, 500), (224, 224)), (168, 224));
    assert_eq!(fitted((500, 375), (224, 224)), (224, 168));
    assert_eq!(fitted((1, 1000), (224, 224)), (1, 224));
    assert_eq!(fitted((30, 30), (10, 20)), (10, 10));
}
