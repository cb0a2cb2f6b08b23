//! Processes and their descendants, read from `/proc`.

use std::{collections::HashMap, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Parent of each process that exists now.
fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in parentheses may hold anything, so count fields from its end: state, then parent.
            let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then_some((pid, parent))
        })
        .collect()
}

/// `root` and all processes below it, parents first.
pub fn descendants(root: i32) -> Vec<i32> {
    let parents = parents();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|&(_, &p)| p == parent).map(|(&pid, _)| pid));
        next += 1;
    }
    found
}

/// Sends a signal to each process; those that are gone do not matter.
pub fn signal(pids: &[i32], signal: Signal) {
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Which of these processes still exist.
pub fn alive(pids: &[i32]) -> Vec<i32> {
    let parents = parents();
    pids.iter().copied().filter(|pid| parents.contains_key(pid)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_grandchild_is_found_and_killed() {
        let mut child = Command::new("sh").args(["-c", "sleep 600 & wait"]).spawn().expect("sh");
        let root = i32::try_from(child.id()).expect("pid");
        let tree = loop {
            let tree = descendants(root);
            if tree.len() == 2 {
                break tree;
            }
        };
        signal(&tree, Signal::SIGKILL);
        child.wait().expect("waited");
        while !alive(&tree).is_empty() {}
    }
}
