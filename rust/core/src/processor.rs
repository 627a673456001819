//! What the processor at hand can do beyond what every one of its architecture can.
//!
//! Wheels are built for any x86-64, which has neither `popcnt` nor vectors of more than 128 bits.
//! Work that gains from more is [`Tuned`]: compiled twice, and run as the processor allows.
//!
//! # Instructions and `unsafe`
//!
//! To run an instruction that the processor does not have is undefined behaviour. Only
//! [`Processor::here`] makes a processor that has more than the architecture, and it asks first.
//! To prefetch is a hint about an address, which need not even be mapped.

#![expect(clippy::inline_always, reason = "only what is inlined is compiled for the processor")]

use std::sync::atomic::{AtomicU8, Ordering};

/// What may be used: each level has what those below it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// What the architecture has.
    Any = 1,
    /// `popcnt`, BMI 1 and 2, AVX2: x86-64 of the third level.
    Third,
    /// And a `pdep` that takes a cycle or so, not one for each bit.
    FastDeposit,
}

/// What the processor at hand can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processor(Level);

/// Work that is compiled once for any processor of the architecture and once for better ones.
pub(crate) trait Tuned {
    /// Does the work. This and all functions that it spends its time in must be `inline(always)`.
    fn run(self, processor: Processor);
}

/// Runs `work` with the instructions that the processor at hand has.
#[inline]
pub(crate) fn tuned(work: impl Tuned) {
    let processor = Processor::here();
    #[cfg(target_arch = "x86_64")]
    if processor.0 >= Level::Third {
        #[expect(unsafe_code, reason = "see the module's documentation")]
        // SAFETY: `here` found that the processor has them.
        return unsafe { at_third_level(work, processor) };
    }
    work.run(processor);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt,bmi1,bmi2,avx2")]
fn at_third_level(work: impl Tuned, processor: Processor) {
    work.run(processor);
}

/// Asks for the cache line that `place` lies in, without waiting for it.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "see the module's documentation")]
        // SAFETY: every x86-64 has SSE, and a prefetch has no effect but on the caches.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

impl Processor {
    /// Returns a processor with the baseline of the architecture.
    #[cfg(test)]
    pub(crate) const ANY: Self = Self(Level::Any);

    /// Returns the processor at hand.
    #[inline]
    pub(crate) fn here() -> Self {
        // No lock, as one that another thread holds at a fork stays locked in the child.
        static FOUND: AtomicU8 = AtomicU8::new(0);
        const THIRD: u8 = Level::Third as u8;
        const FAST_DEPOSIT: u8 = Level::FastDeposit as u8;
        match FOUND.load(Ordering::Relaxed) {
            0 => {
                let level = level();
                FOUND.store(level as u8, Ordering::Relaxed);
                Self(level)
            }
            THIRD => Self(Level::Third),
            FAST_DEPOSIT => Self(Level::FastDeposit),
            _ => Self(Level::Any),
        }
    }

    /// Returns the place of the set bit with `rank` set bits below it, of which there must be one;
    /// `None` if this processor is better served by arithmetic.
    #[inline(always)]
    pub(crate) fn select(self, word: u64, rank: u32) -> Option<u32> {
        #[cfg(target_arch = "x86_64")]
        if self.0 >= Level::FastDeposit {
            #[expect(unsafe_code, reason = "see the module's documentation")]
            // SAFETY: `here` found that the processor has BMI 2.
            let bit = unsafe { std::arch::x86_64::_pdep_u64(1 << rank, word) };
            return Some(bit.trailing_zeros());
        }
        let _ = (word, rank);
        None
    }
}

#[cfg(target_arch = "x86_64")]
fn level() -> Level {
    use std::is_x86_feature_detected as has;
    if !(has!("popcnt") && has!("bmi1") && has!("bmi2") && has!("avx2")) {
        Level::Any
    } else if has_fast_deposit() {
        Level::FastDeposit
    } else {
        Level::Third
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> Level {
    Level::Any
}

/// Returns whether `pdep` is more than a loop over the bits, as it is before AMD's third Zen (family
/// 25).
#[cfg(target_arch = "x86_64")]
fn has_fast_deposit() -> bool {
    use std::arch::x86_64::__cpuid;
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    let signature = __cpuid(1).eax;
    let family = (signature >> 8 & 0xF) + (signature >> 20 & 0xFF);
    match name.as_flattened() {
        b"GenuineIntel" => true,
        b"AuthenticAMD" => family >= 25,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_has_its_rank() {
        for word in [1, 1 << 63, u64::MAX, 0x8000_0000_0000_0001, 0x0123_4567_89AB_CDEF] {
            for rank in 0..word.count_ones() {
                let Some(place) = Processor::here().select(word, rank) else {
                    return;
                };
                assert!(word >> place & 1 == 1);
                assert_eq!((word & ((1 << place) - 1)).count_ones(), rank);
            }
        }
    }
}
