//! The whole store of some timelines against a naive map.
//!
//! Random records (images, deltas, deltas that need nothing, tombstones, many keys), branches of branches, flushes, merges (whole, interrupted,
//! of what readers want), cutoffs, leases, evictions, crashes, and deaths between any two requests to the object store. Then every key at every readable LSN of every timeline must be what the
//! map says, no stack may be longer than the bound, and the folders must hold exactly the files that the manifests name.
//!
//! Each case is played twice: on an object store that works, and on one that fails, answers late, loses answers and lists late.
//!
//! `proptest` prints the failing case and keeps its seed; `PROPTEST_CASES` says how many are run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ogel_ids::{Generation, Lsn, NodeId, TenantId, TimelineId};
use ogel_object_store::{
    ObjectStore, RemoteArgs, StoreMetrics,
    faults::{Fault, Faults},
};
use proptest::prelude::*;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    delta,
    key::{Fork, PAGE_SIZE, Page, Rel, RelFork, SlruKind},
    redo,
};

use super::*;
use crate::{
    branch::Timestamp,
    keyspace::KeyRange,
    layer::{
        LsnRange, VersionKind,
        desc::{LayerDesc, LayerName},
        file::{BlockCache, LayerHeader, LayerKind, Packing, RemoteReader, write_file},
        memory::WriteBatch,
    },
    manifest::{Ancestor as AncestorEntry, Lease, TimelineState},
    metrics::Metrics,
    remote::{TenantStore, TimelineStore, claim::Insistence, layout, manifest_log},
};

const TENANT: TenantId = TenantId::from_bytes([7; 16]);
const KIND: SlruKind = SlruKind::MultixactOffsets;
/// Pages, in three segments: deltas apply to them.
const PAGES: u32 = 3 * 32;
/// Relations whose sizes are kept: keys that hold images only.
const RELATIONS: u32 = 12;
const START: Lsn = Lsn(0x1000);
const LIMITS: CompactionLimits = CompactionLimits {
    max_depth: 5,
    fan_in: 3,
    target_bytes: 1500,
    trim_percent: 25,
    min_trim_bytes: 1,
    small_bytes: 64,
    max_chain: 4,
};

#[derive(Debug, Clone)]
enum Operation {
    Image { page: u32, seed: u8 },
    Delta { page: u32, index: u16, value: u32 },
    Init { page: u32 },
    ErasePages { first: u32, count: u32 },
    Size { rel: u32, blocks: u32 },
    EraseSizes { first: u32, count: u32 },
}

#[derive(Debug, Clone)]
enum Step {
    /// What one record does.
    Record(Vec<Operation>),
    /// A record that touches many keys.
    Wide(u32),
    Flush,
    Freeze,
    Compact,
    CompactFully,
    /// A merge that is told to stop after so many keys.
    Interrupted(usize),
    /// Readers want an image of this page.
    Want(u32),
    /// The cutoff moves on by this share of what it can.
    Cutoff(u8),
    Branch(u8),
    Lease(u8),
    Release,
    /// Everything in memory is lost, and ingested again.
    Crash,
    /// A flush and merges of which so many requests reach the object store before the process dies.
    Die(u64),
    /// Local files go; the object store has them.
    Evict,
    /// The other timelines' turn.
    Switch(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let page = || prop_oneof![4 => 0..6_u32, 1 => 0..PAGES];
    prop_oneof![
        2 => (page(), any::<u8>()).prop_map(|(page, seed)| Operation::Image { page, seed }),
        10 => (page(), 0..4_u16, any::<u32>()).prop_map(|(page, index, value)| Operation::Delta { page, index, value }),
        1 => page().prop_map(|page| Operation::Init { page }),
        1 => (0..PAGES, 1..40_u32).prop_map(|(first, count)| Operation::ErasePages { first, count }),
        2 => (0..RELATIONS, 0..100_u32).prop_map(|(rel, blocks)| Operation::Size { rel, blocks }),
        1 => (0..RELATIONS, 1..4_u32).prop_map(|(first, count)| Operation::EraseSizes { first, count }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => prop::collection::vec(operation(), 1..4).prop_map(Step::Record),
        2 => any::<u32>().prop_map(Step::Wide),
        8 => Just(Step::Flush),
        1 => Just(Step::Freeze),
        3 => Just(Step::Compact),
        1 => Just(Step::CompactFully),
        1 => (0..30_usize).prop_map(Step::Interrupted),
        2 => (0..6_u32).prop_map(Step::Want),
        3 => any::<u8>().prop_map(Step::Cutoff),
        2 => any::<u8>().prop_map(Step::Branch),
        1 => any::<u8>().prop_map(Step::Lease),
        1 => Just(Step::Release),
        2 => Just(Step::Crash),
        1 => (0..12_u64).prop_map(Step::Die),
        2 => Just(Step::Evict),
        4 => any::<u8>().prop_map(Step::Switch),
    ]
}

fn page_key(page: u32) -> Key {
    Key::slru_page(KIND, page)
}

fn size_key(rel: u32) -> Key {
    Key::rel_size(relation(rel))
}

fn relation(rel: u32) -> RelFork {
    Rel { spc: 1663, db: 5, rel: 100 + rel }.fork(Fork::Main)
}

fn delta_bytes(index: u16, value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    delta::encode_multixact_offsets(&mut bytes, &[(index, value)]);
    bytes
}

/// What a record leaves behind: values of the keys that it touched, `None` for gone.
type Effects = BTreeMap<Key, Option<Bytes>>;

/// A timeline as the naive map has it.
#[derive(Clone)]
struct Model {
    parent: Option<(usize, Lsn)>,
    history: BTreeMap<Key, Vec<(Lsn, Option<Bytes>)>>,
    records: Vec<(Lsn, Vec<Operation>)>,
}

/// Request after which a process is dead; a live one has none.
const NEVER: u64 = u64::MAX;

/// How a process sees the object store: shaky if there is a seed, and gone once it is dead.
fn faults(seed: Option<u64>, last_request: Arc<AtomicU64>) -> Arc<Faults> {
    let count = AtomicU64::new(0);
    Faults::new(move |_, _| {
        let alive = last_request.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            0 => None,
            NEVER => Some(NEVER),
            left => Some(left - 1),
        });
        if alive.is_err() {
            return Some(Fault::ServerError);
        }
        let mut mixed = seed?.wrapping_add(count.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Rare enough that seven attempts never fail in a row.
        match (mixed ^ mixed >> 31) % 200 {
            0..3 => Some(Fault::SlowDown),
            3..7 => Some(Fault::LostReply),
            7..11 => Some(Fault::ServerError),
            11..14 => Some(Fault::CutBody),
            14..16 => Some(Fault::Delay(Duration::from_millis(1))),
            _ => None,
        }
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub(super) struct World {
    folder: tempfile::TempDir,
    /// Of the process that lives: what it had under way ends with it.
    runtime: tokio::runtime::Runtime,
    seed: Option<u64>,
    last_request: Arc<AtomicU64>,
    /// As it is; the process sees it through its faults.
    remote: ObjectStore,
    tenant: Arc<TenantStore>,
    pub(super) environment: Arc<Environment>,
    pub(super) timelines: Vec<Arc<Timeline>>,
    models: Vec<Model>,
    leases: usize,
    /// How often everything in memory was lost.
    lives: usize,
}

pub(super) fn state(lsn: Lsn) -> RunningState {
    RunningState {
        prev_record_lsn: Lsn(lsn.0 - 8),
        clean_shutdown: false,
        newest_commit: Some(Timestamp(lsn.0 as i64)),
        logical_size_bytes: Some(0),
        checkpoint: CheckpointState::default(),
    }
}

/// In memory where the system has such a place, but not in this process.
fn quick_folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn timeline_id(number: usize) -> TimelineId {
    TimelineId::from_bytes([number as u8 + 1; 16])
}

impl World {
    fn new(seed: Option<u64>) -> World {
        let never = FreezeLimits {
            size_bytes: usize::MAX,
            wal_bytes: u64::MAX,
            age: Duration::MAX,
            all_open_bytes: usize::MAX,
        };
        Self::seeded(quick_folder(), ObjectStore::memory(StoreMetrics::default()), never, LIMITS, seed)
    }

    /// Its object store is a folder: nothing of it is in this process.
    pub(super) fn in_folders(freeze: FreezeLimits, compaction: CompactionLimits) -> World {
        let folder = quick_folder();
        let remote = folder.path().join("remote");
        let remote = ObjectStore::open(&RemoteArgs::default(), &remote, StoreMetrics::default()).unwrap();
        Self::seeded(folder, remote, freeze, compaction, None)
    }

    fn seeded(
        folder: tempfile::TempDir,
        remote: ObjectStore,
        freeze: FreezeLimits,
        compaction: CompactionLimits,
        seed: Option<u64>,
    ) -> World {
        let runtime = runtime();
        let last_request = Arc::new(AtomicU64::new(NEVER));
        let seen = remote.with_faults_for_tests(faults(seed, last_request.clone()));
        let claim = TenantStore::attach(&seen, TENANT, NodeId(1), Insistence::IfOurs);
        let tenant = runtime.block_on(claim).unwrap();
        let environment = Self::environment(&runtime, seen, freeze, compaction);
        let mut world = World {
            folder,
            runtime,
            seed,
            last_request,
            remote,
            tenant,
            environment,
            timelines: Vec::new(),
            models: Vec::new(),
            leases: 0,
            lives: 0,
        };
        world.create(None);
        world
    }

    fn environment(
        runtime: &tokio::runtime::Runtime,
        store: ObjectStore,
        freeze: FreezeLimits,
        compaction: CompactionLimits,
    ) -> Arc<Environment> {
        let _guard = runtime.enter();
        Arc::new(Environment {
            remote_reader: RemoteReader::new(store),
            upload_queue_bytes: u64::MAX,
            block_cache: Arc::new(BlockCache::new(1 << 20)),
            page_cache: PageCache::new(1 << 20, Metrics::default()),
            freeze,
            compaction,
            compress: true,
            open_bytes: AtomicU64::new(0),
            inflow: ogel_service::Inflow::new(std::time::Instant::now()),
            metrics: Metrics::default(),
        })
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.path().join(self.lives.to_string()).join(number.to_string())
    }

    /// Writes the files of a new timeline and opens it.
    fn create(&mut self, parent: Option<(usize, Lsn)>) {
        let number = self.timelines.len();
        let (path, id) = (self.path(number), timeline_id(number));
        std::fs::create_dir_all(path.join(LAYERS_FOLDER)).unwrap();
        let start_lsn = parent.map_or(START, |(_, lsn)| lsn);
        let mut stack = Vec::new();
        let mut layers = BTreeMap::new();
        if parent.is_none() {
            let name = LayerName { end_lsn: START, generation: Generation(0), sequence: 0 };
            let (kind, lsns, keys) = (LayerKind::Image, LsnRange { start: START, end: START }, KeyRange::ALL);
            let header = LayerHeader { kind, tenant: TENANT, timeline: id, lsns, keys };
            let file = path.join(LAYERS_FOLDER).join(name.to_string());
            let written = write_file(&file, &header, Packing::Dense, |writer| {
                writer.version(Key::checkpoint(), START, VersionKind::Image, &state(START).encode())
            });
            let (size_bytes, index_offset) = written.map(|written| (written.size_bytes, written.index_offset)).unwrap();
            let object = layout::layer(TENANT, id, name);
            self.runtime.block_on(self.remote.put_new(&object, std::fs::read(&file).unwrap())).unwrap();
            stack.push(name);
            let (history_bytes, tombstones) = (0, 0);
            layers.insert(
                name,
                LayerDesc { name, kind, lsns, keys, size_bytes, index_offset, history_bytes, tombstones },
            );
        }
        let ancestor = parent.map(|(parent, lsn)| AncestorEntry { timeline: timeline_id(parent), lsn });
        let manifest = Manifest {
            tenant: TENANT,
            timeline: id,
            system_identifier: 1,
            pg_version_num: 170_011,
            wal_segment_size: 16 << 20,
            start_lsn,
            prev_record_lsn: Lsn(start_lsn.0 - 8),
            ancestor,
            start_state: Some(state(start_lsn)),
            disk_consistent_lsn: start_lsn,
            logical_size_bytes: 0,
            term_history: Vec::new(),
            gc_cutoff: start_lsn,
            branches: BTreeMap::new(),
            leases: BTreeMap::new(),
            state: TimelineState::Active,
            partitions: crate::layer::partitions::Partitions::single(stack),
            layers,
        };
        self.models.push(Model { parent, history: BTreeMap::new(), records: Vec::new() });
        let made = self.runtime.block_on(TimelineStore::create(&self.tenant, manifest)).unwrap();
        let timeline = self.open(number, made);
        self.timelines.push(timeline);
    }

    fn open(&self, number: usize, (store, manifest): (TimelineStore, Manifest)) -> Arc<Timeline> {
        let _guard = self.runtime.enter();
        let ancestor =
            self.models[number].parent.map(|(parent, lsn)| Ancestor { timeline: self.timelines[parent].clone(), lsn });
        remove_leftovers(&self.path(number), &manifest).unwrap();
        Timeline::open(&self.path(number), manifest, store, ancestor, self.environment.clone()).unwrap()
    }

    /// Publishes an edit; durable when this returns.
    fn record_edit(&self, timeline: &Timeline, edit: &Edit) {
        let ticket = timeline.publish(edit, &[], None).unwrap();
        self.runtime.block_on(ticket.durable()).unwrap();
    }

    /// What was in memory, and what the object store had not got yet, is gone; ingest brings it again.
    fn crash(&mut self) {
        let count = self.timelines.len();
        // A file that was being written.
        std::fs::write(self.path(0).join(LAYERS_FOLDER).join("0000000000001000-00000001-0fffffff.layer"), b"half")
            .unwrap();
        self.timelines.clear();
        // Nothing of the process that died touches the files of the next one.
        let from = self.folder.path().join(self.lives.to_string());
        self.lives += 1;
        std::fs::rename(from, self.folder.path().join(self.lives.to_string())).unwrap();
        self.runtime = runtime(); // the old one's tasks end here
        self.last_request = Arc::new(AtomicU64::new(NEVER));
        let faults = faults(self.seed.map(|seed| seed ^ self.lives as u64), self.last_request.clone());
        if self.seed.is_some_and(|seed| (seed >> self.lives) & 1 == 1) {
            // What the life before wrote last is not listed yet.
            let generation = self.tenant.generation.0;
            faults.list_late(&format!("generations/{generation:08x}"));
            faults.list_late(&format!("manifest/{generation:08x}-"));
        }
        let seen = self.remote.with_faults_for_tests(faults);
        let (freeze, compaction) = (self.environment.freeze, self.environment.compaction);
        self.environment = Self::environment(&self.runtime, seen.clone(), freeze, compaction);
        let claim = TenantStore::attach(&seen, TENANT, NodeId(1), Insistence::IfOurs);
        self.tenant = self.runtime.block_on(claim).unwrap();
        for number in 0..count {
            let found = self.runtime.block_on(TimelineStore::open(&self.tenant, timeline_id(number))).unwrap().unwrap();
            let timeline = self.open(number, found);
            let from = timeline.disk_consistent_lsn();
            self.timelines.push(timeline);
            let again = self.models[number].records.clone();
            for (lsn, operations) in again.into_iter().filter(|(lsn, _)| *lsn > from) {
                self.ingest(number, lsn, &operations);
            }
        }
    }

    fn value(&self, number: usize, key: &Key, at: Lsn) -> Option<Bytes> {
        let model = &self.models[number];
        let own = model.history.get(key).and_then(|versions| versions.iter().rev().find(|(lsn, _)| *lsn <= at));
        match (own, model.parent) {
            (Some((_, value)), _) => value.clone(),
            (None, Some((parent, lsn))) => self.value(parent, key, at.min(lsn)),
            (None, None) => None,
        }
    }

    fn record(&mut self, number: usize, operations: Vec<Operation>) {
        let lsn = Lsn(self.timelines[number].last_record_lsn().0 + 8);
        let mut effects = Effects::new();
        for operation in &operations {
            self.model_operation(number, lsn, operation, &mut effects);
        }
        let model = &mut self.models[number];
        for (key, value) in effects {
            model.history.entry(key).or_default().push((lsn, value));
        }
        model.records.push((lsn, operations.clone()));
        self.ingest(number, lsn, &operations);
    }

    fn model_operation(&self, number: usize, lsn: Lsn, operation: &Operation, effects: &mut Effects) {
        let before = |effects: &Effects, key: &Key| match effects.get(key) {
            Some(value) => value.clone(),
            None => self.value(number, key, lsn),
        };
        match operation {
            Operation::Image { page, seed } => {
                effects.insert(page_key(*page), Some(image(*seed)));
            }
            Operation::Init { page } => {
                effects.insert(page_key(*page), Some(Bytes::from(vec![0; PAGE_SIZE])));
            }
            Operation::Delta { page, index, value } => {
                let key = page_key(*page);
                let mut content: Page =
                    before(effects, &key).map_or([0; PAGE_SIZE], |page| page[..].try_into().unwrap());
                redo::apply_slru(KIND, &mut content, &delta_bytes(*index, *value)).unwrap();
                effects.insert(key, Some(Bytes::copy_from_slice(&content)));
            }
            Operation::ErasePages { first, count } => {
                (*first..PAGES.min(first + count)).for_each(|page| _ = effects.insert(page_key(page), None));
            }
            Operation::Size { rel, blocks } => {
                effects.insert(size_key(*rel), Some(Bytes::copy_from_slice(&blocks.to_be_bytes())));
            }
            Operation::EraseSizes { first, count } => {
                (*first..RELATIONS.min(first + count)).for_each(|rel| _ = effects.insert(size_key(rel), None));
            }
        }
    }

    fn ingest(&self, number: usize, lsn: Lsn, operations: &[Operation]) {
        let timeline = &self.timelines[number];
        let mut batch = WriteBatch::default();
        for operation in operations {
            match operation {
                Operation::Image { page, seed } => batch.put(page_key(*page), lsn, VersionKind::Image, &image(*seed)),
                Operation::Delta { page, index, value } => {
                    batch.put(page_key(*page), lsn, VersionKind::Delta, &delta_bytes(*index, *value));
                }
                Operation::Init { page } => {
                    let mut bytes = Vec::new();
                    delta::encode_zero(&mut bytes);
                    batch.put(page_key(*page), lsn, VersionKind::InitDelta, &bytes);
                }
                Operation::ErasePages { first, count } => {
                    let range = KeyRange::inclusive(page_key(*first), page_key((first + count).min(PAGES) - 1));
                    batch.erase(range, lsn);
                }
                Operation::Size { rel, blocks } => {
                    batch.put(size_key(*rel), lsn, VersionKind::Image, &blocks.to_be_bytes());
                }
                Operation::EraseSizes { first, count } => {
                    let last = (first + count).min(RELATIONS) - 1;
                    batch.erase(KeyRange::inclusive(size_key(*first), size_key(last)), lsn);
                }
            }
        }
        batch.put(Key::checkpoint(), lsn, VersionKind::Image, &state(lsn).encode());
        timeline.append(&mut batch);
        timeline.advance(Head { lsn, state: state(lsn) });
    }

    fn run(&mut self, step: Step, current: &mut usize) {
        let timeline = self.timelines[*current].clone();
        // A position between the cutoff and the head, at a record's end.
        let chosen = |share: u8, to: Lsn| {
            let from = timeline.cutoff();
            Lsn(from.0 + (to.0 - from.0) / 8 * u64::from(share) / 255 * 8)
        };
        match step {
            Step::Record(operations) => self.record(*current, operations),
            Step::Wide(value) => {
                let wide = (0..PAGES).map(|page| Operation::Delta { page, index: 9, value: value ^ page }).collect();
                self.record(*current, wide);
            }
            Step::Flush => _ = timeline.flush_all().unwrap(),
            Step::Freeze => timeline.freeze(),
            Step::Compact => _ = timeline.compact(&|| false).unwrap(),
            Step::CompactFully => _ = timeline.compact_fully(&|| false).unwrap(),
            Step::Interrupted(keys) => {
                let asked = AtomicUsize::new(0);
                timeline.compact_fully(&|| asked.fetch_add(1, Ordering::Relaxed) >= keys).unwrap();
            }
            Step::Want(page) => timeline.image_requests.add(page_key(page)),
            Step::Cutoff(share) => timeline.move_cutoff(chosen(share, timeline.disk_consistent_lsn())).unwrap(),
            Step::Branch(share) if self.timelines.len() < 5 => {
                let lsn = chosen(share, timeline.last_record_lsn());
                let child = timeline_id(self.timelines.len());
                self.record_edit(&timeline, &Edit::BranchAdded { timeline: child, lsn });
                self.create(Some((*current, lsn)));
            }
            Step::Branch(_) => {}
            Step::Lease(share) => {
                let lease = Lease { lsn: chosen(share, timeline.last_record_lsn()), expires_s: 1 };
                self.leases += 1;
                self.record_edit(&timeline, &Edit::LeaseAdded { id: self.leases.to_string(), lease });
            }
            Step::Release => {
                for id in timeline.manifest().leases.keys().take(1).cloned() {
                    self.record_edit(&timeline, &Edit::LeaseRemoved { id });
                }
            }
            Step::Evict => {
                self.runtime.block_on(timeline.store().drained().durable()).unwrap();
                timeline.pin_layers().files().iter().for_each(|layer| _ = layer.file.evict());
            }
            Step::Crash => {
                drop(timeline);
                self.crash();
            }
            Step::Die(requests) => {
                self.last_request.store(requests, Ordering::SeqCst);
                // It may need what it cannot read any more.
                let _ =
                    timeline.flush_all().and_then(|_| timeline.move_cutoff(chosen(50, timeline.disk_consistent_lsn())));
                let _ = timeline.compact(&|| false);
                while self.last_request.load(Ordering::SeqCst) > 0 && timeline.store().status().queued > 0 {
                    std::thread::yield_now();
                }
                drop(timeline);
                self.crash();
            }
            Step::Switch(number) => *current = usize::from(number) % self.timelines.len(),
        }
    }

    fn check(&self, number: usize) -> Result<(), TestCaseError> {
        let timeline = &self.timelines[number];
        let manifest = timeline.manifest();
        manifest.check().map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(manifest.depth() <= LIMITS.max_depth, "{} layers on a stack", manifest.depth());
        let head = timeline.last_record_lsn();
        let retained = manifest.retained();
        let history = (manifest.gc_cutoff.0..=head.0).step_by(8).map(Lsn);
        let readable: BTreeSet<Lsn> = history.chain(retained.iter().copied()).filter(|lsn| *lsn <= head).collect();
        let pages: Vec<PageId> = (0..PAGES).map(|page| PageId::Slru(KIND, page)).collect();
        for at in readable {
            let mut maker = timeline.make_pages(timeline.gather_pages(&pages, at, Io::MayBlock).unwrap());
            for page in 0..PAGES {
                let mut content = [1; PAGE_SIZE];
                maker.next_into(&mut content).unwrap();
                let expected = self.value(number, &page_key(page), at);
                let same = expected.map_or(content == [0; PAGE_SIZE], |expected| content == expected[..]);
                prop_assert!(same, "page {page} of timeline {number} at {at}: {}", self.story(number, &page_key(page)));
            }
            let sizes = timeline.scan(KeyRange::all_rel_sizes(), at, Io::MayBlock).unwrap();
            let expected: BTreeMap<Key, Bytes> = (0..RELATIONS)
                .filter_map(|rel| Some((size_key(rel), self.value(number, &size_key(rel), at)?)))
                .collect();
            prop_assert_eq!(&sizes, &expected, "sizes of timeline {} at {}", number, at);
            prop_assert_eq!(timeline.state_at(at).unwrap().newest_commit, Some(Timestamp(at.0 as i64)));
            for rel in 0..RELATIONS {
                let size = timeline.read_value(&size_key(rel), at, Io::MayBlock).unwrap();
                prop_assert_eq!(size.as_ref(), expected.get(&size_key(rel)), "size {} at {}", rel, at);
            }
        }
        let below = Lsn(manifest.gc_cutoff.0 - 8);
        if !retained.contains(&below) && manifest.ancestor.is_none_or(|ancestor| below > ancestor.lsn) {
            let refused = timeline.read_value(&size_key(0), below, Io::MayBlock);
            prop_assert!(matches!(refused, Err(ReadError::BelowCutoff { .. })), "{below} was not refused");
        }
        self.runtime.block_on(timeline.store().drained().durable()).unwrap();
        let stored = manifest_log::load(&self.remote, TENANT, timeline.id, self.tenant.generation);
        let stored = self.runtime.block_on(stored).unwrap().unwrap().manifest;
        prop_assert!(stored == timeline.manifest(), "the object store has another manifest than the readers");
        let named: BTreeSet<String> = manifest.layers.keys().map(LayerName::to_string).collect();
        let is_leftover = || {
            let files = std::fs::read_dir(self.path(number).join(LAYERS_FOLDER)).unwrap();
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).find(|file| !named.contains(file))
        };
        // The upload queue lets go of a file a moment after its edit is durable.
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        while let Some(file) = is_leftover() {
            prop_assert!(std::time::Instant::now() < give_up, "{} is not removed", file);
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Everything that happened to a key.
    fn story(&self, number: usize, key: &Key) -> String {
        let mut lines = format!("parent {:?}", self.models[number].parent);
        for (lsn, value) in self.models[number].history.get(key).into_iter().flatten() {
            lines += &format!("\n{lsn}: {:?}", value.as_ref().map(|value| value[..24].to_vec()));
        }
        for (_, stack) in self.timelines[number].pin_layers().partitions.overlapping(KeyRange::single(*key)) {
            for layer in stack.iter() {
                lines += &format!("\n{:?} {:?}", layer.desc.kind, layer.desc.lsns);
                for version in layer.file.versions(KeyRange::single(*key)).unwrap() {
                    lines += &format!(
                        " {:?}",
                        version.map(|version| (version.lsn, version.kind, version.value.len())).unwrap()
                    );
                }
            }
        }
        lines
    }
}

fn image(seed: u8) -> Bytes {
    (0..PAGE_SIZE).map(|at| seed ^ (at / 64) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_is_what_happened(steps in prop::collection::vec(step(), 1..90), seed in any::<u64>()) {
        play(&steps, None)?;
        play(&steps, Some(seed))?;
    }
}

fn play(steps: &[Step], seed: Option<u64>) -> Result<(), TestCaseError> {
    let mut world = World::new(seed);
    let mut current = 0;
    for step in steps {
        world.run(step.clone(), &mut current);
    }
    for number in 0..world.timelines.len() {
        world.check(number)?;
    }
    world.crash();
    for number in 0..world.timelines.len() {
        world.timelines[number].flush_all().unwrap();
        world.timelines[number].compact(&|| false).unwrap();
        world.check(number)?;
    }
    Ok(())
}
