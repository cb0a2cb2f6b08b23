//! Reads little-endian fields of hostile bytes. PostgreSQL writes WAL in the machine's byte order and alignment; only little-endian
//! 64-bit machines are supported, as `pg_control` tells.

/// The input ended before the field did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} more bytes expected where {left} are left")]
pub struct ShortInput {
    /// Bytes that the field takes.
    pub wanted: usize,
    /// Bytes that were left.
    pub left: usize,
}

/// A position in bytes that may end anywhere.
#[derive(Debug, Clone, Copy)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
}

macro_rules! number {
    ($($name:ident: $type:ty),*) => {
        $(
            #[doc = concat!("The next little-endian `", stringify!($type), "`.")]
            #[inline]
            pub fn $name(&mut self) -> Result<$type, ShortInput> {
                let (head, rest) = self.rest.split_first_chunk().ok_or(ShortInput { wanted: size_of::<$type>(), left: self.rest.len() })?;
                self.rest = rest;
                Ok(<$type>::from_le_bytes(*head))
            }
        )*
    };
}

impl<'a> ByteReader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    number!(u8: u8, u16: u16, u32: u32, u64: u64, i32: i32, i64: i64);

    /// The next `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], ShortInput> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or(ShortInput { wanted: count, left: self.rest.len() })?;
        self.rest = rest;
        Ok(head)
    }

    /// Steps over `count` bytes.
    pub fn skip(&mut self, count: usize) -> Result<(), ShortInput> {
        self.bytes(count).map(drop)
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
