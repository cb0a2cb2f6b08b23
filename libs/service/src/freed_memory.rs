//! What of the memory that was freed goes back to the system, and when.
//!
//! glibc moves its own bounds with what it sees. A server whose work takes megabytes for a moment, on whichever thread, ends with arenas (one per
//! thread, up to eight per processor) that each keep a layer file's length for nothing. One that passes WAL on gives its pieces back and
//! takes them anew, page fault by page fault.

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// From here on a block is mapped by itself, and unmapped when it is freed. In bytes, at most 32 MiB.
    pub large_bytes: u32,
    /// So much may stay free at the end of an arena. In bytes.
    pub free_bytes: u32,
}

impl Kept {
    /// For layers: flushes and merges leave nothing. Above the longest answer of the page service, so that answers cost no system call.
    pub const FOR_LAYERS: Self = Self { large_bytes: 2 << 20, free_bytes: 2 << 20 };
    /// For WAL that is passed on: above what waits on its way. With 16 MiB a bulk load still faulted in 10 to 40 MB per process, with 32 hardly any.
    pub const FOR_WAL: Self = Self { large_bytes: 8 << 20, free_bytes: 32 << 20 };

    /// Bounds what the allocator keeps for later. For the start of a process.
    pub fn bound(self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            let number = |bytes: u32| libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            // SAFETY: all set a number, before there are other threads.
            unsafe {
                libc::mallopt(libc::M_ARENA_MAX, arenas());
                libc::mallopt(libc::M_MMAP_THRESHOLD, number(self.large_bytes));
                libc::mallopt(libc::M_TRIM_THRESHOLD, number(self.free_bytes));
            }
        }
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
