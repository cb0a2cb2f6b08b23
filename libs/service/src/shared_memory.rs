//! What a killed Postgres leaves in the kernel.
//!
//! Its System V segment is named in `postmaster.pid`, and stays until the machine restarts: one for each killed server, and the kernel
//! has room for 4096.

use std::{fs, path::Path};

/// Key and id of the segment: the seventh line of `postmaster.pid`.
fn segment(pid_file: &str) -> Option<(u32, i32)> {
    let mut numbers = pid_file.lines().nth(6)?.split_whitespace();
    let key: i64 = numbers.next()?.parse().ok()?;
    Some(((key & 0xffff_ffff) as u32, numbers.next()?.parse().ok()?))
}

/// Removes the segment of the server whose data folder this is; nothing of it may run any more.
pub fn remove_of(pgdata: &Path) {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).unwrap_or_default();
    if let Some((key, id)) = segment(&text) {
        remove(key, id);
    }
}

fn remove(key: u32, id: i32) {
    // SAFETY: plain system calls on a zeroed out-parameter of the right type; the id is checked to be the same unattached segment.
    unsafe {
        let mut state: libc::shmid_ds = std::mem::zeroed();
        if libc::shmctl(id, libc::IPC_STAT, &mut state) == 0
            && state.shm_perm.__key as u32 == key
            && state.shm_nattch == 0
        {
            libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_of_a_killed_postgres_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = 0x4000_0000 | (std::process::id() as i32);
        // SAFETY: plain system call.
        let id = unsafe { libc::shmget(key, 56, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
        assert!(id >= 0, "no segment could be made");
        fs::write(folder.path().join("postmaster.pid"), format!("1\n/d\n0\n5432\n/s\n*\n  {key}  {id}\nready\n"))
            .expect("a file");
        remove_of(folder.path());
        // SAFETY: as above; nothing is created.
        assert_eq!(unsafe { libc::shmget(key, 0, 0) }, -1);
    }
}
