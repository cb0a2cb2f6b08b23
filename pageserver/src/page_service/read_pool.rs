//! Threads that may wait for disks.

use tokio::sync::Semaphore;

/// Reads that wait for a disk at the same time, per processor, and at least and at most.
const PER_PROCESSOR: usize = 4;
const BOUNDS: (usize, usize) = (8, 128);

/// A bounded number of threads for reads that may block; more reads wait in line, and the network threads never do.
pub struct ReadPool(Semaphore);

impl ReadPool {
    /// Sized for this machine.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Semaphore::new((processors * PER_PROCESSOR).clamp(BOUNDS.0, BOUNDS.1)))
    }

    /// Runs `read` on one of the threads.
    pub async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.0.acquire().await.expect("the pool is never closed");
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => result,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic), // this connection's failure, as if it had run here
                Err(_) => std::future::pending().await,        // the runtime stops, and this task with it
            },
        }
    }
}
