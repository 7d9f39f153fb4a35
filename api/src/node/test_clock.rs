//! A clock that a test sets: another clock, plus what a file says.
//!
//! Invariants:
//! 1. While the file holds no number, the last one that it held counts; before the first, 0.
//! 2. The file is read by a thread of its own: asking for the time never waits for a disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use atoll_replication::driver::Clock;
use atoll_store::dot::Millis;

/// The environment variable that names the file.
const VARIABLE: &str = "ATOLL_TEST_CLOCK";
/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A clock that is off by the milliseconds (a signed integer) in a file.
pub struct TestClock {
    base: Arc<dyn Clock>,
    offset_ms: Arc<AtomicI64>,
}

impl TestClock {
    /// `base`, or what the environment puts in its place; then a warning says so.
    pub fn or(base: Arc<dyn Clock>) -> Arc<dyn Clock> {
        let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return base };
        tracing::warn!(file = %path.display(), "the clock is a test's: {VARIABLE} is set");
        Arc::new(TestClock::follow(base, path))
    }

    /// Looks at the file now, and again every 50 ms until the clock is dropped.
    pub fn follow(base: Arc<dyn Clock>, path: PathBuf) -> TestClock {
        let offset_ms = Arc::new(AtomicI64::new(offset(&path).unwrap_or(0)));
        let shared = Arc::downgrade(&offset_ms);
        std::thread::Builder::new()
            .name("test clock".into())
            .spawn(move || look(&shared, &path))
            .expect("a process that starts can start a thread");
        TestClock { base, offset_ms }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        self.base.now().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }
}

fn look(shared: &Weak<AtomicI64>, path: &Path) {
    while let Some(offset_ms) = shared.upgrade() {
        if let Some(found) = offset(path) {
            offset_ms.store(found, Ordering::Relaxed);
        }
        drop(offset_ms);
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What the file says; `None` if it is not there, or not wholly written.
fn offset(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jepsen::wait::until;

    /// A clock that stands.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Millis {
            10_000
        }
    }

    #[test]
    fn a_clock_follows_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock");
        let clock = TestClock::follow(Arc::new(Still), path.clone());
        assert_eq!(clock.now(), 10_000);
        for (text, now) in [("5000\n", 15_000), ("-9000", 1_000), ("-20000", 0), ("0", 10_000)] {
            std::fs::write(&path, text).unwrap();
            let shown = until(Duration::from_secs(60), || (clock.now() == now).then_some(()));
            assert!(shown.is_some(), "{text}: {}", clock.now());
        }
        std::fs::write(&path, "250").unwrap();
        assert_eq!(TestClock::follow(Arc::new(Still), path).now(), 10_250);
    }

    #[test]
    fn a_file_without_a_number_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock");
        assert_eq!(offset(&path), None);
        for (text, found) in [("", None), ("-", None), ("soon", None), (" -7\n", Some(-7))] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(offset(&path), found, "{text:?}");
        }
    }
}
