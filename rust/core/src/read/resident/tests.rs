use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::*;
use crate::error::Fault;

const ROWS: u64 = 1024;

/// Rows that cannot be read for a while.
#[derive(Debug)]
struct Faulty {
    schema: SchemaRef,
    fault: ArcSwapOption<Error>,
    scans: AtomicUsize,
    panics: AtomicBool,
    is_far: AtomicBool,
}

impl Faulty {
    fn new() -> Arc<Self> {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        Arc::new(Self {
            schema: Arc::new(schema),
            fault: ArcSwapOption::empty(),
            scans: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            is_far: AtomicBool::new(false),
        })
    }

    fn fail(&self, error: Error) {
        self.fault.store(Some(Arc::new(error)));
    }
}

impl Scan for Faulty {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn num_rows(&self) -> u64 {
        ROWS
    }

    fn weights(&self) -> Result<Weights> {
        Ok(Weights::new([(ROWS, 8)]))
    }

    fn is_remote(&self) -> bool {
        self.is_far.load(Ordering::Relaxed)
    }

    fn scan(&self, offsets: Range<u64>, _keeps: bool) -> Result<Vec<RecordBatch>> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "on purpose");
        if let Some(error) = self.fault.load_full() {
            return Err(Error::clone(&error));
        }
        let values: Int64Array = offsets.map(|row| i64::try_from(row).unwrap()).collect();
        Ok(vec![RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::new(values)]).unwrap()])
    }
}

fn resident(scan: &Arc<Faulty>, home: Option<Home>) -> Arc<Resident> {
    resident_of(scan, home, 256, u64::MAX)
}

fn resident_of(
    scan: &Arc<Faulty>,
    home: Option<Home>,
    block_rows: u64,
    limit: u64,
) -> Arc<Resident> {
    let packing = Packing::new(scan.schema()).unwrap();
    let weights = Arc::new(scan.weights().unwrap());
    let (limits_files, set_limit) = (true, None);
    let sizes = Sizes { row_bytes: 8, weights, block_rows, limit, limits_files, set_limit };
    Arc::new(Resident::new(Arc::clone(scan) as _, packing, sizes, home))
}

fn home(path: &Path) -> Home {
    let packing = Packing::new(Faulty::new().schema()).unwrap();
    let found =
        Found::new(vec![vec!["n".into()]], ROWS, 256, packing.stride(), packing.signature());
    Home { cache: Cache::new(path, Some(1 << 30)), table: "t".into(), found, needed: 0 }
}

fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asks for all rows until they are there.
fn filled(resident: &Arc<Resident>) {
    soon("it fills", || {
        resident.fill(2).unwrap();
        resident.is_complete()
    });
    let offsets: Vec<u64> = (0..ROWS).rev().collect();
    let columns = resident.gather(&offsets, &[0]).unwrap().unwrap();
    let wanted: Int64Array = (0..1024).rev().collect();
    assert_eq!(&*columns[0], &wanted as &dyn arrow_array::Array);
}

fn passing() -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Error::io("a data file", &source)
}

#[test]
fn filling_goes_on_after_an_error_that_passes() {
    let scan = Faulty::new();
    let resident = resident(&scan, None);
    scan.fail(passing());
    assert_eq!(passing().fault(), Some(Fault::Unreachable));
    resident.fill(2).unwrap();
    soon("it fails", || resident.failure().is_some());
    assert!(!resident.wait().unwrap());
    scan.fault.store(None);
    filled(&resident);
    assert!(resident.failure().is_none());
}

#[test]
fn what_fails_is_not_tried_again_at_once() {
    let scan = Faulty::new();
    let resident = resident(&scan, None);
    scan.fail(passing());
    for _ in 0..3 {
        resident.fill(1).unwrap();
        soon("it fails", || resident.failure().is_some());
        let scans = scan.scans.load(Ordering::Relaxed);
        // As a loop over batches does.
        for _ in 0..1000 {
            resident.fill(1).unwrap();
        }
        let more = scan.scans.load(Ordering::Relaxed) - scans;
        assert!(more <= 1, "{more} more scans");
    }
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    let damage = || Error::corrupt("a data file", "its page is cut");
    for panics in [false, true] {
        let scan = Faulty::new();
        let resident = resident(&scan, None);
        scan.panics.store(panics, Ordering::Relaxed);
        scan.fail(damage());
        resident.fill(1).unwrap();
        soon("it fails", || resident.failure().is_some());
        let scans = scan.scans.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(250));
        resident.fill(1).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(scan.scans.load(Ordering::Relaxed), scans);
        assert!(resident.failure().is_some());
    }
}

#[test]
fn a_folder_that_can_be_written_to_again_gets_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    // A file where the folder should be: nobody can write there, not even root.
    std::fs::write(&cache, "in the way").unwrap();
    let resident = resident(&Faulty::new(), Some(home(&cache)));
    filled(&resident);
    assert!(!resident.is_shared());
    let failure = resident.failure().expect("it says so");
    assert!(failure.to_string().contains("could not write"), "{failure}");
    std::fs::remove_file(&cache).unwrap();
    soon("rows are shared", || {
        resident.share().unwrap();
        resident.is_shared()
    });
    assert!(resident.failure().is_none());
    filled(&resident);
    assert_eq!(resident.counters.blocks_filled.load(Ordering::Relaxed), 4, "packed once");
    let other = self::resident(&Faulty::new(), Some(home(&cache)));
    filled(&other);
    assert_eq!(other.counters.blocks_mapped.load(Ordering::Relaxed), 4);
}

#[test]
fn a_folder_that_goes_away_in_the_middle_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let scan = Faulty::new();
    let resident = resident(&scan, Some(home(&cache)));
    assert!(resident.is_shared());
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::write(&cache, "in the way").unwrap();
    filled(&resident);
    assert!(!resident.is_shared());
    std::fs::remove_file(&cache).unwrap();
    soon("rows are shared", || {
        resident.share().unwrap();
        resident.is_shared()
    });
    filled(&resident);
}

#[test]
fn rows_count_once_they_are_handed_out_and_not_when_they_are_gathered() {
    let resident = resident(&Faulty::new(), None);
    filled(&resident);
    assert!(resident.gather_matrix(&[3, 700], &[0]).is_some());
    // A window of which a later batch lacks rows is gathered again.
    assert_eq!(resident.counters.rows_packed.load(Ordering::Relaxed), 0);
}

/// All rows, and not one more.
const ALL_BYTES: u64 = ROWS * 8;

#[test]
fn neighbours_on_another_machine_are_asked_for_together() {
    // Few blocks are one for each thread.
    for (block_rows, blocks, scans) in [(64, 16, 4), (128, 8, 4), (256, 4, 4)] {
        let scan = Faulty::new();
        scan.is_far.store(true, Ordering::Relaxed);
        let resident = resident_of(&scan, None, block_rows, ALL_BYTES);
        filled(&resident);
        assert_eq!(resident.counters.blocks_filled.load(Ordering::Relaxed), blocks);
        assert_eq!(scan.scans.load(Ordering::Relaxed), scans);
    }
}

#[test]
fn a_run_that_fails_leaves_room_for_all_rows() {
    let scan = Faulty::new();
    scan.is_far.store(true, Ordering::Relaxed);
    let resident = resident_of(&scan, None, 64, ALL_BYTES);
    scan.fail(passing());
    resident.fill(2).unwrap();
    soon("it fails", || resident.failure().is_some());
    scan.fault.store(None);
    filled(&resident);
}

#[test]
fn a_run_that_exceeds_the_limit_says_so() {
    let scan = Faulty::new();
    scan.is_far.store(true, Ordering::Relaxed);
    let resident = resident_of(&scan, None, 64, ALL_BYTES - 1);
    resident.fill(2).unwrap();
    soon("it fails", || resident.failure().is_some());
    assert!(matches!(*resident.failure().unwrap(), Error::Memory(_)));
    assert!(!resident.is_complete());
}

#[test]
fn runs_are_shared_with_other_processes() {
    let folder = tempfile::tempdir().unwrap();
    let home = || {
        let packing = Packing::new(Faulty::new().schema()).unwrap();
        let columns = vec![vec!["n".into()]];
        let found = Found::new(columns, ROWS, 64, packing.stride(), packing.signature());
        let cache = Cache::new(folder.path(), Some(1 << 30));
        Home { cache, table: "t".into(), found, needed: 0 }
    };
    let far = |home| {
        let scan = Faulty::new();
        scan.is_far.store(true, Ordering::Relaxed);
        resident_of(&scan, Some(home), 64, ALL_BYTES)
    };
    let (ours, theirs) = (far(home()), far(home()));
    // One of a run is another process's.
    let entry = theirs.entry().unwrap();
    let claim = entry.claim(1).unwrap().unwrap();
    ours.fill(2).unwrap();
    soon("all but one are there", || ours.blocks.load().missing == 1);
    drop(claim);
    filled(&ours);
    assert!(ours.is_shared());
    filled(&theirs);
    assert_eq!(theirs.counters.blocks_mapped.load(Ordering::Relaxed), 16);
}
