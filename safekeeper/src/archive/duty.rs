//! Which member uploads a timeline's WAL.
//!
//! Every member computes the same order for a timeline; orders of different timelines differ, so that the work is shared. The
//! first uploads at once, the others only when nothing has come of it for a while ([`super::plan`]): no election, no lease, and
//! two that upload the same do no harm, because objects are created once and committed WAL is the same bytes everywhere.

use ogel_ids::{NodeId, TimelineId};
use quorum::Membership;

/// Place of `node` in the timeline's order, from 0; `None` when it is not a member.
pub fn rank(timeline: TimelineId, membership: &Membership, node: NodeId) -> Option<u32> {
    let mut order: Vec<NodeId> = membership.all().map(|member| member.node_id).collect();
    order.sort_unstable_by_key(|node| (score(timeline, *node), *node));
    order.dedup();
    let place = order.iter().position(|member| *member == node)?;
    u32::try_from(place).ok()
}

fn score(timeline: TimelineId, node: NodeId) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(timeline.as_bytes()), &node.0.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use ogel_ids::{Generation, StoreUuid};
    use quorum::Member;

    use super::*;

    #[test]
    fn the_order_is_total_and_the_work_is_shared() {
        let member = |n: u8| Member { node_id: NodeId(n.into()), store_uuid: StoreUuid::from_bytes([n; 16]) };
        let membership = Membership::new(Generation(1), vec![member(3), member(1), member(2)], None).unwrap();
        let mut first = [0; 3];
        for n in 0..=255 {
            let timeline = TimelineId::from_bytes([n; 16]);
            let mut ranks: Vec<u32> = (1..=3).map(|node| rank(timeline, &membership, NodeId(node)).unwrap()).collect();
            first[ranks.iter().position(|rank| *rank == 0).unwrap()] += 1;
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2]);
            assert_eq!(rank(timeline, &membership, NodeId(4)), None);
        }
        assert!(first.iter().all(|count| *count > 40), "{first:?}");
    }
}
