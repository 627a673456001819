//! `lanceloader_core::images` as a function of Arrow data.

use lanceloader_core::images::{self, Crop, Decoded, Float, Interpolation, Jitter, Samples};
use pyo3::exceptions::PyValueError;
use pyo3::{Bound, PyAny, PyResult, Python, pyclass, pymethods};

use crate::arguments::Numbers;
use crate::enter::enter;
use crate::handoff::columns_of;
use crate::runs::Block;

/// What is made of the images of a column.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Recipe(images::Recipe);

/// The least and the largest factor of a change of colours.
type Factors = Option<(f64, f64)>;

/// The samples of a batch, the sizes of its images unless they have one size, the rows that are null,
/// and those that are broken with the reason.
type Images = (Vec<Block>, Vec<(u32, u32)>, Vec<usize>, Vec<(usize, String)>);

#[pymethods]
impl Recipe {
    /// `crop` is `None`, `"center"`, `"random"` or `"pad"`; `dtype` `"uint8"`, `"float16"`, `"bfloat16"` or
    /// `"float32"`; `norm` a mean and a standard deviation for each channel, for floats; `jitter` what is done to
    /// brightness, contrast, saturation and hue.
    #[new]
    #[pyo3(signature = (
        *, size, crop, resize, scale, ratio, fill, flip, interpolation, antialias, channels_first,
        dtype, norm, jitter, exif, max_pixels
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        size: Option<(u32, u32)>,
        crop: Option<&str>,
        resize: u32,
        scale: (f64, f64),
        ratio: (f64, f64),
        fill: [u8; 3],
        flip: f64,
        interpolation: &str,
        antialias: bool,
        channels_first: bool,
        dtype: &str,
        norm: ([f32; 3], [f32; 3]),
        jitter: (Factors, Factors, Factors, Factors),
        exif: bool,
        max_pixels: u64,
        py: Python<'_>,
    ) -> PyResult<Self> {
        let crop = match crop {
            None => Crop::Whole,
            Some("center") => Crop::Center { resize },
            Some("random") => Crop::Random { scale, ratio },
            Some("pad") => Crop::Pad { fill },
            Some(other) => {
                return Err(PyValueError::new_err(format!(
                    "crop {other:?}: wanted None, \"center\", \"random\" or \"pad\""
                )));
            }
        };
        let interpolation = match interpolation {
            "nearest" => Interpolation::Nearest,
            "bilinear" => Interpolation::Bilinear,
            "bicubic" => Interpolation::Bicubic,
            other => {
                return Err(PyValueError::new_err(format!(
                    "interpolation {other:?}: wanted \"nearest\", \"bilinear\" or \"bicubic\""
                )));
            }
        };
        let (mean, std) = norm;
        let normalised = |float| Samples::Normalised { float, mean, std };
        let samples = match dtype {
            "uint8" => Samples::U8,
            "float16" => normalised(Float::F16),
            "bfloat16" => normalised(Float::Bf16),
            "float32" => normalised(Float::F32),
            other => {
                return Err(PyValueError::new_err(format!(
                    "dtype {other:?}: wanted \"uint8\", \"float16\", \"bfloat16\" or \"float32\""
                )));
            }
        };
        let (brightness, contrast, saturation, hue) = jitter;
        let recipe = images::Recipe {
            size,
            crop,
            flip,
            interpolation,
            antialias,
            channels_first,
            samples,
            jitter: Jitter { brightness, contrast, saturation, hue },
            exif,
            max_pixels,
        };
        enter(py, || recipe.check())?;
        Ok(Self(recipe))
    }

    /// Returns whether rows need keys.
    #[getter]
    fn is_random(&self) -> bool {
        self.0.is_random()
    }

    /// Decodes the first column of Arrow data on up to `threads` threads.
    #[pyo3(signature = (data, keys, threads))]
    fn decode(
        &self,
        data: Bound<'_, PyAny>,
        keys: Option<Numbers>,
        threads: usize,
    ) -> PyResult<Images> {
        let py = data.py();
        let (columns, _) = columns_of(py, &data)?;
        let Some(column) = columns.first() else {
            return Err(PyValueError::new_err("Arrow data without columns: wanted one"));
        };
        let keys = keys.map(|keys| keys.0);
        let Decoded { samples, sizes, nulls, faults } =
            enter(py, || images::decode(column, &self.0, keys, threads))?;
        let samples = samples.into_iter().map(Block::owned).collect();
        let faults = faults.into_iter().map(|fault| (fault.row, fault.reason)).collect();
        Ok((samples, sizes, nulls, faults))
    }
}
