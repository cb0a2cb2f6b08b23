//! The PostgreSQL that tests of several crates need: what `pgxn/pg` has built, by the manifest that `make` leaves in the target folder.
//!
//! A bare `cargo test` goes without and says so. Where [`REQUIRED`] is set, as by `make test`, a test that cannot run has failed.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "for tests only")]

use std::path::{Path, PathBuf};

/// Environment variable: with any value but the empty one, nothing may be skipped for want of PostgreSQL.
pub const REQUIRED: &str = "OGEL_TEST_REQUIRE_POSTGRES";

/// Installation of stock PostgreSQL 17, or `OGEL_STOCK_PG`; `None` when the test is to be skipped.
pub fn stock() -> Option<PathBuf> {
    find("OGEL_STOCK_PG", "stock")
}

/// The template cluster's archive, or `OGEL_TEMPLATE`; `None` when the test is to be skipped.
pub fn template() -> Option<PathBuf> {
    find("OGEL_TEMPLATE", "template")
}

fn find(variable: &str, field: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let test = std::env::current_exe().ok()?;
    let found = test.ancestors().find_map(|folder| in_manifest(folder, field));
    if found.is_none() {
        let how = format!(
            "no {field} of PostgreSQL that release/pg-install.json in the target folder names: \
             build it with `make postgres-all`, or name one in {variable}"
        );
        let required = std::env::var_os(REQUIRED).is_some_and(|value| !value.is_empty());
        assert!(!required, "{REQUIRED} is set, and there is {how}");
        eprintln!("skipped: there is {how}");
    }
    found
}

/// What the manifest names and the disk has.
fn in_manifest(target: &Path, field: &str) -> Option<PathBuf> {
    let text = std::fs::read(target.join("release/pg-install.json")).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(PathBuf::from(manifest.get(field)?.as_str()?)).filter(|path| path.exists())
}
