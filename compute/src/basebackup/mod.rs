//! The data directory as the pageserver has it at the start of our term.

mod manifest;
mod unpack;

pub use manifest::Manifest;
pub use unpack::UnpackError;

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use ogel_ids::{Lsn, TenantId, Term, TimelineId};
use ogel_pgwire::{Client, ConnectOptions, Endpoint};
use tokio::sync::mpsc;

use crate::postgres::run_user::RunUser;

/// What to ask the pageserver for.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct BasebackupRequest {
    pub pageserver: Endpoint,
    pub tenant: TenantId,
    pub timeline: TimelineId,
    /// Start of our term: everything committed lies before it.
    pub lsn: Lsn,
    pub term: Term,
}

/// Fetches the directory into `pgdata`, which exists and is empty. A failure leaves it unusable: empty it before another try.
pub async fn fetch(request: &BasebackupRequest, pgdata: &Path, owner: RunUser) -> anyhow::Result<Manifest> {
    let BasebackupRequest { pageserver, tenant, timeline, lsn, term } = request;
    let client = Client::connect(&ConnectOptions::new(pageserver.clone())).await?;
    let mut copy = client.copy_out(&format!("basebackup 1 {tenant} {timeline} {lsn} {term}")).await?;
    let (pieces, received) = mpsc::channel(16);
    let folder = pgdata.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || unpack::unpack(PieceReader::new(received), &folder, owner));
    // The unpacker's own error says more than the closed channel.
    let mut failure = None;
    loop {
        match copy.receive().await {
            Ok(Some(piece)) => {
                if pieces.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                let _already_stopped = pieces.send(Err(std::io::Error::other("the stream was cut"))).await;
                failure = Some(error);
                break;
            }
        }
    }
    drop(pieces);
    let unpacked = unpacking.await.context("unpacking")?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let manifest = unpacked?;
    manifest.check(request)?;
    Ok(manifest)
}

/// Pieces from the network as a file to read.
struct PieceReader {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

impl PieceReader {
    fn new(pieces: mpsc::Receiver<std::io::Result<Bytes>>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl std::io::Read for PieceReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.current.len());
        out[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
