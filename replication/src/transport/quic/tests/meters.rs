//! Counts what the code under test counts, on this thread.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, LocalRecorderGuard, Metadata, Recorder, SharedString,
    Unit,
};

use super::*;

#[derive(Default)]
pub(super) struct Meters(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Meters {
    /// Counts from here on, while the guard lives.
    pub(super) fn install() -> (&'static Self, LocalRecorderGuard<'static>) {
        let meters: &'static Self = Box::leak(Box::default());
        (meters, metrics::set_default_local_recorder(meters))
    }

    /// The sum over all labels that contain `label`.
    pub(super) fn count(&self, name: &str, label: &str) -> u64 {
        let counters = self.0.lock().unwrap();
        let named = |key: &str| key.starts_with(&format!("{name}|")) && key.contains(label);
        let matching = counters.iter().filter(|(key, _)| named(key));
        matching.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<&str> = key.labels().map(|label| label.value()).collect();
        let name = format!("{}|{}", key.name(), labels.join("|"));
        Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
