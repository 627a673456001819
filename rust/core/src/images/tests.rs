use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, LargeBinaryArray, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use proptest::prelude::*;

use super::*;
use crate::Error;

fn recipe() -> Recipe {
    Recipe {
        size: Some((4, 6)),
        crop: Crop::Whole,
        flip: 0.0,
        interpolation: Interpolation::Bilinear,
        antialias: true,
        channels_first: true,
        samples: Samples::U8,
        jitter: Jitter::default(),
        exif: true,
        max_pixels: 1 << 20,
    }
}

fn jittered(jitter: Jitter) -> Recipe {
    Recipe { jitter, ..recipe() }
}

/// A PNG of one colour for each row of pixels.
fn png(height: u32, width: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(::png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    let samples: Vec<u8> =
        (0..height).flat_map(|y| [u8::try_from(y).unwrap(), 1, 2].repeat(width as usize)).collect();
    writer.write_image_data(&samples).unwrap();
    drop(writer);
    file
}

fn column(files: &[Option<&[u8]>]) -> ArrayRef {
    Arc::new(files.iter().copied().collect::<BinaryArray>())
}

#[test]
fn rows_lie_in_their_slots_whatever_happens_to_others() {
    let (small, large) = (png(4, 6), png(9, 7));
    let truncated = &large[..large.len() / 2];
    let files = column(&[Some(&small), None, Some(truncated), Some(b"text"), Some(&small)]);
    let decoded = decode(&files, &recipe(), None, 3).unwrap();
    assert_eq!(decoded.nulls, [1]);
    assert_eq!(decoded.faults.iter().map(|fault| fault.row).collect::<Vec<_>>(), [2, 3]);
    assert!(decoded.faults[0].reason.contains("PNG"), "{:?}", decoded.faults);
    assert!(decoded.faults[1].reason.contains("74 65 78 74"), "{:?}", decoded.faults);
    let samples = decoded.samples[0].as_slice();
    assert_eq!(samples.len(), 5 * 72);
    assert_eq!(samples[..72], samples[4 * 72..]);
    assert_eq!(samples[18..24], [3; 6]);
    assert_eq!(samples[72..144], [0; 72]);
}

#[test]
fn images_may_keep_their_sizes() {
    let recipe = Recipe { size: None, channels_first: false, ..recipe() };
    let (small, large) = (png(4, 6), png(9, 7));
    let decoded = decode(&column(&[Some(&small), None, Some(&large)]), &recipe, None, 2).unwrap();
    assert_eq!(decoded.sizes, [(4, 6), (0, 0), (9, 7)]);
    assert_eq!(decoded.samples[2].len(), 9 * 7 * 3);
    assert_eq!(decoded.samples[2][7 * 3 * 8..][..3], [8, 1, 2]);
}

#[test]
fn other_columns_of_bytes_are_files_too() {
    let file = png(4, 6);
    let wanted = decode(&column(&[Some(&file)]), &recipe(), None, 1).unwrap().samples;
    let large: ArrayRef = Arc::new(LargeBinaryArray::from(vec![file.as_slice()]));
    assert_eq!(decode(&large, &recipe(), None, 1).unwrap().samples, wanted);
    let bytes = Arc::new(Field::new("bytes", DataType::LargeBinary, true));
    let with_path: ArrayRef = Arc::new(StructArray::from(vec![(bytes, large)]));
    assert_eq!(decode(&with_path, &recipe(), None, 1).unwrap().samples, wanted);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    assert!(matches!(decode(&text, &recipe(), None, 1), Err(Error::Invalid { .. })));
}

#[test]
fn what_is_random_needs_keys() {
    let random = Recipe { flip: 0.5, ..recipe() };
    let file = png(4, 6);
    let files = column(&[Some(&file)]);
    assert!(matches!(decode(&files, &random, None, 1), Err(Error::Invalid { .. })));
    assert!(matches!(decode(&files, &random, Some(vec![1, 2]), 1), Err(Error::Invalid { .. })));
    assert!(decode(&files, &random, Some(vec![1]), 1).unwrap().faults.is_empty());
    assert_eq!(decode(&column(&[]), &random, Some(vec![]), 1).unwrap().samples[0].len(), 0);
}

#[test]
fn recipes_that_cannot_be_followed_are_refused() {
    let wrong = [
        Recipe { size: Some((0, 4)), ..recipe() },
        Recipe { size: Some((1 << 20, 1 << 20)), ..recipe() },
        Recipe { flip: 1.5, ..recipe() },
        Recipe { flip: f64::NAN, ..recipe() },
        Recipe { crop: Crop::Center { resize: 0 }, ..recipe() },
        Recipe { crop: Crop::Random { scale: (0.0, 1.0), ratio: (1.0, 1.0) }, ..recipe() },
        Recipe { crop: Crop::Random { scale: (0.5, 0.1), ratio: (1.0, 1.0) }, ..recipe() },
        jittered(Jitter { brightness: Some((-0.1, 1.0)), ..Jitter::default() }),
        jittered(Jitter { contrast: Some((1.5, 1.0)), ..Jitter::default() }),
        jittered(Jitter { saturation: Some((0.0, f64::INFINITY)), ..Jitter::default() }),
        jittered(Jitter { hue: Some((-0.6, 0.1)), ..Jitter::default() }),
        jittered(Jitter { hue: Some((f64::NAN, 0.1)), ..Jitter::default() }),
    ];
    for recipe in wrong {
        assert!(matches!(recipe.check(), Err(Error::Invalid { .. })), "{recipe:?}");
    }
}

#[test]
fn bombs_are_refused_before_they_take_memory() {
    let recipe = Recipe { max_pixels: 53, ..recipe() };
    let (small, large) = (png(6, 9), png(5, 9));
    let decoded = decode(&column(&[Some(&small), Some(&large)]), &recipe, None, 1).unwrap();
    assert_eq!(decoded.faults.len(), 1);
    assert_eq!(decoded.faults[0].reason, "9 x 6 are more than max_pixels=53 pixels");
}

/// Files of each kind, by their first bytes or whole, to be damaged.
fn starts() -> Vec<Vec<u8>> {
    vec![
        png(5, 7),
        include_bytes!("samples/baseline.jpg").to_vec(),
        include_bytes!("samples/tall-420.jpg").to_vec(),
        include_bytes!("samples/progressive.jpg").to_vec(),
        include_bytes!("samples/lossy.webp").to_vec(),
        include_bytes!("samples/lossless.webp").to_vec(),
        include_bytes!("samples/frames.gif").to_vec(),
        include_bytes!("samples/grey.bmp").to_vec(),
        include_bytes!("samples/lzw.tiff").to_vec(),
        b"II*\0".to_vec(),
        b"BM".to_vec(),
    ]
}

#[test]
fn all_kinds_are_decoded() {
    for file in &starts()[..9] {
        let image = decode_any(file, 1 << 20, &mut Scratch::default());
        assert!(image.is_ok(), "{image:?} of {:?}", &file[..4]);
    }
}

#[test]
fn the_upper_rows_are_those_of_the_whole_image() {
    let files: [(&[u8], u32, u32); 2] = [
        (include_bytes!("samples/tall-444.jpg"), 8, 0),
        (include_bytes!("samples/tall-420.jpg"), 16, 1),
    ];
    for (file, unit, more) in files {
        let mut whole = Scratch::default();
        let image = decode_any(file, 1 << 20, &mut whole).unwrap();
        let row_len = image.width as usize * 3;
        for rows in 1..=image.height {
            let mut scratch = Scratch::default();
            let found = decode::decode_rows(file, 1 << 20, &mut scratch, &|_| rows).unwrap();
            assert_eq!(found, image);
            assert_eq!(scratch.rgb.len(), image.height as usize * row_len);
            let upper = ..rows as usize * row_len;
            assert!(scratch.rgb[upper] == whole.rgb[upper], "{rows} rows");
            let num_decoded = ((rows.div_ceil(unit) + more) * unit).min(image.height);
            let lower = &scratch.rgb[num_decoded as usize * row_len..];
            assert!(lower.iter().all(|&sample| sample == 0), "{rows} rows");
        }
    }
}

/// Damages a file as a fuzzer does: bytes, numbers and parts of it, and of another file.
fn mutate(file: &mut Vec<u8>, others: &[Vec<u8>], draws: &mut draws::Draws) {
    const NUMBERS: [&[u8]; 8] = [
        &[0],
        &[0xff],
        &[0x7f, 0xff],
        &[0xff, 0xff],
        &[0, 0],
        &[0xff, 0xd9],
        &[0xff, 0xda],
        &[0xff; 4],
    ];
    for _ in 0..=draws.below(6) {
        let mut below = |end: usize| draws.below(u32::try_from(end.max(1)).unwrap()) as usize;
        let (at, len) = (below(file.len()), 1 + below(32));
        let end = (at + len).min(file.len());
        match below(8) {
            0 if !file.is_empty() => file[at] ^= 1 << below(8),
            1 if !file.is_empty() => file[at] = u8::try_from(below(256)).unwrap(),
            2 => {
                let number = NUMBERS[below(NUMBERS.len())];
                let end = (at + number.len()).min(file.len());
                file.splice(at..end, number.iter().copied());
            }
            3 => drop(file.drain(at..end)),
            4 => {
                let part = file[at..end].to_vec();
                file.splice(at..at, part);
            }
            5 => {
                let other = &others[below(others.len())];
                let from = below(other.len());
                let part = other[from..(from + len).min(other.len())].to_vec();
                file.splice(at..end, part);
            }
            // What is near the beginning matters most.
            6 if file.len() > 64 => file[at % 64] = u8::try_from(below(256)).unwrap(),
            7 if below(8) == 0 => file.truncate(at),
            _ => (),
        }
    }
}

/// What the fuzz target does, without nightly: `FUZZ_SECONDS=300 cargo test -p lanceloader-core --lib fuzz -- --ignored`.
#[test]
#[ignore = "minutes"]
fn fuzzed_files_are_values_or_errors() {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seconds = std::time::Duration::from_secs(number("FUZZ_SECONDS", 60));
    let seed = number("FUZZ_SEED", 0);
    let start = std::time::Instant::now();
    let originals = starts();
    let first = u32::try_from(originals.len()).unwrap();
    let mut corpus = originals.clone();
    let mut draws = draws::Draws::new(seed, 0);
    let mut scratch = Scratch::default();
    let (mut count, mut decoded) = (0_u64, 0_u64);
    let mut panics = std::collections::BTreeMap::new();
    while start.elapsed() < seconds {
        let from = draws.below(u32::try_from(corpus.len()).unwrap()) as usize;
        let mut file = corpus[from].clone();
        mutate(&mut file, &originals, &mut draws);
        let rows = draws.below(40);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            decode::decode_rows(&file, 1 << 16, &mut scratch, &|image| rows.min(image.height))
        }));
        count += 1;
        match tried {
            Ok(Ok(image)) => {
                assert!(u64::from(image.height) * u64::from(image.width) <= 1 << 16);
                decoded += 1;
                // Damaged files that can be decoded are damaged further.
                if corpus.len() < 4096 && file.len() < 1 << 16 {
                    corpus.push(file);
                } else if corpus.len() == 4096 {
                    let at = first + draws.below(4096 - first);
                    corpus[at as usize] = file;
                }
            }
            Ok(Err(reason)) => assert!(!reason.is_empty()),
            Err(panic) => {
                scratch = Scratch::default();
                let reason = crate::error::text_of_panic(&*panic);
                let key = format!("{:?} {reason}", &file[..file.len().min(4)]);
                let path = std::env::temp_dir().join(format!("fuzz-{seed}-{}", panics.len()));
                panics.entry(key).or_insert_with(|| std::fs::write(path, &file).is_ok());
            }
        }
        let kept = scratch.raw.capacity() + scratch.rgb.capacity();
        assert!(kept < 64 << 20, "{kept} bytes of memory");
    }
    assert!(panics.is_empty(), "{count} files, {decoded} decoded: {panics:#?}");
    assert!(decoded > 0, "{count} files");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Truncated, overwritten and extended files are decoded or refused, within limits.
    #[test]
    fn damaged_files_are_values_or_errors(
        kind in 0..11_usize,
        keep in 0.0..=1.0_f64,
        changes in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut file = starts()[kind].clone();
        let at = |share: f64, len: usize| crop::whole(share * f64::from(u32::try_from(len).unwrap())) as usize;
        for (place, byte) in changes {
            let place = at(place, file.len());
            file[place] = byte;
        }
        file.truncate(at(keep, file.len()));
        file.extend(tail);
        let recipe = Recipe { max_pixels: 10_000, ..recipe() };
        let decoded = decode(&column(&[Some(&file)]), &recipe, None, 1).unwrap();
        for fault in &decoded.faults {
            prop_assert!(!fault.reason.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_values_or_errors(file in prop::collection::vec(any::<u8>(), 0..200)) {
        let decoded = decode(&column(&[Some(&file)]), &recipe(), None, 1).unwrap();
        prop_assert_eq!(decoded.faults.len(), 1);
    }
}
