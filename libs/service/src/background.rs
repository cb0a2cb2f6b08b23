//! Threads for work that nobody waits for.

use std::{future::Future, io};

use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinError, JoinSet},
};

/// How far threads step back where processors are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepBack {
    /// Such a thread gets about a tenth of what one that serves gets.
    Some,
    /// It gets about a hundredth: for work that can wait until the load is over, or is bounded otherwise.
    Far,
}

impl StepBack {
    /// Added to the nice value.
    #[cfg(target_os = "linux")]
    fn nice(self) -> i32 {
        match self {
            Self::Some => 10,
            Self::Far => 19,
        }
    }
}

/// A runtime whose threads get out of the way of those that serve. What it does must not hold a lock that those need.
pub struct Background(Option<Runtime>);

impl Background {
    /// Starts it; its threads are called `name`.
    pub fn start(name: &str, how: StepBack) -> io::Result<Self> {
        let builder = &mut Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(name).enable_all().on_thread_start(move || step_back(how));
        Ok(Self(Some(builder.build()?)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until dropped")
    }

    /// Runs what may block.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.runtime().spawn_blocking(work).await
    }

    /// Runs a future; dropping what this returns ends it at its next pause.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, JoinError> {
        let mut one = JoinSet::new();
        one.spawn_on(work, self.runtime().handle());
        one.join_next().await.expect("one was spawned")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background(); // waiting is not allowed everywhere
        }
    }
}

/// Elsewhere than on Linux the call concerns the whole process.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables))]
fn step_back(how: StepBack) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::getpriority_process(None)
        .and_then(|nice| rustix::process::setpriority_process(None, (nice + how.nice()).min(19)))
    {
        tracing::warn!(%error, "a thread for background work keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn its_threads_step_back_and_ours_do_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let ours = nice();
        for (how, added) in [(StepBack::Some, 10), (StepBack::Far, 19)] {
            let background = Background::start("test", how).unwrap();
            assert_eq!(background.run_blocking(nice).await.unwrap(), (ours + added).min(19));
            assert_eq!(background.run(async move { nice() }).await.unwrap(), (ours + added).min(19));
        }
        assert_eq!(nice(), ours);
    }
}
