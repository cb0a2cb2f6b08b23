//! Memory that is free goes back to the system.
//!
//! Flushes, merges and uploads take megabytes for a moment beside small things that stay. glibc keeps the holes that they leave, in one arena per
//! thread or so, and sends nothing back: after hours it holds a hundred times what is in use.

/// Returns free pages of the heap to the system. Takes milliseconds; whoever allocates in the meantime may wait for them.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
