//! Writes messages; everything is buffered until it is flushed.

use std::io::IoSlice;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncWriteExt;

use crate::{ServerMessage, WireError, halves::WriteHalf};

/// The buffer is given back after a flush when it has grown beyond this.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// A column of a result; values travel as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Shown name.
    pub name: &'static str,
    /// OID of the type in `pg_type`: 25 text, 20 int8, 23 int4.
    pub type_oid: u32,
}

impl Column {
    /// A column of type `text`.
    pub const fn text(name: &'static str) -> Self {
        Self { name, type_oid: 25 }
    }

    /// A column of type `int8`.
    pub const fn int8(name: &'static str) -> Self {
        Self { name, type_oid: 20 }
    }

    /// A column of type `int4`.
    pub const fn int4(name: &'static str) -> Self {
        Self { name, type_oid: 23 }
    }
}

/// Puts messages on a byte stream.
///
/// A cancelled `flush` or `send_copy_data` may have sent part of a message: the connection must then be dropped.
pub struct MessageWriter {
    pub(crate) stream: WriteHalf,
    buffer: BytesMut,
}

impl MessageWriter {
    pub(crate) fn new(stream: WriteHalf) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(8 << 10) }
    }

    /// Appends a message whose body `fill` writes.
    pub fn message(&mut self, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
        self.buffer.put_u8(tag);
        self.untagged(fill);
    }

    pub(crate) fn untagged(&mut self, fill: impl FnOnce(&mut BytesMut)) {
        let start = self.buffer.len();
        self.buffer.put_u32(0);
        fill(&mut self.buffer);
        let length = u32::try_from(self.buffer.len() - start).expect("our own messages are far below 4 GiB");
        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub(crate) fn raw_byte(&mut self, byte: u8) {
        self.buffer.put_u8(byte);
    }

    /// Bytes waiting for [`MessageWriter::flush`].
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Makes room for a batch of known size, so that the buffer grows once.
    pub fn reserve(&mut self, bytes: usize) {
        self.buffer.reserve(bytes);
    }

    /// Sends everything that is buffered.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.stream.write_all_buf(&mut self.buffer).await?;
        self.stream.flush().await?;
        if self.buffer.try_reclaim(KEPT_BUFFER_BYTES + 1) {
            self.buffer = BytesMut::with_capacity(8 << 10);
        }
        Ok(())
    }

    /// Appends a CopyData whose content `fill` writes.
    pub fn copy_data(&mut self, fill: impl FnOnce(&mut BytesMut)) {
        self.message(b'd', fill);
    }

    /// Sends everything that is buffered, then a CopyData of `head` and `payload`, without copying the payload.
    pub async fn send_copy_data(&mut self, head: &[u8], mut payload: &[u8]) -> Result<(), WireError> {
        let length =
            u32::try_from(4 + head.len() + payload.len()).map_err(|_| WireError::Malformed("copy piece over 4 GiB"))?;
        self.buffer.put_u8(b'd');
        self.buffer.put_u32(length);
        self.buffer.put_slice(head);
        while !self.buffer.is_empty() && !payload.is_empty() {
            let sent = self.stream.write_vectored(&[IoSlice::new(&self.buffer), IoSlice::new(payload)]).await?;
            if sent == 0 {
                return Err(WireError::Closed);
            }
            let from_buffer = sent.min(self.buffer.len());
            self.buffer.advance(from_buffer);
            payload = &payload[sent - from_buffer..];
        }
        self.stream.write_all(payload).await?;
        self.flush().await
    }

    /// This side has no more data for the copy.
    pub fn copy_done(&mut self) {
        self.message(b'c', |_| {});
    }

    /// The client gives the copy up.
    pub fn copy_fail(&mut self, reason: &str) {
        self.message(b'f', |body| put_text(body, reason));
    }

    /// Server: an error. After `FATAL` the caller closes the connection.
    pub fn error(&mut self, error: &ServerMessage) {
        self.message(b'E', |body| put_server_message(body, error));
    }

    /// Server: a notice.
    pub fn notice(&mut self, notice: &ServerMessage) {
        self.message(b'N', |body| put_server_message(body, notice));
    }

    /// Server: the authentication is done.
    pub fn authentication_ok(&mut self) {
        self.message(b'R', |body| body.put_u32(0));
    }

    /// Server: reports a setting.
    pub fn parameter_status(&mut self, name: &str, value: &str) {
        self.message(b'S', |body| {
            put_text(body, name);
            put_text(body, value);
        });
    }

    /// Server: the next query may come.
    pub fn ready_for_query(&mut self) {
        self.message(b'Z', |body| body.put_u8(b'I'));
    }

    /// Server: the columns of the rows that follow.
    pub fn row_description(&mut self, columns: &[Column]) {
        self.message(b'T', |body| {
            body.put_u16(u16::try_from(columns.len()).expect("our results have few columns"));
            for column in columns {
                put_text(body, column.name);
                body.put_u32(0); // table
                body.put_u16(0); // attribute
                body.put_u32(column.type_oid);
                body.put_i16(match column.type_oid {
                    20 => 8,
                    23 => 4,
                    _ => -1,
                });
                body.put_i32(-1); // type modifier
                body.put_u16(0); // text format
            }
        });
    }

    /// Server: one row, values as text.
    pub fn data_row(&mut self, values: &[Option<&[u8]>]) {
        self.message(b'D', |body| {
            body.put_u16(u16::try_from(values.len()).expect("our results have few columns"));
            for value in values {
                match value {
                    Some(bytes) => {
                        body.put_u32(u32::try_from(bytes.len()).expect("our values are far below 4 GiB"));
                        body.put_slice(bytes);
                    }
                    None => body.put_i32(-1),
                }
            }
        });
    }

    /// Server: a query is done.
    pub fn command_complete(&mut self, tag: &str) {
        self.message(b'C', |body| put_text(body, tag));
    }

    /// Server: the query text was empty.
    pub fn empty_query(&mut self) {
        self.message(b'I', |_| {});
    }

    /// Server: data goes out, in binary, as one column.
    pub fn copy_out_response(&mut self) {
        self.message(b'H', |body| body.put_slice(&[0, 0, 0]));
    }

    /// Server: data goes both ways.
    pub fn copy_both_response(&mut self) {
        self.message(b'W', |body| body.put_slice(&[0, 0, 0]));
    }

    /// Client: a simple query.
    pub fn query(&mut self, sql: &str) {
        self.message(b'Q', |body| put_text(body, sql));
    }

    /// Client: good-bye.
    pub fn terminate(&mut self) {
        self.message(b'X', |_| {});
    }
}

/// Zero bytes would end the text early: they are left out.
pub(crate) fn put_text(body: &mut BytesMut, text: &str) {
    text.split('\0').for_each(|part| body.put_slice(part.as_bytes()));
    body.put_u8(0);
}

fn put_server_message(body: &mut BytesMut, message: &ServerMessage) {
    let fields = [
        (b'S', Some(&message.severity)),
        (b'V', Some(&message.severity)),
        (b'C', Some(&message.sqlstate)),
        (b'M', Some(&message.message)),
        (b'D', message.detail.as_ref()),
        (b'H', message.hint.as_ref()),
    ];
    for (kind, text) in fields {
        if let Some(text) = text {
            body.put_u8(kind);
            put_text(body, text);
        }
    }
    body.put_u8(0);
}
