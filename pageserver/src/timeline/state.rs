//! The running state at the end of a record: what decoding, and a compute that starts there, need beside pages.

use ogel_ids::Lsn;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use wal_decoder::checkpoint_state::CheckpointState;

use crate::branch::Timestamp;

const VERSION: u8 = 2;
const HEAD: usize = 26;
/// Of version 1, which held neither time nor size.
const HEAD_V1: usize = 10;
/// Stored in place of the time while nothing has been committed.
const NEVER: i64 = i64::MIN;
/// Stored in place of a size that is not known.
const UNKNOWN: u64 = u64::MAX;

/// State at the end of a record. Stored under [`crate::keyspace::Key::checkpoint`] at the end of each record after which a client may have
/// been told something (commits, prepared transactions and their ends), of each shutdown checkpoint, and wherever a layer ends: a timeline
/// can be branched, and a compute started, at exactly these positions. All versions together are the commit index: `newest_commit` never
/// falls, so that a time is found by bisection.
///
/// Version u8, flags u8 (1: the record is a shutdown checkpoint), start of the record u64, newest commit time i64, logical size u64, encoded checkpoint
/// state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningState {
    /// Start of the record that ends here.
    pub prev_record_lsn: Lsn,
    /// That record is a shutdown checkpoint.
    pub clean_shutdown: bool,
    /// Latest commit time of all commits up to here; `None` before the first.
    pub newest_commit: Option<Timestamp>,
    /// Sum of all relation sizes; `None` when an early version of this program stored the state.
    pub logical_size_bytes: Option<u64>,
    /// What a checkpoint here would hold.
    pub checkpoint: CheckpointState,
}

impl RunningState {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let checkpoint = self.checkpoint.encode();
        let mut bytes = Vec::with_capacity(HEAD + checkpoint.len());
        bytes.extend_from_slice(&[VERSION, u8::from(self.clean_shutdown)]);
        bytes.extend_from_slice(&self.prev_record_lsn.0.to_be_bytes());
        bytes.extend_from_slice(&self.newest_commit.map_or(NEVER, |time| time.0).to_be_bytes());
        bytes.extend_from_slice(&self.logical_size_bytes.unwrap_or(UNKNOWN).to_be_bytes());
        bytes.extend_from_slice(&checkpoint);
        bytes
    }

    /// Reads the stored form. Of version 1 commit time and size are not known.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let head_size = match bytes.first() {
            Some(1) => HEAD_V1,
            Some(&VERSION) => HEAD,
            Some(version) => {
                return Err(format!("the stored state has version {version}, this program knows up to {VERSION}"));
            }
            None => return Err("the stored state is empty".to_owned()),
        };
        let (head, checkpoint) = bytes.split_at_checked(head_size).ok_or("the stored state is too short")?;
        let number = |at: usize| head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let newest_commit = number(10).map(|time| Timestamp(time as i64)).filter(|time| time.0 != NEVER);
        let prev_record_lsn = Lsn(number(2).ok_or("the stored state is too short")?);
        let checkpoint = CheckpointState::decode(checkpoint).map_err(|error| error.to_string())?;
        let logical_size_bytes = number(18).filter(|size| *size != UNKNOWN);
        Ok(Self { prev_record_lsn, clean_shutdown: head[1] & 1 != 0, newest_commit, logical_size_bytes, checkpoint })
    }
}

/// As hexadecimal text.
impl Serialize for RunningState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.encode()))
    }
}

impl<'de> Deserialize<'de> for RunningState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        RunningState::decode(&bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let state = RunningState {
            prev_record_lsn: Lsn(0x0100_0028),
            clean_shutdown: true,
            newest_commit: Some(Timestamp(77)),
            logical_size_bytes: Some(8192),
            checkpoint: CheckpointState::default(),
        };
        let bytes = state.encode();
        let read = RunningState::decode(&bytes).expect("its own form");
        assert_eq!(read, state);
        let old = [&[1, 1], &bytes[2..10], &bytes[26..]].concat();
        let read = RunningState::decode(&old).expect("version 1");
        assert_eq!(read, RunningState { newest_commit: None, logical_size_bytes: None, ..state });
        for length in 0..bytes.len() {
            assert!(RunningState::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(RunningState::decode(&[3; 300]).expect_err("newer").contains("version 3"));
    }
}
