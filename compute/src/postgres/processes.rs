//! Makes sure that nothing of a postmaster's life is left running.
//!
//! Postgres' processes leave the postmaster's process group (`setsid`), but all of them work in the data folder: that is how
//! they are found.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Ids of the processes whose working directory is `folder`.
pub fn in_folder(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbered = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbered.filter(|pid| working_folder(*pid).is_some_and(|cwd| cwd == folder)).map(Pid::from_raw).collect()
}

fn working_folder(pid: i32) -> Option<PathBuf> {
    let link = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let text = link.to_str()?;
    Some(text.strip_suffix(" (deleted)").unwrap_or(text).into())
}

/// Kills what works in `folder` and waits until it is gone; `false` when something survives for five seconds.
pub async fn kill_all_in(folder: &Path) -> bool {
    for _ in 0..1000 {
        let left = in_folder(folder);
        if left.is_empty() {
            return true;
        }
        for pid in left {
            let _gone_already = kill(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Collects children of a killed postmaster that have become ours, as they do in a container where this process is the first.
/// Call it when no child of ours is waited for elsewhere.
pub fn reap_orphans() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_in_the_folder_is_found_and_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("its name");
        let mut child = tokio::process::Command::new("cat")
            .current_dir(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat runs");
        assert_eq!(in_folder(&path).len(), 1);
        let reaped = tokio::spawn(async move { child.wait().await });
        assert!(kill_all_in(&path).await);
        assert!(!reaped.await.expect("the task ends").expect("the child ends").success());
    }
}
