//! One postmaster's life: its files, its settings, its process.

/// Role that the supervisor connects as; made with the template of every branch.
pub const SUPERUSER: &str = "postgres";

pub mod postmaster;
pub mod processes;
pub mod run_user;
pub mod settings;
pub mod slot_file;
