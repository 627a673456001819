//! Where long values lie → a column of them.

use std::ops::Range;

use arrow_array::ArrayRef;
use arrow_buffer::{MutableBuffer, NullBuffer};
use arrow_schema::DataType;
use lance_encoding::encodings::physical::block::CompressionScheme;

use super::super::data_file::DataFile;
use super::LongRows;
use super::codec::Codec;
use super::out::Out;
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
                let heads = out.add_all(records.iter().map(|record| record.len), |values| {
                    self.copier()?.copy(&records, values)
                })?;
                self.check(now, &heads)?;
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
