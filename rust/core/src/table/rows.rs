//! Deletions and row ids.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lance_core::utils::deletion::DeletionVector;
use lance_table::format::{Fragment, Manifest, RowIdMeta};
use lance_table::io::deletion::read_deletion_file;
use lance_table::rowids::{FragmentRowIdIndex, RowIdIndex, RowIdSequence, read_row_ids};

use super::options::StorageOptions;
use super::storage::Place;
use crate::error::{Error, Result};
use crate::order::{Bitmap, BitmapBuilder};
use crate::plan::{FragmentRows, Layout, RowAddress};

/// Reads the deletion files of all fragments, which row offsets depend on.
pub(super) async fn read_layout(
    root: &Place,
    manifest: &Manifest,
    options: &StorageOptions,
) -> Result<Layout> {
    let read = |fragment| fragment_rows(root, manifest, fragment, options);
    let reads = manifest.fragments.iter().map(read);
    let fragments =
        futures::stream::iter(reads).buffered(root.store.io_parallelism()).try_collect().await?;
    Layout::new(fragments)
}

async fn fragment_rows(
    root: &Place,
    manifest: &Manifest,
    fragment: &Fragment,
    options: &StorageOptions,
) -> Result<FragmentRows> {
    let place = |count: Option<usize>| count.and_then(|count| u32::try_from(count).ok());
    let (Ok(id), Some(num_places)) = (u32::try_from(fragment.id), place(fragment.physical_rows))
    else {
        return Err(Error::unsupported(format!(
            "fragment {}, whose number of rows is not in the manifest",
            fragment.id
        )));
    };
    let Some(file) = &fragment.deletion_file else {
        return Ok(FragmentRows { id, num_places, live: None });
    };
    let root = match file.base_id {
        None => root.clone(),
        Some(base) => {
            let base = manifest.base_paths.get(&base).ok_or_else(|| {
                Error::corrupt(
                    format!("deletions of fragment {id}"),
                    format!("they lie at base {base}, which the manifest does not name"),
                )
            })?;
            Place::connect(&base.path, options).await?
        }
    };
    let deleted = read_deletion_file(fragment.id, file, &root.path, &root.store)
        .await
        .map_err(|error| Error::lance(format!("deletions of fragment {id}"), &error))?;
    Ok(FragmentRows { id, num_places, live: Some(live(num_places, &deleted)) })
}

/// Returns the places that are not deleted.
fn live(num_places: u32, deleted: &DeletionVector) -> Bitmap {
    let mut live = BitmapBuilder::default();
    let mut start = 0;
    for place in deleted.to_sorted_iter().chain([num_places]) {
        live.push_range(start.into(), place.min(num_places).into());
        start = place.saturating_add(1);
    }
    live.finish()
}

/// Returns the places that are deleted.
fn deleted(fragment: &FragmentRows) -> DeletionVector {
    let Some(live) = &fragment.live else {
        return DeletionVector::default();
    };
    // First as a list: a vector of unknown length would begin as a hash set.
    let places = (0..fragment.num_places).filter(|&place| !live.contains(place.into()));
    places.collect::<Vec<_>>().into_iter().collect()
}

/// Which id each row has.
#[derive(Debug)]
pub(super) enum RowIds {
    /// A row's id is its address.
    Addresses,
    /// Ids stay with their rows when these move: an updated row has its id at two places, the older
    /// of which is deleted.
    Stable { sequences: Vec<Arc<RowIdSequence>>, index: RowIdIndex },
}

impl RowIds {
    pub(super) fn new(manifest: &Manifest, layout: &Layout) -> Result<Self> {
        if !manifest.uses_stable_row_ids() {
            return Ok(Self::Addresses);
        }
        let failed = |error: &lance_core::Error| Error::lance("row ids", error);
        let sequence = |fragment: &Fragment| match &fragment.row_id_meta {
            Some(RowIdMeta::Inline(bytes)) => {
                Ok(Arc::new(read_row_ids(bytes).map_err(|e| failed(&e))?))
            }
            Some(RowIdMeta::Column) => {
                Err(Error::unsupported("stable row ids that are stored in data files"))
            }
            None => Err(Error::corrupt(
                "the manifest",
                format!("fragment {} has no row ids", fragment.id),
            )),
        };
        let sequences = manifest.fragments.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        let fragments: Vec<FragmentRowIdIndex> = layout
            .fragments()
            .iter()
            .zip(&sequences)
            .map(|(fragment, sequence)| FragmentRowIdIndex {
                fragment_id: fragment.id,
                row_id_sequence: Arc::clone(sequence),
                deletion_vector: Arc::new(deleted(fragment)),
            })
            .collect();
        let index = RowIdIndex::new(&fragments).map_err(|e| failed(&e))?;
        Ok(Self::Stable { sequences, index })
    }

    /// Returns the id of each row offset.
    pub(super) fn ids(&self, layout: &Layout, offsets: &[u64]) -> Result<Vec<u64>> {
        match self {
            Self::Addresses => {
                Ok(layout.addresses(offsets)?.into_iter().map(|address| address.0).collect())
            }
            Self::Stable { sequences, .. } => {
                let mut hint = 0;
                let id = |&offset| {
                    let (at, place) = layout.locate(offset, hint)?;
                    hint = at;
                    sequences[at].get(place as usize).ok_or_else(|| {
                        Error::corrupt(
                            "row ids",
                            format!(
                                "fragment {} has none for row {place}",
                                layout.fragments()[at].id
                            ),
                        )
                    })
                };
                offsets.iter().map(id).collect()
            }
        }
    }

    /// Returns the row offset of each id, or `None` where no live row has it.
    pub(super) fn offsets(&self, layout: &Layout, ids: &[u64]) -> Result<Vec<Option<u64>>> {
        match self {
            Self::Addresses => Ok(ids.iter().map(|&id| layout.offset_of(RowAddress(id))).collect()),
            Self::Stable { index, .. } => {
                let addresses =
                    index.get_many(ids).map_err(|error| Error::lance("row ids", &error))?;
                let offset = |address: lance_core::utils::address::RowAddress| {
                    layout.offset_of(RowAddress(address.into()))
                };
                Ok(addresses.into_iter().map(|address| address.and_then(offset)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_file::version::ConcreteFileVersion;
    use lance_table::feature_flags::FLAG_STABLE_ROW_IDS;
    use lance_table::format::DataStorageFormat;
    use lance_table::rowids::write_row_ids;

    #[test]
    fn live_places_are_those_not_deleted() {
        let check = |num_places, deleted: &[u32], wanted: &[u64]| {
            let live = live(num_places, &deleted.iter().copied().collect());
            let places: Vec<u64> = (0..live.len()).map(|k| live.select(k).unwrap()).collect();
            assert_eq!(places, wanted, "{deleted:?} of {num_places}");
        };
        check(5, &[], &[0, 1, 2, 3, 4]);
        check(5, &[0, 1], &[2, 3, 4]);
        check(5, &[2, 4], &[0, 1, 3]);
        check(2, &[0, 1], &[]);
        check(0, &[], &[]);
        // A vector that reaches beyond the fragment must not add rows.
        check(3, &[1, 7], &[0, 2]);
    }

    /// A table of fragments with these row ids, and the places deleted in each.
    fn table(fragments: &[(&[u64], &[u32])]) -> (Manifest, Layout) {
        let (mut stored, mut rows) = (Vec::new(), Vec::new());
        for (id, (ids, deleted)) in (0..).zip(fragments) {
            let num_places = u32::try_from(ids.len()).unwrap();
            let mut fragment = Fragment::new(id);
            fragment.physical_rows = Some(ids.len());
            let sequence = write_row_ids(&RowIdSequence::from(*ids));
            fragment.row_id_meta = Some(RowIdMeta::Inline(sequence.into()));
            stored.push(fragment);
            let live =
                (!deleted.is_empty()).then(|| live(num_places, &deleted.iter().copied().collect()));
            rows.push(FragmentRows { id: u32::try_from(id).unwrap(), num_places, live });
        }
        let format = DataStorageFormat::new(ConcreteFileVersion::V2_1);
        let schema = lance_core::datatypes::Schema::default();
        let mut manifest =
            Manifest::new(schema, Arc::new(stored), format, std::collections::HashMap::new());
        manifest.reader_feature_flags |= FLAG_STABLE_ROW_IDS;
        (manifest, Layout::new(rows).unwrap())
    }

    #[test]
    fn an_updated_row_keeps_its_id_at_its_new_place() {
        let check = |fragments: &[(&[u64], &[u32])]| {
            let (manifest, layout) = table(fragments);
            let row_ids = RowIds::new(&manifest, &layout).unwrap();
            let live = |(ids, deleted): &(&[u64], &[u32])| -> Vec<u64> {
                let kept = ids.iter().zip(0..).filter(|(_, place)| !deleted.contains(place));
                kept.map(|(&id, _)| id).collect()
            };
            let ids: Vec<u64> = fragments.iter().flat_map(live).collect();
            let all: Vec<u64> = (0..layout.num_rows()).collect();
            assert_eq!(row_ids.ids(&layout, &all).unwrap(), ids);
            let found = row_ids.offsets(&layout, &ids).unwrap();
            assert_eq!(found, all.iter().copied().map(Some).collect::<Vec<_>>());
            // Ids that no row has: beyond all of them, and of rows that are gone.
            for gone in (0..12).chain([1 << 40]).filter(|id| !ids.contains(id)) {
                assert_eq!(row_ids.offsets(&layout, &[gone]).unwrap(), [None], "{gone}");
            }
        };
        check(&[(&[0, 1, 2, 3, 4, 5], &[])]);
        // Row 3 updated, and then deleted row 0.
        check(&[(&[0, 1, 2, 3, 4, 5], &[3]), (&[3], &[])]);
        check(&[(&[0, 1, 2, 3, 4, 5], &[0, 3]), (&[3], &[])]);
        // Rows 2 and 3 updated, row 2 once more, row 3 deleted.
        check(&[(&[0, 1, 2, 3, 4, 5], &[2, 3]), (&[2, 3], &[0]), (&[2], &[])]);
        check(&[(&[0, 1, 2, 3, 4, 5], &[2, 3]), (&[2, 3], &[0, 1]), (&[2], &[])]);
        // All rows of a fragment updated, in another order, and rows added.
        check(&[(&[0, 1, 2, 3], &[0, 1, 2, 3]), (&[6, 7, 8], &[1]), (&[3, 1, 0, 2, 7], &[])]);
    }
}
