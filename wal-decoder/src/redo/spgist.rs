//! SP-GiST index (`spgxlog.h`). All data of a record is in its main data, whichever page it is for.
//!
//! Mirrors `spgxlog.c`. Deviations: no snapshot conflicts; each page is made alone.

use super::{
    Change, Fault,
    page::{MAX_ITEMS, Place, Slotted},
};
use crate::{
    byte_reader::ByteReader,
    key::{PAGE_SIZE, Page},
};

/// Kinds of records: the high half of `info`.
mod op {
    pub const ADD_LEAF: u8 = 0x10;
    pub const MOVE_LEAFS: u8 = 0x20;
    pub const ADD_NODE: u8 = 0x30;
    pub const SPLIT_TUPLE: u8 = 0x40;
    pub const PICK_SPLIT: u8 = 0x50;
    pub const VACUUM_LEAF: u8 = 0x60;
    pub const VACUUM_ROOT: u8 = 0x70;
    pub const VACUUM_REDIRECT: u8 = 0x80;
}

/// The area at the end of every page: flags u16, number of redirections u16, number of placeholders u16, page id u16.
const SPECIAL: usize = PAGE_SIZE - 8;
const FLAGS: usize = SPECIAL;
const REDIRECTIONS: usize = SPECIAL + 2;
const PLACEHOLDERS: usize = SPECIAL + 4;
const PAGE_ID: usize = SPECIAL + 6;
const SPGIST_PAGE_ID: u16 = 0xff82;
const LEAF: u16 = 1 << 2;
const NULLS: u16 = 1 << 3;

/// State of a tuple: the low 2 bits of its first 4 bytes. Of leaf and dead tuples the other bits are the size.
const REDIRECT: u32 = 1;
const DEAD: u32 = 2;
const PLACEHOLDER: u32 = 3;
const STATE_MASK: u32 = 3;
/// A dead tuple: state and size u32, info u16, pointer 6 bytes, transaction u32.
const DEAD_TUPLE_SIZE: usize = 16;
const POINTER: usize = 6;
/// Header of an inner tuple: state 2 bits, all-the-same 1, number of nodes 13, prefix size 16; size u16, 2 unused.
const INNER_HEADER_SIZE: usize = 8;

/// Block and item that a downlink or a redirection leads to.
type Target = (u32, u16);
const NOWHERE: Target = (u32::MAX, 0);

const WRONG_PAGE: &str = "it is not a page of an SP-GiST index";

pub(super) fn redo(page: &mut Page, change: &Change<'_>) -> Result<(), Fault> {
    let page = &mut change.index_page(page, SPECIAL, WRONG_PAGE)?;
    let fields = ByteReader::new(change.record.main_data);
    match change.record.info {
        op::ADD_LEAF => add_leaf(page, change, fields),
        op::MOVE_LEAFS => move_leafs(page, change, fields),
        op::ADD_NODE => add_node(page, change, fields),
        op::SPLIT_TUPLE => split_tuple(page, change, fields),
        op::PICK_SPLIT => pick_split(page, change, fields),
        op::VACUUM_LEAF => vacuum_leaf(page, fields),
        op::VACUUM_ROOT => {
            let count = usize::from(fields.clone().u16()?);
            let mut fields = fields;
            fields.skip(12)?;
            page.delete_many(numbers(fields.bytes(count * 2)?))
        }
        op::VACUUM_REDIRECT => vacuum_redirect(page, fields),
        _ => Err(Fault::NotImplemented),
    }
}

fn init(page: &mut Slotted<'_>, flags: u16) {
    page.init(PAGE_SIZE - SPECIAL);
    page.put_u16(FLAGS, flags);
    page.put_u16(PAGE_ID, SPGIST_PAGE_ID);
}

fn numbers(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

fn flag(reader: &mut ByteReader<'_>) -> Result<bool, Fault> {
    Ok(reader.u8()? != 0)
}

fn add_to(page: &mut Slotted<'_>, at: usize, by: i32) -> Result<(), Fault> {
    let value = i32::from(page.u16_at(at)) + by;
    page.put_u16(at, u16::try_from(value).map_err(|_| Fault::Page("its counts of dead tuples are wrong"))?);
    Ok(())
}

/// What the index build and everything else do differently (`spgxlogState`): a build leaves no redirections.
struct Origin {
    xid: u32,
    is_build: bool,
}

impl Origin {
    fn read(reader: &mut ByteReader<'_>) -> Result<Origin, Fault> {
        let origin = Origin { xid: reader.u32()?, is_build: flag(reader)? };
        reader.skip(3)?;
        Ok(origin)
    }

    fn dead_tuple(&self, state: u32, (block, item): Target) -> [u8; DEAD_TUPLE_SIZE] {
        let mut tuple = [0; DEAD_TUPLE_SIZE];
        let ((block, item), xid) = if state == REDIRECT { ((block, item), self.xid) } else { (NOWHERE, 0) };
        tuple[..4].copy_from_slice(&((DEAD_TUPLE_SIZE as u32) << 2 | state).to_le_bytes());
        put_pointer(&mut tuple[POINTER..], (block, item));
        tuple[12..].copy_from_slice(&xid.to_le_bytes());
        tuple
    }
}

fn put_pointer(bytes: &mut [u8], (block, item): Target) {
    bytes[0..2].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
    bytes[2..4].copy_from_slice(&(block as u16).to_le_bytes());
    bytes[4..6].copy_from_slice(&item.to_le_bytes());
}

/// Cuts the leaf tuple off the front of `bytes`.
fn take_leaf<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let size = bytes.first_chunk().map_or(0, |head| u32::from_le_bytes(*head) >> 2) as usize;
    take(bytes, size)
}

/// Cuts the inner tuple off the front of `bytes`.
fn take_inner<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let size = bytes.get(4..6).map_or(0, |size| u16::from_le_bytes([size[0], size[1]]));
    take(bytes, usize::from(size))
}

fn take<'a>(bytes: &mut &'a [u8], size: usize) -> Result<&'a [u8], Fault> {
    let cut = bytes.split_at_checked(size).filter(|_| size >= INNER_HEADER_SIZE);
    let (tuple, rest) = cut.ok_or(Fault::Record("a tuple has an impossible size"))?;
    *bytes = rest;
    Ok(tuple)
}

fn head_of(tuple: &[u8]) -> Result<u32, Fault> {
    tuple.first_chunk().map(|head| u32::from_le_bytes(*head)).ok_or(Fault::Page("a tuple is too short"))
}

/// Adds a tuple at a new item, or in place of a placeholder (`addOrReplaceTuple`).
fn add_or_replace(page: &mut Slotted<'_>, tuple: &[u8], item: u16) -> Result<(), Fault> {
    if usize::from(item) <= page.count() {
        if head_of(page.item(item)?)? & STATE_MASK != PLACEHOLDER {
            return Err(Fault::Page("the tuple to replace is not a placeholder"));
        }
        add_to(page, PLACEHOLDERS, -1)?;
        page.delete(item)?;
    }
    page.add_item(item, tuple, Place::Insert)
}

fn replace(page: &mut Slotted<'_>, tuple: &[u8], item: u16) -> Result<(), Fault> {
    page.delete(item)?;
    page.add_item(item, tuple, Place::Insert)
}

/// Lets a node of an inner tuple lead to `target` (`spgUpdateNodeLink`).
fn set_downlink(page: &mut Slotted<'_>, item: u16, node: u16, target: Target) -> Result<(), Fault> {
    const DAMAGED: Fault = Fault::Page("an inner tuple is damaged");
    let tuple = page.item_mut(item)?;
    let head = head_of(tuple)?;
    let (nodes, prefix_size) = (head >> 3 & 0x1fff, (head >> 16) as usize);
    if u32::from(node) >= nodes {
        return Err(Fault::Page("the inner tuple does not have the node that the record names"));
    }
    let mut at = INNER_HEADER_SIZE + prefix_size;
    for _ in 0..node {
        let info = tuple.get(at + 6..at + 8).ok_or(DAMAGED)?;
        at += usize::from(u16::from_le_bytes([info[0], info[1]]) & 0x1fff);
    }
    put_pointer(tuple.get_mut(at..at + 6).ok_or(DAMAGED)?, target);
    Ok(())
}

/// Replaces tuples by dead ones: the first one named by `first`, the others by `rest` (`spgPageIndexMultiDelete`).
fn bury(
    page: &mut Slotted<'_>,
    origin: &Origin,
    items: &[u8],
    (first, rest): (u32, u32),
    target: Target,
) -> Result<(), Fault> {
    let mut sorted = [0u16; MAX_ITEMS];
    let count = items.len() / 2;
    let sorted = sorted.get_mut(..count).ok_or(Fault::Record("it names more items than fit a page"))?;
    for (slot, item) in sorted.iter_mut().zip(numbers(items)) {
        *slot = item;
    }
    let Some(&first_item) = sorted.first() else { return Ok(()) };
    sorted.sort_unstable();
    page.delete_many(sorted.iter().copied())?;
    for &item in sorted.iter() {
        let state = if item == first_item { first } else { rest };
        page.add_item(item, &origin.dead_tuple(state, target), Place::Insert)?;
        match state {
            REDIRECT => add_to(page, REDIRECTIONS, 1)?,
            PLACEHOLDER => add_to(page, PLACEHOLDERS, 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// The chain's next item in a leaf tuple's info field.
fn set_next(page: &mut Slotted<'_>, item: u16, next: u16) -> Result<(), Fault> {
    let info = page.item_mut(item)?.get_mut(4..6).ok_or(Fault::Page("a tuple is too short"))?;
    let value = u16::from_le_bytes([info[0], info[1]]) & 0xc000 | next & 0x3fff;
    info.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

fn leaf_flags(nulls: bool) -> u16 {
    LEAF | if nulls { NULLS } else { 0 }
}

/// Block 0 the leaf page, 1 its parent.
fn add_leaf(page: &mut Slotted<'_>, change: &Change<'_>, mut fields: ByteReader<'_>) -> Result<(), Fault> {
    let (new_page, nulls) = (flag(&mut fields)?, flag(&mut fields)?);
    let (item, chain_head, parent, node) = (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
    let tuple = take_leaf(&mut fields.rest())?;
    match change.record.page_block_id {
        0 => {
            if new_page {
                init(page, leaf_flags(nulls));
            }
            if item == chain_head {
                return replace(page, tuple, item);
            }
            add_or_replace(page, tuple, item)?;
            if chain_head == 0 { Ok(()) } else { set_next(page, chain_head, item) }
        }
        1 => set_downlink(page, parent, node, (change.block(0)?, item)),
        _ => change.unknown_block(),
    }
}

/// Block 0 the source page, 1 the destination, 2 the parent.
fn move_leafs(page: &mut Slotted<'_>, change: &Change<'_>, mut fields: ByteReader<'_>) -> Result<(), Fault> {
    let moves = usize::from(fields.u16()?);
    let (new_page, replaces_dead, nulls) = (flag(&mut fields)?, flag(&mut fields)?, flag(&mut fields)?);
    fields.skip(1)?;
    let (parent, node) = (fields.u16()?, fields.u16()?);
    fields.skip(2)?;
    let origin = Origin::read(&mut fields)?;
    let inserts = if replaces_dead { 1 } else { moves + 1 };
    let (deleted, inserted) = (fields.bytes(moves * 2)?, fields.bytes(inserts * 2)?);
    let mut tuples = fields.rest();
    let last = numbers(inserted).next_back().ok_or(Fault::Record("it inserts nothing"))?;
    let target = (change.block(1)?, last);
    match change.record.page_block_id {
        0 => bury(page, &origin, deleted, (if origin.is_build { PLACEHOLDER } else { REDIRECT }, PLACEHOLDER), target),
        1 => {
            if new_page {
                init(page, leaf_flags(nulls));
            }
            numbers(inserted).try_for_each(|item| add_or_replace(page, take_leaf(&mut tuples)?, item))
        }
        2 => set_downlink(page, parent, node, target),
        _ => change.unknown_block(),
    }
}

/// Block 0 the page of the inner tuple, 1 where its larger version goes if not there, 2 the parent if on neither.
fn add_node(page: &mut Slotted<'_>, change: &Change<'_>, mut fields: ByteReader<'_>) -> Result<(), Fault> {
    let (item, new_item, new_page) = (fields.u16()?, fields.u16()?, flag(&mut fields)?);
    let (parent_block, parent, node) = (fields.u8()?, fields.u16()?, fields.u16()?);
    fields.skip(2)?;
    let origin = Origin::read(&mut fields)?;
    let tuple = take_inner(&mut fields.rest())?;
    let Some(new_block) = change.record.block(1) else { return replace(page, tuple, item) };
    let target = (new_block.block, new_item);
    let id = change.record.page_block_id;
    match id {
        0 if origin.is_build => {
            replace(page, &origin.dead_tuple(PLACEHOLDER, NOWHERE), item)?;
            add_to(page, PLACEHOLDERS, 1)?;
        }
        0 => {
            replace(page, &origin.dead_tuple(REDIRECT, target), item)?;
            add_to(page, REDIRECTIONS, 1)?;
        }
        1 => {
            if new_page {
                init(page, 0);
            }
            add_or_replace(page, tuple, new_item)?;
        }
        2 => {}
        _ => return change.unknown_block(),
    }
    if parent_block == id { set_downlink(page, parent, node, target) } else { Ok(()) }
}

/// Block 0 the page of the inner tuple, which becomes the prefix; 1 the page of the postfix if another.
fn split_tuple(page: &mut Slotted<'_>, change: &Change<'_>, mut fields: ByteReader<'_>) -> Result<(), Fault> {
    let (prefix_item, postfix_item) = (fields.u16()?, fields.u16()?);
    let (new_page, one_page) = (flag(&mut fields)?, flag(&mut fields)?);
    let mut tuples = fields.rest();
    let (prefix, postfix) = (take_inner(&mut tuples)?, take_inner(&mut tuples)?);
    match change.record.page_block_id {
        0 => {
            replace(page, prefix, prefix_item)?;
            if one_page { add_or_replace(page, postfix, postfix_item) } else { Ok(()) }
        }
        1 => {
            if new_page {
                init(page, 0);
            }
            add_or_replace(page, postfix, postfix_item)
        }
        _ => change.unknown_block(),
    }
}

/// Main data of a pick-split, in which leaf tuples are distributed below a new inner tuple.
struct PickSplit<'a> {
    inits_source: bool,
    inits_destination: bool,
    inner_item: u16,
    inits_inner: bool,
    nulls: bool,
    inner_is_parent: bool,
    parent: u16,
    node: u16,
    origin: Origin,
    deleted: &'a [u8],
    inserted: &'a [u8],
    /// For each inserted tuple 0: source page, else destination.
    pages: &'a [u8],
    inner: &'a [u8],
    leafs: &'a [u8],
}

impl<'a> PickSplit<'a> {
    fn read(mut fields: ByteReader<'a>) -> Result<PickSplit<'a>, Fault> {
        let _is_root_split = flag(&mut fields)?;
        fields.skip(1)?;
        let (deletes, inserts) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
        let (inits_source, inits_destination) = (flag(&mut fields)?, flag(&mut fields)?);
        let inner_item = fields.u16()?;
        let (inits_inner, nulls, inner_is_parent) = (flag(&mut fields)?, flag(&mut fields)?, flag(&mut fields)?);
        fields.skip(1)?;
        let (parent, node) = (fields.u16()?, fields.u16()?);
        fields.skip(2)?;
        let origin = Origin::read(&mut fields)?;
        let (deleted, inserted) = (fields.bytes(deletes * 2)?, fields.bytes(inserts * 2)?);
        let pages = fields.bytes(inserts)?;
        let mut leafs = fields.rest();
        let inner = take_inner(&mut leafs)?;
        Ok(PickSplit {
            inits_source,
            inits_destination,
            inner_item,
            inits_inner,
            nulls,
            inner_is_parent,
            parent,
            node,
            origin,
            deleted,
            inserted,
            pages,
            inner,
            leafs,
        })
    }

    /// Adds the leaf tuples of one of the two pages.
    fn add_leafs(&self, page: &mut Slotted<'_>, to_destination: bool) -> Result<(), Fault> {
        let mut leafs = self.leafs;
        for (item, &selector) in numbers(self.inserted).zip(self.pages) {
            let leaf = take_leaf(&mut leafs)?;
            if (selector != 0) == to_destination {
                add_or_replace(page, leaf, item)?;
            }
        }
        Ok(())
    }
}

/// Block 0 the source page, 1 the destination, 2 the page of the new inner tuple, 3 the parent if another.
fn pick_split(page: &mut Slotted<'_>, change: &Change<'_>, fields: ByteReader<'_>) -> Result<(), Fault> {
    let split = PickSplit::read(fields)?;
    let target = (change.block(2)?, split.inner_item);
    match change.record.page_block_id {
        0 => {
            if split.inits_source {
                init(page, leaf_flags(split.nulls));
            } else {
                let first = if split.origin.is_build { PLACEHOLDER } else { REDIRECT };
                bury(page, &split.origin, split.deleted, (first, PLACEHOLDER), target)?;
            }
            split.add_leafs(page, false)
        }
        1 => {
            if split.inits_destination {
                init(page, leaf_flags(split.nulls));
            }
            split.add_leafs(page, true)
        }
        2 => {
            if split.inits_inner {
                init(page, if split.nulls { NULLS } else { 0 });
            }
            add_or_replace(page, split.inner, split.inner_item)?;
            if split.inner_is_parent { set_downlink(page, split.parent, split.node, target) } else { Ok(()) }
        }
        3 => set_downlink(page, split.parent, split.node, target),
        _ => change.unknown_block(),
    }
}

fn vacuum_leaf(page: &mut Slotted<'_>, mut fields: ByteReader<'_>) -> Result<(), Fault> {
    let counts = [fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?].map(|count| usize::from(count) * 2);
    let origin = Origin::read(&mut fields)?;
    let (dead, placeholders) = (fields.bytes(counts[0])?, fields.bytes(counts[1])?);
    let (move_from, move_to) = (fields.bytes(counts[2])?, fields.bytes(counts[2])?);
    let (chain_from, chain_to) = (fields.bytes(counts[3])?, fields.bytes(counts[3])?);
    bury(page, &origin, dead, (DEAD, DEAD), NOWHERE)?;
    bury(page, &origin, placeholders, (PLACEHOLDER, PLACEHOLDER), NOWHERE)?;
    for (from, to) in numbers(move_from).zip(numbers(move_to)) {
        let (line_from, line_to) = (page.line(from)?, page.line(to)?);
        page.set_line(from, line_to)?;
        page.set_line(to, line_from)?;
    }
    bury(page, &origin, move_from, (PLACEHOLDER, PLACEHOLDER), NOWHERE)?;
    numbers(chain_from).zip(numbers(chain_to)).try_for_each(|(item, next)| set_next(page, item, next))
}

/// Redirections that nobody can follow any more become placeholders, and placeholders at the end of the page go.
fn vacuum_redirect(page: &mut Slotted<'_>, mut fields: ByteReader<'_>) -> Result<(), Fault> {
    let (count, first_placeholder) = (fields.u16()?, fields.u16()?);
    // Horizon u32, catalog flag u8, 1 unused.
    fields.skip(6)?;
    for item in numbers(fields.bytes(2 * usize::from(count))?) {
        let tuple = page.item_mut(item)?;
        if tuple.len() < DEAD_TUPLE_SIZE {
            return Err(Fault::Page("a tuple is too short"));
        }
        let head = head_of(tuple)? & !STATE_MASK | PLACEHOLDER;
        tuple[..4].copy_from_slice(&head.to_le_bytes());
        put_pointer(&mut tuple[POINTER..], NOWHERE);
    }
    add_to(page, REDIRECTIONS, -i32::from(count))?;
    add_to(page, PLACEHOLDERS, i32::from(count))?;
    let last = page.count() as u16;
    if first_placeholder != 0 && first_placeholder <= last {
        add_to(page, PLACEHOLDERS, -i32::from(last - first_placeholder + 1))?;
        let mut gone = [0u16; MAX_ITEMS];
        let gone = gone
            .get_mut(..usize::from(last - first_placeholder) + 1)
            .ok_or(Fault::Page("it has more items than fit a page"))?;
        for (slot, item) in gone.iter_mut().zip(first_placeholder..) {
            *slot = item;
        }
        page.delete_many(gone.iter().copied())?;
    }
    Ok(())
}
