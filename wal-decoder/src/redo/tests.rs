use super::{
    page::{LinePointer, LineState, Place},
    *,
};
use crate::{
    delta,
    key::{PAGE_SIZE, Rel},
    v17::rmgr::{heap as op, heap2},
};
use proptest::prelude::*;

const AT: PageRef = PageRef { rel: Rel { spc: 1663, db: 5, rel: 16400 }.fork(Fork::Main), block: 7 };
const END: Lsn = Lsn(0x1_0000_2468);

/// The bytes of a delta with one block reference (id 0, block 7).
fn delta_of(rmid: u8, info: u8, xid: u32, main: &[u8], data: &[u8]) -> Vec<u8> {
    delta_with_blocks(rmid, info, xid, 0, &[(0, 0, AT.block)], main, data)
}

fn delta_with_blocks(
    rmid: u8,
    info: u8,
    xid: u32,
    own: u8,
    blocks: &[(u8, u8, u32)],
    main: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![delta::DELTA_VERSION, 0, rmid, info];
    bytes.extend(xid.to_le_bytes());
    bytes.extend([own, blocks.len() as u8]);
    for (id, flags, block) in blocks {
        bytes.extend([*id, *flags]);
        bytes.extend(block.to_le_bytes());
    }
    let mut len = main.len();
    while len >= 0x80 {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend(main);
    bytes.extend(data);
    bytes
}

/// Main data and block data of an insertion of `content` at `item`.
fn insert_parts(item: u16, command_id: Option<u32>, content: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut main = item.to_le_bytes().to_vec();
    main.push(if command_id.is_some() { op::FLAG_COMMAND_ID } else { 0 });
    main.extend(command_id.map(u32::to_le_bytes).unwrap_or_default().iter().take(if command_id.is_some() {
        4
    } else {
        0
    }));
    let mut data = vec![1, 0, 0, 8, 24, 0];
    data.extend(content);
    (main, data)
}

fn page_with(contents: &[&[u8]]) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    for (index, content) in contents.iter().enumerate() {
        let (main, data) = insert_parts(index as u16 + 1, None, content);
        let info = if index == 0 { op::INSERT | op::INIT_PAGE } else { op::INSERT };
        apply(&mut page, &delta_of(rmgr::HEAP, info, 700, &main, &data), AT, END).expect("insert");
    }
    page
}

fn tuple_u32(page: &mut Page, item: u16, at: usize) -> u32 {
    let slotted = Slotted::new(page);
    let bytes = slotted.item(item).expect("item");
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[test]
fn an_insert_fills_header_tuple_and_lsn() {
    let mut page = page_with(&[b"first row"]);
    assert_eq!(page[..8], [1, 0, 0, 0, 0x68, 0x24, 0, 0], "page LSN is the record's end");
    assert_eq!(tuple_u32(&mut page, 1, tuple::XMIN), 700);
    let slotted = Slotted::new(&mut page);
    let item = slotted.item(1).expect("item");
    assert_eq!((&item[24..], item[tuple::CTID..tuple::CTID + 6].to_vec()), (&b"first row"[..], vec![0, 0, 7, 0, 1, 0]));
}

#[test]
fn command_ids_of_our_wal_are_kept_and_stock_wal_gets_the_first_one() {
    for (logged, expected) in [(Some(41), 41), (None, 0)] {
        let mut page = page_with(&[b"row"]);
        let (main, data) = insert_parts(2, logged, b"second");
        apply(&mut page, &delta_of(rmgr::HEAP, op::INSERT, 701, &main, &data), AT, END).expect("insert");
        assert_eq!(tuple_u32(&mut page, 2, tuple::CID), expected);

        // xmax 702, item 1, no bits but ours for a combo command id, flags
        let mut main = vec![0xbe, 2, 0, 0, 1, 0, 0x80, if logged.is_some() { op::FLAG_COMMAND_ID } else { 0 }];
        main.extend(logged.map(|cid| (cid + 1).to_le_bytes()).iter().flatten());
        apply(&mut page, &delta_of(rmgr::HEAP, op::DELETE, 702, &main, &[]), AT, END).expect("delete");
        assert_eq!(tuple_u32(&mut page, 1, tuple::CID), logged.map_or(0, |cid| cid + 1));
        let infomask = tuple_u32(&mut page, 1, tuple::INFOMASK) as u16;
        assert_ne!(infomask & tuple::COMBOCID, 0);
    }
}

#[test]
fn a_prune_moves_tuples_as_postgresql_does_and_drops_unused_line_pointers() {
    let mut page = page_with(&[b"one", b"two ..........", b"three", b"four"]);
    // reason, cleanup lock + now unused items; items 2 and 4
    let (main, data) = ([0, 0x04 | 0x80], [2, 0, 2, 0, 4, 0]);
    apply(&mut page, &delta_of(rmgr::HEAP2, heap2::PRUNE_ON_ACCESS, 0, &main, &data), AT, END).expect("prune");
    let slotted = Slotted::new(&mut page);
    assert_eq!((slotted.count(), slotted.line(2).expect("line")), (3, LinePointer::UNUSED));
    assert_eq!(slotted.line(3).expect("line"), LinePointer { offset: 8192 - 64, state: LineState::Normal, len: 29 });
    assert_eq!(&slotted.item(3).expect("item")[24..], b"three");
}

#[test]
fn compaction_of_items_out_of_order_puts_them_in_the_order_of_their_numbers() {
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut slotted = Slotted::new(&mut page);
    slotted.init(16);
    for item in [b"cccccccc", b"bbbbbbbb", b"aaaaaaaa"] {
        slotted.add_item(1, item, Place::Insert).expect("add");
    }
    slotted.add_item(4, b"dddddddd", Place::Insert).expect("add");
    slotted.add_item(5, b"eeeeeeee", Place::Insert).expect("add");
    slotted.delete_many([2u16, 4, 5].into_iter()).expect("delete");
    let offsets: Vec<_> = (1..=2).map(|item| slotted.line(item).expect("line").offset).collect();
    assert_eq!(offsets, [8176 - 8, 8176 - 16], "more than two deletions reorder");

    slotted.add_item(1, b"00000000", Place::Insert).expect("add");
    slotted.delete_many([2u16].into_iter()).expect("delete");
    let offsets: Vec<_> = (1..=2).map(|item| slotted.line(item).expect("line").offset).collect();
    assert_eq!(offsets, [8176 - 16, 8176 - 8], "one or two keep the physical order");
}

#[test]
fn resizing_an_item_keeps_its_neighbours() {
    for len in [8, 16, 24, 40] {
        let mut page = Box::new([0; PAGE_SIZE]);
        let mut slotted = Slotted::new(&mut page);
        slotted.init(16);
        for (number, byte) in (1u16..).zip([b'a', b'b', b'c']) {
            slotted.add_item(number, &[byte; 24], Place::Insert).expect("add");
        }
        slotted.overwrite(2, &vec![b'x'; len]).expect("room");
        assert_eq!(slotted.item(1).expect("item"), [b'a'; 24]);
        assert_eq!(slotted.item(2).expect("item"), vec![b'x'; len]);
        assert_eq!(slotted.item(3).expect("item"), [b'c'; 24]);
        assert_eq!(slotted.upper(), 8176 - 48 - len);
    }
}

#[test]
fn a_record_for_another_page_is_refused() {
    let mut empty = Box::new([0; PAGE_SIZE]);
    let (main, data) = insert_parts(1, None, b"row");
    let error = apply(&mut empty, &delta_of(rmgr::HEAP, op::INSERT, 700, &main, &data), AT, END).expect_err("no page");
    assert!(error.to_string().contains("Heap/INSERT"), "{error}");
    let mut page = page_with(&[b"row"]);
    assert!(
        apply(&mut page, &delta_of(rmgr::HEAP, op::INSERT, 700, &main, &data), AT, END).is_err(),
        "item 1 is in use"
    );
}

#[test]
fn a_missing_redo_names_the_record() {
    let mut page = page_with(&[b"row"]);
    let error = apply(&mut page, &delta_of(rmgr::LOGICALMSG, 0, 700, &[], &[]), AT, END).expect_err("no redo");
    assert_eq!(
        error.to_string(),
        "no redo for record LogicalMessage/MESSAGE (resource manager 21, info 0x00) that ends at 1/2468: the page cannot be rebuilt past it"
    );
}

#[test]
fn visibility_map_bits_are_set_cleared_and_cut() {
    let map = PageRef { rel: AT.rel.rel.fork(Fork::VisibilityMap), block: 0 };
    let mut page = Box::new([0; PAGE_SIZE]);
    for heap_block in [0, 5, 6, 9] {
        let blocks = [(0, 2, 0), (1, 0, heap_block)];
        let delta = delta_with_blocks(rmgr::HEAP2, heap2::VISIBLE, 0, 0, &blocks, &[0, 0, 0, 0, 3], &[]);
        apply(&mut page, &delta, map, END).expect("visible");
    }
    assert_eq!(page[24..27], [0b11, 0b0011_1100, 0b1100]);
    let mut delta = Vec::new();
    delta::encode_vm_clear(&mut delta, &[(5, 2), (9, 3)]);
    apply(&mut page, &delta, map, END).expect("clear");
    assert_eq!(page[24..27], [0b11, 0b0011_0100, 0]);
    delta::encode_vm_cut(&mut delta, 6);
    apply(&mut page, &delta, map, END).expect("cut");
    assert_eq!(page[24..27], [0b11, 0b0100, 0]);
}

#[test]
fn a_cleared_page_that_was_never_written_stays_zero() {
    let map = PageRef { rel: AT.rel.rel.fork(Fork::VisibilityMap), block: 0 };
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut delta = Vec::new();
    delta::encode_vm_clear(&mut delta, &[(5, 3)]);
    apply(&mut page, &delta, map, END).expect("clear");
    assert_eq!(*page, [0; PAGE_SIZE], "an LSN would make PostgreSQL report the page as invalid");
}

#[test]
fn free_space_map_cut_recomputes_the_tree() {
    let map = PageRef { rel: AT.rel.rel.fork(Fork::FreeSpaceMap), block: 2 };
    let mut page = Box::new([0; PAGE_SIZE]);
    Slotted::new(&mut page).init(0);
    (page[28 + 4095], page[28 + 4095 + 9]) = (3, 200);
    let mut delta = Vec::new();
    delta::encode_fsm_cut(&mut delta, 10);
    apply(&mut page, &delta, map, END).expect("cut");
    assert_eq!((page[28], page[28 + 4095 + 9]), (200, 200));
    delta::encode_fsm_cut(&mut delta, 9);
    apply(&mut page, &delta, map, END).expect("cut");
    assert_eq!((page[28], page[28 + 4095 + 9]), (3, 0));
}

#[test]
fn slru_pages() {
    let mut delta = Vec::new();
    let mut page = Box::new([0; PAGE_SIZE]);
    delta::encode_clog_status(&mut delta, 1, [0u16, 5].into_iter());
    apply_slru(SlruKind::Clog, &mut page, &delta).expect("clog");
    assert_eq!(page[..2], [0b01, 0b0100]);
    delta::encode_clog_status(&mut delta, 3, [5u16, 6].into_iter());
    apply_slru(SlruKind::Clog, &mut page, &delta).expect("clog");
    assert_eq!(page[..2], [0b01, 0b11_0100], "a committed transaction does not become sub-committed");

    page.fill(0);
    delta::encode_multixact_members(&mut delta, 3, [(900, 1), (901, 4)].into_iter());
    apply_slru(SlruKind::MultixactMembers, &mut page, &delta).expect("members");
    assert_eq!((page[3], page[20]), (1, 4));
    assert_eq!(
        (page[16..20].to_vec(), page[24..28].to_vec()),
        (900u32.to_le_bytes().to_vec(), 901u32.to_le_bytes().to_vec())
    );

    page.fill(0);
    delta::encode_commit_ts(&mut delta, -2, 9, [1u16].into_iter());
    apply_slru(SlruKind::CommitTs, &mut page, &delta).expect("commit_ts");
    assert_eq!(page[10..20], [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 9, 0]);
    assert_eq!(apply_slru(SlruKind::Clog, &mut page, &delta), Err(RedoError::WrongPage));
}

proptest! {
    #[test]
    fn hostile_records_and_pages_never_panic(
        rmid in prop::sample::select(vec![9u8, 10, 11, 12, 13, 14, 15, 16, 17, 20]),
        info in any::<u8>(),
        own in 0u8..5,
        main in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..64),
        data in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..200),
        header in prop::collection::vec(any::<u16>(), 3),
        edits in prop::collection::vec((0usize..PAGE_SIZE, any::<u8>()), 0..64),
    ) {
        let mut page = page_with(&[b"one", b"two", b"three", b"four", b"five"]);
        for (at, byte) in edits {
            page[at] = byte;
        }
        for (at, value) in [12, 14, 16].into_iter().zip(header) {
            if value % 3 == 0 {
                page[at..at + 2].copy_from_slice(&(value % 8200).to_le_bytes());
            }
        }
        let blocks = [(own, 0, AT.block), (own ^ 1, 0, 3)];
        let _ = apply(&mut page, &delta_with_blocks(rmid, info, 5, own, &blocks, &main, &data), AT, END);
    }
}

#[test]
fn a_gist_image_gets_the_end_of_the_split_that_postgresql_does_not_log() {
    let mut page = Box::new([0; PAGE_SIZE]);
    Slotted::new(&mut page).init(16);
    const FLAGS: usize = PAGE_SIZE - 4;
    page[FLAGS] = 0x09;
    finish_image(&mut page, rmgr::GIST, 0x00, 0, END);
    assert_eq!(page[FLAGS], 0x09, "block 0 of a page update is not the left half of a split");
    finish_image(&mut page, rmgr::GIST, 0x00, 1, END);
    assert_eq!(page[FLAGS], 0x01, "the follow-right flag would send every scan to the right for ever");
    assert_eq!(page[PAGE_SIZE - 16..PAGE_SIZE - 8], [1, 0, 0, 0, 0x68, 0x24, 0, 0]);
}
