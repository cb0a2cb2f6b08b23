//! The daemon: owns the cluster's processes, restarts those that die, and serves the commands over the folder's socket.

mod branches;
mod bring_up;
mod node;
mod replace;
mod specs;
mod status;

use std::{
    collections::BTreeMap,
    fs,
    process::ExitCode,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context, bail};
use ogel_service::auth::TokenSource;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, watch},
};

use crate::{
    cluster::Cluster,
    http::Http,
    install::Install,
    layout::Layout,
    protocol::{NodeAction, Reply, Request},
};
use node::{Node, Phase};

/// Longest request line; ours are far shorter.
const MAX_REQUEST_BYTES: u64 = 64 * 1024;

/// Everything that the daemon knows.
pub struct Daemon {
    layout: Layout,
    cluster: Mutex<Cluster>,
    install: Install,
    nodes: RwLock<BTreeMap<String, Arc<Node>>>,
    http: Http,
    /// Branches are changed one at a time.
    branching: Mutex<()>,
    /// Bringing up is one job at a time; a second `ogel up` waits here and then finds everything done.
    up: Mutex<()>,
    ended: watch::Sender<bool>,
}

/// Runs until asked to stop.
pub async fn run(layout: Layout) -> anyhow::Result<ExitCode> {
    let lock = fs::File::create(layout.lock()).with_context(|| format!("cannot create {}", layout.lock().display()))?;
    if lock.try_lock().is_err() {
        bail!("another ogel runs the cluster in {}", layout.root().display());
    }
    let cluster = Cluster::load_existing(&layout)?;
    let token = layout.token("admin").map_or(TokenSource::None, TokenSource::File);
    let install = Install::find()?;
    let (_folder, socket) = layout.socket()?;
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).context("cannot listen on ogel.sock")?;
    let nodes = specs::all(&layout, &cluster, &install)?
        .into_iter()
        .map(|spec| (spec.name.clone(), Arc::new(Node::spawn(spec))))
        .collect();
    let (ended, mut end) = watch::channel(false);
    let daemon = Arc::new(Daemon {
        layout,
        cluster: Mutex::new(cluster),
        install,
        nodes: RwLock::new(nodes),
        http: Http::new(&token)?,
        branching: Mutex::default(),
        up: Mutex::default(),
        ended,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let (stream, _) = connection.context("the socket is broken")?;
                tokio::spawn(Arc::clone(&daemon).serve(stream));
            }
            _ = terminate.recv() => break daemon.stop_all(false).await,
            _ = interrupt.recv() => break daemon.stop_all(false).await,
            _ = end.changed() => break,
        }
    }
    let _ = fs::remove_file(&socket);
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

impl Daemon {
    /// Answers the requests of one connection.
    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(tokio::io::AsyncReadExt::take(read, MAX_REQUEST_BYTES)).lines();
        let mut looks = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let (progress, mut texts) = mpsc::unbounded_channel();
            let daemon = Arc::clone(&self);
            let request = serde_json::from_str(&line).context("the request is not understood");
            let last = matches!(request, Ok(Request::Down { .. }));
            let mut answer = tokio::spawn(async move { daemon.carry_out(request?, &progress).await });
            // The request is carried out even when the one who asked goes away: nothing is left half-made.
            let reply = loop {
                tokio::select! {
                    biased;
                    Some(text) = texts.recv() => {
                        let _ = send(&mut write, &Reply::Progress { text }).await;
                    }
                    result = &mut answer => break match result {
                        Ok(Ok(value)) => Reply::Done { value },
                        Ok(Err(error)) => Reply::Failed { error: format!("{error:#}") },
                        Err(error) => Reply::Failed { error: format!("the daemon failed: {error}") },
                    },
                }
            };
            if let Reply::Done { value } = &reply
                && let Some(look) = value["look"].as_str()
            {
                looks.push(look.to_owned());
            }
            let sent = send(&mut write, &reply).await;
            if last {
                let _ = self.ended.send(true);
            }
            if sent.is_err() {
                break;
            }
        }
        for look in looks {
            if let Err(error) = self.end_look(&look).await {
                eprintln!("ogel: what is left of {look} is removed when the cluster comes up: {error:#}");
            }
        }
    }

    async fn carry_out(&self, request: Request, progress: &mpsc::UnboundedSender<String>) -> anyhow::Result<Value> {
        match request {
            Request::Up { compute } => self.bring_up(compute, progress).await,
            Request::Down { immediate } => {
                self.stop_all(immediate).await;
                Ok(json!({ "stopped": true }))
            }
            Request::Status => self.status().await,
            Request::ReplaceSafekeeper { number } => self.replace_safekeeper(number, progress).await,
            Request::Branch(request) => self.branch(request, progress).await,
            Request::Node { node, action } => self.act(&node, action).await,
        }
    }

    fn node(&self, name: &str) -> anyhow::Result<Arc<Node>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(name).cloned().with_context(|| {
            let known: Vec<_> = nodes.keys().map(String::as_str).collect();
            format!("there is no node {name:?}; there are: {}", known.join(", "))
        })
    }

    fn all_nodes(&self) -> Vec<(String, Arc<Node>)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().map(|(name, node)| (name.clone(), node.clone())).collect()
    }

    async fn act(&self, name: &str, action: NodeAction) -> anyhow::Result<Value> {
        let node = self.node(name)?;
        match action {
            NodeAction::Start => {
                let thawed = node.state().phase == Phase::Frozen;
                node.start().await?;
                if !thawed {
                    self.wait_until_ready(name).await?;
                }
            }
            NodeAction::Stop => node.stop(false).await?,
            NodeAction::Kill => node.kill(false).await?,
            NodeAction::KillAndForget => node.kill(true).await?,
            NodeAction::Freeze => node.freeze().await?,
            NodeAction::Wipe => {
                node.kill(true).await?;
                node.start().await?;
                self.wait_until_ready(name).await?;
            }
        }
        Ok(json!({ "node": name, "state": node.state() }))
    }

    /// Stops computes first, so that their last WAL finds a quorum, then the pageserver, then the safekeepers.
    async fn stop_all(&self, immediate: bool) {
        for kind in ["compute-", "pageserver", "safekeeper-"] {
            let nodes = self.all_nodes().into_iter().filter(|(name, _)| name.starts_with(kind));
            let stops = nodes
                .map(|(_, node)| async move { if immediate { node.kill(false).await } else { node.stop(true).await } });
            for result in join_all(stops).await {
                if let Err(error) = result {
                    eprintln!("ogel: {error:#}");
                }
            }
        }
    }
}

/// Runs a few futures side by side.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(stream.write_all(&line).await?)
}
