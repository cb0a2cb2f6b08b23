//! Why the stream ends here.

use ogel_ids::Lsn;

/// The bytes at `at` do not continue the WAL. What was before stays good ([`super::StreamDecoder::last_good_end`]).
///
/// Never retryable with the same bytes. On a scan after a crash it marks the end of what was written; in a stream from a peer it means that
/// the peer sent damaged WAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WAL at {at}: {kind}")]
pub struct StreamError {
    /// The record or page that is not good.
    pub at: Lsn,
    /// Why.
    pub kind: StreamErrorKind,
}

impl StreamError {
    /// Zeros stand where a record or a page should begin: nothing was written there, rather than something wrong.
    pub const fn is_end_of_wal(&self) -> bool {
        matches!(self.kind, StreamErrorKind::ZeroTail)
    }
}

/// See [`StreamError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamErrorKind {
    /// Zeros: the WAL ends here.
    #[error("only zeros follow, the WAL ends here")]
    ZeroTail,
    /// Start position that no record can have.
    #[error("not a record boundary: it must be a multiple of 8 and not inside a page header")]
    Start,
    /// Impossible segment size.
    #[error("segment size {0} is not a power of two from 1 MiB to 1 GiB")]
    SegmentSizeInvalid(u32),
    /// Beyond the LSNs that this program handles.
    #[error("position is beyond 2^63")]
    TooFar,
    /// The page begins with the wrong magic: another PostgreSQL version, or damage.
    #[error("page magic is {0:#06x}, PostgreSQL 17 writes 0xD116")]
    Magic(u16),
    /// Unknown or impossible header flags.
    #[error("page header has flags {0:#06x}, which are not possible here")]
    Flags(u16),
    /// The page belongs elsewhere: a recycled segment, or damage.
    #[error("page header says that this page is at {0}")]
    PageAddress(Lsn),
    /// The WAL of another cluster.
    #[error("system identifier is {got}, expected {expected}")]
    SystemId {
        /// That of this timeline.
        expected: u64,
        /// That of the page.
        got: u64,
    },
    /// Other segment size.
    #[error("segment size in the page header is {got}, expected {expected}")]
    SegmentSize {
        /// That of this timeline.
        expected: u32,
        /// That of the page.
        got: u32,
    },
    /// Other page size.
    #[error("page size in the page header is {0}, expected 8192")]
    BlockSize(u32),
    /// A record should begin on this page, which says that it continues one.
    #[error("the page continues a record where a new one is expected")]
    UnexpectedContinuation,
    /// The page should continue a record but has another remaining length.
    #[error("the page continues a record with {got} bytes left, expected {expected}")]
    Continuation {
        /// Bytes missing of the record.
        expected: u32,
        /// What the page says; 0 when it continues nothing.
        got: u32,
    },
    /// A record length that is not possible.
    #[error("record length {0} is not within 24 to 1069547520")]
    Length(u32),
    /// A resource manager id that nobody can have.
    #[error("resource manager id {0} is not possible")]
    ResourceManager(u8),
    /// The record does not follow the one before it.
    #[error("record names {got} as the previous one, expected {expected}")]
    Previous {
        /// Start of the record before; for the first record any earlier position.
        expected: Lsn,
        /// What the record says.
        got: Lsn,
    },
    /// Damaged record.
    #[error("record checksum is {got:#010x}, expected {expected:#010x}")]
    Checksum {
        /// In the record.
        expected: u32,
        /// Of the bytes.
        got: u32,
    },
    /// A page says that it gives up the incomplete record before it, but no `XLOG_OVERWRITE_CONTRECORD` for that record follows.
    #[error("the incomplete record at {0} was given up, but the record that must say so does not follow")]
    Overwrite(Lsn),
}
