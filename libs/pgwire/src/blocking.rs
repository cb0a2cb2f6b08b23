//! A session that has left the runtime: a thread of its own reads it and sleeps in the kernel, where one wake-up leads from the
//! peer's bytes to the work on them.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};

use crate::{Frame, WireError, frame::take_frame};

/// Bytes received at once.
const RECEIVE_BYTES: usize = 128 << 10;

/// What [`BlockingReader::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes; with `more` there are probably more without waiting.
    Bytes {
        /// The buffer was filled.
        more: bool,
    },
    /// None in time.
    Nothing,
    /// The peer sends no more.
    End,
}

/// The reading end.
pub struct BlockingReader {
    socket: Arc<TcpStream>,
    buffer: BytesMut,
    room: Box<[u8]>,
    max_frame_bytes: usize,
}

impl BlockingReader {
    pub(crate) fn new(socket: Arc<TcpStream>, buffer: BytesMut, max_frame_bytes: usize) -> Self {
        Self { socket, buffer, room: vec![0; RECEIVE_BYTES].into(), max_frame_bytes }
    }

    /// The socket, for answering: see [`send_now`].
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// A message that has been received whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        take_frame(&mut self.buffer, self.max_frame_bytes)
    }

    /// Receives what has come; with `wait` sleeps until something has, for as long as [`TcpStream::set_read_timeout`] says.
    pub fn receive(&mut self, wait: bool) -> Result<Received, WireError> {
        let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        match recv(self.socket.as_raw_fd(), &mut self.room, flags) {
            Ok(0) if self.buffer.is_empty() => Ok(Received::End),
            Ok(0) => Err(WireError::Closed),
            Ok(count) => {
                self.buffer.extend_from_slice(&self.room[..count]);
                Ok(Received::Bytes { more: count == self.room.len() })
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

/// Sends as much of `bytes` as the socket takes without waiting, and removes it.
pub fn send_now(socket: &TcpStream, bytes: &mut BytesMut) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => bytes.advance(count),
            Err(Errno::EAGAIN) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until the socket takes bytes again; `false` when it did not in time.
pub fn wait_to_send(socket: &TcpStream, limit: Duration) -> io::Result<bool> {
    let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut waited, limit) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(true), // asking once too often does no harm
        Err(error) => Err(error.into()),
    }
}
