use super::*;
use crate::{
    v17::rmgr,
    writer::{AppendAt, Appended, RecordContent, append_encoded, append_record},
};
use proptest::prelude::*;

const SEGMENT: u32 = 1 << 20;
const SYSTEM: u64 = 77;

/// WAL that begins at `start`, made of records with main data of the given lengths.
fn wal(start: Lsn, lengths: &[usize]) -> (Vec<u8>, Vec<Appended>) {
    let mut at = AppendAt { end: start, prev: Lsn(8), system_id: SYSTEM, segment_size: SEGMENT, timeline_id: 1 };
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    for (number, length) in lengths.iter().enumerate() {
        let main_data = vec![number as u8; *length];
        let content = RecordContent { rmid: rmgr::XLOG, info: rmgr::xlog::NOOP, xid: 9, main_data: &main_data };
        let appended = append_record(&at, &content).expect("a valid position");
        bytes.extend_from_slice(&appended.bytes);
        (at.end, at.prev) = (appended.end, appended.start);
        records.push(appended);
    }
    (bytes, records)
}

/// Feeds `bytes` in pieces of the given sizes, over and over; returns what came out and how it ended.
fn decode(start: Lsn, bytes: &[u8], pieces: &[usize]) -> (Vec<Record>, Result<Lsn, StreamError>) {
    let mut decoder = StreamDecoder::new(start, SEGMENT, Some(SYSTEM)).expect("a valid start");
    let mut records = Vec::new();
    let mut rest = bytes;
    for piece in pieces.iter().cycle() {
        let (chunk, tail) = rest.split_at(rest.len().min(*piece).max(1).min(rest.len()));
        rest = tail;
        decoder.feed_slice(chunk);
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => {
                    assert_eq!(decoder.last_good_end(), record.end);
                    assert!(record.end <= decoder.fed_until());
                    records.push(record);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_record(), Err(error.clone()), "an error stays");
                    return (records, Err(error));
                }
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    let end = decoder.last_good_end();
    (records, Ok(end))
}

fn assert_same(appended: &[Appended], decoded: &[Record]) {
    assert_eq!(decoded.len(), appended.len());
    let mut prev = Lsn(8);
    for (appended, record) in appended.iter().zip(decoded) {
        assert_eq!((record.start, record.end, record.prev), (appended.start, appended.end, prev));
        prev = record.start;
    }
}

#[test]
fn what_the_writer_appends_is_decoded_at_every_offset_around_page_and_segment_ends() {
    for boundary in [u64::from(SEGMENT) + 8192, 2 * u64::from(SEGMENT)] {
        for back in (0..=160).step_by(8) {
            let start = Lsn(boundary - back);
            for length in [0, 1, 88, 200, 300, 9000, 20_000] {
                let (bytes, appended) = wal(start, &[length, 16, length]);
                for pieces in [&[usize::MAX][..], &[1], &[7, 8192]] {
                    let (records, end) = decode(start, &bytes, pieces);
                    assert_same(&appended, &records);
                    assert_eq!(end, Ok(appended[2].end));
                }
            }
        }
    }
}

#[test]
fn a_record_that_ends_with_its_page_ends_at_the_bare_boundary() {
    let boundary = Lsn(u64::from(SEGMENT) + 8192);
    // 24 bytes of header and 2 of the main data's header.
    let (bytes, appended) = wal(Lsn(boundary.0 - 64), &[64 - 26, 3]);
    assert_eq!(appended[0].end, boundary);
    assert_eq!(appended[1].start, Lsn(boundary.0 + 24));
    let (records, _) = decode(Lsn(boundary.0 - 64), &bytes, &[usize::MAX]);
    assert_same(&appended, &records);
    // The next reader begins at that bare boundary, which is what everyone stores.
    let (records, _) = decode(boundary, &appended[1].bytes, &[5]);
    assert_eq!(records.len(), 1);
}

#[test]
fn a_switch_is_whole_only_with_the_rest_of_its_segment() {
    let start = Lsn(u64::from(SEGMENT));
    let at = AppendAt { end: start, prev: Lsn(8), system_id: SYSTEM, segment_size: SEGMENT, timeline_id: 1 };
    let switch = RecordContent { rmid: rmgr::XLOG, info: rmgr::xlog::SWITCH, xid: 0, main_data: &[] };
    let appended = append_record(&at, &switch).expect("a valid position");
    let mut bytes = appended.bytes.clone();
    bytes.resize(SEGMENT as usize - 1, 0);
    let (records, end) = decode(start, &bytes, &[100_000]);
    assert!(records.is_empty(), "a byte of the padding is missing");
    assert_eq!(end, Ok(start));
    bytes.push(0);
    let next_segment = Lsn(2 * u64::from(SEGMENT));
    let next = AppendAt { end: next_segment, prev: appended.start, ..at };
    let noop = RecordContent { info: rmgr::xlog::NOOP, ..switch };
    bytes.extend_from_slice(&append_record(&next, &noop).expect("a valid position").bytes);
    let (records, _) = decode(start, &bytes, &[usize::MAX]);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].end, next_segment);
    assert_eq!(records[1].start, Lsn(next_segment.0 + 40));
}

#[test]
fn zeros_are_the_end_of_wal_and_not_damage() {
    let start = Lsn(u64::from(SEGMENT));
    for length in [50, 8192 - 40 - 26, 9000] {
        let (mut bytes, appended) = wal(start, &[length]);
        bytes.resize(bytes.len() + 20_000, 0);
        let (records, end) = decode(start, &bytes, &[4096]);
        assert_same(&appended, &records);
        let error = end.expect_err("zeros are no record");
        assert!(error.is_end_of_wal(), "{error}");
        assert_eq!(error.at, appended[0].end);
    }
}

#[test]
fn a_record_that_was_given_up_is_skipped_only_with_the_record_that_says_so() {
    let start = Lsn(u64::from(SEGMENT) + 8192 - 64);
    let (bytes, appended) = wal(start, &[16, 500]);
    let page = Lsn(u64::from(SEGMENT) + 8192);
    let incomplete = appended[1].start;
    let give_up = |named: Lsn| {
        let mut out = bytes[..(page.0 - start.0) as usize].to_vec();
        let mut main_data = named.0.to_le_bytes().to_vec();
        main_data.extend_from_slice(&[0; 8]);
        let content =
            RecordContent { rmid: rmgr::XLOG, info: rmgr::xlog::OVERWRITE_CONTRECORD, xid: 0, main_data: &main_data };
        let at =
            AppendAt { end: page, prev: appended[0].start, system_id: SYSTEM, segment_size: SEGMENT, timeline_id: 1 };
        let mut record = append_record(&at, &content).expect("a valid position").bytes;
        record[2] |= FLAG_OVERWRITE_CONTINUATION as u8;
        out.extend_from_slice(&record);
        out
    };
    let (records, end) = decode(start, &give_up(incomplete), &[13]);
    assert_eq!(records.len(), 2, "{end:?}");
    assert_eq!(records[1].start, Lsn(page.0 + 24));
    assert_eq!(records[1].prev, records[0].start);
    let (records, end) = decode(start, &give_up(Lsn(incomplete.0 - 8)), &[usize::MAX]);
    assert_eq!(records.len(), 1);
    assert_eq!(end.expect_err("wrong record named").kind, StreamErrorKind::Overwrite(incomplete));
}

#[test]
fn each_page_header_field_is_checked() {
    let start = Lsn(u64::from(SEGMENT));
    let (bytes, _) = wal(start, &[9000]);
    let kind_after = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] ^= value;
        decode(start, &bytes, &[usize::MAX]).1.expect_err("damage").kind
    };
    use StreamErrorKind as Kind;
    assert!(matches!(kind_after(0, 1), Kind::Magic(_)));
    assert!(matches!(kind_after(2, 2), Kind::Flags(_)), "long header flag missing");
    assert!(matches!(kind_after(8, 0x20), Kind::PageAddress(_)), "a recycled page");
    assert!(matches!(kind_after(24, 1), Kind::SystemId { .. }), "another cluster's WAL");
    assert!(matches!(kind_after(34, 0x30), Kind::SegmentSize { .. }));
    assert!(matches!(kind_after(37, 0x10), Kind::BlockSize(_)));
    assert!(matches!(kind_after(8192 + 16, 1), Kind::Continuation { .. }));
    assert!(matches!(kind_after(8192 + 2, 1), Kind::Continuation { got: 0, .. }));
    assert!(matches!(kind_after(40 + 8, 64), Kind::Checksum { .. }), "a changed record");
}

#[test]
fn prev_is_checked_where_it_is_known() {
    let start = Lsn(u64::from(SEGMENT) + 8192 - 64);
    let (bytes, appended) = wal(start, &[8, 8]);
    let other = StreamDecoder::new(start, SEGMENT, None).expect("a valid start").with_prev(Lsn(16));
    let mut decoder = other;
    decoder.feed_slice(&bytes);
    assert!(matches!(decoder.next_record().expect_err("stale").kind, StreamErrorKind::Previous { .. }));
    let mut decoder = StreamDecoder::new(start, SEGMENT, None).expect("a valid start").with_prev(Lsn(8));
    decoder.feed_slice(&bytes);
    assert_eq!(decoder.skip_to_boundary(), Ok(appended[1].end));
    assert_eq!(decoder.last_record_start(), Some(appended[1].start));
}

#[test]
fn a_huge_length_fails_before_its_bytes_are_awaited() {
    let start = Lsn(u64::from(SEGMENT) + 8192 - 64);
    let (mut bytes, _) = wal(start, &[8]);
    bytes[..4].copy_from_slice(&(900_000_000u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let (_, end) = decode(start, &bytes[..32], &[usize::MAX]);
    assert!(matches!(end.expect_err("garbage").kind, StreamErrorKind::Previous { .. }));
}

#[test]
fn impossible_starts_are_refused() {
    for (start, segment) in
        [(SEGMENT as u64 + 4, SEGMENT), (SEGMENT as u64 + 24, SEGMENT), (8192 + 8, SEGMENT), (0, 3 << 20), (0, 1 << 19)]
    {
        assert!(StreamDecoder::new(Lsn(start), segment, None).is_err(), "{start:x} {segment}");
    }
    let behind_header = Lsn(u64::from(SEGMENT) + 40);
    let (bytes, _) = wal(behind_header, &[8]);
    assert_eq!(decode(behind_header, &bytes, &[3]).0.len(), 1);
}

#[test]
fn the_first_record_behind_a_page_start_is_found() {
    let start = Lsn(u64::from(SEGMENT) + 8192 - 64);
    let (bytes, appended) = wal(start, &[16, 30_000, 5, 8]);
    for page in 0..4 {
        let from = Lsn(u64::from(SEGMENT) + 8192 * (1 + page));
        let mut decoder = StreamDecoder::find_first(from, SEGMENT, None).expect("a page start");
        for chunk in bytes[(from.0 - start.0) as usize..].chunks(11) {
            decoder.feed_slice(chunk);
        }
        assert_eq!(decoder.next_record().map(|record| record.map(|record| record.start)), Ok(Some(appended[2].start)));
        assert_eq!(decoder.skip_to_boundary(), Ok(appended[3].end));
    }
}

#[test]
fn a_page_that_continues_a_record_is_no_start() {
    let start = Lsn(u64::from(SEGMENT) + 8192 - 64);
    let (bytes, _) = wal(start, &[30_000]);
    let (_, end) = decode(Lsn(start.0 + 64), &bytes[64..], &[usize::MAX]);
    assert_eq!(end.expect_err("mid-record").kind, StreamErrorKind::UnexpectedContinuation);
}

proptest! {
    #[test]
    fn any_chunking_gives_what_one_chunk_gives(
        lengths in prop::collection::vec(0usize..3000, 1..40),
        back in 0u64..1200,
        pieces in prop::collection::vec(1usize..5000, 1..20),
        damage in prop::option::of((any::<prop::sample::Index>(), 1u8..)),
    ) {
        let start = Lsn(2 * u64::from(SEGMENT) - back * 8);
        prop_assume!(start.page_offset() == 0 || start.page_offset() >= 24);
        let (mut bytes, appended) = wal(start, &lengths);
        if let Some((at, value)) = &damage {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        let whole = decode(start, &bytes, &[usize::MAX]);
        prop_assert_eq!(&decode(start, &bytes, &pieces), &whole);
        if damage.is_none() {
            assert_same(&appended, &whole.0);
        }
        // What was good before damage stays good.
        for (record, appended) in whole.0.iter().zip(&appended) {
            prop_assert_eq!(record.start, appended.start);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000), header in any::<bool>()) {
        let start = Lsn(u64::from(SEGMENT) + if header { 0 } else { 48 });
        let _ = decode(start, &bytes, &[1000]);
        if let Ok(mut decoder) = StreamDecoder::find_first(Lsn(u64::from(SEGMENT)), SEGMENT, None) {
            decoder.feed_slice(&bytes);
            let _ = decoder.skip_to_boundary();
        }
    }

    /// Random content behind good lengths and checksums: what an attacker who can compute them sends.
    #[test]
    fn hostile_records_never_panic(body in prop::collection::vec(any::<u8>(), 0..600), rmid in 0u8..23, info: u8) {
        let mut record = ((24 + body.len()) as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&[5, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, info, rmid, 0, 0, 0, 0, 0, 0]);
        record.extend_from_slice(&body);
        let crc = record_crc(&record);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let start = Lsn(u64::from(SEGMENT));
        let at = AppendAt { end: start, prev: Lsn(8), system_id: SYSTEM, segment_size: SEGMENT, timeline_id: 1 };
        let bytes = append_encoded(&at, &record).expect("a valid position").bytes;
        let (records, _) = decode(start, &bytes, &[usize::MAX]);
        for record in records {
            let _ = crate::record::ParsedRecord::parse(&record.bytes);
            let mut interpreter = crate::interpret::Interpreter::new(Default::default());
            let _ = interpreter.interpret(&record, &mut |effect: crate::effect::Effect<'_>| {
                if let crate::effect::Effect::Page { version: crate::effect::Version::Delta { bytes, .. }, .. }
                    | crate::effect::Effect::Slru { version: crate::effect::Version::Delta { bytes, .. }, .. } = effect
                {
                    crate::delta::DeltaView::parse(bytes).expect("our own delta");
                }
            });
        }
    }
}
