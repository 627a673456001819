use super::*;
use proptest::prelude::*;

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
    let mut stream = super::super::bijection::SplitMix64(1);
    let offsets: Vec<u64> = (0..1_000_000).filter(|_| stream.next() & 1 == 0).collect();
    let bitmap = Bitmap::from_offsets(offsets.clone());
    assert!(bitmap.num_bytes() < 140_000, "{}", bitmap.num_bytes());
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

proptest! {
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
