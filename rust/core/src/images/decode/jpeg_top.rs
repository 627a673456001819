//! The upper rows of a JPEG: a copy of the file whose header says that it has only these.
//!
//! A decoder cannot skip rows, as each unit of a scan begins where the one before ends. It can stop early:
//! entropy decoding, inverse transforms and conversion of the rows below a crop are saved.

use super::exif;
use crate::images::pixels::Orientation;

/// What a JPEG says of itself before its only scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) orientation: Orientation,
    /// Where the file has its height.
    height_at: usize,
    /// Where the scan begins.
    scan_at: usize,
    /// Whether a unit has two blocks above one another, of which chroma has one.
    is_subsampled: bool,
}

impl Header {
    /// Returns the header of a baseline file of one scan, grey or of three components with the usual
    /// subsampling, which does not end early. `None` for any other.
    pub(super) fn of(file: &[u8]) -> Option<Self> {
        let mut at = 2;
        let mut frame = None;
        let mut orientation = Orientation::default();
        loop {
            let [0xff, marker, high, low] = *file.get(at..)?.first_chunk()? else {
                return None;
            };
            let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            let body = file.get(at + 4..end)?;
            match marker {
                0xe1 if body.starts_with(b"Exif\0\0") => orientation = exif::orientation(body),
                // Quantisation and Huffman tables, the restart interval, comments, what applications add.
                0xc4 | 0xdb | 0xdd | 0xfe | 0xe0..=0xef => (),
                0xc0 | 0xc1 if frame.is_none() => frame = Some((at + 5, Frame::of(body)?)),
                0xda => {
                    let (height_at, frame) = frame?;
                    let is_only_scan = body.first() == Some(&frame.components);
                    let is_whole = file[end..].windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
                    return (is_only_scan && is_whole).then_some(Self {
                        height: frame.height,
                        width: frame.width,
                        orientation,
                        height_at,
                        scan_at: end,
                        is_subsampled: frame.is_subsampled,
                    });
                }
                _ => return None,
            }
            at = end;
        }
    }

    /// Returns how many rows the file must say that it has so that the first `rows` are as they are in the
    /// whole image; `None` if that is all of them.
    pub(super) fn rows_for(&self, rows: u32) -> Option<u16> {
        let unit = if self.is_subsampled { 16 } else { 8 };
        // Chroma of the last row is interpolated with the first row of the next unit.
        let units = rows.div_ceil(unit) + u32::from(self.is_subsampled);
        let found = units.checked_mul(unit).filter(|&found| 0 < found && found < self.height)?;
        u16::try_from(found).ok()
    }

    /// Writes a copy of the file that says that it has so many rows.
    pub(super) fn copy(&self, file: &[u8], rows: u16, copy: &mut Vec<u8>) -> Option<()> {
        copy.clear();
        copy.try_reserve(file.len()).ok()?;
        copy.extend_from_slice(file);
        copy.get_mut(self.height_at..self.height_at + 2)?.copy_from_slice(&rows.to_be_bytes());
        Some(())
    }
}

/// The size and the components of an image.
struct Frame {
    height: u32,
    width: u32,
    components: u8,
    is_subsampled: bool,
}

impl Frame {
    fn of(body: &[u8]) -> Option<Self> {
        let [8, y1, y0, x1, x0, components, rest @ ..] = body else {
            return None;
        };
        // The identifier, the sampling factors and the table of each component.
        let (each, []) = rest.as_chunks::<3>() else {
            return None;
        };
        let is_subsampled = match each {
            [[_, 0x11, _]] => false,
            [[_, luma @ (0x11 | 0x21 | 0x22), _], [_, 0x11, _], [_, 0x11, _]] => *luma == 0x22,
            _ => return None,
        };
        (usize::from(*components) == each.len()).then_some(Self {
            height: u16::from_be_bytes([*y1, *y0]).into(),
            width: u16::from_be_bytes([*x1, *x0]).into(),
            components: *components,
            is_subsampled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: &[u8] = include_bytes!("../samples/baseline.jpg");
    const PROGRESSIVE: &[u8] = include_bytes!("../samples/progressive.jpg");

    #[test]
    fn other_files_have_no_header() {
        let header = Header::of(BASELINE).unwrap();
        assert_eq!(header.orientation, Orientation::default());
        assert!(header.height > 0 && header.width > 0);
        assert_eq!(Header::of(PROGRESSIVE), None);
        assert_eq!(Header::of(b"\xff\xd8\xff"), None);
        assert_eq!(Header::of(&BASELINE[..BASELINE.len() - 2]), None);
        for len in 0..header.scan_at {
            assert_eq!(Header::of(&BASELINE[..len]), None);
        }
    }

    #[test]
    fn rows_are_whole_units_and_the_next_one_of_subsampled_chroma() {
        let of = |is_subsampled| Header {
            height: 100,
            width: 9,
            orientation: Orientation::default(),
            height_at: 0,
            scan_at: 0,
            is_subsampled,
        };
        assert_eq!(of(false).rows_for(8), Some(8));
        assert_eq!(of(false).rows_for(9), Some(16));
        assert_eq!(of(false).rows_for(97), None);
        assert_eq!(of(false).rows_for(0), None);
        assert_eq!(of(true).rows_for(16), Some(32));
        assert_eq!(of(true).rows_for(17), Some(48));
        assert_eq!(of(true).rows_for(90), None);
        assert_eq!(of(true).rows_for(u32::MAX), None);
    }
}
