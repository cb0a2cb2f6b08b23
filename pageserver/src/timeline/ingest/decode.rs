//! WAL bytes into the open layer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ogel_ids::Lsn;
use wal_decoder::{
    interpret::{InterpretError, Interpreter},
    stream::{Record, StreamDecoder, StreamError},
    v17::rmgr,
};

use crate::{
    branch::Timestamp,
    keyspace::Key,
    layer::memory::WriteBatch,
    timeline::{EffectWriter, Head, ReadError, Timeline, effects::SizeCache, state::RunningState},
};

/// Values collected before the batch is put into the open layer and `last_record_lsn` advances.
const MAX_BATCH_BYTES: usize = 512 << 10;

/// Why WAL cannot be ingested.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The bytes are not WAL.
    #[error("WAL cannot be decoded: {0}")]
    Stream(#[from] StreamError),
    /// A record cannot be understood.
    #[error("the record at {lsn} cannot be ingested: {error}")]
    Record {
        /// Its start.
        lsn: Lsn,
        /// Why.
        error: InterpretError,
    },
    /// What is stored cannot be read.
    #[error("the record at {lsn} needs what cannot be read: {error}")]
    Read {
        /// Its start.
        lsn: Lsn,
        /// Why.
        error: ReadError,
    },
    /// The safekeeper left WAL out.
    #[error("the safekeeper sent WAL at {got}, but {expected} comes next")]
    Gap {
        /// Next in order.
        expected: Lsn,
        /// Came.
        got: Lsn,
    },
}

impl IngestError {
    /// Another safekeeper's copy of the WAL gives the same result: ingest ends.
    pub fn is_final(&self) -> bool {
        matches!(self, IngestError::Record { .. } | IngestError::Read { .. })
    }
}

/// Decodes one timeline's WAL from a record boundary on.
pub struct Decoder {
    timeline: Arc<Timeline>,
    stream: StreamDecoder,
    interpreter: Interpreter,
    batch: WriteBatch,
    sizes: SizeCache,
    fed_until: Lsn,
    newest_commit: Option<Timestamp>,
    last_record_at: Instant,
}

impl Decoder {
    /// Goes on behind the timeline's newest record, which ends at `start`.
    pub fn new(timeline: Arc<Timeline>, start: Lsn) -> Result<Self, IngestError> {
        let state = timeline.head().state;
        let stream = StreamDecoder::new(start, timeline.wal_segment_size, Some(timeline.system_identifier))?
            .with_prev(state.prev_record_lsn);
        Ok(Self {
            timeline,
            stream,
            interpreter: Interpreter::new(state.checkpoint),
            batch: WriteBatch::default(),
            sizes: SizeCache::default(),
            fed_until: start,
            newest_commit: state.newest_commit,
            last_record_at: Instant::now(),
        })
    }

    /// Takes WAL that begins at `start`.
    pub fn feed(&mut self, start: Lsn, data: Bytes) -> Result<(), IngestError> {
        if start != self.fed_until {
            return Err(IngestError::Gap { expected: self.fed_until, got: start });
        }
        self.fed_until = Lsn(start.0.saturating_add(data.len() as u64));
        self.stream.feed(data);
        Ok(())
    }

    /// How long ago the last record came.
    pub fn idle_for(&self) -> Duration {
        self.last_record_at.elapsed()
    }

    /// Ingests all whole records.
    pub fn decode(&mut self) -> Result<(), IngestError> {
        while self.decode_batch()? {}
        Ok(())
    }

    /// Ingests some whole records and lets readers see them; `false` when there are no more. After an error, what came before the
    /// record in question is ingested.
    fn decode_batch(&mut self) -> Result<bool, IngestError> {
        let mut head: Option<Head> = None;
        let mut writer = EffectWriter::new(&self.timeline, &mut self.batch, &mut self.sizes);
        let mut outcome = Ok(false);
        while outcome.is_ok() {
            let record = match self.stream.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            };
            match ingest_record(&mut self.interpreter, &mut self.newest_commit, &mut writer, &record) {
                Ok(state) => head = Some(Head { lsn: record.end, state }),
                Err(error) => outcome = Err(error),
            }
            if writer.pending_bytes() >= MAX_BATCH_BYTES {
                outcome = outcome.map(|_| true);
                break;
            }
        }
        // The versions of a record that failed half-way lie above `last_record_lsn`, where nobody reads: ingest ends here.
        writer.finish();
        if let Some(head) = head {
            self.last_record_at = Instant::now();
            self.timeline.advance(head);
        }
        outcome
    }
}

fn ingest_record(
    interpreter: &mut Interpreter,
    newest_commit: &mut Option<Timestamp>,
    writer: &mut EffectWriter<'_>,
    record: &Record,
) -> Result<RunningState, IngestError> {
    writer.begin_record(record.end);
    interpreter.interpret(record, writer).map_err(|error| IngestError::Record { lsn: record.start, error })?;
    let news = writer.end_record().map_err(|error| IngestError::Read { lsn: record.start, error })?;
    *newest_commit = news.committed_at.max(*newest_commit);
    let clean_shutdown = record.rmid() == rmgr::XLOG && record.info() & 0xf0 == rmgr::xlog::CHECKPOINT_SHUTDOWN;
    let state = RunningState {
        prev_record_lsn: record.start,
        clean_shutdown,
        newest_commit: *newest_commit,
        logical_size_bytes: Some(writer.logical_size_bytes()),
        checkpoint: interpreter.state.clone(),
    };
    if clean_shutdown || news.acknowledged {
        writer.put_image(Key::checkpoint(), &state.encode());
    }
    Ok(state)
}
