//! Memory that is free goes back to the system.
//!
//! Flushes, merges and uploads take megabytes for a moment, on whichever thread. glibc has an arena for each thread, up to eight per processor, and once a
//! large block was freed it takes blocks of that size from the arena and keeps them at its end: after hours each arena holds a layer file's length for nothing.

/// From here on a block is mapped by itself, and unmapped when it is freed; and so much may stay free at the end of an arena. Above the longest answer
/// of the page service, so that answers cost no system call.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 2 << 20;

/// Bounds what the allocator keeps for later. For the start of a process.
pub fn bound_kept() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: all set a number, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas());
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
    }
}

/// One for each processor. Ingest moves from thread to thread, flushes and merges free on others what it took: with more arenas, each keeps
/// what an open layer left in it, and a bulk load was seen to hold 240 MB more than with two.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn arenas() -> libc::c_int {
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    libc::c_int::try_from(processors.clamp(2, 64)).unwrap_or(64)
}

/// Returns free pages between what is in use. Takes milliseconds; whoever allocates in the meantime may wait for them.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
