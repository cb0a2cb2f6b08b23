//! What a token says, and what that allows.

use ogel_ids::{TenantId, TimelineId};
use serde::{Deserialize, Serialize};

/// Whom a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// A compute, or a reader, of one tenant.
    Tenant,
    /// A safekeeper that talks to the others.
    SafekeeperPeer,
    /// A pageserver that reads WAL.
    Pageserver,
    /// People and programs that make and delete.
    Admin,
}

/// The payload of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub scope: Scope,
    /// Whose data; needed for the scope `tenant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// This timeline of the tenant only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// Seconds since 1970 at which it ends.
    pub exp: u64,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Write a timeline's WAL, or run a compute on its pages.
    Use(TenantId, TimelineId),
    /// Read a timeline's WAL or state; without a timeline the whole tenant's.
    Read(TenantId, Option<TimelineId>),
    /// Tell a safekeeper about the progress of others.
    PeerNews,
    /// See what a node holds.
    Status,
    /// Make, change and delete.
    Manage,
}

/// What the other side of a connection has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// This server asks nobody.
    Everything,
    /// By its token.
    Token(Claims),
}

/// A token that is good, but not for this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(String);

impl Grant {
    /// Whether this is allowed.
    pub fn check(&self, access: Access) -> Result<(), Denied> {
        let Self::Token(claims) = self else { return Ok(()) };
        let allowed = match (claims.scope, access) {
            (Scope::Admin, _) => true,
            (Scope::Tenant, Access::Use(tenant, timeline)) => claims.covers(tenant, Some(timeline)),
            (Scope::Tenant, Access::Read(tenant, timeline)) => claims.covers(tenant, timeline),
            (Scope::SafekeeperPeer, Access::Read(..) | Access::PeerNews | Access::Status) => true,
            (Scope::Pageserver, Access::Read(..) | Access::Status) => true,
            _ => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(Denied(format!("this token is for {}: it does not allow {access}", claims.whom())))
        }
    }
}

impl Claims {
    fn covers(&self, tenant: TenantId, timeline: Option<TimelineId>) -> bool {
        self.tenant == Some(tenant) && (self.timeline.is_none() || self.timeline == timeline)
    }

    fn whom(&self) -> String {
        match (self.scope, self.tenant, self.timeline) {
            (Scope::Tenant, Some(tenant), Some(timeline)) => format!("timeline {timeline} of tenant {tenant}"),
            (Scope::Tenant, Some(tenant), None) => format!("tenant {tenant}"),
            (Scope::Tenant, None, _) => "no tenant".into(),
            (Scope::SafekeeperPeer, ..) => "a safekeeper".into(),
            (Scope::Pageserver, ..) => "a pageserver".into(),
            (Scope::Admin, ..) => "an administrator".into(),
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Use(tenant, timeline) => write!(f, "a compute of timeline {timeline} of tenant {tenant}"),
            Self::Read(tenant, Some(timeline)) => write!(f, "reading timeline {timeline} of tenant {tenant}"),
            Self::Read(tenant, None) => write!(f, "reading tenant {tenant}"),
            Self::PeerNews => f.write_str("telling the progress of safekeepers"),
            Self::Status => f.write_str("seeing what the node holds"),
            Self::Manage => f.write_str("making, changing or deleting"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_allows_its_own_and_nothing_else() {
        let (mine, other) = (TenantId::from_bytes([1; 16]), TenantId::from_bytes([2; 16]));
        let (main, branch) = (TimelineId::from_bytes([3; 16]), TimelineId::from_bytes([4; 16]));
        let claims = |scope, tenant, timeline| Grant::Token(Claims { scope, tenant, timeline, exp: 0 });
        let all = [
            Access::Use(mine, main),
            Access::Use(mine, branch),
            Access::Use(other, main),
            Access::Read(mine, Some(main)),
            Access::Read(mine, None),
            Access::Read(other, Some(main)),
            Access::PeerNews,
            Access::Status,
            Access::Manage,
        ];
        let allowed = |grant: Grant| all.map(|access| u8::from(grant.check(access).is_ok()));
        assert_eq!(allowed(Grant::Everything), [1; 9]);
        assert_eq!(allowed(claims(Scope::Admin, None, None)), [1; 9]);
        assert_eq!(allowed(claims(Scope::Tenant, Some(mine), None)), [1, 1, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(allowed(claims(Scope::Tenant, Some(mine), Some(main))), [1, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(allowed(claims(Scope::Tenant, None, None)), [0; 9]);
        assert_eq!(allowed(claims(Scope::SafekeeperPeer, None, None)), [0, 0, 0, 1, 1, 1, 1, 1, 0]);
        assert_eq!(allowed(claims(Scope::Pageserver, None, None)), [0, 0, 0, 1, 1, 1, 0, 1, 0]);
    }
}
