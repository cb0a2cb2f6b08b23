//! A proposer's connection to one safekeeper, driven message by message.

use bytes::{BufMut, Bytes};
use ogel_ids::{CandidateId, Generation, Lsn, Term, TimelineId};
use ogel_pgwire::{Client, CopyBothReader, CopyBothWriter};
use quorum::{
    AcceptorMessage, Append, AppendAnswer, Elected, ProposerGreeting, ProposerMessage, RefusalCode, Refused,
    TermHistory, Vote, VoteRequest,
};
use tokio::time::timeout;

use super::{LIMIT, Node, tenant};

pub struct TestProposer {
    reader: CopyBothReader,
    writer: CopyBothWriter,
    timeline: TimelineId,
    pub term: Term,
    /// As the node told it.
    pub generation: Generation,
}

impl TestProposer {
    pub async fn connect(node: &Node, timeline: TimelineId) -> Self {
        let client = Client::connect(&node.options(timeline)).await.unwrap();
        let (reader, writer) = client.copy_both("START_WAL_PUSH").await.unwrap();
        Self { reader, writer, timeline, term: Term(0), generation: Generation(1) }
    }

    /// Greets, wins the node's vote, cuts its log at `truncate_at` (its flush_lsn when not given), starts the term there.
    pub async fn elect(node: &Node, timeline: TimelineId, term: u64) -> Self {
        let mut proposer = Self::connect(node, timeline).await;
        proposer.greet().await;
        let vote = proposer.vote(term).await;
        assert!(vote.granted, "{vote:?}");
        let history = vote.history.continued(Term(term), vote.flush_lsn).unwrap();
        proposer.install(history, vote.flush_lsn).await;
        proposer
    }

    pub async fn send(&mut self, message: ProposerMessage) {
        self.send_raw(&message.encode()).await;
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.write(|body| body.put_slice(bytes));
        self.writer.flush().await.unwrap();
    }

    /// The next message, `None` when the node has closed the connection.
    pub async fn receive(&mut self) -> Option<AcceptorMessage> {
        let frame: Option<Bytes> =
            timeout(LIMIT, self.reader.receive()).await.expect("an answer in time").unwrap_or(None);
        frame.map(|frame| AcceptorMessage::decode(frame).unwrap())
    }

    /// The next message that does not merely speak of lacking space.
    async fn next_answer(&mut self) -> Option<AcceptorMessage> {
        loop {
            match self.receive().await {
                Some(AcceptorMessage::Refused(Refused { code: RefusalCode::OutOfSpace, .. })) => {}
                other => return other,
            }
        }
    }

    pub async fn greet(&mut self) -> AcceptorMessage {
        self.send(ProposerMessage::Greeting(ProposerGreeting {
            tenant: tenant(),
            timeline: self.timeline,
            system_identifier: 0,
            pg_major_version: 17,
            wal_segment_size_bytes: 0,
        }))
        .await;
        let answer = self.next_answer().await.expect("an answer to the greeting");
        if let AcceptorMessage::Greeting(greeting) = &answer {
            self.generation = greeting.membership.generation();
        }
        answer
    }

    pub async fn vote(&mut self, term: u64) -> Vote {
        self.term = Term(term);
        let candidate = CandidateId::from_bytes([term as u8; 16]);
        self.send(ProposerMessage::VoteRequest(VoteRequest {
            generation: self.generation,
            term: self.term,
            candidate,
        }))
        .await;
        loop {
            match self.next_answer().await {
                Some(AcceptorMessage::Vote(vote)) => return vote,
                Some(AcceptorMessage::AppendAnswer(_)) => {}
                other => panic!("a vote was expected, not {other:?}"),
            }
        }
    }

    pub async fn install(&mut self, history: TermHistory, truncate_at: Lsn) -> AppendAnswer {
        let candidate = CandidateId::from_bytes([self.term.0 as u8; 16]);
        let elected = Elected { generation: self.generation, term: self.term, candidate, truncate_at, history };
        self.send(ProposerMessage::Elected(elected)).await;
        let term = self.term;
        self.answer(|answer| answer.term == term).await
    }

    pub async fn append(&mut self, begin: Lsn, wal: &[u8], commit_lsn: Lsn) {
        self.send(ProposerMessage::Append(Append {
            generation: self.generation,
            term: self.term,
            begin,
            commit_lsn,
            truncate_lsn: Lsn(0),
            wal: Bytes::copy_from_slice(wal),
        }))
        .await;
    }

    /// Waits for progress as wanted.
    pub async fn answer(&mut self, wanted: impl Fn(&AppendAnswer) -> bool) -> AppendAnswer {
        loop {
            match self.next_answer().await {
                Some(AcceptorMessage::AppendAnswer(answer)) if wanted(&answer) => return answer,
                Some(AcceptorMessage::AppendAnswer(_)) => {}
                other => panic!("progress was expected, not {other:?}"),
            }
        }
    }

    pub async fn flushed(&mut self, lsn: Lsn) -> AppendAnswer {
        self.answer(|answer| answer.flush_lsn >= lsn).await
    }

    /// The code with which the node refuses, whatever it says before.
    pub async fn refusal(&mut self) -> (RefusalCode, String) {
        loop {
            match self.receive().await {
                Some(AcceptorMessage::Refused(refused)) => return (refused.code, refused.text),
                Some(_) => {}
                None => panic!("a refusal was expected"),
            }
        }
    }
}
