//! PostgreSQL's wire protocol version 3, both ends, as far as physical replication and our own streams need it.
//!
//! - [`Connection`]: the server's end. [`Connection::accept`] does the start-up, then the service reads
//!   [`FrontendMessage`]s and writes answers; while a copy runs, [`Connection::split`] (or [`Connection::into_split`])
//!   gives a [`MessageReader`] and a [`MessageWriter`] that can work at the same time.
//! - [`Client`]: the other end, over TCP or a unix socket, for simple queries, `CopyOut` and `CopyBoth`.
//! - [`BlockingReader`]: a server's session off the runtime, for the path of a commit.
//!
//! Everything written is buffered until `flush`, so that a batch of answers costs one system call; large payloads go out by
//! [`MessageWriter::send_copy_data`] without being copied. A frame is refused by its announced length before a byte of it is
//! stored, and the buffer grows with what has really arrived: a hostile peer cannot make us allocate.
//! Reading is safe to cancel (`select!`): bytes already received stay in the reader.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod blocking;
mod client;
mod connection;
mod error;
mod frame;
mod frontend;
mod halves;
mod message_writer;
mod startup;

pub use blocking::{BlockingReader, Received, send_now, wait_to_send};
pub use client::{Address, Client, ConnectOptions, CopyBothReader, CopyBothWriter, CopyOut, Endpoint, QueryResult};
pub use connection::{Accepted, Connection, Limits};
pub use error::{ServerMessage, WireError, sqlstate};
pub use frame::{Frame, MessageReader};
pub use frontend::FrontendMessage;
pub use message_writer::{Column, MessageWriter};
pub use startup::Startup;
