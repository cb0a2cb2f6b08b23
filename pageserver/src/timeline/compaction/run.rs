//! Merges layers.
//!
//! One merge at a time per timeline, in memory bounded by a block per merged layer, one key's unshortened deltas and the index of the
//! file being written. Nothing is visible before all files of a merge are on disk and the manifest names them; interrupted, it leaves
//! nothing behind.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use ogel_ids::Lsn;
use wal_decoder::key::{PAGE_SIZE, Page};

use super::{
    super::{Lineage, ReadError, Timeline, flush::share, pages::PageId},
    plan::{Job, LayerState, Pace, PartitionState, Reason, debt, depth_run, is_urgent, plan},
};
use crate::{
    failpoints,
    keyspace::{Key, KeyRange},
    layer::{
        Io, LsnRange, VersionKind,
        desc::LayerDesc,
        file::{LayerError, LayerFileWriter, LayerKind, Packing, fetch},
        map::LayerMap,
        memory::MemoryLayer,
        merge::{MergeContext, MergeRule, Older, Version, merge},
        partitions::{Partitions, Piece},
        reconstruct::Reconstruction,
        stored::StoredLayer,
        tombstone::{Tombstone, TombstoneSet},
    },
    manifest::Edit,
};

/// Rounds of planning in one go; a later pass goes on.
const MAX_ROUNDS: usize = 32;
/// Merges of all timelines make way for a load for no longer than this, however long it lasts.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Asked between keys whether to give up.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// What a compaction did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct CompactionReport {
    /// Merges done.
    pub merges: u64,
    /// Bytes of the layers merged, by their share of the files.
    pub read_bytes: u64,
    /// Bytes of the layers made.
    pub written_bytes: u64,
}

impl Timeline {
    /// Merges until nothing needs it, or until told to stop. Blocks.
    pub fn compact(&self, stop: Stop<'_>) -> anyhow::Result<CompactionReport> {
        self.merge_at(|| Pace::Calm, stop)
    }

    /// The same, but while much WAL comes in only what cannot wait. Blocks.
    pub fn compact_in_background(&self, stop: Stop<'_>) -> anyhow::Result<CompactionReport> {
        self.merge_at(|| self.pace(), stop)
    }

    fn merge_at(&self, pace: impl Fn() -> Pace, stop: Stop<'_>) -> anyhow::Result<CompactionReport> {
        self.compaction_due.store(false, Ordering::Relaxed);
        let mut report = CompactionReport::default();
        for _ in 0..MAX_ROUNDS {
            let _one_at_a_time = self.compaction.lock();
            let pace = pace();
            let jobs = self.plan_compaction(&self.pin_layers(), pace)?;
            if pace == Pace::Busy {
                self.compaction_due.store(true, Ordering::Relaxed); // what waits is planned again
            } else if jobs.is_empty() {
                // Pages in memory, and those that have got an image since: whoever still finds one dear asks again.
                self.image_requests.forget(KeyRange::ALL);
            }
            if jobs.is_empty() || stop() {
                break;
            }
            for job in jobs {
                if stop() || !self.run_job(&job, stop, &mut report)? {
                    return Ok(report);
                }
            }
        }
        Ok(report)
    }

    /// Merges whole stacks, needed or not. Blocks.
    pub fn compact_fully(&self, stop: Stop<'_>) -> anyhow::Result<CompactionReport> {
        let mut report = CompactionReport::default();
        let _one_at_a_time = self.compaction.lock();
        let partitions = self.pin_layers().partitions.clone();
        for (keys, stack) in partitions.iter().filter(|(_, stack)| !stack.is_empty()) {
            let job = Job { partition: keys.start, run: 0..stack.len(), reason: Reason::Trim };
            if !self.run_job(&job, stop, &mut report)? {
                break;
            }
        }
        Ok(report)
    }

    /// Before a flush: makes room on the stacks that it will push on, so that none becomes longer than the bound.
    pub(in crate::timeline) fn make_room(&self, cuts: &[KeyRange]) -> anyhow::Result<()> {
        let limits = &self.environment.compaction;
        let is_full = |layers: &LayerMap| {
            let concerned = cuts.iter().flat_map(|keys| layers.partitions.overlapping(*keys).collect::<Vec<_>>());
            concerned.into_iter().find(|(_, stack)| stack.len() >= limits.max_depth).map(|(keys, _)| keys.start)
        };
        while let Some(partition) = is_full(&self.pin_layers()) {
            self.room_wanted.store(true, Ordering::Relaxed);
            let _one_at_a_time = self.compaction.lock();
            self.room_wanted.store(false, Ordering::Relaxed);
            let states = {
                let layers = self.pin_layers();
                stack_state(&layers, layers.partitions.find(&partition), self.cutoff(), &BTreeSet::new())?
            };
            if let Some(run) = depth_run(&states, limits, self.pace()).filter(|_| states.len() >= limits.max_depth) {
                let job = Job { partition, run, reason: Reason::Depth };
                self.run_job(&job, &|| false, &mut CompactionReport::default())?;
            }
        }
        Ok(())
    }

    /// Whether layers may have to be merged.
    pub fn is_compaction_due(&self) -> bool {
        self.compaction_due.load(Ordering::Relaxed)
    }

    /// Whether a flush waits until a stack is shorter. A merge that has stepped back for others then stops, and the flush merges itself.
    pub fn is_room_wanted(&self) -> bool {
        self.room_wanted.load(Ordering::Relaxed)
    }

    /// Merges make way for WAL, of whatever timelines, while much comes in: an eighth of a load's processor time was theirs.
    fn pace(&self) -> Pace {
        let busy_for = self.environment.inflow.busy_for(Instant::now());
        if busy_for.is_some_and(|time| time < LONGEST_REST) { Pace::Busy } else { Pace::Calm }
    }

    /// Whether a merge that has begun, or would, should wait: much WAL comes in, and no stack is half-way to its bound.
    pub fn merges_rest(&self) -> bool {
        self.pace() == Pace::Busy && !is_urgent(self.pin_layers().partitions.depth(), &self.environment.compaction)
    }

    /// How far merging lags behind the WAL: 0 is not at all, 1 is as far as it may.
    pub fn compaction_debt(&self) -> f64 {
        debt(self.pin_layers().partitions.depth(), &self.environment.compaction)
    }

    fn plan_compaction(&self, layers: &LayerMap, pace: Pace) -> anyhow::Result<Vec<Job>> {
        let wanted = self.image_requests.keys();
        let cutoff = self.cutoff();
        let state_of = |(keys, stack): (KeyRange, &Arc<[Arc<StoredLayer>]>)| {
            let within = wanted.range(keys.start..keys.end).copied().collect();
            Ok(PartitionState { start: keys.start, layers: stack_state(layers, stack, cutoff, &within)? })
        };
        let states: Vec<PartitionState> = layers.partitions.iter().map(state_of).collect::<Result<_, LayerError>>()?;
        Ok(plan(&states, cutoff, &self.environment.compaction, pace))
    }

    /// `false` when it was told to stop: then nothing has changed.
    fn run_job(&self, job: &Job, stop: Stop<'_>, report: &mut CompactionReport) -> anyhow::Result<bool> {
        // Without the layers in memory: a merge takes long, and what is flushed meanwhile shall be freed.
        let partitions = self.pin_layers().partitions.clone();
        let place = partitions.place(&job.partition);
        let (keys, stack) = (partitions.range(place), &partitions.at(place).stack);
        let (run, below) = (&stack[job.run.clone()], &stack[job.run.end..]);
        let (Some(newest), Some(oldest)) = (run.first(), run.last()) else { return Ok(true) };
        let started = Instant::now();
        let rule = self.merge_rule(below.is_empty() && self.ancestor.is_none(), keys);
        let mut tombstones = TombstoneSet::default();
        for layer in run {
            let clipped = layer.file.tombstones()?.iter().filter_map(|tombstone| tombstone.clipped(keys));
            clipped.for_each(|tombstone| tombstones.insert(tombstone));
        }
        let end = newest.desc.lsns.end;
        let start = oldest.desc.lsns.start;
        let lsns = LsnRange { start: if rule.complete { rule.cutoff.clamp(start, end) } else { start }, end };
        let mut output = Output {
            timeline: self,
            rule: &rule,
            tombstones: rule.tombstones(tombstones.iter().copied()),
            below: LayerMap::new(MemoryLayer::new(start), Partitions::single(below.to_vec())),
            read_at: start,
            lsns,
            keys,
            piece_start: keys.start,
            open: None,
            pieces: Vec::new(),
            files: Vec::new(),
        };
        let oldest_first = run.iter().rev();
        let inputs =
            oldest_first.map(|layer| Ok(layer.file.versions(keys)?.map(|version| version.map_err(ReadError::from))));
        let inputs: Vec<_> = inputs.collect::<Result<_, LayerError>>()?;
        let mut stopped = false;
        let merged = merge(inputs, &tombstones, &rule, &mut output, |output, key| {
            stopped = stop();
            output.before(key)?;
            Ok(!stopped)
        });
        let finished = merged
            .map_err(anyhow::Error::from)
            .and_then(|()| if stopped { Ok(()) } else { Ok(output.end_piece(keys.end)?) });
        if let (Ok(()), false) = (&finished, stopped) {
            self.replace(job, run, output, report, started)?;
            return Ok(true);
        }
        output.discard();
        finished.with_context(|| format!("layers of the partition at {} cannot be merged", job.partition))?;
        Ok(false)
    }

    fn replace(
        &self,
        job: &Job,
        run: &[Arc<StoredLayer>],
        output: Output<'_>,
        report: &mut CompactionReport,
        started: Instant,
    ) -> anyhow::Result<()> {
        let removed = run.iter().map(|layer| layer.desc.name).collect();
        let edit = Edit::Replaced { partition: job.partition, removed, added: output.pieces };
        failpoints::reach(failpoints::MERGE_FILES_DONE);
        self.publish(&edit, &output.files, None)
            .inspect_err(|_| output.files.iter().for_each(|file| file.condemn()))?;
        failpoints::reach(failpoints::MERGE_PUBLISHED);
        self.image_requests.forget(output.keys);
        let read_bytes: u64 = run.iter().map(|layer| layer.desc.size_bytes).sum();
        let written_bytes: u64 = output.files.iter().map(|file| file.desc.size_bytes).sum();
        report.merges += 1;
        report.read_bytes += read_bytes;
        report.written_bytes += written_bytes;
        self.environment.metrics.compacted_bytes.inc_by(written_bytes);
        tracing::debug!(
            tenant = %self.tenant, timeline = %self.id, partition = %job.partition, reason = ?job.reason, layers = run.len(),
            read_bytes, written_bytes, files = output.files.len(), ms = started.elapsed().as_millis() as u64, "layers merged"
        );
        Ok(())
    }

    fn merge_rule(&self, complete: bool, keys: KeyRange) -> MergeRule {
        let manifest = self.manifest.lock();
        MergeRule {
            cutoff: manifest.gc_cutoff,
            retained: manifest.retained(),
            complete,
            max_chain: self.environment.compaction.max_chain,
            wanted: self.image_requests.keys().range(keys.start..keys.end).copied().collect(),
        }
    }
}

fn stack_state(
    layers: &LayerMap,
    stack: &[Arc<StoredLayer>],
    cutoff: Lsn,
    wanted: &BTreeSet<Key>,
) -> Result<Vec<LayerState>, LayerError> {
    let mut states: Vec<LayerState> = stack
        .iter()
        .map(|layer| LayerState {
            size_bytes: layers.share_of(layer),
            complete: layer.desc.is_complete(),
            lsns: layer.desc.lsns,
            history_bytes: layers.share_of_bytes(layer, layer.desc.history_bytes),
            erased_bytes: 0,
            wanted: false,
        })
        .collect();
    for (place, layer) in stack.iter().enumerate() {
        if layer.desc.tombstones == 0 || layer.desc.lsns.end > cutoff {
            continue;
        }
        for tombstone in layer.file.tombstones()?.iter() {
            for below in &stack[place + 1..] {
                states[place].erased_bytes +=
                    share(below.desc.size_bytes, below.file.permille_of(tombstone.range)?, 1000);
            }
        }
    }
    for key in wanted {
        for (state, layer) in states.iter_mut().zip(stack) {
            if let Some(kind) = newest_in(layer, key)? {
                state.wanted |= kind != VersionKind::Image;
                break;
            }
        }
    }
    Ok(states)
}

/// How the newest version of a key in a layer is stored.
fn newest_in(layer: &Arc<StoredLayer>, key: &Key) -> Result<Option<VersionKind>, LayerError> {
    if !layer.desc.keys.contains(key) {
        return Ok(None);
    }
    let last = layer.file.versions(KeyRange::single(*key))?.last().transpose()?;
    Ok(last.map(|version| version.kind))
}

/// The files that a merge makes.
struct Output<'a> {
    timeline: &'a Timeline,
    rule: &'a MergeRule,
    tombstones: Vec<Tombstone>,
    /// Layers below the merged ones.
    below: LayerMap,
    /// Where the merged layers begin.
    read_at: Lsn,
    lsns: LsnRange,
    keys: KeyRange,
    piece_start: Key,
    open: Option<OpenFile>,
    pieces: Vec<Piece<LayerDesc>>,
    files: Vec<Arc<StoredLayer>>,
}

struct OpenFile {
    name: crate::layer::desc::LayerName,
    writer: LayerFileWriter,
    history: HistoryCount,
}

/// Counts bytes of versions that will be superfluous once the cutoff has passed the layer.
#[derive(Default)]
struct HistoryCount {
    last: Option<(Key, Lsn, u64)>,
    history_bytes: u64,
    all_bytes: u64,
}

impl HistoryCount {
    fn add(&mut self, version: &Version, cutoff: Lsn) {
        let bytes = version.value.len() as u64;
        self.all_bytes += bytes;
        // What was kept at or below the cutoff is kept for somebody, but for the last, which stands in for the cutoff itself.
        if let Some((key, _, before)) = self.last
            && key == version.key
            && version.lsn > cutoff
        {
            self.history_bytes += before;
        }
        self.last = Some((version.key, version.lsn, bytes));
    }
}

impl Output<'_> {
    /// A new key follows: a good place to end a file that is large enough.
    fn before(&mut self, key: &Key) -> Result<(), ReadError> {
        let target_bytes = self.timeline.environment.compaction.target_bytes;
        let is_full = self.open.as_ref().is_some_and(|open| open.writer.content.written_bytes() >= target_bytes);
        if is_full && *key > self.piece_start { self.end_piece(*key) } else { Ok(()) }
    }

    fn file(&mut self) -> Result<&mut OpenFile, ReadError> {
        if self.open.is_none() {
            let name = self.timeline.store.tenant().name_layer(self.lsns.end);
            let path = self.timeline.layer_path(name);
            let writer = LayerFileWriter::create(&path, Packing::dense(self.timeline.environment.compress))
                .map_err(|source| LayerError::Io { path, source })?;
            self.open = Some(OpenFile { name, writer, history: HistoryCount::default() });
        }
        Ok(self.open.as_mut().expect("it was opened"))
    }

    fn end_piece(&mut self, end: Key) -> Result<(), ReadError> {
        let keys = KeyRange { start: std::mem::replace(&mut self.piece_start, end), end };
        let tombstones: Vec<Tombstone> =
            self.tombstones.iter().filter_map(|tombstone| tombstone.clipped(keys)).collect();
        if self.open.is_none() && tombstones.is_empty() {
            self.pieces.push(Piece { start: keys.start, layer: None });
            return Ok(());
        }
        self.file()?;
        let Some(mut open) = self.open.take() else { unreachable!("it was opened") };
        tombstones.iter().for_each(|tombstone| open.writer.content.tombstone(*tombstone));
        let kind = if self.rule.complete { LayerKind::Image } else { LayerKind::Delta };
        let layer = self.timeline.finish_layer(open.name, open.writer, (kind, self.lsns, keys), |size_bytes| {
            share(size_bytes, open.history.history_bytes, open.history.all_bytes)
        })?;
        self.pieces.push(Piece { start: keys.start, layer: Some(layer.desc.clone()) });
        self.files.push(layer);
        failpoints::reach(failpoints::MERGE_FILE_DONE);
        Ok(())
    }

    /// Removes what was written.
    fn discard(self) {
        self.files.iter().for_each(|file| file.condemn());
        if let Some(open) = self.open {
            _ = std::fs::remove_file(open.writer.path()); // removed as a leftover otherwise
        }
    }

    /// The key's value below the merged layers.
    fn read_below(&self, key: &Key) -> Result<Older, ReadError> {
        let mut reads = [Reconstruction::new(*key, self.read_at)];
        match Lineage::new(&self.below, self.timeline.ancestor.as_ref()).locate(&mut reads, Io::MayBlock) {
            Err(ReadError::AncestorBehind { .. }) => return Ok(Older::Unknown),
            located => located?,
        }
        fetch(&mut reads, Io::MayBlock)?;
        let [read] = reads;
        let base = read.base().cloned();
        if read.delta_count() == 0 {
            return Ok(base.map_or(Older::Absent, Older::Value));
        }
        let deltas = read.deltas().map(|(lsn, value)| (lsn, &value[..]));
        Ok(redo(key, base.as_ref(), deltas).map_or(Older::Unknown, Older::Value))
    }
}

impl MergeContext for Output<'_> {
    type Error = ReadError;

    fn redo(&mut self, key: &Key, base: Option<&Bytes>, deltas: &[Version]) -> Option<Bytes> {
        redo(key, base, deltas.iter().map(|delta| (delta.lsn, &delta.value[..])))
    }

    fn older(&mut self, key: &Key) -> Result<Older, ReadError> {
        self.read_below(key)
    }

    fn put(&mut self, version: Version) -> Result<(), ReadError> {
        let cutoff = self.rule.cutoff;
        let open = self.file()?;
        open.history.add(&version, cutoff);
        let put = open.writer.content.version(version.key, version.lsn, version.kind, &version.value);
        put.map_err(|source| LayerError::Io { path: open.writer.path().to_owned(), source }.into())
    }
}

/// Applies deltas, oldest first.
fn redo<'d>(key: &Key, base: Option<&Bytes>, deltas: impl Iterator<Item = (Lsn, &'d [u8])>) -> Option<Bytes> {
    let id = PageId::of(key)?;
    let mut page: Page = match base {
        Some(image) => image[..].try_into().ok()?,
        None => [0; PAGE_SIZE],
    };
    for (lsn, delta) in deltas {
        id.apply(&mut page, delta, lsn).ok()?;
    }
    Some(Bytes::copy_from_slice(&page))
}
