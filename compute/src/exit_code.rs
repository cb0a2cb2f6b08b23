//! What this process' exit code means to whoever restarts it.

/// Stopped as asked.
pub const STOPPED: i32 = 0;
/// Failed; starting again may help.
pub const FAILED: i32 = 1;
/// The settings cannot be used; starting again with the same will not help.
pub const BAD_CONFIGURATION: i32 = 2;
/// A newer compute of the branch has taken over. Starting this one again would depose that one in turn (hazard H18):
/// only a person or a controller that knows which one is wanted may do it.
pub const FENCED: i32 = 41;

/// The codes for `--help`.
pub const HELP: &str = "Exit codes:
   0  stopped as asked
   1  failed; the last line says why, starting again may help
   2  the settings cannot be used
  41  fenced: a newer compute of this branch has taken over; do not restart this one automatically

Environment variables are named in square brackets; a TOML file given by --config has the flags' names as keys.";
