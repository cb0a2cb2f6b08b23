//! The index tuple, plain or with a posting list.
//!
//! ```text
//! 0 heap pointer: block high u16, block low u16, item u16 | 6 info u16: size 13 bits, 0x2000 the heap pointer is something else | 8 key …
//! posting list: item = 0x2000 | number of heap pointers, block = offset of the sorted list of them in the tuple
//! ```

use crate::redo::{Fault, page::align8};

/// Bytes of a heap pointer.
pub(super) const HEAP_POINTER_SIZE: usize = 6;
pub(super) const HEADER_SIZE: usize = 8;
const SIZE_MASK: u16 = 0x1fff;
/// `INDEX_ALT_TID_MASK`: the heap pointer field has another meaning.
const ALTERNATIVE: u16 = 0x2000;
/// `BT_IS_POSTING`, in the item number of the heap pointer field.
const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0fff;

/// A heap pointer's bytes.
pub(super) type HeapPointer = [u8; HEAP_POINTER_SIZE];

fn u16_at(tuple: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([tuple[at], tuple[at + 1]])
}

/// Size of the tuple at the start of `bytes`, which has that many bytes at least.
pub(super) fn size(bytes: &[u8]) -> Result<usize, Fault> {
    if bytes.len() < HEADER_SIZE {
        return Err(Fault::Record("an index tuple ends early"));
    }
    let size = usize::from(u16_at(bytes, 6) & SIZE_MASK);
    if size < HEADER_SIZE || align8(size) > bytes.len() {
        return Err(Fault::Record("an index tuple has an impossible size"));
    }
    Ok(size)
}

/// The heap pointer field.
pub(super) fn heap_pointer(tuple: &[u8]) -> Result<HeapPointer, Fault> {
    tuple.first_chunk().copied().ok_or(Fault::Record("an index tuple ends early"))
}

/// The 32 bits of the heap pointer field that a downlink uses.
pub(super) fn downlink(tuple: &[u8]) -> Result<[u8; 4], Fault> {
    tuple.first_chunk().copied().ok_or(Fault::Page("an index tuple ends early"))
}

/// A high key without a key that points to the top of a subtree being deleted.
pub(super) fn top_parent(block: u32) -> [u8; HEADER_SIZE] {
    let mut tuple = [0; HEADER_SIZE];
    put_block(&mut tuple, block);
    tuple[6..8].copy_from_slice(&(HEADER_SIZE as u16 | ALTERNATIVE).to_le_bytes());
    tuple
}

fn put_block(tuple: &mut [u8], block: u32) {
    tuple[0..2].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
    tuple[2..4].copy_from_slice(&(block as u16).to_le_bytes());
}

/// What an item of a leaf page says about its heap pointers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointers {
    /// Bytes of the tuple without a posting list.
    pub key_size: usize,
    /// Number of heap pointers, at least 1.
    pub count: usize,
    /// Where they start.
    pub start: usize,
}

impl Pointers {
    /// Reads a leaf item; its heap pointers lie within it.
    pub(super) fn of(tuple: &[u8]) -> Result<Pointers, Fault> {
        let size = size(tuple).map_err(|_| Fault::Page("an index tuple is damaged"))?;
        if u16_at(tuple, 6) & ALTERNATIVE == 0 {
            return Ok(Pointers { key_size: size, count: 1, start: 0 });
        }
        let item = u16_at(tuple, 4);
        let start = usize::from(u16_at(tuple, 0)) << 16 | usize::from(u16_at(tuple, 2));
        let count = usize::from(item & COUNT_MASK);
        if item & IS_POSTING == 0 || count == 0 || start < HEADER_SIZE || start + count * HEAP_POINTER_SIZE > size {
            return Err(Fault::Page("a posting list is damaged"));
        }
        Ok(Pointers { key_size: start, count, start })
    }

    pub(super) fn byte_len(self) -> usize {
        self.count * HEAP_POINTER_SIZE
    }
}

/// Size of a tuple with this key and number of heap pointers (`_bt_form_posting`).
pub(super) fn size_with(key_size: usize, count: usize) -> usize {
    if count > 1 { align8(key_size + count * HEAP_POINTER_SIZE) } else { key_size }
}

/// Writes the header of a tuple whose key and heap pointers stand in it already: of several, behind the key; of one, in the header.
pub(super) fn finish(tuple: &mut [u8], key_size: usize, count: usize) {
    let mut info = u16_at(tuple, 6) & !SIZE_MASK & !ALTERNATIVE | tuple.len() as u16 & SIZE_MASK;
    if count > 1 {
        info |= ALTERNATIVE;
        put_block(tuple, key_size as u32);
        tuple[4..6].copy_from_slice(&(count as u16 & COUNT_MASK | IS_POSTING).to_le_bytes());
        tuple[key_size + count * HEAP_POINTER_SIZE..].fill(0);
    }
    tuple[6..8].copy_from_slice(&info.to_le_bytes());
}

/// Puts `new` into a posting list at `position` and returns the list's last heap pointer, which falls out (`_bt_swap_posting`).
pub(super) fn swap_into_posting(posting: &mut [u8], new: HeapPointer, position: u16) -> Result<HeapPointer, Fault> {
    let pointers = Pointers::of(posting)?;
    let position = usize::from(position);
    if position == 0 || position >= pointers.count {
        return Err(Fault::Page("the posting list cannot be split where the record says"));
    }
    let last = last_pointer(posting)?;
    let at = pointers.start + position * HEAP_POINTER_SIZE;
    let end = pointers.start + pointers.byte_len();
    posting.copy_within(at..end - HEAP_POINTER_SIZE, at + HEAP_POINTER_SIZE);
    posting[at..at + HEAP_POINTER_SIZE].copy_from_slice(&new);
    Ok(last)
}

/// The last heap pointer of a posting list.
pub(super) fn last_pointer(posting: &[u8]) -> Result<HeapPointer, Fault> {
    let pointers = Pointers::of(posting)?;
    heap_pointer(&posting[pointers.start + pointers.byte_len() - HEAP_POINTER_SIZE..])
}
