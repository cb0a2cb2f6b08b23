//! The client's end of a connection.

use std::{collections::BTreeMap, fmt, io, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    Frame, MessageReader, MessageWriter, ServerMessage, WireError,
    frame::Fields,
    halves::{ReadHalf, WriteHalf},
    message_writer::put_text,
};

/// Rows of a simple query beyond which the answer is refused: our queries have few.
const MAX_ROWS: usize = 10_000;

/// The kind of authentication that our servers use: a token, on a private network or under TLS.
pub(crate) const CLEAR_TEXT_PASSWORD: u32 = 3;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`; an IPv6 address goes in square brackets.
    Tcp(String),
    /// The socket file, `…/.s.PGSQL.5432`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = std::convert::Infallible;

    /// A text that starts with `/` is a socket file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text.starts_with('/') { Self::Unix(text.into()) } else { Self::Tcp(text.into()) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Where a server listens, and what is shown to it when it asks for a password in clear text, as ours do for a token.
#[derive(Clone)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    password: Option<Arc<PasswordSource>>,
}

/// Asked at each connection: a token in a file may have been replaced.
type PasswordSource = dyn Fn() -> io::Result<Option<String>> + Send + Sync;

impl Endpoint {
    /// With a source of passwords.
    pub fn new(address: Address, password: impl Fn() -> io::Result<Option<String>> + Send + Sync + 'static) -> Self {
        Self { address, password: Some(Arc::new(password)) }
    }

    fn password(&self) -> io::Result<Option<String>> {
        self.password.as_ref().map_or(Ok(None), |source| source())
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self { address, password: None }
    }
}

/// The address only: a password is never shown.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Where to.
    pub endpoint: Endpoint,
    /// Start-up parameters: `user`, `database`, `replication`, `options`, …
    pub parameters: Vec<(String, String)>,
    /// Longest message accepted.
    pub max_frame_bytes: usize,
    /// Connecting and the start-up together must be done by then.
    pub timeout: Duration,
}

impl ConnectOptions {
    /// Connects as user `ogel` within 10 s unless told otherwise.
    pub fn new(endpoint: impl Into<Endpoint>) -> Self {
        Self {
            endpoint: endpoint.into(),
            parameters: vec![("user".into(), "ogel".into())],
            max_frame_bytes: 16 << 20,
            timeout: Duration::from_secs(10),
        }
    }

    /// Sets a start-up parameter.
    pub fn parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.parameters.retain(|(present, _)| present != name);
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// Adds `-c name=value` to the `options` parameter.
    pub fn setting(self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string().replace('\\', r"\\").replace(' ', r"\ ");
        let present =
            self.parameters.iter().find(|(parameter, _)| parameter == "options").map(|(_, text)| text.as_str());
        let options = format!("{} -c {name}={value}", present.unwrap_or_default());
        self.parameter("options", options.trim_start().to_owned())
    }
}

/// What a simple query answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryResult {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Values as text, `None` for NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl QueryResult {
    /// A value by row number and column name.
    pub fn value(&self, row: usize, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.get(index)?.as_deref()
    }
}

/// A session with a server, between two queries.
///
/// A future of this type that is dropped before it is done leaves the session in an unknown state: drop the client too.
pub struct Client {
    reader: MessageReader,
    writer: MessageWriter,
    parameters: BTreeMap<String, String>,
}

impl Client {
    /// Connects and does the start-up.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, WireError> {
        timeout(options.timeout, Self::connect_now(options)).await.unwrap_or(Err(WireError::TimedOut("connecting")))
    }

    async fn connect_now(options: &ConnectOptions) -> Result<Self, WireError> {
        let (reader, writer) = match &options.endpoint.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (read, write) = stream.into_split();
                (
                    MessageReader::new(ReadHalf::Tcp(read), options.max_frame_bytes),
                    MessageWriter::new(WriteHalf::Tcp(write)),
                )
            }
            Address::Unix(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                let (read, write) = (ReadHalf::Other(Box::pin(read)), WriteHalf::Other(Box::pin(write)));
                (MessageReader::new(read, options.max_frame_bytes), MessageWriter::new(write))
            }
        };
        let mut client = Self { reader, writer, parameters: BTreeMap::new() };
        client.writer.untagged(|body| {
            body.put_u32(3 << 16);
            for (name, value) in &options.parameters {
                put_text(body, name);
                put_text(body, value);
            }
            body.put_u8(0);
        });
        client.writer.flush().await?;
        client.finish_start_up(&options.endpoint).await?;
        Ok(client)
    }

    async fn finish_start_up(&mut self, endpoint: &Endpoint) -> Result<(), WireError> {
        loop {
            let frame = self.next_frame().await?;
            match frame.tag {
                b'R' => match Fields(&frame.body).u32()? {
                    0 => {}
                    kind => match endpoint.password()? {
                        Some(password) if kind == CLEAR_TEXT_PASSWORD => {
                            self.writer.message(b'p', |body| put_text(body, &password));
                            self.writer.flush().await?;
                        }
                        _ => return Err(WireError::Authentication(kind)),
                    },
                },
                b'E' => return Err(WireError::Server(ServerMessage::parse(&frame.body)?)),
                b'K' | b'v' => {}
                b'Z' => return Ok(()),
                tag => return Err(unexpected(tag, "starting up")),
            }
        }
    }

    /// A setting that the server reported (`server_version`, …).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Runs a query and collects its rows. An error of the server leaves the session usable.
    pub async fn simple_query(&mut self, sql: &str) -> Result<QueryResult, WireError> {
        self.writer.query(sql);
        self.writer.flush().await?;
        let mut result = QueryResult::default();
        let mut failure = None;
        loop {
            let frame = self.next_frame().await?;
            match frame.tag {
                b'T' => result = QueryResult { columns: parse_columns(&frame.body)?, rows: Vec::new() },
                b'D' if result.rows.len() >= MAX_ROWS => return Err(WireError::Malformed("a result of too many rows")),
                b'D' => result.rows.push(parse_row(&frame.body)?),
                b'C' | b'I' => {}
                b'E' => failure = Some(ServerMessage::parse(&frame.body)?),
                b'Z' => return failure.map_or(Ok(result), |error| Err(WireError::Server(error))),
                tag => return Err(unexpected(tag, "reading a result")),
            }
        }
    }

    /// Starts a copy in both directions.
    pub async fn copy_both(mut self, sql: &str) -> Result<(CopyBothReader, CopyBothWriter), WireError> {
        self.start_copy(sql, b'W').await?;
        Ok((CopyBothReader { reader: self.reader }, CopyBothWriter { writer: self.writer }))
    }

    /// Starts a copy from the server.
    pub async fn copy_out(mut self, sql: &str) -> Result<CopyOut, WireError> {
        self.start_copy(sql, b'H').await?;
        Ok(CopyOut { client: self, done: false })
    }

    async fn start_copy(&mut self, sql: &str, expected: u8) -> Result<(), WireError> {
        self.writer.query(sql);
        self.writer.flush().await?;
        let frame = self.next_frame().await?;
        match frame.tag {
            tag if tag == expected => Ok(()),
            b'E' => Err(WireError::Server(ServerMessage::parse(&frame.body)?)),
            tag => Err(unexpected(tag, "starting a copy")),
        }
    }

    /// The next message that is neither a notice nor a reported setting.
    async fn next_frame(&mut self) -> Result<Frame, WireError> {
        loop {
            let frame = self.reader.read_frame().await?.ok_or(WireError::Closed)?;
            match frame.tag {
                b'S' => {
                    let mut fields = Fields(&frame.body);
                    self.parameters.insert(fields.text()?.to_owned(), fields.text()?.to_owned());
                }
                b'N' => {}
                _ => return Ok(frame),
            }
        }
    }
}

/// The receiving half of a copy in both directions. Reading is safe to cancel.
pub struct CopyBothReader {
    reader: MessageReader,
}

impl CopyBothReader {
    /// The next piece; `None` when the server has ended the copy. An error of the server is [`WireError::Server`].
    pub async fn receive(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            let frame = self.reader.read_frame().await?.ok_or(WireError::Closed)?;
            match frame.tag {
                b'd' => return Ok(Some(frame.body)),
                b'c' => return Ok(None),
                b'E' => return Err(WireError::Server(ServerMessage::parse(&frame.body)?)),
                b'N' | b'S' => {}
                tag => return Err(unexpected(tag, "copying")),
            }
        }
    }

    /// A piece that has already arrived whole, without waiting.
    pub fn receive_buffered(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.reader.buffered_frame()? {
            None => Ok(None),
            Some(frame) if frame.tag == b'd' => Ok(Some(frame.body)),
            Some(frame) if frame.tag == b'E' => Err(WireError::Server(ServerMessage::parse(&frame.body)?)),
            Some(frame) if frame.tag == b'c' => Err(WireError::Closed),
            Some(frame) => Err(unexpected(frame.tag, "copying")),
        }
    }
}

/// The sending half of a copy in both directions.
pub struct CopyBothWriter {
    writer: MessageWriter,
}

impl CopyBothWriter {
    /// Appends a piece that `fill` writes; it goes out with the next flush.
    pub fn write(&mut self, fill: impl FnOnce(&mut bytes::BytesMut)) {
        self.writer.copy_data(fill);
    }

    /// Bytes waiting for a flush.
    pub fn pending_bytes(&self) -> usize {
        self.writer.pending_bytes()
    }

    /// Sends what was written.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.writer.flush().await
    }

    /// Sends what was written and a piece of `head` and `payload`, without copying the payload.
    pub async fn send(&mut self, head: &[u8], payload: &[u8]) -> Result<(), WireError> {
        self.writer.send_copy_data(head, payload).await
    }

    /// Ends this direction of the copy.
    pub async fn finish(&mut self) -> Result<(), WireError> {
        self.writer.copy_done();
        self.writer.flush().await
    }
}

/// A copy from the server.
pub struct CopyOut {
    client: Client,
    done: bool,
}

impl CopyOut {
    /// The next piece; `None` only after the server has said that the copy is whole.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, WireError> {
        while !self.done {
            let frame = self.client.next_frame().await?;
            match frame.tag {
                b'd' => return Ok(Some(frame.body)),
                b'c' | b'C' => {}
                b'Z' => self.done = true,
                b'E' => return Err(WireError::Server(ServerMessage::parse(&frame.body)?)),
                tag => return Err(unexpected(tag, "copying out")),
            }
        }
        Ok(None)
    }
}

fn unexpected(tag: u8, during: &'static str) -> WireError {
    WireError::Unexpected { tag: tag as char, during }
}

fn parse_columns(body: &[u8]) -> Result<Vec<String>, WireError> {
    let mut fields = Fields(body);
    let count = fields.u16()?;
    (0..count)
        .map(|_| {
            let name = fields.text()?.to_owned();
            fields.take(18)?; // table, attribute, type, its size and modifier, format
            Ok(name)
        })
        .collect()
}

fn parse_row(body: &[u8]) -> Result<Vec<Option<String>>, WireError> {
    let mut fields = Fields(body);
    let count = fields.u16()?;
    (0..count)
        .map(|_| match fields.u32()? {
            u32::MAX => Ok(None),
            length => Ok(Some(String::from_utf8_lossy(fields.take(length as usize)?).into_owned())),
        })
        .collect()
}
