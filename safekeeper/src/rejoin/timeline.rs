//! One timeline of a node that takes its place again.

use ogel_ids::{Generation, NodeId};
use quorum::{Join, JoinError, Member, Membership, MembershipError, PeerStatus};

use super::{
    Step,
    pull::{PullError, pull},
};
use crate::{
    peers::{
        ask::{self, AskError},
        report::{Report, ReportError},
    },
    registry::{InstallError, Registry},
    timeline::TimelineKey,
};

/// Why the timeline is not taken over. Nothing that was done needs to be undone; try again.
#[derive(Debug, thiserror::Error)]
enum RejoinError {
    /// Its copy here is damaged, and it is not a new store.
    #[error(
        "{0}; a damaged control file cannot be repaired: give this node an empty folder, which makes it a new member"
    )]
    Damaged(String),
    /// Nobody has it.
    #[error("no other safekeeper that can be reached has the timeline")]
    Nowhere,
    /// A survivor is not configured.
    #[error("safekeeper {0} is a member but not in --peers: add it")]
    UnknownPeer(NodeId),
    /// A survivor does not answer, or refuses.
    #[error("safekeeper {node}: {error}; all other members must run and have the timeline")]
    Survivor {
        /// Which.
        node: NodeId,
        /// What is wrong.
        error: AskError,
    },
    /// A survivor's answer.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The membership.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The core says no.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Two of the others speak of different timelines.
    #[error("safekeepers {0} and {1} disagree about the timeline's parameters: find out which is right")]
    Contradiction(NodeId, NodeId),
    /// The copy.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The copy is not taken.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// Takes it over, as far as it goes.
pub async fn rejoin(registry: &Registry, key: TimelineKey, say: &impl Fn(Step)) -> Step {
    match take_over(registry, key, say).await {
        Ok(step) => step,
        Err(error) => Step::Failed { error: error.to_string() },
    }
}

async fn take_over(registry: &Registry, key: TimelineKey, say: &impl Fn(Step)) -> Result<Step, RejoinError> {
    if registry.is_deleted(key) {
        return Ok(Step::Deleted);
    }
    if registry.is_here(key) {
        let opened = registry.get(key).await;
        return opened.map(|_| Step::Present).map_err(|refused| RejoinError::Damaged(refused.text));
    }
    say(Step::Adopting);
    let me = registry.shared().me;
    let Some(target) = next_membership(registry, key, me).await? else { return Ok(Step::NotAMember) };
    let mut reports = Vec::new();
    for node in survivors(&target, me) {
        adopt(registry, key, node, &target).await?;
    }
    for node in survivors(&target, me) {
        reports.push((node, report(registry, key, node).await?));
    }
    let identity = match &reports[..] {
        [] => return Err(RejoinError::Nowhere),
        [(first, report), others @ ..] => {
            let identity = report.identity(key)?;
            for (other, report) in others {
                if report.identity(key)? != identity {
                    return Err(RejoinError::Contradiction(*first, *other));
                }
            }
            identity
        }
    };
    let others: Vec<(PeerStatus, Membership)> =
        reports.iter().map(|(_, report)| report.status()).collect::<Result<_, _>>()?;
    let join = Join::plan(me, &target, identity, &others)?;
    let source = reports.iter().find(|(node, _)| *node == join.source).ok_or(RejoinError::Nowhere)?;
    let address = registry.shared().peers.address(join.source).ok_or(RejoinError::UnknownPeer(join.source))?;
    tracing::info!(
        timeline = %key, source = %join.source, to = %join.flush_lsn, generation = %target.generation(),
        "taking the timeline's WAL from a peer"
    );
    let built = pull(registry, key, &join, source.1.first_needed_lsn, address, &|done_bytes, total_bytes| {
        say(Step::Pulling { done_bytes, total_bytes });
    })
    .await?;
    registry.install(key, built).await?;
    tracing::info!(timeline = %key, generation = %target.generation(), "this store is a member now");
    Ok(Step::Joined { generation: target.generation().0 })
}

fn survivors(membership: &Membership, me: Member) -> Vec<NodeId> {
    membership.all().filter(|&member| member != me).map(|member| member.node_id).collect()
}

/// The membership that names this store: the newest one, or the one after it, made the same way every time it is made. Everybody
/// else has adopted the newest when this returns.
async fn next_membership(registry: &Registry, key: TimelineKey, me: Member) -> Result<Option<Membership>, RejoinError> {
    let mut newest: Option<Membership> = None;
    for (_, address) in registry.shared().peers.addresses() {
        if let Ok(report) = ask::report(&address, key).await {
            let (_, theirs) = report.status()?;
            newest = newest.into_iter().chain([theirs]).max_by_key(Membership::generation);
        }
    }
    let newest = newest.ok_or(RejoinError::Nowhere)?;
    if newest.contains(me) {
        return Ok(Some(newest));
    }
    if !newest.all().any(|member| member.node_id == me.node_id) {
        return Ok(None);
    }
    for node in survivors(&newest, me).into_iter().filter(|&node| node != me.node_id) {
        adopt(registry, key, node, &newest).await?;
    }
    let generation = Generation(newest.generation().0.saturating_add(1));
    let replaced = |member: &Member| if member.node_id == me.node_id { me } else { *member };
    let members = newest.members().iter().map(replaced).collect();
    Ok(Some(Membership::new(generation, members, None)?))
}

async fn adopt(registry: &Registry, key: TimelineKey, node: NodeId, to: &Membership) -> Result<(), RejoinError> {
    let address = registry.shared().peers.address(node).ok_or(RejoinError::UnknownPeer(node))?;
    ask::adopt(&address, key, to).await.map_err(|error| RejoinError::Survivor { node, error })
}

async fn report(registry: &Registry, key: TimelineKey, node: NodeId) -> Result<Report, RejoinError> {
    let address = registry.shared().peers.address(node).ok_or(RejoinError::UnknownPeer(node))?;
    ask::report(&address, key).await.map_err(|error| RejoinError::Survivor { node, error })
}
