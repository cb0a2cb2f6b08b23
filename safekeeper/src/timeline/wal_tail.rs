//! Recent WAL in memory, for readers that are close behind.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use ogel_ids::Lsn;

/// The last bytes written, as they came.
///
/// Invariants: pieces are contiguous and rise; `size_bytes` is their sum and, but for the last piece, ≤ `limit_bytes`.
#[derive(Debug)]
pub struct WalTail {
    pieces: VecDeque<(Lsn, Bytes)>,
    size_bytes: usize,
    limit_bytes: usize,
}

impl WalTail {
    /// An empty tail that keeps about this much.
    pub fn new(limit_bytes: usize) -> Self {
        Self { pieces: VecDeque::new(), size_bytes: 0, limit_bytes }
    }

    /// Appends what was written. A piece that does not continue the tail starts it anew.
    pub fn push(&mut self, begin: Lsn, wal: Bytes) {
        if self.end().is_some_and(|end| end != begin) {
            self.clear();
        }
        self.size_bytes += wal.len();
        self.pieces.push_back((begin, wal));
        while self.size_bytes > self.limit_bytes && self.pieces.len() > 1 {
            let dropped = self.pieces.pop_front().map_or(0, |(_, wal)| wal.len());
            self.size_bytes -= dropped;
        }
    }

    /// Forgets what lies at or behind a cut.
    pub fn cut(&mut self, at: Lsn) {
        while let Some((begin, wal)) = self.pieces.pop_back() {
            self.size_bytes -= wal.len();
            if begin < at {
                let kept = wal.slice(..wal.len().min(at.bytes_since(begin) as usize));
                self.size_bytes += kept.len();
                self.pieces.push_back((begin, kept));
                return;
            }
        }
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.size_bytes = 0;
    }

    fn end(&self) -> Option<Lsn> {
        self.pieces.back().map(|(begin, wal)| Lsn(begin.0 + wal.len() as u64))
    }

    /// The bytes of `[from, to)`, if all of them are here.
    pub fn read(&self, from: Lsn, to: Lsn) -> Option<Bytes> {
        let first = self.pieces.partition_point(|(begin, _)| *begin <= from).checked_sub(1)?;
        if self.end()? < to || from >= to {
            return None;
        }
        let (begin, wal) = &self.pieces[first];
        let offset = from.bytes_since(*begin) as usize;
        let wanted = to.bytes_since(from) as usize;
        if let Some(slice) = wal.get(offset..offset + wanted) {
            return Some(wal.slice_ref(slice));
        }
        let mut out = BytesMut::with_capacity(wanted);
        for (begin, wal) in self.pieces.range(first..) {
            let skip = from.bytes_since(*begin) as usize;
            let rest = wal.get(skip..).unwrap_or_default();
            out.put_slice(&rest[..rest.len().min(wanted - out.len())]);
            if out.len() == wanted {
                break;
            }
        }
        Some(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let mut tail = WalTail::new(25);
        for i in 0..4_u8 {
            tail.push(Lsn(100 + 10 * u64::from(i)), Bytes::from(vec![i; 10]));
        }
        assert_eq!(tail.read(Lsn(110), Lsn(130)), None, "dropped");
        assert_eq!(tail.read(Lsn(125), Lsn(135)).unwrap(), [[2; 5], [3; 5]].concat());
        assert_eq!(tail.read(Lsn(130), Lsn(140)).unwrap(), [3; 10].to_vec());
        assert_eq!(tail.read(Lsn(130), Lsn(141)), None, "not written");
        tail.cut(Lsn(125));
        assert_eq!(tail.read(Lsn(120), Lsn(125)).unwrap(), [2; 5].to_vec());
        assert_eq!(tail.read(Lsn(120), Lsn(126)), None, "cut");
        tail.push(Lsn(125), Bytes::from(vec![9; 2]));
        assert_eq!(tail.read(Lsn(124), Lsn(127)).unwrap(), vec![2, 9, 9]);
        tail.push(Lsn(500), Bytes::from(vec![9; 2]));
        assert_eq!(tail.read(Lsn(124), Lsn(127)), None, "a gap starts anew");
    }
}
