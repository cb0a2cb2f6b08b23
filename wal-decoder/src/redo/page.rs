//! The slotted page: header, line pointers, items.
//!
//! ```text
//!  0 pd_lsn        high half, low half (u32 each)
//!  8 pd_checksum   u16
//! 10 pd_flags      u16
//! 12 pd_lower      u16   end of the line pointers
//! 14 pd_upper      u16   start of the items
//! 16 pd_special    u16   start of the access method's own area
//! 18 size|version  u16
//! 20 pd_prune_xid  u32
//! 24 line pointers, u32 each: offset 15 bits, state 2 bits, length 15 bits
//! ```
//!
//! Every function leaves items exactly where PostgreSQL's `bufpage.c` leaves them: line pointers are compared bit for bit, and later
//! records were written for that layout. Nothing here trusts the page: each offset that comes from it is checked before use.

use super::Fault;
use crate::key::{PAGE_SIZE, Page};
use ogel_ids::Lsn;

/// Bytes before the line pointers.
pub(crate) const HEADER_SIZE: usize = 24;
/// Bytes of a line pointer.
pub(crate) const LINE_POINTER_SIZE: usize = 4;
/// `MaxHeapTuplesPerPage`.
const MAX_HEAP_TUPLES: usize = 291;
/// More line pointers than any page of tuples can have (`MaxIndexTuplesPerPage` is 408).
pub(crate) const MAX_ITEMS: usize = 512;

/// `PD_HAS_FREE_LINES`: hint that an unused line pointer may exist.
pub(crate) const HAS_FREE_LINES: u16 = 0x0001;
/// `PD_PAGE_FULL`: hint that an update found no room.
pub(crate) const PAGE_FULL: u16 = 0x0002;
/// `PD_ALL_VISIBLE`.
pub(crate) const ALL_VISIBLE: u16 = 0x0004;

/// Rounds up to the alignment of items.
pub(crate) const fn align8(size: usize) -> usize {
    (size + 7) & !7
}

/// State of a line pointer (`lp_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum LineState {
    /// Free for reuse.
    Unused = 0,
    /// Points to an item.
    Normal = 1,
    /// The offset field is the number of another line pointer.
    Redirect = 2,
    /// Dead; in indexes it may still have an item.
    Dead = 3,
}

/// A line pointer (`ItemIdData`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinePointer {
    /// Byte offset of the item, or what a redirect leads to.
    pub offset: usize,
    /// State.
    pub state: LineState,
    /// Bytes of the item; 0 without one.
    pub len: usize,
}

impl LinePointer {
    pub(crate) const UNUSED: LinePointer = LinePointer { offset: 0, state: LineState::Unused, len: 0 };
    pub(crate) const DEAD: LinePointer = LinePointer { offset: 0, state: LineState::Dead, len: 0 };

    fn from_bits(bits: u32) -> LinePointer {
        let state = match bits >> 15 & 3 {
            0 => LineState::Unused,
            1 => LineState::Normal,
            2 => LineState::Redirect,
            _ => LineState::Dead,
        };
        LinePointer { offset: (bits & 0x7fff) as usize, state, len: (bits >> 17) as usize }
    }

    fn to_bits(self) -> u32 {
        debug_assert!(self.offset < 1 << 15 && self.len < 1 << 15);
        self.offset as u32 | (self.state as u32) << 15 | (self.len as u32) << 17
    }

    /// Whether there is an item behind it.
    pub(crate) fn has_storage(self) -> bool {
        self.len != 0
    }
}

/// How [`Slotted::add`] treats the line pointer it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Line pointers from this one on move up by one.
    Insert,
    /// The line pointer must be unused, or the next one.
    Overwrite,
    /// As `Overwrite`, on a heap page, which has a limit of line pointers.
    Heap,
}

/// A page seen as header, line pointers and items.
pub(crate) struct Slotted<'a> {
    /// The page.
    pub bytes: &'a mut Page,
}

/// An item that compaction keeps.
#[derive(Clone, Copy, Default)]
struct Kept {
    number: u16,
    offset: u16,
    aligned_len: u16,
}

impl<'a> Slotted<'a> {
    pub(crate) fn new(bytes: &'a mut Page) -> Slotted<'a> {
        Slotted { bytes }
    }

    pub(crate) fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    pub(crate) fn put_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Makes the page empty, with `special` bytes for the access method (`PageInit`).
    pub(crate) fn init(&mut self, special: usize) {
        let special_start = (PAGE_SIZE - align8(special)) as u16;
        self.bytes.fill(0);
        self.put_u16(12, HEADER_SIZE as u16);
        self.put_u16(14, special_start);
        self.put_u16(16, special_start);
        self.put_u16(18, PAGE_SIZE as u16 | 4);
    }

    /// A page that was never initialised (`PageIsNew`).
    pub(crate) fn is_new(&self) -> bool {
        self.upper() == 0
    }

    pub(crate) fn lower(&self) -> usize {
        usize::from(self.u16_at(12))
    }

    pub(crate) fn upper(&self) -> usize {
        usize::from(self.u16_at(14))
    }

    pub(crate) fn special(&self) -> usize {
        usize::from(self.u16_at(16))
    }

    pub(crate) fn set_lower(&mut self, lower: usize) {
        self.put_u16(12, lower as u16);
    }

    pub(crate) fn set_upper(&mut self, upper: usize) {
        self.put_u16(14, upper as u16);
    }

    pub(crate) fn set_lsn(&mut self, lsn: Lsn) {
        self.put_u32(0, (lsn.0 >> 32) as u32);
        self.put_u32(4, lsn.0 as u32);
    }

    pub(crate) fn flags(&self) -> u16 {
        self.u16_at(10)
    }

    pub(crate) fn set_flag(&mut self, flag: u16, on: bool) {
        let flags = self.flags();
        self.put_u16(10, if on { flags | flag } else { flags & !flag });
    }

    /// `24 ≤ pd_lower ≤ pd_upper ≤ pd_special ≤ 8192` and the line pointers are whole.
    pub(crate) fn check_header(&self) -> Result<(), Fault> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        if lower < HEADER_SIZE || lower > upper || upper > special || special > PAGE_SIZE || !special.is_multiple_of(8)
        {
            return Err(Fault::Page("its header is damaged or it was never initialised"));
        }
        Ok(())
    }

    /// The header is sound and the access method's own area starts at `special`, as on all pages of its indexes.
    pub(crate) fn check_special(&self, special: usize, otherwise: &'static str) -> Result<(), Fault> {
        self.check_header()?;
        if self.special() == special { Ok(()) } else { Err(Fault::Page(otherwise)) }
    }

    /// Number of line pointers (`PageGetMaxOffsetNumber`); 0 for a page that was never initialised.
    pub(crate) fn count(&self) -> usize {
        self.lower().min(PAGE_SIZE).saturating_sub(HEADER_SIZE) / LINE_POINTER_SIZE
    }

    fn line_at(&self, number: usize) -> LinePointer {
        LinePointer::from_bits(self.u32_at(HEADER_SIZE + (number - 1) * LINE_POINTER_SIZE))
    }

    fn put_line(&mut self, number: usize, line: LinePointer) {
        self.put_u32(HEADER_SIZE + (number - 1) * LINE_POINTER_SIZE, line.to_bits());
    }

    /// The line pointer with this number; numbers start at 1.
    pub(crate) fn line(&self, number: u16) -> Result<LinePointer, Fault> {
        let number = usize::from(number);
        if number == 0 || number > self.count() {
            return Err(Fault::Page("a line pointer that the record names does not exist"));
        }
        Ok(self.line_at(number))
    }

    /// Replaces an existing line pointer.
    pub(crate) fn set_line(&mut self, number: u16, line: LinePointer) -> Result<(), Fault> {
        self.line(number)?;
        self.put_line(usize::from(number), line);
        Ok(())
    }

    /// The bytes of an item, which must have storage and lie within the page.
    pub(crate) fn item_range(&self, number: u16) -> Result<std::ops::Range<usize>, Fault> {
        let line = self.line(number)?;
        if line.len == 0 || line.offset < HEADER_SIZE || line.offset + line.len > PAGE_SIZE {
            return Err(Fault::Page("an item that the record names does not exist or lies outside the page"));
        }
        Ok(line.offset..line.offset + line.len)
    }

    /// An item's bytes.
    pub(crate) fn item(&self, number: u16) -> Result<&[u8], Fault> {
        Ok(&self.bytes[self.item_range(number)?])
    }

    /// An item's bytes, to be changed in place.
    pub(crate) fn item_mut(&mut self, number: u16) -> Result<&mut [u8], Fault> {
        let range = self.item_range(number)?;
        Ok(&mut self.bytes[range])
    }

    /// Makes room for an item of `len` bytes and returns where it starts (`PageAddItemExtended`); the caller fills it.
    pub(crate) fn add(&mut self, number: u16, len: usize, place: Place) -> Result<usize, Fault> {
        self.check_header()?;
        let number = usize::from(number);
        let next = self.count() + 1;
        if number == 0 || number > next || (place == Place::Heap && number > MAX_HEAP_TUPLES) {
            return Err(Fault::Page("an item would be added beyond the next free line pointer"));
        }
        let reuses = number < next && place != Place::Insert;
        if reuses {
            let line = self.line_at(number);
            if line.state != LineState::Unused || line.has_storage() {
                return Err(Fault::Page("an item would overwrite a line pointer in use"));
            }
        }
        let lower = self.lower() + if reuses { 0 } else { LINE_POINTER_SIZE };
        if len >= PAGE_SIZE || lower + align8(len) > self.upper() {
            return Err(Fault::Page("there is no room for the item"));
        }
        let upper = self.upper() - align8(len);
        if number < next && !reuses {
            let at = HEADER_SIZE + (number - 1) * LINE_POINTER_SIZE;
            self.bytes.copy_within(at..HEADER_SIZE + (next - 1) * LINE_POINTER_SIZE, at + LINE_POINTER_SIZE);
        }
        self.put_line(number, LinePointer { offset: upper, state: LineState::Normal, len });
        self.set_lower(lower);
        self.set_upper(upper);
        Ok(upper)
    }

    /// Adds an item with this content.
    pub(crate) fn add_item(&mut self, number: u16, item: &[u8], place: Place) -> Result<(), Fault> {
        let at = self.add(number, item.len(), place)?;
        self.bytes[at..at + item.len()].copy_from_slice(item);
        Ok(())
    }

    /// An item of an index page and the aligned room it takes, checked as the deletion routines of PostgreSQL do.
    fn checked_item(&self, number: usize) -> Result<(LinePointer, usize), Fault> {
        let line = self.line_at(number);
        if line.offset < self.upper()
            || line.offset + align8(line.len) > self.special()
            || !line.offset.is_multiple_of(8)
        {
            return Err(Fault::Page("a line pointer is damaged"));
        }
        Ok((line, align8(line.len)))
    }

    /// Moves all items that start at or before `offset` by `by` bytes, in their line pointers.
    fn shift_lines(&mut self, offset: usize, by: isize) -> Result<(), Fault> {
        for number in 1..=self.count() {
            let mut line = self.line_at(number);
            if line.has_storage() && line.offset <= offset {
                line.offset = line
                    .offset
                    .checked_add_signed(by)
                    .filter(|&at| at < PAGE_SIZE)
                    .ok_or(Fault::Page("a line pointer is damaged"))?;
                self.put_line(number, line);
            }
        }
        Ok(())
    }

    /// Removes an item and its line pointer (`PageIndexTupleDelete`).
    pub(crate) fn delete(&mut self, number: u16) -> Result<(), Fault> {
        self.check_header()?;
        self.line(number)?;
        let (line, size) = self.checked_item(usize::from(number))?;
        let at = HEADER_SIZE + (usize::from(number) - 1) * LINE_POINTER_SIZE;
        let lower = self.lower();
        self.bytes.copy_within(at + LINE_POINTER_SIZE..lower, at);
        self.set_lower(self.lower() - LINE_POINTER_SIZE);
        self.close_gap(line.offset, size)
    }

    /// Removes an item but keeps its line pointer, as unused, unless it is the last one (`PageIndexTupleDeleteNoCompact`).
    pub(crate) fn delete_keeping_numbers(&mut self, number: u16) -> Result<(), Fault> {
        self.check_header()?;
        self.line(number)?;
        let (line, size) = self.checked_item(usize::from(number))?;
        if usize::from(number) < self.count() {
            self.put_line(usize::from(number), LinePointer::UNUSED);
        } else {
            self.set_lower(self.lower() - LINE_POINTER_SIZE);
        }
        self.close_gap(line.offset, size)
    }

    /// Moves the items before `offset` up by `size` bytes.
    fn close_gap(&mut self, offset: usize, size: usize) -> Result<(), Fault> {
        let upper = self.upper();
        self.bytes.copy_within(upper..offset, upper + size);
        self.set_upper(upper + size);
        self.shift_lines(offset, size as isize)
    }

    /// Gives an item another length, in place: its end stays, its start and the items before it move (`PageIndexTupleOverwrite`).
    /// The first bytes of the item, up to the smaller length, are kept. Returns where it starts.
    pub(crate) fn resize(&mut self, number: u16, len: usize) -> Result<usize, Fault> {
        self.check_header()?;
        self.line(number)?;
        let (line, old_size) = self.checked_item(usize::from(number))?;
        let (upper, size) = (self.upper(), align8(len));
        if len == 0 || size > old_size + (upper - self.lower()) {
            return Err(Fault::Page("there is no room for the item's new version"));
        }
        let by = old_size as isize - size as isize;
        let new_offset = line.offset.checked_add_signed(by).expect("room was checked");
        if by != 0 {
            let keep = line.len.min(len);
            let new_upper = upper.checked_add_signed(by).expect("room was checked");
            if by < 0 {
                self.bytes.copy_within(upper..line.offset + keep, new_upper);
            } else {
                self.bytes.copy_within(line.offset..line.offset + keep, new_offset);
                self.bytes.copy_within(upper..line.offset, new_upper);
            }
            self.set_upper(new_upper);
            self.shift_lines(line.offset, by)?;
        }
        let number = usize::from(number);
        self.put_line(number, LinePointer { offset: new_offset, len, ..self.line_at(number) });
        Ok(new_offset)
    }

    /// Replaces an item's content, which may have another length (`PageIndexTupleOverwrite`).
    pub(crate) fn overwrite(&mut self, number: u16, item: &[u8]) -> Result<(), Fault> {
        let at = self.resize(number, item.len())?;
        self.bytes[at..at + item.len()].copy_from_slice(item);
        Ok(())
    }

    /// Removes items and their line pointers; `numbers` ascends (`PageIndexMultiDelete`, which deletes one or two items in another
    /// way than more of them, with another layout as the result).
    pub(crate) fn delete_many(
        &mut self,
        numbers: impl DoubleEndedIterator<Item = u16> + ExactSizeIterator,
    ) -> Result<(), Fault> {
        if numbers.len() <= 2 {
            return numbers.rev().try_for_each(|number| self.delete(number));
        }
        self.check_header()?;
        let mut kept = [Kept::default(); MAX_ITEMS];
        let mut count = 0;
        let mut numbers = numbers.peekable();
        for number in 1..=self.count() {
            let (line, size) = self.checked_item(number)?;
            if numbers.next_if(|&gone| usize::from(gone) == number).is_some() {
                continue;
            }
            let slot = kept.get_mut(count).ok_or(Fault::Page("it has more items than fit a page"))?;
            *slot = Kept { number: count as u16 + 1, offset: line.offset as u16, aligned_len: size as u16 };
            count += 1;
            self.put_line(count, line);
        }
        if numbers.next().is_some() {
            return Err(Fault::Record("items to delete are not in ascending order or do not exist"));
        }
        self.set_lower(HEADER_SIZE + count * LINE_POINTER_SIZE);
        self.compact(&kept[..count])
    }

    /// Moves all items together, drops unused line pointers at the end (`PageRepairFragmentation`).
    pub(crate) fn repair_fragmentation(&mut self) -> Result<(), Fault> {
        self.check_header()?;
        let lines = self.count();
        let mut kept = [Kept::default(); MAX_ITEMS];
        let (mut count, mut last_used, mut unused) = (0, 0, 0);
        for number in 1..=lines {
            let line = self.line_at(number);
            if line.state == LineState::Unused {
                self.put_line(number, LinePointer::UNUSED);
                unused += 1;
                continue;
            }
            last_used = number;
            if line.has_storage() {
                let size = align8(line.len);
                if line.offset < self.upper() || line.offset + size > self.special() {
                    return Err(Fault::Page("a line pointer is damaged"));
                }
                let slot = kept.get_mut(count).ok_or(Fault::Page("it has more items than fit a page"))?;
                *slot = Kept { number: number as u16, offset: line.offset as u16, aligned_len: size as u16 };
                count += 1;
            }
        }
        self.compact(&kept[..count])?;
        self.set_lower(HEADER_SIZE + last_used * LINE_POINTER_SIZE);
        self.set_flag(HAS_FREE_LINES, unused > lines - last_used);
        Ok(())
    }

    /// Drops unused line pointers at the end, but never the first one (`PageTruncateLinePointerArray`).
    pub(crate) fn truncate_lines(&mut self) -> Result<(), Fault> {
        self.check_header()?;
        let mut keep = self.count();
        while keep > 1 && self.line_at(keep).state == LineState::Unused {
            keep -= 1;
        }
        let free = (1..=keep).any(|number| self.line_at(number).state == LineState::Unused);
        self.set_lower(HEADER_SIZE + keep * LINE_POINTER_SIZE);
        self.set_flag(HAS_FREE_LINES, free);
        Ok(())
    }

    /// Puts the items at the end of the page in the order of `kept`, the first one last (`compactify_tuples`).
    fn compact(&mut self, kept: &[Kept]) -> Result<(), Fault> {
        let total: usize = kept.iter().map(|item| usize::from(item.aligned_len)).sum();
        let mut upper = self.special();
        if total > upper - self.lower() {
            return Err(Fault::Page("its items overlap"));
        }
        // Items that lie in the order in which they are to lie only move up, so each can be moved within the page.
        let in_order = kept.windows(2).all(|pair| pair[0].offset > pair[1].offset);
        let scratch = if in_order { None } else { Some(*self.bytes) };
        for item in kept {
            let (from, size) = (usize::from(item.offset), usize::from(item.aligned_len));
            upper -= size;
            if from != upper || scratch.is_some() {
                match &scratch {
                    None => self.bytes.copy_within(from..from + size, upper),
                    Some(old) => self.bytes[upper..upper + size].copy_from_slice(&old[from..from + size]),
                }
                let number = usize::from(item.number);
                self.put_line(number, LinePointer { offset: upper, ..self.line_at(number) });
            }
        }
        self.set_upper(upper);
        Ok(())
    }
}
