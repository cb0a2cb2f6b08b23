//! Messages that a client sends after the start-up.

use bytes::Bytes;

use crate::{Frame, WireError, frame::Fields};

/// A message from a client. The extended query protocol is not spoken: its messages arrive as `Other`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontendMessage {
    /// A simple query.
    Query(String),
    /// A piece of a copy.
    CopyData(Bytes),
    /// The client has no more data for this copy.
    CopyDone,
    /// The client gives the copy up, and why.
    CopyFail(String),
    /// The client says good-bye.
    Terminate,
    /// Anything else, by its tag.
    Other(u8),
}

impl TryFrom<Frame> for FrontendMessage {
    type Error = WireError;

    fn try_from(frame: Frame) -> Result<Self, WireError> {
        Ok(match frame.tag {
            b'd' => Self::CopyData(frame.body),
            b'Q' => Self::Query(Fields(&frame.body).text()?.to_owned()),
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail(Fields(&frame.body).text()?.to_owned()),
            b'X' => Self::Terminate,
            tag => Self::Other(tag),
        })
    }
}
