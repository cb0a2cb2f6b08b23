//! Messages between a walsender and a walreceiver, and our additions for pageservers and peers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ogel_ids::Lsn;
use ogel_pgwire::WireError;
use quorum::{HistoryEntry, PageserverFeedback};

/// Bytes of XLogData before the WAL.
pub const XLOG_DATA_HEAD_BYTES: usize = 25;

/// What a reader sends.
#[derive(Debug, PartialEq, Eq)]
pub enum FromReader {
    /// `r`: standby status.
    Status {
        /// An answer is wanted at once.
        reply_requested: bool,
    },
    /// `p`: how far a pageserver is.
    Progress(PageserverFeedback),
    /// `n`: somebody waits for WAL up to here.
    Needed(Lsn),
    /// `h` and other messages that say nothing to us.
    Other,
}

impl FromReader {
    /// Reads a CopyData of a reader.
    pub fn parse(mut data: Bytes) -> Result<Self, WireError> {
        let short = |_| WireError::Malformed("a reader's message is too short");
        match data.try_get_u8().map_err(short)? {
            b'r' if data.remaining() >= 33 => Ok(Self::Status { reply_requested: data[32] != 0 }),
            b'p' if data.remaining() == 24 => {
                let (last_record_lsn, disk_consistent_lsn) = (Lsn(data.get_u64()), Lsn(data.get_u64()));
                let remote_consistent_lsn = Lsn(data.get_u64());
                if remote_consistent_lsn > disk_consistent_lsn || disk_consistent_lsn > last_record_lsn {
                    return Err(WireError::Malformed("a pageserver's positions contradict each other"));
                }
                Ok(Self::Progress(PageserverFeedback { last_record_lsn, disk_consistent_lsn, remote_consistent_lsn }))
            }
            b'n' if data.remaining() == 8 => Ok(Self::Needed(Lsn(data.get_u64()))),
            b'r' | b'p' | b'n' => Err(WireError::Malformed("a reader's message has a wrong length")),
            _ => Ok(Self::Other),
        }
    }
}

/// `w`: begin of the WAL, end of what the sender has, time.
pub fn xlog_data_head(begin: Lsn, available: Lsn) -> [u8; XLOG_DATA_HEAD_BYTES] {
    let mut head = [b'w'; XLOG_DATA_HEAD_BYTES];
    head[1..9].copy_from_slice(&begin.0.to_be_bytes());
    head[9..17].copy_from_slice(&available.0.to_be_bytes());
    head[17..].copy_from_slice(&postgres_time().to_be_bytes());
    head
}

/// `k`: end of what the sender has, time, whether an answer is wanted.
pub fn put_keepalive(body: &mut BytesMut, available: Lsn, reply_requested: bool) {
    body.put_u8(b'k');
    body.put_u64(available.0);
    body.put_i64(postgres_time());
    body.put_u8(reply_requested.into());
}

/// `T`: the term history.
pub fn put_history(body: &mut BytesMut, entries: &[HistoryEntry]) {
    body.put_u8(b'T');
    body.put_u32(entries.len() as u32);
    for entry in entries {
        body.put_u64(entry.term.0);
        body.put_u64(entry.start.0);
    }
}

/// Microseconds since 2000-01-01.
fn postgres_time() -> i64 {
    const SECONDS_1970_TO_2000: i64 = 946_684_800;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX) - SECONDS_1970_TO_2000 * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readers_send() {
        let parse = |bytes: &[u8]| FromReader::parse(Bytes::copy_from_slice(bytes));
        let mut status = [0; 34];
        (status[0], status[33]) = (b'r', 1);
        assert_eq!(parse(&status).unwrap(), FromReader::Status { reply_requested: true });
        let progress = |lsns: [u64; 3]| [&b"p"[..], &lsns.map(u64::to_be_bytes).concat()].concat();
        let feedback =
            PageserverFeedback { last_record_lsn: Lsn(3), disk_consistent_lsn: Lsn(2), remote_consistent_lsn: Lsn(1) };
        assert_eq!(parse(&progress([3, 2, 1])).unwrap(), FromReader::Progress(feedback));
        assert_eq!(parse(&[&b"n"[..], &7_u64.to_be_bytes()].concat()).unwrap(), FromReader::Needed(Lsn(7)));
        for wrong in [&b""[..], b"r", b"p123", b"n1", &progress([1, 2, 3]), &status[..33]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
