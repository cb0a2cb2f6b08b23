//! The supervisor that makes a stateless PostgreSQL 17 run on the quorum.
//!
//! One *life* is one postmaster in one fresh folder, under one *reign* (a term won from the safekeepers):
//!
//! 1. [`propose`]: win the election. Everything committed lies before the term's start X.
//! 2. [`basebackup`]: fetch the data directory as of X from the pageserver.
//! 3. [`local_wal`]: copy the WAL of the segment in which the checkpoint record begins.
//! 4. [`start_checkpoint`]: unless the log already ends with one, append a real shutdown checkpoint at X through the quorum, so
//!    that Postgres starts from it as from any clean shutdown, without replaying anything.
//! 5. [`postgres`]: settings, the slot, the process.
//! 6. [`propose`] again: take Postgres' WAL from its walsender to the quorum, and report what the quorum has as flushed. That
//!    report is what a commit waits for.
//!
//! [`supervisor`] repeats this when Postgres dies, and ends for good when it is stopped or fenced.
//!
//! Invariants: a commit acknowledged to a client is ≤ commit_lsn; a data folder serves one life; nothing in it is needed
//! after it; when this process dies, Postgres dies.

pub mod basebackup;
pub mod board;
pub mod conf_file;
pub mod config;
pub mod data_dir;
pub mod exit_code;
pub mod first_connection;
pub mod http;
pub mod life;
pub mod local_wal;
pub mod postgres;
pub mod preflight;
pub mod propose;
pub mod slot_limit;
pub mod slots;
pub mod start_checkpoint;
pub mod status_file;
pub mod stop;
pub mod supervisor;
