//! Answers that wait for one proposer's connection.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use quorum::AcceptorMessage;
use tokio::sync::Notify;

/// Answers in order. Two progress answers in a row become the later one: every field of them only grows, or is replaced.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<AcceptorMessage>,
    closed: Option<String>,
}

/// What [`Outbox::take`] found.
#[derive(Debug)]
pub struct Outgoing {
    /// To be sent.
    pub messages: Vec<AcceptorMessage>,
    /// The connection shall be closed behind them, and why.
    pub closed: Option<String>,
}

impl Outbox {
    /// Adds an answer.
    pub fn push(&self, message: AcceptorMessage) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed.is_some() {
            return;
        }
        match (state.messages.back_mut(), &message) {
            (Some(last @ AcceptorMessage::AppendAnswer(_)), AcceptorMessage::AppendAnswer(_)) => *last = message,
            _ => state.messages.push_back(message),
        }
        self.wake.notify_one();
    }

    /// Nothing may be added any more.
    pub fn close(&self, reason: String) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed.get_or_insert(reason);
        self.wake.notify_one();
    }

    /// How many answers wait.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).messages.len()
    }

    /// Waits until there is something to do.
    pub async fn take(&self) -> Outgoing {
        loop {
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if !state.messages.is_empty() || state.closed.is_some() {
                    return Outgoing { messages: state.messages.drain(..).collect(), closed: state.closed.clone() };
                }
            }
            self.wake.notified().await;
        }
    }
}
