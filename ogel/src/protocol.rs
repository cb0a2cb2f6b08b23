//! What the commands and the daemon say to each other: one JSON value a line, over the socket in the cluster's folder.
//! A request is answered by any number of `progress` lines and one `done` or `failed`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a command asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Bring everything up, and answer when SQL works.
    Up {
        /// Whether the compute of `main` is wanted too.
        compute: bool,
    },
    /// Stop everything in order, then the daemon itself.
    Down {
        /// Kill at once instead.
        immediate: bool,
    },
    /// Each node's state.
    Status,
    /// Give a safekeeper that lost its data its place again.
    ReplaceSafekeeper {
        /// Its number.
        number: u64,
    },
    /// Make, change or list branches.
    Branch(BranchRequest),
    /// Do something to one node.
    Node {
        /// Its name.
        node: String,
        /// What to do.
        action: NodeAction,
    },
}

/// What can be done to branches. A position is an LSN or a time as people write them; none is the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "branch", rename_all = "kebab-case")]
pub enum BranchRequest {
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// The branch to branch from.
        from: String,
        /// Where.
        at: Option<String>,
    },
    /// All of them, with their positions.
    List,
    /// Remove one for good.
    Delete {
        /// Its name.
        name: String,
    },
    /// Give it another name.
    Rename {
        /// As it is.
        name: String,
        /// As it will be.
        to: String,
    },
    /// Take it back to its parent's head, or to its own past; the present state is kept under another name.
    Reset {
        /// Its name.
        name: String,
        /// Where in its own past.
        to: Option<String>,
    },
    /// A look into the past, until the connection to the daemon ends.
    Look {
        /// At which branch.
        name: String,
        /// Where.
        at: String,
    },
}

/// What can be done to one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeAction {
    /// Start it, or wake it when it is frozen; answers when it serves.
    Start,
    /// Stop it cleanly and keep it stopped.
    Stop,
    /// `kill -9` it with all its descendants, and keep it dead.
    Kill,
    /// Freeze it (SIGSTOP). Its descendants go on.
    Freeze,
    /// Kill it, delete its folder, start it again.
    Wipe,
    /// Kill it and delete its folder, and keep it dead.
    KillAndForget,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// What is being done now.
    Progress {
        /// For a person.
        text: String,
    },
    /// It is done.
    Done {
        /// What came of it.
        value: Value,
    },
    /// It could not be done.
    Failed {
        /// Cause, consequence and next step.
        error: String,
    },
}
