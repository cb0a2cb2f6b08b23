//! One file per command, or per family of commands.

pub mod branch;
pub mod create_timeline;
pub mod destroy;
pub mod down;
pub mod logs;
pub mod node;
pub mod psql;
pub mod safekeeper;
pub mod status;
pub mod token;
pub mod up;

use serde_json::Value;

/// Prints an answer: as JSON for scripts, else as `text` says.
fn print(json: bool, value: &Value, text: impl FnOnce(&Value) -> String) {
    if json {
        println!("{value:#}");
    } else {
        println!("{}", text(value));
    }
}

/// Progress goes to standard error, so that scripts can read the answer.
fn say(text: &str) {
    eprintln!("ogel: {text}");
}
