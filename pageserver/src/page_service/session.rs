//! One connection.

use std::io::{self, Write};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_pgwire::{Accepted, Connection, FrontendMessage, Limits, ServerMessage, WireError, sqlstate};
use ogel_service::auth::{Access, Grant};
use tokio::{net::TcpStream, sync::mpsc};

use super::{
    ReadPool,
    command::{Command, CommandError},
    pagestream,
};
use crate::{
    basebackup,
    pageserver::{Pageserver, TimelineUnavailable},
    timeline::WaitError,
};

/// Said to clients as `server_version`.
const SERVER_VERSION: &str = "17.11 (OgelBase pageserver)";
/// Size of the tar pieces, and how many may wait for a slow client.
const TAR_PIECE_BYTES: usize = 128 << 10;
const TAR_PIECES_WAITING: usize = 8;

/// Serves a client until it leaves or the server stops.
pub async fn run(stream: TcpStream, pageserver: &Pageserver, pool: &ReadPool) -> Result<(), WireError> {
    let Accepted::Session(mut connection) = Connection::accept(stream, Limits::default()).await? else {
        return Ok(());
    };
    let judge = |token: &str| pageserver.verifier.verify(token);
    let Some(grant) = connection.admit(pageserver.verifier.is_on(), judge, SERVER_VERSION).await? else {
        return Ok(());
    };
    loop {
        let message = tokio::select! {
            message = connection.read_message() => message?,
            () = pageserver.shutdown.wait() => {
                let error = ServerMessage::fatal(sqlstate::ADMIN_SHUTDOWN, "the pageserver is shutting down");
                return connection.refuse(&error).await;
            }
        };
        match message {
            None | Some(FrontendMessage::Terminate) => return Ok(()),
            Some(FrontendMessage::Query(text)) => query(&mut connection, pageserver, pool, &grant, &text).await?,
            Some(FrontendMessage::Other(_)) => {
                let error = ServerMessage::error(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    "only the simple query protocol is spoken here",
                );
                connection.refuse(&error).await?;
            }
            // What a client still sends after a copy has ended.
            Some(FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_)) => {}
        }
    }
}

async fn query(
    connection: &mut Connection,
    pageserver: &Pageserver,
    pool: &ReadPool,
    grant: &Grant,
    text: &str,
) -> Result<(), WireError> {
    let command = text.parse();
    if let Ok(Command::PageStream { tenant, timeline, .. } | Command::Basebackup { tenant, timeline, .. }) = &command
        && let Err(denied) = grant.check(Access::Use(*tenant, *timeline))
    {
        let refusal = ServerMessage::error(sqlstate::INSUFFICIENT_PRIVILEGE, denied.to_string());
        return connection.refuse(&refusal.with_hint("Show a token of this tenant.")).await;
    }
    match command {
        Ok(Command::PageStream { tenant, timeline, term, checksums }) => {
            match pageserver.attached(tenant, timeline).await {
                Ok(timeline) => pagestream::run(connection, pageserver, pool, timeline, (term, checksums)).await,
                Err(error) => connection.refuse(&unavailable(&error)).await,
            }
        }
        Ok(Command::Basebackup { tenant, timeline, lsn, term }) => {
            let asked = BasebackupRequest { tenant, timeline, lsn, term };
            match send_basebackup(connection, pageserver, asked).await {
                Ok(()) => Ok(()),
                Err(BasebackupFailure::Refused(error)) => connection.refuse(&error).await,
                Err(BasebackupFailure::Wire(error)) => Err(error),
            }
        }
        Err(error) => {
            let code = match error {
                CommandError::Version(_) => sqlstate::FEATURE_NOT_SUPPORTED,
                CommandError::Syntax | CommandError::Field(_) => sqlstate::SYNTAX_ERROR,
            };
            connection.refuse(&ServerMessage::error(code, error.to_string())).await
        }
    }
}

fn unavailable(error: &TimelineUnavailable) -> ServerMessage {
    let (code, hint) = match error {
        TimelineUnavailable::Unknown(..) => (sqlstate::UNDEFINED_OBJECT, "Create it first, or ask another pageserver."),
        TimelineUnavailable::Broken(..) => {
            (sqlstate::DATA_CORRUPTED, "Repair what it names and restart the pageserver.")
        }
        TimelineUnavailable::Elsewhere(..) | TimelineUnavailable::NotNow(..) => {
            (sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "Mend what it names, then try again.")
        }
    };
    ServerMessage::error(code, error.to_string()).with_hint(hint)
}

struct BasebackupRequest {
    tenant: TenantId,
    timeline: TimelineId,
    lsn: Lsn,
    term: Term,
}

enum BasebackupFailure {
    Refused(ServerMessage),
    Wire(WireError),
}

impl From<WireError> for BasebackupFailure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

async fn send_basebackup(
    connection: &mut Connection,
    pageserver: &Pageserver,
    asked: BasebackupRequest,
) -> Result<(), BasebackupFailure> {
    use BasebackupFailure::Refused;
    let attached = pageserver.attached(asked.tenant, asked.timeline).await;
    let timeline = attached.map_err(|error| Refused(unavailable(&error)))?;
    let lsn = asked.lsn.record_end(u64::from(timeline.wal_segment_size));
    timeline
        .wait_for(lsn, asked.term, pageserver.wait_lsn_timeout, &pageserver.shutdown)
        .await
        .map_err(|error| Refused(wait_failed(&error)))?;
    // Asked for ahead of the copy, so that this refusal is a plain error.
    let refused = |error: anyhow::Error| {
        Refused(
            ServerMessage::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("{error:#}"))
                .with_hint("Ask for the end of the newest record."),
        )
    };
    tokio::task::block_in_place(|| timeline.state_at(lsn)).map_err(refused)?;

    let (sender, mut pieces) = mpsc::channel(TAR_PIECES_WAITING);
    let maker = tokio::task::spawn_blocking(move || {
        let mut out = PieceWriter { sender, piece: BytesMut::with_capacity(TAR_PIECE_BYTES) };
        basebackup::write(&timeline, lsn, &mut out)?;
        out.flush().context("the client has gone")
    });
    let writer = connection.writer();
    writer.copy_out_response();
    while let Some(piece) = pieces.recv().await {
        writer.send_copy_data(&[], &piece).await?;
    }
    let made = maker.await.unwrap_or_else(|error| Err(anyhow::anyhow!("making the basebackup failed: {error}")));
    made.map_err(|error| Refused(ServerMessage::error(sqlstate::DATA_CORRUPTED, format!("{error:#}"))))?;
    writer.copy_done();
    writer.command_complete("COPY");
    writer.ready_for_query();
    Ok(writer.flush().await?)
}

fn wait_failed(error: &WaitError) -> ServerMessage {
    match error {
        WaitError::Fenced { .. } => ServerMessage::error(sqlstate::CONNECTION_REJECTED, format!("fenced: {error}"))
            .with_hint("A newer compute runs: stop this one."),
        WaitError::TimedOut { .. } => {
            ServerMessage::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, error.to_string())
                .with_hint("Check that the safekeepers can be reached from the pageserver, then try again.")
        }
        WaitError::ShuttingDown => ServerMessage::fatal(sqlstate::ADMIN_SHUTDOWN, error.to_string()),
    }
}

/// Cuts what is written into pieces for the connection.
struct PieceWriter {
    sender: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl PieceWriter {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(TAR_PIECE_BYTES)).freeze();
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(TAR_PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == TAR_PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}
