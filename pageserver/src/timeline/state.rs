//! The running state at the end of a record: what decoding, and a compute that starts there, need beside pages.

use ogel_ids::Lsn;
use wal_decoder::checkpoint_state::CheckpointState;

const VERSION: u8 = 1;
const HEAD: usize = 10;

/// State at the end of a record. Stored under [`crate::keyspace::Key::checkpoint`] wherever a layer ends and after each shutdown
/// checkpoint: version u8, flags u8 (1: the record is a shutdown checkpoint), start of the record u64, encoded checkpoint state.
#[derive(Debug, Clone)]
pub struct RunningState {
    /// Start of the record that ends here.
    pub prev_record_lsn: Lsn,
    /// That record is a shutdown checkpoint.
    pub clean_shutdown: bool,
    /// What a checkpoint here would hold.
    pub checkpoint: CheckpointState,
}

impl RunningState {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::from(self.clean_shutdown)];
        bytes.extend_from_slice(&self.prev_record_lsn.0.to_be_bytes());
        bytes.extend_from_slice(&self.checkpoint.encode());
        bytes
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (head, checkpoint) = bytes.split_at_checked(HEAD).ok_or("the stored state is too short")?;
        if head[0] != VERSION {
            return Err(format!("the stored state has version {}, this program knows {VERSION}", head[0]));
        }
        let prev = u64::from_be_bytes(head[2..].try_into().expect("eight bytes are left"));
        let checkpoint = CheckpointState::decode(checkpoint).map_err(|error| error.to_string())?;
        Ok(Self { prev_record_lsn: Lsn(prev), clean_shutdown: head[1] & 1 != 0, checkpoint })
    }
}
