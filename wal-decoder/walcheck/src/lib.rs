//! The oracle of native redo.
//!
//! With `wal_consistency_checking = all` PostgreSQL attaches to each record the image that each touched page must have afterwards. The
//! [`Checker`] builds every page from nothing but earlier WAL, applies each record natively, masks both pages as PostgreSQL does and
//! compares them byte for byte.
//!
//! A page whose history begins before the WAL at hand (`initdb` logs nothing) starts from the first such image; that record counts as
//! *seeded*, not as compared. After a difference the page continues from PostgreSQL's image, so that each difference stands for itself.

mod checker;
mod pages;
mod report;
mod wal_files;

pub use checker::{Checker, Options};
pub use report::{Difference, Report};
pub use wal_files::WalFiles;
