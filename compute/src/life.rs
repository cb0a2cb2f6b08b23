//! One start of Postgres, from the won election to the first connection.

use std::{
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow, ensure};
use ogel_ids::Lsn;
use ogel_service::disk_space;
use quorum::{Victory, proposer::NodeState};

use crate::{
    basebackup::{self, BasebackupRequest, Manifest},
    board::{Board, State},
    conf_file::ConfFile,
    config::{Config, SqlListen},
    data_dir::{DataDir, Life},
    first_connection::first_connection,
    local_wal::{self, LocalWal},
    postgres::{
        postmaster::{Postmaster, PostmasterSpec},
        run_user::RunUser,
        settings::{self, LifeSettings},
        slot_file,
    },
    propose::Reign,
    slot_limit::SlotLimit,
    slots,
    start_checkpoint::{self, StartPlan},
};

/// Before the first new try to fetch something.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Between later tries.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// An election takes a few round trips: when it takes longer, the status says what is in the way.
const ELECTION_PATIENCE: Duration = Duration::from_secs(2);
/// When after this time no safekeeper can be used at all, the list of them is wrong, or all of them are away.
const REACHABLE_WITHIN: Duration = Duration::from_secs(8);
/// A start from a shutdown checkpoint replays nothing.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// For a quorum to get the WAL before the start of the term; an acceptor that is behind fetches it from the donor.
const COMMITTED_WITHIN: Duration = Duration::from_secs(45);

/// The election is won, but no quorum has all WAL up to the start of the term: the only node that had it may be lost for good.
/// Another election, without that node, can succeed.
#[derive(Debug, thiserror::Error)]
#[error(
    "safekeeper {} was elected from with WAL up to {}, and within {} s no quorum has got that; another election follows, \
     in which unacknowledged WAL of a lost node does not count",
    .0.donor, .0.start_lsn, COMMITTED_WITHIN.as_secs()
)]
pub struct StartOver(Victory);

/// All that a start needs.
pub struct Starter<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The addresses that are free.
    pub sql_listen: &'a SqlListen,
    /// Who owns Postgres' files.
    pub run_user: RunUser,
    /// Postgres' settings.
    pub conf_file: &'a ConfFile,
    /// For the log.
    pub data_dir: &'a DataDir,
    /// Where progress shows.
    pub board: &'a Board,
    /// The proposer.
    pub reign: &'a Reign,
    /// The fresh folder.
    pub life: &'a Life,
}

impl Starter<'_> {
    /// Starts Postgres into `postmaster`; returns when clients can connect. The end of the reign shows elsewhere: then this
    /// waits for ever and is dropped.
    pub async fn start(&self, postmaster: &mut Option<Postmaster>) -> anyhow::Result<()> {
        self.board.phase(State::Electing, "election");
        let victory = self.election().await?;
        tracing::info!(term = %victory.term, start_lsn = %victory.start_lsn, donor = %victory.donor, "elected");
        self.board.update(|shown| {
            shown.term = Some(victory.term);
            shown.start_lsn = Some(victory.start_lsn);
        });

        self.board.phase(State::Basebackup, "basebackup");
        let segment_size_bytes = u64::from(victory.wal_segment_size_bytes);
        let local = LocalWal::new(self.life.wal_dir.clone(), segment_size_bytes, self.run_user)
            .context("making a folder for WAL")?;
        // The segment in which the term starts is nearly always the one that is needed: it comes at the same time.
        let segment_start = victory.start_lsn.segment_start(segment_size_bytes);
        let fetched = async {
            tokio::join!(self.basebackup(&victory), self.copy_wal(&victory, segment_start, victory.start_lsn, &local)).0
        };
        let manifest = tokio::select! {
            manifest = fetched => manifest?,
            () = self.start_stays_uncommitted() => return Err(StartOver(victory).into()),
        };
        ensure!(
            (manifest.system_identifier, manifest.wal_segment_size) == (victory.system_identifier, segment_size_bytes),
            "the pageserver has database {} with WAL segments of {} bytes under this timeline, the safekeepers have {} with {segment_size_bytes}: \
             they do not belong together; check --safekeepers and --pageserver",
            manifest.system_identifier,
            manifest.wal_segment_size,
            victory.system_identifier
        );
        let control_path = self.life.pgdata.join("global/pg_control");
        let control = fs::read(&control_path).context("reading the basebackup's pg_control")?;
        let plan = start_checkpoint::plan(&manifest, &control, now_s())?;

        self.board.phase(State::Starting, "wal prefix");
        let limit = self.slot_limit(manifest.lsn, segment_size_bytes)?;
        let slots_from = slots::restore(&self.life.pgdata, &limit)?.filter(|lsn| *lsn < manifest.lsn);
        let needed_from = slots_from.map_or(plan.checkpoint_lsn, |lsn| lsn.min(plan.checkpoint_lsn));
        self.copy_wal(&victory, needed_from.segment_start(segment_size_bytes), segment_start, &local).await;

        self.board.phase(State::Starting, "start checkpoint");
        if !plan.append.is_empty() {
            self.reign.append(manifest.lsn, plan.append.clone());
            local.write(manifest.lsn, &plan.append).context("writing the start checkpoint to pg_wal")?;
        }
        local.install(&self.life.pgdata.join("pg_wal")).context("moving WAL into the data directory")?;
        if let Some(from) = slots_from {
            let (pgdata, owner, range) = (self.life.pgdata.clone(), self.run_user, (from, manifest.lsn));
            let restore = move || slots::restore_mappings(&pgdata, range, segment_size_bytes, owner);
            tokio::task::spawn_blocking(restore).await?.context("preparing the replication slots")?;
        }
        fs::write(&control_path, &plan.control_file).context("completing pg_control")?;
        self.write_files(&plan)?;
        self.launch(&victory, &plan, postmaster).await
    }

    fn slot_limit(&self, end: Lsn, segment_size_bytes: u64) -> anyhow::Result<SlotLimit> {
        let free_bytes = disk_space::free_bytes(&self.life.pgdata).context("asking for the free disk space")?;
        Ok(SlotLimit {
            end,
            segment_size_bytes,
            keep_bytes: settings::slot_wal_keep_bytes(&self.config.pg_settings)?,
            free_bytes,
        })
    }

    /// Starts the process on a complete folder.
    async fn launch(
        &self,
        victory: &Victory,
        plan: &StartPlan,
        postmaster: &mut Option<Postmaster>,
    ) -> anyhow::Result<()> {
        self.board.phase(State::Starting, "postgres start");
        let log_start = fs::metadata(self.data_dir.log_path()).map_or(0, |metadata| metadata.len());
        let started = postmaster.insert(self.spawn(victory)?);
        self.board.update(|shown| shown.pid = Some(started.pid()));
        started.wait_ready(READY_WITHIN).await.map_err(|error| self.explain(error, log_start))?;

        self.board.phase(State::Starting, "first connection");
        let socket = self.life.socket_path(self.sql_listen.port);
        self.reign.attach(socket.clone(), plan.end_lsn);
        let attached = self.reign.wait_for(|state| state.attached.then_some(()));
        let session = first_connection(&socket, self.config.auth, self.config.password.as_ref());
        let (session, attached) = tokio::join!(session, attached);
        if attached.is_err() {
            return std::future::pending().await;
        }
        session.map_err(|error| self.explain(error, log_start))
    }

    /// Waits for ever when there is no quorum, and says so; also when the reign ends, which the caller watches. Fails when no
    /// safekeeper is there, or a majority of them cannot be used as the settings have it.
    async fn election(&self) -> anyhow::Result<Victory> {
        let began = Instant::now();
        loop {
            let won = self.reign.wait_for(|state| state.victory.clone());
            match tokio::time::timeout(ELECTION_PATIENCE, won).await {
                Ok(Ok(victory)) => return Ok(victory),
                Ok(Err(_ended)) => return std::future::pending().await,
                Err(_elapsed) => {}
            }
            let nodes = self.reign.nodes_query().nodes().await;
            let states = nodes.iter().map(|node| match &node.error {
                Some(error) => format!("{}: {error}", node.node),
                None => format!("{}: {}", node.node, node.state.as_str()),
            });
            let states = states.collect::<Vec<_>>().join("; ");
            let unusable = nodes.iter().filter(|node| node.state == NodeState::Unusable).count();
            // One that lacks disk space says so too, but it votes.
            let away = |state| matches!(state, NodeState::Disconnected | NodeState::Greeting | NodeState::Unusable);
            let lost = nodes.iter().all(|node| node.error.is_some() && away(node.state)) || unusable > nodes.len() / 2;
            ensure!(
                !lost || began.elapsed() < REACHABLE_WITHIN,
                "OGEL_SAFEKEEPERS (--safekeepers) names no safekeepers that can be used ({states}): correct it, or start what should answer there"
            );
            self.board.waiting(format!("no quorum of safekeepers has voted yet ({states})"));
        }
    }

    /// Ends when `COMMITTED_WITHIN` has passed without a commit at the start of the term, else never.
    async fn start_stays_uncommitted(&self) {
        let committed = self.reign.wait_for(|state| state.start_committed.then_some(()));
        if tokio::time::timeout(COMMITTED_WITHIN, committed).await.is_ok() {
            std::future::pending().await
        }
    }

    /// Tries until it succeeds: a pageserver that is away or behind is waited for, and the status says so.
    async fn basebackup(&self, victory: &Victory) -> anyhow::Result<Manifest> {
        let request = BasebackupRequest {
            pageserver: self.config.endpoint(&self.config.pageserver),
            tenant: self.config.tenant,
            timeline: self.config.timeline,
            lsn: victory.start_lsn,
            term: victory.term,
        };
        let mut retry_after = RETRY_MIN;
        loop {
            match basebackup::fetch(&request, &self.life.pgdata, self.run_user).await {
                Ok(manifest) => {
                    tracing::debug!(lsn = %manifest.lsn, "basebackup unpacked");
                    return Ok(manifest);
                }
                Err(error) => {
                    self.board.waiting(format!(
                        "no basebackup at {} from pageserver {} yet: {error:#}",
                        victory.start_lsn, self.config.pageserver
                    ));
                }
            }
            self.life.empty_pgdata(self.run_user).context("emptying the data directory for another try")?;
            tokio::time::sleep(retry_after).await;
            retry_after = (retry_after * 2).min(RETRY_MAX);
        }
    }

    /// Copies committed WAL. Tries one safekeeper after the other, the donor first, until it succeeds.
    async fn copy_wal(&self, victory: &Victory, begin: Lsn, end: Lsn, local: &LocalWal) {
        if begin >= end {
            return;
        }
        let mut order: Vec<_> = self.config.safekeepers.iter().collect();
        order.sort_by_key(|safekeeper| safekeeper.node_id != victory.donor);
        let mut retry_after = RETRY_MIN;
        loop {
            for safekeeper in &order {
                let timeline = (self.config.tenant, self.config.timeline);
                match local_wal::copy_from_safekeeper(
                    self.config.endpoint(&safekeeper.address),
                    timeline,
                    (begin, end),
                    local,
                )
                .await
                {
                    Ok(()) => {
                        tracing::debug!(%begin, %end, "WAL copied");
                        return;
                    }
                    Err(error) => self.board.waiting(format!(
                        "no WAL from {begin} to {end} from safekeeper {} yet: {error:#}",
                        safekeeper.node_id
                    )),
                }
            }
            tokio::time::sleep(retry_after).await;
            retry_after = (retry_after * 2).min(RETRY_MAX);
        }
    }

    fn write_files(&self, plan: &StartPlan) -> anyhow::Result<()> {
        let file = |name: &str, content: &[u8]| {
            self.run_user.write_file(&self.life.pgdata.join(name), content).with_context(|| format!("writing {name}"))
        };
        self.conf_file.begin(self.life.pgdata.clone())?;
        file("pg_hba.conf", settings::pg_hba_conf(self.config.auth).as_bytes())?;
        file("pg_ident.conf", b"")?;
        let slots = self.life.pgdata.join("pg_replslot");
        for folder in [slots.clone(), slots.join(slot_file::SLOT_NAME)] {
            if !folder.is_dir() {
                self.run_user.create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
            }
        }
        file(&format!("pg_replslot/{}/state", slot_file::SLOT_NAME), &slot_file::encode(plan.checkpoint_lsn))
    }

    fn spawn(&self, victory: &Victory) -> anyhow::Result<Postmaster> {
        let arguments = settings::command_line(&LifeSettings {
            tenant: self.config.tenant,
            timeline: self.config.timeline,
            term: victory.term,
            start_lsn: victory.start_lsn,
            sql_listen: self.sql_listen,
            socket_dir: &self.life.socket_dir,
            ext_dir: self.config.ext_dir.as_deref(),
            user: &self.config.pg_settings,
        })?;
        Postmaster::spawn(PostmasterSpec {
            pg_prefix: &self.config.pg_prefix,
            pgdata: &self.life.pgdata,
            arguments: &arguments,
            run_user: self.run_user,
            token: self.config.token.current().context("reading the token")?,
            log: self.data_dir.open_log()?,
        })
    }

    /// What Postgres itself has said about it is worth more than that it failed.
    fn explain(&self, error: anyhow::Error, log_start: u64) -> anyhow::Error {
        let path = self.data_dir.log_path();
        anyhow!("{error:#}; the end of its log {}: {}", path.display(), self.data_dir.log_tail(log_start))
    }
}

fn now_s() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
