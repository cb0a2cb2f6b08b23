//! Compaction: layers are merged so that reads stay cheap and history that is not kept any more takes no space.
//!
//! - [`plan`]: what to merge next. Pure.
//! - [`run`]: does it.

pub mod plan;
mod run;

pub use plan::CompactionLimits;
pub use run::CompactionReport;
