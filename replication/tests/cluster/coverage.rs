//! What happened at least once: a run that never meets a case proves nothing of it.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

/// What must occur over all seeds.
pub const SOMETIMES: &[&str] = &[
    "both attempts of a retry were applied",
    "clean stop",
    "clock far ahead refused a write",
    "clock jumped back",
    "crash",
    "disk replaced",
    "disk rolled back",
    "duplicate operation ignored",
    "earlier start taken back",
    "expired state removed",
    "gap waited",
    "one-way cut",
    "only copy lost",
    "partition",
    "passed on inside a region",
    "range asked for",
    "record damaged",
    "repaired from a peer",
    "retry answered as one",
    "state in several chunks",
    "state transferred",
    "trimmed",
    "unflushed commits lost",
];

impl Coverage {
    pub fn hit(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn missing(&self) -> Vec<&'static str> {
        SOMETIMES.iter().copied().filter(|what| !self.0.contains_key(what)).collect()
    }
}
