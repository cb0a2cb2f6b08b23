//! Commands that clients send as simple queries.

use ogel_ids::Lsn;

use crate::timeline::TimelineKey;

/// A command of the replication protocol, or one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Quorum protocol: a proposer.
    StartWalPush,
    /// Status stream between safekeepers, with its version.
    PeerStatus(u32),
    /// Status stream for pageservers, with its version.
    TimelineStatus(u32),
    /// `LIST_TIMELINES [TENANT/TIMELINE]`: those behind it.
    ListTimelines(Option<TimelineKey>),
    /// `MEMBERSHIP`: what this node holds.
    Membership,
    /// `ADOPT_MEMBERSHIP json`
    AdoptMembership(String),
    /// `IDENTIFY_SYSTEM`
    IdentifySystem,
    /// `SHOW name`
    Show(String),
    /// `TIMELINE_HISTORY number`
    TimelineHistory(u32),
    /// `START_REPLICATION [SLOT name] [PHYSICAL] X/X [TIMELINE number]`
    StartReplication {
        /// First byte wanted.
        start: Lsn,
        /// PostgreSQL's timeline number, 1 when not given.
        pg_timeline: u32,
    },
    /// `CREATE_REPLICATION_SLOT name … PHYSICAL …`
    CreateSlot(String),
    /// `READ_REPLICATION_SLOT name`
    ReadSlot,
    /// `DROP_REPLICATION_SLOT name`
    DropSlot,
    /// `SELECT pg_catalog.set_config(…)`, which libpq tools send first; there is nothing to set here.
    SetConfig,
    /// Nothing at all.
    Empty,
}

/// A text that is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A command that this server does not have.
    #[error("{0:?} is not a command of a safekeeper; it speaks the physical replication protocol, not SQL")]
    Unknown(String),
    /// A known command with wrong arguments.
    #[error("{command} needs {expected}")]
    Arguments {
        /// The command.
        command: &'static str,
        /// What should have been there.
        expected: &'static str,
    },
    /// Logical replication.
    #[error("a safekeeper has no logical replication; connect to the compute for it")]
    Logical,
}

impl Command {
    /// Reads a command; key words in any case.
    pub fn parse(text: &str) -> Result<Self, CommandError> {
        let text = text.trim().trim_end_matches(';').trim_end();
        let mut words = text.split_ascii_whitespace();
        let Some(first) = words.next() else { return Ok(Self::Empty) };
        match first.to_ascii_uppercase().as_str() {
            "START_WAL_PUSH" => Ok(Self::StartWalPush),
            "PEER_STATUS" => number("PEER_STATUS", "a version", words.next()).map(Self::PeerStatus),
            "TIMELINE_STATUS" => number("TIMELINE_STATUS", "a version", words.next()).map(Self::TimelineStatus),
            "LIST_TIMELINES" => {
                let wrong = CommandError::Arguments { command: "LIST_TIMELINES", expected: "[TENANT/TIMELINE]" };
                let after = words.next().map(|word| word.parse().map_err(|_| wrong)).transpose()?;
                Ok(Self::ListTimelines(after))
            }
            "MEMBERSHIP" => Ok(Self::Membership),
            "ADOPT_MEMBERSHIP" => Ok(Self::AdoptMembership(text[first.len()..].trim().to_owned())),
            "IDENTIFY_SYSTEM" => Ok(Self::IdentifySystem),
            "SHOW" => Ok(Self::Show(name("SHOW", words.next())?.to_ascii_lowercase())),
            "TIMELINE_HISTORY" => number("TIMELINE_HISTORY", "a number", words.next()).map(Self::TimelineHistory),
            "START_REPLICATION" => start_replication(words),
            "CREATE_REPLICATION_SLOT" => {
                let slot = name("CREATE_REPLICATION_SLOT", words.next())?;
                let physical = words.any(|word| word.eq_ignore_ascii_case("PHYSICAL"));
                if physical { Ok(Self::CreateSlot(slot)) } else { Err(CommandError::Logical) }
            }
            "READ_REPLICATION_SLOT" => Ok(Self::ReadSlot),
            "DROP_REPLICATION_SLOT" => Ok(Self::DropSlot),
            "SELECT" if words.next().is_some_and(|word| word.starts_with("pg_catalog.set_config(")) => {
                Ok(Self::SetConfig)
            }
            _ => Err(CommandError::Unknown(text.chars().take(64).collect())),
        }
    }
}

fn start_replication<'a>(words: impl Iterator<Item = &'a str>) -> Result<Command, CommandError> {
    const COMMAND: &str = "START_REPLICATION";
    let mut words = words.peekable();
    if words.next_if(|word| word.eq_ignore_ascii_case("SLOT")).is_some() {
        name(COMMAND, words.next())?;
    }
    words.next_if(|word| word.eq_ignore_ascii_case("PHYSICAL"));
    if words.peek().is_some_and(|word| word.eq_ignore_ascii_case("LOGICAL")) {
        return Err(CommandError::Logical);
    }
    let expected = "[SLOT name] [PHYSICAL] X/X [TIMELINE n]";
    let wrong = CommandError::Arguments { command: COMMAND, expected };
    let start = words.next().and_then(|word| word.parse().ok()).ok_or(wrong.clone())?;
    let pg_timeline = match words.next() {
        None => 1,
        Some(word) if word.eq_ignore_ascii_case("TIMELINE") => number(COMMAND, expected, words.next())?,
        Some(_) => return Err(wrong),
    };
    if words.next().is_some() {
        return Err(wrong);
    }
    Ok(Command::StartReplication { start, pg_timeline })
}

fn name(command: &'static str, word: Option<&str>) -> Result<String, CommandError> {
    let name = word.map(|word| word.trim_matches('"')).filter(|word| !word.is_empty() && word.len() < 64);
    name.map(str::to_owned).ok_or(CommandError::Arguments { command, expected: "a name" })
}

fn number(command: &'static str, expected: &'static str, word: Option<&str>) -> Result<u32, CommandError> {
    word.and_then(|word| word.parse().ok()).ok_or(CommandError::Arguments { command, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stock_clients_send_is_understood() {
        let start = |start, pg_timeline| Ok(Command::StartReplication { start: Lsn(start), pg_timeline });
        assert_eq!(Command::parse("START_REPLICATION 0/3000000 TIMELINE 1"), start(0x300_0000, 1));
        assert_eq!(Command::parse("START_REPLICATION SLOT \"s\" PHYSICAL 1/0 TIMELINE 2"), start(1 << 32, 2));
        assert_eq!(Command::parse("start_replication physical 0/10;"), start(16, 1));
        assert_eq!(Command::parse("SHOW wal_segment_size"), Ok(Command::Show("wal_segment_size".into())));
        assert_eq!(
            Command::parse("CREATE_REPLICATION_SLOT \"s\" PHYSICAL (RESERVE_WAL)"),
            Ok(Command::CreateSlot("s".into()))
        );
        assert_eq!(Command::parse("SELECT pg_catalog.set_config('search_path', '', false);"), Ok(Command::SetConfig));
        assert_eq!(Command::parse("  ; "), Ok(Command::Empty));
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "SELECT 1",
            "START_REPLICATION",
            "START_REPLICATION 0/1 TIMELINE",
            "START_REPLICATION 0/1 TIMELINE 1 x",
            "START_REPLICATION SLOT s LOGICAL 0/1",
            "CREATE_REPLICATION_SLOT s LOGICAL pgoutput",
            "TIMELINE_HISTORY x",
            "SHOW",
        ] {
            assert!(Command::parse(text).is_err(), "{text}");
        }
    }
}
