//! Files of the data directory that travel as logical messages.
//!
//! Some state of a server lives in files that no WAL record describes: replication slots, statistics. A compute writes them into the WAL as
//! non-transactional logical messages of no database with the prefix [`AUX_FILES_PREFIX`]. SQL cannot make such a message: what it emits
//! names the session's database. Stock PostgreSQL replays and decodes them as nothing.
//!
//! ```text
//! version  u8 = 1
//! entries, each: kind u8 (0 remove, 1 put), path length u16, path (UTF-8);
//!                of a put also: content length u32, content
//! ```
//!
//! Numbers are little-endian. All entries of a message take effect together.

use super::{Context, InterpretErrorKind, Outcome};
use crate::{
    byte_reader::ByteReader,
    effect::{Effect, EffectSink},
    v17::rmgr,
};

/// Prefix of the logical messages that carry auxiliary files.
pub const AUX_FILES_PREFIX: &str = "ogel-file:";
/// Longest path, in bytes.
pub const MAX_AUX_PATH_BYTES: usize = 255;

const VERSION: u8 = 1;
const REMOVE: u8 = 0;
const PUT: u8 = 1;

/// Whether a path names a file below the data directory and nothing else.
pub fn is_aux_path(path: &str) -> bool {
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    path.len() <= MAX_AUX_PATH_BYTES
        && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(usable))
}

pub(super) fn logical_message(context: &Context<'_>, sink: &mut dyn EffectSink) -> Outcome {
    if context.record.rmgr_info() != rmgr::logicalmsg::MESSAGE {
        return Err(InterpretErrorKind::UnknownInfo);
    }
    let mut r = ByteReader::new(context.record.main_data);
    let (db, transactional) = (r.u32()?, r.u8()? != 0);
    r.skip(3)?;
    let (prefix_size, message_size) = (r.u64()?, r.u64()?);
    let size = |bytes| usize::try_from(bytes).map_err(|_| InterpretErrorKind::Malformed("a logical message's length"));
    let prefix = r.bytes(size(prefix_size)?)?;
    let message = r.bytes(size(message_size)?)?;
    if db != 0 || transactional || prefix.strip_suffix(b"\0") != Some(AUX_FILES_PREFIX.as_bytes()) {
        return Ok(());
    }
    let mut r = ByteReader::new(message);
    if r.u8()? != VERSION {
        return Err(InterpretErrorKind::Malformed("auxiliary files in an unknown version"));
    }
    while !r.rest().is_empty() {
        let kind = r.u8()?;
        let length = usize::from(r.u16()?);
        let path = std::str::from_utf8(r.bytes(length)?).ok().filter(|path| is_aux_path(path));
        let path = path.ok_or(InterpretErrorKind::Malformed("an auxiliary file's path"))?;
        match kind {
            REMOVE => sink.effect(Effect::AuxFile { path, content: None }),
            PUT => {
                let length = size(u64::from(r.u32()?))?;
                sink.effect(Effect::AuxFile { path, content: Some(r.bytes(length)?) });
            }
            _ => return Err(InterpretErrorKind::Malformed("an auxiliary file's entry")),
        }
    }
    Ok(())
}
