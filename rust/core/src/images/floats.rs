//! Bytes of samples → floats of the batch, by a table of all 256 of each channel.

use arrow_array::types::{ArrowPrimitiveType, Float16Type};

/// Returns `(byte / 255 - mean) / std` of each channel and byte, as `bytes` writes it.
pub(super) fn table<const N: usize>(
    mean: [f32; 3],
    std: [f32; 3],
    bytes: impl Fn(f32) -> [u8; N],
) -> Vec<[[u8; N]; 256]> {
    let mut table = vec![[[0; N]; 256]; 3];
    for ((values, mean), std) in table.iter_mut().zip(mean).zip(std) {
        for (byte, value) in (0_u8..=255).zip(values) {
            *value = bytes((f32::from(byte) / 255.0 - mean) / std);
        }
    }
    table
}

/// Returns the bytes of the nearest IEEE 754 binary16, ties to even.
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    <Float16Type as ArrowPrimitiveType>::Native::from_f32(value).to_ne_bytes()
}

/// Returns the bytes of the nearest bfloat16, ties to even; a NaN stays one.
pub(super) fn bf16_bytes(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let upper = bits >> 16;
    let rounded = if value.is_nan() {
        upper | 0x40
    } else {
        // At most the bits of infinity and half a unit, so nothing overflows.
        (bits + 0x7fff + (upper & 1)) >> 16
    };
    #[expect(clippy::cast_possible_truncation, reason = "16 bits are left")]
    let half = rounded as u16;
    half.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16(value: f32) -> u16 {
        u16::from_ne_bytes(bf16_bytes(value))
    }

    #[test]
    fn bfloat16_is_the_nearest_and_ties_go_to_even() {
        assert_eq!(bf16(1.0), 0x3f80);
        assert_eq!(bf16(-2.0), 0xc000);
        // Between 0x3f80 and 0x3f81, and between 0x3f81 and 0x3f82.
        assert_eq!(bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(bf16(f32::from_bits(0x3f80_8001)), 0x3f81);
        assert_eq!(bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(bf16(f32::MAX), 0x7f80);
        assert_eq!(bf16(f32::NEG_INFINITY), 0xff80);
    }

    #[test]
    fn a_nan_stays_one() {
        for bits in [0x7f80_0001_u32, 0xffff_ffff] {
            let found = bf16(f32::from_bits(bits));
            assert!(f32::from_bits(u32::from(found) << 16).is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn a_table_has_all_bytes_of_each_channel() {
        let table = table([0.5, 0.0, 1.0], [0.5, 1.0, 0.25], f32::to_ne_bytes);
        assert_eq!(table[0][255], 1.0_f32.to_ne_bytes());
        assert_eq!(table[1][51], 0.2_f32.to_ne_bytes());
        assert_eq!(table[2][0], (-4.0_f32).to_ne_bytes());
        assert_eq!(u16::from_ne_bytes(f16_bytes(1.0)), 0x3c00);
    }
}
