//! One timeline's archive.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ogel_ids::{Lsn, Term};
use ogel_object_store::{ObjectInfo, ObjectStore, StoreError};
use wal_decoder::stream::{StreamDecoder, is_valid_segment_size};

use super::{Finding, TimelineReport, local::LocalTimeline};
use crate::{archive::names, timeline::TimelineKey};

/// Bytes of the long page header at the start of a segment: the system identifier at 24, the segment size at 32.
const LONG_HEADER_BYTES: u64 = 40;

/// Checks one timeline.
pub struct Checker<'a> {
    store: &'a ObjectStore,
    key: TimelineKey,
    local: Option<&'a LocalTimeline>,
    progress: &'a dyn Fn(String),
    report: TimelineReport,
}

/// What the first object says.
#[derive(Clone, Copy)]
struct Parameters {
    segment_size: u32,
    system_identifier: u64,
}

/// Objects by what they hold.
#[derive(Default)]
struct Objects {
    segments: BTreeMap<u64, ObjectInfo>,
    tails: BTreeMap<(Lsn, Term), ObjectInfo>,
}

impl<'a> Checker<'a> {
    /// `local`: to compare with.
    pub fn new(
        store: &'a ObjectStore,
        key: TimelineKey,
        local: Option<&'a LocalTimeline>,
        progress: &'a dyn Fn(String),
    ) -> Self {
        let report = TimelineReport {
            tenant: key.tenant,
            timeline: key.timeline,
            segments: 0,
            tails: 0,
            from: Lsn(0),
            to: Lsn(0),
            records: 0,
            size_bytes: 0,
            findings: Vec::new(),
        };
        Self { store, key, local, progress, report }
    }

    /// `None` if there is nothing of this timeline and nothing should be.
    pub async fn check(mut self) -> Result<Option<TimelineReport>, StoreError> {
        let segments = self.store.list_all(&names::segments_folder(self.key)).await?;
        let tails = self.store.list_all(&names::tails_folder(self.key)).await?;
        let Some(parameters) = self.parameters(&segments, &tails).await? else {
            return Ok((!self.report.findings.is_empty()).then_some(self.report));
        };
        let objects = self.sort(parameters, segments, tails);
        self.check_gaps(parameters, &objects);
        self.check_wal(parameters, &objects).await?;
        Ok(Some(self.report))
    }

    fn find(&mut self, object: &str, problem: impl Into<String>) {
        self.report.findings.push(Finding { object: object.to_owned(), problem: problem.into() });
    }

    /// From the local control file, or else the first object.
    async fn parameters(
        &mut self,
        segments: &[ObjectInfo],
        tails: &[ObjectInfo],
    ) -> Result<Option<Parameters>, StoreError> {
        if let Some(local) = self.local {
            let identity = &local.state.identity;
            let segment_size = identity.wal_segment_size_bytes;
            return Ok(Some(Parameters { segment_size, system_identifier: identity.system_identifier }));
        }
        for object in segments.iter().chain(tails) {
            if object.size_bytes < LONG_HEADER_BYTES {
                continue;
            }
            let header = self.store.get_range(&object.key, 0..LONG_HEADER_BYTES).await?;
            let mut system_identifier = [0; 8];
            system_identifier.copy_from_slice(&header[24..32]);
            let segment_size = u32::from_le_bytes([header[32], header[33], header[34], header[35]]);
            if is_valid_segment_size(segment_size) {
                let system_identifier = u64::from_le_bytes(system_identifier);
                return Ok(Some(Parameters { segment_size, system_identifier }));
            }
        }
        if let Some(object) = segments.iter().chain(tails).next() {
            self.find(
                &object.key.clone(),
                "no object of this timeline begins as WAL does: they are damaged or not WAL",
            );
        }
        Ok(None)
    }

    fn sort(&mut self, parameters: Parameters, segments: Vec<ObjectInfo>, tails: Vec<ObjectInfo>) -> Objects {
        let size = u64::from(parameters.segment_size);
        let mut objects = Objects::default();
        for object in segments {
            self.report.size_bytes += object.size_bytes;
            match names::parse_segment(last_part(&object.key), size) {
                None => self.find(&object.key, "this is not the name of a WAL segment: nothing reads it"),
                Some(_) if object.size_bytes != size => {
                    self.find(&object.key, format!("it has {} bytes, a segment has {size}", object.size_bytes));
                }
                Some(number) => drop(objects.segments.insert(number, object)),
            }
        }
        for object in tails {
            self.report.size_bytes += object.size_bytes;
            match names::parse_tail(last_part(&object.key), size) {
                None => self.find(&object.key, "this is not the name of a tail: nothing reads it"),
                Some((_, end)) if object.size_bytes != end.segment_offset(size) => {
                    let expected = end.segment_offset(size);
                    self.find(&object.key, format!("it has {} bytes, by its name {expected}", object.size_bytes));
                }
                Some((term, end)) => drop(objects.tails.insert((end, term), object)),
            }
        }
        (self.report.segments, self.report.tails) = (objects.segments.len() as u64, objects.tails.len() as u64);
        objects
    }

    /// Every segment between the first and the last must be there, and what the local control file says.
    fn check_gaps(&mut self, parameters: Parameters, objects: &Objects) {
        let size = u64::from(parameters.segment_size);
        let mut expected = BTreeSet::new();
        let numbers = objects.segments.keys();
        if let (Some(first), Some(last)) = (numbers.clone().next(), numbers.clone().last()) {
            expected.extend(*first..=*last);
        }
        if let Some(((end, _), _)) = objects.tails.last_key_value()
            && let Some(first) = objects.segments.keys().next()
        {
            expected.extend(*first..end.segment_number(size));
        }
        if let Some(state) = self.local.map(|local| &local.state) {
            let start = state.identity.start_lsn.segment_number(size);
            expected.extend(start..state.backup_lsn.segment_number(size).max(start));
            if let Some(tail) = state.archived_tail
                && tail.end.segment_offset(size) > 0
                && !self.is_tail_there(tail.end, size, objects)
            {
                let name = names::tail(self.key, tail.term, tail.end, size);
                self.find(&name, "MISSING: the safekeeper has dropped its WAL because this object was there");
            }
        }
        for number in expected {
            if !objects.segments.contains_key(&number) {
                let name = names::segment(self.key, number, size);
                self.find(&name, "MISSING: WAL before and behind it is there, so nobody can read on");
            }
        }
    }

    /// A tail may have been replaced by a longer one, or by its segment.
    fn is_tail_there(&self, end: Lsn, size: u64, objects: &Objects) -> bool {
        let segment = end.segment_number(size);
        let mut longer = objects.tails.range((end, Term(0))..);
        objects.segments.contains_key(&segment) || longer.any(|((other, _), _)| other.segment_number(size) == segment)
    }

    /// Reads everything in order.
    async fn check_wal(&mut self, parameters: Parameters, objects: &Objects) -> Result<(), StoreError> {
        let size = u64::from(parameters.segment_size);
        let mut pieces: BTreeSet<u64> = objects.segments.keys().copied().collect();
        pieces.extend(objects.tails.keys().map(|(end, _)| end.segment_number(size)));
        let mut decoder: Option<StreamDecoder> = None;
        let total = pieces.len();
        for (index, number) in pieces.into_iter().enumerate() {
            (self.progress)(format!("segment {} of {total}", index + 1));
            let start = Lsn(number * size);
            if self.report.from == Lsn(0) {
                self.report.from = start;
            }
            let of_segment = |&((end, _), _): &(&(Lsn, Term), &ObjectInfo)| end.segment_number(size) == number;
            let mut tails: Vec<_> = objects.tails.iter().filter(of_segment).collect();
            let (name, wal, end) = match objects.segments.get(&number) {
                Some(object) => (object.key.clone(), self.store.get(&object.key, size).await?, None),
                None => {
                    let Some(((end, _), object)) = tails.pop() else { continue };
                    (object.key.clone(), self.store.get(&object.key, size).await?, Some(*end))
                }
            };
            for (_, tail) in tails {
                if !wal.starts_with(&self.store.get(&tail.key, size).await?) {
                    self.find(&tail.key, format!("it differs from the beginning of {name}"));
                }
            }
            self.compare_local(number, size, &name, &wal);
            decoder = self.decode(parameters, decoder, &name, start, wal, end);
        }
        Ok(())
    }

    /// Feeds one segment; returns the decoder for the next one, if the WAL is good so far.
    fn decode(
        &mut self,
        parameters: Parameters,
        decoder: Option<StreamDecoder>,
        name: &str,
        start: Lsn,
        wal: Bytes,
        end: Option<Lsn>,
    ) -> Option<StreamDecoder> {
        let fresh = || StreamDecoder::find_first(start, parameters.segment_size, Some(parameters.system_identifier));
        let continued = decoder.filter(|decoder| decoder.fed_until() == start);
        let mut decoder = match continued.map_or_else(fresh, Ok) {
            Ok(decoder) => decoder,
            Err(error) => {
                self.find(name, error.to_string());
                return None;
            }
        };
        decoder.feed(wal);
        loop {
            match decoder.next_record() {
                Ok(Some(_)) => self.report.records += 1,
                Ok(None) => break,
                Err(error) => {
                    self.find(name, format!("the WAL in it is damaged: {error}"));
                    return None;
                }
            }
        }
        self.report.to = self.report.to.max(decoder.last_good_end());
        if let Some(end) = end.filter(|end| *end != decoder.last_good_end()) {
            self.find(name, format!("its last whole record ends at {}, not at {end}", decoder.last_good_end()));
        }
        Some(decoder)
    }

    /// What is committed must be the same bytes here and there.
    fn compare_local(&mut self, number: u64, size: u64, name: &str, wal: &Bytes) {
        let Some(local) = self.local else { return };
        let committed = local.state.commit_lsn.bytes_since(Lsn(number * size)).min(wal.len() as u64) as usize;
        match local.segment(number) {
            Ok(Some(here)) if here.len() < committed => {
                self.find(name, format!("the local segment has only {} bytes", here.len()));
            }
            Ok(Some(here)) => {
                if let Some(at) = (0..committed).find(|&at| here[at] != wal[at]) {
                    let lsn = Lsn(number * size + at as u64);
                    self.find(
                        name,
                        format!("it differs from the local segment, first at {lsn}: one of the two is damaged"),
                    );
                }
            }
            Ok(None) => {}
            Err(error) => self.find(name, format!("the local segment cannot be read: {error}")),
        }
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
