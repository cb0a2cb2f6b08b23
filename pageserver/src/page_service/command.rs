//! Simple queries of the page service.

use ogel_ids::{Lsn, TenantId, Term, TimelineId};

/// Version of the protocol, which is the only one spoken.
pub const PROTOCOL_VERSION: u32 = 1;

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `pagestream 1 TENANT TIMELINE TERM`
    PageStream {
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
    #[error("protocol version {0:?} is not spoken here, {PROTOCOL_VERSION} is: use a client of this server's version")]
    Version(String),
    /// Not a command.
    #[error(
        "command not understood: expected \"pagestream 1 TENANT TIMELINE TERM\" or \"basebackup 1 TENANT TIMELINE LSN TERM\""
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
        if version.parse() != Ok(PROTOCOL_VERSION) {
            return Err(CommandError::Version(version.chars().take(20).collect()));
        }
        match (name, fields) {
            ("pagestream", [tenant, timeline, term]) => {
                Ok(Self::PageStream { tenant: field(tenant)?, timeline: field(timeline)?, term: self::term(term)? })
            }
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
        assert!(matches!(format!("pagestream 1 {id} {id} 7").parse(), Ok(Command::PageStream { term: Term(7), .. })));
        assert!(matches!(
            format!(" basebackup 1 {id} {id} 0/1000028 7;").parse(),
            Ok(Command::Basebackup { lsn: Lsn(0x1000028), .. })
        ));
        assert_eq!("pagestream 2 x y 1".parse::<Command>(), Err(CommandError::Version("2".into())));
        for text in ["", "select 1", "pagestream", "pagestream 1", "basebackup 1 a b c"] {
            assert_eq!(text.parse::<Command>(), Err(CommandError::Syntax), "{text}");
        }
        for text in [format!("pagestream 1 {id} xx 7"), format!("pagestream 1 {id} {id} x")] {
            assert!(matches!(text.parse::<Command>(), Err(CommandError::Field(_))), "{text}");
        }
    }
}
