//! WAL that a test writes itself.

use pageserver::branch::Timestamp;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    key::{Fork, Rel, RelFork},
    v17::rmgr,
    writer::{AppendAt, RecordContent, append_record, shutdown_checkpoint},
};

use super::{SEGMENT, Server};

/// WAL under construction behind a timeline's start.
pub struct WalWriter {
    pub at: AppendAt,
}

impl WalWriter {
    pub fn behind(server: &Server) -> WalWriter {
        let timeline = server.timeline();
        let head = timeline.head();
        let system_id = timeline.system_identifier;
        WalWriter {
            at: AppendAt {
                end: head.lsn,
                prev: head.state.prev_record_lsn,
                system_id,
                segment_size: SEGMENT,
                timeline_id: 1,
            },
        }
    }

    fn took(&mut self, appended: wal_decoder::writer::Appended) -> Vec<u8> {
        (self.at.prev, self.at.end) = (appended.start, appended.end);
        appended.bytes
    }

    /// A record that creates a relation fork.
    pub fn create(&mut self, rel: RelFork) -> Vec<u8> {
        let numbers = [rel.rel.spc, rel.rel.db, rel.rel.rel, rel.fork as u32];
        let main_data: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        let content = RecordContent { rmid: rmgr::SMGR, info: rmgr::smgr::CREATE, xid: 0, main_data: &main_data };
        let appended = append_record(&self.at, &content).unwrap();
        self.took(appended)
    }

    /// The commit of a transaction, now.
    pub fn commit(&mut self, xid: u32) -> Vec<u8> {
        let main_data = Timestamp::now().0.to_le_bytes();
        let content = RecordContent { rmid: rmgr::XACT, info: rmgr::xact::COMMIT, xid, main_data: &main_data };
        let appended = append_record(&self.at, &content).unwrap();
        self.took(appended)
    }

    pub fn noise(&mut self, bytes: usize) -> Vec<u8> {
        let main_data = vec![0x5a; bytes];
        let content = RecordContent { rmid: rmgr::XLOG, info: rmgr::xlog::NOOP, xid: 0, main_data: &main_data };
        let appended = append_record(&self.at, &content).unwrap();
        self.took(appended)
    }

    pub fn checkpoint(&mut self, state: &CheckpointState) -> Vec<u8> {
        let (appended, _) = shutdown_checkpoint(&self.at, state, 1_800_000_000).unwrap();
        self.took(appended)
    }

    /// A record of a custom resource manager.
    pub fn unknown(&mut self) -> Vec<u8> {
        let content = RecordContent { rmid: 130, info: 0, xid: 0, main_data: b"?" };
        let appended = append_record(&self.at, &content).unwrap();
        self.took(appended)
    }
}

pub fn rel(number: u32) -> RelFork {
    Rel { spc: 1663, db: 5, rel: number }.fork(Fork::Main)
}
