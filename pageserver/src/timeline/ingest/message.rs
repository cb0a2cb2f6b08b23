//! What a safekeeper sends to a pageserver (`docs/protocols.md` §3).

use bytes::{Buf, Bytes};
use ogel_ids::{Lsn, Term};

use crate::manifest::TermStart;

/// Terms in a history at most.
const MAX_TERMS: u32 = 65_536;

/// One piece of the replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SafekeeperMessage {
    /// Committed WAL.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// The quorum's position.
        commit_lsn: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// Nothing new.
    Keepalive {
        /// The quorum's position.
        commit_lsn: Lsn,
    },
    /// The whole term history.
    Terms(Vec<TermStart>),
}

/// A piece that does not follow the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Too short for what it says it is.
    #[error("it sent a message {0:?} that is too short")]
    TooShort(char),
    /// A kind that pageservers do not get.
    #[error("it sent a message of unknown kind {0:?}: is it a safekeeper of this version?")]
    Unknown(char),
    /// More terms than there can be.
    #[error("it announced {0} terms, the limit is {MAX_TERMS}")]
    TooManyTerms(u32),
}

impl SafekeeperMessage {
    /// Reads a piece.
    pub fn parse(mut piece: Bytes) -> Result<Self, MessageError> {
        let tag = piece.first().map_or('\0', |tag| char::from(*tag));
        let too_short = |_| MessageError::TooShort(tag);
        piece.advance(usize::from(!piece.is_empty()));
        match tag {
            'w' => {
                let start = Lsn(piece.try_get_u64().map_err(too_short)?);
                let commit_lsn = Lsn(piece.try_get_u64().map_err(too_short)?);
                let _sent_at = piece.try_get_u64().map_err(too_short)?;
                Ok(Self::Wal { start, commit_lsn, data: piece })
            }
            'k' => Ok(Self::Keepalive { commit_lsn: Lsn(piece.try_get_u64().map_err(too_short)?) }),
            'T' => {
                let count = piece.try_get_u32().map_err(too_short)?;
                if count > MAX_TERMS {
                    return Err(MessageError::TooManyTerms(count));
                }
                let mut history = Vec::new();
                for _ in 0..count {
                    let term = Term(piece.try_get_u64().map_err(too_short)?);
                    history.push(TermStart { term, lsn: Lsn(piece.try_get_u64().map_err(too_short)?) });
                }
                Ok(Self::Terms(history))
            }
            other => Err(MessageError::Unknown(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_message_is_an_error() {
        let mut terms = vec![b'T', 0, 0, 0, 1];
        terms.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 40]);
        let expected = SafekeeperMessage::Terms(vec![TermStart { term: Term(5), lsn: Lsn(0x0100_0028) }]);
        assert_eq!(SafekeeperMessage::parse(terms.clone().into()), Ok(expected));
        for length in 0..terms.len() {
            assert!(SafekeeperMessage::parse(Bytes::copy_from_slice(&terms[..length])).is_err(), "cut at {length}");
        }
        assert!(SafekeeperMessage::parse(Bytes::from_static(b"w1234567")).is_err());
        assert_eq!(
            SafekeeperMessage::parse(Bytes::from_static(b"T\xff\xff\xff\xff")),
            Err(MessageError::TooManyTerms(u32::MAX))
        );
    }
}
