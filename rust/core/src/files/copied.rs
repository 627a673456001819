//! Long values of a file on a local disk, copied by the system to where they are wanted.
//!
//! Touching a mapping brings its pages into the process with a fault for every few of them, and they have to
//! leave again. A value of many pages is cheaper to copy with `preadv`, and a run of values that follow each
//! other is one call. The mapping remains for a file that can no longer be opened.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

use arrow_buffer::MutableBuffer;

use super::mapped::{MappedFile, too_short};
use crate::error::{Error, Result};

/// The most bytes in front of a value.
pub(crate) const MOST_HEAD_BYTES: usize = 16;
/// The most records of one call: the system takes 1,024 pieces, two per record.
const RECORDS_PER_CALL: usize = 512;
/// The most bytes of one call.
const BYTES_PER_CALL: usize = 8 << 20;

/// A value in a file, and what lies in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it begins in the file.
    pub(crate) start: u64,
    /// The bytes in front of the value, at most [`MOST_HEAD_BYTES`].
    pub(crate) head: usize,
    /// The bytes of the value.
    pub(crate) len: usize,
}

/// The bytes in front of a value, padded with zeros.
pub(crate) type Head = [u8; MOST_HEAD_BYTES];

impl Record {
    /// Returns where it lies in the file.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    fn end(&self) -> u64 {
        self.start + (self.head + self.len) as u64
    }
}

/// Copies values of a file.
pub(crate) struct Copier<'a> {
    path: &'a Path,
    num_bytes: u64,
    input: Input<'a>,
}

enum Input<'a> {
    Owned(File),
    Borrowed(&'a File),
    /// The mapping of a file that can no longer be opened.
    Mapped(&'a MappedFile),
}

impl MappedFile {
    /// Returns a copier for values of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if it has another length than when it was mapped.
    pub(crate) fn copier(&self) -> Result<Copier<'_>> {
        let input = self.open_again()?.map_or(Input::Mapped(self), Input::Owned);
        Ok(Copier { path: self.path(), num_bytes: self.num_bytes(), input })
    }
}

impl<'a> Copier<'a> {
    /// Returns a copier for values of an open file, which has `num_bytes`.
    pub(super) fn of_open(file: &'a File, path: &'a Path, num_bytes: u64) -> Self {
        Self { path, num_bytes, input: Input::Borrowed(file) }
    }

    /// Copies the values of `records` to `out`, one after the other, and returns what lies in front of each.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the file ends before them, [`Error::Io`].
    pub(crate) fn copy(&self, records: &[Record], out: &mut MutableBuffer) -> Result<Vec<Head>> {
        let beyond = |record: &&Record| record.end() > self.num_bytes;
        if let Some(record) = records.iter().find(beyond) {
            return Err(self.too_short(&record.range()));
        }
        let mut heads = vec![[0; MOST_HEAD_BYTES]; records.len()];
        let mut first = 0;
        while first < records.len() {
            let count = run_of(&records[first..]);
            let (run, heads) = (&records[first..first + count], &mut heads[first..first + count]);
            match &self.input {
                Input::Owned(file) => self.read(file, run, heads, out)?,
                Input::Borrowed(file) => self.read(file, run, heads, out)?,
                Input::Mapped(mapped) => copy_from_mapping(mapped, run, heads, out)?,
            }
            first += count;
        }
        Ok(heads)
    }

    /// Copies a run of values that follow each other in the file.
    #[expect(
        unsafe_code,
        reason = "a system call that fills memory which is reserved and not set yet"
    )]
    fn read(
        &self,
        file: &File,
        run: &[Record],
        heads: &mut [Head],
        out: &mut MutableBuffer,
    ) -> Result<()> {
        let bytes = run.iter().map(|record| record.len).sum::<usize>();
        out.reserve(bytes);
        let mut pieces = Vec::with_capacity(2 * run.len());
        let mut filled = out.len();
        for (record, head) in run.iter().zip(heads) {
            debug_assert!(record.head <= MOST_HEAD_BYTES);
            let head = head.as_mut_ptr().cast();
            pieces.push(libc::iovec { iov_base: head, iov_len: record.head.min(MOST_HEAD_BYTES) });
            // SAFETY: the values of the run end within what was reserved.
            let value = unsafe { out.as_mut_ptr().add(filled) }.cast();
            pieces.push(libc::iovec { iov_base: value, iov_len: record.len });
            filled += record.len;
        }
        let mut left = skip_bytes(&mut pieces, 0);
        let mut at = run[0].start;
        while !left.is_empty() {
            let offset = libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
            let count = libc::c_int::try_from(left.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: the pieces are memory of `heads` and `out`, which nothing else uses meanwhile.
            let read = unsafe { libc::preadv(file.as_raw_fd(), left.as_ptr(), count, offset) };
            let read = match usize::try_from(read) {
                Ok(0) => return Err(self.too_short(&(at..run[run.len() - 1].end()))),
                Ok(read) => read,
                Err(_) => {
                    let error = std::io::Error::last_os_error();
                    if error.kind() == std::io::ErrorKind::Interrupted {
                        continue;
                    }
                    return Err(Error::io(self.path.display(), &error));
                }
            };
            at += read as u64;
            left = skip_bytes(left, read);
        }
        // SAFETY: all of it was reserved, and is filled now.
        unsafe { out.set_len(filled) };
        Ok(())
    }

    fn too_short(&self, wanted: &Range<u64>) -> Error {
        too_short(self.path, self.num_bytes, wanted)
    }
}

/// Copies a run from a mapping.
fn copy_from_mapping(
    mapped: &MappedFile,
    run: &[Record],
    heads: &mut [Head],
    out: &mut MutableBuffer,
) -> Result<()> {
    for (record, head) in run.iter().zip(heads) {
        let bytes = mapped.slice(record.range())?;
        let (front, value) = bytes.split_at(record.head.min(MOST_HEAD_BYTES));
        head[..front.len()].copy_from_slice(front);
        out.extend_from_slice(value);
    }
    Ok(())
}

/// Returns how many of the first records follow each other, and are copied by one call.
fn run_of(records: &[Record]) -> usize {
    let mut bytes = records[0].len;
    let mut count = 1;
    while let Some(next) = records.get(count)
        && next.start == records[count - 1].end()
        && count < RECORDS_PER_CALL
        && bytes + next.len <= BYTES_PER_CALL
    {
        bytes += next.len;
        count += 1;
    }
    count
}

/// Returns what is left of the pieces after `bytes` bytes, without leading empty ones.
#[expect(unsafe_code, reason = "a place within the memory of a piece")]
fn skip_bytes(pieces: &mut [libc::iovec], mut bytes: usize) -> &mut [libc::iovec] {
    let mut done = 0;
    while done < pieces.len() && pieces[done].iov_len <= bytes {
        bytes -= pieces[done].iov_len;
        done += 1;
    }
    let left = &mut pieces[done..];
    if let Some(piece) = left.first_mut() {
        // SAFETY: it has more bytes.
        piece.iov_base = unsafe { piece.iov_base.cast::<u8>().add(bytes) }.cast();
        piece.iov_len -= bytes;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::files::Attempt;

    fn map(contents: &[u8]) -> (tempfile::TempDir, MappedFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values");
        std::fs::write(&path, contents).unwrap();
        match MappedFile::open(&path, None).unwrap() {
            Attempt::Mapped(mapped) => (folder, mapped),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn values_are_copied_in_the_order_of_their_records(
            sizes in prop::collection::vec((0_usize..=MOST_HEAD_BYTES, 0_usize..3000), 1..700),
            order in any::<prop::sample::Index>(),
        ) {
            let mut records = Vec::new();
            let mut start = 0;
            for (head, len) in sizes {
                records.push(Record { start, head, len });
                start += (head + len) as u64;
            }
            let contents: Vec<u8> = (0..start).map(|at| (at * 31 % 251) as u8).collect();
            let (folder, mapped) = map(&contents);
            // All of them are a few calls; in any other order each is one.
            let at = order.index(records.len());
            records.rotate_left(at);
            let mut wanted = Vec::new();
            let mut heads = Vec::new();
            for record in &records {
                let start = usize::try_from(record.start).unwrap();
                let (front, value) = contents[start..][..record.head + record.len].split_at(record.head);
                wanted.extend_from_slice(value);
                let mut head = [0; MOST_HEAD_BYTES];
                head[..front.len()].copy_from_slice(front);
                heads.push(head);
            }
            let copier = mapped.copier().unwrap();
            prop_assert!(matches!(copier.input, Input::Owned(_)));
            let mut out = MutableBuffer::from(b"before".to_vec());
            prop_assert_eq!(&copier.copy(&records, &mut out).unwrap(), &heads);
            prop_assert_eq!(&out[6..], &wanted);
            // A file that is gone is read from its mapping.
            drop(folder);
            let copier = mapped.copier().unwrap();
            prop_assert!(matches!(copier.input, Input::Mapped(_)));
            let mut out = MutableBuffer::new(0);
            prop_assert_eq!(&copier.copy(&records, &mut out).unwrap(), &heads);
            prop_assert_eq!(&*out, &wanted);
        }
    }

    #[test]
    fn what_lies_beyond_the_end_is_told() {
        let (_folder, mapped) = map(&[7; 100]);
        let mut out = MutableBuffer::new(0);
        let record = |start, len| Record { start, head: 4, len };
        assert!(mapped.copier().unwrap().copy(&[record(0, 96)], &mut out).is_ok());
        for beyond in [record(1, 96), record(200, 0)] {
            let error =
                mapped.copier().unwrap().copy(&[record(0, 10), beyond], &mut out).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
        // The file is cut while it is open: `preadv` reaches its end early.
        let copier = mapped.copier().unwrap();
        File::options().write(true).open(mapped.path()).unwrap().set_len(50).unwrap();
        let error = copier.copy(&[record(0, 96)], &mut out).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        // It was cut before: its mapping must not be touched beyond the end.
        assert!(matches!(mapped.copier(), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn pieces_that_are_filled_in_part_go_on_where_they_stopped() {
        let mut memory = [0_u8; 30];
        let base = memory.as_mut_ptr();
        let place = |at: usize| base.wrapping_add(at).cast();
        let piece = |at, iov_len| libc::iovec { iov_base: place(at), iov_len };
        for filled in 0..=30 {
            let mut pieces =
                [piece(0, 10), piece(10, 0), piece(10, 15), piece(25, 5), piece(30, 0)];
            let left = skip_bytes(&mut pieces, filled);
            assert_eq!(left.iter().map(|piece| piece.iov_len).sum::<usize>(), 30 - filled);
            assert_eq!(left.is_empty(), filled == 30);
            if let Some(first) = left.first() {
                assert_eq!(first.iov_base, place(filled));
            }
        }
    }
}
