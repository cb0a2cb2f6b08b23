//! A pageserver in this process, and a safekeeper that serves what a test gives it.
#![allow(dead_code)] // each test file uses its own part

pub mod stock_postgres;
pub mod wal_writer;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_object_store::ObjectStore;
use ogel_pgwire::{
    Accepted, Client, ConnectOptions, Connection, CopyBothReader, CopyBothWriter, FrontendMessage, Limits,
};
use ogel_service::Shutdown;
use pageserver::{config::Config, metrics::Metrics, page_service, pageserver::Pageserver, timeline::Timeline};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch};
use wal_decoder::key::RelFork;

pub const TENANT: TenantId = TenantId::from_bytes([0xaa; 16]);
pub const TIMELINE: TimelineId = TimelineId::from_bytes([0xbb; 16]);
pub const SEGMENT: u32 = 16 << 20;

/// Path of the template, or `None` with a printed reason.
pub fn template() -> Option<String> {
    ogel_test_postgres::template()?.into_os_string().into_string().ok()
}

fn settings(data: &Path, template: &str, safekeepers: &[&str], extra: &[&str]) -> Config {
    let safekeepers = safekeepers.join(",");
    let basic = [
        "pageserver",
        "--data-dir",
        data.to_str().unwrap(),
        "--template",
        template,
        "--safekeepers",
        &safekeepers,
        "--wait-lsn-timeout-s",
        "20",
    ];
    ogel_service::config::parse_from([&basic, extra].concat()).unwrap()
}

/// Returns when the last task of a stopped pageserver has let go of its folder, so that the next one can take it.
pub async fn released(pageserver: Arc<Pageserver>) {
    let (last, give_up) = (Arc::downgrade(&pageserver), tokio::time::Instant::now() + Duration::from_secs(10));
    drop(pageserver);
    while last.strong_count() > 0 && tokio::time::Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A running pageserver.
pub struct Server {
    pub pageserver: Arc<Pageserver>,
    pub address: String,
    pages: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(data: &Path, template: &str, safekeepers: &[&str], extra: &[&str]) -> Server {
        let config = settings(data, template, safekeepers, extra);
        let pageserver = Pageserver::start(&config, Metrics::registered().0, Shutdown::new()).await.unwrap();
        Self::serve(pageserver).await
    }

    /// On a store that the test holds.
    pub async fn start_on(
        store: &ObjectStore,
        data: &Path,
        template: &str,
        safekeepers: &[&str],
        extra: &[&str],
    ) -> Server {
        let config = settings(data, template, safekeepers, extra);
        let (store, metrics) = (store.clone(), Metrics::registered().0);
        Self::serve(Pageserver::start_on(store, &config, metrics, Shutdown::new()).await.unwrap()).await
    }

    async fn serve(pageserver: Arc<Pageserver>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pages = tokio::spawn(page_service::serve(listener, pageserver.clone()));
        // Tests look at a timeline that is open; when it does not exist yet, they make it.
        let _ = pageserver.attached(TENANT, TIMELINE).await;
        Server { pageserver, address, pages }
    }

    /// Without writing or uploading anything more.
    pub async fn crash(self) {
        self.pageserver.shutdown.begin();
        self.pages.await.unwrap();
    }

    pub fn timeline(&self) -> Arc<Timeline> {
        self.pageserver.timeline(TENANT, TIMELINE).unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(&ConnectOptions::new(self.address.parse::<ogel_pgwire::Address>().unwrap())).await.unwrap()
    }

    pub async fn pagestream(&self, term: u64) -> PageClient {
        let command = format!("pagestream 1 {TENANT} {TIMELINE} {term}");
        let (reader, writer) = self.client().await.copy_both(&command).await.unwrap();
        PageClient { reader, writer }
    }

    /// The clean way.
    pub async fn stop(self) {
        self.pageserver.shutdown.begin();
        self.pages.await.unwrap();
        self.pageserver.stop().await;
        released(self.pageserver).await;
    }

    pub async fn wait_for(&self, lsn: Lsn, term: u64) {
        let shutdown = Shutdown::new();
        self.timeline().wait_for(lsn, Term(term), Duration::from_secs(120), &shutdown).await.unwrap();
    }
}

/// A compute's end of a page stream.
pub struct PageClient {
    reader: CopyBothReader,
    writer: CopyBothWriter,
}

/// An answer: its tag, the LSN at which it was read, and the rest.
#[derive(Debug)]
pub struct Answer {
    pub tag: u8,
    pub id: u64,
    pub lsn: Lsn,
    pub rest: Bytes,
}

impl Answer {
    /// Code and text of an error.
    pub fn error(&self) -> (u8, String) {
        assert_eq!(self.tag, 199, "an error was expected, not {self:?}");
        (self.rest[0], String::from_utf8_lossy(&self.rest[1..]).into_owned())
    }
}

impl PageClient {
    pub fn ask(&mut self, tag: u8, id: u64, lsns: (Lsn, Lsn), fields: impl FnOnce(&mut BytesMut)) {
        self.writer.write(|out| {
            out.put_u8(tag);
            out.put_u64(id);
            out.put_u64(lsns.0.0);
            out.put_u64(lsns.1.0);
            fields(out);
        });
    }

    pub async fn answer(&mut self) -> Answer {
        self.writer.flush().await.unwrap();
        let mut piece = self.reader.receive().await.unwrap().unwrap();
        Answer { tag: piece.get_u8(), id: piece.get_u64(), lsn: Lsn(piece.get_u64()), rest: piece }
    }

    pub async fn block_count(&mut self, rel: RelFork, lsns: (Lsn, Lsn)) -> Answer {
        self.ask(2, 1, lsns, |out| put_rel(rel, out));
        self.answer().await
    }

    pub async fn pages(&mut self, rel: RelFork, blocks: &[u32], lsns: (Lsn, Lsn)) -> Answer {
        self.ask(3, 1, lsns, |out| {
            put_rel(rel, out);
            out.put_u16(blocks.len() as u16);
            blocks.iter().for_each(|block| out.put_u32(*block));
        });
        self.answer().await
    }
}

pub fn put_rel(rel: RelFork, out: &mut BytesMut) {
    out.put_u32(rel.rel.spc);
    out.put_u32(rel.rel.db);
    out.put_u32(rel.rel.rel);
    out.put_u8(rel.fork as u8);
}

/// What a safekeeper has.
#[derive(Default)]
pub struct Wal {
    pub start: Lsn,
    pub bytes: Vec<u8>,
    pub terms: Vec<(u64, Lsn)>,
    /// Feedback as last heard: last_record_lsn, disk_consistent_lsn, remote_consistent_lsn.
    pub feedback: [Lsn; 3],
}

impl Wal {
    pub fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }
}

/// Serves WAL as `docs/protocols.md` §3 says, all of it committed.
pub struct FakeSafekeeper {
    pub address: String,
    pub wal: Arc<Mutex<Wal>>,
    changed: watch::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeSafekeeper {
    pub async fn start(wal: Arc<Mutex<Wal>>) -> FakeSafekeeper {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let changed = watch::Sender::new(());
        let (shared, signal) = (wal.clone(), changed.clone());
        let server = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (wal, signal) = (shared.clone(), signal.subscribe());
                sessions.spawn(async move {
                    let Ok(Accepted::Session(mut connection)) = Connection::accept(stream, Limits::default()).await
                    else {
                        return;
                    };
                    let _ = serve(&mut connection, wal, signal).await; // the pageserver leaves when it likes
                });
            }
        });
        FakeSafekeeper { address, wal, changed, server }
    }

    pub fn change(&self, change: impl FnOnce(&mut Wal)) {
        change(&mut self.wal.lock());
        self.changed.send_replace(());
    }

    /// Cuts all connections and takes no new ones.
    pub async fn kill(self) {
        self.server.abort();
        let _ = self.server.await;
    }
}

async fn serve(
    connection: &mut Connection,
    wal: Arc<Mutex<Wal>>,
    mut changed: watch::Receiver<()>,
) -> anyhow::Result<()> {
    connection.welcome("17.11").await?;
    let Some(FrontendMessage::Query(text)) = connection.read_message().await? else { return Ok(()) };
    if text == "SHOW ogel.flush_lsn" {
        let end = wal.lock().end().to_string();
        let writer = connection.writer();
        writer.row_description(&[ogel_pgwire::Column::text("setting")]);
        writer.data_row(&[Some(end.as_bytes())]);
        writer.command_complete("SHOW");
        writer.ready_for_query();
        return Ok(writer.flush().await?);
    }
    let timeline = connection.startup().setting("ogel.timeline").map(str::to_owned);
    if timeline != Some(TIMELINE.to_string()) {
        // A timeline that nobody writes to.
        let writer = connection.writer();
        writer.copy_both_response();
        writer.flush().await?;
        tokio::time::sleep(Duration::from_secs(600)).await;
        return Ok(());
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[..2], ["START_REPLICATION", "PHYSICAL"], "{text}");
    let mut at: Lsn = words[2].parse()?;
    let (reader, writer) = connection.split();
    writer.copy_both_response();
    let mut announced = Vec::new();
    loop {
        changed.mark_unchanged();
        let (terms, piece, end) = {
            let wal = wal.lock();
            let from = (at.bytes_since(wal.start) as usize).min(wal.bytes.len()); // nothing yet
            let to = wal.bytes.len().min(from + 100_001); // pieces that end anywhere
            (wal.terms.clone(), Bytes::copy_from_slice(&wal.bytes[from..to]), wal.end())
        };
        if terms != announced {
            writer.copy_data(|out| {
                out.put_u8(b'T');
                out.put_u32(terms.len() as u32);
                terms.iter().for_each(|(term, lsn)| {
                    out.put_u64(*term);
                    out.put_u64(lsn.0);
                });
            });
            announced = terms;
        }
        let more = !piece.is_empty();
        writer.copy_data(|out| {
            out.put_u8(if more { b'w' } else { b'k' });
            if more {
                out.put_u64(at.0);
            }
            out.put_u64(end.0);
            out.put_u64(0);
            if more {
                out.put_slice(&piece);
            } else {
                out.put_u8(0);
            }
        });
        writer.flush().await?;
        at.0 += piece.len() as u64;
        // Not a timer when there is more: one of no time takes a millisecond.
        let pause = async {
            if !more {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            biased;
            () = take_feedback(reader, &wal) => {}
            _ = changed.changed(), if !more => {}
            () = pause => {}
        }
        while let Some(frame) = reader.buffered_frame()? {
            note(&frame.body, &wal);
        }
    }
}

async fn take_feedback(reader: &mut ogel_pgwire::MessageReader, wal: &Mutex<Wal>) {
    while let Ok(Some(frame)) = reader.read_frame().await {
        note(&frame.body, wal);
    }
}

fn note(mut body: &[u8], wal: &Mutex<Wal>) {
    if body[0] == b'n' {
        return; // what somebody waits for: everything is sent anyway
    }
    assert_eq!((body.len(), body.get_u8()), (25, b'p'));
    wal.lock().feedback = [Lsn(body.get_u64()), Lsn(body.get_u64()), Lsn(body.get_u64())];
}
