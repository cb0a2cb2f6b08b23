//! State files of replication slots: the supervisor's own is made, all others are looked at.
//!
//! The supervisor's slot is physical. It must exist before Postgres starts: a temporary slot would die with its connection, and between two connections
//! the WAL that the quorum lacks could be removed (hazard H17).
//!
//! ```text
//! offset  size  field (native byte order, PostgreSQL 17, slot version 5)
//!      0     4  magic 0x01051CA1
//!      4     4  crc32c of bytes 8..200
//!      8     4  version = 5
//!     12     4  length of the rest = 184
//!     16    64  name, zero padded
//!     80     4  database; 0 = physical
//!     84     4  persistency = 0 (persistent)
//!     88     8  xmin, catalog_xmin = 0
//!     96     8  restart_lsn
//!    104     4  invalidated: 0 = usable, 1 = the WAL it needs is gone; then 4 bytes of padding
//!    112    16  confirmed_flush, two_phase_at = 0
//!    128     1  two_phase = 0
//!    129    64  plugin, empty
//!    193     2  synced, failover = 0, then 5 bytes of padding
//! ```

use ogel_ids::Lsn;

/// Name of the slot, of the walsender's application and of its folder in `pg_replslot`.
pub const SLOT_NAME: &str = "ogel";

const FILE_BYTES: usize = 200;
const HEADER_BYTES: usize = 16;
const CHECKED_FROM: usize = 8;

/// The bytes of `pg_replslot/ogel/state` for a slot that keeps WAL from `restart_lsn` on.
pub fn encode(restart_lsn: Lsn) -> [u8; FILE_BYTES] {
    let mut file = [0; FILE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x0105_1CA1_u32.to_ne_bytes());
    put(8, &5_u32.to_ne_bytes());
    put(12, &((FILE_BYTES - HEADER_BYTES) as u32).to_ne_bytes());
    put(16, SLOT_NAME.as_bytes());
    put(96, &restart_lsn.0.to_ne_bytes());
    seal(&mut file);
    file
}

fn seal(file: &mut [u8; FILE_BYTES]) {
    let checksum = crc32c::crc32c(&file[CHECKED_FROM..]);
    file[4..8].copy_from_slice(&checksum.to_ne_bytes());
}

/// The same slot as PostgreSQL leaves it when the WAL that it needs is gone. `None` for a file that [`restart_lsn`] makes nothing of.
pub fn invalidated(file: &[u8]) -> Option<[u8; FILE_BYTES]> {
    restart_lsn(file)?;
    let mut file: [u8; FILE_BYTES] = file.try_into().ok()?;
    file[96..104].fill(0);
    file[104..108].copy_from_slice(&1_u32.to_ne_bytes());
    seal(&mut file);
    Some(file)
}

/// From where on a slot needs WAL; `None` when it needs none, or is not of the form that PostgreSQL 17 writes.
pub fn restart_lsn(file: &[u8]) -> Option<Lsn> {
    let file: &[u8; FILE_BYTES] = file.try_into().ok()?;
    let number = |at: usize| Some(u32::from_ne_bytes(*file[at..].first_chunk()?));
    let checksum = crc32c::crc32c(&file[CHECKED_FROM..]);
    let sound = (number(0)?, number(4)?, number(8)?) == (0x0105_1CA1, checksum, 5);
    let lsn = Lsn(u64::from_ne_bytes(*file[96..].first_chunk()?));
    (sound && number(104)? == 0 && lsn.is_valid()).then_some(lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that PostgreSQL 17.11 wrote for `pg_create_physical_replication_slot('ogel', true)` at 0/14EDDC8.
    #[test]
    fn bytes_are_postgres_bytes() {
        let mut expected = [0; FILE_BYTES];
        expected[..16].copy_from_slice(&[0xa1, 0x1c, 5, 1, 0xa2, 0x62, 0x31, 9, 5, 0, 0, 0, 0xb8, 0, 0, 0]);
        expected[16..20].copy_from_slice(b"ogel");
        expected[96..100].copy_from_slice(&[0xc8, 0xdd, 0x4e, 1]);
        assert_eq!(encode(Lsn(0x14E_DDC8)), expected);
        assert_eq!(restart_lsn(&expected), Some(Lsn(0x14E_DDC8)));
        let lost = invalidated(&expected).expect("a slot");
        assert_eq!((&lost[96..108], restart_lsn(&lost)), (&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], None));
        assert_eq!(u32::from_ne_bytes(lost[4..8].try_into().expect("four")), crc32c::crc32c(&lost[8..]));
        assert_eq!(invalidated(&lost), None);
        expected[104] = 1;
        assert_eq!(restart_lsn(&expected), None, "its checksum is wrong now");
        assert_eq!(restart_lsn(&expected[..100]), None);
    }
}
