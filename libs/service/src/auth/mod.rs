//! Who may do what: tokens (JWT, EdDSA) that a person signs and every server checks by itself.
//!
//! ```text
//! private key (a person's) ── ogel token ──▶ token ──▶ client ── password message, or Authorization: Bearer ──▶ server
//! public keys (files) ──────────────────────────────────────────────────────────────────────────────────▶ checks
//! ```
//!
//! - [`Verifier`]: the public keys; several at once, so that keys can be changed without a gap.
//! - [`Claims`], [`Scope`]: what a token says; [`Grant`] answers whether an [`Access`] is allowed by it.
//! - [`TokenSource`]: the token that this process shows to others, from a file or the environment.
//! - [`AuthArgs`]: the settings; [`protect`]: the check of the HTTP interface.
//!
//! Without keys a server does not know who asks: it listens on loopback only, unless it is told that the network is private.
//! Tokens, and what is wrong with their signatures, are never logged. Only `EdDSA` is accepted, so that no header can choose
//! a weaker algorithm.

mod args;
mod claims;
mod http;
mod keys;
mod token;

pub use args::{AuthArgs, TokenArgs, TokenSource};
pub use claims::{Access, Claims, Denied, Grant, Scope};
pub use http::protect;
pub use keys::{KeyError, SigningKey, Verifier};
pub use token::{TokenError, sign};
