//! Which pages were read not long ago: a page that was read once is not worth a place in the page cache yet.
//!
//! A scan reads every page once. Keeping them would copy each, push out what is read again and again, and serve nobody: what they are made
//! of is in the block cache anyway. So a page is kept from its second read on. A set of hashes, without the keys: that one page is taken
//! for another costs a place, not a wrong answer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::keyspace::Key;

/// Bits; 128 KiB of memory per process.
const BITS: usize = 1 << 20;
/// The set is emptied when it holds so many: until then at most one page in eight is mistaken for one that was read.
const MAX_HELD: usize = BITS / 8;

/// A bounded memory of pages read.
pub(super) struct Doorkeeper {
    words: Box<[AtomicU64]>,
    held: AtomicUsize,
}

impl Doorkeeper {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self { words: (0..BITS / 64).map(|_| AtomicU64::new(0)).collect(), held: AtomicUsize::new(0) }
    }

    /// Notes that the page was read, and says whether it had been before.
    pub fn knows(&self, space: u64, key: &Key) -> bool {
        let hash = crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), &space.to_ne_bytes()) as usize;
        let bit = 1 << (hash % 64);
        let known = self.words[hash / 64 % self.words.len()].fetch_or(bit, Ordering::Relaxed) & bit != 0;
        if !known && self.held.fetch_add(1, Ordering::Relaxed) == MAX_HELD {
            self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            self.held.store(0, Ordering::Relaxed);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use wal_decoder::key::{Fork, Rel};

    use super::*;

    const FORK: wal_decoder::key::RelFork = Rel { spc: 1663, db: 5, rel: 9 }.fork(Fork::Main);

    #[test]
    fn what_is_read_twice_is_known_and_a_long_scan_is_not() {
        let (doorkeeper, hot) = (Doorkeeper::new(), Key::rel_page(FORK, u32::MAX));
        assert!(!doorkeeper.knows(1, &hot));
        assert!(doorkeeper.knows(1, &hot));
        assert!(!doorkeeper.knows(2, &hot), "another timeline's page");
        let scan = 4 * MAX_HELD as u32;
        let mistaken = (0..scan).filter(|block| doorkeeper.knows(1, &Key::rel_page(FORK, *block))).count();
        assert!(mistaken < scan as usize / 8, "{mistaken} of {scan}");
        assert!(!doorkeeper.knows(1, &hot), "emptied meanwhile");
        assert!(doorkeeper.knows(1, &hot));
    }
}
