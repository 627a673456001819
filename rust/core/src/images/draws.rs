//! Numbers from the key of a row.

/// Numbers from a key: `SplitMix64`.
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    /// Returns the draws of a key for one purpose.
    pub(super) fn new(key: u64, purpose: u64) -> Self {
        let mut draws = Self(key ^ purpose);
        draws.0 = draws.bits();
        draws
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number of at least 0 and less than 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number between two others.
    pub(super) fn between(&mut self, (low, high): (f64, f64)) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Returns a whole number less than `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        let product = u128::from(self.bits()) * u128::from(end);
        u32::try_from(product >> 64).expect("less than `end`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The first outputs for seed 1234567, as published with the algorithm.
        let mut draws = Draws(1_234_567);
        assert_eq!(draws.bits(), 6_457_827_717_110_365_317);
        assert_eq!(draws.bits(), 3_203_168_211_198_807_973);
    }
}
