//! Messages as the payload of one `CopyData` frame: `docs/protocols.md` §2, all numbers big-endian.
//!
//! Bytes from the network are hostile: every count and length is checked before anything is allocated for it, and what is
//! left over is an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ogel_ids::{CandidateId, Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};

use crate::{
    AcceptorGreeting, AcceptorMessage, Append, AppendAnswer, Elected, HistoryEntry, HistoryError, MAX_HISTORY_ENTRIES,
    MAX_MEMBERS, Member, Membership, MembershipError, PageserverFeedback, ProposerGreeting, ProposerMessage,
    RefusalCode, Refused, TermHistory, Vote, VoteRequest,
};

/// Version in both greetings.
pub const PROTOCOL_VERSION: u32 = 1;
/// Most WAL in one append.
pub const MAX_APPEND_BYTES: usize = 1 << 20;
/// Longest text of a refusal.
pub const MAX_TEXT_BYTES: usize = 65_536;

/// Bytes that are not a message. Nothing of the message was carried out; the connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame ends inside a field.
    #[error("the message ends inside {field}; the sender speaks another protocol or is damaged")]
    Truncated {
        /// Which field.
        field: &'static str,
    },
    /// Bytes behind the last field.
    #[error("{extra} bytes follow the last field of the message; the sender speaks another protocol")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// No message has this tag.
    #[error("a message with tag {tag} is unknown; the sender is newer, or speaks another protocol")]
    UnknownTag {
        /// First byte of the frame.
        tag: u8,
    },
    /// The other side speaks another version.
    #[error(
        "the other side speaks version {theirs} of the quorum protocol, this side speaks {PROTOCOL_VERSION}: upgrade the older one"
    )]
    Version {
        /// Its version.
        theirs: u32,
    },
    /// A field has a value or a length that it cannot have.
    #[error("{field} is {value}, which it cannot be; the sender is damaged or speaks another protocol")]
    BadValue {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("a text in the message is not UTF-8")]
    BadText,
    /// The history cannot be one.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The membership cannot be one.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl WireError {
    /// What an acceptor that cannot read a message answers before it closes the connection.
    pub fn refusal(&self) -> Refused {
        let code = match self {
            WireError::Version { .. } => RefusalCode::WrongVersion,
            _ => RefusalCode::ProtocolError,
        };
        Refused { code, text: self.to_string() }
    }
}

impl ProposerMessage {
    /// The payload of one frame.
    pub fn encode(&self) -> Bytes {
        let (head, wal) = self.encode_in_two();
        if wal.is_empty() { head } else { [head, wal].concat().into() }
    }

    /// The payload of one frame in two pieces: the second is an append's WAL itself, not a copy.
    pub fn encode_in_two(&self) -> (Bytes, Bytes) {
        let (mut out, mut wal) = (BytesMut::with_capacity(64), Bytes::new());
        match self {
            ProposerMessage::Greeting(m) => {
                out.put_u8(b'g');
                out.put_u32(PROTOCOL_VERSION);
                out.put_slice(m.tenant.as_bytes());
                out.put_slice(m.timeline.as_bytes());
                out.put_u64(m.system_identifier);
                out.put_u32(m.pg_major_version);
                out.put_u32(m.wal_segment_size_bytes);
            }
            ProposerMessage::VoteRequest(m) => {
                out.put_u8(b'v');
                out.put_u32(m.generation.0);
                out.put_u64(m.term.0);
                out.put_slice(m.candidate.as_bytes());
            }
            ProposerMessage::Elected(m) => {
                out.put_u8(b'e');
                out.put_u32(m.generation.0);
                out.put_u64(m.term.0);
                out.put_slice(m.candidate.as_bytes());
                out.put_u64(m.truncate_at.0);
                put_history(&mut out, &m.history);
            }
            ProposerMessage::Append(m) => {
                out.put_u8(b'a');
                out.put_u32(m.generation.0);
                out.put_u64(m.term.0);
                out.put_u64(m.begin.0);
                out.put_u64(m.end().0);
                out.put_u64(m.commit_lsn.0);
                out.put_u64(m.truncate_lsn.0);
                wal = m.wal.clone();
            }
        }
        (out.freeze(), wal)
    }

    /// Reads the payload of one frame. WAL bytes are a slice of it, not a copy.
    pub fn decode(payload: Bytes) -> Result<Self, WireError> {
        let mut reader = Reader(payload);
        let message = match reader.u8("the tag")? {
            b'g' => {
                reader.version()?;
                ProposerMessage::Greeting(ProposerGreeting {
                    tenant: TenantId::from_bytes(reader.bytes16("tenant")?),
                    timeline: TimelineId::from_bytes(reader.bytes16("timeline")?),
                    system_identifier: reader.u64("system identifier")?,
                    pg_major_version: reader.u32("PostgreSQL version")?,
                    wal_segment_size_bytes: reader.u32("WAL segment size")?,
                })
            }
            b'v' => ProposerMessage::VoteRequest(VoteRequest {
                generation: reader.generation()?,
                term: reader.term()?,
                candidate: reader.candidate()?,
            }),
            b'e' => ProposerMessage::Elected(Elected {
                generation: reader.generation()?,
                term: reader.term()?,
                candidate: reader.candidate()?,
                truncate_at: reader.lsn("truncate_at")?,
                history: reader.history()?,
            }),
            b'a' => ProposerMessage::Append(reader.append()?),
            tag => return Err(WireError::UnknownTag { tag }),
        };
        reader.end()?;
        Ok(message)
    }
}

impl AcceptorMessage {
    /// The payload of one frame.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(96);
        match self {
            AcceptorMessage::Greeting(m) => {
                out.put_u8(b'G');
                out.put_u32(PROTOCOL_VERSION);
                out.put_u64(m.node_id.0);
                out.put_slice(m.store_uuid.as_bytes());
                out.put_u64(m.term.0);
                out.put_u64(m.system_identifier);
                out.put_u32(m.pg_version_num);
                out.put_u32(m.wal_segment_size_bytes);
                out.put_u64(m.timeline_start_lsn.0);
                put_membership(&mut out, &m.membership);
            }
            AcceptorMessage::Vote(m) => {
                out.put_u8(b'V');
                out.put_u32(m.generation.0);
                out.put_u64(m.term.0);
                out.put_slice(m.candidate.as_bytes());
                out.put_u8(m.granted.into());
                out.put_u64(m.flush_lsn.0);
                out.put_u64(m.commit_lsn.0);
                put_history(&mut out, &m.history);
            }
            AcceptorMessage::AppendAnswer(m) => {
                out.put_u8(b'A');
                out.put_u32(m.generation.0);
                for number in [m.term.0, m.last_log_term.0, m.flush_lsn.0, m.settled_lsn.0, m.commit_lsn.0] {
                    out.put_u64(number);
                }
                let p = &m.pageserver;
                for lsn in [p.last_record_lsn, p.disk_consistent_lsn, p.remote_consistent_lsn] {
                    out.put_u64(lsn.0);
                }
            }
            AcceptorMessage::Refused(m) => {
                out.put_u8(b'R');
                out.put_u8(m.code as u8);
                let end = (0..=m.text.len().min(MAX_TEXT_BYTES)).rev().find(|&end| m.text.is_char_boundary(end));
                let text = &m.text.as_bytes()[..end.unwrap_or_default()];
                out.put_u32(text.len() as u32);
                out.put_slice(text);
            }
        }
        out.freeze()
    }

    /// Reads the payload of one frame.
    pub fn decode(payload: Bytes) -> Result<Self, WireError> {
        let mut reader = Reader(payload);
        let message = match reader.u8("the tag")? {
            b'G' => {
                reader.version()?;
                AcceptorMessage::Greeting(AcceptorGreeting {
                    node_id: NodeId(reader.u64("node id")?),
                    store_uuid: StoreUuid::from_bytes(reader.bytes16("store uuid")?),
                    term: reader.term()?,
                    system_identifier: reader.u64("system identifier")?,
                    pg_version_num: reader.u32("PostgreSQL version")?,
                    wal_segment_size_bytes: reader.u32("WAL segment size")?,
                    timeline_start_lsn: reader.lsn("timeline start")?,
                    membership: reader.membership()?,
                })
            }
            b'V' => AcceptorMessage::Vote(Vote {
                generation: reader.generation()?,
                term: reader.term()?,
                candidate: reader.candidate()?,
                granted: reader.flag("granted")?,
                flush_lsn: reader.lsn("flush_lsn")?,
                commit_lsn: reader.lsn("commit_lsn")?,
                history: reader.history()?,
            }),
            b'A' => AcceptorMessage::AppendAnswer(AppendAnswer {
                generation: reader.generation()?,
                term: reader.term()?,
                last_log_term: reader.term()?,
                flush_lsn: reader.lsn("flush_lsn")?,
                settled_lsn: reader.lsn("settled_lsn")?,
                commit_lsn: reader.lsn("commit_lsn")?,
                pageserver: PageserverFeedback {
                    last_record_lsn: reader.lsn("last_record_lsn")?,
                    disk_consistent_lsn: reader.lsn("disk_consistent_lsn")?,
                    remote_consistent_lsn: reader.lsn("remote_consistent_lsn")?,
                },
            }),
            b'R' => AcceptorMessage::Refused(Refused { code: reader.refusal_code()?, text: reader.text()? }),
            tag => return Err(WireError::UnknownTag { tag }),
        };
        reader.end()?;
        Ok(message)
    }
}

fn put_history(out: &mut BytesMut, history: &TermHistory) {
    out.reserve(4 + 16 * history.entries().len());
    out.put_u32(history.entries().len() as u32);
    for entry in history.entries() {
        out.put_u64(entry.term.0);
        out.put_u64(entry.start.0);
    }
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let put_set = |out: &mut BytesMut, set: &[Member]| {
        out.put_u8(set.len() as u8);
        for member in set {
            out.put_u64(member.node_id.0);
            out.put_slice(member.store_uuid.as_bytes());
        }
    };
    out.put_u32(membership.generation().0);
    put_set(out, membership.members());
    out.put_u8(membership.new_members().is_some().into());
    if let Some(set) = membership.new_members() {
        put_set(out, set);
    }
}

/// Takes checked fields off the front of a frame.
struct Reader(Bytes);

impl Reader {
    fn need(&self, bytes: usize, field: &'static str) -> Result<(), WireError> {
        if self.0.remaining() < bytes { Err(WireError::Truncated { field }) } else { Ok(()) }
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.need(1, field)?;
        Ok(self.0.get_u8())
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.need(4, field)?;
        Ok(self.0.get_u32())
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        self.need(8, field)?;
        Ok(self.0.get_u64())
    }

    fn bytes16(&mut self, field: &'static str) -> Result<[u8; 16], WireError> {
        self.need(16, field)?;
        let mut bytes = [0; 16];
        self.0.copy_to_slice(&mut bytes);
        Ok(bytes)
    }

    fn lsn(&mut self, field: &'static str) -> Result<Lsn, WireError> {
        self.u64(field).map(Lsn)
    }

    fn term(&mut self) -> Result<Term, WireError> {
        self.u64("term").map(Term)
    }

    fn generation(&mut self) -> Result<Generation, WireError> {
        self.u32("membership generation").map(Generation)
    }

    fn candidate(&mut self) -> Result<CandidateId, WireError> {
        self.bytes16("candidate id").map(CandidateId::from_bytes)
    }

    fn version(&mut self) -> Result<(), WireError> {
        match self.u32("protocol version")? {
            PROTOCOL_VERSION => Ok(()),
            theirs => Err(WireError::Version { theirs }),
        }
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::BadValue { field, value: value.into() }),
        }
    }

    fn history(&mut self) -> Result<TermHistory, WireError> {
        let count = self.u32("history length")? as usize;
        if count > MAX_HISTORY_ENTRIES {
            return Err(WireError::BadValue { field: "history length", value: count as u64 });
        }
        self.need(16 * count, "history")?;
        let entries = (0..count)
            .map(|_| Ok(HistoryEntry { term: self.term()?, start: self.lsn("term start")? }))
            .collect::<Result<_, WireError>>()?;
        Ok(TermHistory::from_entries(entries)?)
    }

    fn members(&mut self) -> Result<Vec<Member>, WireError> {
        let count = self.u8("member count")?;
        if usize::from(count) > MAX_MEMBERS {
            return Err(WireError::BadValue { field: "member count", value: count.into() });
        }
        (0..count)
            .map(|_| {
                Ok(Member {
                    node_id: NodeId(self.u64("node id")?),
                    store_uuid: StoreUuid::from_bytes(self.bytes16("store uuid")?),
                })
            })
            .collect()
    }

    fn membership(&mut self) -> Result<Membership, WireError> {
        let generation = self.generation()?;
        let members = self.members()?;
        let new_members = if self.flag("joint membership")? { Some(self.members()?) } else { None };
        Ok(Membership::new(generation, members, new_members)?)
    }

    fn append(&mut self) -> Result<Append, WireError> {
        let (generation, term, begin) = (self.generation()?, self.term()?, self.lsn("begin")?);
        let end = self.lsn("end")?;
        let (commit_lsn, truncate_lsn) = (self.lsn("commit_lsn")?, self.lsn("truncate_lsn")?);
        let length = match end.0.checked_sub(begin.0) {
            Some(length) if length <= MAX_APPEND_BYTES as u64 => length as usize,
            _ => return Err(WireError::BadValue { field: "end", value: end.0 }),
        };
        self.need(length, "WAL")?;
        let wal = self.0.split_to(length);
        Ok(Append { generation, term, begin, commit_lsn, truncate_lsn, wal })
    }

    fn refusal_code(&mut self) -> Result<RefusalCode, WireError> {
        Ok(match self.u8("refusal code")? {
            1 => RefusalCode::UnknownTimeline,
            2 => RefusalCode::WrongSystemIdentifier,
            3 => RefusalCode::WrongVersion,
            4 => RefusalCode::NotAMember,
            5 => RefusalCode::WrongGeneration,
            6 => RefusalCode::DamagedWal,
            7 => RefusalCode::ProtocolError,
            8 => RefusalCode::OutOfSpace,
            value => return Err(WireError::BadValue { field: "refusal code", value: value.into() }),
        })
    }

    fn text(&mut self) -> Result<String, WireError> {
        let length = self.u32("text length")? as usize;
        if length > MAX_TEXT_BYTES {
            return Err(WireError::BadValue { field: "text length", value: length as u64 });
        }
        self.need(length, "text")?;
        String::from_utf8(self.0.split_to(length).into()).map_err(|_| WireError::BadText)
    }

    fn end(&self) -> Result<(), WireError> {
        match self.0.remaining() {
            0 => Ok(()),
            extra => Err(WireError::Trailing { extra }),
        }
    }
}
