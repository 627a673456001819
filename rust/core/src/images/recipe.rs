//! What is made of the images of a column.

use crate::error::{Error, Result};

/// Which part of an image is taken, and how it is brought to the size of the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crop {
    /// All of it, stretched to the size.
    Whole,
    /// The middle of the image, whose short side is resized to `resize` before.
    Center {
        /// The short side, in pixels.
        resize: u32,
    },
    /// A random part, by the distribution of torchvision's `RandomResizedCrop`.
    Random {
        /// The least and largest fraction of the area.
        scale: (f64, f64),
        /// The least and largest ratio of width to height.
        ratio: (f64, f64),
    },
    /// All of it in its own proportions, in the middle of a background.
    Pad {
        /// The colour of the background.
        fill: [u8; 3],
    },
}

/// How pixels are made from their neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle.
    Bilinear,
    /// A cubic with a = -0.5, as Pillow's.
    Bicubic,
}

/// What a sample of the batch is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Samples {
    /// A byte.
    U8,
    /// `(byte / 255 - mean) / std` of its channel, computed as a 32-bit float.
    Normalised {
        /// What it is rounded to.
        float: Float,
        /// The mean of each channel.
        mean: [f32; 3],
        /// The standard deviation of each channel.
        std: [f32; 3],
    },
}

impl Samples {
    /// Returns the bytes of a sample.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Normalised { float: Float::F16 | Float::Bf16, .. } => 2,
            Self::Normalised { float: Float::F32, .. } => 4,
        }
    }
}

/// A type of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// IEEE 754 binary32.
    F32,
}

/// How much the colours of an image are changed at random, as by torchvision's `ColorJitter`.
///
/// Each is the least and the largest factor, `None` for no change; of the hue, a part of its circle that is
/// added.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Jitter {
    /// The factor of all samples.
    pub brightness: Option<(f64, f64)>,
    /// The factor of distances from the mean grey.
    pub contrast: Option<(f64, f64)>,
    /// The factor of distances from the grey of a pixel.
    pub saturation: Option<(f64, f64)>,
    /// What is added to the hue.
    pub hue: Option<(f64, f64)>,
}

impl Jitter {
    /// Returns whether nothing is changed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self) -> Result<()> {
        let check = |name: &str, range: Option<(f64, f64)>, (least, most): (f64, f64)| match range {
            Some((low, high)) if !(least <= low && low <= high && high <= most) => {
                Err(Error::invalid(
                    format!("{name} from {low} to {high}"),
                    format!("two numbers from {least} to {most}, the smaller one first"),
                ))
            }
            _ => Ok(()),
        };
        check("brightness", self.brightness, FACTORS)?;
        check("contrast", self.contrast, FACTORS)?;
        check("saturation", self.saturation, FACTORS)?;
        check("hue", self.hue, HUES)
    }
}

/// The least and the largest factor of a change.
const FACTORS: (f64, f64) = (0.0, 1000.0);
/// The least and the largest part of the circle that is added to a hue.
const HUES: (f64, f64) = (-0.5, 0.5);

/// What is made of the images of a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The height and width of images of the batch; their own ones if `None`.
    pub size: Option<(u32, u32)>,
    /// Which part of an image is taken.
    pub crop: Crop,
    /// The probability that an image is mirrored.
    pub flip: f64,
    /// How pixels are made from their neighbours.
    pub interpolation: Interpolation,
    /// Whether all pixels of the source count when an image is made smaller.
    pub antialias: bool,
    /// Whether the channels of an image follow one another, `(3, height, width)`.
    pub channels_first: bool,
    /// What a sample of the batch is.
    pub samples: Samples,
    /// How much colours are changed.
    pub jitter: Jitter,
    /// Whether images are turned as their EXIF data says.
    pub exif: bool,
    /// The most pixels of an image.
    pub max_pixels: u64,
}

/// The most samples of an image of the batch.
const MOST_SAMPLES: u64 = 1 << 30;

impl Recipe {
    /// Returns whether anything is random, so that rows need keys.
    pub fn is_random(&self) -> bool {
        matches!(self.crop, Crop::Random { .. })
            || (self.flip > 0.0 && self.flip < 1.0)
            || !self.jitter.is_none()
    }

    /// Checks that the parts fit each other.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        let positive = |(low, high): (f64, f64)| low > 0.0 && low <= high && high.is_finite();
        if let Some((height, width)) = self.size
            && (height == 0
                || width == 0
                || u64::from(height) * u64::from(width) * 3 > MOST_SAMPLES)
        {
            return Err(Error::invalid(
                format!("images of {height} x {width} pixels"),
                "1 to 357 million pixels",
            ));
        }
        match self.crop {
            Crop::Random { scale, ratio } if !positive(scale) || !positive(ratio) => {
                Err(Error::invalid(
                    format!("scale {scale:?} and ratio {ratio:?}"),
                    "two positive numbers each, the smaller one first",
                ))
            }
            Crop::Center { resize: 0 } => Err(Error::invalid("a short side of 0", "1 or more")),
            _ if !(0.0..=1.0).contains(&self.flip) => {
                Err(Error::invalid(format!("flip {}", self.flip), "a probability"))
            }
            _ => self.jitter.check(),
        }
    }
}
