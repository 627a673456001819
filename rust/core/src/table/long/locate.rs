//! Rows → where their values lie, asked for ahead or fetched.

use std::ops::Range;

use bytes::Bytes;
use lance_encoding::EncodingsIo;

use super::super::data_file::DataFile;
use super::{LongColumn, LongPage, LongRows};
use crate::error::{Error, Result};
use crate::files::MappedFile;

impl LongColumn {
    /// Finds the values of the rows in ascending, disjoint `ranges` of a mapped file, and asks for them ahead.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the index of a page makes no sense.
    pub(in super::super) fn find(
        &self,
        file: &MappedFile,
        ranges: &[Range<u64>],
    ) -> Result<LongRows> {
        let parts = self.parts(ranges);
        let entries = parts.iter().map(|(page, rows)| page.entries(rows)).collect();
        let found = self.found(ranges, &parts, &file.slices(entries)?);
        let found = found.map_err(|reason| file.corrupt(reason))?;
        file.ahead_of_copy(&found.places());
        Ok(found)
    }

    /// Finds the values of the rows in ascending, disjoint `ranges` of a file that is not mapped, if its copy
    /// on a local disk has them all and the indexes were fetched.
    pub(in super::super) fn find_in_copy(
        &self,
        file: &DataFile,
        ranges: &[Range<u64>],
    ) -> Option<LongRows> {
        let found = self.find_fetched(ranges, &self.parts(ranges)).ok()??;
        file.copies_all_of(&found.places()).then_some(found)
    }

    /// Finds and fetches the values of the rows in ascending, disjoint `ranges` of a file that is not mapped.
    /// With `keeps`, what is fetched is added to a copy on a local disk.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the index of a page makes no sense, and those of the store.
    pub(in super::super) async fn fetch(
        &self,
        file: &DataFile,
        ranges: &[Range<u64>],
        keeps: bool,
    ) -> Result<LongRows> {
        let (io, path) = (file.io(keeps).as_ref(), file.path.as_str());
        let parts = self.parts(ranges);
        let mut unknown: Vec<_> = parts.iter().map(|(page, _)| *page).collect();
        unknown.retain(|page| page.fetched.get().is_none());
        unknown.dedup_by(|page, last| std::ptr::eq(*page, *last));
        let indexes = unknown.iter().map(|page| page.entries(&(0..page.num_rows))).collect();
        for (page, index) in unknown.iter().zip(ask(io, path, indexes).await?) {
            // Another window may have been faster.
            let _ = page.fetched.set(index);
        }
        let corrupt = |reason: String| Error::corrupt(path, reason);
        let found = self.find_fetched(ranges, &parts).map_err(corrupt)?;
        let mut found = found.ok_or_else(|| corrupt("an index is too short".into()))?;
        found.fetched = Some(ask(io, path, found.places()).await?);
        Ok(found)
    }

    /// Returns the rows of `parts`, if their indexes were fetched.
    fn find_fetched(
        &self,
        ranges: &[Range<u64>],
        parts: &[(&LongPage, Range<u64>)],
    ) -> std::result::Result<Option<LongRows>, String> {
        let entries = parts.iter().map(|(page, rows)| page.of_index(rows));
        let entries = entries.collect::<Option<Vec<_>>>();
        entries.map(|entries| self.found(ranges, parts, &entries)).transpose()
    }

    /// Returns the rows of `parts`, whose entries of indexes are these.
    fn found(
        &self,
        ranges: &[Range<u64>],
        parts: &[(&LongPage, Range<u64>)],
        entries: &[Bytes],
    ) -> std::result::Result<LongRows, String> {
        let count: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let found: u64 = parts.iter().map(|(_, rows)| rows.end - rows.start).sum();
        if count != found {
            return Err(format!("{count} rows are wanted, and its pages have {found} of them"));
        }
        let mut rows = LongRows::new(usize::try_from(count).unwrap_or(0), self.compression);
        for ((page, _), entries) in parts.iter().zip(entries) {
            page.find(entries, &mut rows)?;
        }
        Ok(rows)
    }
}

/// Returns the bytes of ranges in any order, some of which may be the same.
async fn ask(io: &dyn EncodingsIo, path: &str, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&at| ranges[at].start);
    let sorted = order.iter().map(|&at| ranges[at].clone()).collect();
    let answers = io.submit_request(sorted, 0).await.map_err(|error| Error::lance(path, &error))?;
    let mut bytes = vec![Bytes::new(); ranges.len()];
    for (at, answer) in order.into_iter().zip(answers) {
        bytes[at] = answer;
    }
    if bytes.iter().zip(&ranges).any(|(bytes, range)| bytes.len() as u64 != range.end - range.start)
    {
        return Err(Error::corrupt(path, "fewer bytes came than were asked for"));
    }
    Ok(bytes)
}
