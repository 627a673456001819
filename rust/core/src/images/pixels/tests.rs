use super::*;
use crate::images::recipe::{Interpolation, Jitter};

fn recipe(channels_first: bool, samples: Samples) -> Recipe {
    Recipe {
        size: None,
        crop: Crop::Whole,
        flip: 0.0,
        interpolation: Interpolation::Bilinear,
        antialias: true,
        channels_first,
        samples,
        jitter: Jitter::default(),
        exif: true,
        max_pixels: 100,
    }
}

/// Two rows of three pixels, whose red is 1 to 6.
fn picture() -> Vec<u8> {
    (1..=6).flat_map(|red| [red, 100 + red, 200 + red]).collect()
}

fn reds(tag: u16, is_flipped: bool) -> Vec<Vec<u8>> {
    let orientation = Orientation::of_exif(tag).unwrap();
    let shown = orientation.turned((2, 3));
    let mut slot = [0; 18];
    let recipe = recipe(true, Samples::U8);
    write(&recipe, &picture(), orientation, is_flipped, shown, shown, &mut slot).unwrap();
    assert_eq!(slot[6] - slot[0], 100);
    assert_eq!(slot[17] - slot[5], 200);
    slot[..6].chunks(shown.1 as usize).map(<[u8]>::to_vec).collect()
}

#[test]
fn images_are_turned_as_exif_numbers_it() {
    assert_eq!(reds(1, false), [[1, 2, 3], [4, 5, 6]]);
    assert_eq!(reds(2, false), [[3, 2, 1], [6, 5, 4]]);
    assert_eq!(reds(3, false), [[6, 5, 4], [3, 2, 1]]);
    assert_eq!(reds(4, false), [[4, 5, 6], [1, 2, 3]]);
    assert_eq!(reds(5, false), [[1, 4], [2, 5], [3, 6]]);
    assert_eq!(reds(6, false), [[4, 1], [5, 2], [6, 3]]);
    assert_eq!(reds(7, false), [[6, 3], [5, 2], [4, 1]]);
    assert_eq!(reds(8, false), [[3, 6], [2, 5], [1, 4]]);
}

#[test]
fn a_flip_mirrors_what_was_turned() {
    for tag in 1..=8 {
        let mut mirrored = reds(tag, false);
        for row in &mut mirrored {
            row.reverse();
        }
        assert_eq!(reds(tag, true), mirrored, "{tag}");
    }
}

#[test]
fn regions_lie_where_their_pixels_are() {
    let all = picture();
    for tag in 1..=8 {
        let orientation = Orientation::of_exif(tag).unwrap();
        let turned = reds(tag, false);
        for (y, row) in turned.iter().enumerate() {
            for (x, &red) in row.iter().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let region = Region { left: x as f64, top: y as f64, width: 1.0, height: 1.0 };
                let Region { left, top, width, height } = orientation.stored(region, (2, 3));
                assert_eq!((width, height), (1.0, 1.0));
                let at = crate::images::crop::whole(top * 3.0 + left) as usize * 3;
                assert_eq!(all[at], red, "{tag}");
            }
        }
    }
}

#[test]
fn channels_may_come_last() {
    let mut slot = [0; 18];
    let recipe = recipe(false, Samples::U8);
    write(&recipe, &picture(), Orientation::default(), false, (2, 3), (2, 3), &mut slot).unwrap();
    assert_eq!(slot.as_slice(), picture());
}

#[test]
fn samples_may_be_normalised_floats() {
    let samples =
        Samples::Normalised { float: Float::F32, mean: [0.5, 0.0, 0.0], std: [0.25, 1.0, 2.0] };
    let mut slot = [0; 72];
    let recipe = recipe(true, samples);
    write(&recipe, &picture(), Orientation::default(), false, (2, 3), (2, 3), &mut slot).unwrap();
    let values: Vec<f32> =
        slot.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect();
    assert!((values[0] - (1.0 / 255.0 - 0.5) / 0.25).abs() < 1e-6);
    assert!((values[6] - 101.0 / 255.0).abs() < 1e-6);
    assert!((values[17] - 206.0 / 255.0 / 2.0).abs() < 1e-6);
}

#[test]
fn a_background_surrounds_smaller_images() {
    for channels_first in [true, false] {
        let mut recipe = recipe(channels_first, Samples::U8);
        recipe.crop = Crop::Pad { fill: [7, 8, 9] };
        let mut slot = [0; 4 * 3 * 3];
        write(&recipe, &picture(), Orientation::default(), false, (2, 3), (4, 3), &mut slot)
            .unwrap();
        let (step, pixel) = if channels_first { (12, 1) } else { (1, 3) };
        for (channel, fill) in [7, 8, 9].into_iter().enumerate() {
            let at = |place: usize| slot[channel * step + place * pixel];
            assert_eq!((at(0), at(11)), (fill, fill));
            assert_eq!(usize::from(at(3)), 100 * channel + 1);
        }
    }
}

#[test]
fn too_few_pixels_are_an_error() {
    let recipe = recipe(true, Samples::U8);
    let short = &picture()[..15];
    let result = write(&recipe, short, Orientation::default(), false, (2, 3), (2, 3), &mut [0; 18]);
    assert!(result.is_err());
}
