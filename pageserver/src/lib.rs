//! The pageserver: every page at every LSN.
//!
//! A record's way: a safekeeper sends WAL ([`timeline`], `ingest`), `wal-decoder` takes it apart into effects, `effects` makes versions
//! of keys ([`keyspace`]) of them, the open layer takes those ([`layer::memory`]), a flush writes it to a file ([`layer::file`]).
//! A page's way: a request comes in ([`page_service`]), `read` collects versions from the layers, newest first, and `wal-decoder`'s redo makes
//! the page. [`branch`] finds positions in history and begins new timelines there. [`basebackup`] makes what a compute needs beside pages; [`template`] is where timelines come from; [`pageserver`] holds all
//! timelines of a process; [`http`] shows and creates them.

pub mod basebackup;
pub mod branch;
pub mod config;
pub mod failpoints;
pub mod http;
pub mod keyspace;
pub mod layer;
pub mod manifest;
pub mod metrics;
pub mod page_service;
pub mod pageserver;
pub mod remote;
pub mod template;
pub mod tenant_config;
pub mod timeline;
pub mod tools;
