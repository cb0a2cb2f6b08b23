use proptest::prelude::*;

use super::*;

/// WAL that compresses here and does not there, so that pieces differ in length.
fn wal(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut wal = Vec::with_capacity(length);
    while wal.len() < length {
        let (run, byte, random) = (next() % 60_000 + 1, next() as u8, next() % 4 == 0);
        let run = (run as usize).min(length - wal.len());
        wal.extend((0..run).map(|_| if random { next() as u8 } else { byte }));
    }
    wal
}

/// As `zstd -d` does it.
fn zstd_tool(object: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(object).unwrap()
}

fn read_range(object: &[u8], wal_bytes: u64, range: Range<u64>) -> Result<Bytes, PackedError> {
    let part = |range: Range<u64>| {
        object.get(range.start as usize..range.end as usize).ok_or(PackedError::Length { found: 0, expected: 1 })
    };
    let index = Index::parse(part(0..index_bytes(wal_bytes))?, wal_bytes)?;
    index.unpack(range.clone(), part(index.stored_range(&range))?)
}

#[test]
fn a_segment_of_zeros_and_one_of_noise_come_back() {
    let noise =
        wal(1 << 20, 7).into_iter().zip(0_u32..).map(|(byte, at)| byte ^ (at.wrapping_mul(0x9e37_79b9) >> 24) as u8);
    for wal in [vec![0; 16 << 20], noise.collect(), vec![1], vec![2; PIECE_BYTES as usize]] {
        let object = pack(&wal).unwrap();
        assert!(object.len() as u64 <= max_bytes(wal.len() as u64));
        assert_eq!(wal_bytes(&object), Ok(wal.len() as u64));
        assert!(unpack(&object, wal.len() as u64).unwrap() == wal);
        assert!(zstd_tool(&object) == wal);
        assert_eq!(holds(&object, &wal), Ok(true));
    }
}

#[test]
fn other_wal_is_seen_and_a_damaged_piece_named() {
    let wal = wal(1 << 20, 3);
    let mut object = pack(&wal).unwrap();
    let mut other = wal.clone();
    other[700_000] ^= 1;
    assert_eq!(holds(&object, &other), Ok(false));
    let shorter = holds(&object, &wal[..wal.len() - 1]).unwrap_err().to_string();
    assert!(shorter.contains("another length"), "{shorter}");
    let index = Index::open(&object, 1 << 20).unwrap().0;
    object[index.pieces[2].offset as usize + 20] ^= 1;
    let damaged = unpack(&object, 1 << 20).unwrap_err().to_string();
    assert!(damaged.contains("piece 3 of 4 in it (bytes 524288 to 786432 of its WAL)"), "{damaged}");
    assert!(
        read_range(&object, 1 << 20, 0..2 * PIECE_BYTES).unwrap() == wal[..2 * PIECE_BYTES as usize],
        "others are good"
    );
}

/// Every field has been written by somebody who knows how to compute a checksum.
#[test]
fn lengths_that_cannot_be_cost_no_memory() {
    let object = pack(&wal(600_000, 5)).unwrap();
    let with = |at: usize, number: u32| {
        let mut object = object.clone();
        object[at..at + 4].copy_from_slice(&number.to_be_bytes());
        let end = index_bytes(600_000) as usize - 4;
        let checksum = crc32c::crc32c(&object[..end]);
        object[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        unpack(&object, 600_000).unwrap_err()
    };
    for at in [20, 24, 28, 36, 44] {
        for number in [0, 1, u32::MAX, 1 << 30, 1 << 18] {
            if (at, number) != (20, 1 << 18) {
                with(at, number);
            }
        }
    }
    // A frame that says it holds more than a piece.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let mut hostile = pack(&[0; 1000]).unwrap();
    hostile.truncate(HEAD_BYTES as usize);
    hostile.extend_from_slice(&(bomb.len() as u32).to_be_bytes());
    hostile.extend_from_slice(&crc32c::crc32c(&bomb).to_be_bytes());
    hostile.extend_from_slice(&crc32c::crc32c(&hostile).to_be_bytes());
    hostile.extend_from_slice(&bomb);
    let refused = unpack(&hostile, 1000).unwrap_err();
    assert!(matches!(refused, PackedError::Piece { problem: "it cannot be decompressed", .. }), "{refused}");
}

#[test]
fn an_object_of_version_1_is_read() {
    let fixture = include_bytes!("fixtures/packed-v1.zst");
    let wal = wal(300_000, 1);
    assert!(unpack(fixture, wal.len() as u64).unwrap() == wal);
    assert!(zstd_tool(fixture) == wal);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_range_is_as_it_was(length in 1_usize..1_200_000, seed: u64, ranges: [(u64, u64); 4]) {
        let wal = wal(length, seed);
        let object = pack(&wal).unwrap();
        prop_assert!(unpack(&object, length as u64).unwrap() == wal);
        prop_assert!(zstd_tool(&object) == wal);
        prop_assert_eq!(holds(&object, &wal), Ok(true));
        for (a, b) in ranges {
            let (a, b) = (a % (length as u64 + 1), b % (length as u64 + 1));
            let range = a.min(b)..a.max(b);
            if !range.is_empty() {
                let expected = &wal[range.start as usize..range.end as usize];
                prop_assert!(read_range(&object, length as u64, range).unwrap() == expected);
            }
        }
    }

    #[test]
    fn a_flipped_byte_or_a_cut_is_an_error(length in 1_usize..600_000, seed: u64, places: [(u64, u8); 8]) {
        let wal = wal(length, seed);
        let object = pack(&wal).unwrap();
        for (place, bits) in places {
            let at = place as usize % object.len();
            let mut damaged = object.clone();
            damaged[at] ^= bits.max(1);
            prop_assert!(unpack(&damaged, length as u64).is_err(), "byte {} of {}", at, object.len());
            prop_assert!(holds(&damaged, &wal).is_err());
            prop_assert!(read_range(&damaged, length as u64, 0..length as u64).is_err());
            prop_assert!(unpack(&object[..at], length as u64).is_err());
            prop_assert!(read_range(&object[..at], length as u64, 0..length as u64).is_err());
        }
        let longer = [object.as_slice(), &[0]].concat();
        prop_assert!(unpack(&longer, length as u64).is_err() && holds(&longer, &wal).is_err());
    }

    #[test]
    fn noise_is_an_error(noise: Vec<u8>, wal_bytes in 1_u64..=MAX_WAL_BYTES) {
        prop_assert!(unpack(&noise, wal_bytes).is_err());
        prop_assert!(self::wal_bytes(&noise).is_err());
    }
}
