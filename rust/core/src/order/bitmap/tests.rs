use super::super::bijection::SplitMix64;
use super::*;
use proptest::prelude::*;

type OneWay = fn(&Bitmap, &mut [u64]);

/// Both directions, as the processor at hand and as any other takes them.
const WAYS: [(OneWay, OneWay); 2] = [
    (Bitmap::apply, Bitmap::invert),
    (
        |bitmap, positions| Select { bitmap, positions }.run(Processor::ANY),
        |bitmap, offsets| Rank { bitmap, offsets }.run(Processor::ANY),
    ),
];

/// Looks members up in an order of their own, and offsets that are none.
fn check_anywhere(bitmap: &Bitmap, offsets: &[u64]) {
    let mut stream = SplitMix64(3);
    let len = offsets.len() as u64;
    let count = if offsets.is_empty() { 0 } else { 1000 };
    let positions: Vec<u64> = (0..count).map(|_| stream.below(len)).collect();
    let at = |position: &u64| offsets[usize::try_from(*position).unwrap()];
    let members: Vec<u64> = positions.iter().map(at).collect();
    let asked: Vec<u64> = (0..1000)
        .map(|_| stream.below(bitmap.last().unwrap_or(0).saturating_add(70_000)))
        .collect();
    let found = |offset: &u64| offsets.binary_search(offset).map_or(NOWHERE, |at| at as u64);
    let found: Vec<u64> = asked.iter().map(found).collect();
    for (apply, invert) in WAYS {
        let mut values = positions.clone();
        apply(bitmap, &mut values);
        assert_eq!(values, members);
        invert(bitmap, &mut values);
        assert_eq!(values, positions);
        let mut values = asked.clone();
        invert(bitmap, &mut values);
        assert_eq!(values, found);
    }
}

fn check(offsets: &[u64]) {
    let bitmap = Bitmap::from_offsets(offsets.to_vec());
    assert_eq!(bitmap.len(), offsets.len() as u64);
    assert_eq!(bitmap.last(), offsets.last().copied());
    for (position, &offset) in (0..).zip(offsets) {
        assert_eq!(bitmap.select(position), Some(offset));
        assert_eq!(bitmap.rank(offset), position);
        assert!(bitmap.contains(offset));
        let next = offset + 1;
        let inside = offsets.binary_search(&next).is_ok();
        assert_eq!(bitmap.contains(next), inside);
        assert_eq!(bitmap.rank(next), position + 1);
    }
    assert_eq!(bitmap.select(bitmap.len()), None);
    for start in [0, 1, offsets.len() / 3, offsets.len() / 2 + 1] {
        let wanted = offsets.get(start..).unwrap_or_default();
        let wanted = &wanted[..wanted.len() * 7 / 8];
        let mut filled = vec![0; wanted.len()];
        bitmap.fill(start as u64, &mut filled);
        assert_eq!(filled, wanted);
        let positions = start as u64..(start + wanted.len()) as u64;
        bitmap.invert(&mut filled);
        assert!(filled.into_iter().eq(positions));
    }
    check_anywhere(&bitmap, offsets);
    assert_eq!(Bitmap::from_bytes(&bitmap.to_bytes()).unwrap(), bitmap);
}

fn kinds(bitmap: &Bitmap) -> Vec<&'static str> {
    let kind = |chunk: &Chunk| match chunk {
        Chunk::Runs(_) => "runs",
        Chunk::List(_) => "list",
        Chunk::Bits(_) => "bits",
    };
    bitmap.chunks.iter().map(kind).collect()
}

#[test]
fn each_form_selects_and_ranks() {
    check(&[]);
    check(&[0]);
    check(&[u64::MAX - 1]);
    let full: Vec<u64> = (0..3 * 65_536).collect();
    check(&full);
    let bitmap = Bitmap::from_offsets(full);
    assert_eq!(kinds(&bitmap), ["runs"; 3]);
    assert!(bitmap.num_bytes() < 256);

    let even: Vec<u64> = (0..65_536).map(|i| 2 * i).collect();
    check(&even);
    assert_eq!(kinds(&Bitmap::from_offsets(even)), ["bits"; 2]);

    let sparse: Vec<u64> = (0..50).map(|i| i * i * 7919).collect();
    check(&sparse);
    assert!(kinds(&Bitmap::from_offsets(sparse)).contains(&"list"));

    let alternating_words: Vec<u64> = (0..65_536).filter(|i| i % 4 < 3).collect();
    check(&alternating_words);
}

#[test]
fn random_half_of_the_rows_costs_about_a_bit_each() {
    let mut stream = SplitMix64(1);
    let offsets: Vec<u64> = (0..1_000_000).filter(|_| stream.next() & 1 == 0).collect();
    let bitmap = Bitmap::from_offsets(offsets.clone());
    assert!(bitmap.num_bytes() < 145_000, "{}", bitmap.num_bytes());
    check(&offsets[..70_000]);
}

#[test]
fn ranges_are_the_offsets_in_them() {
    let mut builder = BitmapBuilder::default();
    let mut wanted = Vec::new();
    for (start, end) in [(3, 3), (5, 9), (9, 12), (65_530, 200_000), (200_001, 200_002)] {
        builder.push_range(start, end);
        wanted.extend(start..end);
    }
    assert_eq!(builder.finish(), Bitmap::from_offsets(wanted));
}

#[test]
fn foreign_bytes_are_refused() {
    let good = Bitmap::from_offsets(vec![1, 5, 70_000]).to_bytes();
    for cut in 0..good.len() {
        assert!(Bitmap::from_bytes(&good[..cut]).is_err(), "{cut}");
    }
    assert!(Bitmap::from_bytes(&[good.as_slice(), &[0]].concat()).is_err());
    assert!(Bitmap::from_bytes(b"something else, of some length").is_err());
}

#[test]
fn any_density_is_looked_up_anywhere() {
    let mut stream = SplitMix64(2);
    for one_of in [1, 2, 3, 10, 15, 16, 100, 3000, 100_000] {
        let kept = |_: &u64| stream.below(one_of) == 0;
        let some: Vec<u64> = (0..200_000).filter(kept).collect();
        let but_some = (0..200_000).filter(|row| some.binary_search(row).is_err()).collect();
        for offsets in [some.clone(), but_some] {
            check_anywhere(&Bitmap::from_offsets(offsets.clone()), &offsets);
        }
    }
}

#[test]
fn members_at_the_borders_of_words_blocks_and_chunks() {
    for distance in [63, 64, 65, 255, 256, 257, 8191, 8192, 8193, 65_535, 65_536, 65_537] {
        let thin: Vec<u64> = (0..40).map(|k| k * distance).collect();
        check(&thin);
        // Among so many others that every chunk is a bitset.
        let is_kept = |row: &u64| {
            let is_some = row.is_multiple_of(2) && (row / distance).is_multiple_of(2);
            is_some || row.is_multiple_of(distance)
        };
        let dense: Vec<u64> = (0..150_000).filter(is_kept).collect();
        check_anywhere(&Bitmap::from_offsets(dense.clone()), &dense);
        // All members of a chunk in its last block, or none there.
        let first = 65_536 * 3 - distance.min(20_000);
        let last: Vec<u64> = (first..65_536 * 3).filter(|row| row % 5 != 0).collect();
        check_anywhere(&Bitmap::from_offsets(last.clone()), &last);
    }
}

#[test]
fn full_chunks_and_empty_ones_stand_between_others() {
    let mut offsets: Vec<u64> = (0..10).collect();
    offsets.extend(65_536 * 7..65_536 * 9);
    offsets.extend((65_536 * 9..65_536 * 10).step_by(2));
    offsets.extend((65_536 * 10..65_536 * 300).step_by(65_536));
    offsets.push(u64::MAX - 70_001);
    let bitmap = Bitmap::from_offsets(offsets.clone());
    for (apply, invert) in WAYS {
        let positions: Vec<u64> = (0..bitmap.len()).rev().collect();
        let mut values = positions.clone();
        apply(&bitmap, &mut values);
        assert!(values.iter().eq(offsets.iter().rev()));
        invert(&bitmap, &mut values);
        assert_eq!(values, positions);
    }
}

#[test]
fn bytes_of_every_form_are_read_as_ever() {
    let places: Vec<u16> = (0..5000).map(|k| k * 13).collect();
    let mut bits = vec![0_u64; 1024];
    let mut list = vec![1];
    list.extend(4999_u16.to_le_bytes());
    for &place in &places {
        bits[usize::from(place) / 64] |= 1 << (place % 64);
        list.extend(place.to_le_bytes());
    }
    let bits = [vec![2], bits.iter().flat_map(|word| word.to_le_bytes()).collect()].concat();
    let runs = [&[0][..], &[1, 0], &[3, 0, 44, 1], &[200, 1, 200, 1]].concat();
    let mut bytes = 3_u64.to_le_bytes().to_vec();
    for (key, chunk) in [(0_u64, bits), (2, list), (5, runs)] {
        bytes.extend(key.to_le_bytes());
        bytes.extend(chunk);
    }
    let members = |key: u64| places.iter().map(move |&place| key << 16 | u64::from(place));
    let mut wanted: Vec<u64> = members(0).chain(members(2)).collect();
    wanted.extend((3..=300).chain([456]).map(|place| 5 << 16 | place));
    let read = Bitmap::from_bytes(&bytes).unwrap();
    assert_eq!(kinds(&read), ["bits", "list", "runs"]);
    check_anywhere(&read, &wanted);
    assert_eq!(read.to_bytes(), bytes);
}

proptest! {
    #[test]
    fn any_bits_select_and_rank(words in prop::collection::vec(any::<u64>(), 1..40), shift in 0_u32..64) {
        // Thinner from word to word, and as many times over as make a bitset.
        let mut offsets = Vec::new();
        for (at, word) in (0..2000).zip(words.iter().cycle()) {
            let word = if at % 3 == 0 { *word } else { word >> shift };
            offsets.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| at * 64 + bit));
        }
        check_anywhere(&Bitmap::from_offsets(offsets.clone()), &offsets);
    }

    #[test]
    fn any_set_of_runs_selects_and_ranks(
        gaps in prop::collection::vec((1_u64..30_000, 1_u64..4_000), 0..40),
    ) {
        let mut offsets = Vec::new();
        let mut at = 0;
        for (gap, run) in gaps {
            at += gap;
            offsets.extend(at..at + run);
            at += run;
        }
        check(&offsets);
    }
}
