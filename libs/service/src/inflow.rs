//! How much is coming in.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// From here on it is a load rather than everyday's trickle, bytes per second.
const BUSY_BYTES_PER_S: f64 = 8e6;
/// The rate is taken over at least this.
const WINDOW: Duration = Duration::from_millis(100);
/// A load is over when it has been quiet for this long: a bulk load sorts for an index between its bursts.
const CALM: Duration = Duration::from_secs(2);

/// Counts bytes that come in, so that work which can wait knows when to. Nice values do not say it across processes where the
/// kernel shares out processors by session (`sched(7)`, autogroups), which is the rule on a desktop.
#[derive(Debug)]
pub struct Inflow {
    taken_bytes: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    taken_bytes: u64,
    busy_until: Instant,
}

impl Inflow {
    /// Nothing has come in yet.
    pub fn new(now: Instant) -> Self {
        Self {
            taken_bytes: AtomicU64::new(0),
            window: Mutex::new(Window { since: now, taken_bytes: 0, busy_until: now }),
        }
    }

    /// So much more has come.
    pub fn took(&self, bytes: u64) {
        self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether much has come lately: between two earlier calls, a tenth of a second or more apart, of the last two seconds.
    pub fn is_busy(&self, now: Instant) -> bool {
        let mut window = self.window.lock();
        let elapsed = now.saturating_duration_since(window.since);
        if elapsed >= WINDOW {
            let taken_bytes = self.taken_bytes.load(Ordering::Relaxed);
            let grown_bytes = taken_bytes - window.taken_bytes;
            let busy = grown_bytes as f64 >= BUSY_BYTES_PER_S * elapsed.as_secs_f64();
            let busy_until = if busy { now + CALM } else { window.busy_until };
            *window = Window { since: now, taken_bytes, busy_until };
        }
        now < window.busy_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_told_from_a_trickle_and_its_end_is_seen() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let inflow = Inflow::new(start);
        inflow.took(10_000_000);
        assert!(!inflow.is_busy(at(50)), "too early to say");
        assert!(inflow.is_busy(at(1000)));
        inflow.took(1);
        assert!(inflow.is_busy(at(1100)) && inflow.is_busy(at(2900)), "it may go on");
        assert!(!inflow.is_busy(at(3000)), "the load is over");
        inflow.took(7_900_000);
        assert!(!inflow.is_busy(at(4000)), "a trickle");
        inflow.took(900_000);
        assert!(inflow.is_busy(at(4100)));
        assert!(inflow.is_busy(at(100)), "time that goes back changes nothing");
    }
}
