//! A safekeeper: the production acceptor on a simulated disk.

use ogel_ids::{Generation, Lsn, NodeId, StoreUuid, TenantId, TimelineId};
use quorum::{Acceptor, AcceptorState, Join, Member, Membership, TimelineIdentity};

use crate::{
    archive::Archive,
    disk::Disk,
    rng::Rng,
    toy_wal::{Place, TIMELINE_START, scan},
};

/// How many there are.
pub const NODES: usize = 3;
/// The customer.
pub const TENANT: TenantId = TenantId::from_bytes([1; 16]);
/// The branch.
pub const TIMELINE: TimelineId = TimelineId::from_bytes([2; 16]);

/// Of every run.
pub const TIMELINE_IDENTITY: TimelineIdentity = TimelineIdentity {
    tenant: TENANT,
    timeline: TIMELINE,
    system_identifier: 7,
    pg_version_num: 170_011,
    wal_segment_size_bytes: 16 << 20,
    start_lsn: TIMELINE_START,
};

/// One node. What is on `disk` outlives the process, which is `acceptor`.
#[derive(Debug)]
pub struct Safekeeper {
    /// Node number and store.
    pub member: Member,
    /// The process; `None` while it is down.
    pub acceptor: Option<Acceptor>,
    /// Its disk.
    pub disk: Disk,
    /// How many stores it has lost.
    stores: u8,
    /// Number of the process.
    pub life: u64,
    /// The stream decoder's place.
    pub decoder: Place,
    /// Disk operations take long until then.
    pub slow_until_us: u64,
    /// Acknowledged WAL is damaged on its disk.
    pub rotten: bool,
    /// For the invariants: checked up to here.
    pub matched_to: Lsn,
    /// For the invariants: announced in this life.
    pub commit_seen: Lsn,
}

impl Safekeeper {
    /// A node of the first membership.
    pub fn new(index: usize) -> Self {
        let member = member(index, 1);
        Self {
            member,
            acceptor: None,
            disk: Disk::new(fresh_state()),
            stores: 0,
            life: 0,
            decoder: Place::at(TIMELINE_START),
            slow_until_us: 0,
            rotten: false,
            matched_to: TIMELINE_START,
            commit_seen: Lsn(0),
        }
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.member.node_id
    }

    /// Starts the process: scans the WAL from the persisted commit_lsn. WAL that does not decode below the noted end was
    /// acknowledged and is rotten: the node must not vote, and stays down (H6).
    pub fn start(&mut self, archive: &Archive, rot_is_torn: bool) -> Result<(), String> {
        let control = self.disk.control.clone();
        if let Some(tail) = control.archived_tail {
            // A crash may have come before the WAL was removed, or after it was brought back: then nothing was added yet.
            self.disk.replace(tail.end, archive.get(tail).to_vec());
        }
        self.decoder = scan(&self.disk.durable, Place::at(control.commit_lsn), Lsn::MAX);
        if let Some(tail) = control.archived_tail {
            self.decoder = Place::at(tail.end);
        }
        if self.decoder.end < self.disk.acked && !rot_is_torn {
            if !self.rotten {
                return Err(format!("node {} takes a torn tail or a cut for rot", self.id()));
            }
            return Ok(());
        }
        let acceptor = Acceptor::restore(self.member, control, self.decoder.end);
        self.acceptor = Some(acceptor.map_err(|error| format!("node {} cannot start: {error}", self.id()))?);
        self.matched_to = TIMELINE_START;
        self.commit_seen = Lsn(0);
        Ok(())
    }

    /// Kills the process. What it had acknowledged must still be there.
    pub fn crash(&mut self, rng: &mut Rng) -> Result<(), String> {
        self.life += 1;
        let acknowledged = self.acceptor.take().map_or(Lsn(0), |acceptor| acceptor.flush_lsn());
        self.disk.crash(rng);
        let found = scan(&self.disk.durable, Place::at(self.disk.control.commit_lsn), Lsn::MAX).end;
        if found < acknowledged {
            return Err(format!(
                "node {} acknowledged {acknowledged}, but after a crash its WAL ends at {found}",
                self.id()
            ));
        }
        Ok(())
    }

    /// Loses the store: the node comes back empty, with a new store uuid (H4).
    pub fn wipe(&mut self) {
        self.life += 1;
        self.acceptor = None;
        self.stores += 1;
        self.member = member(self.member.node_id.0 as usize - 1, 16 * self.stores);
        self.disk = Disk::new(fresh_state());
    }

    /// Puts on disk what a new member must have.
    pub fn join(&mut self, join: Join, wal: Vec<u8>) {
        self.life += 1;
        self.acceptor = None;
        self.disk = Disk::new(join.state);
        self.disk.view.clone_from(&wal);
        self.disk.durable = wal;
    }

    /// The last whole record in bytes that were just written up to `end`.
    pub fn decode(&mut self, at: Lsn, end: Lsn) -> Lsn {
        if at < self.decoder.end {
            self.decoder = Place::at(at);
        }
        self.decoder = scan(&self.disk.view, self.decoder, end);
        self.decoder.end
    }
}

fn member(index: usize, store: u8) -> Member {
    Member { node_id: NodeId(index as u64 + 1), store_uuid: StoreUuid::from_bytes([store + index as u8; 16]) }
}

/// The members at the creation.
pub fn first_membership() -> Membership {
    let members = (0..NODES).map(|index| member(index, 1)).collect();
    Membership::new(Generation(1), members, None).expect("three different nodes")
}

fn fresh_state() -> AcceptorState {
    AcceptorState::new(TIMELINE_IDENTITY, first_membership())
}
