//! The footer of a data file, which says where its columns are.
//!
//! Lance's own reader decodes the metadata of all columns of a file, and keeps it. This one fetches
//! that of the columns that are read, and builds a footer for them alone. Lance decodes the result as a
//! file of only these columns, so the versions of the format need not be known here.
//!
//! ```text
//! data │ schema │ metadata of each column │ table of these: position, length │ … │ footer
//! ```

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use lance_core::datatypes::Schema;
use lance_encoding::EncodingsIo;
use lance_encoding::decoder::ColumnInfo;
use lance_encoding::encoder::EncodedBatch;
use lance_file::format::MAGIC;
use lance_file::reader::EncodedBatchReaderExt;

use super::guard::guard;
use crate::error::{Error, Result};

const FOOTER_BYTES: u64 = 40;
/// An entry of the table: two numbers of 64 bits.
const ENTRY_BYTES: u64 = 16;

/// Columns from the first number up to the second, or to the last column if there are not so many.
pub(super) type Run = (u32, u32);

/// What the last bytes of a file say.
struct Footer {
    columns: Range<u64>,
    table: u64,
    num_columns: u32,
    /// Major and minor version, as they stand there.
    version: [u8; 4],
}

/// Returns the metadata of some columns, given by their numbers in ascending order.
///
/// `tail_bytes` of the file's end are read at once; where this is not enough, once or twice more.
///
/// # Errors
///
/// [`Error::Corrupt`] if there are no such columns.
pub(super) async fn read_columns(
    path: &str,
    io: &Arc<dyn EncodingsIo>,
    file_bytes: u64,
    tail_bytes: u64,
    runs: &[Run],
) -> Result<Vec<Arc<ColumnInfo>>> {
    let corrupt = |reason: String| Error::corrupt(path, reason);
    if file_bytes < FOOTER_BYTES {
        return Err(corrupt(format!("it has {file_bytes} bytes")));
    }
    let fetch = async |ranges: Vec<Range<u64>>| {
        io.submit_request(ranges, 0).await.map_err(|error| Error::lance(path, &error))
    };
    let tail_start = file_bytes - tail_bytes.clamp(FOOTER_BYTES, file_bytes);
    let mut fetched = fetch(std::iter::once(tail_start..file_bytes).collect()).await?;
    let tail = fetched.pop().filter(|tail| tail.len() as u64 == file_bytes - tail_start);
    let tail = tail.ok_or_else(|| corrupt("its end is missing".to_string()))?;
    // What the tail holds is taken from there.
    let read = async |ranges: &[Range<u64>]| -> Result<Vec<Bytes>> {
        if ranges.iter().any(|range| range.start > range.end || range.end > file_bytes) {
            return Err(corrupt("its footer points beyond its end".to_string()));
        }
        let held = |range: &Range<u64>| {
            let at = |place: u64| usize::try_from(place.checked_sub(tail_start)?).ok();
            Some(tail.slice(at(range.start)?..at(range.end)?))
        };
        let far: Vec<_> = ranges.iter().filter(|range| held(range).is_none()).cloned().collect();
        let mut far = if far.is_empty() { Vec::new() } else { fetch(far).await? }.into_iter();
        let all = ranges.iter().map(|range| held(range).or_else(|| far.next()));
        all.collect::<Option<_>>().ok_or_else(|| corrupt("its end is missing".to_string()))
    };
    let footer = Footer::parse(&tail).map_err(corrupt)?;
    let columns = footer.numbers(runs).map_err(corrupt)?;
    let entries = columns.iter().map(|&column| footer.entry(column)).collect::<Vec<_>>();
    let metadata = read(&entries)
        .await?
        .iter()
        .zip(&columns)
        .map(|(entry, column)| footer.metadata(entry, *column))
        .collect::<Result<Vec<_>, String>>()
        .map_err(corrupt)?;
    // Lance writes it in the order of the columns, and requests go by their start.
    if !metadata.is_sorted_by_key(|range| range.start) {
        return Err(corrupt("the metadata of its columns is not in their order".to_string()));
    }
    let small = footer.alone(&read(&metadata).await?);
    let mut found = guard(path, || {
        EncodedBatch::try_from_mini_lance(small, &Schema::default())
            .map_err(|error| Error::lance(path, &error))
    })?
    .page_table;
    for (info, column) in found.iter_mut().zip(columns) {
        // Lance numbered only the columns of this footer.
        let info = Arc::get_mut(info).ok_or_else(|| Error::bug("metadata is shared"))?;
        info.index = column;
    }
    Ok(found)
}

impl Footer {
    /// Parses the footer at the end of `tail`, which has at least its bytes.
    fn parse(tail: &[u8]) -> Result<Self, String> {
        let footer = &tail[tail.len() - 40..];
        if &footer[36..] != MAGIC {
            return Err("it does not end as a Lance file does".to_string());
        }
        let columns = number(&footer[0..8])..number(&footer[8..16]);
        let num_columns = u32::from_le_bytes([footer[28], footer[29], footer[30], footer[31]]);
        let version = [footer[32], footer[33], footer[34], footer[35]];
        Ok(Self { table: columns.end, columns, num_columns, version })
    }

    /// Returns the numbers of all columns of the runs.
    fn numbers(&self, runs: &[Run]) -> Result<Vec<u32>, String> {
        let end = self.table.checked_add(u64::from(self.num_columns) * ENTRY_BYTES);
        if end.is_none() {
            return Err("its footer is damaged".to_string());
        }
        let mut numbers = Vec::with_capacity(runs.len());
        for &(start, end) in runs {
            if start >= self.num_columns {
                return Err(format!("it has no column {start}, but {}", self.num_columns));
            }
            numbers.extend(start..end.min(self.num_columns));
        }
        Ok(numbers)
    }

    /// Returns where the entry of a column is.
    fn entry(&self, column: u32) -> Range<u64> {
        let start = self.table + u64::from(column) * ENTRY_BYTES;
        start..start + ENTRY_BYTES
    }

    /// Returns where the metadata of a column is, going by its entry.
    fn metadata(&self, entry: &[u8], column: u32) -> Result<Range<u64>, String> {
        let outside = || format!("the metadata of column {column} is not where it should be");
        let (entries, _) = entry.as_chunks::<8>();
        let [start, length] = entries else {
            return Err(outside());
        };
        let (start, length) = (u64::from_le_bytes(*start), u64::from_le_bytes(*length));
        let end = start.checked_add(length).ok_or_else(outside)?;
        let is_inside = self.columns.start <= start && end <= self.columns.end;
        is_inside.then_some(start..end).ok_or_else(outside)
    }

    /// Returns the end of a file that has only these columns.
    fn alone(&self, columns: &[Bytes]) -> Bytes {
        let length: usize = columns.iter().map(Bytes::len).sum();
        let mut bytes = BytesMut::with_capacity(length + columns.len() * 16 + 40);
        for column in columns {
            bytes.put_slice(column);
        }
        let mut position = 0;
        for column in columns {
            bytes.put_u64_le(position);
            bytes.put_u64_le(column.len() as u64);
            position += column.len() as u64;
        }
        let end = bytes.len() as u64;
        bytes.put_u64_le(0);
        bytes.put_u64_le(position);
        bytes.put_u64_le(end);
        bytes.put_u32_le(0);
        bytes.put_u32_le(u32::try_from(columns.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&self.version);
        bytes.put_slice(MAGIC);
        bytes.freeze()
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use arrow_array::types::Int32Type;
    use arrow_array::{ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
    use arrow_schema::{DataType, Field, Schema as ArrowSchema};
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use lance_core::cache::LanceCache;
    use lance_encoding::BufferScheduler;
    use lance_encoding::decoder::DecoderPlugins;
    use lance_file::reader::{FileReader, FileReaderOptions};
    use lance_file::version::ConcreteFileVersion;
    use lance_file::versions::create_writer;
    use lance_file::writer::FileWriterOptions;
    use lance_io::object_store::ObjectStore;
    use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
    use lance_io::utils::CachedFileSize;
    use object_store::path::Path;

    use super::*;
    use crate::runtime;

    /// Counts what is asked for.
    #[derive(Debug)]
    struct Counting {
        inner: BufferScheduler,
        bytes: AtomicU64,
        requests: AtomicU64,
    }

    impl EncodingsIo for Counting {
        fn submit_request(
            &self,
            ranges: Vec<Range<u64>>,
            priority: u64,
        ) -> BoxFuture<'static, lance_core::Result<Vec<Bytes>>> {
            assert!(ranges.is_sorted_by_key(|range| range.start));
            let bytes = ranges.iter().map(|range| range.end - range.start).sum();
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.inner.submit_request(ranges, priority).boxed()
        }
    }

    fn column(at: usize) -> ArrayRef {
        let lists = [Some(vec![Some(1)]), None, Some(vec![None, Some(3)])];
        match at % 3 {
            0 => Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")])),
            1 => Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
            _ => {
                let field = Arc::new(Field::new("inner", DataType::Utf8, true));
                Arc::new(StructArray::from(vec![(field, column(0))]))
            }
        }
    }

    /// A file of so many columns, and the metadata of all of them as Lance reads it.
    fn file(version: ConcreteFileVersion, num_columns: usize) -> (Bytes, Vec<Arc<ColumnInfo>>) {
        let columns: Vec<ArrayRef> = (0..num_columns).map(column).collect();
        let fields = columns
            .iter()
            .enumerate()
            .map(|(at, column)| Field::new(format!("c{at}"), column.data_type().clone(), true));
        let schema = Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let schema = Schema::try_from(schema.as_ref()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("data.lance");
        let path = Path::from_filesystem_path(folder.path()).unwrap().join("data.lance");
        let store = Arc::new(ObjectStore::local());
        let metadata = runtime::wait(async {
            let file = store.create(&path).await.unwrap();
            let options = FileWriterOptions::default();
            let mut writer = create_writer(version, file, schema, options).unwrap();
            writer.write_batch(&batch).await.unwrap();
            writer.finish().await.unwrap();
            let config = SchedulerConfig::max_bandwidth(&store);
            let scheduler = ScanScheduler::new(Arc::clone(&store), config);
            let size = CachedFileSize::unknown();
            let file = scheduler.open_file(&path, &size).await.unwrap();
            let plugins = Arc::<DecoderPlugins>::default();
            let (cache, options) = (LanceCache::no_cache(), FileReaderOptions::default());
            let reader = FileReader::try_open(file, None, plugins, &cache, options).await.unwrap();
            Ok(reader.metadata().column_infos.clone())
        });
        (std::fs::read(local).unwrap().into(), metadata.unwrap())
    }

    fn read(bytes: &Bytes, tail: u64, runs: &[Run]) -> (Result<Vec<Arc<ColumnInfo>>>, u64, u64) {
        let inner = BufferScheduler::new(bytes.clone());
        let (asked, requests) = (AtomicU64::new(0), AtomicU64::new(0));
        let counting = Arc::new(Counting { inner, bytes: asked, requests });
        let io = Arc::clone(&counting) as Arc<dyn EncodingsIo>;
        let found = read_columns("it", &io, bytes.len() as u64, tail, runs);
        let found = found.now_or_never().expect("a buffer answers at once");
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (found, of(&counting.bytes), of(&counting.requests))
    }

    #[test]
    fn the_metadata_of_some_columns_is_that_which_lance_reads() {
        use ConcreteFileVersion::{V2_0, V2_1, V2_2};
        for version in [V2_0, V2_1, V2_2] {
            let (bytes, all) = file(version, 7);
            let count = u32::try_from(all.len()).unwrap();
            let runs: [&[Run]; 5] =
                [&[(0, 1)], &[(2, 4)], &[(1, 2), (4, 5), (6, u32::MAX)], &[(0, u32::MAX)], &[]];
            for runs in runs {
                let wanted = runs.iter().flat_map(|run| run.0..run.1.min(count));
                let wanted: Vec<_> = wanted.map(|at| format!("{:?}", all[at as usize])).collect();
                for tail in [0, 100, 1000, 1 << 20] {
                    let found = read(&bytes, tail, runs).0.unwrap();
                    let found: Vec<_> = found.iter().map(|info| format!("{info:?}")).collect();
                    assert_eq!(found, wanted, "{version:?} {runs:?} {tail}");
                }
            }
            assert_eq!(read(&bytes, 1 << 20, &[(0, u32::MAX)]).2, 1, "the tail has it all");
            let error = read(&bytes, 0, &[(count, u32::MAX)]).0.unwrap_err().to_string();
            assert!(error.contains(&format!("no column {count}")), "{error}");
        }
    }

    #[test]
    fn a_column_costs_the_same_however_many_there_are() {
        let cost = |num_columns| {
            let (bytes, all) = file(ConcreteFileVersion::V2_1, num_columns);
            assert_eq!(all.len(), num_columns);
            let (found, bytes, requests) = read(&bytes, 0, &[(3, 4)]);
            assert_eq!(found.unwrap()[0].index, 3);
            (bytes, requests)
        };
        let (few, requests) = cost(6);
        assert_eq!(requests, 3);
        // Numbers that are larger may take a byte more.
        let (many, requests) = cost(600);
        assert!(many < few + 16 && requests == 3, "{few} {many}");
    }

    #[test]
    fn damaged_ends_are_told() {
        let (bytes, _) = file(ConcreteFileVersion::V2_1, 3);
        let told = |bytes: Vec<u8>| match read(&bytes.into(), 0, &[(0, u32::MAX)]).0 {
            Err(Error::Corrupt { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(told(bytes[..20].to_vec()).contains("20 bytes"));
        assert!(told(bytes[..bytes.len() - 4].to_vec()).contains("as a Lance file does"));
        let end = bytes.len();
        let changed = |at: usize, value: [u8; 8]| {
            let mut bytes = bytes.to_vec();
            bytes[end - 40 + at..end - 32 + at].copy_from_slice(&value);
            bytes
        };
        let far = u64::MAX - 8;
        assert!(told(changed(8, far.to_le_bytes())).contains("damaged"));
        for beyond in [end as u64 - 8, end as u64 + 8, 1 << 51] {
            let reason = told(changed(8, beyond.to_le_bytes()));
            assert!(reason.contains("beyond its end"), "{beyond}: {reason}");
        }
        // All metadata then lies before the place where it should begin.
        let outside = told(changed(0, (end as u64 - 41).to_le_bytes()));
        assert!(outside.contains("not where it should be"), "{outside}");
        // Garbage in the metadata itself.
        let start = u64::from_le_bytes(bytes[end - 40..end - 32].try_into().unwrap());
        let mut garbled = bytes.to_vec();
        garbled[usize::try_from(start).unwrap()..][..16].fill(0xff);
        let found = read(&garbled.into(), 0, &[(0, u32::MAX)]).0;
        assert!(found.is_err(), "{found:?}");
    }
}
