//! Lives, one after the other, until a stop or a fence.

use std::time::{Duration, Instant};

use anyhow::bail;
use ogel_ids::Term;

use crate::{
    board::{Board, State},
    conf_file::ConfFile,
    config::{Config, SqlListen},
    data_dir::DataDir,
    life::{StartOver, Starter},
    postgres::{
        postmaster::{self, Postmaster},
        processes,
        run_user::RunUser,
    },
    propose::{Progress, Reign, ReignEnd, ReignSpec},
    status_file::StatusFile,
    stop::{Stop, StopMode},
};

/// Before the first new life.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Between later ones.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A life this long was a good one: the next start is tried at once.
const GOOD_LIFE: Duration = Duration::from_secs(60);
/// Between two looks at the length of Postgres' log.
const LOG_CHECK: Duration = Duration::from_secs(30);
/// Between two looks at whether the quorum still takes WAL during a stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// How the supervisor has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Stopped,
    /// By a newer compute of the branch.
    Fenced {
        /// Its term.
        by_term: Term,
    },
}

enum LifeEnd {
    Stopped,
    Reign(ReignEnd),
    /// Postgres could not be started.
    NotStarted(anyhow::Error),
    /// Postgres ran and has ended by itself, or another election is needed before it can be started.
    Died(String),
}

/// Runs Postgres for one branch.
pub struct Supervisor {
    /// The settings.
    pub config: Config,
    /// The addresses that are free.
    pub sql_listen: SqlListen,
    /// Who owns Postgres' files.
    pub run_user: RunUser,
    /// Postgres' settings.
    pub conf_file: ConfFile,
    /// The folder.
    pub data_dir: DataDir,
    /// Where progress shows.
    pub board: Board,
    /// How far the WAL is.
    pub progress: Progress,
    /// The wish to stop.
    pub stop: Stop,
}

impl Supervisor {
    /// Until a stop or a fence, or until it makes no sense to go on. Must run on the main thread, see [`Postmaster::spawn`].
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        let (mut retry_after, mut own_highest_term, mut ever_ran) = (RETRY_MIN, None, false);
        loop {
            let began = Instant::now();
            let end = self.one_life(own_highest_term, &mut ever_ran).await?;
            own_highest_term = Some(self.progress.term());
            let why = match end {
                LifeEnd::Stopped => return Ok(Outcome::Stopped),
                LifeEnd::Reign(ReignEnd::Fenced { by_term }) => {
                    let why = format!("fenced: another compute of this branch was elected with term {by_term}");
                    self.board.leave(State::Fenced, Some(why));
                    return Ok(Outcome::Fenced { by_term });
                }
                LifeEnd::Reign(ReignEnd::Failed(reason)) => {
                    bail!("Postgres was stopped, because the proposer cannot go on: {reason}")
                }
                LifeEnd::NotStarted(error) if !ever_ran => return Err(error),
                LifeEnd::NotStarted(error) => format!("{error:#}"),
                LifeEnd::Died(how) => how,
            };
            if began.elapsed() > GOOD_LIFE {
                retry_after = RETRY_MIN;
            }
            tracing::error!(reason = %why, retry_ms = retry_after.as_millis(), "a new election and a new folder follow");
            self.board.leave(State::Failed, Some(why));
            tokio::select! {
                () = tokio::time::sleep(retry_after) => {}
                () = self.stop.wait(StopMode::Fast) => return Ok(Outcome::Stopped),
            }
            retry_after = (retry_after * 2).min(RETRY_MAX);
        }
    }

    async fn one_life(&mut self, own_highest_term: Option<Term>, ever_ran: &mut bool) -> anyhow::Result<LifeEnd> {
        let life = self.data_dir.new_life(self.sql_listen.port)?;
        let reign = Reign::start(ReignSpec {
            tenant: self.config.tenant,
            timeline: self.config.timeline,
            safekeepers: self.config.safekeepers.clone(),
            token: self.config.token.clone(),
            own_highest_term,
            progress: self.progress.clone(),
        })?;
        self.board.begin(reign.nodes_query());
        let starter = Starter {
            config: &self.config,
            sql_listen: &self.sql_listen,
            run_user: self.run_user,
            conf_file: &self.conf_file,
            data_dir: &self.data_dir,
            board: &self.board,
            reign: &reign,
            life: &life,
        };
        let mut postmaster = None;
        let end = tokio::select! {
            biased;
            end = reign.ended() => LifeEnd::Reign(end),
            () = self.stop.wait(StopMode::Immediate) => LifeEnd::Stopped,
            end = self.start_and_watch(&starter, &mut postmaster, ever_ran) => end,
        };
        // Whatever the reason: nothing of Postgres may run on without its reign.
        if let Some(postmaster) = &mut postmaster {
            postmaster.stop_immediately().await?;
        }
        drop(postmaster);
        processes::reap_orphans();
        self.board.update(|shown| {
            shown.pid = None;
            shown.nodes = None;
        });
        reign.finish().await;
        life.remove().await?;
        Ok(end)
    }

    async fn start_and_watch(
        &self,
        starter: &Starter<'_>,
        postmaster: &mut Option<Postmaster>,
        ever_ran: &mut bool,
    ) -> LifeEnd {
        let started = tokio::select! {
            started = starter.start(postmaster) => started,
            () = self.stop.wait(StopMode::Fast) => return LifeEnd::Stopped,
        };
        let postmaster = match (started, postmaster) {
            (Ok(()), Some(postmaster)) => postmaster,
            (Ok(()), None) => return LifeEnd::NotStarted(anyhow::anyhow!("Postgres was not started")),
            (Err(error), _) if error.is::<StartOver>() => return LifeEnd::Died(format!("{error:#}")),
            (Err(error), _) => return LifeEnd::NotStarted(error),
        };
        *ever_ran = true;
        self.board.running();
        let startup = self.board.startup();
        tracing::info!(total_ms = startup.total_ms, pid = postmaster.pid(), "Postgres accepts connections");
        let mut log_checks = tokio::time::interval(LOG_CHECK);
        let status_file = StatusFile {
            pgdata: starter.life.pgdata.clone(),
            run_user: self.run_user,
            progress: self.progress.clone(),
            nodes: starter.reign.nodes_query(),
        };
        let mut status_file = std::pin::pin!(status_file.keep());
        loop {
            tokio::select! {
                status = postmaster.wait() => {
                    return LifeEnd::Died(match status {
                        Ok(status) => format!("Postgres {}; see {}", postmaster::describe(status), self.data_dir.log_path().display()),
                        Err(error) => format!("{error:#}"),
                    });
                }
                () = self.stop.wait(StopMode::Fast) => return self.stop_fast(postmaster).await,
                () = &mut status_file => {}
                _ = log_checks.tick() => {
                    if let Err(error) = self.data_dir.rotate_log() {
                        tracing::warn!(%error, "Postgres' log cannot be put aside");
                    }
                }
            }
        }
    }

    /// Postgres sends its shutdown checkpoint through the walsender before it ends, and waits until the quorum has it. Without
    /// a quorum that would be for ever.
    async fn stop_fast(&self, postmaster: &mut Postmaster) -> LifeEnd {
        self.board.leave(State::Stopping, None);
        postmaster.request_fast_shutdown();
        let (mut last_commit_lsn, mut last_progress) = (self.progress.commit_lsn(), Instant::now());
        loop {
            tokio::select! {
                _ended = postmaster.wait() => {
                    tracing::info!(commit_lsn = %self.progress.commit_lsn(), flush_lsn = %self.progress.flush_lsn(), "Postgres has stopped");
                    return LifeEnd::Stopped;
                }
                () = tokio::time::sleep(STOP_CHECK) => {}
            }
            let commit_lsn = self.progress.commit_lsn();
            if commit_lsn > last_commit_lsn || commit_lsn >= self.progress.flush_lsn() {
                (last_commit_lsn, last_progress) = (commit_lsn, Instant::now());
            }
            if last_progress.elapsed() > self.config.stop_timeout {
                tracing::warn!(
                    %commit_lsn,
                    flush_lsn = %self.progress.flush_lsn(),
                    waited_s = self.config.stop_timeout.as_secs(),
                    "no quorum takes the last WAL: Postgres is stopped without it; no acknowledged commit is lost"
                );
                return LifeEnd::Stopped;
            }
        }
    }
}
