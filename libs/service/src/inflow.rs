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
    busy_since: Option<Instant>,
    busy_until: Instant,
}

impl Inflow {
    /// Nothing has come in yet.
    pub fn new(now: Instant) -> Self {
        Self {
            taken_bytes: AtomicU64::new(0),
            window: Mutex::new(Window { since: now, taken_bytes: 0, busy_since: None, busy_until: now }),
        }
    }

    /// So much more has come.
    pub fn took(&self, bytes: u64) {
        self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How long much has been coming, if it has lately: between two earlier calls, a tenth of a second or more apart, of the last
    /// two seconds.
    pub fn busy_for(&self, now: Instant) -> Option<Duration> {
        let mut window = self.window.lock();
        let elapsed = now.saturating_duration_since(window.since);
        if elapsed >= WINDOW {
            let taken_bytes = self.taken_bytes.load(Ordering::Relaxed);
            let grown_bytes = taken_bytes - window.taken_bytes;
            (window.since, window.taken_bytes) = (now, taken_bytes);
            if grown_bytes as f64 >= BUSY_BYTES_PER_S * elapsed.as_secs_f64() {
                window.busy_since.get_or_insert(now);
                window.busy_until = now + CALM;
            } else if now >= window.busy_until {
                window.busy_since = None;
            }
        }
        window.busy_since.map(|since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_told_from_a_trickle_and_its_end_is_seen() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let ms = Duration::from_millis;
        let inflow = Inflow::new(start);
        inflow.took(10_000_000);
        assert_eq!(inflow.busy_for(at(50)), None, "too early to say");
        assert_eq!(inflow.busy_for(at(1000)), Some(ms(0)));
        inflow.took(1);
        assert_eq!(inflow.busy_for(at(1100)), Some(ms(100)), "it may go on");
        assert_eq!(inflow.busy_for(at(2900)), Some(ms(1900)));
        inflow.took(900_000);
        assert_eq!(inflow.busy_for(at(3000)), Some(ms(2000)), "the same load");
        assert_eq!(inflow.busy_for(at(4900)), Some(ms(3900)));
        assert_eq!(inflow.busy_for(at(5000)), None, "the load is over");
        inflow.took(7_900_000);
        assert_eq!(inflow.busy_for(at(6000)), None, "a trickle");
        inflow.took(900_000);
        assert_eq!(inflow.busy_for(at(6100)), Some(ms(0)), "another load");
        assert_eq!(inflow.busy_for(at(100)), Some(ms(0)), "time that goes back changes nothing");
    }
}
