#![expect(unsafe_code, reason = "what allocates is called as the compiler calls it")]

use std::thread;

use proptest::prelude::*;

use super::sizes::*;
use super::*;

/// A block, and what was written into it.
struct Held {
    block: *mut u8,
    layout: Layout,
    byte: u8,
}

impl Held {
    fn new(from: &Recycled, bytes: usize, align: usize, byte: u8, is_zeroed: bool) -> Self {
        let layout = Layout::from_size_align(bytes, align).unwrap();
        // SAFETY: no size is zero.
        let block =
            unsafe { if is_zeroed { from.alloc_zeroed(layout) } else { from.alloc(layout) } };
        assert!(!block.is_null());
        assert_eq!(block.addr() % align, 0);
        if is_zeroed {
            let held = Self { block, layout, byte: 0 };
            assert!(held.bytes().iter().all(|&byte| byte == 0));
        }
        // SAFETY: it has so many bytes.
        unsafe { block.write_bytes(byte, bytes) };
        Self { block, layout, byte }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: it has so many bytes, and all were written.
        unsafe { std::slice::from_raw_parts(self.block, self.layout.size()) }
    }

    fn resize(self, from: &Recycled, bytes: usize) -> Self {
        let kept = bytes.min(self.layout.size());
        // SAFETY: it came from there with this layout.
        let block = unsafe { from.realloc(self.block, self.layout, bytes) };
        let layout = Layout::from_size_align(bytes, self.layout.align()).unwrap();
        // SAFETY: it has so many bytes.
        assert!(unsafe { std::slice::from_raw_parts(block, kept) }.iter().all(|&b| b == self.byte));
        // SAFETY: it has so many bytes.
        unsafe { block.write_bytes(self.byte, bytes) };
        Self { block, layout, byte: self.byte }
    }

    fn free(self, to: &Recycled) {
        assert!(self.bytes().iter().all(|&byte| byte == self.byte), "somebody else wrote into it");
        // SAFETY: it came from there with this layout.
        unsafe { to.dealloc(self.block, self.layout) };
    }
}

fn free_all(held: impl IntoIterator<Item = Held>, to: &Recycled) {
    for one in held {
        one.free(to);
    }
}

fn idle(from: &Recycled) -> usize {
    from.try_with(|shelves| shelves.idle_bytes).unwrap()
}

fn give_back(from: &Recycled) {
    from.try_with(|shelves| {
        for _ in 0..2 {
            shelves.swept = None;
            shelves.sweep();
        }
    });
    assert_eq!(idle(from), 0);
}

#[test]
fn sizes_hold_what_is_asked_for_and_little_more() {
    let mut last = 0;
    for bytes in (SMALLEST..=LARGEST).step_by(4093).chain([SMALLEST, LARGEST]) {
        let number = number_of(Layout::from_size_align(bytes, 64).unwrap()).unwrap();
        assert!(bytes_of(number) >= bytes);
        assert!(number == 0 || bytes_of(number - 1) < bytes, "{bytes} would fit into less");
        assert!(bytes_of(number) <= bytes + bytes / STEPS);
        last = last.max(number);
    }
    assert_eq!(last, NUM_SIZES - 1);
    for (bytes, align) in
        [(SMALLEST - 1, 64), (LARGEST + 1, 64), (SMALLEST, 2 * ALIGN), (SMALLEST, 8)]
    {
        assert_eq!(number_of(Layout::from_size_align(bytes, align).unwrap()), None);
    }
}

#[test]
fn a_block_is_given_out_again() {
    let from = Recycled::new();
    let first = Held::new(&from, 1_000_000, 64, 7, false);
    let place = first.block;
    first.free(&from);
    assert!(idle(&from) >= 1_000_000);
    let again = Held::new(&from, 999_000, 64, 8, true);
    assert_eq!(again.block, place);
    assert_eq!(idle(&from), 0);
    again.free(&from);
    give_back(&from);
}

#[test]
fn no_more_is_kept_than_may_be() {
    let from = Recycled::new();
    let many: Vec<Held> = (0..40).map(|k| Held::new(&from, 3 << 20, 64, k, false)).collect();
    free_all(many, &from);
    assert_eq!(idle(&from), PER_SIZE * (3 << 20));
    let large: Vec<Held> = (0..4).map(|k| Held::new(&from, LARGEST, 64, k, false)).collect();
    free_all(large, &from);
    assert!(idle(&from) <= MOST_IDLE);
    give_back(&from);
}

#[test]
fn what_is_in_use_is_not_given_back() {
    let from = Recycled::new();
    let [one, two] = [1, 2].map(|k| Held::new(&from, SMALLEST, 64, k, false));
    one.free(&from);
    two.free(&from);
    let sweep = || {
        from.try_with(|shelves| {
            shelves.swept = None;
            shelves.sweep();
        })
    };
    sweep();
    // One of the two is asked for, over and over.
    Held::new(&from, SMALLEST, 64, 3, false).free(&from);
    sweep();
    assert_eq!(idle(&from), SMALLEST);
    give_back(&from);
}

#[test]
fn whoever_finds_it_locked_goes_on() {
    let from = Recycled::new();
    Held::new(&from, SMALLEST, 64, 1, false).free(&from);
    // As in a child that was forked while another thread was at it.
    from.is_locked.store(true, Ordering::SeqCst);
    let held = Held::new(&from, SMALLEST, 64, 2, true);
    held.resize(&from, 4 * SMALLEST).free(&from);
    from.is_locked.store(false, Ordering::SeqCst);
    assert_eq!(idle(&from), SMALLEST);
    give_back(&from);
}

#[test]
fn threads_have_blocks_of_their_own() {
    static SHARED: Recycled = Recycled::new();
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                let mut held: Vec<Held> = Vec::new();
                for turn in 0..400_usize {
                    let bytes = SMALLEST + (turn * 37 % 5) * SMALLEST / 3;
                    held.push(Held::new(&SHARED, bytes, 64, thread * 50 + 1, turn % 3 == 0));
                    if turn % 4 != 0 {
                        held.swap_remove(turn % held.len()).free(&SHARED);
                    }
                    if held.len() > 8 {
                        free_all(held.drain(..), &SHARED);
                    }
                }
                free_all(held, &SHARED);
            });
        }
    });
    give_back(&SHARED);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn content_stays_whatever_is_asked_for(
        steps in prop::collection::vec((1_usize..600_000, any::<u8>(), 0_u8..4, any::<prop::sample::Index>()), 1..40),
    ) {
        let from = Recycled::new();
        let mut held: Vec<Held> = Vec::new();
        for (bytes, byte, what, at) in steps {
            if what < 2 || held.is_empty() {
                held.push(Held::new(&from, bytes, 1 << (byte % 14), byte, what == 0));
            } else {
                let one = held.swap_remove(at.index(held.len()));
                if what == 2 {
                    one.free(&from);
                } else {
                    held.push(one.resize(&from, bytes));
                }
            }
        }
        free_all(held, &from);
        give_back(&from);
    }
}
