//! The columns that a projection reads, as data files name them.

use std::collections::{HashMap, HashSet};

use arrow_schema::{DataType, Schema as ArrowSchema, SchemaRef};
use lance_arrow::json::lance_json_to_arrow_json;
use lance_core::datatypes::{Field, Schema};

use super::fields::project;
use super::shape::Shapes;
use super::{blobs, lists};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::runtime::PerProcess;

/// Columns of a table, as its data files name them.
#[derive(Debug)]
pub(crate) struct Columns {
    pub(super) fields: Schema,
    schema: SchemaRef,
    /// Found on first use: many columns are selected and never read.
    pub(super) shapes: PerProcess<Shapes>,
    /// Where copies of remote files are kept.
    pub(super) copies: Option<Cache>,
}

impl Columns {
    /// Returns the columns with these fields, whose blocks have `schema`.
    pub(super) fn new(fields: Schema, schema: SchemaRef, copies: Option<Cache>) -> Self {
        Self { fields, schema, shapes: PerProcess::new(), copies }
    }

    /// Returns the schema of the blocks that are read.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// Returns the Arrow schema of what is read: blobs come out as binary and JSON as text, whatever
/// they are stored as.
pub(super) fn arrow_schema_of(schema: &Schema) -> ArrowSchema {
    let schema = blobs::with_binary(schema);
    let fields: Vec<_> = schema.fields().iter().map(|f| lance_json_to_arrow_json(f)).collect();
    ArrowSchema::new_with_metadata(fields, schema.metadata)
}

/// Returns the columns at `paths`, none of which is inside another.
///
/// # Errors
///
/// [`Error::Unsupported`] if a column is stored in a way this reader does not read.
pub(super) fn fields_at(table: &Schema, paths: &[&[String]]) -> Result<Schema> {
    let named: HashSet<&str> =
        paths.iter().filter_map(|path| path.first()).map(String::as_str).collect();
    let top: HashMap<&str, &Field> = table
        .fields
        .iter()
        .map(|field| (field.name.as_str(), field))
        .filter(|(name, _)| named.contains(name))
        .collect();
    let mut ids = HashSet::with_capacity(paths.len());
    for path in paths {
        let field = field_at(&top, path)?;
        readable(field)?;
        ids.insert(field.id);
    }
    Ok(project(table, &ids))
}

/// Returns the column at `path`, or the packed struct around it: its fields lie in one column of a
/// file, and cannot be read alone.
fn field_at<'a>(top: &HashMap<&str, &'a Field>, path: &[String]) -> Result<&'a Field> {
    let missing = || Error::bug(format!("{} is not in the schema", path.join(".")));
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
pub(super) fn readable(field: &Field) -> Result<()> {
    let unsupported =
        |what: &str| Err(Error::unsupported(format!("column `{}`: {what}", field.name)));
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
    use std::sync::Arc;

    fn table() -> Schema {
        let plain = |name: &str| arrow_schema::Field::new(name, DataType::Int32, true);
        let pair = DataType::Struct(vec![plain("x"), plain("y")].into());
        let inner = arrow_schema::Field::new("pair", pair.clone(), true);
        let outer = DataType::Struct(vec![plain("z"), inner.clone()].into());
        let list = DataType::List(Arc::new(arrow_schema::Field::new("item", pair, true)));
        let fields = vec![
            plain("a"),
            arrow_schema::Field::new("outer", outer, true),
            arrow_schema::Field::new("pairs", list, true),
            plain("b"),
        ];
        let metadata = HashMap::from([("owner".to_string(), "us".to_string())]);
        Schema::try_from(&ArrowSchema::new_with_metadata(fields, metadata)).unwrap()
    }

    #[test]
    fn fields_are_projected_by_their_ids_as_lance_does() {
        let table = table();
        let all = table.field_ids();
        for subset in 0_u32..1 << all.len() {
            let ids: Vec<i32> = (0..)
                .zip(&all)
                .filter(|(at, _)| subset >> at & 1 == 1)
                .map(|(_, id)| *id)
                .collect();
            let wanted = table.project_by_ids(&ids, true);
            assert_eq!(project(&table, &ids.iter().copied().collect()), wanted, "{ids:?}");
        }
    }

    #[test]
    fn columns_are_found_by_their_paths() {
        let path = |dotted: &str| dotted.split('.').map(str::to_string).collect::<Vec<_>>();
        let paths = [path("b"), path("outer.pair.y"), path("outer.z")];
        let paths: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
        let found = fields_at(&table(), &paths).unwrap();
        let names: Vec<_> = found.fields_pre_order().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["outer", "z", "pair", "y", "b"]);
        assert_eq!(found.metadata["owner"], "us");
        let unknown = [path("c")];
        let error = fields_at(&table(), &[&unknown[0]]).unwrap_err();
        assert!(matches!(error, Error::Bug { .. }), "{error}");
    }
}
