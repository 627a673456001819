//! Where long values lie → a column of them.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{ArrayRef, GenericByteArray, OffsetSizeTrait};
use arrow_buffer::{MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;
use bytes::Bytes;
use lance_encoding::encodings::physical::block::{
    BufferCompressor, CompressionConfig, CompressionScheme, GeneralBufferCompressor,
};

use super::super::data_file::DataFile;
use super::super::guard::guard;
use super::LongRows;
use crate::error::{Error, Result};
use crate::files::{Head, MOST_HEAD_BYTES, MappedFile, Record};

/// Compressed bytes that are copied at once: they should still be in the processor's cache when they are
/// decompressed.
const BYTES_AT_ONCE: usize = 256 << 10;
/// Bytes that are copied before interrupts are looked for again.
const BYTES_PER_CHECK: usize = 16 << 20;

impl LongRows {
    /// Reads the values of some of the rows, as a column of this type.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if what lies in front of a value is not what the index says, a value cannot be
    /// decompressed, or text is not UTF-8; [`Error::Invalid`] if the column outgrows the offsets of its type;
    /// [`Error::Io`].
    pub(in super::super) fn read(
        &mut self,
        file: &DataFile,
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

    fn column<T: ByteArrayType>(
        &mut self,
        file: &DataFile,
        rows: Range<usize>,
    ) -> Result<ArrayRef> {
        let records = &self.records[rows.clone()];
        // As stored: images and sound hardly shrink when they are compressed.
        let bytes = records.iter().map(|record| record.len).sum();
        let mut out = Out { values: MutableBuffer::with_capacity(bytes), ends: Vec::new() };
        match (&file.mapped, self.fetched.take()) {
            (_, Some(mut fetched)) => {
                let read = self.take(file, rows.clone(), &mut fetched, &mut out);
                self.fetched = Some(fetched);
                read?;
            }
            (Some(mapped), None) => self.copy(file, mapped, rows.clone(), &mut out)?,
            (None, None) => return Err(Error::bug("long values that were not fetched")),
        }
        let offsets = offsets::<T::Offset>(&out.ends)?;
        let valid = &self.valid[rows];
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        let array = GenericByteArray::<T>::try_new(offsets, out.values.into(), nulls);
        Ok(Arc::new(array.map_err(|error| Error::corrupt(&file.path, error.to_string()))?))
    }

    /// Reads values that were fetched.
    fn take(
        &self,
        file: &DataFile,
        rows: Range<usize>,
        fetched: &mut [Bytes],
        out: &mut Out,
    ) -> Result<()> {
        let mut codec = Codec::new(file, self.compression)?;
        for row in rows {
            crate::interrupt::check()?;
            let bytes = std::mem::take(&mut fetched[row]);
            let (front, stored) = bytes.split_at(self.records[row].head.min(bytes.len()));
            let mut head = [0; MOST_HEAD_BYTES];
            head[..front.len()].copy_from_slice(front);
            self.check(file, row..row + 1, &[head])?;
            codec.add(stored, out)?;
        }
        Ok(())
    }

    /// Copies values from a mapped file.
    fn copy(
        &self,
        file: &DataFile,
        mapped: &MappedFile,
        rows: Range<usize>,
        out: &mut Out,
    ) -> Result<()> {
        let copier = mapped.copier()?;
        if self.compression == CompressionScheme::None {
            let mut first = rows.start;
            while first < rows.end {
                crate::interrupt::check()?;
                let count = at_once(&self.records[first..rows.end], BYTES_PER_CHECK);
                let records = &self.records[first..first + count];
                let heads = copier.copy(records, &mut out.values)?;
                self.check(file, first..first + count, &heads)?;
                for record in records {
                    out.ends.push(out.ends.last().map_or(0, |end| *end) + record.len);
                }
                first += count;
            }
            return Ok(());
        }
        let mut codec = Codec::new(file, self.compression)?;
        let mut stored = MutableBuffer::with_capacity(BYTES_AT_ONCE);
        let mut first = rows.start;
        while first < rows.end {
            crate::interrupt::check()?;
            let count = at_once(&self.records[first..rows.end], BYTES_AT_ONCE);
            let records = &self.records[first..first + count];
            stored.truncate(0);
            let heads = copier.copy(records, &mut stored)?;
            self.check(file, first..first + count, &heads)?;
            let mut start = 0;
            for record in records {
                codec.add(&stored[start..start + record.len], out)?;
                start += record.len;
            }
            first += count;
        }
        Ok(())
    }

    /// Checks what lies in front of each value.
    fn check(&self, file: &DataFile, rows: Range<usize>, heads: &[Head]) -> Result<()> {
        for (row, head) in rows.zip(heads) {
            if !self.is_head(row, head) {
                let start = self.records[row].start;
                let reason =
                    format!("the value at byte {start} does not match the index of its page");
                return Err(Error::corrupt(&file.path, reason));
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

/// The values of a column, and where each of them ends.
struct Out {
    values: MutableBuffer,
    ends: Vec<usize>,
}

/// Appends values of a file to a column, decompressed.
struct Codec<'a> {
    file: &'a DataFile,
    /// `None` for what is not compressed.
    decompressor: Option<Box<dyn BufferCompressor>>,
    value: Vec<u8>,
}

impl<'a> Codec<'a> {
    fn new(file: &'a DataFile, scheme: CompressionScheme) -> Result<Self> {
        let config = CompressionConfig::new(scheme, None);
        let make = || GeneralBufferCompressor::get_compressor(config);
        let decompressor = (scheme != CompressionScheme::None).then(make).transpose();
        let decompressor = decompressor.map_err(|error| Error::lance(&file.path, &error))?;
        Ok(Self { file, decompressor, value: Vec::new() })
    }

    /// Adds a value to a column.
    fn add(&mut self, stored: &[u8], out: &mut Out) -> Result<()> {
        let Self { file, decompressor, value } = self;
        if let Some(decompressor) = decompressor {
            value.clear();
            guard(&file.path, || {
                let read = decompressor.decompress(stored, value);
                read.map_err(|error| Error::corrupt(&file.path, error.to_string()))
            })?;
            out.values.extend_from_slice(value);
        } else {
            out.values.extend_from_slice(stored);
        }
        out.ends.push(out.values.len());
        Ok(())
    }
}

/// Returns how many of the first records are copied at once.
fn at_once(records: &[Record], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.len;
        bytes <= most
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
