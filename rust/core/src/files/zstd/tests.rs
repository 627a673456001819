use arrow_buffer::MutableBuffer;
use lance_encoding::encodings::physical::block::{
    CompressionConfig, CompressionScheme, GeneralBufferCompressor,
};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::{LENGTH_BYTES, MAGICNUMBER, append, frame_of};

/// Stores a value as Lance does.
fn stored(value: &[u8]) -> Vec<u8> {
    let config = CompressionConfig::new(CompressionScheme::Zstd, None);
    let compressor = GeneralBufferCompressor::get_compressor(config).expect("zstd is built in");
    let mut out = Vec::new();
    compressor.compress(value, &mut out).expect("values can be compressed");
    out
}

proptest! {
    #[test]
    fn values_are_appended(front in vec(any::<u8>(), 0..100), value in vec(0_u8..4, 0..100_000)) {
        let stored = stored(&value);
        let (len, frame) = frame_of(&stored).unwrap().expect("a frame behind its length");
        assert_eq!(len, value.len());
        let mut out = MutableBuffer::new(0);
        out.extend_from_slice(&front);
        append(frame, len, &mut out).expect("a whole frame");
        assert_eq!(out.as_slice(), [front, value].concat());
    }

    #[test]
    fn a_cut_frame_appends_nothing(value in vec(any::<u8>(), 1..1000), cut in 1_usize..1000) {
        let stored = stored(&value);
        let (len, frame) = frame_of(&stored).unwrap().expect("a frame behind its length");
        let kept = frame.len().saturating_sub(cut);
        let mut out = MutableBuffer::new(0);
        out.extend_from_slice(b"front");
        assert!(append(&frame[..kept], len, &mut out).is_err());
        assert_eq!(out.as_slice(), b"front");
    }
}

#[test]
fn a_value_may_be_empty() {
    let stored = stored(b"");
    let (len, frame) = frame_of(&stored).unwrap().expect("a frame behind its length");
    let mut out = MutableBuffer::new(0);
    append(frame, len, &mut out).expect("a whole frame");
    assert!(out.is_empty());
}

#[test]
fn what_is_stored_in_another_way_is_left_to_lance() {
    let whole = stored(&[7; 1000]);
    assert_eq!(frame_of(&whole[LENGTH_BYTES..]), Ok(None), "a frame without its length");
    assert_eq!(frame_of(&whole[..LENGTH_BYTES]), Ok(None), "a length without a frame");
    assert_eq!(frame_of(b""), Ok(None));
}

#[test]
fn every_flipped_bit_of_the_length_is_noticed() {
    let whole = stored(&[7; 1000]);
    for bit in 0..8 * LENGTH_BYTES {
        let mut other = whole.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(frame_of(&other).is_err(), "bit {bit}");
    }
}

#[test]
fn no_memory_is_asked_for_a_length_that_a_frame_cannot_hold() {
    for len in [1_u64 << 36, 1 << 46, 7 << 60, u64::MAX - 16] {
        let len = len.to_le_bytes();
        // A frame of one segment whose content size has eight bytes.
        let frame = [&MAGICNUMBER.to_le_bytes()[..], &[0xE0], &len, &[0; 100]].concat();
        assert!(frame_of(&[&len[..], &frame].concat()).is_err());
    }
}

#[test]
fn a_frame_longer_than_announced_appends_nothing() {
    let whole = stored(&[7; 1000]);
    let mut out = MutableBuffer::new(0);
    assert!(append(&whole[LENGTH_BYTES..], 999, &mut out).is_err());
    assert!(out.is_empty());
}
