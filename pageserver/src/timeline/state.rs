//! The running state at the end of a record: what decoding, and a compute that starts there, need beside pages.

use ogel_ids::Lsn;
use wal_decoder::checkpoint_state::CheckpointState;

use crate::branch::Timestamp;

const VERSION: u8 = 2;
const HEAD: usize = 18;
/// Of version 1, which did not hold the time.
const HEAD_V1: usize = 10;
/// Stored in place of the time while nothing has been committed.
const NEVER: i64 = i64::MIN;

/// State at the end of a record. Stored under [`crate::keyspace::Key::checkpoint`] at the end of each record after which a client may have
/// been told something (commits, prepared transactions and their ends), of each shutdown checkpoint, and wherever a layer ends: a timeline
/// can be branched, and a compute started, at exactly these positions. All versions together are the commit index: `newest_commit` never
/// falls, so that a time is found by bisection.
///
/// Version u8, flags u8 (1: the record is a shutdown checkpoint), start of the record u64, newest commit time i64, encoded checkpoint state.
#[derive(Debug, Clone)]
pub struct RunningState {
    /// Start of the record that ends here.
    pub prev_record_lsn: Lsn,
    /// That record is a shutdown checkpoint.
    pub clean_shutdown: bool,
    /// Latest commit time of all commits up to here; `None` before the first.
    pub newest_commit: Option<Timestamp>,
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
        bytes.extend_from_slice(&checkpoint);
        bytes
    }

    /// Reads the stored form. Of version 1 the commit time is not known.
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
        Ok(Self { prev_record_lsn, clean_shutdown: head[1] & 1 != 0, newest_commit, checkpoint })
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
            checkpoint: CheckpointState::default(),
        };
        let bytes = state.encode();
        let read = RunningState::decode(&bytes).expect("its own form");
        assert_eq!((read.prev_record_lsn, read.newest_commit), (state.prev_record_lsn, state.newest_commit));
        let old = [&[1, 1], &bytes[2..10], &bytes[18..]].concat();
        let read = RunningState::decode(&old).expect("version 1");
        assert_eq!(
            (read.prev_record_lsn, read.clean_shutdown, read.newest_commit),
            (state.prev_record_lsn, true, None)
        );
        for length in 0..bytes.len() {
            assert!(RunningState::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(RunningState::decode(&[3; 300]).expect_err("newer").contains("version 3"));
    }
}
