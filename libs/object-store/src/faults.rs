//! A store that fails on purpose, for tests.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{ObjectStore, error::Failure};

/// What happens to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429: not done.
    SlowDown,
    /// 500: not done.
    ServerError,
    /// Done, but the reply is lost.
    LostReply,
    /// The body of a read is cut; a write is not done.
    CutBody,
    /// Nothing for this long; then it is done.
    Delay(Duration),
}

/// Given the operation and the name, says what goes wrong.
type Decide = dyn Fn(&str, &str) -> Option<Fault> + Send + Sync;

/// Faults under the control of a test.
pub struct Faults {
    decide: Box<Decide>,
    outage: AtomicBool,
    late: Mutex<Vec<String>>,
}

impl Faults {
    /// Asks the closure (operation: `get`, `put`, `head`, `list`, `delete`, `part`; name) before each attempt.
    pub fn new(decide: impl Fn(&str, &str) -> Option<Fault> + Send + Sync + 'static) -> Arc<Faults> {
        Arc::new(Faults { decide: Box::new(decide), outage: AtomicBool::new(false), late: Mutex::default() })
    }

    /// While on, nothing is done and nothing answered but errors.
    pub fn set_outage(&self, on: bool) {
        self.outage.store(on, Ordering::SeqCst);
    }

    /// Objects whose name contains this do not appear in listings.
    pub fn list_late(&self, part_of_name: &str) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(part_of_name.to_owned());
    }

    pub(crate) fn is_late(&self, name: &str) -> bool {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|part| name.contains(part))
    }

    pub(crate) async fn around<T, F: Future<Output = Result<T, Failure>> + Send>(
        &self,
        operation: &str,
        key: &str,
        run: &impl Fn() -> F,
    ) -> Result<T, Failure> {
        if self.outage.load(Ordering::SeqCst) {
            return Err(Failure::transient("injected outage"));
        }
        match (self.decide)(operation, key) {
            None => run().await,
            Some(Fault::SlowDown) => Err(Failure::Transient { cause: "injected 429".into(), slow_down: true }),
            Some(Fault::ServerError) => Err(Failure::transient("injected 500")),
            Some(Fault::CutBody) => Err(Failure::transient("injected cut")),
            Some(Fault::LostReply) => {
                let _ = run().await;
                Err(Failure::transient("injected lost reply"))
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                run().await
            }
        }
    }
}

impl ObjectStore {
    /// The same store, seen through faults. The objects are shared with the original.
    pub fn with_faults_for_tests(&self, faults: Arc<Faults>) -> ObjectStore {
        ObjectStore { inner: Arc::new(self.inner.with_faults(faults)) }
    }
}
