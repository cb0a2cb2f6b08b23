//! News from a peer: `PEER_STATUS`.

use ogel_pgwire::{Connection, FrontendMessage, ServerMessage, WireError, sqlstate};
use quorum::AcceptorEvent;

use crate::{peers::status, registry::Registry};

/// Takes news until the peer goes away.
pub async fn serve(connection: &mut Connection, version: u32, registry: &Registry) -> Result<(), WireError> {
    if version != status::VERSION {
        let text = format!("this safekeeper speaks version {} of the peers' protocol, not {version}", status::VERSION);
        let error =
            ServerMessage::error(sqlstate::FEATURE_NOT_SUPPORTED, text).with_hint("upgrade the older safekeeper");
        return connection.refuse(&error).await;
    }
    connection.writer().copy_both_response();
    connection.writer().flush().await?;
    while let Some(message) = connection.read_message().await? {
        let FrontendMessage::CopyData(frame) = message else { return Ok(()) };
        let statuses = match status::decode(frame) {
            Ok(statuses) => statuses,
            Err(error) => {
                let error = ServerMessage::fatal(sqlstate::PROTOCOL_VIOLATION, error.to_string());
                return connection.refuse(&error).await;
            }
        };
        for (key, peer_status) in statuses {
            // A timeline that this node does not have, or cannot serve, is not the peer's concern.
            if let Ok(timeline) = registry.get(key).await {
                timeline.handle(AcceptorEvent::PeerStatus(peer_status));
            }
        }
    }
    Ok(())
}
