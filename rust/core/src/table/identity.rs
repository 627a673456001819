//! A name for the rows and columns of a table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use lance_table::format::{Manifest, pb};
use prost::Message;
use twox_hash::XxHash3_128;

/// Returns the hash that [`Table::identity`](super::Table::identity) is. States and caches of earlier
/// versions hold it.
pub(super) fn identity_of(manifest: &Manifest) -> String {
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

/// Returns a type whose text is the same in every process: the metadata of a field is a map, which
/// prints its entries in any order, so several become one.
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::Schema as ArrowSchema;
    use lance_core::datatypes::Schema;
    use lance_file::version::ConcreteFileVersion;
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
