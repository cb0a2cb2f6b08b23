//! Who may give which command, by the token shown as the password.

use ogel_pgwire::{Connection, ServerMessage, Startup, WireError, sqlstate};
use ogel_service::auth::{Access, Grant, Verifier};

use super::{command::Command, key};

/// What the client may do, or why it is not let in.
pub async fn ask_token(
    connection: &mut Connection,
    verifier: &Verifier,
) -> Result<Result<Grant, ServerMessage>, WireError> {
    let token = if verifier.is_on() { connection.ask_password().await?.unwrap_or_default() } else { String::new() };
    Ok(verifier.verify(&token).map_err(|error| {
        ServerMessage::fatal(sqlstate::INVALID_PASSWORD, error.to_string())
            .with_hint("show a token as the password (stock tools: PGPASSWORD); `ogel token` makes one")
    }))
}

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
