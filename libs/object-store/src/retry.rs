//! When to try again. Pure.

use std::time::Duration;

/// Attempts of one operation, the first included.
pub(crate) const MAX_ATTEMPTS: u32 = 7;
const FIRST_MS: u64 = 50;
const LONGEST_MS: u64 = 5_000;
/// A store that asks for fewer requests (R2: one write per second and name) is left alone at least this long.
const SLOW_DOWN_MS: u64 = 1_000;
/// Slowest transfer that is still waited for.
const MIN_BYTES_PER_S: u64 = 256 << 10;

/// Pause before attempt number `attempt` (from 1: the second attempt). `random` spreads it over half to all of the full pause, so that
/// clients that failed together do not come back together.
pub(crate) fn pause(attempt: u32, slow_down: bool, random: u32) -> Duration {
    let floor = if slow_down { SLOW_DOWN_MS } else { FIRST_MS };
    let full = (floor << attempt.saturating_sub(1).min(12)).min(LONGEST_MS);
    Duration::from_millis(full / 2 + full / 2 * u64::from(random) / u64::from(u32::MAX))
}

/// Time limit of one attempt that moves so many bytes.
pub(crate) fn time_limit(base: Duration, size_bytes: u64) -> Duration {
    base + Duration::from_millis(size_bytes * 1000 / MIN_BYTES_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_are_never_nothing() {
        let full: Vec<_> = (1..=12).map(|attempt| pause(attempt, false, u32::MAX).as_millis()).collect();
        assert_eq!(full[..4], [50, 100, 200, 400]);
        assert_eq!(full[11], 5_000);
        assert_eq!(pause(1, false, 0).as_millis(), 25);
        assert_eq!(pause(1, true, 0).as_millis(), 500);
        assert_eq!(time_limit(Duration::from_secs(20), 8 << 20).as_secs(), 52);
    }
}
