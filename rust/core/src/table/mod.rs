//! A Lance table at one version: its schema, where its rows lie, and readers for its fragments.
//!
//! Opening reads the manifest and the deletion files, once; no data file is touched. What is read is
//! checked: a table that uses a feature this reader does not know is refused, so that the table's own
//! library can take over.

mod absent;
mod address;
mod blobs;
mod columns;
mod data_file;
mod fields;
mod file_columns;
mod footer;
mod fragment;
mod guard;
mod hub;
mod identity;
mod lists;
mod long;
mod lru;
mod open_files;
mod options;
mod remote;
mod rows;
mod shape;
mod storage;
mod stores;
mod version;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow_schema::{Schema as ArrowSchema, SchemaRef};
use futures::stream::{self, StreamExt, TryStreamExt};
use lance_core::datatypes::Schema;
use lance_table::format::Manifest;

pub use address::{Address, Version};
pub(crate) use columns::Columns;
pub(crate) use fragment::{Block, FragmentReader, Pending};
pub(crate) use long::gather::{ALL_COPIED, LongValues, Part, gather_long, least_apart};
pub(crate) use open_files::remote_files_at_once;
pub use options::StorageOptions;
pub use version::branch_of_manifest;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::files::{Meter, Traffic};
use crate::plan::{Layout, plan_run};
use crate::projection::{Projection, Source};
use crate::runtime::{self, PerProcess, lock};
use columns::{arrow_schema_of, fields_at, readable};
use fields::project;
use rows::RowIds;
use shape::Shapes;
use storage::{Place, Reading, Storage, without_retries};
use version::{changed, check, connect, read_tag, read_version};

/// How many fragments are probed for blobs outside of the table.
const FRAGMENTS_PROBED: usize = 8;
/// How many remote files are opened at once, if the limit of their store allows it.
const OPENED_AT_ONCE: usize = 256;
/// How many rows of each fragment are probed.
const ROWS_PROBED: u64 = 1024;

/// A Lance table, pinned to the version it was opened at.
#[derive(Debug)]
pub struct Table {
    address: Address,
    manifest: Manifest,
    /// Made on first use: a reader of some columns does not need it.
    schema: PerProcess<ArrowSchema>,
    layout: Layout,
    row_ids: PerProcess<RowIds>,
    storages: PerProcess<Storages>,
    identity: PerProcess<String>,
    external_blobs: PerProcess<Vec<i32>>,
    meter: PerProcess<Meter>,
}

/// What files are read through, by where copies of remote ones are kept.
type Storages = Mutex<HashMap<Option<Cache>, Arc<Storage>>>;

impl Table {
    /// Opens a table.
    ///
    /// One listing and one read of the manifest, plus one read per fragment with deletions.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no table, [`Error::TableChanged`] if there is one but not
    /// this version, [`Error::Unsupported`] if it uses a feature this reader does not know.
    pub fn open(address: Address) -> Result<Self> {
        runtime::wait(async {
            let place = address.clone();
            let opened = Box::pin(Self::open_async(address)).await;
            match opened {
                Err(error) => Err(remote::diagnosed(&place, error).await),
                opened => opened,
            }
        })
    }

    async fn open_async(mut address: Address) -> Result<Self> {
        let uri = address.uri.clone();
        if let Version::Tag(name) = &address.version {
            let main = Place::connect(&uri, &address.options).await?;
            let tag = remote::first_answer(&address, read_tag(&main, &uri, name)).await?;
            (address.branch, address.version) = (tag.branch, Version::Number(tag.version));
        }
        let root = connect(&address).await?;
        let manifest = read_version(&root, &address).await?;
        check(&uri, &manifest)?;
        address.version = Version::Number(manifest.version);
        let layout = rows::read_layout(&root, &manifest, &address.options)
            .await
            .map_err(|error| changed(&address, manifest.version, error))?;
        Ok(Self {
            address,
            manifest,
            schema: PerProcess::new(),
            layout,
            row_ids: PerProcess::new(),
            storages: PerProcess::new(),
            identity: PerProcess::new(),
            external_blobs: PerProcess::new(),
            meter: PerProcess::new(),
        })
    }

    /// Returns where the table is; the version is always a number.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the version it is pinned to.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// Returns the columns, with the metadata of fields and table.
    pub fn schema(&self) -> SchemaRef {
        self.schema.get_or_init(|| arrow_schema_of(&self.manifest.schema))
    }

    /// Returns the names of the columns, in order.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.manifest.schema.fields.iter().map(|field| field.name.as_str())
    }

    /// Returns the projection of this table onto `columns`, pairs of output name and source name.
    ///
    /// Only the columns that are named are looked at, however many there are.
    ///
    /// # Errors
    ///
    /// [`Error::NoColumn`] for a source name that the table does not have.
    pub fn projection(&self, columns: &[(&str, &str)]) -> Result<Projection> {
        let columns = || columns.iter().copied();
        let named: HashSet<&str> = columns().flat_map(|(_, source)| tops_of(source)).collect();
        let whole = &self.manifest.schema;
        let fields = whole.fields.iter().filter(|field| named.contains(field.name.as_str()));
        let fields: Vec<_> = fields.cloned().collect();
        if fields.len() < whole.fields.len() {
            let some = Schema { fields, metadata: whole.metadata.clone() };
            match Projection::new(&arrow_schema_of(&some), columns()) {
                // The error lists all columns.
                Err(Error::NoColumn { .. }) => {}
                projection => return projection,
            }
        }
        Projection::new(&self.schema(), columns())
    }

    /// Returns where the rows lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the id of each row offset.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]; [`Error::Unsupported`] for ids this reader cannot read.
    pub fn row_ids(&self, offsets: &[u64]) -> Result<Vec<u64>> {
        self.ids()?.ids(&self.layout, offsets)
    }

    /// Returns the row offset of each id, or `None` where no live row has it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for ids this reader cannot read.
    pub fn offsets(&self, ids: &[u64]) -> Result<Vec<Option<u64>>> {
        self.ids()?.offsets(&self.layout, ids)
    }

    /// Returns the bytes of the data files, all columns, or `None` if an old writer did not say.
    pub fn data_bytes(&self) -> Option<u64> {
        let files = self.manifest.fragments.iter().flat_map(|fragment| &fragment.files);
        files.map(|file| file.file_size_bytes.get().map(u64::from)).sum()
    }

    /// Returns the bytes of the data files of the fragment with this index, or `None` if an old
    /// writer did not say.
    pub(crate) fn bytes_of_fragment(&self, index: usize) -> Option<u64> {
        let files = self.manifest.fragments[index].files.iter();
        files.map(|file| file.file_size_bytes.get().map(u64::from)).sum()
    }

    /// Returns a hash of the fragments and fields in the manifest, which only tables and versions with
    /// the same rows and columns share.
    pub fn identity(&self) -> String {
        let hashed = self.identity.get_or_init(|| identity::identity_of(&self.manifest));
        hashed.as_ref().clone()
    }

    /// Returns what must be read for `projection`. What is fetched of remote files is kept in `copies`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a column is stored in a way this reader does not read.
    pub(crate) fn columns(
        &self,
        projection: &Projection,
        copies: Option<Cache>,
    ) -> Result<Columns> {
        if projection.wants(&Source::RowId) {
            self.ids()?;
        }
        let paths = projection.paths();
        let whole = &self.manifest.schema;
        // No path is inside another.
        let is_whole = paths.len() == whole.fields.len() && paths.iter().all(|p| p.len() == 1);
        let fields = fields_at(whole, &paths)?;
        let schema = if is_whole { self.schema() } else { Arc::new(arrow_schema_of(&fields)) };
        let copies = copies.filter(|_| self.may_be_remote());
        let columns = Columns::new(fields, schema, copies);
        for field in columns.fields.fields.iter().filter(|field| blobs::has_blobs(field)) {
            let external =
                self.external_blobs(columns.copies.clone()).map_err(|error| self.changed(error))?;
            if blobs::blob_ids(field).iter().any(|id| external.contains(id)) {
                let reason =
                    format!("column `{}`: blobs that lie outside of the table", field.name);
                return Err(Error::unsupported(reason));
            }
        }
        Ok(columns)
    }

    /// Returns the ids of columns of blobs, some of which lie outside of the table.
    ///
    /// Only the first rows of some fragments are read: blobs of a column mostly lie in the same kind of
    /// place, and an external blob that was missed is refused when it is read.
    fn external_blobs(&self, copies: Option<Cache>) -> Result<Arc<Vec<i32>>> {
        self.external_blobs.get_or_make(|| {
            let fields = self.manifest.schema.fields.iter().filter(|field| readable(field).is_ok());
            let ids = fields.flat_map(blobs::blob_ids).collect();
            let fields = project(&self.manifest.schema, &ids);
            let schema = Arc::new(arrow_schema_of(&fields));
            let columns = Columns::new(fields, schema, copies);
            let num_fragments = self.layout.fragments().len();
            let mut found = Vec::new();
            for index in (0..num_fragments).step_by(num_fragments.div_ceil(FRAGMENTS_PROBED).max(1))
            {
                let rows = self.layout.offsets_of(index);
                let rows = rows.start..rows.end.min(rows.start + ROWS_PROBED);
                for read in plan_run(&self.layout, rows)? {
                    let reader = self.fragment(read.fragment, &columns)?;
                    let is_remote = reader.is_remote();
                    let work =
                        move || reader.request(&read.places, read.num_rows, true)?.external_blobs();
                    found.extend(if is_remote { runtime::blocking(work)? } else { work()? });
                }
            }
            Ok(found)
        })
    }

    /// Returns a reader for `columns` of the fragment with this index.
    pub(crate) fn fragment(&self, index: usize, columns: &Columns) -> Result<FragmentReader> {
        let (storage, shapes) = self.opened(columns)?;
        let fragment = &self.manifest.fragments[index];
        let open = FragmentReader::open(&storage, index, fragment, shapes.of(index));
        if storage.is_remote() { runtime::wait(open) } else { runtime::at_once(open) }
    }

    /// Returns readers for `columns` of the fragments with these indexes, opened together.
    pub(crate) fn fragments(
        &self,
        indexes: &[usize],
        columns: &Columns,
    ) -> Result<Vec<FragmentReader>> {
        let (storage, shapes) = self.opened(columns)?;
        let open = |&index: &usize| {
            let fragment = &self.manifest.fragments[index];
            FragmentReader::open(&storage, index, fragment, shapes.of(index))
        };
        let open = stream::iter(indexes).map(open).buffered(OPENED_AT_ONCE);
        runtime::wait(open.try_collect())
    }

    /// Returns whether reads of rows wait for another machine.
    pub(crate) fn is_remote(&self, columns: &Columns) -> Result<bool> {
        Ok(self.storage(columns)?.is_remote())
    }

    /// Returns what was asked of remote files in this process.
    pub(crate) fn traffic(&self) -> Traffic {
        self.meter.get_or_init(Meter::default).counts()
    }

    /// Returns how many requests for remote files are in flight in this process.
    pub(crate) fn in_flight(&self) -> u64 {
        self.meter.get_or_init(Meter::default).in_flight()
    }

    /// Returns why nothing more is kept of remote files, if that is so.
    pub(crate) fn copy_failure(&self, columns: &Columns) -> Option<Arc<Error>> {
        let storages = self.storages.get()?;
        let storage = lock(&storages).get(&columns.copies).map(Arc::clone);
        storage?.copy_failure()
    }

    fn opened(&self, columns: &Columns) -> Result<(Arc<Storage>, Arc<Shapes>)> {
        let storage = self.storage(columns)?;
        let fragments = &self.manifest.fragments;
        let shapes = columns
            .shapes
            .get_or_make(|| Shapes::new(fragments, &self.manifest.schema, &columns.fields))?;
        Ok((storage, shapes))
    }

    /// Returns whether any file may be on another machine.
    fn may_be_remote(&self) -> bool {
        let bases = self.manifest.base_paths.values().map(|base| base.path.as_str());
        let is_far = |path: &str| path.contains("://") && !path.starts_with("file://");
        bases.chain([self.address.uri.as_str()]).any(is_far)
    }

    fn storage(&self, columns: &Columns) -> Result<Arc<Storage>> {
        let storages = self.storages.get_or_init(Mutex::default);
        if let Some(storage) = lock(&storages).get(&columns.copies) {
            return Ok(Arc::clone(storage));
        }
        let meter = self.meter.get_or_init(Meter::default);
        let Address { uri, options, .. } = &self.address;
        let address = Address { options: without_retries(options), ..self.address.clone() };
        let reading = Reading {
            options,
            copies: columns.copies.as_ref(),
            meter: &meter,
            table: &format!("{uri} {}", self.address.branch.as_deref().unwrap_or_default()),
            manifest: &self.manifest,
        };
        let made = runtime::wait(async {
            // Connected anew: in a forked process nothing drives the parent's connections.
            let root = connect(&address).await?;
            Storage::open(&root, uri, &reading).await
        })?;
        // Another thread may have been faster.
        let mut storages = lock(&storages);
        Ok(Arc::clone(storages.entry(columns.copies.clone()).or_insert_with(|| Arc::new(made))))
    }

    /// Turns "not found" of a file that the manifest names into what it means for a user.
    pub(crate) fn changed(&self, error: Error) -> Error {
        remote::explained(&self.address, changed(&self.address, self.version(), error))
    }

    fn ids(&self) -> Result<Arc<RowIds>> {
        self.row_ids.get_or_make(|| RowIds::new(&self.manifest, &self.layout))
    }
}

/// Returns the columns that a name may refer to: the name itself, or a prefix before one of its dots.
fn tops_of(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(at, _)| &name[..at]).chain([name])
}
