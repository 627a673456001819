//! Any bytes are decoded or refused: no panic, and no memory beyond the limit of pixels.

#![no_main]

use lanceloader_core::images::{Scratch, decode_any};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let mut scratch = Scratch::default();
    if let Err(reason) = decode_any(file, 1 << 16, &mut scratch) {
        assert!(!reason.is_empty());
    }
});
