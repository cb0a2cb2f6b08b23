//! The object store's side of tenants and timelines: what survives the loss of this machine.
//!
//! - [`layout`]: names of objects. Pure.
//! - [`claim`]: who owns a tenant, and when it may be taken over. Pure.
//! - [`TenantStore`]: a tenant that this process has claimed. Every object name carries its generation.
//! - [`manifest_log`]: base and edit objects of a timeline's manifest.
//! - [`TimelineStore`]: the upload queue of a timeline. Order: layers, then the edit that names them, then the newest generation is looked
//!   up again, and only then is anything acknowledged, advertised or deleted (H24).
//!
//! Nothing here overwrites an object. A process that was taken over may go on writing for a while: its objects bear its generation, nobody
//! reads those that came after the takeover, and it learns of it before it acknowledges anything.

pub mod claim;
pub mod layout;
pub mod manifest_log;
mod tenant;
mod timeline;

pub use tenant::{AttachError, TenantStore};
pub use timeline::{Fenced, GoneLayer, NewLayer, Ticket, TimelineStore, UploadError, UploadStatus};
