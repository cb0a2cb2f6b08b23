use super::*;
use proptest::prelude::*;

#[test]
fn every_kind_is_read_as_it_was_written() {
    let mut out = vec![9; 40];
    encode_vm_clear(&mut out, &[(32_671, 3), (0, 2)]);
    let Ok(DeltaView::VmClear(clear)) = DeltaView::parse(&out) else { panic!("{out:?}") };
    assert_eq!(clear.entries().collect::<Vec<_>>(), [(32_671, 3), (0, 2)]);
    encode_clog_status(&mut out, 2, [32_767, 1].into_iter());
    let Ok(DeltaView::ClogStatus(status)) = DeltaView::parse(&out) else { panic!("{out:?}") };
    assert_eq!((status.status, status.entries().collect::<Vec<_>>()), (2, vec![32_767, 1]));
    encode_multixact_members(&mut out, 1634, [(7, 1), (8, 5)].into_iter());
    let Ok(DeltaView::MultixactMembers(members)) = DeltaView::parse(&out) else { panic!("{out:?}") };
    assert_eq!((members.first_index, members.entries().last()), (1634, Some((8, 5))));
    encode_commit_ts(&mut out, -5, 3, [818].into_iter());
    assert!(matches!(DeltaView::parse(&out), Ok(DeltaView::CommitTs(ts)) if ts.at_us == -5 && ts.origin == 3));
    encode_vm_cut(&mut out, 7);
    assert!(matches!(DeltaView::parse(&out), Ok(DeltaView::VmCut { keep_heap_blocks: 7 })));
    encode_fsm_cut(&mut out, 4068);
    assert!(matches!(DeltaView::parse(&out), Ok(DeltaView::FsmCut { keep_slots: 4068 })));
    encode_zero(&mut out);
    assert!(matches!(DeltaView::parse(&out), Ok(DeltaView::Zero)));
}

/// Redo writes where the delta says: an index beyond the page must not get there.
#[test]
fn indexes_beyond_the_page_and_unknown_versions_are_refused() {
    let mut out = Vec::new();
    encode_vm_clear(&mut out, &[(32_672, 3)]);
    assert!(DeltaView::parse(&out).is_err());
    encode_clog_status(&mut out, 1, [32_768].into_iter());
    assert!(DeltaView::parse(&out).is_err());
    encode_multixact_offsets(&mut out, &[(2048, 1)]);
    assert!(DeltaView::parse(&out).is_err());
    encode_multixact_members(&mut out, 1635, [(7, 1), (8, 5)].into_iter());
    assert!(DeltaView::parse(&out).is_err());
    encode_commit_ts(&mut out, 0, 0, [819].into_iter());
    assert!(DeltaView::parse(&out).is_err());
    encode_fsm_cut(&mut out, 4069);
    assert!(DeltaView::parse(&out).is_err());
    encode_zero(&mut out);
    out[0] = 2;
    assert_eq!(DeltaView::parse(&out).map(drop), Err(DeltaError::Version(2)));
    out[..2].copy_from_slice(&[1, 9]);
    assert_eq!(DeltaView::parse(&out).map(drop), Err(DeltaError::Kind(9)));
}

/// Deltas are stored for years: these are the bytes of version 1.
#[test]
fn version_1_stays_readable() {
    let stored = [1, 0, 10, 0x20, 5, 0, 0, 0, 1, 2, 0, 0x20, 9, 0, 0, 0, 1, 0, 8, 0, 0, 0, 3, 1, 2, 3];
    let Ok(DeltaView::Record(record)) = DeltaView::parse(&stored) else { panic!("record delta") };
    assert_eq!((record.rmid, record.info, record.xid, record.page_block_id), (10, 0x20, 5, 1));
    assert_eq!((record.main_data, record.block_data), (&[1, 2, 3][..], &[][..]));
    assert_eq!(record.page(), BlockTag { id: 1, flags: 0, block: 8 });
    assert_eq!(record.block(0).map(|tag| (tag.block, tag.has_data(), tag.will_init())), Some((9, true, false)));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..10, shape: bool) {
        if shape && bytes.len() > 2 {
            bytes[..2].copy_from_slice(&[1, kind]);
        }
        if let Ok(DeltaView::Record(record)) = DeltaView::parse(&bytes) {
            let _ = (record.page(), record.blocks().count(), record.block(7));
        }
    }
}
