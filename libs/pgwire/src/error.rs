//! What can go wrong on a connection, and PostgreSQL's error fields.

use std::fmt;

/// SQLSTATE codes that our services send.
pub mod sqlstate {
    /// A message that breaks the protocol.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// The server will not have this connection.
    pub const CONNECTION_REJECTED: &str = "08004";
    /// Asked for something that this server does not do.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// A command that cannot be read.
    pub const SYNTAX_ERROR: &str = "42601";
    /// A parameter with an unusable value.
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    /// A named thing is not there.
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// Not in the state that the command needs.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// Stored bytes are damaged.
    pub const DATA_CORRUPTED: &str = "XX001";
    /// A failure inside the server.
    pub const INTERNAL_ERROR: &str = "XX000";
    /// The server is stopping.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// Refused by the authentication.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// No password, or a wrong one.
    pub const INVALID_PASSWORD: &str = "28P01";
    /// Known, but not allowed.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
}

/// An error or a notice in PostgreSQL's form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `NOTICE`, …
    pub severity: String,
    /// Five characters, see [`sqlstate`].
    pub sqlstate: String,
    /// What happened.
    pub message: String,
    /// What it means.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl ServerMessage {
    /// An `ERROR`: the connection goes on.
    pub fn error(sqlstate: &str, message: impl Into<String>) -> Self {
        Self { severity: "ERROR".into(), sqlstate: sqlstate.into(), message: message.into(), detail: None, hint: None }
    }

    /// A `FATAL`: the connection is closed after it.
    pub fn fatal(sqlstate: &str, message: impl Into<String>) -> Self {
        Self { severity: "FATAL".into(), ..Self::error(sqlstate, message) }
    }

    /// Adds the consequence.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the next step.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse; fields of other kinds are skipped.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut message = Self::default();
        let mut rest = body;
        while let Some((&kind, tail)) = rest.split_first() {
            if kind == 0 {
                return Ok(message);
            }
            let end = tail.iter().position(|&b| b == 0).ok_or(WireError::Malformed("error field without an end"))?;
            let text = String::from_utf8_lossy(&tail[..end]).into_owned();
            match kind {
                b'S' => message.severity = text,
                b'C' => message.sqlstate = text,
                b'M' => message.message = text,
                b'D' => message.detail = Some(text),
                b'H' => message.hint = Some(text),
                _ => {}
            }
            rest = &tail[end + 1..];
        }
        Err(WireError::Malformed("error message without an end"))
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        write!(f, " [{}]", self.sqlstate)
    }
}

/// Why a connection cannot go on. After every variant but `Server` the connection must be dropped; whether the peer carried
/// out what was sent before is unknown.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The network failed; connecting again may help.
    #[error("network: {0}")]
    Io(#[from] std::io::Error),
    /// The peer went away in the middle of a message or while an answer was due; connecting again may help.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing came in time; connecting again may help.
    #[error("timed out while {0}")]
    TimedOut(&'static str),
    /// The peer does not follow the protocol; connecting again will not help.
    #[error("protocol violation: {0}")]
    Malformed(&'static str),
    /// The peer announced a message that is longer than it may be.
    #[error("message {tag:?} of {length} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// Kind of message.
        tag: char,
        /// Announced bytes.
        length: u64,
        /// Allowed bytes.
        limit: u64,
    },
    /// A message that has no place here.
    #[error("unexpected message {tag:?} while {during}")]
    Unexpected {
        /// Kind of message.
        tag: char,
        /// What was going on.
        during: &'static str,
    },
    /// The client asked for another protocol version.
    #[error("protocol version {major}.{minor} is not supported: this server speaks 3.0")]
    Version {
        /// Asked for.
        major: u16,
        /// Asked for.
        minor: u16,
    },
    /// The server wants a password or another authentication that this client does not do.
    #[error(
        "the server asks for authentication (kind {0}) and there is none to show: our servers want a token (--auth-token-file), a PostgreSQL server must trust this address in pg_hba.conf"
    )]
    Authentication(u32),
    /// The other side answered with an error (or ended a copy with one).
    #[error("{0}")]
    Server(ServerMessage),
}
