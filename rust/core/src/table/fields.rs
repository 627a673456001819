//! The fields of a schema with some ids.

use std::collections::HashSet;

use lance_core::datatypes::{Field, Schema};

/// Returns the fields with these ids, each with everything inside it.
///
/// As Lance's `project_by_ids`, which searches a list of ids for every field.
pub(super) fn project(schema: &Schema, ids: &HashSet<i32>) -> Schema {
    fn holds(field: &Field, ids: &HashSet<i32>) -> bool {
        ids.contains(&field.id) || field.children.iter().any(|child| holds(child, ids))
    }
    fn keep(field: &mut Field, ids: &HashSet<i32>) {
        if !ids.contains(&field.id) {
            field.children.retain(|child| holds(child, ids));
            for child in &mut field.children {
                keep(child, ids);
            }
        }
    }
    let mut fields: Vec<Field> =
        schema.fields.iter().filter(|field| holds(field, ids)).cloned().collect();
    for field in &mut fields {
        keep(field, ids);
    }
    Schema { fields, metadata: schema.metadata.clone() }
}
