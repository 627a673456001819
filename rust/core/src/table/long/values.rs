//! Where long values lie → a column of them.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{ArrayRef, GenericByteArray, OffsetSizeTrait};
use arrow_buffer::{MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;
use lance_encoding::encodings::physical::block::{
    BufferCompressor, CompressionConfig, CompressionScheme, GeneralBufferCompressor,
};

use super::super::guard::guard;
use super::LongRows;
use crate::error::{Error, Result};
use crate::files::{Copier, Head, MappedFile, Record};

/// Compressed bytes that are copied at once: they should still be in the processor's cache when they are
/// decompressed.
const BYTES_AT_ONCE: usize = 256 << 10;

impl LongRows {
    /// Reads the values of some of the rows, as a column of this type.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if what lies in front of a value is not what the index says, a value cannot be
    /// decompressed, or text is not UTF-8; [`Error::Invalid`] if the column outgrows the offsets of its type;
    /// [`Error::Io`].
    pub(in super::super) fn read(
        &self,
        file: &MappedFile,
        rows: Range<usize>,
        data_type: &DataType,
    ) -> Result<ArrayRef> {
        match data_type {
            DataType::Utf8 => self.column::<Utf8Type>(file, rows),
            DataType::LargeUtf8 => self.column::<LargeUtf8Type>(file, rows),
            DataType::Binary => self.column::<BinaryType>(file, rows),
            DataType::LargeBinary => self.column::<LargeBinaryType>(file, rows),
            other => Err(Error::bug(format!("long values of type {other}"))),
        }
    }

    fn column<T: ByteArrayType>(&self, file: &MappedFile, rows: Range<usize>) -> Result<ArrayRef> {
        let records = &self.records[rows.clone()];
        // What is compressed is mostly not made smaller by it: images and sound.
        let bytes = records.iter().map(|record| record.len).sum();
        let mut values = MutableBuffer::with_capacity(bytes);
        let mut ends = Vec::with_capacity(records.len());
        let copier = file.copier();
        if self.compression == CompressionScheme::None {
            let heads = copier.copy(records, &mut values)?;
            self.check(file, rows.clone(), &heads)?;
            ends.extend(records.iter().scan(0, |end, record| {
                *end += record.len;
                Some(*end)
            }));
        } else {
            self.decompress(file, rows.clone(), &copier, &mut values, &mut ends)?;
        }
        let offsets = offsets::<T::Offset>(&ends)?;
        let valid = &self.valid[rows];
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        let array = GenericByteArray::<T>::try_new(offsets, values.into(), nulls);
        Ok(Arc::new(array.map_err(|error| file.corrupt(error.to_string()))?))
    }

    /// Decompresses values to `out`, and adds where each of them ends to `ends`.
    fn decompress(
        &self,
        file: &MappedFile,
        rows: Range<usize>,
        copier: &Copier<'_>,
        out: &mut MutableBuffer,
        ends: &mut Vec<usize>,
    ) -> Result<()> {
        let config = CompressionConfig::new(self.compression, None);
        let codec = GeneralBufferCompressor::get_compressor(config);
        let codec = codec.map_err(|error| Error::lance(file.path().display(), &error))?;
        let mut stored = MutableBuffer::with_capacity(BYTES_AT_ONCE);
        let mut value = Vec::new();
        let mut first = rows.start;
        while first < rows.end {
            let count = at_once(&self.records[first..rows.end]);
            let records = &self.records[first..first + count];
            stored.truncate(0);
            let heads = copier.copy(records, &mut stored)?;
            self.check(file, first..first + count, &heads)?;
            let mut start = 0;
            for record in records {
                let stored = &stored[start..start + record.len];
                value.clear();
                guard(&file.path().to_string_lossy(), || {
                    one(&*codec, stored, &mut value).map_err(|error| file.corrupt(error))
                })?;
                out.extend_from_slice(&value);
                ends.push(out.len());
                start += record.len;
            }
            first += count;
        }
        Ok(())
    }

    /// Checks what lies in front of each value.
    fn check(&self, file: &MappedFile, rows: Range<usize>, heads: &[Head]) -> Result<()> {
        for (row, head) in rows.zip(heads) {
            if !self.is_head(row, head) {
                let start = self.records[row].start;
                return Err(file.corrupt(format!("the value at byte {start} has another length")));
            }
        }
        Ok(())
    }

    /// Returns whether what lies in front of a row says what the index says.
    fn is_head(&self, row: usize, head: &Head) -> bool {
        let (null_bytes, length_bytes) = self.heads[row];
        let is_null = head[..null_bytes].iter().any(|&byte| byte != 0);
        if !self.valid[row] {
            return is_null;
        }
        let mut length = [0; 8];
        length[..length_bytes].copy_from_slice(&head[null_bytes..null_bytes + length_bytes]);
        !is_null && u64::from_le_bytes(length) == self.records[row].len as u64
    }
}

fn one(
    codec: &dyn BufferCompressor,
    stored: &[u8],
    value: &mut Vec<u8>,
) -> std::result::Result<(), String> {
    codec.decompress(stored, value).map_err(|error| error.to_string())
}

/// Returns how many of the first records are copied at once.
fn at_once(records: &[Record]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.len;
        bytes <= BYTES_AT_ONCE
    };
    records.iter().take_while(fits).count().max(1)
}

/// Returns the offsets of a column whose values end so.
fn offsets<O: OffsetSizeTrait>(ends: &[usize]) -> Result<OffsetBuffer<O>> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(O::usize_as(0));
    for &end in ends {
        offsets.push(O::from_usize(end).ok_or_else(|| {
            Error::invalid(
                format!("{} rows with more than {end} bytes in one column", ends.len()),
                "fewer rows per batch, as its offsets have 32 bits",
            )
        })?);
    }
    Ok(OffsetBuffer::new(ScalarBuffer::from(offsets)))
}
