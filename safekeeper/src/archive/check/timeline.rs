//! One timeline's archive.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ogel_ids::{Lsn, Term};
use ogel_object_store::{ObjectInfo, ObjectStore, StoreError};
use wal_decoder::stream::{StreamDecoder, is_valid_segment_size};

use super::{Finding, TimelineReport, local::LocalTimeline};
use crate::{
    archive::{
        names::{self, Form},
        packed::{self, Index, PackedError},
    },
    timeline::TimelineKey,
};

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

/// Objects by what they hold. An archive of an earlier version may have the same WAL in both forms.
#[derive(Default)]
struct Objects {
    segments: BTreeMap<(u64, Form), ObjectInfo>,
    tails: BTreeMap<(Lsn, Term, Form), ObjectInfo>,
}

impl Objects {
    fn has_segment(&self, number: u64) -> bool {
        Form::ALL.iter().any(|form| self.segments.contains_key(&(number, *form)))
    }

    /// What holds WAL of this segment: object, form, end of the WAL in the segment. The most of it first.
    fn of_segment(&self, number: u64, size: u64) -> Vec<(&ObjectInfo, Form, u64)> {
        let whole = self.segments.range((number, Form::Packed)..=(number, Form::Raw));
        let whole = whole.map(|((_, form), object)| (object, *form, size));
        let within = (Lsn(number * size), Term(0), Form::Packed)..(Lsn((number + 1) * size), Term(0), Form::Packed);
        let tails = self.tails.range(within).rev();
        let tails = tails.map(|((end, _, form), object)| (object, *form, end.segment_offset(size)));
        whole.chain(tails).collect()
    }
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
            wal_bytes: 0,
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
            let Some(header) = self.header(object).await? else { continue };
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

    /// The first [`LONG_HEADER_BYTES`] of the WAL in an object, if it has as many that are good.
    async fn header(&self, object: &ObjectInfo) -> Result<Option<Bytes>, StoreError> {
        if object.size_bytes < LONG_HEADER_BYTES {
            return Ok(None);
        }
        if names::form(&object.key) == Form::Raw {
            return Ok(Some(self.store.get_range(&object.key, 0..LONG_HEADER_BYTES).await?));
        }
        let head = self.store.get_range(&object.key, 0..packed::HEAD_BYTES).await?;
        let Ok(wal_bytes) = packed::wal_bytes(&head) else { return Ok(None) };
        if object.size_bytes < packed::index_bytes(wal_bytes) || wal_bytes < LONG_HEADER_BYTES {
            return Ok(None);
        }
        let index = self.store.get_range(&object.key, 0..packed::index_bytes(wal_bytes)).await?;
        let Ok(index) = Index::parse(&index, wal_bytes) else { return Ok(None) };
        let stored = index.stored_range(&(0..LONG_HEADER_BYTES));
        if object.size_bytes < stored.end {
            return Ok(None);
        }
        let stored = self.store.get_range(&object.key, stored).await?;
        Ok(index.unpack(0..LONG_HEADER_BYTES, &stored).ok())
    }

    fn sort(&mut self, parameters: Parameters, segments: Vec<ObjectInfo>, tails: Vec<ObjectInfo>) -> Objects {
        let size = u64::from(parameters.segment_size);
        let mut objects = Objects::default();
        for object in segments {
            self.report.size_bytes += object.size_bytes;
            match names::parse_segment(last_part(&object.key), size) {
                None => self.find(&object.key, "this is not the name of a WAL segment: nothing reads it"),
                Some((_, Form::Raw)) if object.size_bytes != size => {
                    self.find(&object.key, format!("it has {} bytes, a segment has {size}", object.size_bytes));
                }
                Some(segment) => drop(objects.segments.insert(segment, object)),
            }
        }
        for object in tails {
            self.report.size_bytes += object.size_bytes;
            match names::parse_tail(last_part(&object.key), size) {
                None => self.find(&object.key, "this is not the name of a tail: nothing reads it"),
                Some((_, end, Form::Raw)) if object.size_bytes != end.segment_offset(size) => {
                    let expected = end.segment_offset(size);
                    self.find(&object.key, format!("it has {} bytes, by its name {expected}", object.size_bytes));
                }
                Some((term, end, form)) => drop(objects.tails.insert((end, term, form), object)),
            }
        }
        (self.report.segments, self.report.tails) = (objects.segments.len() as u64, objects.tails.len() as u64);
        objects
    }

    /// Every segment between the first and the last must be there, and what the local control file says.
    fn check_gaps(&mut self, parameters: Parameters, objects: &Objects) {
        let size = u64::from(parameters.segment_size);
        let mut expected = BTreeSet::new();
        if let Some(((first, _), _)) = objects.segments.first_key_value() {
            expected
                .extend(objects.segments.last_key_value().map(|((last, _), _)| *first..=*last).into_iter().flatten());
            let last_tail = objects.tails.last_key_value();
            expected.extend(last_tail.map(|((end, ..), _)| *first..end.segment_number(size)).into_iter().flatten());
        }
        if let Some(state) = self.local.map(|local| &local.state) {
            let start = state.identity.start_lsn.segment_number(size);
            expected.extend(start..state.backup_lsn.segment_number(size).max(start));
            if let Some(tail) = state.archived_tail
                && tail.end.segment_offset(size) > 0
                && !self.is_tail_there(tail.end, size, objects)
            {
                let name = Form::Packed.of(&names::tail(self.key, tail.term, tail.end, size));
                self.find(&name, "MISSING: the safekeeper has dropped its WAL because this object was there");
            }
        }
        for number in expected {
            if !objects.has_segment(number) {
                let name = Form::Packed.of(&names::segment(self.key, number, size));
                self.find(&name, "MISSING: WAL before and behind it is there, so nobody can read on");
            }
        }
    }

    /// A tail may have been replaced by a longer one, or by its segment.
    fn is_tail_there(&self, end: Lsn, size: u64, objects: &Objects) -> bool {
        let segment = end.segment_number(size);
        let mut longer = objects.tails.range((end, Term(0), Form::Packed)..);
        objects.has_segment(segment) || longer.any(|((other, ..), _)| other.segment_number(size) == segment)
    }

    /// Reads everything in order.
    async fn check_wal(&mut self, parameters: Parameters, objects: &Objects) -> Result<(), StoreError> {
        let size = u64::from(parameters.segment_size);
        let mut numbers: BTreeSet<u64> = objects.segments.keys().map(|(number, _)| *number).collect();
        numbers.extend(objects.tails.keys().map(|(end, ..)| end.segment_number(size)));
        let mut decoder: Option<StreamDecoder> = None;
        let total = numbers.len();
        for (index, number) in numbers.into_iter().enumerate() {
            (self.progress)(format!("segment {} of {total}", index + 1));
            let start = Lsn(number * size);
            if self.report.from == Lsn(0) {
                self.report.from = start;
            }
            let mut most: Option<(&str, Bytes)> = None;
            for (object, form, length) in objects.of_segment(number, size) {
                let Some(wal) = self.wal(object, form, start, length).await? else { continue };
                self.report.wal_bytes += length;
                let Some((name, most)) = &most else {
                    self.compare_local(number, size, &object.key, &wal);
                    let end = (length < size).then_some(Lsn(start.0 + length));
                    decoder = self.decode(parameters, decoder.take(), &object.key, start, wal.clone(), end);
                    most = Some((&object.key, wal));
                    continue;
                };
                if !most.starts_with(&wal) {
                    self.find(&object.key, format!("it differs from the beginning of {name}"));
                }
            }
        }
        Ok(())
    }

    /// The WAL in an object, if it is good as an object.
    async fn wal(
        &mut self,
        object: &ObjectInfo,
        form: Form,
        start: Lsn,
        length: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        if form == Form::Raw {
            return Ok(Some(self.store.get(&object.key, length).await?));
        }
        let limit = packed::max_bytes(length);
        if object.size_bytes > limit {
            self.find(&object.key, format!("it has {} bytes, at most {limit} are possible", object.size_bytes));
            return Ok(None);
        }
        match packed::unpack(&self.store.get(&object.key, limit).await?, length) {
            Ok(wal) => Ok(Some(wal)),
            Err(error) => {
                let at = match &error {
                    PackedError::Piece { wal, .. } => Lsn(start.0 + wal.start),
                    _ => start,
                };
                self.find(&object.key, format!("WAL from {at} on cannot be read from it: {error}"));
                Ok(None)
            }
        }
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
