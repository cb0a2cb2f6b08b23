//! Answers that wait for one proposer's connection.

use std::{
    collections::VecDeque,
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{BufMut, BytesMut};
use ogel_pgwire::send_now;
use quorum::AcceptorMessage;

/// Answers in order. Two progress answers in a row become the later one: every field of them only grows, or is replaced.
///
/// Whoever has brought an answer about sends it, without waiting; what the socket does not take stays for the connection's thread.
#[derive(Debug)]
pub struct Outbox {
    socket: Arc<TcpStream>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<AcceptorMessage>,
    /// Encoded, and not taken by the socket yet.
    unsent: BytesMut,
    closed: Option<String>,
    /// The end of the copy was put behind the last message.
    ended: bool,
}

impl Outbox {
    /// Answers on this socket.
    pub fn new(socket: Arc<TcpStream>) -> Self {
        Self { socket, state: Mutex::default() }
    }

    /// Adds an answer; it leaves with the next [`Outbox::send`].
    pub fn push(&self, message: AcceptorMessage) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        match (state.messages.back_mut(), &message) {
            (Some(last @ AcceptorMessage::AppendAnswer(_)), AcceptorMessage::AppendAnswer(_)) => *last = message,
            _ => state.messages.push_back(message),
        }
    }

    /// Nothing may be added any more; the connection ends behind what was.
    pub fn close(&self, reason: String) {
        self.lock().closed.get_or_insert(reason);
    }

    /// Why nothing may be added any more.
    pub fn closed(&self) -> Option<String> {
        self.lock().closed.clone()
    }

    /// Sends what the socket takes without waiting; `true` when that was all. A broken connection shows to its reader.
    pub fn send(&self) -> bool {
        let mut state = self.lock();
        let State { messages, unsent, closed, ended } = &mut *state;
        if unsent.is_empty() {
            for message in messages.drain(..) {
                put_copy_data(unsent, &message.encode());
            }
            if closed.is_some() && !std::mem::replace(ended, true) {
                unsent.put_slice(b"c\0\0\0\x04");
            }
        }
        if send_now(&self.socket, unsent).is_err() {
            unsent.clear();
            let _gone_already = self.socket.shutdown(Shutdown::Both);
        }
        let all = unsent.is_empty() && messages.is_empty();
        if all && closed.is_some() {
            let _gone_already = self.socket.shutdown(Shutdown::Read); // wakes the connection's thread
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put_copy_data(out: &mut BytesMut, payload: &[u8]) {
    out.put_u8(b'd');
    out.put_u32(4 + u32::try_from(payload.len()).expect("our own messages are far below 4 GiB"));
    out.put_slice(payload);
}
