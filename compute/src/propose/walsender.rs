//! Postgres' walsender, to which the supervisor is the only synchronous standby.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, BufMut, Bytes};
use ogel_ids::Lsn;
use ogel_pgwire::{Address, Client, ConnectOptions, CopyBothReader, CopyBothWriter, WireError};

use crate::postgres::{SUPERUSER, slot_file::SLOT_NAME};

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What the walsender sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalsenderMessage {
    /// WAL that Postgres has written.
    Wal { begin: Lsn, wal: Bytes },
    /// A sign of life; with `true` an answer is due at once.
    Keepalive { reply_requested: bool },
}

/// An attached stream.
pub(super) struct Walsender {
    reader: CopyBothReader,
    writer: CopyBothWriter,
}

impl Walsender {
    /// Takes the supervisor's slot and starts streaming at `start`.
    pub async fn attach(socket: &Path, start: Lsn) -> Result<Self, WireError> {
        let mut options = ConnectOptions::new(Address::Unix(socket.to_owned()))
            .parameter("user", SUPERUSER)
            .parameter("replication", "true")
            .parameter("application_name", SLOT_NAME);
        options.timeout = Duration::from_secs(5);
        let client = Client::connect(&options).await?;
        let command = format!("START_REPLICATION SLOT \"{SLOT_NAME}\" PHYSICAL {start}");
        let (reader, writer) = client.copy_both(&command).await?;
        Ok(Self { reader, writer })
    }

    /// The next message; `None` at the end of the stream. Safe to cancel.
    pub async fn receive(&mut self) -> Result<Option<WalsenderMessage>, WireError> {
        match self.reader.receive().await {
            Ok(Some(payload)) => parse(payload).map(Some),
            // A walsender that shuts down says "command complete" without ending the copy first.
            Ok(None) | Err(WireError::Unexpected { tag: 'C', .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A message that has arrived already.
    pub fn receive_buffered(&mut self) -> Result<Option<WalsenderMessage>, WireError> {
        self.reader.receive_buffered()?.map(parse).transpose()
    }

    /// Says what the quorum has (Postgres takes it as written and flushed) and what the pageserver has (as applied).
    pub async fn report(&mut self, commit_lsn: Lsn, applied_lsn: Lsn) -> Result<(), WireError> {
        self.writer.write(|body| {
            body.put_u8(b'r');
            body.put_u64(commit_lsn.0);
            body.put_u64(commit_lsn.0);
            body.put_u64(applied_lsn.0.min(commit_lsn.0));
            body.put_i64(postgres_time());
            body.put_u8(0);
        });
        self.writer.flush().await
    }
}

fn parse(mut payload: Bytes) -> Result<WalsenderMessage, WireError> {
    let cut = || WireError::Malformed("a message of the walsender is cut");
    match payload.first() {
        Some(b'w') if payload.len() >= 25 => {
            payload.advance(1);
            let begin = Lsn(payload.get_u64());
            payload.advance(16); // end of the server's WAL, time
            Ok(WalsenderMessage::Wal { begin, wal: payload })
        }
        Some(b'k') if payload.len() == 18 => Ok(WalsenderMessage::Keepalive { reply_requested: payload[17] != 0 }),
        Some(b'w' | b'k') | None => Err(cut()),
        Some(_) => Err(WireError::Malformed("a message of the walsender is unknown")),
    }
}

/// Now, as PostgreSQL counts.
fn postgres_time() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_micros()).unwrap_or(i64::MAX) - POSTGRES_EPOCH_MICROS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let mut wal = vec![b'w'];
        wal.extend_from_slice(&0x0150_0028_u64.to_be_bytes());
        wal.extend_from_slice(&[0; 16]);
        wal.extend_from_slice(b"records");
        let expected = WalsenderMessage::Wal { begin: Lsn(0x0150_0028), wal: Bytes::from_static(b"records") };
        assert_eq!(parse(wal.clone().into()).expect("whole"), expected);
        let mut keepalive = vec![b'k'; 18];
        keepalive[17] = 1;
        assert_eq!(parse(keepalive.into()).expect("whole"), WalsenderMessage::Keepalive { reply_requested: true });
        for bad in [&b""[..], b"x", b"k", &wal[..24]] {
            assert!(parse(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }
}
