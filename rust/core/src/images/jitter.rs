//! Colours of an image that are changed at random: what torchvision's `ColorJitter` does to bytes.
//!
//! Numbers are 32-bit floats, in the order in which torchvision computes them, and cut off as it does.
//! `docs/determinism.md` publishes the algorithm.

use super::draws::Draws;
use super::recipe::Jitter;

/// What the draws begin with, so that neither crop nor flip depends on them.
const OF_JITTER: u64 = 0x6a69_7474_6572;

/// A change of colours.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
}

/// Changes the colours of an image as the key of its row says.
pub(super) fn apply(jitter: &Jitter, key: u64, pixels: &mut [[u8; 3]]) {
    for change in changes(jitter, key).into_iter().flatten() {
        match change {
            Change::Brightness(factor) => {
                let factor = single(factor);
                each_sample(pixels, |byte| cut(f32::from(byte) * factor));
            }
            Change::Contrast(factor) => {
                let mean = mean_grey(pixels);
                let blend = Blend::new(factor);
                each_sample(pixels, |byte| blend.of(byte, mean));
            }
            Change::Saturation(factor) => {
                let blend = Blend::new(factor);
                for pixel in pixels.iter_mut() {
                    let grey = grey(*pixel);
                    *pixel = pixel.map(|byte| blend.of(byte, grey));
                }
            }
            Change::Hue(part) => {
                let part = single(part);
                for pixel in pixels.iter_mut() {
                    *pixel = with_hue(*pixel, part);
                }
            }
        }
    }
}

/// Returns the changes in the order in which they are made.
///
/// All numbers are drawn whichever changes there are, so that one does not depend on another.
fn changes(jitter: &Jitter, key: u64) -> [Option<Change>; 4] {
    let mut draws = Draws::new(key, OF_JITTER);
    let mut order = [0, 1, 2, 3];
    for last in (1..4_u8).rev() {
        let other = draws.below(u32::from(last) + 1);
        order.swap(usize::from(last), other as usize);
    }
    let mut factor = |range: Option<(f64, f64)>| {
        let found = draws.between(range.unwrap_or_default());
        range.map(|_| found)
    };
    let changes = [
        factor(jitter.brightness).map(Change::Brightness),
        factor(jitter.contrast).map(Change::Contrast),
        factor(jitter.saturation).map(Change::Saturation),
        factor(jitter.hue).map(Change::Hue),
    ];
    order.map(|at: usize| changes[at])
}

/// Replaces each sample by what becomes of its byte.
fn each_sample(pixels: &mut [[u8; 3]], of: impl Fn(u8) -> u8) {
    let mut table = [0; 256];
    for (byte, sample) in (0_u8..=255).zip(&mut table) {
        *sample = of(byte);
    }
    for sample in pixels.as_flattened_mut() {
        *sample = table[usize::from(*sample)];
    }
}

/// A weighted mean of a byte and of a grey.
#[derive(Debug, Clone, Copy)]
struct Blend {
    factor: f32,
    rest: f32,
}

impl Blend {
    fn new(factor: f64) -> Self {
        Self { factor: single(factor), rest: single(1.0 - factor) }
    }

    fn of(self, byte: u8, grey: f32) -> u8 {
        cut(f32::from(byte) * self.factor + grey * self.rest)
    }
}

/// Returns the grey of a pixel, a whole number.
fn grey([red, green, blue]: [u8; 3]) -> f32 {
    let sum = f32::from(red) * 0.2989 + f32::from(green) * 0.587 + f32::from(blue) * 0.114;
    f32::from(cut(sum))
}

/// Returns the mean grey of an image.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn mean_grey(pixels: &[[u8; 3]]) -> f32 {
    // Whole numbers: the sum does not depend on the order.
    let sum: f64 = pixels.iter().map(|&pixel| f64::from(grey(pixel))).sum();
    single(sum / pixels.len().max(1) as f64)
}

/// Returns a pixel whose hue is turned by a part of its circle.
#[expect(clippy::float_cmp, reason = "the largest of three is one of them")]
fn with_hue(pixel: [u8; 3], part: f32) -> [u8; 3] {
    let [red, green, blue] = pixel.map(|byte| f32::from(byte) / 255.0);
    let most = red.max(green).max(blue);
    let range = most - red.min(green).min(blue);
    let saturation = if range == 0.0 { 0.0 } else { range / most };
    let by = if range == 0.0 { 1.0 } else { range };
    let [from_red, from_green, from_blue] =
        [(most - red) / by, (most - green) / by, (most - blue) / by];
    let sixths = if most == red {
        from_blue - from_green
    } else if most == green {
        (from_red + 2.0) - from_blue
    } else {
        (from_green + 4.0) - from_red
    };
    let hue = turned(turned(sixths * (1.0 / 6.0) + 1.0) + part) * 6.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 6")]
    let sector = hue as u8;
    let within = hue - f32::from(sector);
    let (faded, grey) = (saturation * within, 1.0 - saturation);
    let down = ((1.0 - faded) * most).clamp(0.0, 1.0);
    let up = ((faded + grey) * most).clamp(0.0, 1.0);
    let least = (grey * most).clamp(0.0, 1.0);
    let turned = match sector % 6 {
        0 => [most, up, least],
        1 => [down, most, least],
        2 => [least, most, up],
        3 => [least, down, most],
        4 => [up, least, most],
        _ => [most, least, down],
    };
    turned.map(|sample| cut(sample * 255.999))
}

/// Returns a number of at least -1 and less than 2 without its whole part: from 0 to 1.
fn turned(number: f32) -> f32 {
    if number >= 1.0 {
        number - 1.0
    } else if number < 0.0 {
        number + 1.0
    } else {
        number
    }
}

/// Returns a number within a byte, without its fraction.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "and saturating")]
fn cut(number: f32) -> u8 {
    number as u8
}

#[expect(clippy::cast_possible_truncation, reason = "as torch rounds factors")]
fn single(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Jitter = Jitter {
        brightness: Some((0.6, 1.4)),
        contrast: Some((0.5, 1.5)),
        saturation: Some((0.0, 2.0)),
        hue: Some((-0.5, 0.5)),
    };

    fn changed(jitter: Jitter, pixels: &[[u8; 3]]) -> Vec<[u8; 3]> {
        let mut pixels = pixels.to_vec();
        apply(&jitter, 3, &mut pixels);
        pixels
    }

    fn only(factor: f64) -> (f64, f64) {
        (factor, factor)
    }

    #[test]
    fn brightness_is_a_factor() {
        let jitter = Jitter { brightness: Some(only(1.5)), ..Jitter::default() };
        assert_eq!(changed(jitter, &[[0, 11, 200]]), [[0, 16, 255]]);
    }

    #[test]
    fn contrast_is_a_distance_from_the_mean_grey() {
        let jitter = Jitter { contrast: Some(only(0.5)), ..Jitter::default() };
        // The greys of these are 100 and 50, less what the weights lack to 1.
        assert_eq!(changed(jitter, &[[100; 3], [50; 3]]), [[87; 3], [62; 3]]);
        let none = Jitter { contrast: Some(only(0.0)), ..Jitter::default() };
        assert_eq!(changed(none, &[[100; 3], [50; 3]]), [[74; 3]; 2]);
    }

    #[test]
    fn without_saturation_there_is_grey() {
        let jitter = Jitter { saturation: Some(only(0.0)), ..Jitter::default() };
        assert_eq!(changed(jitter, &[[255, 0, 0], [0, 255, 0]]), [[76; 3], [149; 3]]);
        let more = Jitter { saturation: Some(only(2.0)), ..Jitter::default() };
        assert_eq!(changed(more, &[[200, 100, 100]]), [[255, 71, 71]]);
    }

    #[test]
    fn a_third_of_the_circle_makes_green_of_red() {
        let by = |part| Jitter { hue: Some(only(part)), ..Jitter::default() };
        let pixels = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9], [0, 0, 0]];
        let [red, green, blue, grey, black] = pixels;
        assert_eq!(changed(by(1.0 / 3.0), &pixels), [green, blue, red, grey, black]);
        assert_eq!(changed(by(-1.0 / 3.0), &pixels), [blue, red, green, grey, black]);
        assert_eq!(changed(by(0.0), &pixels), pixels);
    }

    #[test]
    fn all_hues_come_back_after_half_a_circle_twice() {
        let half = Jitter { hue: Some(only(0.5)), ..Jitter::default() };
        for red in (0..=255).step_by(17) {
            for green in (0..=255).step_by(15) {
                for blue in (0..=255).step_by(51) {
                    let pixel = [red, green, blue];
                    let [again] = changed(half, &changed(half, &[pixel]))[..] else { panic!() };
                    for (one, other) in again.into_iter().zip(pixel) {
                        assert!(one.abs_diff(other) <= 2, "{pixel:?} {again:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn changes_come_in_every_order_and_within_their_ranges() {
        let mut orders = std::collections::BTreeMap::new();
        let mut sum = 0.0;
        let count = 24_000;
        for key in 0..count {
            let mut order = Vec::new();
            for change in changes(&ALL, key).into_iter().flatten() {
                let (name, factor, (low, high)) = match change {
                    Change::Brightness(factor) => ('b', factor, (0.6, 1.4)),
                    Change::Contrast(factor) => ('c', factor, (0.5, 1.5)),
                    Change::Saturation(factor) => ('s', factor, (0.0, 2.0)),
                    Change::Hue(part) => ('h', part, (-0.5, 0.5)),
                };
                assert!(low <= factor && factor < high, "{change:?}");
                sum += (factor - low) / (high - low);
                order.push(name);
            }
            *orders.entry(order).or_insert(0_u32) += 1;
        }
        assert_eq!(orders.len(), 24);
        assert!(orders.values().all(|&of| (850..1150).contains(&of)), "{orders:?}");
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let mean = sum / (4 * count) as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_change_does_not_depend_on_others() {
        let alone = Jitter { saturation: ALL.saturation, ..Jitter::default() };
        for key in 0..50 {
            let [found] = changes(&alone, key).into_iter().flatten().collect::<Vec<_>>()[..] else {
                panic!("one change")
            };
            assert!(changes(&ALL, key).contains(&Some(found)));
        }
        assert_eq!(changes(&Jitter::default(), 5), [None; 4]);
    }

    #[test]
    fn factors_of_any_size_give_bytes() {
        let huge = Jitter { brightness: Some(only(1000.0)), contrast: Some(only(1000.0)), ..ALL };
        changed(huge, &[[0, 1, 255], [255, 254, 3]]);
        changed(ALL, &[]);
    }
}
