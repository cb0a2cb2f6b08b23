//! Base and edit objects of a timeline's manifest.
//!
//! A generation's log begins with a base at sequence number 0, which holds what the log of the generation before ended with. Edits
//! follow without gaps; at every [`EDITS_PER_BASE`]th number stands a base instead. So the next object always has one possible name,
//! and the log is read to its end by asking for names, not by trusting a listing.
//!
//! What newer bases make superfluous is removed, but a way to the newest stays, so that a listing may be as late as it likes. Bases are
//! numbered 0, 1, 2…; beside base n those stay whose number is n with any of its lowest binary digits cleared. Whoever looks for n finds its
//! highest digit first (the greatest power of two that is there), then the next, each with one round of questions. Every stage of n's
//! growth leaves this way whole: with its lowest digit that is set cleared, n and n − 1 have the same prefixes.

use futures::future::try_join_all;
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
/// Binary digits of the number of a base.
const BASE_DIGITS: u32 = u32::BITS - EDITS_PER_BASE.ilog2();

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
        Some(start) => {
            let start = newest_base(store, tenant, timeline, start).await?;
            read_log(store, tenant, timeline, start).await.map(Some)
        }
        None => Ok(None),
    }
}

/// The newest base of a generation, found by asking for names; `listed` is one that is known.
async fn newest_base(
    store: &ObjectStore,
    tenant: ogel_ids::TenantId,
    timeline: TimelineId,
    listed: LogPlace,
) -> Result<LogPlace, AttachError> {
    let (mut found, mut digits) = (0, BASE_DIGITS);
    loop {
        let there = |digit: u32| async move {
            let place = LogPlace { sequence: (found | 1 << digit) * EDITS_PER_BASE, ..listed };
            match store.head(&layout::manifest(tenant, timeline, place)).await {
                Ok(_) => Ok(Some(digit)),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(AttachError::from(error)),
            }
        };
        let answers = try_join_all((0..digits).map(there)).await?;
        match answers.into_iter().flatten().max() {
            Some(digit) => (found, digits) = (found | 1 << digit, digit),
            None => break,
        }
    }
    Ok(LogPlace { sequence: listed.sequence.max(found * EDITS_PER_BASE), ..listed })
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

/// Which objects a durable base makes superfluous: earlier generations, and in its own everything in front of the base before this, but for
/// the way to it.
pub fn superfluous(listed: impl IntoIterator<Item = LogPlace>, base: LogPlace) -> Vec<LogPlace> {
    let kept_from = base.sequence.saturating_sub(EDITS_PER_BASE);
    let newest = base.sequence / EDITS_PER_BASE;
    let is_on_the_way = |place: &LogPlace| {
        let number = place.sequence / EDITS_PER_BASE;
        // Only digits of `newest` above its lowest that are missing here.
        let missing = newest ^ number;
        place.is_base() && (number == 0 || (newest & number == number && missing < number & number.wrapping_neg()))
    };
    let goes = |place: &LogPlace| {
        place.generation < base.generation
            || (place.generation == base.generation && place.sequence < kept_from && !is_on_the_way(place))
    };
    listed.into_iter().filter(goes).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ogel_ids::TenantId;
    use ogel_object_store::StoreMetrics;

    use super::*;

    #[test]
    fn a_base_makes_room_but_leaves_a_way_to_itself() {
        let place = |generation, sequence| LogPlace { generation: Generation(generation), sequence };
        let listed =
            [place(1, 0), place(1, 5), place(2, 0), place(2, 1), place(2, 63), place(2, 64), place(2, 65), place(3, 0)];
        assert_eq!(superfluous(listed, place(2, 0)), [place(1, 0), place(1, 5)]);
        assert_eq!(superfluous(listed, place(2, 128)), [place(1, 0), place(1, 5), place(2, 1), place(2, 63)]);
        let bases = (0..=14).map(|number| place(2, number * EDITS_PER_BASE));
        let gone: Vec<u32> = superfluous(bases, place(2, 14 * 64)).iter().map(|place| place.sequence / 64).collect();
        assert_eq!(gone, [1, 2, 3, 4, 5, 6, 7, 9, 10, 11], "0, 8, 12, 13 and 14 stay");
    }

    /// A stale manifest would name layers that are gone, and miss branches and leases.
    #[tokio::test]
    async fn the_newest_base_is_found_whatever_the_listing_shows() {
        let (tenant, timeline) = (TenantId::from_bytes([1; 16]), TimelineId::from_bytes([2; 16]));
        let store = ObjectStore::memory(StoreMetrics::default());
        let place = |number: u32| LogPlace { generation: Generation(3), sequence: number * EDITS_PER_BASE };
        let mut there = Vec::new();
        for newest in 0..300 {
            let key = |place| layout::manifest(tenant, timeline, place);
            store.put_new(&key(place(newest)), Bytes::from_static(b"base")).await.unwrap();
            there.push(place(newest));
            // Before what is superfluous has been removed, and after.
            for _ in 0..2 {
                let found = newest_base(&store, tenant, timeline, place(0)).await.unwrap();
                assert_eq!(found, place(newest));
                let gone = superfluous(there.iter().copied(), place(newest));
                there.retain(|place| !gone.contains(place));
                store.delete_all(gone.into_iter().map(key)).await.unwrap();
            }
            assert!(there.len() <= 11, "{there:?}");
        }
    }
}
