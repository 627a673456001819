//! A value as it is stored → the value, at the end of a column.

use lance_encoding::encodings::physical::block::{
    BufferCompressor, CompressionConfig, CompressionScheme, GeneralBufferCompressor,
};

use super::super::data_file::DataFile;
use super::super::guard::guard;
use super::out::Out;
use crate::error::{Error, Result};
use crate::files::zstd;

/// Appends values of a file to a column, decompressed.
pub(super) struct Codec<'a> {
    file: &'a DataFile,
    scheme: CompressionScheme,
    /// Lance's decompressor, or `None` for what is not compressed.
    decompressor: Option<Box<dyn BufferCompressor>>,
    value: Vec<u8>,
}

impl<'a> Codec<'a> {
    pub(super) fn new(file: &'a DataFile, scheme: CompressionScheme) -> Result<Self> {
        let config = CompressionConfig::new(scheme, None);
        let make = || GeneralBufferCompressor::get_compressor(config);
        let decompressor = (scheme != CompressionScheme::None).then(make).transpose();
        let decompressor = decompressor.map_err(|error| Error::lance(&file.path, &error))?;
        Ok(Self { file, scheme, decompressor, value: Vec::new() })
    }

    /// Adds a value to a column.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if it cannot be decompressed.
    pub(super) fn add(&mut self, stored: &[u8], out: &mut Out) -> Result<()> {
        let Self { file, scheme, decompressor, value } = self;
        let Some(decompressor) = decompressor else {
            out.add(stored);
            return Ok(());
        };
        let corrupt = |reason| Error::corrupt(&file.path, reason);
        if *scheme == CompressionScheme::Zstd
            && let Some((len, frame)) = zstd::frame_of(stored).map_err(corrupt)?
        {
            return out.add_all(std::iter::once(len), |values| {
                zstd::append(frame, len, values).map_err(corrupt)
            });
        }
        value.clear();
        guard(&file.path, || {
            let read = decompressor.decompress(stored, value);
            read.map_err(|error| Error::corrupt(&file.path, error.to_string()))
        })?;
        out.add(value);
        Ok(())
    }
}
