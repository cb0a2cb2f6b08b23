//! The PostgreSQL-wire port: proposers, readers of WAL, peers.

mod access;
mod command;
mod membership;
mod news;
mod push;
mod reader;
mod reader_messages;
mod timeline_news;

use std::{str::FromStr, sync::Arc, time::Duration};

use ogel_ids::Term;
use ogel_pgwire::{Accepted, Column, Connection, FrontendMessage, Limits, ServerMessage, Startup, WireError, sqlstate};
use ogel_service::{Shutdown, auth::Verifier};
use quorum::{RefusalCode, Refused};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{
    metrics::Metrics,
    registry::Registry,
    timeline::{Timeline, TimelineKey},
};
use command::Command;

/// Version reported to clients: stock tools look at its major number.
const SERVER_VERSION: &str = "17.11";
/// Room for an append of 1 MiB, or a history of full length.
const MAX_FRAME_BYTES: usize = 2 << 20;
/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;

/// Serves the port until shutdown.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    verifier: Verifier,
    shutdown: Shutdown,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: the next try may find one.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.wait() => return,
        };
        let session = Session { registry: registry.clone(), metrics: metrics.clone(), verifier: verifier.clone() };
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let peer = stream.peer_addr().map_or_else(|_| "unknown".into(), |address| address.to_string());
            let result = tokio::select! {
                result = session.run(stream) => result,
                () = shutdown.wait() => Ok(()),
            };
            match result {
                Ok(()) | Err(WireError::Closed | WireError::Io(_)) => {}
                Err(error) => tracing::warn!(%peer, %error, "connection closed"),
            }
        });
    }
}

struct Session {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    verifier: Verifier,
}

impl Session {
    async fn run(&self, stream: TcpStream) -> Result<(), WireError> {
        let limits = Limits { max_frame_bytes: MAX_FRAME_BYTES, ..Limits::default() };
        let Accepted::Session(mut connection) = Connection::accept(stream, limits).await? else { return Ok(()) };
        let judge = |token: &str| self.verifier.verify(token);
        let Some(grant) = connection.admit(self.verifier.is_on(), judge, SERVER_VERSION).await? else { return Ok(()) };
        while let Some(message) = connection.read_message().await? {
            match message {
                FrontendMessage::Query(sql) => {
                    match access::allowed(Command::parse(&sql), &grant, connection.startup()) {
                        Ok(Err(refusal)) => connection.refuse(&refusal).await?,
                        Ok(Ok(Command::StartWalPush)) => return self.push(connection).await,
                        Ok(Ok(command)) => self.execute(&mut connection, command).await?,
                        Err(error) => {
                            let error = ServerMessage::error(sqlstate::SYNTAX_ERROR, error.to_string());
                            connection.refuse(&error).await?;
                        }
                    }
                }
                FrontendMessage::Terminate => return Ok(()),
                // What a client sends of a copy after we have ended it.
                FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => {}
                FrontendMessage::Other(tag) => {
                    let text = format!("message {:?} is not understood: only simple queries are", char::from(tag));
                    let error = ServerMessage::fatal(sqlstate::FEATURE_NOT_SUPPORTED, text);
                    return connection.refuse(&error).await;
                }
            }
        }
        Ok(())
    }

    async fn push(&self, connection: Connection) -> Result<(), WireError> {
        let timeline = match key(connection.startup()) {
            Ok(key) => self.registry.get(key).await,
            Err(error) => Err(Refused { code: RefusalCode::UnknownTimeline, text: error.to_string() }),
        };
        push::serve(connection, timeline, &self.metrics).await
    }

    async fn execute(&self, connection: &mut Connection, command: Command) -> Result<(), WireError> {
        let outcome = match command {
            Command::StartReplication { start, pg_timeline } => {
                match self.prepare_reader(connection.startup(), start, pg_timeline).await {
                    Ok(reader) => return reader.serve(connection).await,
                    Err(error) => Err(error),
                }
            }
            Command::TimelineStatus(version) => {
                return timeline_news::serve(connection, version, &self.registry).await;
            }
            Command::PeerStatus(version) => return news::serve(connection, version, &self.registry).await,
            Command::ListTimelines(after) => membership::list(connection, &self.registry, after).await,
            Command::Membership => match self.timeline(connection.startup()).await {
                Ok(timeline) => membership::tell(connection, &timeline),
                Err(error) => Err(error),
            },
            Command::AdoptMembership(json) => match self.timeline(connection.startup()).await {
                Ok(timeline) => membership::adopt(connection, &timeline, &json).await,
                Err(error) => Err(error),
            },
            Command::IdentifySystem => self.timeline(connection.startup()).await.map(|timeline| {
                identify_system(connection, &timeline);
            }),
            Command::Show(name) => self.show(connection, &name).await,
            Command::TimelineHistory(_) => {
                let text = "there is no history file: WAL is on PostgreSQL's timeline 1, a branch has a tenant and timeline id";
                Err(ServerMessage::error(sqlstate::UNDEFINED_OBJECT, text))
            }
            // A slot would hold WAL back for its reader. Here nothing needs to: every name is as good as another.
            Command::CreateSlot(slot) => {
                let columns = ["slot_name", "consistent_point", "snapshot_name", "output_plugin"].map(Column::text);
                row(connection, &columns, &[Some(&slot), Some("0/0"), None, None], "CREATE_REPLICATION_SLOT");
                Ok(())
            }
            // A client that names a slot and has nothing yet gets everything from here.
            Command::ReadSlot => self.timeline(connection.startup()).await.map(|timeline| {
                let columns = [Column::text("slot_type"), Column::text("restart_lsn"), Column::int8("restart_tli")];
                let first = timeline.first_available().to_string();
                row(connection, &columns, &[Some("physical"), Some(&first), Some("1")], "READ_REPLICATION_SLOT");
            }),
            Command::DropSlot => {
                connection.writer().command_complete("DROP_REPLICATION_SLOT");
                Ok(())
            }
            Command::SetConfig => {
                row(connection, &[Column::text("set_config")], &[Some("")], "SELECT 1");
                Ok(())
            }
            Command::Empty => {
                connection.writer().empty_query();
                Ok(())
            }
            Command::StartWalPush => unreachable!("it ends the session and was taken out before"),
        };
        match outcome {
            Ok(()) => {
                connection.writer().ready_for_query();
                connection.writer().flush().await
            }
            Err(error) => connection.refuse(&error).await,
        }
    }

    async fn timeline(&self, startup: &Startup) -> Result<Arc<Timeline>, ServerMessage> {
        let refused = |refused: Refused| {
            let state = match refused.code {
                RefusalCode::UnknownTimeline => sqlstate::UNDEFINED_OBJECT,
                _ => sqlstate::DATA_CORRUPTED,
            };
            ServerMessage::error(state, refused.text)
        };
        self.registry.get(key(startup)?).await.map_err(refused)
    }

    async fn prepare_reader(
        &self,
        startup: &Startup,
        start: ogel_ids::Lsn,
        pg_timeline: u32,
    ) -> Result<reader::Reader, ServerMessage> {
        let invalid = |text: String| ServerMessage::error(sqlstate::INVALID_PARAMETER_VALUE, text);
        let kind = match startup.setting("ogel.reader") {
            None => reader::Kind::Stock,
            Some("pageserver") => reader::Kind::Pageserver,
            Some("peer") => reader::Kind::Peer(setting::<Term>(startup, "ogel.term")?),
            Some(other) => return Err(invalid(format!("ogel.reader is {other:?}; pageserver or peer is expected"))),
        };
        let timeline = self.timeline(startup).await?;
        if pg_timeline != 1 {
            return Err(invalid(format!("PostgreSQL's timeline {pg_timeline} is not here: all WAL is on timeline 1")));
        }
        if start < timeline.first_available() {
            let text =
                format!("WAL at {start} is not here: this timeline's WAL begins at {}", timeline.first_available());
            return Err(ServerMessage::error("58P01", text).with_hint("ask the parent branch for older WAL"));
        }
        Ok(reader::Reader::new(timeline, start, kind, self.metrics.clone()))
    }

    async fn show(&self, connection: &mut Connection, name: &str) -> Result<(), ServerMessage> {
        let value = match name {
            "wal_segment_size" => {
                let bytes = self.timeline(connection.startup()).await?.identity().wal_segment_size_bytes;
                format!("{}MB", bytes >> 20)
            }
            "ogel.flush_lsn" => self.timeline(connection.startup()).await?.watch().borrow().flush_lsn.to_string(),
            "data_directory_mode" => "0700".into(),
            "server_version" => SERVER_VERSION.into(),
            "server_version_num" => "170011".into(),
            _ => {
                let text = format!("there is no setting {name:?} on a safekeeper");
                return Err(ServerMessage::error(sqlstate::UNDEFINED_OBJECT, text));
            }
        };
        let column = match name {
            "wal_segment_size" => "wal_segment_size",
            "data_directory_mode" => "data_directory_mode",
            _ => "setting",
        };
        row(connection, &[Column::text(column)], &[Some(&value)], "SHOW");
        Ok(())
    }
}

/// Which timeline the client wants.
fn key(startup: &Startup) -> Result<TimelineKey, ServerMessage> {
    Ok(TimelineKey { tenant: setting(startup, "ogel.tenant")?, timeline: setting(startup, "ogel.timeline")? })
}

fn setting<T: FromStr<Err: std::fmt::Display>>(startup: &Startup, name: &str) -> Result<T, ServerMessage> {
    let invalid = |text: String| {
        ServerMessage::error(sqlstate::INVALID_PARAMETER_VALUE, text)
            .with_hint("connect with options='-c ogel.tenant=ID -c ogel.timeline=ID', for stock tools by PGOPTIONS")
    };
    let text =
        startup.setting(name).ok_or_else(|| invalid(format!("{name} is missing in the connection's options")))?;
    text.parse().map_err(|error: T::Err| invalid(format!("{name}: {error}")))
}

fn identify_system(connection: &mut Connection, timeline: &Timeline) {
    let columns = [Column::text("systemid"), Column::int8("timeline"), Column::text("xlogpos"), Column::text("dbname")];
    let system_identifier = timeline.identity().system_identifier.to_string();
    let commit_lsn = timeline.watch().borrow().commit_lsn.to_string();
    row(connection, &columns, &[Some(&system_identifier), Some("1"), Some(&commit_lsn), None], "IDENTIFY_SYSTEM");
}

fn row(connection: &mut Connection, columns: &[Column], values: &[Option<&str>], tag: &str) {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    let writer = connection.writer();
    writer.row_description(columns);
    writer.data_row(&values);
    writer.command_complete(tag);
}
