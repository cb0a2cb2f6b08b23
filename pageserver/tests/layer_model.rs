//! The layer store against a plain list of everything that ever happened.
//!
//! Random puts, tombstones and truncations in records, with freezes, flushes and restarts in between; then every key at every LSN, and
//! scans, must read as the list says. `proptest` prints the seed of a failure and keeps it beside this file.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use ogel_ids::{Generation, Lsn, TenantId, TimelineId};
use pageserver::{
    keyspace::{Key, KeyRange},
    layer::{
        Io, LsnRange, VersionKind,
        desc::{LayerDesc, LayerName},
        file::{BlockCache, LayerFile, LayerHeader, LayerKind, Packing, fetch, write_file},
        map::LayerMap,
        memory::{MemoryLayer, Sealed, WriteBatch},
        partitions::Partitions,
        reconstruct::{Reconstruction, Scan},
        stored::StoredLayer,
    },
    manifest::Edit,
};
use proptest::prelude::*;
use wal_decoder::key::{Fork, Rel, RelFork};

const RELATIONS: u32 = 3;
const BLOCKS: u32 = 5;

fn fork(rel: u32, fork: bool) -> RelFork {
    Rel { spc: 1663, db: 5 + rel / 2, rel: 100 + rel }.fork(if fork { Fork::Main } else { Fork::FreeSpaceMap })
}

#[derive(Debug, Clone)]
enum Operation {
    Put { key: Key, kind: VersionKind, value_bytes: usize },
    Erase(KeyRange),
}

#[derive(Debug, Clone)]
enum Step {
    /// Operations of one record: they share an LSN.
    Record(Vec<Operation>),
    Freeze,
    Flush,
    /// All that is not in files is lost and written again.
    Restart,
}

fn key() -> impl Strategy<Value = Key> {
    (0..RELATIONS, any::<bool>(), 0..BLOCKS).prop_map(|(rel, main, block)| Key::rel_page(fork(rel, main), block))
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        (0..RELATIONS, any::<bool>(), 0..BLOCKS)
            .prop_map(|(rel, main, b)| KeyRange::rel_pages_from(fork(rel, main), b)),
        (0..RELATIONS).prop_map(|rel| KeyRange::rel_pages(fork(rel, true).rel)),
        (0..RELATIONS).prop_map(|rel| KeyRange::database_pages(1663, 5 + rel / 2)),
        key().prop_map(KeyRange::single),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let kind =
        prop_oneof![3 => Just(VersionKind::Delta), 1 => Just(VersionKind::Image), 1 => Just(VersionKind::InitDelta)];
    let value_bytes = prop_oneof![9 => 0..40_usize, 1 => Just(8192), 1 => Just(70_000)];
    prop_oneof![
        6 => (key(), kind, value_bytes).prop_map(|(key, kind, value_bytes)| Operation::Put { key, kind, value_bytes }),
        1 => range().prop_map(Operation::Erase),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(operation(), 1..5).prop_map(Step::Record),
        1 => Just(Step::Freeze),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ]
}

/// Everything that happened, in order.
#[derive(Default)]
struct Model(Vec<(Lsn, Operation, Bytes)>);

/// What makes a value: the base, if any, and the deltas on it, oldest first.
type Chain = (Option<Bytes>, Vec<Bytes>);

impl Model {
    fn chain(&self, key: &Key, at: Lsn) -> Chain {
        let mut chain: Chain = (None, Vec::new());
        for (_, operation, value) in self.0.iter().filter(|(lsn, ..)| *lsn <= at) {
            match operation {
                Operation::Put { key: put, kind, .. } if put == key => match kind {
                    VersionKind::Image => chain = (Some(value.clone()), Vec::new()),
                    VersionKind::InitDelta => chain = (None, vec![value.clone()]),
                    VersionKind::Delta => chain.1.push(value.clone()),
                },
                Operation::Erase(range) if range.contains(key) => chain = (None, Vec::new()),
                _ => {}
            }
        }
        chain
    }

    fn newest(&self, key: &Key, at: Lsn) -> Option<Bytes> {
        let mut newest = None;
        for (_, operation, value) in self.0.iter().filter(|(lsn, ..)| *lsn <= at) {
            match operation {
                Operation::Put { key: put, .. } if put == key => newest = Some(value.clone()),
                Operation::Erase(range) if range.contains(key) => newest = None,
                _ => {}
            }
        }
        newest
    }
}

struct Store<'a> {
    folder: &'a Path,
    cache: Arc<BlockCache>,
    map: LayerMap,
    last: Lsn,
    flushed: Lsn,
}

impl<'a> Store<'a> {
    fn new(folder: &'a Path) -> Self {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let map = LayerMap::new(MemoryLayer::new(Lsn(0)), Partitions::single(Vec::new()));
        Self { folder, cache, map, last: Lsn(0), flushed: Lsn(0) }
    }

    fn record(&mut self, lsn: Lsn, operations: &[(Lsn, Operation, Bytes)]) {
        let mut batch = WriteBatch::default();
        for (_, operation, value) in operations {
            match operation {
                Operation::Put { key, kind, .. } => batch.put(*key, lsn, *kind, value),
                Operation::Erase(range) => batch.erase(*range, lsn),
            }
        }
        self.map.open.apply(&mut batch);
        self.last = lsn;
    }

    fn freeze(&mut self) {
        if self.last > self.map.open.start {
            self.map.open.seal(Sealed { end: self.last, logical_size_bytes: 0 });
            self.map = self.map.freeze(MemoryLayer::new(self.last));
        }
    }

    fn flush(&mut self) {
        while let Some(layer) = self.map.frozen.last().cloned() {
            let end = layer.sealed().unwrap().end;
            let header = header(layer.lsn_range(end));
            let path = self.folder.join(format!("{}", end.0));
            let written = write_file(&path, &header, Packing::Dense, |writer| {
                let content = layer.content();
                content.versions().try_for_each(|(key, lsn, kind, value)| writer.version(key, lsn, kind, value))?;
                content.tombstones().for_each(|tombstone| writer.tombstone(*tombstone));
                Ok(())
            })
            .unwrap();
            let file = Arc::new(LayerFile::open(&path, &header, self.cache.clone()).unwrap());
            let desc = LayerDesc {
                name: LayerName { end_lsn: end, generation: Generation(1), sequence: 1 },
                kind: header.kind,
                lsns: header.lsns,
                keys: header.keys,
                size_bytes: written.size_bytes,
                index_offset: written.index_offset,
                history_bytes: 0,
                tombstones: 0,
            };
            let edit = Edit::Flushed { layers: vec![desc.clone()], disk_consistent_lsn: end, logical_size_bytes: 0 };
            let stored = StoredLayer::new(desc, file);
            self.map = self.map.edited(&edit, &[stored]).unwrap().without_frozen(&layer);
            self.flushed = end;
        }
    }

    /// Opens the files again; what was in memory is gone.
    fn restart(&mut self) {
        let open = |layer: &Arc<StoredLayer>| {
            let (path, header) = (layer.file.path(), layer.file.header());
            let file = Arc::new(LayerFile::open(path, header, self.cache.clone()).unwrap());
            StoredLayer::new(layer.desc.clone(), file)
        };
        let stack = self.map.partitions.at(0).stack.iter().map(open).collect();
        self.map = LayerMap::new(MemoryLayer::new(self.flushed), Partitions::single(stack));
        self.last = self.flushed;
    }

    fn chain(&self, key: &Key, at: Lsn) -> Chain {
        self.chains(&[*key], at).remove(0)
    }

    /// All of them by one read.
    fn chains(&self, keys: &[Key], at: Lsn) -> Vec<Chain> {
        let mut reads: Vec<_> = keys.iter().map(|key| Reconstruction::new(*key, at)).collect();
        self.map.locate(&mut reads, Io::MayBlock).unwrap();
        fetch(&mut reads, Io::MayBlock).unwrap();
        let chain = |read: &Reconstruction| {
            let deltas = read.deltas().map(|(_, delta)| delta.clone()).collect();
            (read.base().cloned(), deltas)
        };
        reads.iter().map(chain).collect()
    }
}

fn header(lsns: LsnRange) -> LayerHeader {
    LayerHeader {
        kind: LayerKind::Delta,
        tenant: TenantId::from_bytes([1; 16]),
        timeline: TimelineId::from_bytes([2; 16]),
        lsns,
        keys: KeyRange::ALL,
    }
}

fn value(number: usize, bytes: usize) -> Bytes {
    let text = format!("value {number} ");
    text.bytes().cycle().take(bytes.max(text.len())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn reads_as_everything_that_happened(steps in prop::collection::vec(step(), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::new(folder.path());
        let mut model = Model::default();
        let mut end = Lsn(0);
        for step in steps {
            match step {
                Step::Record(operations) => {
                    end = Lsn(end.0 + 8);
                    let first = model.0.len();
                    for operation in operations {
                        let bytes = if let Operation::Put { value_bytes, .. } = operation { value_bytes } else { 0 };
                        let number = model.0.len();
                        model.0.push((end, operation, value(number, bytes)));
                    }
                    store.record(end, &model.0[first..]);
                }
                Step::Freeze => store.freeze(),
                Step::Flush => store.flush(),
                Step::Restart => {
                    store.restart();
                    let mut lsn = store.flushed;
                    while lsn < end {
                        lsn = Lsn(lsn.0 + 8);
                        let again: Vec<_> = model.0.iter().filter(|(at, ..)| *at == lsn).cloned().collect();
                        store.record(lsn, &again);
                    }
                }
            }
        }
        let keys: Vec<Key> = (0..RELATIONS)
            .flat_map(|rel| [true, false].map(|main| fork(rel, main)))
            .flat_map(|fork| (0..BLOCKS).map(move |block| Key::rel_page(fork, block)))
            .collect();
        for at in (0..=end.0).step_by(8).map(Lsn) {
            for (key, chain) in keys.iter().zip(store.chains(&keys, at)) {
                prop_assert_eq!(&chain, &model.chain(key, at), "key {} at {}", key, at);
                prop_assert_eq!(store.chain(key, at), chain, "key {} at {}, alone", key, at);
            }
            let mut scan = Scan::new(KeyRange::ALL, at);
            store.map.scan(&mut scan, Io::MayBlock).unwrap();
            let expected: BTreeMap<Key, Bytes> =
                keys.iter().filter_map(|key| Some((*key, model.newest(key, at)?))).collect();
            prop_assert_eq!(scan.finish(), expected, "scan at {}", at);
        }
    }
}
