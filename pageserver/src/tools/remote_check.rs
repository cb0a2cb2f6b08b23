//! `pageserver check`: a whole object store.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use clap::Args;
use ogel_ids::{Generation, TenantId, TimelineId};
use ogel_object_store::{ObjectInfo, ObjectStore, RemoteArgs, StoreMetrics};
use serde::Serialize;

use crate::{
    layer::{desc::LayerDesc, file::examine},
    manifest::Manifest,
    remote::{
        AttachError,
        claim::Claim,
        layout::{self, LogPlace},
        manifest_log,
    },
    timeline::{CONTROL_FILE, WAL_PREFIX_FILE},
};

/// What nobody names is left alone this long: an upload may be under way.
const ORPHAN_AGE_S: i64 = 24 * 3600;
/// Longest claim that is read.
const MAX_CLAIM_BYTES: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Only this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<TenantId>,
    /// Also read every layer file and check all its checksums
    #[arg(long)]
    deep: bool,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    tenants: u64,
    timelines: u64,
    objects: u64,
    bytes: u64,
    layers_read: u64,
    /// What is wrong, by object.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// Name of the object.
    pub object: String,
    /// `missing`, `size`, `damaged`, `orphan`, `foreign`.
    pub kind: &'static str,
    /// In words.
    pub what: String,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let url = args.remote.remote.as_deref().context("which store? Give --remote URL")?;
    if let Some(folder) = url.strip_prefix("file:") {
        let folder = folder.strip_prefix("//").unwrap_or(folder);
        ensure!(
            Path::new(folder).is_dir(),
            "there is no folder {folder}: give the folder that the pageserver writes to"
        );
    }
    let store = ObjectStore::open(&args.remote, Path::new("."), StoreMetrics::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let progress = !args.json && io::stderr().is_terminal();
    let report = runtime.block_on(check(&store, args.tenant, args.deep, now_s, progress))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for Problem { object, kind, what } in &report.problems {
            println!("{kind:<8} {object}: {what}");
        }
        let Report { tenants, timelines, objects, bytes, layers_read, problems } = &report;
        let problems = match problems.len() {
            0 => "no problems".to_owned(),
            count => format!("{count} problems"),
        };
        let how = match args.deep {
            true => format!("{layers_read} layers read whole"),
            false => "layers by their sizes only (--deep reads them)".to_owned(),
        };
        println!("{problems}: {tenants} tenants, {timelines} timelines, {objects} objects, {bytes} bytes, {how}");
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks a store, or one tenant of it. `Err`: it could not be asked.
pub async fn check(
    store: &ObjectStore,
    tenant: Option<TenantId>,
    deep: bool,
    now_s: i64,
    progress: bool,
) -> anyhow::Result<Report> {
    let mut checker = Checker { store, deep, now_s, progress, report: Report::default() };
    let names = match tenant {
        Some(tenant) => vec![tenant.to_string()],
        None => store.folders(layout::TENANTS).await?,
    };
    for name in &names {
        match name.parse() {
            Ok(tenant) => checker.tenant(tenant).await?,
            Err(_) => checker.problem(format!("{}/{name}", layout::TENANTS), "orphan", "it is no tenant's folder"),
        }
    }
    if checker.report.objects == 0 {
        let what = tenant.map_or("the store".to_owned(), |tenant| format!("tenant {tenant}"));
        anyhow::bail!("{what} has no objects: the wrong --remote or --tenant?");
    }
    Ok(std::mem::take(&mut checker.report))
}

struct Checker<'a> {
    store: &'a ObjectStore,
    deep: bool,
    now_s: i64,
    progress: bool,
    report: Report,
}

/// Objects that are there, by name.
type Objects = BTreeMap<String, ObjectInfo>;

impl Checker<'_> {
    fn problem(&mut self, object: impl Into<String>, kind: &'static str, what: impl Into<String>) {
        self.report.problems.push(Problem { object: object.into(), kind, what: what.into() });
    }

    async fn objects(&mut self, folder: &str) -> anyhow::Result<Objects> {
        let listed = self.store.list_all(folder).await?;
        self.report.objects += listed.len() as u64;
        self.report.bytes += listed.iter().map(|object| object.size_bytes).sum::<u64>();
        Ok(listed.into_iter().map(|object| (object.key.clone(), object)).collect())
    }

    async fn tenant(&mut self, tenant: TenantId) -> anyhow::Result<()> {
        self.report.tenants += 1;
        let newest = self.claims(tenant).await?;
        let mut timelines = Vec::new();
        for name in self.store.folders(&layout::timelines(tenant)).await? {
            match name.parse::<TimelineId>() {
                Ok(timeline) => timelines.push(timeline),
                Err(_) => {
                    let folder = format!("{}/{name}", layout::timelines(tenant));
                    self.problem(folder, "orphan", "it is no timeline's folder");
                }
            }
        }
        for timeline in &timelines {
            self.timeline(tenant, *timeline, newest, &timelines).await?;
        }
        Ok(())
    }

    /// The newest generation. Claims are counted without gaps.
    async fn claims(&mut self, tenant: TenantId) -> anyhow::Result<Generation> {
        let claims = self.objects(&layout::claims(tenant)).await?;
        let newest = claims.keys().filter_map(|key| claim_number(key)).max().unwrap_or(0);
        for generation in (1..=newest).map(Generation) {
            let key = layout::claim(tenant, generation);
            match self.store.get(&key, MAX_CLAIM_BYTES).await {
                Ok(bytes) => {
                    if let Err(what) = Claim::decode(&bytes) {
                        self.problem(key, "damaged", what);
                    }
                }
                Err(error) if error.is_not_found() => {
                    self.problem(key, "missing", "a later claim is there");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Generation(newest))
    }

    async fn timeline(
        &mut self,
        tenant: TenantId,
        timeline: TimelineId,
        newest: Generation,
        siblings: &[TimelineId],
    ) -> anyhow::Result<()> {
        let folder = layout::timeline(tenant, timeline);
        self.say(&folder);
        let objects = self.objects(&folder).await?;
        let loaded = match manifest_log::load(self.store, tenant, timeline, newest).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => {
                self.orphans(&objects, &BTreeSet::new());
                return Ok(());
            }
            Err(AttachError::Damaged { key, what }) => {
                self.problem(key, "damaged", what);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.report.timelines += 1;
        let manifest = &loaded.manifest;
        if let Some(ancestor) = manifest.ancestor.filter(|ancestor| !siblings.contains(&ancestor.timeline)) {
            self.problem(&folder, "missing", format!("its ancestor {} is not in the store", ancestor.timeline));
        }
        let (mut named, sound) = (BTreeSet::new(), self.report.problems.len());
        let wanted: &[&str] = if manifest.ancestor.is_none() { &[CONTROL_FILE, WAL_PREFIX_FILE] } else { &[] };
        for name in [CONTROL_FILE, WAL_PREFIX_FILE] {
            let key = layout::creation_file(tenant, timeline, name);
            if wanted.contains(&name) && !objects.contains_key(&key) {
                self.problem(&key, "missing", "the timeline cannot start a compute without it");
            }
            named.insert(key);
        }
        for desc in manifest.layers.values() {
            let key = layout::layer(tenant, timeline, desc.name);
            self.layer(manifest, desc, &key, &objects).await?;
            named.insert(key);
        }
        if self.report.problems.len() > sound {
            self.forget_replaced(sound, tenant, timeline).await?;
        }
        self.orphans(&objects, &named);
        Ok(())
    }

    /// A store that is in use changes while it is checked: a layer that the manifest does not name any more may be gone.
    async fn forget_replaced(&mut self, first: usize, tenant: TenantId, timeline: TimelineId) -> anyhow::Result<()> {
        let claims = self.store.list_all(&layout::claims(tenant)).await?;
        let newest = Generation(claims.iter().filter_map(|claim| claim_number(&claim.key)).max().unwrap_or(0));
        let manifest = match manifest_log::load(self.store, tenant, timeline, newest).await {
            Ok(loaded) => loaded.map(|loaded| loaded.manifest),
            Err(AttachError::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let layers = manifest.iter().flat_map(|manifest| manifest.layers.keys());
        let named: BTreeSet<_> = layers.map(|name| layout::layer(tenant, timeline, *name)).collect();
        let found = self.report.problems.split_off(first);
        let is_layer = |problem: &Problem| problem.object.contains("/layers/");
        self.report.problems.extend(
            found
                .into_iter()
                .filter(|problem| manifest.is_some() && !is_layer(problem) || named.contains(&problem.object)),
        );
        Ok(())
    }

    async fn layer(
        &mut self,
        manifest: &Manifest,
        desc: &LayerDesc,
        key: &str,
        objects: &Objects,
    ) -> anyhow::Result<()> {
        let found = match objects.get(key) {
            Some(object) => Some(object.size_bytes),
            // A listing may be late.
            None => match self.store.head(key).await {
                Ok(object) => Some(object.size_bytes),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            },
        };
        match found {
            None => self.problem(key, "missing", "the manifest names it"),
            Some(size) if size != desc.size_bytes => {
                self.problem(key, "size", format!("it has {size} bytes, the manifest says {}", desc.size_bytes));
            }
            Some(size) if self.deep => {
                self.say(key);
                match self.store.get(key, size).await {
                    Ok(bytes) => self.content(manifest, desc, key, &bytes),
                    Err(error) if error.is_not_found() => self.problem(key, "missing", "the manifest names it"),
                    Err(error) => return Err(error.into()),
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn content(&mut self, manifest: &Manifest, desc: &LayerDesc, key: &str, bytes: &[u8]) {
        self.report.layers_read += 1;
        match examine(bytes, |_| {}) {
            Ok(examined) => {
                if examined.header != desc.header(manifest.tenant, manifest.timeline) {
                    self.problem(key, "foreign", "its header is not what the manifest says");
                }
                examined.problems.into_iter().for_each(|what| self.problem(key, "damaged", what));
            }
            Err(what) => self.problem(key, "damaged", what),
        }
    }

    /// Old objects that nobody names. The objects of a manifest's log are looked after by their writer.
    fn orphans(&mut self, objects: &Objects, named: &BTreeSet<String>) {
        for (key, object) in objects {
            let is_log = key.contains("/manifest/") && key.rsplit('/').next().and_then(LogPlace::parse).is_some();
            let age_s = self.now_s.saturating_sub(object.modified_unix_s);
            if !is_log && !named.contains(key) && age_s > ORPHAN_AGE_S {
                let what = format!("no manifest names it; it is {} hours old and can be deleted", age_s / 3600);
                self.problem(key, "orphan", what);
            }
        }
    }

    fn say(&self, what: &str) {
        if self.progress {
            // Whoever watches is not needed.
            let _ = write!(io::stderr(), "\r\x1b[K{} objects, {what}", self.report.objects);
        }
    }
}

fn claim_number(key: &str) -> Option<u32> {
    u32::from_str_radix(key.rsplit('/').next()?, 16).ok()
}

impl Drop for Checker<'_> {
    fn drop(&mut self) {
        if self.progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
