//! Auxiliary files as they are stored: a value says which file it is of, because its key is only a hash of the path.
//!
//! ```text
//! version  u8 = 1
//! lsn      u64, big-endian   end of the record that wrote it
//! path     u16 length, big-endian, then UTF-8
//! content  the rest, packed: method u8 (0 as it is, 1 pglz), raw length u32 little-endian, bytes
//! ```

use ogel_ids::Lsn;
use wal_decoder::image::pglz;

const VERSION: u8 = 1;
const RAW: u8 = 0;
const PGLZ: u8 = 1;
/// Longest content that is unpacked.
const MAX_RAW_BYTES: usize = 64 << 20;

/// Bytes that are no stored auxiliary file. Not retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuxFileError {
    /// The value itself.
    #[error("a stored auxiliary file has an unknown version or is cut")]
    Value,
    /// What the compute packed.
    #[error("the content of auxiliary file {0:?} cannot be unpacked")]
    Content(String),
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuxFile {
    /// Relative to the data directory.
    pub path: String,
    /// End of the record that wrote it.
    pub lsn: Lsn,
    packed: Vec<u8>,
}

impl AuxFile {
    /// The stored form.
    pub fn encode(path: &str, lsn: Lsn, packed: &[u8]) -> Vec<u8> {
        let length = u16::try_from(path.len()).expect("the interpreter bounds paths");
        [&[VERSION], &lsn.0.to_be_bytes()[..], &length.to_be_bytes(), path.as_bytes(), packed].concat()
    }

    /// Reads the stored form.
    pub fn decode(value: &[u8]) -> Result<Self, AuxFileError> {
        let parse = || {
            let (&version, rest) = value.split_first()?;
            let (lsn, rest) = rest.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let (path, packed) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
            let path = std::str::from_utf8(path).ok()?.to_owned();
            (version == VERSION).then_some(Self { path, lsn: Lsn(u64::from_be_bytes(*lsn)), packed: packed.to_vec() })
        };
        parse().ok_or(AuxFileError::Value)
    }

    /// The file's content.
    pub fn content(&self) -> Result<Vec<u8>, AuxFileError> {
        let unpack = || {
            let (&method, rest) = self.packed.split_first()?;
            let (length, bytes) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_RAW_BYTES)?;
            match method {
                RAW => (bytes.len() == length).then(|| bytes.to_vec()),
                PGLZ => {
                    let mut content = vec![0; length];
                    (pglz::decompress(bytes, &mut content)? == length).then_some(content)
                }
                _ => None,
            }
        };
        unpack().ok_or_else(|| AuxFileError::Content(self.path.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_stays_readable() {
        let stored = b"\x01\0\0\0\0\0\0\x12\x34\0\x03a/b\0\x02\0\0\0hi";
        let file = AuxFile::decode(stored).expect("version 1");
        assert_eq!((file.path.as_str(), file.lsn), ("a/b", Lsn(0x1234)));
        assert_eq!(file.content().expect("raw"), b"hi");
        assert_eq!(AuxFile::encode("a/b", Lsn(0x1234), b"\0\x02\0\0\0hi"), stored);
        for end in 0..14 {
            assert_eq!(AuxFile::decode(&stored[..end]), Err(AuxFileError::Value));
        }
    }

    #[test]
    fn packed_content_has_the_length_that_it_says() {
        let of = |packed: &[u8]| AuxFile { path: "a".into(), lsn: Lsn(1), packed: packed.to_vec() }.content();
        // One literal, then a match of 3 at distance 1.
        assert_eq!(of(b"\x01\x04\0\0\0\x02x\x00\x01").expect("pglz"), b"xxxx");
        for bad in
            [&b"\x01\x05\0\0\0\x02x\x00\x01"[..], b"\x00\x03\0\0\0hi", b"\x02\0\0\0\0", b"\x01\xff\xff\xff\xff", b""]
        {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
