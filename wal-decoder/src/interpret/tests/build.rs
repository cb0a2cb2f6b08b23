//! Builds records byte by byte.

use crate::key::{PAGE_SIZE, RelFork};

#[derive(Default)]
pub struct Build {
    rmid: u8,
    info: u8,
    xid: u32,
    headers: Vec<u8>,
    data: Vec<u8>,
    main: Vec<u8>,
}

pub fn le(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Build {
    pub fn new(rmid: u8, info: u8) -> Self {
        Self { rmid, info, ..Self::default() }
    }

    pub fn xid(mut self, xid: u32) -> Self {
        self.xid = xid;
        self
    }

    pub fn origin(mut self, origin: u16) -> Self {
        self.headers.push(253);
        self.headers.extend_from_slice(&origin.to_le_bytes());
        self
    }

    pub fn toplevel(mut self, xid: u32) -> Self {
        self.headers.push(252);
        self.headers.extend_from_slice(&xid.to_le_bytes());
        self
    }

    pub fn main(mut self, main: &[u8]) -> Self {
        self.main = main.to_vec();
        self
    }

    pub fn block(self, id: u8, rel: RelFork, block: u32, data: &[u8]) -> Self {
        self.any_block(id, rel, block, None, data)
    }

    /// With a whole page that is not new, hence carries an LSN.
    pub fn block_with_image(self, id: u8, rel: RelFork, block: u32, apply: bool, data: &[u8]) -> Self {
        let mut page = vec![0xee; PAGE_SIZE];
        page[..8].fill(0);
        self.any_block(id, rel, block, Some((apply, page)), data)
    }

    fn any_block(mut self, id: u8, rel: RelFork, block: u32, image: Option<(bool, Vec<u8>)>, data: &[u8]) -> Self {
        let flags = if image.is_some() { 0x10 } else { 0 } | if data.is_empty() { 0 } else { 0x20 };
        self.headers.extend_from_slice(&[id, rel.fork as u8 | flags]);
        self.headers.extend_from_slice(&(data.len() as u16).to_le_bytes());
        if let Some((apply, page)) = image {
            self.headers.extend_from_slice(&(PAGE_SIZE as u16).to_le_bytes());
            self.headers.extend_from_slice(&[0, 0, if apply { 2 } else { 0 }]);
            self.data.extend_from_slice(&page);
        }
        self.headers.extend_from_slice(&le(&[rel.rel.spc, rel.rel.db, rel.rel.rel, block]));
        self.data.extend_from_slice(data);
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.extend_from_slice(&self.xid.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&[self.info, self.rmid, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.headers);
        if !self.main.is_empty() {
            out.push(254);
            out.extend_from_slice(&(self.main.len() as u32).to_le_bytes());
        }
        out.extend_from_slice(&self.data);
        out.extend_from_slice(&self.main);
        let length = out.len() as u32;
        out[..4].copy_from_slice(&length.to_le_bytes());
        out
    }
}
