//! Simple queries of the page service.

use ogel_ids::{Lsn, TenantId, Term, TimelineId};

/// Newest version of the protocol. The page stream is spoken in version 1 too, which has no checksums; all else is version 1 only.
pub const PROTOCOL_VERSION: u32 = 2;

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `pagestream 2 TENANT TIMELINE TERM`
    PageStream {
        /// Every request and answer ends with a checksum: since version 2.
        checksums: bool,
        /// Owner.
        tenant: TenantId,
        /// Whose pages.
        timeline: TimelineId,
        /// The compute's.
        term: Term,
    },
    /// `basebackup 1 TENANT TIMELINE LSN TERM`
    Basebackup {
        /// Owner.
        tenant: TenantId,
        /// Whose state.
        timeline: TimelineId,
        /// Where.
        lsn: Lsn,
        /// The compute's.
        term: Term,
    },
}

/// A query that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Another protocol version.
    #[error(
        "protocol version {0:?} is not spoken here, 1 to {PROTOCOL_VERSION} are: use a client of this server's version"
    )]
    Version(String),
    /// Not a command.
    #[error(
        "command not understood: expected \"pagestream 2 TENANT TIMELINE TERM\" or \"basebackup 1 TENANT TIMELINE LSN TERM\""
    )]
    Syntax,
    /// A field that cannot be read.
    #[error("{0}")]
    Field(String),
}

impl std::str::FromStr for Command {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.trim().trim_end_matches(';').split_whitespace().collect();
        let Some((name @ ("pagestream" | "basebackup"), [version, fields @ ..])) =
            words.split_first().map(|(name, rest)| (*name, rest))
        else {
            return Err(CommandError::Syntax);
        };
        let newest = if name == "pagestream" { PROTOCOL_VERSION } else { 1 };
        let Some(version) = version.parse().ok().filter(|version| (1..=newest).contains(version)) else {
            return Err(CommandError::Version(version.chars().take(20).collect()));
        };
        match (name, fields) {
            ("pagestream", [tenant, timeline, term]) => Ok(Self::PageStream {
                checksums: version >= 2,
                tenant: field(tenant)?,
                timeline: field(timeline)?,
                term: self::term(term)?,
            }),
            ("basebackup", [tenant, timeline, lsn, term]) => Ok(Self::Basebackup {
                tenant: field(tenant)?,
                timeline: field(timeline)?,
                lsn: field(lsn)?,
                term: self::term(term)?,
            }),
            _ => Err(CommandError::Syntax),
        }
    }
}

fn field<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, CommandError> {
    text.parse().map_err(|error: T::Err| CommandError::Field(error.to_string()))
}

fn term(text: &str) -> Result<Term, CommandError> {
    text.parse().map_err(|_| CommandError::Field("the term is not a decimal number".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_mistakes_named() {
        let id = "0123456789abcdef0123456789abcdef";
        for (version, with) in [(1, false), (2, true)] {
            let command = format!("pagestream {version} {id} {id} 7").parse();
            assert!(matches!(command, Ok(Command::PageStream { term: Term(7), checksums, .. }) if checksums == with));
        }
        assert!(matches!(
            format!(" basebackup 1 {id} {id} 0/1000028 7;").parse(),
            Ok(Command::Basebackup { lsn: Lsn(0x1000028), .. })
        ));
        assert_eq!("pagestream 3 x y 1".parse::<Command>(), Err(CommandError::Version("3".into())));
        assert_eq!("basebackup 2 x y 0/1 1".parse::<Command>(), Err(CommandError::Version("2".into())));
        for text in ["", "select 1", "pagestream", "pagestream 1", "basebackup 1 a b c"] {
            assert_eq!(text.parse::<Command>(), Err(CommandError::Syntax), "{text}");
        }
        for text in [format!("pagestream 1 {id} xx 7"), format!("pagestream 1 {id} {id} x")] {
            assert!(matches!(text.parse::<Command>(), Err(CommandError::Field(_))), "{text}");
        }
    }
}
