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

use super::super::data_file::DataFile;
use super::super::guard::guard;
use super::LongRows;
use crate::error::{Error, Result};
use crate::files::{Copier, Head, MOST_HEAD_BYTES, Record};

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
        let mut out = Out::with_room(self.stored_bytes(rows.clone()));
        let fetched = self.fetched.take();
        let mut copying = Copying::new(file, self)?;
        if let Some(mut fetched) = fetched {
            let mut take =
                |row: usize| copying.add_fetched(row, &std::mem::take(&mut fetched[row]), &mut out);
            let taken = rows.clone().try_for_each(&mut take);
            self.fetched = Some(fetched);
            taken?;
        } else {
            copying.add(&rows.clone().collect::<Vec<_>>(), &mut out)?;
        }
        let valid = &self.valid[rows];
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        out.into_column(data_type, nulls, &file.path)
    }

    /// Returns the bytes of values as they are stored: images and sound hardly shrink when they are compressed.
    fn stored_bytes(&self, rows: Range<usize>) -> usize {
        self.records[rows].iter().map(|record| record.len).sum()
    }

    /// Returns the mean number of bytes of the values as they are stored.
    pub(in super::super) fn mean_bytes(&self) -> usize {
        self.stored_bytes(0..self.records.len()) / self.records.len().max(1)
    }

    /// Returns how many of the first rows are copied at once.
    fn at_once(&self, rows: &[usize], most: usize) -> usize {
        let mut bytes = 0;
        let fits = |row: &&usize| {
            bytes += self.records[**row].len;
            bytes <= most
        };
        rows.iter().take_while(fits).count().max(1)
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

/// Copies values of one file to a column.
pub(super) struct Copying<'a> {
    file: &'a DataFile,
    rows: &'a LongRows,
    codec: Codec<'a>,
    copier: Option<Copier<'a>>,
    /// Values as they are stored, if they are compressed.
    stored: MutableBuffer,
}

impl<'a> Copying<'a> {
    pub(super) fn new(file: &'a DataFile, rows: &'a LongRows) -> Result<Self> {
        let codec = Codec::new(file, rows.compression)?;
        Ok(Self { file, rows, codec, copier: None, stored: MutableBuffer::new(0) })
    }

    /// Adds the values of some rows.
    pub(super) fn add(&mut self, mut rows: &[usize], out: &mut Out) -> Result<()> {
        if let Some(fetched) = &self.rows.fetched {
            return rows.iter().try_for_each(|&row| self.add_fetched(row, &fetched[row], out));
        }
        let is_plain = self.rows.compression == CompressionScheme::None;
        let bytes_at_once = if is_plain { BYTES_PER_CHECK } else { BYTES_AT_ONCE };
        while !rows.is_empty() {
            crate::interrupt::check()?;
            let (now, later) = rows.split_at(self.rows.at_once(rows, bytes_at_once));
            let records: Vec<Record> = now.iter().map(|&row| self.rows.records[row]).collect();
            if is_plain {
                let heads = self.copier()?.copy(&records, &mut out.values)?;
                self.check(now, &heads)?;
                for record in &records {
                    out.ends.push(out.ends.last().map_or(0, |end| *end) + record.len);
                }
            } else {
                let mut stored = std::mem::take(&mut self.stored);
                stored.truncate(0);
                stored.reserve(BYTES_AT_ONCE);
                let heads = self.copier()?.copy(&records, &mut stored)?;
                self.check(now, &heads)?;
                let mut start = 0;
                for record in &records {
                    self.codec.add(&stored[start..start + record.len], out)?;
                    start += record.len;
                }
                self.stored = stored;
            }
            rows = later;
        }
        Ok(())
    }

    /// Adds a value that was fetched.
    fn add_fetched(&mut self, row: usize, bytes: &[u8], out: &mut Out) -> Result<()> {
        crate::interrupt::check()?;
        let (front, stored) = bytes.split_at(self.rows.records[row].head.min(bytes.len()));
        let mut head = [0; MOST_HEAD_BYTES];
        head[..front.len()].copy_from_slice(front);
        self.check(&[row], &[head])?;
        self.codec.add(stored, out)
    }

    /// Closes the file, which is opened again for the next values.
    pub(super) fn close(&mut self) {
        self.copier = None;
    }

    fn copier(&mut self) -> Result<&Copier<'a>> {
        let copier =
            if let Some(copier) = self.copier.take() { copier } else { self.file.copier()? };
        Ok(self.copier.insert(copier))
    }

    /// Checks what lies in front of each value.
    fn check(&self, rows: &[usize], heads: &[Head]) -> Result<()> {
        for (&row, head) in rows.iter().zip(heads) {
            if !self.rows.is_head(row, head) {
                let start = self.rows.records[row].start;
                let reason =
                    format!("the value at byte {start} does not match the index of its page");
                return Err(Error::corrupt(&self.file.path, reason));
            }
        }
        Ok(())
    }
}

/// The values of a column, and where each of them ends.
pub(super) struct Out {
    values: MutableBuffer,
    ends: Vec<usize>,
}

impl Out {
    /// Returns no values, with room for values that have so many bytes as they are stored: what hardly shrinks
    /// when it is compressed may also grow a little.
    pub(super) fn with_room(stored_bytes: usize) -> Self {
        let bytes = stored_bytes.saturating_add(stored_bytes / 16);
        Self { values: MutableBuffer::with_capacity(bytes), ends: Vec::new() }
    }

    /// Adds the value of a column.
    pub(super) fn add(&mut self, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.ends.push(self.values.len());
    }

    /// Returns the values as a column of this type.
    pub(super) fn into_column(
        self,
        data_type: &DataType,
        nulls: Option<NullBuffer>,
        path: &str,
    ) -> Result<ArrayRef> {
        match data_type {
            DataType::Utf8 => self.into_array::<Utf8Type>(nulls, path),
            DataType::LargeUtf8 => self.into_array::<LargeUtf8Type>(nulls, path),
            DataType::Binary => self.into_array::<BinaryType>(nulls, path),
            DataType::LargeBinary => self.into_array::<LargeBinaryType>(nulls, path),
            other => Err(Error::bug(format!("long values of type {other}"))),
        }
    }

    fn into_array<T: ByteArrayType>(
        self,
        nulls: Option<NullBuffer>,
        path: &str,
    ) -> Result<ArrayRef> {
        let offsets = offsets::<T::Offset>(&self.ends)?;
        let array = GenericByteArray::<T>::try_new(offsets, self.values.into(), nulls);
        Ok(Arc::new(array.map_err(|error| Error::corrupt(path, error.to_string()))?))
    }
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
            out.add(value);
        } else {
            out.add(stored);
        }
        Ok(())
    }
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
