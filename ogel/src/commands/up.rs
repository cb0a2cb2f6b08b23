//! `ogel up`.

use std::{
    fs::{self, OpenOptions},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use ogel_service::disk_space;

use super::{print, say};
use crate::{client::Client, cluster::Cluster, install, install::Install, layout::Layout, ports, protocol::Request};

/// Less free space than this is too little to begin with.
const MIN_FREE_BYTES: u64 = 1 << 30;
/// How long the daemon may take to listen.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `ogel up`.
#[derive(clap::Args)]
pub struct Args {
    /// SQL port on 127.0.0.1; 0 picks a free one [default: 55432, or what the cluster was made with]
    #[arg(long, env = "OGEL_SQL_PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Make keys and tokens, and have safekeepers and pageserver ask for them
    #[arg(long, env = "OGEL_UP_AUTH")]
    auth: bool,
    /// Start the storage only, no compute
    #[arg(long)]
    no_compute: bool,
}

/// Starts the daemon when none runs, and asks it to bring everything up.
pub async fn run(layout: &Layout, args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let mut daemon = None;
    let mut client = match Client::connect(layout).await? {
        Some(client) => client,
        None => {
            prepare(layout, args)?;
            let mut child = start_daemon(layout)?;
            let client = wait_for_daemon(layout, &mut child).await?;
            daemon = Some(child);
            client
        }
    };
    let request = Request::Up { compute: !args.no_compute };
    let value = tokio::select! {
        value = client.ask(&request, say) => value?,
        _ = tokio::signal::ctrl_c() => {
            // What this command began it also ends; a cluster that was running already stays as it is.
            if let Some(child) = &daemon {
                say("interrupted: stopping what was started; `ogel up` goes on from here");
                kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
                wait_for_end(layout).await?;
            }
            return Ok(ExitCode::from(130));
        }
    };
    print(json, &value, |value| {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        format!("{}\n\ndata: {}\nlogs: {}", text("connection_string"), text("data"), text("logs"))
    });
    Ok(ExitCode::SUCCESS)
}

/// Checks what can be checked before anything is started, and makes the configuration of a new cluster.
fn prepare(layout: &Layout, args: &Args) -> anyhow::Result<()> {
    Install::find()?;
    let root = layout.root();
    fs::create_dir_all(layout.logs()).with_context(|| format!("cannot create {}", layout.logs().display()))?;
    let free =
        disk_space::free_bytes(root).with_context(|| format!("cannot tell the free space of {}", root.display()))?;
    if free < MIN_FREE_BYTES {
        bail!(
            "only {} MiB are free for {}: at least 1 GiB is needed; free some, or choose another --dir",
            free >> 20,
            root.display()
        );
    }
    if nix::unistd::geteuid().is_root()
        && let Err(folder) = install::reachable_by_others(root)
    {
        bail!(
            "PostgreSQL cannot run as root, and its own user cannot pass through {}: choose another --dir, such as /var/lib/ogel",
            folder.display()
        );
    }
    let cluster = match (Cluster::load(layout)?, args.port) {
        (None, port) => Cluster::generate(port.unwrap_or(55432))?,
        (Some(mut cluster), port) => {
            if let (Some(port), Some(main)) = (port, cluster.branches.iter_mut().find(|branch| branch.name == "main")) {
                main.sql_port = port;
            }
            cluster.refresh_ports()?;
            cluster
        }
    };
    for branch in cluster.branches.iter().filter(|branch| branch.name == "main") {
        if !ports::is_free(branch.sql_port) {
            bail!(
                "port {} of 127.0.0.1 is in use by another program: choose another with `ogel up --port N`",
                branch.sql_port
            );
        }
    }
    if args.auth {
        super::token::make_cluster_tokens(&layout.auth(), cluster.tenant)?;
    }
    cluster.save(layout)
}

fn start_daemon(layout: &Layout) -> anyhow::Result<Child> {
    use std::os::unix::process::CommandExt;
    let path = layout.log("ogel");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--dir").arg(layout.root()).arg("daemon").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: setsid is async-signal-safe and touches no memory; it takes the daemon out of this terminal.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    command.spawn().context("cannot start the daemon")
}

async fn wait_for_daemon(layout: &Layout, child: &mut Child) -> anyhow::Result<Client> {
    let since = Instant::now();
    loop {
        if let Some(client) = Client::connect(layout).await? {
            return Ok(client);
        }
        if let Some(status) = child.try_wait()? {
            // Another `ogel up` may have been quicker: then its daemon is ours.
            if let Some(client) = Client::connect(layout).await? {
                return Ok(client);
            }
            let log = fs::read_to_string(layout.log("ogel")).unwrap_or_default();
            bail!("the daemon ended ({status}): {}", log.lines().last().unwrap_or("it printed nothing"));
        }
        if since.elapsed() > DAEMON_TIMEOUT {
            bail!(
                "the daemon does not listen after {} s: see {}",
                DAEMON_TIMEOUT.as_secs(),
                layout.log("ogel").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no daemon listens any more.
pub async fn wait_for_end(layout: &Layout) -> anyhow::Result<()> {
    while layout.root().exists() && !lock_is_free(layout) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn lock_is_free(layout: &Layout) -> bool {
    fs::File::open(layout.lock()).map_or(true, |file| file.try_lock().is_ok())
}
