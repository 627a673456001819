//! How the columns of a projection lie in the files of a fragment.
//!
//! A fragment's columns may lie in several files, as adding a column writes a new one; a column that
//! is in none of them is null; the fields of one struct may be spread over files. The rules are those
//! of Lance's own `FragmentReader`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema as ArrowSchema, SchemaRef};
use lance_arrow::RecordBatchExt;
use lance_arrow::json::has_json_fields;
use lance_core::datatypes::{Field, Schema};
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::reader_projection_from_field_ids;
use lance_table::format::{DataFile as DataFileOf, Fragment};

use super::blobs::{has_blobs, with_binary, with_descriptors};
use super::fields::project;
use super::footer::Run;
use super::lists::{decoded_together, is_list_of_structs};
use crate::error::{Error, Result};
use crate::runtime::lock;

/// How columns lie in the files of each fragment. Most fragments of a table are alike.
#[derive(Debug)]
pub(super) struct Shapes {
    all: Vec<Arc<Shape>>,
    /// Which of them each fragment has.
    of: Vec<usize>,
}

/// How columns lie in the files of a fragment.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) files: Vec<FileShape>,
    /// Columns that lie in no file, as nullable fields.
    pub(super) absent: Option<SchemaRef>,
    /// Of the columns as they are stored.
    pub(super) schema: SchemaRef,
    /// Where each column comes from: the file, or one more for absent columns, and the column there.
    /// A struct may come from several.
    pub(super) origins: Vec<Vec<(usize, usize)>>,
    pub(super) has_json: bool,
}

/// The columns to read from one file.
#[derive(Debug)]
pub(super) struct FileShape {
    /// The index of the file in the fragment.
    pub(super) index: usize,
    /// The columns as the table knows them.
    pub(super) fields: Schema,
    /// The same as they are decoded.
    pub(super) stored: Arc<Schema>,
    /// The columns of the file whose metadata is needed.
    pub(super) columns: Arc<[Run]>,
    /// Where among these each column of the file begins: a struct has several.
    pub(super) starts: Vec<u32>,
    /// Which of `starts` are of each field of `stored`.
    pub(super) spans: Vec<Range<usize>>,
    /// The schema of `stored`.
    pub(super) schema: SchemaRef,
    /// The columns that are left when some are read without Lance's decoder, by the places of these.
    others: Mutex<HashMap<Vec<usize>, Arc<Others>>>,
}

/// Some of the columns to read from one file.
#[derive(Debug)]
pub(super) struct Others {
    pub(super) stored: Arc<Schema>,
    pub(super) starts: Vec<u32>,
}

impl FileShape {
    /// Returns the columns without those at `places`.
    pub(super) fn without(&self, places: &[usize]) -> Arc<Others> {
        if let Some(others) = lock(&self.others).get(places) {
            return Arc::clone(others);
        }
        let is_left = |at: &usize| !places.contains(at);
        let left = || (0..self.spans.len()).filter(is_left);
        let fields = left().map(|at| self.stored.fields[at].clone()).collect();
        let stored = Arc::new(Schema { fields, metadata: self.stored.metadata.clone() });
        let starts = left().flat_map(|at| &self.starts[self.spans[at].clone()]).copied().collect();
        let others = Arc::new(Others { stored, starts });
        lock(&self.others).insert(places.to_vec(), Arc::clone(&others));
        others
    }
}

impl Shapes {
    /// Returns the shapes of `fragments` for the columns of `schema`, of a table with this schema.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a column is stored in a way this reader does not read.
    pub(super) fn new(fragments: &[Fragment], table: &Schema, schema: &Schema) -> Result<Self> {
        let key = |fragment: &Fragment| -> Vec<_> {
            let files = fragment.files.iter();
            files
                .map(|file| {
                    let version = (file.file_major_version, file.file_minor_version);
                    (Arc::clone(&file.fields), Arc::clone(&file.column_indices), version)
                })
                .collect()
        };
        let (mut all, mut of) = (Vec::new(), Vec::with_capacity(fragments.len()));
        let mut known = HashMap::new();
        let mut last: Option<(_, usize)> = None;
        for fragment in fragments {
            let key = key(fragment);
            // Arrays that are the same one are equal at once, and need no hash.
            if let Some((_, at)) = last.as_ref().filter(|(last, _)| *last == key) {
                of.push(*at);
                continue;
            }
            let at = *known.entry(key.clone()).or_insert(all.len());
            if at == all.len() {
                all.push(Arc::new(Shape::new(fragment, table, schema)?));
            }
            of.push(at);
            last = Some((key, at));
        }
        Ok(Self { all, of })
    }

    /// Returns the shape of the fragment with this index.
    pub(super) fn of(&self, fragment: usize) -> &Arc<Shape> {
        &self.all[self.of[fragment]]
    }
}

impl Shape {
    fn new(fragment: &Fragment, table: &Schema, schema: &Schema) -> Result<Self> {
        // The other columns need not be looked at.
        let top: HashSet<i32> = schema.fields.iter().map(|field| field.id).collect();
        let table = Schema {
            fields: table.fields.iter().filter(|field| top.contains(&field.id)).cloned().collect(),
            metadata: HashMap::new(),
        };
        let wanted = wanted_ids(&table, schema);
        let mut files = Vec::new();
        let mut found = HashSet::new();
        for (index, data_file) in fragment.files.iter().enumerate() {
            if !data_file.fields.iter().any(|id| wanted.contains(id)) {
                continue;
            }
            let lance = |error: &lance_core::Error| Error::lance(&data_file.path, error);
            let version = data_file.file_version().map_err(|e| lance(&e))?;
            if version == ConcreteFileVersion::V2_0
                && schema.fields_pre_order().any(is_list_of_structs)
            {
                return Err(Error::unsupported(format!(
                    "{}: lists of a fixed size whose values are structs in a file of version 2.0",
                    data_file.path
                )));
            }
            let in_file =
                columns_in_file(schema, &data_file.schema(&table)).map_err(|e| lance(&e))?;
            if in_file.fields.is_empty() {
                continue;
            }
            found.extend(in_file.field_ids());
            let column_of: BTreeMap<u32, u32> = data_file
                .fields
                .iter()
                .zip(data_file.column_indices.iter())
                .filter(|(id, _)| wanted.contains(id))
                .filter_map(|(&id, &column)| {
                    Some((u32::try_from(id).ok()?, u32::try_from(column).ok()?))
                })
                .collect();
            let is_old = matches!(version, ConcreteFileVersion::V2_0 | ConcreteFileVersion::V2_1);
            if is_old && in_file.fields.iter().any(has_blobs) {
                return Err(Error::unsupported(format!(
                    "{}: blobs of version 2 in a file of version {version}",
                    data_file.path
                )));
            }
            for fields in decoded_together(in_file) {
                let stored = with_descriptors(&fields);
                let projection = reader_projection_from_field_ids(version, &stored, &column_of)
                    .map_err(|e| lance(&e))?;
                let (columns, starts) = runs(&projection.column_indices, data_file)?;
                let stored = projection.schema;
                let spans = spans(version, &stored, &column_of).map_err(|e| lance(&e))?;
                let schema = Arc::new(ArrowSchema::from(stored.as_ref()));
                let (columns, others) = (columns.into(), Mutex::default());
                let is_known = spans.last().map_or(0, |span| span.end) == starts.len();
                let spans = if is_known { spans } else { Vec::new() };
                let shape =
                    FileShape { index, fields, stored, columns, starts, spans, schema, others };
                files.push(shape);
            }
        }
        let missing: HashSet<i32> =
            schema.field_ids().into_iter().filter(|id| !found.contains(id)).collect();
        let absent = (!missing.is_empty()).then(|| {
            let fields = with_binary(&project(schema, &missing));
            let nullable = fields.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
            Arc::new(ArrowSchema::new(nullable.collect::<Vec<_>>()))
        });
        let schema = Arc::new(with_binary(schema));
        let has_json = schema.fields().iter().any(|field| has_json_fields(field));
        let origins = origins(&schema, &files, absent.as_ref());
        Ok(Self { files, absent, schema, origins, has_json })
    }
}

impl Shape {
    /// Returns one column, assembled from what was read of each file.
    pub(super) fn column(&self, at: usize, parts: &[RecordBatch]) -> Result<ArrayRef> {
        let origins = &self.origins[at];
        if let &[(part, column)] = origins.as_slice()
            && parts[part].column(column).data_type() == self.schema.field(at).data_type()
        {
            return Ok(Arc::clone(parts[part].column(column)));
        }
        let fail = |error| Error::arrow("a data file", &error);
        let mut merged: Option<RecordBatch> = None;
        for &(part, column) in origins {
            let one = parts[part].project(&[column]).map_err(fail)?;
            merged = Some(match merged {
                None => one,
                Some(whole) => whole.merge(&one).map_err(fail)?,
            });
        }
        let wanted = self.schema.project(&[at]).map_err(fail)?;
        let name = wanted.field(0).name();
        let merged = merged.ok_or_else(|| Error::bug(format!("column `{name}` was not read")))?;
        Ok(Arc::clone(merged.project_by_schema(&wanted).map_err(fail)?.column(0)))
    }
}

/// Returns where each column of `schema` comes from.
fn origins(
    schema: &ArrowSchema,
    files: &[FileShape],
    absent: Option<&SchemaRef>,
) -> Vec<Vec<(usize, usize)>> {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let position: HashMap<&str, usize> = names.zip(0..).collect();
    let mut origins = vec![Vec::new(); schema.fields().len()];
    let mut add = |part: usize, column: usize, name: &str| {
        if let Some(&at) = position.get(name) {
            origins[at].push((part, column));
        }
    };
    for (part, file) in files.iter().enumerate() {
        for (column, field) in file.fields.fields.iter().enumerate() {
            add(part, column, &field.name);
        }
    }
    for (column, field) in absent.iter().flat_map(|absent| absent.fields().iter()).enumerate() {
        add(files.len(), column, field.name());
    }
    origins
}

/// Returns which of the columns of a file that a projection names are of each field.
fn spans(
    version: ConcreteFileVersion,
    stored: &Schema,
    column_of: &BTreeMap<u32, u32>,
) -> lance_core::Result<Vec<Range<usize>>> {
    let mut start = 0;
    let span = |field: &Field| {
        let count = if field.children.is_empty() {
            1
        } else {
            let alone = Schema { fields: vec![field.clone()], metadata: HashMap::new() };
            let alone = reader_projection_from_field_ids(version, &alone, column_of)?;
            alone.column_indices.len()
        };
        start += count;
        Ok(start - count..start)
    };
    stored.fields.iter().map(span).collect()
}

/// Returns the columns of a file whose metadata is needed, and where among them each of `columns`
/// begins.
///
/// In file version 2.0 a column may go on in the columns after it, which no field names.
fn runs(columns: &[u32], file: &DataFileOf) -> Result<(Vec<Run>, Vec<u32>)> {
    let known = file.column_indices.iter().filter_map(|&column| u32::try_from(column).ok());
    let mut known: Vec<u32> = known.collect();
    known.sort_unstable();
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_unstable_by_key(|&at| columns[at]);
    let (mut runs, mut starts): (Vec<Run>, _) = (Vec::new(), vec![0; columns.len()]);
    let mut start = 0_u32;
    for at in order {
        let first = columns[at];
        let next = known.partition_point(|&column| column <= first);
        // The last one may go on to the end of the file.
        let end = known.get(next).copied().unwrap_or(u32::MAX);
        if runs.last().is_some_and(|run| run.0 == first) {
            return Err(Error::corrupt(&file.path, format!("two fields have its column {first}")));
        }
        runs.push((first, end));
        starts[at] = start;
        start = start.saturating_add(end - first);
    }
    Ok((runs, starts))
}

/// Returns the ids of a file's columns that matter to `schema`.
///
/// A struct or list takes its validity from whichever of its leaves a file holds, so every leaf
/// under a projected parent counts, even one that is not projected itself.
fn wanted_ids(table: &Schema, schema: &Schema) -> HashSet<i32> {
    fn collect(field: &Field, ids: &mut HashSet<i32>) {
        ids.insert(field.id);
        field.children.iter().for_each(|child| collect(child, ids));
    }
    let mut ids: HashSet<i32> = schema.field_ids().into_iter().collect();
    let parents: HashSet<i32> = schema
        .fields_pre_order()
        .filter(|field| !field.children.is_empty())
        .map(|field| field.id)
        .collect();
    for whole in table.fields_pre_order().filter(|field| parents.contains(&field.id)) {
        collect(whole, &mut ids);
    }
    ids
}

/// Returns the part of `schema` that a file with `file_schema` can give.
///
/// Where the file has a parent but none of its projected children, one of the children it does have
/// is kept, for the parent's validity.
fn columns_in_file(schema: &Schema, file_schema: &Schema) -> lance_core::Result<Schema> {
    let in_file: HashMap<i32, &Field> =
        file_schema.fields.iter().map(|field| (field.id, field)).collect();
    let mut found = Schema { fields: Vec::new(), metadata: schema.metadata.clone() };
    for field in &schema.fields {
        if let Some(in_file) = in_file.get(&field.id) {
            let mut common = field.intersection_ignore_types(in_file)?;
            keep_a_leaf(&mut common, in_file)?;
            found.fields.push(common);
        }
    }
    Ok(found)
}

/// Replaces each parent without children by one of the leaves that the file has for it.
///
/// `top` is the column of the file that `field` is, or is a part of.
fn keep_a_leaf(field: &mut Field, top: &Field) -> lance_core::Result<()> {
    if field.is_blob() || field.is_packed_struct() {
        return Ok(());
    }
    if !field.children.is_empty() {
        return field.children.iter_mut().try_for_each(|child| keep_a_leaf(child, top));
    }
    let Some(in_file) = field_by_id(top, field.id) else {
        return Ok(());
    };
    if in_file.children.is_empty() {
        return Ok(());
    }
    let mut path = Vec::new();
    let mut node = in_file;
    while !(node.is_packed_struct() || matches!(node.data_type(), DataType::Map(..)))
        && let Some(child) = node.children.first()
    {
        path.push(child.name.as_str());
        node = child;
    }
    *field = in_file.project(&path)?;
    Ok(())
}

fn field_by_id(field: &Field, id: i32) -> Option<&Field> {
    if field.id == id {
        return Some(field);
    }
    field.children.iter().find_map(|child| field_by_id(child, id))
}
