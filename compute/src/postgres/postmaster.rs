//! The postmaster process.

use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use super::{processes, run_user::RunUser};

/// Between two looks at the postmaster's state while it starts.
const POLL: Duration = Duration::from_millis(1);
/// After a request to stop at once, what is left is killed.
const KILL_AFTER: Duration = Duration::from_secs(1);

/// What to start.
#[allow(missing_docs)]
pub struct PostmasterSpec<'a> {
    pub pg_prefix: &'a Path,
    pub pgdata: &'a Path,
    /// `-c name=value` and so on.
    pub arguments: &'a [String],
    pub run_user: RunUser,
    /// Shown to the pageserver by the extension: given where no superuser can read it.
    pub token: Option<String>,
    /// Takes standard output and error.
    pub log: fs::File,
}

/// A running (or just ended) postmaster. It dies with the supervisor: the kernel sends it SIGQUIT (immediate shutdown).
#[derive(Debug)]
pub struct Postmaster {
    child: Child,
    pid: Pid,
    pgdata: PathBuf,
}

impl Postmaster {
    /// Starts it. Must be called on the main thread: the parent-death signal comes when the *thread* that forked ends.
    pub fn spawn(spec: PostmasterSpec<'_>) -> anyhow::Result<Self> {
        let binary = spec.pg_prefix.join("bin/postgres");
        let mut command = Command::new(&binary);
        command
            .arg("-D")
            .arg(spec.pgdata)
            .args(spec.arguments)
            .env_clear() // no secret of the supervisor reaches what a superuser can read (H30)
            .env("PATH", format!("{}:/usr/bin:/bin", spec.pg_prefix.join("bin").display()))
            .env("LC_ALL", "C")
            .current_dir(spec.pgdata)
            .process_group(0)
            .stdin(if spec.token.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(spec.log.try_clone().context("the log file's handle")?)
            .stderr(spec.log);
        if let RunUser::Other { uid, gid } = spec.run_user {
            command.uid(uid).gid(gid);
        }
        if spec.token.is_some() {
            command.env("OGEL_TOKEN_ON_STDIN", "1");
        }
        let supervisor = std::process::id();
        // SAFETY: only async-signal-safe system calls. They run after the change of user, which would clear the setting.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The supervisor may have died in between.
                if u32::try_from(libc::getppid()) != Ok(supervisor) {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        if let (Some(token), Some(stdin)) = (&spec.token, child.stdin.take()) {
            // Short enough for the pipe's buffer: this does not wait for the reader.
            let mut pipe = fs::File::from(stdin.into_owned_fd().context("the token's pipe")?);
            pipe.write_all(token.as_bytes()).context("giving Postgres its token")?;
        }
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("Postgres ended as soon as it started")?;
        Ok(Self { child, pid: Pid::from_raw(pid), pgdata: spec.pgdata.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits until it accepts connections; an error when it ends before, or takes longer than `limit`.
    pub async fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let (started, file) = (Instant::now(), self.pgdata.join("postmaster.pid"));
        loop {
            if fs::read_to_string(&file)
                .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().context("waiting for Postgres")? {
                bail!("Postgres {} while starting", describe(status));
            }
            if started.elapsed() > limit {
                bail!("Postgres did not become ready within {} s", limit.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks it to end sessions and write a shutdown checkpoint.
    pub fn request_fast_shutdown(&self) {
        self.signal(Signal::SIGINT);
    }

    /// Nothing once it was waited for: its id may be another's by then.
    fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            let _gone_already = kill(self.pid, signal);
        }
    }

    /// Waits for its end. Safe to cancel.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("waiting for Postgres")
    }

    /// Ends it and all its children now, without a checkpoint. Nothing of it runs afterwards.
    pub async fn stop_immediately(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGQUIT);
        let ended = async {
            let _status = self.child.wait().await;
            while !processes::in_folder(&self.pgdata).is_empty() {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(KILL_AFTER, ended).await.is_err() {
            let reaping = async {
                let _status = self.child.wait().await;
            };
            let (all_gone, ()) = tokio::join!(processes::kill_all_in(&self.pgdata), reaping);
            if !all_gone {
                bail!("processes of Postgres in {} cannot be killed", self.pgdata.display());
            }
        }
        Ok(())
    }
}

/// How a process ended, for people.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(signal)) => format!("was killed by {}", Signal::try_from(signal).map_or("a signal", Signal::as_str)),
        _ => "ended".into(),
    }
}
