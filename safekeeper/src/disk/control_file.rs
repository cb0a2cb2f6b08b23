//! The control file: an acceptor's state, always written as a whole.
//!
//! ```text
//! 0   4 bytes  magic "OGCF"
//! 4   u32      version = 2
//! 8   u32      length of the body
//! 12  body     tenant 16, timeline 16, system identifier u64, PostgreSQL version number u32, WAL segment size u32,
//!              timeline start u64, term u64, voted u8, candidate 16,
//!              history: count u32, (term u64, start u64) each,
//!              membership: generation u32, count u8, (node id u64, store uuid 16) each, joint u8, if 1 a second set,
//!              commit_lsn u64, backup_lsn u64, remote_consistent_lsn u64,
//!              archived u8, if 1: term u64, end u64, crc32c u32 of the archived tail (since version 2)
//! end u32      crc32c of everything before
//! ```
//! All numbers are big-endian.

use std::{io, path::Path};

use bytes::{Buf, BufMut};
use ogel_ids::{CandidateId, Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use ogel_service::durable_file;
use quorum::{
    AcceptorState, ArchivedTail, HistoryEntry, HistoryError, MAX_HISTORY_ENTRIES, Member, Membership, MembershipError,
    TermHistory, acceptor::TimelineIdentity,
};

/// Name of the file in a timeline's folder.
pub const FILE_NAME: &str = "control";

const MAGIC: &[u8; 4] = b"OGCF";
const VERSION: u32 = 2;
/// A history of full length needs about 1 MiB.
const MAX_BYTES: u64 = 2 << 20;

/// Why a control file cannot be used. The timeline is refused; others go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlFileError {
    /// It cannot be read.
    #[error("the control file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not what was written.
    #[error("the control file is damaged ({0}): term and vote of this node are unknown, so it must not vote")]
    Damaged(&'static str),
    /// Written by another version.
    #[error("the control file has version {0}, this safekeeper knows {VERSION}")]
    Version(u32),
    /// A history that cannot be.
    #[error("the control file is damaged: {0}")]
    History(#[from] HistoryError),
    /// A membership that cannot be.
    #[error("the control file is damaged: {0}")]
    Membership(#[from] MembershipError),
}

/// Reads the control file in a timeline's folder.
pub fn read(folder: &Path) -> Result<AcceptorState, ControlFileError> {
    let path = folder.join(FILE_NAME);
    if path.metadata()?.len() > MAX_BYTES {
        return Err(ControlFileError::Damaged("it is too long"));
    }
    decode(&std::fs::read(path)?)
}

/// Replaces the control file in a timeline's folder; on return it is durable.
pub fn write(folder: &Path, state: &AcceptorState) -> io::Result<()> {
    durable_file::replace(&folder.join(FILE_NAME), &encode(state))
}

fn encode(state: &AcceptorState) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.put_slice(MAGIC);
    out.put_u32(VERSION);
    out.put_u32(0);
    let identity = &state.identity;
    out.put_slice(identity.tenant.as_bytes());
    out.put_slice(identity.timeline.as_bytes());
    out.put_u64(identity.system_identifier);
    out.put_u32(identity.pg_version_num);
    out.put_u32(identity.wal_segment_size_bytes);
    out.put_u64(identity.start_lsn.0);
    out.put_u64(state.term.0);
    out.put_u8(state.voted_for.is_some().into());
    out.put_slice(state.voted_for.unwrap_or(CandidateId::from_bytes([0; 16])).as_bytes());
    out.put_u32(state.history.entries().len() as u32);
    for entry in state.history.entries() {
        out.put_u64(entry.term.0);
        out.put_u64(entry.start.0);
    }
    out.put_u32(state.membership.generation().0);
    put_members(&mut out, state.membership.members());
    out.put_u8(state.membership.new_members().is_some().into());
    if let Some(members) = state.membership.new_members() {
        put_members(&mut out, members);
    }
    for lsn in [state.commit_lsn, state.backup_lsn, state.remote_consistent_lsn] {
        out.put_u64(lsn.0);
    }
    out.put_u8(state.archived_tail.is_some().into());
    if let Some(tail) = state.archived_tail {
        out.put_u64(tail.term.0);
        out.put_u64(tail.end.0);
        out.put_u32(tail.crc32c);
    }
    let length = out.len() as u32 - 12;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&out);
    out.put_u32(crc);
    out
}

fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    out.put_u8(members.len() as u8);
    for member in members {
        out.put_u64(member.node_id.0);
        out.put_slice(member.store_uuid.as_bytes());
    }
}

fn decode(bytes: &[u8]) -> Result<AcceptorState, ControlFileError> {
    let Some((mut rest, mut crc)) = bytes.split_last_chunk::<4>().map(|(rest, crc)| (rest, &crc[..])) else {
        return Err(ControlFileError::Damaged("it is too short"));
    };
    if crc.get_u32() != crc32c::crc32c(rest) {
        return Err(ControlFileError::Damaged("its checksum is wrong"));
    }
    let mut fields = Fields(&mut rest);
    if &fields.array::<4>()? != MAGIC {
        return Err(ControlFileError::Damaged("it does not begin as a control file"));
    }
    let version = fields.u32()?;
    if !(1..=VERSION).contains(&version) {
        return Err(ControlFileError::Version(version));
    }
    if fields.u32()? as usize != fields.0.len() {
        return Err(ControlFileError::Damaged("its length is wrong"));
    }
    let identity = TimelineIdentity {
        tenant: TenantId::from_bytes(fields.array()?),
        timeline: TimelineId::from_bytes(fields.array()?),
        system_identifier: fields.u64()?,
        pg_version_num: fields.u32()?,
        wal_segment_size_bytes: fields.u32()?,
        start_lsn: fields.lsn()?,
    };
    let term = Term(fields.u64()?);
    let voted = fields.flag()?;
    let candidate = CandidateId::from_bytes(fields.array()?);
    let state = AcceptorState {
        identity,
        term,
        voted_for: voted.then_some(candidate),
        history: fields.history()?,
        membership: fields.membership()?,
        commit_lsn: fields.lsn()?,
        backup_lsn: fields.lsn()?,
        remote_consistent_lsn: fields.lsn()?,
        archived_tail: if version >= 2 { fields.archived_tail()? } else { None },
    };
    if fields.0.has_remaining() {
        return Err(ControlFileError::Damaged("bytes are left over"));
    }
    check(state)
}

fn check(state: AcceptorState) -> Result<AcceptorState, ControlFileError> {
    if !wal_decoder::stream::is_valid_segment_size(state.identity.wal_segment_size_bytes) {
        return Err(ControlFileError::Damaged("its WAL segment size is impossible"));
    }
    if state.commit_lsn < state.identity.start_lsn || state.commit_lsn.0 >= 1 << 63 {
        return Err(ControlFileError::Damaged("its positions are impossible"));
    }
    if state.archived_tail.is_some_and(|tail| tail.end != state.commit_lsn) {
        return Err(ControlFileError::Damaged("its archived tail does not end where commits do"));
    }
    Ok(state)
}

struct Fields<'a, 'b>(&'a mut &'b [u8]);

impl Fields<'_, '_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ControlFileError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(ControlFileError::Damaged("it ends too early"))?;
        *self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, ControlFileError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, ControlFileError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ControlFileError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn lsn(&mut self) -> Result<Lsn, ControlFileError> {
        self.u64().map(Lsn)
    }

    fn flag(&mut self) -> Result<bool, ControlFileError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ControlFileError::Damaged("a flag is neither 0 nor 1")),
        }
    }

    fn archived_tail(&mut self) -> Result<Option<ArchivedTail>, ControlFileError> {
        if !self.flag()? {
            return Ok(None);
        }
        Ok(Some(ArchivedTail { term: Term(self.u64()?), end: self.lsn()?, crc32c: self.u32()? }))
    }

    fn history(&mut self) -> Result<TermHistory, ControlFileError> {
        let count = self.u32()? as usize;
        if count > MAX_HISTORY_ENTRIES {
            return Err(HistoryError::TooLong.into());
        }
        let entries = (0..count)
            .map(|_| Ok(HistoryEntry { term: Term(self.u64()?), start: self.lsn()? }))
            .collect::<Result<_, ControlFileError>>()?;
        Ok(TermHistory::from_entries(entries)?)
    }

    fn membership(&mut self) -> Result<Membership, ControlFileError> {
        let generation = Generation(self.u32()?);
        let members = self.members()?;
        let new_members = if self.flag()? { Some(self.members()?) } else { None };
        Ok(Membership::new(generation, members, new_members)?)
    }

    fn members(&mut self) -> Result<Vec<Member>, ControlFileError> {
        (0..self.u8()?)
            .map(|_| Ok(Member { node_id: NodeId(self.u64()?), store_uuid: StoreUuid::from_bytes(self.array()?) }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> AcceptorState {
        let identity = TimelineIdentity {
            tenant: TenantId::from_bytes([1; 16]),
            timeline: TimelineId::from_bytes([2; 16]),
            system_identifier: 7,
            pg_version_num: 170_011,
            wal_segment_size_bytes: 16 << 20,
            start_lsn: Lsn(0x100_0028),
        };
        let member = |n: u8| Member { node_id: NodeId(n.into()), store_uuid: StoreUuid::from_bytes([n; 16]) };
        let membership =
            Membership::new(Generation(3), vec![member(1), member(2)], Some(vec![member(1), member(3)])).unwrap();
        let mut state = AcceptorState::new(identity, membership);
        state.history = state.history.continued(Term(4), Lsn(0x200_0000)).unwrap();
        (state.term, state.voted_for) = (Term(5), Some(CandidateId::from_bytes([9; 16])));
        state
    }

    fn archived() -> AcceptorState {
        let tail = ArchivedTail { term: Term(4), end: Lsn(0x200_0000), crc32c: 5 };
        AcceptorState { commit_lsn: tail.end, archived_tail: Some(tail), ..state() }
    }

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &state()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), state());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let good = encode(&archived());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad).is_err(), "flipped at {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    /// Files of every version must stay readable.
    #[test]
    fn versions_as_first_written() {
        assert_eq!(decode(include_bytes!("fixtures/control-v1")).unwrap(), state());
        let bytes = include_bytes!("fixtures/control-v2");
        assert_eq!(decode(bytes).unwrap(), archived());
        assert_eq!(encode(&archived()), bytes, "what is written has changed: raise the version");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&state());
        bytes[7] = 3;
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(decode(&bytes), Err(ControlFileError::Version(3))));
    }
}
