//! The WAL that a proposer holds in memory.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use ogel_ids::Lsn;

/// WAL of `start()..end()`, in the pieces in which it came.
#[derive(Debug)]
pub(super) struct WalWindow {
    start: Lsn,
    end: Lsn,
    pieces: VecDeque<(Lsn, Bytes)>,
}

impl WalWindow {
    pub(super) fn starting_at(start: Lsn) -> Self {
        Self { start, end: start, pieces: VecDeque::new() }
    }

    pub(super) fn start(&self) -> Lsn {
        self.start
    }

    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.end.bytes_since(self.start)
    }

    /// Takes WAL; what is there already is skipped. `false`: it would leave a gap, or lies beyond the number space.
    pub(super) fn push(&mut self, begin: Lsn, mut wal: Bytes) -> bool {
        let Some(end) = begin.checked_add(wal.len() as u64) else { return false };
        if begin > self.end {
            return false;
        }
        if end > self.end {
            wal.advance(self.end.bytes_since(begin) as usize);
            self.pieces.push_back((self.end, wal));
            self.end = end;
        }
        true
    }

    /// At most `limit` bytes from `at` on, as far as one piece reaches; empty at the end. `at` lies in the window.
    pub(super) fn read(&self, at: Lsn, limit: usize) -> Bytes {
        assert!(self.start <= at && at <= self.end);
        let index = self.pieces.partition_point(|(begin, wal)| begin.0 + wal.len() as u64 <= at.0);
        let Some((begin, wal)) = self.pieces.get(index) else { return Bytes::new() };
        let from = at.bytes_since(*begin) as usize;
        wal.slice(from..wal.len().min(from + limit))
    }

    /// Drops whole pieces below `limit` for as long as more than `keep_bytes` are held.
    pub(super) fn drop_below(&mut self, limit: Lsn, keep_bytes: u64) {
        while let Some((begin, wal)) = self.pieces.front() {
            let end = Lsn(begin.0 + wal.len() as u64);
            if end > limit || self.size_bytes() <= keep_bytes {
                break;
            }
            self.start = end;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_skipped_and_gaps_refused() {
        let mut window = WalWindow::starting_at(Lsn(100));
        assert!(window.push(Lsn(100), Bytes::from_static(b"abcd")));
        assert!(window.push(Lsn(102), Bytes::from_static(b"cdef")));
        assert!(!window.push(Lsn(107), Bytes::from_static(b"x")));
        assert!(!window.push(Lsn(u64::MAX), Bytes::from_static(b"xy")));
        assert_eq!((window.start(), window.end()), (Lsn(100), Lsn(106)));
        assert_eq!(window.read(Lsn(101), 2), "bc");
        assert_eq!(window.read(Lsn(105), 9), "f");
        assert_eq!(window.read(Lsn(106), 9), "");
    }

    #[test]
    fn only_whole_pieces_below_the_limit_go() {
        let mut window = WalWindow::starting_at(Lsn(0));
        for begin in [0, 10, 20] {
            assert!(window.push(Lsn(begin), Bytes::from_static(&[7; 10])));
        }
        window.drop_below(Lsn(15), 0);
        assert_eq!(window.start(), Lsn(10));
        window.drop_below(Lsn(30), 20);
        assert_eq!(window.start(), Lsn(10), "there is room for it");
        window.drop_below(Lsn(30), 0);
        assert_eq!((window.start(), window.end()), (Lsn(30), Lsn(30)));
        assert!(window.push(Lsn(30), Bytes::from_static(b"z")));
    }
}
