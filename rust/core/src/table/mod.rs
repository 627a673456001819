//! A Lance table at one version: its schema, where its rows lie, and readers for its fragments.
//!
//! Opening reads the manifest and the deletion files, once; no data file is touched. What is read is
//! checked: a table that uses a feature this reader does not know is refused, so that the table's own
//! library can take over.

mod absent;
mod blobs;
mod footer;
mod fragment;
mod guard;
mod held;
mod lists;
mod lru;
mod mapped;
mod remote;
mod rows;
mod storage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Schema as ArrowSchema, SchemaRef};
use lance_arrow::json::lance_json_to_arrow_json;
use lance_core::datatypes::{Field, Schema};
use lance_file::version::ConcreteFileVersion;
use lance_table::feature_flags::ensure_can_read_manifest;
use lance_table::format::{Manifest, pb};
use lance_table::io::commit::{CommitHandler, commit_handler_from_url};
use lance_table::io::manifest::read_manifest;
use prost::Message;
use twox_hash::XxHash3_128;

use fragment::Shapes;
pub(crate) use fragment::{FragmentReader, Pending};
pub(crate) use mapped::forget_touched;
pub use storage::StorageOptions;

use crate::error::{Error, Result};
use crate::plan::{Layout, plan_run};
use crate::projection::{Projection, Source};
use crate::runtime::{self, PerProcess};
use rows::RowIds;
use storage::{Place, Storage};

/// How many fragments are looked at for blobs outside of the table.
const FRAGMENTS_PROBED: usize = 8;
/// How many rows of each.
const ROWS_PROBED: u64 = 1024;

/// Which version of a table to open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Version {
    /// The newest one of a branch, or of the main line.
    #[default]
    Latest,
    /// The one with this number.
    Number(u64),
    /// The one a tag points at; tags name their branch themselves.
    Tag(String),
}

/// The branch of a version, or `None` for the main line, given its manifest as Lance serializes it.
///
/// For objects of other libraries, which say where their table is and which version they are at, but
/// not on which branch.
///
/// # Errors
///
/// [`Error::Invalid`] if the bytes are no manifest.
pub fn branch_of_manifest(bytes: &[u8]) -> Result<Option<String>> {
    pb::Manifest::decode(bytes)
        .map(|manifest| manifest.branch)
        .map_err(|error| Error::invalid(format!("these bytes ({error})"), "a Lance manifest"))
}

/// Where a table is and which version of it is meant.
#[derive(Debug, Clone, Default)]
pub struct Address {
    /// A path or URI.
    pub uri: String,
    /// The branch, or `None` for the main line.
    pub branch: Option<String>,
    /// The version.
    pub version: Version,
    /// Options of the object store, credentials among them.
    pub options: StorageOptions,
}

impl Address {
    fn is_remote(&self) -> bool {
        self.uri.split_once("://").is_some_and(|(scheme, _)| scheme.starts_with("s3"))
    }
}

/// A Lance table, pinned to the version it was opened at.
#[derive(Debug)]
pub struct Table {
    address: Address,
    manifest: Manifest,
    schema: SchemaRef,
    layout: Layout,
    row_ids: PerProcess<RowIds>,
    storage: PerProcess<Storage>,
    identity: PerProcess<String>,
    external_blobs: PerProcess<Vec<i32>>,
}

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
                Err(error) => Err(remote::told(&place, error).await),
                opened => opened,
            }
        })
    }

    async fn open_async(mut address: Address) -> Result<Self> {
        let uri = address.uri.clone();
        if let Version::Tag(name) = &address.version {
            let main = Place::connect(&uri, &address.options).await?;
            let tag = remote::answered(&address, read_tag(&main, &uri, name)).await?;
            (address.branch, address.version) = (tag.branch, Version::Number(tag.version));
        }
        let root = connect(&address).await?;
        let manifest = read_version(&root, &address).await?;
        check(&uri, &manifest)?;
        address.version = Version::Number(manifest.version);
        let layout = rows::read_layout(&root, &manifest, &address.options)
            .await
            .map_err(|error| changed(&address, manifest.version, error))?;
        let schema = arrow_schema_of(&manifest.schema);
        Ok(Self {
            address,
            manifest,
            schema,
            layout,
            row_ids: PerProcess::new(),
            storage: PerProcess::new(),
            identity: PerProcess::new(),
            external_blobs: PerProcess::new(),
        })
    }

    /// Where the table is; the version is always a number.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The version it is pinned to.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// The columns, with the metadata of fields and table.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Where the rows lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The id of each row offset.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]; [`Error::Unsupported`] for ids this reader cannot read.
    pub fn row_ids(&self, offsets: &[u64]) -> Result<Vec<u64>> {
        self.ids()?.ids(&self.layout, offsets)
    }

    /// The row offset of each id, or `None` where no live row has it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for ids this reader cannot read.
    pub fn offsets(&self, ids: &[u64]) -> Result<Vec<Option<u64>>> {
        self.ids()?.offsets(&self.layout, ids)
    }

    /// Bytes of the data files, all columns, or `None` if an old writer did not say.
    pub fn data_bytes(&self) -> Option<u64> {
        let files = self.manifest.fragments.iter().flat_map(|fragment| &fragment.files);
        files.map(|file| file.file_size_bytes.get().map(u64::from)).sum()
    }

    /// Bytes of the data files of the fragment with this index, or `None` if an old writer did not say.
    pub(crate) fn bytes_of_fragment(&self, index: usize) -> Option<u64> {
        let files = self.manifest.fragments[index].files.iter();
        files.map(|file| file.file_size_bytes.get().map(u64::from)).sum()
    }

    /// A name for its rows and columns that no other table or version has, unless it shows the same:
    /// a hash of its fragments and fields, as the manifest has them.
    pub fn identity(&self) -> String {
        let hashed = self.identity.get_or_make(|| Ok(identity_of(&self.manifest)));
        hashed.expect("hashing does not fail").as_ref().clone()
    }

    /// What must be read for `projection`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a column is stored in a way this reader does not read.
    pub(crate) fn columns(&self, projection: &Projection) -> Result<Columns> {
        let mut ids = Vec::new();
        let top = self.manifest.schema.fields.iter().map(|field| (field.name.as_str(), field));
        let top: HashMap<&str, &Field> = top.collect();
        let paths = projection.paths();
        for path in &paths {
            let field = field_at(&top, path)?;
            readable(field)?;
            ids.push(field.id);
        }
        if projection.wants(&Source::RowId) {
            self.ids()?;
        }
        let whole = &self.manifest.schema;
        // No path is inside another.
        let is_whole = paths.len() == whole.fields.len() && paths.iter().all(|p| p.len() == 1);
        let columns = if is_whole {
            let schema = Arc::clone(&self.schema);
            Columns { fields: whole.clone(), schema, shapes: PerProcess::new() }
        } else {
            Columns::new(project(whole, &ids))
        };
        for field in columns.fields.fields.iter().filter(|field| blobs::has_blobs(field)) {
            let external = self.external_blobs().map_err(|error| self.changed(error))?;
            if blobs::blob_ids(field).iter().any(|id| external.contains(id)) {
                let reason =
                    format!("column `{}`: blobs that lie outside of the table", field.name);
                return Err(Error::Unsupported(reason));
            }
        }
        Ok(columns)
    }

    /// The ids of columns of blobs, some of which lie outside of the table.
    ///
    /// Only the first rows of some fragments are looked at: where an image lies is mostly the same for
    /// a whole column, and others are refused when they are read.
    fn external_blobs(&self) -> Result<Arc<Vec<i32>>> {
        self.external_blobs.get_or_make(|| {
            let fields = self.manifest.schema.fields.iter().filter(|field| readable(field).is_ok());
            let ids: Vec<i32> = fields.flat_map(blobs::blob_ids).collect();
            let columns = Columns::new(project(&self.manifest.schema, &ids));
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
                        move || reader.request(&read.places, read.num_rows)?.external_blobs();
                    found.extend(if is_remote { runtime::blocking(work)? } else { work()? });
                }
            }
            Ok(found)
        })
    }

    /// A reader for `columns` of the fragment with this index.
    pub(crate) fn fragment(&self, index: usize, columns: &Columns) -> Result<FragmentReader> {
        let storage = self.storage.get_or_make(|| {
            runtime::wait(async {
                // Connected anew: in a forked process nothing drives the parent's connections.
                let root = connect(&self.address).await?;
                Storage::open(&root, &self.manifest.base_paths, &self.address.options).await
            })
        })?;
        let fragments = &self.manifest.fragments;
        let shapes = columns
            .shapes
            .get_or_make(|| Shapes::new(fragments, &self.manifest.schema, &columns.fields))?;
        FragmentReader::open(&storage, index, &fragments[index], shapes.of(index))
    }

    /// What it means that a file the manifest names was not found.
    pub(crate) fn changed(&self, error: Error) -> Error {
        remote::explained(&self.address, changed(&self.address, self.version(), error))
    }

    fn ids(&self) -> Result<Arc<RowIds>> {
        self.row_ids.get_or_make(|| RowIds::new(&self.manifest, &self.layout))
    }
}

/// See [`Table::identity`]. States and caches of earlier versions hold it.
fn identity_of(manifest: &Manifest) -> String {
    let mut hash = XxHash3_128::new();
    for fragment in manifest.fragments.iter() {
        hash.write(&pb::DataFragment::from(fragment).encode_to_vec());
    }
    for field in manifest.schema.fields_pre_order() {
        let (id, parent) = (field.id, field.parent_id);
        let (name, nullable) = (&field.name, field.nullable);
        let data_type = in_one_order(&field.data_type());
        hash.write(format!("{id} {parent} {name} {data_type:?} {nullable};").as_bytes());
    }
    let mut bases: Vec<_> = manifest.base_paths.iter().collect();
    bases.sort_by_key(|(id, _)| **id);
    for (id, base) in bases {
        hash.write(format!("{id} {};", base.path).as_bytes());
    }
    format!("{:032x}", hash.finish_128())
}

/// A type whose text is the same in every process: the metadata of a field is a map, which prints its
/// entries in any order, so several become one.
fn in_one_order(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| {
        let mut metadata = field.metadata().clone();
        if metadata.len() > 1 {
            let entries: BTreeMap<_, _> = metadata.into_iter().collect();
            metadata = HashMap::from([(format!("{entries:?}"), String::new())]);
        }
        let data_type = in_one_order(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(data_type).with_metadata(metadata))
    };
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Map(entries, is_sorted) => DataType::Map(inner(entries), *is_sorted),
        other => other.clone(),
    }
}

/// Columns of a table, as its data files name them.
#[derive(Debug)]
pub(crate) struct Columns {
    fields: Schema,
    /// Of the blocks that come out.
    schema: SchemaRef,
    /// Found on first use: many columns are asked for and never read.
    shapes: PerProcess<Shapes>,
}

impl Columns {
    fn new(fields: Schema) -> Self {
        let schema = arrow_schema_of(&fields);
        Self { fields, schema, shapes: PerProcess::new() }
    }

    /// The schema of the blocks read.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// The Arrow schema of what is read: blobs come out as binary and JSON as text, whatever they are
/// stored as.
fn arrow_schema_of(schema: &Schema) -> SchemaRef {
    let schema = blobs::with_binary(schema);
    let fields: Vec<_> = schema.fields().iter().map(|f| lance_json_to_arrow_json(f)).collect();
    Arc::new(ArrowSchema::new_with_metadata(fields, schema.metadata))
}

/// The folder of the branch of a table. No request is made.
async fn connect(address: &Address) -> Result<Place> {
    let main = Place::connect(&address.uri, &address.options).await?;
    Ok(match &address.branch {
        None => main,
        Some(branch) => main.join("tree").join(branch),
    })
}

/// A tag's file.
#[derive(serde::Deserialize)]
struct Tag {
    branch: Option<String>,
    version: u64,
}

async fn read_tag(main: &Place, uri: &str, name: &str) -> Result<Tag> {
    let path = main.join("_refs").join("tags").path.join(format!("{name}.json"));
    let bytes = main.store.read_one_all(&path).await;
    let bytes = bytes.map_err(|error| match Error::lance(&path, &error) {
        Error::NotFound { .. } => Error::NotFound {
            uri: format!("{uri} (tag {name})"),
            reason: "the table has no tag of this name".to_string(),
        },
        other => other,
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Corrupt { path: path.to_string(), reason: error.to_string() })
}

async fn read_version(root: &Place, address: &Address) -> Result<Manifest> {
    let uri = &address.uri;
    let lance = |error: &lance_core::Error| Error::lance(uri, error);
    let params = Some(storage::params(&address.options));
    let handler = commit_handler_from_url(uri, &params).await.map_err(|e| lance(&e))?;
    let location = remote::answered(address, async {
        match address.version {
            Version::Number(version) => {
                let store = root.store.inner.as_ref();
                handler.resolve_version_location(&root.path, version, store).await
            }
            _ => handler.resolve_latest_location(&root.path, &root.store).await,
        }
        .map_err(|error| lance(&error))
    });
    let location = match location.await {
        Ok(location) => location,
        Err(error) => return Err(no_table(root, address, error).await),
    };
    let manifest = read_manifest(&root.store, &location.path, location.size).await;
    match (manifest, &address.version) {
        (Ok(manifest), _) => Ok(manifest),
        (Err(error), Version::Number(version)) => match lance(&error) {
            Error::NotFound { .. } if exists(root, handler.as_ref()).await => {
                Err(Error::TableChanged {
                    uri: uri.clone(),
                    version: *version,
                    reason: "its manifest".to_string(),
                })
            }
            error => Err(no_table(root, address, error).await),
        },
        (Err(error), _) => Err(no_table(root, address, lance(&error)).await),
    }
}

async fn exists(root: &Place, handler: &dyn CommitHandler) -> bool {
    handler.resolve_latest_location(&root.path, &root.store).await.is_ok()
}

/// "Not found" of a file inside a table means, for a user, that the table is not there.
async fn no_table(root: &Place, address: &Address, error: Error) -> Error {
    match error {
        Error::NotFound { .. } => {
            let reason = match &address.branch {
                None => absent::reason(root, &address.uri).await,
                Some(branch) => format!("it has no branch {branch}"),
            };
            Error::NotFound { uri: address.uri.clone(), reason }
        }
        other => other,
    }
}

/// "Not found" of a file that the manifest names means that the version was cleaned away.
fn changed(address: &Address, version: u64, error: Error) -> Error {
    match error {
        Error::NotFound { uri: path, .. } => {
            Error::TableChanged { uri: address.uri.clone(), version, reason: path }
        }
        other => other,
    }
}

/// Refuses what this reader does not know.
fn check(uri: &str, manifest: &Manifest) -> Result<()> {
    let unsupported = |what: &str| Err(Error::Unsupported(format!("{uri}: {what}")));
    ensure_can_read_manifest(manifest).map_err(|error| Error::lance(uri, &error))?;
    for fragment in manifest.fragments.iter() {
        if !fragment.overlays.is_empty() {
            return unsupported("data overlay files");
        }
        for file in &fragment.files {
            match file.file_version() {
                Ok(ConcreteFileVersion::V1) => {
                    return unsupported("data files of the legacy format 0.1");
                }
                Ok(_) => {}
                Err(error) => return Err(Error::lance(&file.path, &error)),
            }
        }
    }
    Ok(())
}

/// The fields with these ids, each with all that is inside it.
fn project(schema: &Schema, ids: &[i32]) -> Schema {
    let wanted: HashSet<i32> = ids.iter().copied().collect();
    let mut fields = Vec::new();
    for field in &schema.fields {
        let one = Schema { fields: vec![field.clone()], metadata: HashMap::new() };
        let inside: Vec<i32> =
            one.fields_pre_order().map(|field| field.id).filter(|id| wanted.contains(id)).collect();
        if !inside.is_empty() {
            fields.extend(one.project_by_ids(&inside, true).fields);
        }
    }
    Schema { fields, metadata: schema.metadata.clone() }
}

/// The column at `path`, or the packed struct around it: its fields lie in one column of a file, and
/// cannot be read alone.
fn field_at<'a>(top: &HashMap<&str, &'a Field>, path: &[String]) -> Result<&'a Field> {
    let missing = || Error::Bug(format!("{} is not in the schema", path.join(".")));
    let mut field = *path.first().and_then(|name| top.get(name.as_str())).ok_or_else(missing)?;
    for name in &path[1..] {
        if is_packed(field) {
            break;
        }
        let child = field.children.iter().find(|child| child.name == *name);
        field = child.ok_or_else(missing)?;
    }
    Ok(field)
}

fn is_packed(field: &Field) -> bool {
    field.logical_type.is_struct() && field.is_packed_struct()
}

/// Refuses columns that a decoder alone cannot give.
fn readable(field: &Field) -> Result<()> {
    let unsupported =
        |what: &str| Err(Error::Unsupported(format!("column `{}`: {what}", field.name)));
    let data_type = field.data_type();
    if blobs::has_blobs(field) && !field.is_blob_v2() && !may_hold_blobs(&data_type) {
        return unsupported(&format!("blobs inside a column of type {data_type}"));
    }
    if lists::is_list_of_structs(field) && lists::holds_lists(&data_type) {
        return unsupported("lists inside the structs of a list of a fixed size");
    }
    field.children.iter().try_for_each(readable)
}

fn may_hold_blobs(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_io::utils::CachedFileSize;
    use lance_table::format::{DataFile, DataStorageFormat, Fragment};

    fn field(name: &str, data_type: DataType, metadata: &[(&str, &str)]) -> FieldRef {
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let field = arrow_schema::Field::new(name, data_type, true);
        Arc::new(field.with_metadata(metadata.collect()))
    }

    fn identity(inner: &[(&str, &str)], file_size: u64) -> String {
        let x = field("x", DataType::Int32, inner);
        let pair = field("pair", DataType::Struct(vec![x].into()), &[("unit", "m")]);
        let pairs = DataType::List(field("item", DataType::Struct(vec![pair].into()), &[]));
        let schema = ArrowSchema::new(vec![field("pairs", pairs, &[("a", "1"), ("b", "2")])]);
        let mut fragment = Fragment::new(3);
        let (version, size) = (ConcreteFileVersion::V2_1, CachedFileSize::new(file_size));
        fragment.files =
            vec![DataFile::new("0101.lance", vec![4], vec![0], version, size.get(), None)];
        fragment.physical_rows = Some(7);
        let format = DataStorageFormat::new(version);
        let schema = Schema::try_from(&schema).unwrap();
        identity_of(&Manifest::new(schema, Arc::new(vec![fragment]), format, HashMap::new()))
    }

    /// States and caches of earlier versions hold these.
    #[test]
    fn tables_are_named_as_in_earlier_versions() {
        let names = [identity(&[], 1234), identity(&[("unit", "m")], 1234), identity(&[], 0)];
        let wanted = [
            "70615851184ffeb1bc4b7c5fe2dfef9d",
            "2689d71791a146c3932a81d727624e6a",
            "a68b30a52462f8d7dc9d0515dd23fcb0",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn the_name_of_a_table_is_the_same_whatever_order_a_map_is_in() {
        let metadata = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")];
        let names: Vec<String> = (0..20).map(|_| identity(&metadata, 1)).collect();
        assert_eq!(names, vec![names[0].clone(); 20]);
        let others = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "6")];
        assert_ne!(identity(&others, 1), names[0]);
        assert_ne!(identity(&metadata[..4], 1), names[0]);
    }
}
