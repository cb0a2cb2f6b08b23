//! Who may give which command, by the token shown as the password.

use ogel_pgwire::{ServerMessage, Startup, sqlstate};
use ogel_service::auth::{Access, Grant};

use super::{command::Command, key};

/// The command, or the refusal of one that this client may not give.
pub fn allowed<E>(
    command: Result<Command, E>,
    grant: &Grant,
    startup: &Startup,
) -> Result<Result<Command, ServerMessage>, E> {
    command.map(|command| check(grant, &command, startup).map(|()| command))
}

fn check(grant: &Grant, command: &Command, startup: &Startup) -> Result<(), ServerMessage> {
    if *grant == Grant::Everything {
        return Ok(());
    }
    let access = match command {
        // They say nothing of any timeline.
        Command::SetConfig | Command::Empty => return Ok(()),
        Command::PeerStatus(_)
        | Command::TimelineStatus(_)
        | Command::ListTimelines(_)
        | Command::AdoptMembership(_) => Access::PeerNews,
        Command::StartWalPush => key(startup).map(|key| Access::Use(key.tenant, key.timeline))?,
        _ => key(startup).map(|key| Access::Read(key.tenant, Some(key.timeline)))?,
    };
    grant.check(access).map_err(|denied| {
        ServerMessage::error(sqlstate::INSUFFICIENT_PRIVILEGE, denied.to_string())
            .with_hint("show a token whose scope, tenant and timeline fit")
    })
}
