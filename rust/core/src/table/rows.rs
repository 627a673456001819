//! Deletions and row ids.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lance_core::utils::deletion::DeletionVector;
use lance_table::format::{Fragment, Manifest, RowIdMeta};
use lance_table::io::deletion::read_deletion_file;
use lance_table::rowids::{FragmentRowIdIndex, RowIdIndex, RowIdSequence, read_row_ids};

use super::storage::{Place, StorageOptions};
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
        return Err(Error::Unsupported(format!(
            "fragment {} does not say how many rows it has",
            fragment.id
        )));
    };
    let Some(file) = &fragment.deletion_file else {
        return Ok(FragmentRows { id, num_places, live: None });
    };
    let root = match file.base_id {
        None => root.clone(),
        Some(base) => {
            let base = manifest.base_paths.get(&base).ok_or_else(|| Error::Corrupt {
                path: format!("deletions of fragment {id}"),
                reason: format!("they lie at base {base}, which the manifest does not name"),
            })?;
            Place::connect(&base.path, options).await?
        }
    };
    let deleted = read_deletion_file(fragment.id, file, &root.path, &root.store)
        .await
        .map_err(|error| Error::lance(format!("deletions of fragment {id}"), &error))?;
    Ok(FragmentRows { id, num_places, live: Some(live(num_places, &deleted)) })
}

/// The places that are not deleted.
fn live(num_places: u32, deleted: &DeletionVector) -> Bitmap {
    let mut live = BitmapBuilder::default();
    let mut start = 0;
    for place in deleted.to_sorted_iter().chain([num_places]) {
        live.push_range(start.into(), place.min(num_places).into());
        start = place.saturating_add(1);
    }
    live.finish()
}

/// Which id each row has.
#[derive(Debug)]
pub(super) enum RowIds {
    /// A row's id is its address.
    Addresses,
    /// Ids stay with their rows when these move.
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
                Err(Error::Unsupported("stable row ids that are stored in data files".to_string()))
            }
            None => Err(Error::Corrupt {
                path: "the manifest".to_string(),
                reason: format!("fragment {} has no row ids", fragment.id),
            }),
        };
        let sequences = manifest.fragments.iter().map(sequence).collect::<Result<Vec<_>>>()?;
        let fragments: Vec<FragmentRowIdIndex> = layout
            .fragments()
            .iter()
            .zip(&sequences)
            .map(|(fragment, sequence)| FragmentRowIdIndex {
                fragment_id: fragment.id,
                row_id_sequence: Arc::clone(sequence),
                // Deleted rows are left out by the layout.
                deletion_vector: Arc::new(DeletionVector::default()),
            })
            .collect();
        let index = RowIdIndex::new(&fragments).map_err(|e| failed(&e))?;
        Ok(Self::Stable { sequences, index })
    }

    /// The id of each row offset.
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
                    sequences[at].get(place as usize).ok_or_else(|| Error::Corrupt {
                        path: "row ids".to_string(),
                        reason: format!(
                            "fragment {} has none for row {place}",
                            layout.fragments()[at].id
                        ),
                    })
                };
                offsets.iter().map(id).collect()
            }
        }
    }

    /// The row offset of each id, or `None` where no live row has it.
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
}
