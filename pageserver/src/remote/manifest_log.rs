//! Base and edit objects of a timeline's manifest.
//!
//! A generation's log begins with a base at sequence number 0, which holds what the log of the generation before ended with. Edits
//! follow without gaps; at every [`EDITS_PER_BASE`]th number stands a base instead. So the next object always has one possible name,
//! and the log is read to its end by asking for names, not by trusting a listing. The base at 0 stays as long as its generation is the newest,
//! and so do the last two bases with the edits behind them: a listing may be late by that much.

use ogel_ids::{Generation, TimelineId};
use ogel_object_store::{ObjectStore, StoreError};

use super::{
    AttachError,
    layout::{self, EDITS_PER_BASE, LogPlace},
};
use crate::manifest::{Edit, Manifest};

/// Longest base or edit that is read.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;
/// Generations in which a listing may have missed the log: as many restarts may have happened within its delay.
const GENERATIONS_ASKED: u32 = 4;

/// A manifest as the object store has it.
#[derive(Debug)]
pub struct Loaded {
    /// The state at the end of the log.
    pub manifest: Manifest,
    /// The last object of the log.
    pub last: LogPlace,
}

/// Reads the newest log up to generation `up_to`. `None`: the timeline does not exist.
pub async fn load(
    store: &ObjectStore,
    tenant: ogel_ids::TenantId,
    timeline: TimelineId,
    up_to: Generation,
) -> Result<Option<Loaded>, AttachError> {
    let listed = store.list_all(&layout::manifests(tenant, timeline)).await?;
    let places = listed.iter().filter_map(|info| LogPlace::parse(info.key.rsplit('/').next()?));
    let mut start = places.filter(|place| place.is_base() && place.generation <= up_to).max();
    let floor = start.map_or(0, |place| place.generation.0).max(up_to.0.saturating_sub(GENERATIONS_ASKED));
    for generation in (floor + 1..=up_to.0).rev() {
        let place = LogPlace { generation: Generation(generation), sequence: 0 };
        match store.head(&layout::manifest(tenant, timeline, place)).await {
            Ok(_) => {
                start = Some(place);
                break;
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match start {
        Some(start) => read_log(store, tenant, timeline, start).await.map(Some),
        None => Ok(None),
    }
}

async fn read_log(
    store: &ObjectStore,
    tenant: ogel_ids::TenantId,
    timeline: TimelineId,
    start: LogPlace,
) -> Result<Loaded, AttachError> {
    let key = layout::manifest(tenant, timeline, start);
    let bytes = store.get(&key, MAX_MANIFEST_BYTES).await?;
    let mut manifest = base(&key, &bytes)?;
    if (manifest.tenant, manifest.timeline) != (tenant, timeline) {
        let what = format!("it belongs to tenant {}, timeline {}", manifest.tenant, manifest.timeline);
        return Err(AttachError::Damaged { key, what });
    }
    let mut last = start;
    loop {
        let next = last.next();
        let key = layout::manifest(tenant, timeline, next);
        let bytes = match store.get(&key, MAX_MANIFEST_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(Loaded { manifest, last }),
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: String| AttachError::Damaged { key: key.clone(), what };
        if next.is_base() {
            if base(&key, &bytes)? != manifest {
                return Err(damaged("it is not what the edits in front of it make".into()));
            }
        } else {
            let edit = Edit::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
            manifest.apply(&edit).map_err(|error| damaged(format!("the edit does not fit: {error}")))?;
        }
        last = next;
    }
}

fn base(key: &str, bytes: &[u8]) -> Result<Manifest, AttachError> {
    Manifest::decode(bytes).map_err(|error| AttachError::Damaged { key: key.to_owned(), what: error.to_string() })
}

/// Which objects a durable base makes superfluous: earlier generations, and in its own everything between the first base and the one before
/// this. `sequence` 0 stays, see above.
pub fn superfluous(listed: impl IntoIterator<Item = LogPlace>, base: LogPlace) -> Vec<LogPlace> {
    let kept_from = base.sequence.saturating_sub(EDITS_PER_BASE);
    let goes = |place: &LogPlace| {
        place.generation < base.generation
            || (place.generation == base.generation && place.sequence > 0 && place.sequence < kept_from)
    };
    listed.into_iter().filter(goes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_makes_room_but_leaves_a_way_to_itself() {
        let place = |generation, sequence| LogPlace { generation: Generation(generation), sequence };
        let listed =
            [place(1, 0), place(1, 5), place(2, 0), place(2, 1), place(2, 63), place(2, 64), place(2, 65), place(3, 0)];
        assert_eq!(superfluous(listed, place(2, 0)), [place(1, 0), place(1, 5)]);
        assert_eq!(superfluous(listed, place(2, 128)), [place(1, 0), place(1, 5), place(2, 1), place(2, 63)]);
    }
}
