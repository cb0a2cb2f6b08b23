//! The template: a fresh cluster, made by `initdb` when PostgreSQL was built, from which timelines are created without PostgreSQL.
//!
//! It is a `tar.zst` of a data directory that was shut down cleanly. It is read and encoded once per process; creating a timeline is
//! then writing a few files. Every timeline gets its own system identifier, which is in `pg_control` and in the long headers of the
//! WAL, but in no page.

mod archive;
mod path;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use archive::Archive;
use ogel_ids::{Lsn, TenantId, TimelineId};
use ogel_service::durable_file;
pub use path::DEFAULT_TABLESPACE;
use wal_decoder::{
    checkpoint_state::CheckpointState,
    control_file::{ControlFile, DbState},
    stream::StreamDecoder,
    writer,
};

use crate::{
    keyspace::{Key, KeyRange},
    layer::{
        LsnRange, VersionKind,
        desc::{LayerDesc, LayerName},
        file::{EncodedBody, LayerHeader, LayerKind, Packing},
        partitions::Partitions,
    },
    manifest::{Manifest, TimelineState},
    timeline::{CONTROL_FILE, LAYERS_FOLDER, WAL_PREFIX_FILE, state::RunningState},
};

/// The release for which templates are built. A data directory names its major version only.
pub const PG_VERSION_NUM: u32 = 170_011;

/// A template, ready to be written out under any timeline's name.
pub struct Template {
    control: ControlFile,
    /// WAL from the start of the checkpoint's segment up to `start_lsn`, with the template's own identifier.
    wal_prefix: Vec<u8>,
    start_lsn: Lsn,
    logical_size_bytes: u64,
    body: EncodedBody,
}

impl Template {
    /// Reads and encodes the template. Blocks, for a fraction of a second.
    pub fn load(path: &Path) -> anyhow::Result<Template> {
        Self::from_archive(Archive::read(path)?).with_context(|| {
            format!("the template {} cannot be used: build it again (`make template`)", path.display())
        })
    }

    fn from_archive(archive: Archive) -> anyhow::Result<Template> {
        let control = ControlFile::parse(&archive.control_file)?;
        ensure!(control.state == DbState::Shutdowned, "the cluster was not shut down cleanly");
        let (wal_prefix, checkpoint_lsn, start_lsn) = cut_wal(&archive, &control)?;
        let state = RunningState {
            prev_record_lsn: checkpoint_lsn,
            clean_shutdown: true,
            newest_commit: None,
            logical_size_bytes: Some(archive.logical_size_bytes),
            checkpoint: CheckpointState::from_control_file(&control),
        };
        let mut values = archive.values;
        values.insert(Key::checkpoint(), state.encode().into());
        let body = EncodedBody::encode(Packing::Dense, |writer| {
            values.iter().try_for_each(|(key, value)| writer.version(*key, start_lsn, VersionKind::Image, value))
        })?;
        Ok(Template { control, wal_prefix, start_lsn, logical_size_bytes: archive.logical_size_bytes, body })
    }

    /// Where the WAL of its timelines begins.
    pub fn start_lsn(&self) -> Lsn {
        self.start_lsn
    }

    /// Writes the files of a new timeline into `folder` and returns its manifest. `layer` is the name of its only layer. Blocks.
    pub fn instantiate(
        &self,
        folder: &Path,
        tenant: TenantId,
        timeline: TimelineId,
        layer: LayerName,
    ) -> anyhow::Result<Manifest> {
        let segment_size = self.control.wal_segment_size;
        let system_identifier = fresh_system_identifier()?;
        durable_file::create_folders(&folder.join(LAYERS_FOLDER))?;

        let mut wal_prefix = self.wal_prefix.clone();
        let segment_start = self.start_lsn.segment_start(u64::from(segment_size));
        writer::rewrite_system_identifier(&mut wal_prefix, segment_start, segment_size, system_identifier)?;
        durable_file::replace(&folder.join(WAL_PREFIX_FILE), &wal_prefix)?;
        let mut mock_authentication_nonce = [0; 32];
        getrandom::fill(&mut mock_authentication_nonce).map_err(no_random_numbers)?;
        let control = ControlFile { system_identifier, mock_authentication_nonce, ..self.control };
        durable_file::replace(&folder.join(CONTROL_FILE), &control.encode()[..])?;

        let header = LayerHeader {
            kind: LayerKind::Image,
            tenant,
            timeline,
            lsns: LsnRange { start: self.start_lsn, end: self.start_lsn },
            keys: KeyRange::ALL,
        };
        let name = layer;
        let path = folder.join(LAYERS_FOLDER).join(name.to_string());
        let written = self.body.write_file(&path, &header)?;
        let desc = LayerDesc {
            name,
            kind: header.kind,
            lsns: header.lsns,
            keys: header.keys,
            size_bytes: written.size_bytes,
            index_offset: written.index_offset,
            history_bytes: 0,
            tombstones: 0,
        };
        Ok(Manifest {
            tenant,
            timeline,
            system_identifier,
            pg_version_num: PG_VERSION_NUM,
            wal_segment_size: segment_size,
            start_lsn: self.start_lsn,
            prev_record_lsn: self.control.checkpoint,
            ancestor: None,
            start_state: None,
            disk_consistent_lsn: self.start_lsn,
            logical_size_bytes: self.logical_size_bytes,
            term_history: Vec::new(),
            gc_cutoff: self.start_lsn,
            branches: BTreeMap::new(),
            leases: BTreeMap::new(),
            state: TimelineState::Active,
            partitions: Partitions::single(vec![name]),
            layers: BTreeMap::from([(name, desc)]),
        })
    }
}

/// WAL up to the end of the shutdown checkpoint, where that begins, and where it ends.
fn cut_wal(archive: &Archive, control: &ControlFile) -> anyhow::Result<(Vec<u8>, Lsn, Lsn)> {
    let segment_size = u64::from(control.wal_segment_size);
    let begin = control.checkpoint;
    let segment_start = begin.segment_start(segment_size);
    let name = begin.segment_file_name(segment_size);
    let segment = archive.wal.get(&name).with_context(|| format!("WAL segment {name} is missing"))?;
    ensure!(segment.len() as u64 == segment_size, "WAL segment {name} has {} bytes", segment.len());
    let mut stream = StreamDecoder::new(begin, control.wal_segment_size, Some(control.system_identifier))?;
    stream.feed(segment.slice(begin.segment_offset(segment_size) as usize..));
    let Some(record) = stream.next_record()? else { bail!("the checkpoint record at {begin} is not whole") };
    let end = record.end;
    ensure!(
        end.segment_offset(segment_size) != 0,
        "the checkpoint record ends with its WAL segment: a timeline cannot start there"
    );
    Ok((segment[..end.segment_offset(segment_size) as usize].to_vec(), begin, end.max(segment_start)))
}

fn no_random_numbers(error: getrandom::Error) -> anyhow::Error {
    anyhow::anyhow!("the system gives no random numbers: {error}")
}

/// As PostgreSQL makes it: seconds, microseconds, and bits that differ between processes; here random ones.
fn fresh_system_identifier() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970: set it")?;
    let random = getrandom::u32().map_err(no_random_numbers)?;
    Ok(now.as_secs() << 32 | u64::from(now.subsec_micros()) << 12 | u64::from(random & 0xfff))
}
