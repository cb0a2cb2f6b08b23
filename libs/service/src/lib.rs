//! What every OgelBase server does alike.
//!
//! - [`config`]: settings from file < environment < flag, each of them a clap argument.
//! - [`logging`]: readable on a terminal, JSON for machines.
//! - [`http`]: `/healthz`, `/readyz`, `/metrics`, the JSON error type, serving until shutdown.
//! - [`Shutdown`]: SIGTERM and SIGINT as a token that every task can wait for.
//! - [`listen`]: listening on `[::]` or a given address.
//! - [`names`]: whether the other machines' names are known.
//! - [`auth`]: tokens: who may do what.
//! - [`DataFolder`]: one process per data folder.
//! - [`disk_space`]: how much is free.
//! - [`Background`]: threads that get out of the way.
//! - [`Inflow`]: whether work that can wait should.
//! - [`shared_memory`]: what a killed Postgres leaves in the kernel.
//! - [`durable_file`]: files that are whole and on disk, or not there.
//! - [`freed_memory`]: what of it goes back to the system.
//!
//! Metrics are `prometheus-client`'s: the Prometheus project's own small crate, typed labels, no global state.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auth;
mod background;
pub mod config;
mod data_folder;
pub mod disk_space;
pub mod durable_file;
pub mod freed_memory;
pub mod http;
mod inflow;
pub mod listen;
pub mod logging;
pub mod names;
pub mod shared_memory;
mod shutdown;

pub use background::{Background, StepBack};
pub use data_folder::{DataFolder, DataFolderError};
pub use inflow::Inflow;
pub use prometheus_client as metrics;
pub use shutdown::Shutdown;
