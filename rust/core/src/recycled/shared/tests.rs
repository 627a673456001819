#![expect(unsafe_code, reason = "what is in the file is compared with what is in memory")]

use std::os::unix::fs::FileExt;

use super::super::sizes::{LARGEST, SMALLEST, number_of};
use super::*;
use std::alloc::Layout;

fn number(bytes: usize) -> usize {
    number_of(Layout::from_size_align(bytes, 64).unwrap()).unwrap()
}

fn pages(shared: &Shared) -> u64 {
    rustix::fs::fstat(&shared.own().unwrap().file).unwrap().st_blocks.cast_unsigned() * 512
}

#[test]
fn nothing_is_shared_before_it_is_asked_for() {
    let shared = Shared::new();
    assert!(shared.take(0).is_none());
    assert!(!shared.put(0, std::ptr::without_provenance_mut(4096)));
}

#[test]
fn what_is_written_to_blocks_is_in_the_file() {
    let shared = Shared::new();
    let (_, start, len) = shared.start().unwrap();
    assert_eq!(len, FILE_BYTES);
    assert_eq!(shared.start().unwrap().1, start);
    let mut taken = Vec::new();
    for (byte, bytes) in (1..).zip([SMALLEST, SMALLEST + 1, 786_432, LARGEST, SMALLEST]) {
        let block = shared.take(number(bytes)).unwrap();
        // SAFETY: it has so many bytes.
        unsafe { block.write_bytes(byte, bytes) };
        taken.push((block, bytes, byte));
    }
    for &(block, bytes, byte) in &taken {
        let mut found = vec![0; bytes];
        let at = (block.addr() - start) as u64;
        shared.own().unwrap().file.read_exact_at(&mut found, at).unwrap();
        assert!(found.iter().all(|&found| found == byte));
    }
    for (block, bytes, _) in taken {
        assert!(shared.put(number(bytes), block));
    }
}

#[test]
fn blocks_are_given_out_again_with_their_pages() {
    let shared = Shared::new();
    shared.start().unwrap();
    let first = shared.take(3).unwrap();
    let other = shared.take(3).unwrap();
    assert_ne!(first, other);
    assert!(shared.put(3, first));
    assert_eq!(shared.take(3), Some(first));
    assert!(shared.take(4).is_some_and(|block| block != other));
}

#[test]
fn idle_blocks_lose_their_pages_and_keep_their_places() {
    let shared = Shared::new();
    shared.start().unwrap();
    let large = number(LARGEST);
    // One more than may be idle.
    let count = MOST_IDLE / LARGEST + 1;
    let blocks: Vec<_> = (0..count).map(|_| shared.take(large).unwrap()).collect();
    for &block in &blocks {
        // SAFETY: it has so many bytes.
        unsafe { block.write_bytes(1, LARGEST) };
    }
    assert_eq!(pages(&shared), (count * LARGEST) as u64);
    for &block in &blocks {
        shared.put(large, block);
    }
    assert_eq!(pages(&shared), MOST_IDLE as u64);
    for _ in 0..2 {
        shared.try_with(|places| {
            places.swept = None;
            places.sweep(shared.own().unwrap());
        });
    }
    assert_eq!(pages(&shared), 0);
    let mut again: Vec<_> = (0..count).map(|_| shared.take(large).unwrap()).collect();
    again.sort();
    assert_eq!(again, blocks);
}
