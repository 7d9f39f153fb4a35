//! How busy the core's thread is: the share of recent time in which it did not wait for work.
//!
//! Invariants:
//! 1. The share is of whole windows of at least [`WINDOW`]; an idle core closes them too, since it
//!    turns every second.
//! 2. Waiting for the committer counts as busy: a node whose disk is slow is loaded.
//!
//! Left out: the load of other threads. Whoever scales by the machine's CPU sees those.

use std::time::{Duration, Instant};

use metrics::Gauge;

/// Over which time the share is taken: short enough to follow a burst, long enough to be steady.
const WINDOW: Duration = Duration::from_secs(5);

/// The load of one driver's thread.
pub(super) struct Load {
    began: Instant,
    woke: Duration,
    share: Share,
    gauge: Gauge,
}

impl Load {
    #[allow(clippy::disallowed_methods, reason = "a driver may measure itself")]
    pub(super) fn new() -> Load {
        let gauge = metrics::gauge!("atoll_load_ratio");
        Load { began: Instant::now(), woke: Duration::ZERO, share: Share::default(), gauge }
    }

    /// There is work.
    pub(super) fn wake(&mut self) {
        self.woke = self.began.elapsed();
    }

    /// The work is done.
    pub(super) fn rest(&mut self) {
        if let Some(ratio) = self.share.add(self.woke, self.began.elapsed()) {
            self.gauge.set(ratio);
        }
    }
}

/// Busy time in the current window. Times are since the start of the thread, and never fall.
#[derive(Default)]
struct Share {
    opened: Duration,
    busy: Duration,
}

impl Share {
    /// Adds work; the share of the window, 0 to 1, if this closes it.
    fn add(&mut self, from: Duration, to: Duration) -> Option<f64> {
        self.busy += to.saturating_sub(from);
        let open = to.saturating_sub(self.opened);
        if open < WINDOW {
            return None;
        }
        let ratio = self.busy.as_secs_f64() / open.as_secs_f64();
        *self = Share { opened: to, busy: Duration::ZERO };
        Some(ratio.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(work: &[(u64, u64)], expected: &[Option<f64>]) {
        let mut share = Share::default();
        let millis = Duration::from_millis;
        let ratios = work.iter().map(|(from, to)| share.add(millis(*from), millis(*to)));
        assert_eq!(ratios.collect::<Vec<_>>(), expected, "{work:?}");
    }

    #[test]
    fn a_window_counts_only_its_own_work() {
        check(&[(0, 1_000), (4_000, 5_000)], &[None, Some(0.4)]);
        check(&[(0, 5_000), (10_000, 10_000)], &[Some(1.0), Some(0.0)]);
        check(&[(1_000, 1_000), (9_000, 10_000), (12_500, 15_000)], &[None, Some(0.1), Some(0.5)]);
    }

    #[test]
    fn one_long_turn_is_a_window() {
        check(&[(0, 20_000)], &[Some(1.0)]);
    }
}
