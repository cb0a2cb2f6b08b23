//! One process of the cluster: started, watched, restarted with growing pauses, stopped.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use ogel_service::shared_memory;
use serde::Serialize;
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::process_tree;

/// First and longest pause before a process that died is started again.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A process that lived this long starts with the first pause again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Exit code of a process that refuses its configuration: starting it again would not help.
const EXIT_BAD_CONFIGURATION: i32 = 2;
/// Exit code of a supervisor that a newer compute has fenced: it never campaigns again by itself.
const EXIT_FENCED: i32 = 41;

/// How to run a node.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name: `safekeeper-1`, `pageserver`, `compute-main`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its data folder.
    pub data: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// How long a clean stop may take before it is killed.
    pub stop_timeout: Duration,
    /// Port of its HTTP.
    pub http_port: u16,
}

/// What a node does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Stopped or killed on purpose, or not started yet.
    Stopped,
    /// Runs.
    Running,
    /// Runs, but frozen by `ogel chaos stop`.
    Frozen,
    /// Died; is started again soon.
    Restarting,
    /// Ended in a way that a restart does not mend.
    Failed,
    /// A newer compute of the same branch has taken over.
    Fenced,
}

/// A node as `ogel status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// What it does.
    pub phase: Phase,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// How often it was restarted because it died.
    pub restarts: u32,
    /// How it ended the last time that it did so by itself.
    pub last_exit: Option<String>,
}

enum Order {
    Start,
    Stop { patient: bool },
    Kill { forget: bool },
    Freeze,
}

/// Handle of a node's task.
pub struct Node {
    /// How it is run.
    pub spec: Spec,
    orders: mpsc::Sender<(Order, oneshot::Sender<anyhow::Result<()>>)>,
    state: watch::Receiver<State>,
}

impl Node {
    /// Starts the task; the process waits for [`Node::start`].
    pub fn spawn(spec: Spec) -> Node {
        let (orders, inbox) = mpsc::channel(16);
        let (publish, state) = watch::channel(State { phase: Phase::Stopped, pid: None, restarts: 0, last_exit: None });
        let task = Task {
            spec: spec.clone(),
            child: None,
            started: Instant::now(),
            restart: None,
            pause: RESTART_PAUSE.0,
            publish,
        };
        tokio::spawn(task.run(inbox));
        Node { spec, orders, state }
    }

    /// What it does now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Starts it when it does not run; wakes it when it is frozen.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.order(Order::Start).await
    }

    /// Stops it cleanly; kills it when that takes too long. `patient` waits three times as long.
    pub async fn stop(&self, patient: bool) -> anyhow::Result<()> {
        self.order(Order::Stop { patient }).await
    }

    /// Kills it and all its descendants. `forget` deletes its folder.
    pub async fn kill(&self, forget: bool) -> anyhow::Result<()> {
        self.order(Order::Kill { forget }).await
    }

    /// Freezes it; its descendants go on.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.order(Order::Freeze).await
    }

    async fn order(&self, order: Order) -> anyhow::Result<()> {
        let (done, wait) = oneshot::channel();
        let gone = || format!("{} is not supervised any more", self.spec.name);
        self.orders.send((order, done)).await.with_context(gone)?;
        wait.await.with_context(gone)?
    }
}

struct Task {
    spec: Spec,
    child: Option<Child>,
    started: Instant,
    restart: Option<Instant>,
    pause: Duration,
    publish: watch::Sender<State>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<(Order, oneshot::Sender<anyhow::Result<()>>)>) {
        loop {
            let restart = self.restart;
            tokio::select! {
                order = inbox.recv() => {
                    let Some((order, done)) = order else { return };
                    let _ = done.send(self.carry_out(order).await);
                }
                status = ended(&mut self.child) => self.has_ended(status),
                () = async { sleep_until(restart.unwrap_or_else(Instant::now)).await }, if restart.is_some() => {
                    self.restart = None;
                    self.publish.send_modify(|state| state.restarts += 1);
                    if let Err(error) = self.launch() {
                        eprintln!("ogel: {error:#}");
                        self.plan_restart();
                    }
                }
            }
        }
    }

    async fn carry_out(&mut self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Start => {
                if let Some(pid) = self.pid() {
                    process_tree::signal(&[pid], Signal::SIGCONT);
                    self.phase(Phase::Running);
                    return Ok(());
                }
                self.restart = None;
                self.pause = RESTART_PAUSE.0;
                self.launch()
            }
            Order::Stop { patient } => {
                self.stop(self.spec.stop_timeout * if patient { 3 } else { 1 }).await;
                Ok(())
            }
            Order::Kill { forget } => {
                self.kill().await;
                if forget {
                    match fs::remove_dir_all(&self.spec.data) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            Err(error).with_context(|| format!("cannot delete {}", self.spec.data.display()))?;
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Order::Freeze => {
                let Some(pid) = self.pid() else { bail!("{} does not run", self.spec.name) };
                process_tree::signal(&[pid], Signal::SIGSTOP);
                self.phase(Phase::Frozen);
                Ok(())
            }
        }
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let spec = &self.spec;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot write {}", spec.log.display()))?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        // SAFETY: prctl is a bare system call, allowed between fork and exec; it makes the node end with the daemon.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot run {}", spec.program.display()))?;
        self.started = Instant::now();
        self.child = Some(child);
        self.phase(Phase::Running);
        Ok(())
    }

    fn has_ended(&mut self, status: std::io::Result<ExitStatus>) {
        self.child = None;
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let text = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        self.publish.send_modify(|state| state.last_exit = Some(text));
        match code {
            Some(0) => self.phase(Phase::Stopped),
            Some(EXIT_BAD_CONFIGURATION) => self.phase(Phase::Failed),
            Some(EXIT_FENCED) => self.phase(Phase::Fenced),
            _ => self.plan_restart(),
        }
    }

    fn plan_restart(&mut self) {
        if self.started.elapsed() > HEALTHY_AFTER {
            self.pause = RESTART_PAUSE.0;
        }
        self.restart = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RESTART_PAUSE.1);
        self.phase(Phase::Restarting);
    }

    async fn stop(&mut self, limit: Duration) {
        if let Some(pid) = self.pid() {
            process_tree::signal(&[pid], Signal::SIGCONT);
            process_tree::signal(&[pid], Signal::SIGTERM);
            if timeout(limit, ended(&mut self.child)).await.is_err() {
                eprintln!("ogel: {} did not stop within {limit:?} and is killed", self.spec.name);
            }
        }
        self.kill().await;
    }

    async fn kill(&mut self) {
        self.restart = None;
        if let Some(pid) = self.pid() {
            // Freeze the parent first: it could start new processes between the reading and the killing.
            process_tree::signal(&[pid], Signal::SIGSTOP);
            let mut all = process_tree::descendants(pid);
            while !all.is_empty() {
                process_tree::signal(&all, Signal::SIGKILL);
                let _ = timeout(Duration::from_millis(5), ended(&mut self.child)).await;
                all = process_tree::alive(&all);
            }
            self.remove_shared_memory();
        }
        self.child = None;
        self.phase(Phase::Stopped);
    }

    /// Of all lives of a compute's Postgres: what is killed here does not come to it, and its folder may be deleted next.
    fn remove_shared_memory(&self) {
        let lives = fs::read_dir(self.spec.data.join("lives")).into_iter().flatten().flatten();
        lives.for_each(|life| shared_memory::remove_of(&life.path().join("pgdata")));
    }

    fn pid(&self) -> Option<i32> {
        self.child.as_ref()?.id().and_then(|pid| i32::try_from(pid).ok())
    }

    fn phase(&self, phase: Phase) {
        let pid = self.pid();
        self.publish.send_modify(|state| {
            state.phase = phase;
            state.pid = pid;
        });
    }
}

/// Waits for the child's end, for ever when there is none.
async fn ended(child: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
