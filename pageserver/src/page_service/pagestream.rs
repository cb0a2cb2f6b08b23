//! Requests of one compute, answered in order.
//!
//! Requests that have arrived together are answered together: pages that consecutive requests ask for at the same LSN are one read of
//! the layers, and all answers go out by one flush. What is in memory is read on the network thread; what is not, on the [`ReadPool`].

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use ogel_ids::{Lsn, Term};
use ogel_pgwire::{Connection, FrontendMessage, MessageWriter, WireError};
use wal_decoder::{
    key::{PAGE_SIZE, RelFork},
    redo::PageRef,
};

use super::{
    ReadPool,
    protocol::{Answer, ErrorCode, RequestBody, RequestError, RequestHeader, open_seal, put_error, put_seal},
};
use crate::{
    layer::{Io, file::LayerError},
    metrics::{CacheLevel, CacheMetrics},
    pageserver::Pageserver,
    timeline::{PageBatch, PageId, PageMaker, ReadError, Timeline, WaitError},
};

/// Answers are sent when this much has been collected, even if more requests wait: the client works on them meanwhile, and what is
/// collected stays in the processor's cache until it is sent.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Of an answer, beside its pages; by estimate.
const ANSWER_HEAD_BYTES: usize = 64;
/// Requests taken up together.
const MAX_REQUESTS: usize = 256;
/// Pages read together; one request may ask for 128.
const MAX_PAGES: usize = 256;

/// Answers until the client ends the copy or the server stops.
pub async fn run(
    connection: &mut Connection,
    pageserver: &Pageserver,
    pool: &ReadPool,
    timeline: Arc<Timeline>,
    (term, checksums): (Term, bool),
) -> Result<(), WireError> {
    let (reader, writer) = connection.split();
    writer.copy_both_response();
    writer.flush().await?;
    let memory = pageserver.metrics().cache(CacheLevel::Pages, timeline.tenant);
    let source = Source { pageserver, pool, timeline, term, memory };
    let mut stream = PageStream { source, writer, checksums };
    loop {
        let mut next = tokio::select! {
            frame = reader.read_frame() => frame?,
            () = pageserver.shutdown.wait() => return Ok(()),
        };
        if next.is_none() {
            return Ok(());
        }
        let mut asked = Vec::new();
        let mut ended = None;
        while let Some(frame) = next {
            match FrontendMessage::try_from(frame)? {
                FrontendMessage::CopyData(mut request) => {
                    // Asking again is the client's: a request for other blocks than it named would get it wrong pages.
                    if checksums && !open_seal(&mut request) {
                        return Err(WireError::Malformed("a request with a wrong checksum"));
                    }
                    asked.push(Asked::read(request)?);
                }
                other => {
                    ended = Some(other);
                    break;
                }
            }
            next = if asked.len() < MAX_REQUESTS { reader.buffered_frame()? } else { None };
        }
        stream.answer_all(&asked).await?;
        match ended {
            None => stream.writer.flush().await?,
            Some(FrontendMessage::CopyDone | FrontendMessage::CopyFail(_)) => {
                stream.writer.copy_done();
                stream.writer.command_complete("COPY");
                stream.writer.ready_for_query();
                return stream.writer.flush().await;
            }
            Some(FrontendMessage::Terminate) => return stream.writer.flush().await,
            Some(_) => return Err(WireError::Malformed("a page stream takes copy data only")),
        }
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

    fn pages(&self) -> Option<(RelFork, &[u32])> {
        match &self.body {
            Ok(RequestBody::Pages(rel, blocks)) => Some((*rel, blocks)),
            _ => None,
        }
    }
}

/// Where answers come from.
struct Source<'a> {
    pageserver: &'a Pageserver,
    pool: &'a ReadPool,
    timeline: Arc<Timeline>,
    term: Term,
    memory: CacheMetrics,
}

struct PageStream<'a> {
    source: Source<'a>,
    writer: &'a mut MessageWriter,
    checksums: bool,
}

/// An error answer.
type Refusal = (ErrorCode, String);

impl Source<'_> {
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

    async fn gather(&self, asked: &[Asked], lsn: Lsn) -> Result<PageBatch, ReadError> {
        let pages = asked
            .iter()
            .filter_map(Asked::pages)
            .flat_map(|(rel, blocks)| blocks.iter().map(move |block| PageId::Relation(PageRef { rel, block: *block })));
        let pages: Vec<PageId> = pages.collect();
        self.pageserver.metrics().batch_pages.observe(pages.len() as f64);
        let began = Instant::now();
        let timeline = self.timeline.clone();
        let mut batch = match self.timeline.locate_pages(&pages, lsn, Io::MemoryOnly) {
            Err(error) if error.would_block() => {
                return self.pool.run(move || timeline.gather_pages(&pages, lsn, Io::MayBlock)).await;
            }
            located => located?,
        };
        match self.timeline.fetch_pages(&mut batch, Io::MemoryOnly) {
            Err(error) if error.would_block() => {
                let fetch = move || timeline.fetch_pages(&mut batch, Io::MayBlock).map(|()| batch);
                self.pool.run(fetch).await
            }
            other => {
                self.memory.seconds.observe(began.elapsed().as_secs_f64());
                other.map(|()| batch)
            }
        }
    }
}

impl PageStream<'_> {
    async fn answer_all(&mut self, mut asked: &[Asked]) -> Result<(), WireError> {
        while let Some(first) = asked.first() {
            if first.header.not_modified_since > self.source.timeline.last_record_lsn() {
                self.writer.flush().await?; // earlier answers do not wait with this one
            }
            let position = self.source.position(first).await;
            let mut count = 1;
            match (&first.body, position) {
                (Err(error), _) => {
                    let refusal = (ErrorCode::BadRequest, error.to_string());
                    self.refuse(first, Lsn::INVALID, &refusal);
                }
                (_, Err(refusal)) => self.refuse(first, Lsn::INVALID, &refusal),
                (Ok(RequestBody::Pages(..)), Ok(lsn)) => {
                    count = read_together(asked, lsn);
                    self.answer_pages(&asked[..count], lsn).await?;
                }
                (Ok(body), Ok(lsn)) => self.answer_other(first, body, lsn).await,
            }
            asked = &asked[count..];
            if self.writer.pending_bytes() >= MAX_ANSWER_BYTES {
                self.writer.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes one answer, with its checksum if the client understands that.
    fn put(&mut self, answer: impl FnOnce(&mut BytesMut)) {
        let checksums = self.checksums;
        self.writer.copy_data(|out| {
            let start = out.len();
            answer(out);
            if checksums {
                put_seal(start, out);
            }
        });
    }

    fn refuse(&mut self, asked: &Asked, lsn: Lsn, (code, text): &Refusal) {
        self.source.pageserver.metrics().request_errors.inc();
        self.put(|out| put_error(asked.header.id, lsn, *code, text, out));
    }

    /// Answers requests for pages by one read; when that fails, each by its own, so that a damaged page is one request's only.
    async fn answer_pages(&mut self, asked: &[Asked], lsn: Lsn) -> Result<(), WireError> {
        let timeline = self.source.timeline.clone();
        match self.source.gather(asked, lsn).await {
            Ok(batch) => self.put_pages(asked, lsn, timeline.make_pages(batch)).await?,
            Err(error) if asked.len() == 1 => self.refuse(&asked[0], lsn, &refusal(&error)),
            Err(_) => {
                for alone in asked.chunks(1) {
                    match self.source.gather(alone, lsn).await {
                        Ok(batch) => self.put_pages(alone, lsn, timeline.make_pages(batch)).await?,
                        Err(error) => self.refuse(&alone[0], lsn, &refusal(&error)),
                    }
                }
            }
        }
        Ok(())
    }

    async fn put_pages(&mut self, asked: &[Asked], lsn: Lsn, mut pages: PageMaker<'_>) -> Result<(), WireError> {
        for asked in asked {
            self.put_answer(asked, lsn, &mut pages);
            if self.writer.pending_bytes() >= MAX_ANSWER_BYTES {
                self.writer.flush().await?;
            }
        }
        Ok(())
    }

    fn put_answer(&mut self, asked: &Asked, lsn: Lsn, pages: &mut PageMaker<'_>) {
        let Some((_, blocks)) = asked.pages() else { unreachable!("only requests for pages are read together") };
        let (id, metrics) = (asked.header.id, self.source.pageserver.metrics());
        self.put(|out| {
            let start = out.len();
            out.reserve(blocks.len() * PAGE_SIZE + ANSWER_HEAD_BYTES);
            Answer::Pages(blocks.len() as u16).put(id, lsn, out);
            match put_pages(blocks.len(), pages, out) {
                Ok(()) => _ = metrics.pages_served.inc_by(blocks.len() as u64),
                Err(error) => {
                    metrics.request_errors.inc();
                    out.truncate(start);
                    let (code, text) = refusal(&error);
                    put_error(id, lsn, code, &text, out);
                }
            }
        });
    }

    async fn answer_other(&mut self, asked: &Asked, body: &RequestBody, lsn: Lsn) {
        let found = match find(&self.source.timeline, body, lsn, Io::MemoryOnly) {
            Err(error) if error.would_block() => {
                let (timeline, body) = (self.source.timeline.clone(), body.clone());
                self.source.pool.run(move || find(&timeline, &body, lsn, Io::MayBlock)).await
            }
            other => other,
        };
        match found {
            Ok(Found::Answer(answer, rest)) => self.put(|out| {
                answer.put(asked.header.id, lsn, out);
                out.extend_from_slice(&rest);
            }),
            Ok(Found::NoSuchRelation(text)) => self.refuse(asked, lsn, &(ErrorCode::NoSuchRelation, text)),
            Err(error) => self.refuse(asked, lsn, &refusal(&error)),
        }
    }
}

/// How many of the requests ask for pages that can be read together at `lsn`, where the first one is read.
fn read_together(asked: &[Asked], lsn: Lsn) -> usize {
    let request_lsn = asked[0].header.request_lsn;
    let mut pages = 0;
    let together = asked.iter().take_while(|asked| {
        let header = &asked.header;
        pages += asked.pages().map_or(MAX_PAGES + 1, |(_, blocks)| blocks.len());
        pages <= MAX_PAGES && header.request_lsn == request_lsn && header.not_modified_since <= lsn
    });
    together.count().max(1)
}

/// Writes the next pages of the batch; the first failure counts, but all are taken, so that the next request finds its own.
fn put_pages(count: usize, pages: &mut PageMaker<'_>, out: &mut BytesMut) -> Result<(), ReadError> {
    let mut outcome = Ok(());
    for _ in 0..count {
        let made = pages.next_onto(out);
        outcome = outcome.and(made);
    }
    outcome
}

fn refusal(error: &ReadError) -> Refusal {
    let code = match error {
        // The disk may answer next time: the client shall try again.
        ReadError::Layer(LayerError::Io { .. } | LayerError::Remote(_)) | ReadError::AncestorBehind { .. } => {
            ErrorCode::WaitTimedOut
        }
        ReadError::BelowCutoff { .. } => ErrorCode::BelowCutoff,
        _ => ErrorCode::Damaged,
    };
    (code, error.to_string())
}

/// What answers a request that is not for pages.
enum Found {
    /// The answer and what follows it.
    Answer(Answer, Vec<u8>),
    NoSuchRelation(String),
}

fn find(timeline: &Timeline, body: &RequestBody, lsn: Lsn, io: Io) -> Result<Found, ReadError> {
    let answer = |answer| Ok(Found::Answer(answer, Vec::new()));
    match body {
        RequestBody::Exists(rel) => answer(Answer::Exists(timeline.rel_size(*rel, lsn, io)?.is_some())),
        RequestBody::BlockCount(rel) => match timeline.rel_size(*rel, lsn, io)? {
            Some(blocks) => answer(Answer::BlockCount(blocks)),
            None => {
                let (name, fork) = (rel.rel, rel.fork);
                let text = format!("relation {}/{}/{} has no {fork:?} fork at {lsn}", name.spc, name.db, name.rel);
                Ok(Found::NoSuchRelation(text))
            }
        },
        RequestBody::DatabaseSize { spc, db } => {
            answer(Answer::DatabaseSize(timeline.database_size(*spc, *db, lsn, io)?))
        }
        RequestBody::SlruSegment(kind, segment) => match timeline.slru_segment(*kind, *segment, lsn, io)? {
            Some(content) => Ok(Found::Answer(Answer::SlruSegment((content.len() / PAGE_SIZE) as u32), content)),
            None => {
                let text = format!("segment {segment:04X} of {} does not exist at {lsn}", kind.directory());
                Ok(Found::NoSuchRelation(text))
            }
        },
        RequestBody::Pages(..) => unreachable!("pages are read together"),
    }
}
