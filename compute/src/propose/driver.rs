//! Feeds the proposer with what happens and carries out what it decides.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ogel_ids::{CandidateId, Lsn, NodeId, Term};
use ogel_pgwire::WireError;
use quorum::{
    AcceptorMessage, Proposer, ProposerAction, ProposerConfig, ProposerEvent, RefusalCode,
    proposer::{NodeState, NodeStatus},
};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use crate::config::endpoint;

use super::{
    Command, Progress, ReignEnd, ReignSpec, ReignState,
    link::{FromLink, Link, LinkEvent, pause},
    walsender::{Walsender, WalsenderMessage},
};

const TICK: Duration = Duration::from_millis(100);
/// Between two tries to attach to the walsender.
const ATTACH_RETRY: Duration = Duration::from_millis(20);
/// The pageserver's progress alone wakes the walsender only when it has grown by this, or with the next tick.
const APPLY_REPORT_BYTES: u64 = 4 << 20;
/// While WAL keeps coming, a commit advance waits so long for an append that carries it along: three messages and as many
/// wake-ups of safekeepers less per commit.
const HOLD: Duration = Duration::from_millis(1);
/// WAL keeps coming when the last but one piece is no older than this.
const BUSY: Duration = Duration::from_millis(10);
/// At the end: for what is queued to go out to a safekeeper.
const LINGER: Duration = Duration::from_millis(200);
/// Most messages taken in before answers go out.
const BATCH: usize = 256;

/// Postgres' stream, or the way to it.
enum Stream {
    /// Not asked for yet, or ended for good.
    None,
    /// Being connected; the result comes through the channel.
    Attaching { socket: PathBuf },
    /// Attached.
    Attached { walsender: Walsender, socket: PathBuf },
}

struct Driver {
    proposer: Proposer,
    links: BTreeMap<NodeId, Link>,
    stream: Stream,
    attachments: mpsc::UnboundedSender<Result<Walsender, WireError>>,
    state: watch::Sender<ReignState>,
    progress: Progress,
    own_highest_term: Option<Term>,
    started: Instant,
    /// The term's first commit has happened.
    has_committed: bool,
    /// No more WAL may be taken in.
    back_pressure: bool,
    /// Reported to the walsender.
    reported: (Lsn, Lsn),
    /// An answer is due even if nothing has changed.
    report_due: bool,
    /// When the last two pieces of WAL came.
    wal_came: [Instant; 2],
    /// Commit advances are held back until then.
    held_until: Option<Instant>,
}

/// Runs until told to finish, or until the reign has ended by itself and the handle is dropped.
pub(super) async fn run(
    spec: ReignSpec,
    mut commands: mpsc::UnboundedReceiver<Command>,
    state: watch::Sender<ReignState>,
) {
    let (link_events, mut from_links) = mpsc::unbounded_channel();
    let (attachments, mut attached) = mpsc::unbounded_channel();
    let links = spec.safekeepers.iter().map(|safekeeper| {
        let endpoint = endpoint(&safekeeper.address, &spec.token);
        (safekeeper.node_id, Link::start(safekeeper.clone(), endpoint, spec.tenant, spec.timeline, link_events.clone()))
    });
    let mut driver = Driver {
        proposer: Proposer::new(ProposerConfig::new(spec.tenant, spec.timeline)),
        links: links.collect(),
        stream: Stream::None,
        attachments,
        state,
        progress: spec.progress,
        own_highest_term: spec.own_highest_term,
        started: Instant::now(),
        has_committed: false,
        back_pressure: false,
        reported: (Lsn::INVALID, Lsn::INVALID),
        report_due: false,
        wal_came: [Instant::now(); 2],
        held_until: None,
    };
    driver.tick();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(event) = from_links.recv() => {
                driver.on_link(event);
                for _ in 0..BATCH {
                    let Ok(event) = from_links.try_recv() else { break };
                    driver.on_link(event);
                }
            }
            message = receive(&mut driver.stream), if !driver.back_pressure => driver.on_walsender(message),
            command = commands.recv() => match command {
                None | Some(Command::Finish) => break,
                Some(command) => driver.on_command(command),
            },
            Some(result) = attached.recv() => driver.on_attached(result),
            () = until(driver.held_until) => driver.release(),
            _ = ticks.tick() => driver.tick(),
        }
        driver.report().await;
        if driver.state.borrow().ended.is_some() {
            return;
        }
    }
    for (_, link) in driver.links {
        link.close(LINGER).await;
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn receive(stream: &mut Stream) -> Result<Option<WalsenderMessage>, WireError> {
    match stream {
        Stream::Attached { walsender, .. } => walsender.receive().await,
        _ => std::future::pending().await,
    }
}

impl Driver {
    fn tick(&mut self) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.step(ProposerEvent::Tick { now_ms });
        self.progress.set_term(self.proposer.term());
        self.report_due |= self.apply_lag_to_report() > 0;
    }

    fn on_link(&mut self, from: FromLink) {
        let Some(link) = self.links.get_mut(&from.node).filter(|link| link.is_current(from.connection)) else { return };
        match from.event {
            LinkEvent::Connected => {
                link.announced = true;
                self.step(ProposerEvent::Connected(from.node));
            }
            LinkEvent::Message(message) => {
                match &message {
                    AcceptorMessage::Vote(_) => link.works(),
                    AcceptorMessage::AppendAnswer(answer) => link.progresses(answer.flush_lsn),
                    AcceptorMessage::Refused(refused) if refused.code == RefusalCode::OutOfSpace => {
                        link.waits_for_space()
                    }
                    _ => {}
                }
                if let Some(by_term) = self.other_computes_term(&message) {
                    return self.end(ReignEnd::Fenced { by_term });
                }
                self.step(ProposerEvent::Message(from.node, message));
            }
            LinkEvent::Lost(reason) => self.lose(from.node, reason),
        }
    }

    /// While this process campaigns again after its Postgres has died, a term that it never asked for is another compute's:
    /// campaigning on would depose that one (H18). The first campaign of a process is a person's or a controller's wish.
    fn other_computes_term(&self, message: &AcceptorMessage) -> Option<Term> {
        let own = self.own_highest_term?.max(self.proposer.term());
        let seen = match message {
            AcceptorMessage::Greeting(greeting) => greeting.term,
            AcceptorMessage::Vote(vote) => vote.term,
            _ => return None,
        };
        (seen > own).then_some(seen)
    }

    fn lose(&mut self, node: NodeId, reason: String) {
        let Some(link) = self.links.get_mut(&node) else { return };
        let announced = link.announced;
        link.reconnect(reason);
        if announced {
            self.progress.safekeeper_disconnections.inc();
            self.step(ProposerEvent::Disconnected(node));
        }
    }

    fn on_walsender(&mut self, message: Result<Option<WalsenderMessage>, WireError>) {
        let mut message = Some(message);
        for _ in 0..BATCH {
            match message.take() {
                None => return,
                Some(Ok(Some(WalsenderMessage::Wal { begin, wal }))) => {
                    self.wal_came = [self.wal_came[1], Instant::now()];
                    self.step(ProposerEvent::Wal { begin, wal });
                    self.held_until = self.held_until.filter(|_| self.links.values().any(Link::holds));
                }
                Some(Ok(Some(WalsenderMessage::Keepalive { reply_requested }))) => self.report_due |= reply_requested,
                Some(Ok(None)) => return self.detach("it was ended"),
                Some(Err(error)) => return self.detach(&error.to_string()),
            }
            if self.back_pressure {
                return;
            }
            let Stream::Attached { walsender, .. } = &mut self.stream else { return };
            message = walsender.receive_buffered().transpose().map(|result| result.map(Some));
        }
    }

    /// The stream has ended: somebody has terminated the walsender, or Postgres stops. Trying again is right in the first
    /// case and harmless in the second.
    fn detach(&mut self, reason: &str) {
        if let Stream::Attached { socket, .. } = std::mem::replace(&mut self.stream, Stream::None) {
            tracing::info!(reason, lsn = %self.proposer.end_lsn(), "the stream from Postgres has ended");
            self.state.send_modify(|state| state.attached = false);
            self.attach(socket, self.proposer.end_lsn(), ATTACH_RETRY);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Wal { begin, wal } => self.step(ProposerEvent::Wal { begin, wal }),
            Command::Attach { socket, start } => {
                self.attach(socket, start.max(self.proposer.end_lsn()), Duration::ZERO)
            }
            Command::Nodes(answer) => {
                let _nobody_waits = answer.send(self.nodes());
            }
            Command::Finish => {}
        }
    }

    /// Every configured safekeeper, those included that were never reached.
    fn nodes(&self) -> Vec<NodeStatus> {
        let known = self.proposer.nodes();
        let status = |(&node, link): (&NodeId, &Link)| {
            let known = known.iter().find(|status| status.node == node).cloned();
            let mut status = known.unwrap_or(NodeStatus {
                node,
                state: NodeState::Disconnected,
                flush_lsn: Lsn::INVALID,
                error: None,
            });
            status.error = link.last_error.clone().or(status.error.filter(|_| !link.announced));
            status
        };
        self.links.iter().map(status).collect()
    }

    fn attach(&mut self, socket: PathBuf, start: Lsn, after: Duration) {
        let (results, path) = (self.attachments.clone(), socket.clone());
        self.stream = Stream::Attaching { socket };
        tokio::spawn(async move {
            pause(after).await;
            let _driver_is_gone = results.send(Walsender::attach(Path::new(&path), start).await);
        });
    }

    fn on_attached(&mut self, result: Result<Walsender, WireError>) {
        let Stream::Attaching { socket } = std::mem::replace(&mut self.stream, Stream::None) else { return };
        match result {
            Ok(walsender) => {
                self.progress.walsender_attachments.inc();
                self.stream = Stream::Attached { walsender, socket };
                self.report_due = true;
                self.state.send_modify(|state| state.attached = true);
            }
            Err(error) => {
                tracing::debug!(%error, "the stream from Postgres cannot be attached yet");
                self.attach(socket, self.proposer.end_lsn(), ATTACH_RETRY);
            }
        }
    }

    /// One event, all that follows from it, and all that follows from that.
    fn step(&mut self, event: ProposerEvent) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.proposer.handle(event) {
                if let Some(next) = self.carry_out(action) {
                    events.push(next);
                }
            }
        }
        self.progress.set_flush_lsn(self.proposer.end_lsn());
    }

    fn carry_out(&mut self, action: ProposerAction) -> Option<ProposerEvent> {
        match action {
            ProposerAction::Send(node, message) => {
                let hold = self.wal_came[0].elapsed() < BUSY;
                if let Some(link) = self.links.get_mut(&node)
                    && link.send(&message, hold)
                {
                    self.held_until.get_or_insert_with(|| Instant::now() + HOLD);
                }
            }
            ProposerAction::Disconnect { node, reason } => {
                if let Some(link) = self.links.get_mut(&node) {
                    link.reconnect(reason);
                }
            }
            ProposerAction::NeedCandidate => return Some(self.draw_candidate()),
            ProposerAction::Elected(victory) => {
                self.progress.elections.inc();
                self.progress.set_elected_after(self.started.elapsed());
                self.progress.set_term(victory.term);
                self.progress.set_commit_lsn(victory.commit_lsn);
                self.state.send_modify(|state| {
                    state.start_committed = victory.commit_lsn >= victory.start_lsn;
                    state.victory = Some(*victory);
                });
            }
            ProposerAction::CommitAdvanced { commit_lsn } => {
                if !std::mem::replace(&mut self.has_committed, true) {
                    self.progress.set_first_commit_after(self.started.elapsed());
                }
                self.progress.set_commit_lsn(commit_lsn);
                // The watch is for the start only: on the path of a commit nobody else is woken.
                self.state.send_if_modified(|state| {
                    let reached = state.victory.as_ref().is_some_and(|victory| commit_lsn >= victory.start_lsn);
                    !std::mem::replace(&mut state.start_committed, reached) && reached
                });
            }
            ProposerAction::PageserverFeedback(feedback) => {
                self.progress.set_pageserver(feedback);
                self.report_due |= self.apply_lag_to_report() >= APPLY_REPORT_BYTES;
            }
            ProposerAction::BackPressure(on) => self.back_pressure = on,
            ProposerAction::Fenced { by_term } => self.end(ReignEnd::Fenced { by_term }),
            ProposerAction::Failed { reason } => self.end(ReignEnd::Failed(reason)),
            ProposerAction::Unusable { node, reason } => {
                if let Some(link) = self.links.get_mut(&node) {
                    link.blame(reason);
                }
            }
        }
        None
    }

    fn release(&mut self) {
        self.held_until = None;
        self.links.values_mut().for_each(Link::release);
    }

    fn draw_candidate(&mut self) -> ProposerEvent {
        let mut bytes = [0; 16];
        // Without randomness two computes could share an id and both win one term (H1): better not to run at all.
        getrandom::fill(&mut bytes).expect("the kernel's random numbers are always there after boot");
        ProposerEvent::NewCandidate(CandidateId::from_bytes(bytes))
    }

    fn end(&mut self, end: ReignEnd) {
        self.state.send_modify(|state| {
            state.ended.get_or_insert(end);
        });
    }

    fn apply_lag_to_report(&self) -> u64 {
        self.progress.last_record_lsn().min(self.reported.0).bytes_since(self.reported.1)
    }

    /// Tells Postgres at once when the quorum has more.
    async fn report(&mut self) {
        let commit_lsn = self.proposer.commit_lsn();
        let due = self.report_due || commit_lsn > self.reported.0;
        let Stream::Attached { walsender, .. } = &mut self.stream else { return };
        if !due {
            return;
        }
        let applied_lsn = self.progress.last_record_lsn().min(commit_lsn);
        self.report_due = false;
        self.reported = (commit_lsn, applied_lsn);
        if let Err(error) = walsender.report(commit_lsn, applied_lsn).await {
            // Before the connection is given up, take in what it still holds: at a shutdown this is the last WAL.
            tracing::debug!(%error, "Postgres takes no more reports");
        }
    }
}
