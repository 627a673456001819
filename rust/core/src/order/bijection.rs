//! A keyed permutation of `0..n` that is computed, never stored.
//!
//! Above [`TABLE_ROWS`] rows it is a generalised Feistel network over a mixed radix (J. Black and
//! P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002): a value is a pair
//! `(l, r)` in `0..a × 0..b` with `a = ⌈√n⌉` and `b = ⌈n / a⌉`, and a round adds a keyed hash of
//! one half to the other, modulo its radix. As `a·b − n < a`, fewer than one value in `√n` falls
//! outside `0..n` and walks the cycle once more; a network over a power of two would walk for up to
//! half of them. Up to [`TABLE_ROWS`] rows, where a network has too few distinct round functions to
//! be uniform, it is a Fisher–Yates shuffle kept in half a kilobyte.
//!
//! The sequences are part of the contract: they are pinned by the tests below and published in
//! `docs/determinism.md`.

#![expect(clippy::inline_always, reason = "compiled anew for the processor, see `Tuned`")]

use crate::error::{Error, Result};
use crate::processor::{Processor, Tuned, tuned};

/// The largest domain, so that both radices fit in 32 bits with room to add.
pub const MAX_ROWS: u64 = 1 << 62;

/// Domains up to this size are shuffled by a table.
const TABLE_ROWS: u64 = 256;

/// Rounds of the network. Six leave a measurable bias between neighbours below 50 rows; eight pass
/// every test of this file from 257 rows on.
const ROUNDS: usize = 8;

/// Values evaluated side by side: enough to fill vector registers, few enough to stay in L1.
const LANES: usize = 256;

/// A permutation of `0..n`, chosen by a 64-bit key.
#[derive(Debug, Clone)]
pub(super) struct Bijection {
    n: u64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Table(Box<Table>),
    Network(Network),
}

#[derive(Debug, Clone)]
struct Table {
    forward: Vec<u8>,
    inverse: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Network {
    a: u32,
    b: u32,
    /// `⌊(2⁶⁴ − 1) / b⌋`, to divide by multiplying.
    reciprocal: u64,
    keys: [u32; ROUNDS],
}

/// Refuses more positions than a shuffle may have.
///
/// # Errors
///
/// [`Error::Invalid`] if `len` is above [`MAX_ROWS`].
pub(super) fn check_len(len: u64) -> Result<()> {
    if len > MAX_ROWS {
        return Err(Error::invalid(
            format!("{len} rows"),
            format!("at most {MAX_ROWS} to shuffle"),
        ));
    }
    Ok(())
}

impl Bijection {
    /// Returns the permutation of `0..n` that belongs to `key`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `n` is above [`MAX_ROWS`].
    pub(super) fn new(n: u64, key: u64) -> Result<Self> {
        check_len(n)?;
        let mut stream = SplitMix64(key);
        let kind = if n <= TABLE_ROWS {
            Kind::Table(Box::new(Table::new(n, &mut stream)))
        } else {
            Kind::Network(Network::new(n, &mut stream))
        };
        Ok(Self { n, kind })
    }

    /// Replaces each value, all in `0..n`, by its image.
    pub(super) fn apply(&self, values: &mut [u64]) {
        match &self.kind {
            Kind::Table(table) => table.look_up(values),
            Kind::Network(network) => network.apply(self.n, values),
        }
    }

    /// Writes the images of `start, start + 1, …`, all in `0..n`, to `out`.
    ///
    /// The same as [`apply`](Self::apply) on consecutive values, without a division each.
    pub(super) fn fill(&self, start: u64, out: &mut [u64]) {
        match &self.kind {
            Kind::Table(table) => {
                for (value, position) in out.iter_mut().zip(start..) {
                    *value = position;
                }
                table.look_up(out);
            }
            Kind::Network(network) => network.fill(self.n, start, out),
        }
    }

    /// Replaces each image, all in `0..n`, by the value it is the image of.
    pub(super) fn invert(&self, images: &mut [u64]) {
        match &self.kind {
            Kind::Table(table) => {
                for image in images {
                    *image = u64::from(table.inverse[index(*image)]);
                }
            }
            Kind::Network(network) => network.invert(self.n, images),
        }
    }

    /// Returns the value in `0..n` whose image is `image`, itself in `0..n`.
    pub(super) fn inverse(&self, image: u64) -> u64 {
        match &self.kind {
            Kind::Table(table) => u64::from(table.inverse[index(image)]),
            Kind::Network(network) => {
                let mut value = network.inverse(image);
                while value >= self.n {
                    value = network.inverse(value);
                }
                value
            }
        }
    }
}

impl Table {
    /// Shuffles by Fisher–Yates from the back: `j` uniform in `0..=i`, for `i` from `n − 1` down to 1.
    fn new(n: u64, stream: &mut SplitMix64) -> Self {
        let mut forward: Vec<u8> = (0..=u8::MAX).take(index(n)).collect();
        for i in (1..forward.len()).rev() {
            let j = stream.below(i as u64 + 1);
            forward.swap(i, index(j));
        }
        let mut inverse = vec![0; forward.len()];
        for (value, &image) in (0..=u8::MAX).zip(&forward) {
            inverse[usize::from(image)] = value;
        }
        Self { forward, inverse }
    }

    fn look_up(&self, values: &mut [u64]) {
        for value in values {
            *value = u64::from(self.forward[index(*value)]);
        }
    }
}

impl Network {
    fn new(n: u64, stream: &mut SplitMix64) -> Self {
        let a = n.isqrt() + u64::from(n.isqrt().pow(2) < n);
        let b = n.div_ceil(a);
        let mut keys = [0; ROUNDS];
        for key in &mut keys {
            *key = low(stream.next());
        }
        Self { a: low(a), b: low(b), reciprocal: u64::MAX / b, keys }
    }

    fn split(&self, value: u64) -> (u32, u32) {
        let b = u64::from(self.b);
        // As `value < a · b < 2⁶³`, what comes out is the quotient or one less.
        let quotient = high128(u128::from(value) * u128::from(self.reciprocal));
        let rest = value.wrapping_sub(quotient.wrapping_mul(b));
        let is_short = rest >= b;
        (
            low(quotient.wrapping_add(u64::from(is_short))),
            low(if is_short { rest.wrapping_sub(b) } else { rest }),
        )
    }

    fn join(&self, l: u32, r: u32) -> u64 {
        u64::from(l).wrapping_mul(u64::from(self.b)).wrapping_add(u64::from(r))
    }

    fn apply(&self, n: u64, values: &mut [u64]) {
        let (mut l, mut r) = ([0; LANES], [0; LANES]);
        for chunk in values.chunks_mut(LANES) {
            for ((l, r), value) in l.iter_mut().zip(&mut r).zip(chunk.iter()) {
                (*l, *r) = self.split(*value);
            }
            tuned(Rounds::<false> { network: self, l: &mut l, r: &mut r });
            self.finish(n, &l, &r, chunk, Self::forward);
        }
    }

    /// Undoes [`apply`](Self::apply): the rounds run from the last to the first.
    fn invert(&self, n: u64, images: &mut [u64]) {
        let (mut l, mut r) = ([0; LANES], [0; LANES]);
        for chunk in images.chunks_mut(LANES) {
            for ((l, r), image) in l.iter_mut().zip(&mut r).zip(chunk.iter()) {
                (*l, *r) = self.split(*image);
            }
            tuned(Rounds::<true> { network: self, l: &mut l, r: &mut r });
            self.finish(n, &l, &r, chunk, Self::inverse);
        }
    }

    fn fill(&self, n: u64, start: u64, out: &mut [u64]) {
        let (mut l, mut r) = ([0; LANES], [0; LANES]);
        let (mut next_l, mut next_r) = self.split(start);
        for chunk in out.chunks_mut(LANES) {
            for (l, r) in l.iter_mut().zip(&mut r) {
                (*l, *r) = (next_l, next_r);
                next_r = next_r.wrapping_add(1);
                if next_r == self.b {
                    next_r = 0;
                    next_l = next_l.wrapping_add(1);
                }
            }
            tuned(Rounds::<false> { network: self, l: &mut l, r: &mut r });
            self.finish(n, &l, &r, chunk, Self::forward);
        }
    }

    /// Runs all rounds over all lanes. Each loop runs over whole arrays, so that it is vectorized.
    #[inline(always)]
    fn rounds(&self, l: &mut [u32; LANES], r: &mut [u32; LANES]) {
        for keys in self.keys.chunks_exact(2) {
            for (l, r) in l.iter_mut().zip(r.iter()) {
                *l = add(*l, hash(*r, keys[0], self.a), self.a);
            }
            for (r, l) in r.iter_mut().zip(l.iter()) {
                *r = add(*r, hash(*l, keys[1], self.b), self.b);
            }
        }
    }

    #[inline(always)]
    fn rounds_back(&self, l: &mut [u32; LANES], r: &mut [u32; LANES]) {
        for keys in self.keys.chunks_exact(2).rev() {
            for (r, l) in r.iter_mut().zip(l.iter()) {
                *r = subtract(*r, hash(*l, keys[1], self.b), self.b);
            }
            for (l, r) in l.iter_mut().zip(r.iter()) {
                *l = subtract(*l, hash(*r, keys[0], self.a), self.a);
            }
        }
    }

    /// Joins the halves and walks on, a `step` at a time, for the few values outside the domain.
    fn finish(
        &self,
        n: u64,
        l: &[u32; LANES],
        r: &[u32; LANES],
        out: &mut [u64],
        step: fn(&Self, u64) -> u64,
    ) {
        let mut outside = false;
        for ((value, l), r) in out.iter_mut().zip(l).zip(r) {
            *value = self.join(*l, *r);
            outside |= *value >= n;
        }
        if outside {
            for value in out {
                while *value >= n {
                    *value = step(self, *value);
                }
            }
        }
    }

    fn forward(&self, value: u64) -> u64 {
        let (mut l, mut r) = self.split(value);
        for keys in self.keys.chunks_exact(2) {
            l = add(l, hash(r, keys[0], self.a), self.a);
            r = add(r, hash(l, keys[1], self.b), self.b);
        }
        self.join(l, r)
    }

    fn inverse(&self, value: u64) -> u64 {
        let (mut l, mut r) = self.split(value);
        for keys in self.keys.chunks_exact(2).rev() {
            r = subtract(r, hash(l, keys[1], self.b), self.b);
            l = subtract(l, hash(r, keys[0], self.a), self.a);
        }
        self.join(l, r)
    }
}

/// All rounds over all lanes, or all of them undone.
struct Rounds<'a, const BACK: bool> {
    network: &'a Network,
    l: &'a mut [u32; LANES],
    r: &'a mut [u32; LANES],
}

impl<const BACK: bool> Tuned for Rounds<'_, BACK> {
    #[inline(always)]
    fn run(self, _: Processor) {
        if BACK {
            self.network.rounds_back(self.l, self.r);
        } else {
            self.network.rounds(self.l, self.r);
        }
    }
}

/// Returns a keyed hash of `half`, scaled to `0..radix`.
#[inline]
fn hash(half: u32, key: u32, radix: u32) -> u32 {
    let mut h = half.wrapping_mul(0x9E37_79B1) ^ key;
    h ^= h >> 15;
    h = h.wrapping_mul(0x85EB_CA77);
    high(u64::from(h) * u64::from(radix))
}

/// `x + y mod radix` for `x, y < radix ≤ 2³¹`: of the sum and the sum less the radix, the smaller
/// one is the answer, as a negative difference wraps to a large number.
#[inline]
fn add(x: u32, y: u32, radix: u32) -> u32 {
    let sum = x.wrapping_add(y);
    sum.min(sum.wrapping_sub(radix))
}

/// Returns `x − y mod radix` for `x, y < radix ≤ 2³¹`.
#[inline]
fn subtract(x: u32, y: u32, radix: u32) -> u32 {
    let difference = x.wrapping_sub(y);
    difference.min(difference.wrapping_add(radix))
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
#[inline]
const fn low(x: u64) -> u32 {
    x as u32
}

#[inline]
const fn high(x: u64) -> u32 {
    low(x >> 32)
}

#[inline]
const fn high128(x: u128) -> u64 {
    (x >> 64) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "only called below TABLE_ROWS")]
fn index(x: u64) -> usize {
    x as usize
}

/// Returns the key of one shuffle: `purpose` keeps shuffles, splits and samples with equal seeds
/// apart.
///
/// Every step is a bijection of its last argument, so for one seed no two epochs share a key, and
/// `(seed 1, epoch 0)` has nothing to do with `(seed 0, epoch 1)`.
pub(super) fn key(purpose: Purpose, seed: u64, epoch: u64) -> u64 {
    mix64(mix64(mix64(purpose as u64) ^ seed) ^ epoch)
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The order of an epoch.
    Shuffle = 0x7368_7566_666c_6521,
    /// Which rows belong to which split.
    Split = 0x7370_6c69_7421_2121,
    /// Which rows a sample draws.
    Sample = 0x7361_6d70_6c65_2121,
    /// The blocks and windows of a windowed shuffle.
    Window = 0x7769_6e64_6f77_2121,
    /// What a weighted sample draws.
    Draw = 0x6472_6177_7321_2121,
}

/// Returns the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit words.
pub(crate) const fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// SplitMix64: the words that round keys and small tables are made from.
#[derive(Debug)]
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix64(self.0)
    }

    /// Draws a number uniformly from `0..bound`, without bias (D. Lemire 2019).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            #[expect(clippy::cast_possible_truncation, reason = "the low word decides on a retry")]
            let low = product as u64;
            if low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
