use arrow_buffer::MutableBuffer;
use lance_encoding::encodings::physical::block::{
    CompressionConfig, CompressionScheme, GeneralBufferCompressor,
};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::{LENGTH_BYTES, append, frame_of};

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
        let (len, frame) = frame_of(&stored).expect("a frame behind its length");
        assert_eq!(len, value.len());
        let mut out = MutableBuffer::new(0);
        out.extend_from_slice(&front);
        append(frame, len, &mut out).expect("a whole frame");
        assert_eq!(out.as_slice(), [front, value].concat());
    }

    #[test]
    fn a_cut_frame_appends_nothing(value in vec(any::<u8>(), 1..1000), cut in 1_usize..1000) {
        let stored = stored(&value);
        let (len, frame) = frame_of(&stored).expect("a frame behind its length");
        let kept = frame.len().saturating_sub(cut);
        let mut out = MutableBuffer::new(0);
        out.extend_from_slice(b"front");
        assert!(append(&frame[..kept], len, &mut out).is_err());
        assert_eq!(out.as_slice(), b"front");
    }
}

#[test]
fn what_is_stored_in_another_way_is_left_to_lance() {
    let whole = stored(&[7; 1000]);
    assert!(frame_of(&whole[LENGTH_BYTES..]).is_none(), "a frame without its length");
    assert!(frame_of(&whole[..LENGTH_BYTES]).is_none(), "a length without a frame");
    assert!(frame_of(b"").is_none());
    let mut longer = whole;
    longer[0] ^= 1;
    assert!(frame_of(&longer).is_none(), "another length than that of the frame");
}

#[test]
fn a_frame_longer_than_announced_appends_nothing() {
    let whole = stored(&[7; 1000]);
    let mut out = MutableBuffer::new(0);
    assert!(append(&whole[LENGTH_BYTES..], 999, &mut out).is_err());
    assert!(out.is_empty());
}
