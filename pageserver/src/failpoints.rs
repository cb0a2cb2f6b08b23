//! Places at which a development build can be told to die, as by `kill -9`: `OGEL_FAILPOINT=NAME`, or `NAME:3` for the third time it gets there.
//!
//! Release builds have none of this. `tests/killed.rs` dies at each of them and demands that nothing acknowledged is lost.

/// All of them, in the order of a timeline's life.
pub const ALL: &[&str] = &[
    ATTACH_CLAIMED,
    ATTACH_BASE_WRITTEN,
    FLUSH_BEGUN,
    LAYER_HALF_WRITTEN,
    LAYER_NOT_SYNCED,
    FLUSH_FILES_WRITTEN,
    FLUSH_PUBLISHED,
    UPLOAD_LAYERS_DONE,
    UPLOAD_EDITS_DONE,
    UPLOAD_CONFIRMED,
    UPLOAD_ADVERTISED,
    MANIFEST_BASE_DURABLE,
    MANIFEST_LOG_LISTED,
    MERGE_FILE_DONE,
    MERGE_FILES_DONE,
    MERGE_PUBLISHED,
    GC_BEFORE_CUTOFF,
    GC_CUTOFF_PUBLISHED,
    LAYERS_BEFORE_DELETION,
    LAYERS_DELETED,
    BRANCH_RECORDED,
    BRANCH_REGISTERED,
    DELETION_MARKED,
    DELETION_BASES_GONE,
    DELETION_OBJECTS_GONE,
];

/// The tenant is claimed, nothing of it is read.
pub const ATTACH_CLAIMED: &str = "attach-claimed";
/// A timeline's log of the new generation has begun.
pub const ATTACH_BASE_WRITTEN: &str = "attach-base-written";
/// A frozen layer is about to be written.
pub const FLUSH_BEGUN: &str = "flush-begun";
/// A layer file has its content and no header.
pub const LAYER_HALF_WRITTEN: &str = "layer-half-written";
/// A layer file is whole and not fsynced.
pub const LAYER_NOT_SYNCED: &str = "layer-not-synced";
/// All files of a flush are on disk, the manifest does not name them.
pub const FLUSH_FILES_WRITTEN: &str = "flush-files-written";
/// Readers see the flush, the object store does not.
pub const FLUSH_PUBLISHED: &str = "flush-published";
/// Layers are uploaded, the edits that name them are not.
pub const UPLOAD_LAYERS_DONE: &str = "upload-layers-done";
/// Edits are durable, the generation is not confirmed.
pub const UPLOAD_EDITS_DONE: &str = "upload-edits-done";
/// The generation is confirmed, nothing is acknowledged.
pub const UPLOAD_CONFIRMED: &str = "upload-confirmed";
/// `remote_consistent_lsn` has advanced, nobody was told.
pub const UPLOAD_ADVERTISED: &str = "upload-advertised";
/// A base behind the first is durable, what it replaces is still there.
pub const MANIFEST_BASE_DURABLE: &str = "manifest-base-durable";
/// What a base replaces is about to go.
pub const MANIFEST_LOG_LISTED: &str = "manifest-log-listed";
/// One file of a merge is written.
pub const MERGE_FILE_DONE: &str = "merge-file-done";
/// All files of a merge are written, the manifest does not name them.
pub const MERGE_FILES_DONE: &str = "merge-files-done";
/// Readers see the merge, the object store does not.
pub const MERGE_PUBLISHED: &str = "merge-published";
/// The cutoff is decided.
pub const GC_BEFORE_CUTOFF: &str = "gc-before-cutoff";
/// The cutoff is in force, the object store does not know.
pub const GC_CUTOFF_PUBLISHED: &str = "gc-cutoff-published";
/// Objects of layers that nothing names are about to go.
pub const LAYERS_BEFORE_DELETION: &str = "layers-before-deletion";
/// They are gone.
pub const LAYERS_DELETED: &str = "layers-deleted";
/// The parent has the record of a branch that does not exist.
pub const BRANCH_RECORDED: &str = "branch-recorded";
/// A branch exists, nobody was told.
pub const BRANCH_REGISTERED: &str = "branch-registered";
/// A timeline is marked as deleted.
pub const DELETION_MARKED: &str = "deletion-marked";
/// Its bases are gone.
pub const DELETION_BASES_GONE: &str = "deletion-bases-gone";
/// All its objects are gone, its parent still has the record.
pub const DELETION_OBJECTS_GONE: &str = "deletion-objects-gone";

/// Dies here if told to.
#[cfg(debug_assertions)]
pub fn reach(name: &'static str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };
    static TOLD: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let told = TOLD.get_or_init(|| {
        let value = std::env::var("OGEL_FAILPOINT").ok()?;
        let (name, times) = value.split_once(':').unwrap_or((&value, "1"));
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((_, times)) = told.as_ref().filter(|(told, _)| told == name)
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        std::process::abort();
    }
}

/// Nothing happens in a release build.
#[cfg(not(debug_assertions))]
pub fn reach(_: &'static str) {}
