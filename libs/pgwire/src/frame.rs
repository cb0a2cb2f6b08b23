//! Framing: a tag byte, a length, a body.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::{WireError, halves::ReadHalf};

/// Bytes by which the buffer grows at most ahead of what has arrived.
pub(crate) const GROWTH_STEP_BYTES: usize = 256 << 10;

/// One message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Kind of message.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

/// Takes messages off a byte stream.
///
/// Invariant: `buffer` holds exactly the bytes received and not yet handed out, so that a cancelled read loses nothing.
pub struct MessageReader {
    pub(crate) stream: ReadHalf,
    pub(crate) buffer: BytesMut,
    pub(crate) max_frame_bytes: usize,
}

impl MessageReader {
    pub(crate) fn new(stream: ReadHalf, max_frame_bytes: usize) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(8 << 10), max_frame_bytes }
    }

    /// The next message; `None` when the peer closed the connection between two messages.
    pub async fn read_frame(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::Closed) };
            }
        }
    }

    /// A message that has arrived whole already, without waiting: lets a server drain its input before it answers.
    pub fn buffered_frame(&mut self) -> Result<Option<Frame>, WireError> {
        take_frame(&mut self.buffer, self.max_frame_bytes)
    }

    /// The body of a start-up packet: a length without a tag.
    pub(crate) async fn read_startup_packet(&mut self, max_bytes: usize) -> Result<Option<Bytes>, WireError> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if length < 8 {
                    return Err(WireError::Malformed("start-up packet below 8 bytes"));
                }
                if length > max_bytes {
                    let (length, limit) = (length as u64, max_bytes as u64);
                    return Err(WireError::TooLong { tag: ' ', length, limit });
                }
                if self.buffer.len() >= length {
                    let mut body = self.buffer.split_to(length);
                    body.advance(4);
                    return Ok(Some(body.freeze()));
                }
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::Closed) };
            }
        }
    }

    async fn fill(&mut self) -> Result<bool, WireError> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(8 << 10);
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

/// Takes a whole message off the front; refuses a length above the limit before anything is stored for it.
pub(crate) fn take_frame(buffer: &mut BytesMut, max_frame_bytes: usize) -> Result<Option<Frame>, WireError> {
    if buffer.len() < 5 {
        return Ok(None);
    }
    let tag = buffer[0];
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if length < 4 {
        return Err(WireError::Malformed("message length below 4"));
    }
    if length > max_frame_bytes {
        let (length, limit) = (length as u64, max_frame_bytes as u64);
        return Err(WireError::TooLong { tag: tag as char, length, limit });
    }
    let missing = (1 + length).saturating_sub(buffer.len());
    if missing > 0 {
        buffer.reserve(missing.min(GROWTH_STEP_BYTES));
        return Ok(None);
    }
    let mut body = buffer.split_to(1 + length);
    body.advance(5);
    Ok(Some(Frame { tag, body: body.freeze() }))
}

/// Reads fields off a message's body; every read is checked.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(WireError::Malformed("message is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes were taken")))
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    pub fn text(&mut self) -> Result<&'a str, WireError> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(WireError::Malformed("text without an end"))?;
        let text = std::str::from_utf8(&self.0[..end]).map_err(|_| WireError::Malformed("text is not UTF-8"))?;
        self.0 = &self.0[end + 1..];
        Ok(text)
    }
}
