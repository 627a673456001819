//! The one tag of EXIF data that is looked at: how an image is to be turned.

use crate::images::pixels::Orientation;

const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;

/// Returns the orientation that EXIF data tells; upright if it tells none, or is damaged.
pub(super) fn orientation(exif: &[u8]) -> Orientation {
    find(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)).unwrap_or_default()
}

fn find(tiff: &[u8]) -> Option<Orientation> {
    let is_little = match tiff.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let bytes = tiff.get(4..8)?.try_into().ok()?;
    let start = if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
    let start = usize::try_from(start).ok()?;
    for entry in 0..usize::from(short(start)?) {
        let at = start.checked_add(2 + entry * 12)?;
        if short(at)? == ORIENTATION && short(at.checked_add(2)?)? == SHORT {
            return Orientation::of_exif(short(at.checked_add(8)?)?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// EXIF data with an orientation after another tag.
    fn exif(is_little: bool, value: u16) -> Vec<u8> {
        let short = |n: u16| if is_little { n.to_le_bytes() } else { n.to_be_bytes() };
        let long = |n: u32| if is_little { n.to_le_bytes() } else { n.to_be_bytes() };
        let mut data = if is_little { b"II".to_vec() } else { b"MM".to_vec() };
        data.extend(short(42));
        data.extend(long(8));
        data.extend(short(2));
        for (tag, value) in [(0x010f, 9), (ORIENTATION, value)] {
            data.extend([short(tag), short(SHORT)].concat());
            data.extend(long(1));
            data.extend([short(value), short(0)].concat());
        }
        data
    }

    #[test]
    fn an_orientation_is_found_in_either_byte_order() {
        for value in 1..=8 {
            let wanted = Orientation::of_exif(value).unwrap();
            assert_eq!(orientation(&exif(true, value)), wanted);
            let prefixed = [b"Exif\0\0".as_slice(), &exif(false, value)].concat();
            assert_eq!(orientation(&prefixed), wanted);
        }
        assert_eq!(orientation(&exif(true, 9)), Orientation::default());
        assert_eq!(orientation(b""), Orientation::default());
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64), little: bool) {
            orientation(&bytes);
            bytes.splice(0..0, exif(little, 6)[..8].to_vec());
            orientation(&bytes);
        }
    }
}
