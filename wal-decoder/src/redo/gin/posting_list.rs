//! Compressed posting lists, the content of a posting tree's leaves.
//!
//! Mirrors `ginRedoRecompress` (`ginxlog.c`) and `ginpostinglist.c`. Deviation: none but what [`super`] says.
//!
//! ```text
//! segment: first heap pointer 6 bytes | length u16 | differences to the previous one, 7 bits a byte, lowest first | pad to 2
//! ```
//!
//! A heap pointer counts as the number block · 2¹¹ + item.

use super::{COMPRESSED, CONTENT, COUNT, FLAGS, SPECIAL};
use crate::{
    byte_reader::ByteReader,
    key::Page,
    redo::{Fault, page::Slotted},
};

const SEGMENT_HEADER: usize = 8;
const POINTER_SIZE: usize = 6;
/// Most bytes of a difference.
const MAX_VARBYTES: usize = 7;

/// Kinds of actions on a segment.
mod action {
    pub const DELETE: u8 = 1;
    pub const INSERT: u8 = 2;
    pub const REPLACE: u8 = 3;
    pub const ADD_ITEMS: u8 = 4;
}

fn number_of(pointer: &[u8]) -> u64 {
    let part = |at: usize| u64::from(u16::from_le_bytes([pointer[at], pointer[at + 1]]));
    (part(0) << 16 | part(2)) << 11 | part(4)
}

fn pointer_of(number: u64) -> [u8; POINTER_SIZE] {
    let block = (number >> 11) as u32;
    let mut pointer = [0; POINTER_SIZE];
    pointer[0..2].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
    pointer[2..4].copy_from_slice(&(block as u16).to_le_bytes());
    pointer[4..6].copy_from_slice(&((number & 0x7ff) as u16).to_le_bytes());
    pointer
}

/// Cuts the segment off the front of `bytes`.
fn take_segment<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.get(POINTER_SIZE..SEGMENT_HEADER)?;
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let (segment, rest) = bytes.split_at_checked(SEGMENT_HEADER + length.next_multiple_of(2))?;
    *bytes = rest;
    Some(segment)
}

/// The heap pointers of a segment, as numbers.
struct Numbers<'a> {
    next: Option<u64>,
    differences: &'a [u8],
}

impl<'a> Numbers<'a> {
    fn of(segment: &'a [u8]) -> Numbers<'a> {
        let length = usize::from(u16::from_le_bytes([segment[6], segment[7]]));
        Numbers { next: Some(number_of(segment)), differences: &segment[SEGMENT_HEADER..SEGMENT_HEADER + length] }
    }
}

impl Iterator for Numbers<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let number = self.next?;
        let mut difference = 0;
        let len = self.differences.iter().take(MAX_VARBYTES - 1).take_while(|&&byte| byte & 0x80 != 0).count() + 1;
        self.next = self.differences.split_at_checked(len).map(|(bytes, rest)| {
            for (index, byte) in bytes.iter().enumerate() {
                let bits = if index == MAX_VARBYTES - 1 { *byte } else { byte & 0x7f };
                difference |= u64::from(bits) << (7 * index);
            }
            self.differences = rest;
            number.wrapping_add(difference)
        });
        Some(number)
    }
}

/// Writes to the page's content, never beyond its end.
struct Writer<'a, 'b> {
    page: &'a mut Slotted<'b>,
    at: usize,
}

impl Writer<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let room = self.page.bytes[..SPECIAL].get_mut(self.at..self.at + bytes.len());
        room.ok_or(Fault::Page("its posting lists do not fit the page"))?.copy_from_slice(bytes);
        self.at += bytes.len();
        Ok(())
    }

    /// Writes ascending numbers as one segment.
    fn write_segment(&mut self, mut numbers: impl Iterator<Item = u64>) -> Result<(), Fault> {
        let Some(mut previous) = numbers.next() else { return Ok(()) };
        self.write(&pointer_of(previous))?;
        let length_at = self.at;
        self.write(&[0; 2])?;
        for number in numbers {
            let mut difference = number
                .checked_sub(previous)
                .filter(|&difference| difference > 0)
                .ok_or(Fault::Page("its heap pointers do not ascend"))?;
            while difference > 0x7f {
                self.write(&[0x80 | (difference & 0x7f) as u8])?;
                difference >>= 7;
            }
            self.write(&[difference as u8])?;
            previous = number;
        }
        let length = self.at - length_at - 2;
        self.page.put_u16(length_at, length as u16);
        if !length.is_multiple_of(2) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

/// Two ascending sequences as one, a number that is in both once.
fn merge(a: impl Iterator<Item = u64>, b: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(from_a), Some(from_b)) if from_a == from_b => {
            a.next();
            b.next()
        }
        (Some(from_a), Some(from_b)) if from_a > from_b => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}

/// A leaf written by PostgreSQL before 9.4 has its heap pointers uncompressed: makes it one segment.
fn compress(page: &mut Slotted<'_>) -> Result<(), Fault> {
    let old: Page = *page.bytes;
    let end = CONTENT + usize::from(page.u16_at(COUNT)) * POINTER_SIZE;
    let pointers = old[..SPECIAL].get(CONTENT..end).ok_or(Fault::Page("it has more heap pointers than fit"))?;
    let mut writer = Writer { page, at: CONTENT };
    writer.write_segment(pointers.chunks_exact(POINTER_SIZE).map(number_of))?;
    let end = writer.at;
    page.set_lower(end);
    page.put_u16(FLAGS, page.u16_at(FLAGS) | COMPRESSED);
    page.put_u16(COUNT, 0);
    Ok(())
}

/// Changes the segments of a leaf: `data` is the number of actions u16, then for each: segment u8, kind u8, and by kind a segment
/// or (count u16, heap pointers).
pub(super) fn recompress(page: &mut Slotted<'_>, data: &[u8]) -> Result<(), Fault> {
    const DAMAGED: Fault = Fault::Page("a posting list is damaged");
    if page.u16_at(FLAGS) & COMPRESSED == 0 {
        compress(page)?;
    }
    let mut data = ByteReader::new(data);
    let actions = data.u16()?;
    let old_page: Page = *page.bytes;
    let mut old = old_page.get(CONTENT..page.lower()).ok_or(DAMAGED)?;
    let mut writer = Writer { page, at: CONTENT };
    let mut segment_number = 0;
    for _ in 0..actions {
        let (target, kind) = (data.u8()?, data.u8()?);
        while segment_number < target {
            writer.write(take_segment(&mut old).ok_or(DAMAGED)?)?;
            segment_number += 1;
        }
        match kind {
            action::DELETE => {
                take_segment(&mut old).ok_or(DAMAGED)?;
                segment_number += 1;
            }
            action::INSERT | action::REPLACE => {
                let mut rest = data.rest();
                let new = take_segment(&mut rest).ok_or(Fault::Record("a posting list ends early"))?;
                data.skip(new.len())?;
                writer.write(new)?;
                if kind == action::REPLACE {
                    take_segment(&mut old).ok_or(DAMAGED)?;
                    segment_number += 1;
                }
            }
            action::ADD_ITEMS => {
                let count = usize::from(data.u16()?);
                let added = data.bytes(count * POINTER_SIZE)?.chunks_exact(POINTER_SIZE).map(number_of);
                let segment = take_segment(&mut old).ok_or(DAMAGED)?;
                writer.write_segment(merge(added, Numbers::of(segment)))?;
                segment_number += 1;
            }
            _ => return Err(Fault::Record("unknown action on a posting list")),
        }
    }
    writer.write(old)?;
    let end = writer.at;
    page.set_lower(end);
    Ok(())
}
