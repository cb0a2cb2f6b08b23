//! The server's end of a connection.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::BufMut;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    BlockingReader, FrontendMessage, MessageReader, MessageWriter, ServerMessage, Startup, WireError,
    client::CLEAR_TEXT_PASSWORD,
    frame::Fields,
    halves::{ReadHalf, WriteHalf},
    sqlstate,
    startup::FirstPacket,
};

/// PostgreSQL's own limit (`MAX_STARTUP_PACKET_LENGTH`).
const MAX_STARTUP_BYTES: usize = 10_000;
/// A client must have shown its password by then.
const PASSWORD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client may do to us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest message, its length field included.
    pub max_frame_bytes: usize,
    /// The start-up must be done by then.
    pub startup_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame_bytes: 2 << 20, startup_timeout: Duration::from_secs(10) }
    }
}

/// How the start-up ended.
pub enum Accepted {
    /// A session.
    Session(Connection),
    /// A request to cancel a query (of which we have none to cancel), or a client that went away. Nothing to do.
    Nothing,
}

/// A session with a client that has sent its start-up packet.
///
/// The caller decides whether to let the client in, then calls [`Connection::welcome`] (or writes an error).
pub struct Connection {
    startup: Startup,
    reader: MessageReader,
    writer: MessageWriter,
}

impl Connection {
    /// Does the start-up over TCP; switches Nagle's algorithm off.
    pub async fn accept(stream: TcpStream, limits: Limits) -> Result<Accepted, WireError> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Self::accept_on(ReadHalf::Tcp(read), WriteHalf::Tcp(write), limits).await
    }

    /// Does the start-up over any byte stream. A client that breaks the protocol is told so before the error is returned.
    pub async fn accept_halves(
        read: impl AsyncRead + Send + 'static,
        write: impl AsyncWrite + Send + 'static,
        limits: Limits,
    ) -> Result<Accepted, WireError> {
        Self::accept_on(ReadHalf::Other(Box::pin(read)), WriteHalf::Other(Box::pin(write)), limits).await
    }

    async fn accept_on(read: ReadHalf, write: WriteHalf, limits: Limits) -> Result<Accepted, WireError> {
        let reader = MessageReader::new(read, limits.max_frame_bytes);
        let mut writer = MessageWriter::new(write);
        let outcome = timeout(limits.startup_timeout, start_up(reader, &mut writer))
            .await
            .unwrap_or(Err(WireError::TimedOut("waiting for the start-up packet")));
        match outcome {
            Ok(Some((startup, reader))) => Ok(Accepted::Session(Self { startup, reader, writer })),
            Ok(None) => Ok(Accepted::Nothing),
            Err(error) => {
                writer.error(&ServerMessage::fatal(sqlstate::PROTOCOL_VIOLATION, error.to_string()));
                let _ = timeout(Duration::from_secs(1), writer.flush()).await; // the first error is the one to report
                Err(error)
            }
        }
    }

    /// What the client said when it connected.
    pub fn startup(&self) -> &Startup {
        &self.startup
    }

    /// Asks for a password in clear text; `None` when the client has gone or sends something else.
    pub async fn ask_password(&mut self) -> Result<Option<String>, WireError> {
        self.writer.message(b'R', |body| body.put_u32(CLEAR_TEXT_PASSWORD));
        self.writer.flush().await?;
        let frame = timeout(PASSWORD_TIMEOUT, self.reader.read_frame())
            .await
            .map_err(|_| WireError::TimedOut("waiting for the password"))??;
        let Some(frame) = frame.filter(|frame| frame.tag == b'p') else { return Ok(None) };
        Ok(Some(Fields(&frame.body).text()?.to_owned()))
    }

    /// Lets the client in if `judge` accepts the token that it shows as its password; else it is told why, and this is `None`.
    /// Where no token `is_wanted`, none is asked for, and `judge` gets an empty one.
    pub async fn admit<G, E: Display>(
        &mut self,
        is_wanted: bool,
        judge: impl FnOnce(&str) -> Result<G, E>,
        server_version: &str,
    ) -> Result<Option<G>, WireError> {
        let token = if is_wanted { self.ask_password().await?.unwrap_or_default() } else { String::new() };
        match judge(&token) {
            Ok(grant) => {
                self.welcome(server_version).await?;
                Ok(Some(grant))
            }
            Err(error) => {
                let refusal = ServerMessage::fatal(sqlstate::INVALID_PASSWORD, error.to_string())
                    .with_hint("Show a token as the password (stock tools: PGPASSWORD); `ogel token` makes one.");
                self.refuse(&refusal).await?;
                Ok(None)
            }
        }
    }

    /// Lets the client in: AuthenticationOk, the settings that clients look for, ReadyForQuery.
    pub async fn welcome(&mut self, server_version: &str) -> Result<(), WireError> {
        self.writer.authentication_ok();
        for (name, value) in [
            ("server_version", server_version),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            self.writer.parameter_status(name, value);
        }
        // There is nothing to cancel, but old clients wait for a key.
        self.writer.message(b'K', |body| body.put_u64(0));
        self.writer.ready_for_query();
        self.writer.flush().await
    }

    /// The next message; `None` when the client has gone.
    pub async fn read_message(&mut self) -> Result<Option<FrontendMessage>, WireError> {
        self.reader.read_frame().await?.map(FrontendMessage::try_from).transpose()
    }

    /// Sends an error, then, if it is not `FATAL`, ReadyForQuery.
    pub async fn refuse(&mut self, error: &ServerMessage) -> Result<(), WireError> {
        self.writer.error(error);
        if error.severity != "FATAL" {
            self.writer.ready_for_query();
        }
        self.writer.flush().await
    }

    /// Writes answers.
    pub fn writer(&mut self) -> &mut MessageWriter {
        &mut self.writer
    }

    /// Both ends at once, for a copy that runs inside one task.
    pub fn split(&mut self) -> (&mut MessageReader, &mut MessageWriter) {
        (&mut self.reader, &mut self.writer)
    }

    /// Leaves the runtime, for a copy that a thread of its own reads. What was written must be flushed before. Only over TCP.
    pub fn into_blocking(self) -> Result<BlockingReader, WireError> {
        let MessageReader { stream: ReadHalf::Tcp(read), buffer, max_frame_bytes } = self.reader else {
            return Err(WireError::Malformed("only a TCP connection can leave the runtime"));
        };
        let WriteHalf::Tcp(write) = self.writer.stream else { return Err(WireError::Closed) };
        let socket = read.reunite(write).map_err(|_| WireError::Closed)?.into_std()?;
        socket.set_nonblocking(false)?;
        Ok(BlockingReader::new(Arc::new(socket), buffer, max_frame_bytes))
    }

    /// Both ends, for a copy that runs in two tasks.
    pub fn into_split(self) -> (MessageReader, MessageWriter) {
        (self.reader, self.writer)
    }
}

async fn start_up(
    mut reader: MessageReader,
    writer: &mut MessageWriter,
) -> Result<Option<(Startup, MessageReader)>, WireError> {
    // A client asks for encryption at most once per kind (TLS, GSSAPI).
    for _ in 0..3 {
        let Some(packet) = reader.read_startup_packet(MAX_STARTUP_BYTES).await? else { return Ok(None) };
        match FirstPacket::parse(&packet)? {
            FirstPacket::Encryption => {
                writer.raw_byte(b'N');
                writer.flush().await?;
            }
            FirstPacket::Cancel => return Ok(None),
            FirstPacket::Session { startup, newer, extensions } => {
                if newer {
                    writer.message(b'v', |body| {
                        body.put_u32(3 << 16);
                        body.put_u32(extensions.len() as u32);
                        extensions.iter().for_each(|name| crate::message_writer::put_text(body, name));
                    });
                }
                return Ok(Some((startup, reader)));
            }
        }
    }
    Err(WireError::Malformed("encryption was asked for again and again"))
}
