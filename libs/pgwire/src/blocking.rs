//! A session that has left the runtime: a thread of its own reads it and sleeps in the kernel, where one wake-up leads from the
//! peer's bytes to the work on them.

use std::{
    collections::VecDeque,
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use rustix::{
    buffer::{Buffer, spare_capacity},
    net::{RecvFlags, recv},
};

use crate::{
    Frame, WireError,
    frame::{GROWTH_STEP_BYTES, take_frame},
};

/// Bytes received at once, but for the rest of a long message.
const RECEIVE_BYTES: usize = 32 << 10;
/// The rest of a message of this length is received where it stays: WAL in bulk is copied once less.
const LONG_BYTES: usize = 64 << 10;

/// What [`BlockingReader::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes; with `more` there are probably more without waiting.
    Bytes {
        /// How many.
        count: usize,
        /// There was no room for more.
        more: bool,
    },
    /// None in time.
    Nothing,
    /// The peer sends no more.
    End,
}

/// The reading end.
///
/// Invariant: what was received and not handed out is `ready`, then `long`, then `buffer`; while there is a `long`, `buffer` is empty.
pub struct BlockingReader {
    socket: Arc<TcpStream>,
    ready: VecDeque<Frame>,
    long: Option<LongMessage>,
    buffer: BytesMut,
    room: Box<[u8]>,
    max_frame_bytes: usize,
}

/// A long message of which the end has not come yet.
struct LongMessage {
    tag: u8,
    body: Vec<u8>,
    length: usize,
}

impl BlockingReader {
    pub(crate) fn new(socket: Arc<TcpStream>, buffer: BytesMut, max_frame_bytes: usize) -> Self {
        let (ready, room) = (VecDeque::new(), vec![0; RECEIVE_BYTES].into());
        let mut reader = Self { socket, ready, long: None, buffer, room, max_frame_bytes };
        reader.sort();
        reader
    }

    /// The socket, for answering: see [`send_now`].
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// A message that has been received whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        match self.ready.pop_front() {
            Some(frame) => Ok(Some(frame)),
            None if self.long.is_some() => Ok(None),
            None => take_frame(&mut self.buffer, self.max_frame_bytes),
        }
    }

    /// Receives what has come; with `wait` sleeps until something has, for as long as [`TcpStream::set_read_timeout`] says.
    pub fn receive(&mut self, wait: bool) -> Result<Received, WireError> {
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let (count, room) = match &mut self.long {
            Some(LongMessage { body, length, .. }) => {
                if body.len() == body.capacity() {
                    body.reserve_exact((*length - body.len()).min(GROWTH_STEP_BYTES));
                }
                let room = body.capacity() - body.len();
                (receive_into(&self.socket, spare_capacity(body), flags)?, room)
            }
            None => {
                let count = receive_into(&self.socket, &mut *self.room, flags)?;
                self.buffer.extend_from_slice(&self.room[..count.unwrap_or(0)]);
                (count, self.room.len())
            }
        };
        match count {
            None => Ok(Received::Nothing),
            Some(0) if self.buffer.is_empty() && self.long.is_none() => Ok(Received::End),
            Some(0) => Err(WireError::Closed),
            Some(count) => {
                self.sort();
                Ok(Received::Bytes { count, more: count == room })
            }
        }
    }

    /// Makes messages of the bytes that have come. A length that is wrong stays where it is, for [`BlockingReader::next_frame`] to refuse.
    fn sort(&mut self) {
        if let Some(LongMessage { tag, mut body, length }) = self.long.take_if(|long| long.body.len() >= long.length) {
            self.buffer.extend_from_slice(&body[length..]); // an allocator may give more than was asked for
            body.truncate(length);
            self.ready.push_back(Frame { tag, body: Bytes::from(body) });
        }
        while self.long.is_none() {
            self.long = self.begin_long();
            if self.long.is_none() {
                let Ok(Some(frame)) = take_frame(&mut self.buffer, self.max_frame_bytes) else { return };
                self.ready.push_back(frame);
            }
        }
    }

    /// Takes the beginning of a long message off the buffer, if that is what it holds. Memory is taken for what has come and
    /// [`GROWTH_STEP_BYTES`] more, whatever the length says.
    fn begin_long(&mut self) -> Option<LongMessage> {
        let (head, begun) = self.buffer.split_first_chunk::<5>()?;
        let length = (u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize).checked_sub(4)?;
        if length < LONG_BYTES || length + 4 > self.max_frame_bytes || begun.len() >= length {
            return None;
        }
        let mut body = Vec::with_capacity(length.min(begun.len() + GROWTH_STEP_BYTES));
        body.extend_from_slice(begun);
        let tag = head[0];
        self.buffer.clear();
        Some(LongMessage { tag, body, length })
    }
}

/// How many bytes came; `None` when there are none now.
fn receive_into(socket: &TcpStream, room: impl Buffer<u8>, flags: RecvFlags) -> io::Result<Option<usize>> {
    match recv(socket, room, flags) {
        Ok((_, count)) => Ok(Some(count)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Ipv4Addr, TcpListener},
    };

    use super::*;

    const MAX_FRAME_BYTES: usize = 4 << 20;

    fn pair() -> (TcpStream, BlockingReader) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        (writer, BlockingReader::new(Arc::new(socket), BytesMut::new(), MAX_FRAME_BYTES))
    }

    fn message(tag: u8, length: usize) -> Vec<u8> {
        let mut message = vec![tag];
        message.extend_from_slice(&u32::try_from(length + 4).unwrap().to_be_bytes());
        message.extend((0..length).map(|at| (at * 31 + usize::from(tag)) as u8));
        message
    }

    #[test]
    fn short_and_long_messages_come_whole_and_in_order() {
        let lengths =
            [0, 7, LONG_BYTES, 1, 9, 3 * GROWTH_STEP_BYTES + 5, LONG_BYTES - 1, RECEIVE_BYTES, 2, 130_000, 130_000];
        for piece in [1_000, RECEIVE_BYTES - 3, 65_536, usize::MAX] {
            let (mut writer, mut reader) = pair();
            let sent: Vec<Vec<u8>> = lengths.iter().zip(1..).map(|(length, tag)| message(tag, *length)).collect();
            let all = sent.concat();
            let sender = std::thread::spawn(move || {
                all.chunks(piece.min(all.len())).for_each(|bytes| writer.write_all(bytes).unwrap());
            });
            let mut frames = Vec::new();
            while reader.receive(true).unwrap() != Received::End {
                while let Some(frame) = reader.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            sender.join().unwrap();
            assert_eq!(frames.len(), sent.len());
            for (frame, sent) in frames.iter().zip(&sent) {
                assert_eq!(
                    (frame.tag, &frame.body[..]),
                    (sent[0], &sent[5..]),
                    "{} bytes in pieces of {piece}",
                    sent.len()
                );
            }
        }
    }

    #[test]
    fn a_length_is_not_believed() {
        let (mut writer, mut reader) = pair();
        writer.write_all(&message(b'a', 3)).unwrap();
        writer.write_all(&[b'b', 0, 0x3f, 0xff, 0xff, 1]).unwrap(); // just below 4 MiB
        while reader.long.is_none() {
            reader.receive(true).unwrap();
        }
        assert!(
            reader.long.as_ref().unwrap().body.capacity() <= 2 * GROWTH_STEP_BYTES,
            "memory for what may never come"
        );
        assert_eq!(reader.next_frame().unwrap().map(|frame| frame.tag), Some(b'a'));
        assert_eq!(reader.next_frame().unwrap(), None);
        drop(writer);
        assert!(matches!(reader.receive(true), Err(WireError::Closed)), "cut in the middle of a message");

        let (mut writer, mut reader) = pair();
        writer.write_all(&message(b'a', 3)).unwrap();
        writer.write_all(&[b'b', 0xff, 0, 0, 0]).unwrap();
        while reader.buffer.len() < 5 {
            reader.receive(true).unwrap();
        }
        assert_eq!(reader.next_frame().unwrap().map(|frame| frame.tag), Some(b'a'));
        assert!(matches!(reader.next_frame(), Err(WireError::TooLong { .. })));
    }
}
