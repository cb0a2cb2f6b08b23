//! Requests of one compute, answered in order.
//!
//! Requests that have arrived together are answered together: one flush for the batch. What is in memory is read on the network thread;
//! only when a layer file must be read does the thread give its other connections away first.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ogel_ids::{Lsn, Term};
use ogel_pgwire::{Connection, FrontendMessage, WireError};
use wal_decoder::key::PAGE_SIZE;

use super::protocol::{Answer, ErrorCode, RequestBody, RequestError, RequestHeader, put_error};
use crate::{
    layer::{Io, file::LayerError},
    pageserver::Pageserver,
    timeline::{ReadError, Timeline, WaitError},
};

/// Answers are sent when this much has been collected, even if more requests wait.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Answers until the client ends the copy or the server stops.
pub async fn run(
    connection: &mut Connection,
    pageserver: &Pageserver,
    timeline: Arc<Timeline>,
    term: Term,
) -> Result<(), WireError> {
    let (reader, writer) = connection.split();
    writer.copy_both_response();
    writer.flush().await?;
    let stream = PageStream { pageserver, timeline, term };
    loop {
        let mut next = tokio::select! {
            frame = reader.read_frame() => frame?,
            () = pageserver.shutdown.wait() => return Ok(()),
        };
        if next.is_none() {
            return Ok(());
        }
        while let Some(frame) = next {
            match FrontendMessage::try_from(frame)? {
                FrontendMessage::CopyData(request) => {
                    let asked = Asked::read(request)?;
                    if stream.must_wait(&asked) {
                        writer.flush().await?; // earlier answers do not wait with this one
                    }
                    let position = stream.position(&asked).await;
                    writer.copy_data(|out| stream.answer(&asked, position, out));
                }
                FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => {
                    writer.copy_done();
                    writer.command_complete("COPY");
                    writer.ready_for_query();
                    return writer.flush().await;
                }
                FrontendMessage::Terminate => return writer.flush().await,
                FrontendMessage::Query(_) | FrontendMessage::Other(_) => {
                    return Err(WireError::Malformed("a page stream takes copy data only"));
                }
            }
            if writer.pending_bytes() >= MAX_BATCH_BYTES {
                writer.flush().await?;
            }
            next = reader.buffered_frame()?;
        }
        writer.flush().await?;
    }
}

/// A request, or why it cannot be understood.
struct Asked {
    header: RequestHeader,
    body: Result<RequestBody, RequestError>,
}

impl Asked {
    fn read(mut request: Bytes) -> Result<Self, WireError> {
        let header =
            RequestHeader::take(&mut request).map_err(|_| WireError::Malformed("a request without a header"))?;
        Ok(Self { header, body: RequestBody::parse(header.tag, request) })
    }
}

struct PageStream<'a> {
    pageserver: &'a Pageserver,
    timeline: Arc<Timeline>,
    term: Term,
}

/// An error answer.
type Refusal = (ErrorCode, String);

impl PageStream<'_> {
    fn must_wait(&self, asked: &Asked) -> bool {
        asked.header.not_modified_since > self.timeline.last_record_lsn()
    }

    /// Where to read: after what the client knows of, not after what it may see.
    async fn position(&self, asked: &Asked) -> Result<Lsn, Refusal> {
        let (header, timeline) = (&asked.header, &self.timeline);
        timeline
            .wait_for(header.not_modified_since, self.term, self.pageserver.wait_lsn_timeout, &self.pageserver.shutdown)
            .await
            .map_err(|error| {
                let code = match error {
                    WaitError::Fenced { .. } => ErrorCode::Fenced,
                    WaitError::TimedOut { .. } => ErrorCode::WaitTimedOut,
                    WaitError::ShuttingDown => ErrorCode::ShuttingDown,
                };
                (code, error.to_string())
            })?;
        // The position first, the terms after it: WAL of a new term is ingested only after the term is known.
        let newest = timeline.last_record_lsn();
        let fence = timeline.fence(self.term).unwrap_or(Lsn::MAX);
        let lsn = header.request_lsn.min(newest).min(fence);
        if lsn < timeline.start_lsn {
            let text = format!("history before {} is not kept, {lsn} was asked for", timeline.start_lsn);
            return Err((ErrorCode::BelowCutoff, text));
        }
        Ok(lsn)
    }

    fn answer(&self, asked: &Asked, position: Result<Lsn, Refusal>, out: &mut BytesMut) {
        let start = out.len();
        let id = asked.header.id;
        let outcome = match (&asked.body, position) {
            (Err(error), _) => Err((Lsn::INVALID, (ErrorCode::BadRequest, error.to_string()))),
            (_, Err(refusal)) => Err((Lsn::INVALID, refusal)),
            (Ok(body), Ok(lsn)) => self.read(id, body, lsn, out).map_err(|refusal| (lsn, refusal)),
        };
        if let Err((lsn, (code, text))) = outcome {
            self.pageserver.metrics().request_errors.inc();
            out.truncate(start);
            put_error(id, lsn, code, &text, out);
        }
    }

    /// Reads from memory; when that is not enough, again where blocking is allowed.
    fn read(&self, id: u64, body: &RequestBody, lsn: Lsn, out: &mut BytesMut) -> Result<(), Refusal> {
        let start = out.len();
        let result = match self.put_answer(id, body, lsn, Io::MemoryOnly, out) {
            Err(Failure::Read(error)) if error.would_block() => {
                out.truncate(start);
                tokio::task::block_in_place(|| self.put_answer(id, body, lsn, Io::MayBlock, out))
            }
            other => other,
        };
        result.map_err(|failure| match failure {
            Failure::NoSuchRelation(text) => (ErrorCode::NoSuchRelation, text),
            // The disk may answer next time: the client shall try again.
            Failure::Read(error @ (ReadError::Layer(LayerError::Io { .. }) | ReadError::AncestorBehind { .. })) => {
                (ErrorCode::WaitTimedOut, error.to_string())
            }
            Failure::Read(error) => (ErrorCode::Damaged, error.to_string()),
        })
    }

    fn put_answer(&self, id: u64, body: &RequestBody, lsn: Lsn, io: Io, out: &mut BytesMut) -> Result<(), Failure> {
        let timeline = &self.timeline;
        match body {
            RequestBody::Exists(rel) => {
                Answer::Exists(timeline.rel_size(*rel, lsn, io)?.is_some()).put(id, lsn, out);
            }
            RequestBody::BlockCount(rel) => match timeline.rel_size(*rel, lsn, io)? {
                Some(blocks) => Answer::BlockCount(blocks).put(id, lsn, out),
                None => {
                    let (name, fork) = (rel.rel, rel.fork);
                    let text = format!("relation {}/{}/{} has no {fork:?} fork at {lsn}", name.spc, name.db, name.rel);
                    return Err(Failure::NoSuchRelation(text));
                }
            },
            RequestBody::Pages(rel, blocks) => {
                Answer::Pages(blocks.len() as u16).put(id, lsn, out);
                for block in blocks {
                    let start = out.len();
                    out.resize(start + PAGE_SIZE, 0);
                    let page = (&mut out[start..]).try_into().expect("the buffer has grown by a page");
                    timeline.read_page(*rel, *block, lsn, page, io)?;
                }
                self.pageserver.metrics().pages_served.inc_by(blocks.len() as u64);
            }
            RequestBody::DatabaseSize { spc, db } => {
                Answer::DatabaseSize(timeline.database_size(*spc, *db, lsn, io)?).put(id, lsn, out);
            }
            RequestBody::SlruSegment(kind, segment) => match timeline.slru_segment(*kind, *segment, lsn, io)? {
                Some(content) => {
                    Answer::SlruSegment((content.len() / PAGE_SIZE) as u32).put(id, lsn, out);
                    out.extend_from_slice(&content);
                }
                None => {
                    let text = format!("segment {segment:04X} of {} does not exist at {lsn}", kind.directory());
                    return Err(Failure::NoSuchRelation(text));
                }
            },
        }
        Ok(())
    }
}

/// Why there is no answer.
enum Failure {
    NoSuchRelation(String),
    Read(ReadError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Failure::Read(error)
    }
}
