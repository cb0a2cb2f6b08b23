//! A reader of WAL.

use bytes::{Buf, BufMut};
use ogel_ids::{Lsn, Term};
use ogel_pgwire::{Client, ConnectOptions, CopyBothReader, CopyBothWriter, WireError};
use tokio::time::timeout;

use super::LIMIT;

pub struct TestReader {
    reader: CopyBothReader,
    pub writer: CopyBothWriter,
    pub start: Lsn,
    pub wal: Vec<u8>,
    /// As last announced.
    pub history: Vec<(Term, Lsn)>,
    /// How long the WAL was when each history was announced.
    pub announced_at: Vec<Lsn>,
}

impl TestReader {
    pub async fn start(options: &ConnectOptions, start: Lsn) -> Result<Self, WireError> {
        let client = Client::connect(options).await?;
        let (reader, writer) = client.copy_both(&format!("START_REPLICATION PHYSICAL {start} TIMELINE 1")).await?;
        Ok(Self { reader, writer, start, wal: Vec::new(), history: Vec::new(), announced_at: Vec::new() })
    }

    pub fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.wal.len() as u64)
    }

    /// Takes one message; returns its tag and the end of what the sender has.
    pub async fn receive(&mut self) -> Result<(u8, Lsn), WireError> {
        let mut frame =
            timeout(LIMIT, self.reader.receive()).await.expect("a message in time")?.ok_or(WireError::Closed)?;
        match frame.get_u8() {
            b'w' => {
                assert_eq!(Lsn(frame.get_u64()), self.end(), "WAL comes without gaps");
                let available = Lsn(frame.get_u64());
                frame.advance(8);
                self.wal.extend_from_slice(&frame);
                Ok((b'w', available))
            }
            b'k' => Ok((b'k', Lsn(frame.get_u64()))),
            b'T' => {
                let count = frame.get_u32();
                self.history = (0..count).map(|_| (Term(frame.get_u64()), Lsn(frame.get_u64()))).collect();
                self.announced_at.push(self.end());
                assert!(!frame.has_remaining());
                Ok((b'T', Lsn(0)))
            }
            tag => panic!("message {:?}", char::from(tag)),
        }
    }

    pub async fn read_to(&mut self, end: Lsn) {
        while self.end() < end {
            self.receive().await.unwrap();
        }
    }

    /// Asks how far the sender is.
    pub async fn ask(&mut self) -> Lsn {
        self.writer.write(|body| {
            body.put_u8(b'r');
            body.put_slice(&[0; 32]);
            body.put_u8(1);
        });
        self.writer.flush().await.unwrap();
        loop {
            if let (b'k', available) = self.receive().await.unwrap() {
                return available;
            }
        }
    }
}
