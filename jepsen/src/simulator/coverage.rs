//! What happened at least once: a run that never meets a case proves nothing of it.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

/// What must occur over many seeds: each kind of fault, and each state of the protocol.
pub const SOMETIMES: &[&str] = &[
    "answer to a write lost",
    "both attempts of a retry were applied",
    "clean stop",
    "clock drifts",
    "clock far ahead refused a write",
    "clock jumped back",
    "crash",
    "disk full",
    "disk replaced",
    "disk rolled back",
    #[cfg(feature = "mutants")]
    "divergence repaired",
    "duplicate operation ignored",
    "earlier start taken back",
    "expired state removed",
    "full disk refused a write",
    "gap waited",
    "link clogged",
    "one-way cut",
    "only copy lost",
    "partition",
    "passed on inside a region",
    "pause",
    "pod replaced",
    "range asked for",
    "record damaged",
    "repaired from a peer",
    "retry answered as one",
    "ring of majorities",
    "state in several chunks",
    "state transferred",
    "subscription followed changes",
    "subscription reset",
    "trimmed",
    "unflushed commits lost",
];

/// What must occur, too, where regions have councils.
pub const WITH_COUNCILS: &[&str] = &[
    "copy given up",
    "council re-formed",
    "long crash",
    "node evicted",
    "node given up restarted",
    "node joined",
    "node left",
    "origin retired",
    "replica caught up",
    "request led elsewhere",
    "subscription led elsewhere",
];

impl Coverage {
    /// It happened.
    pub fn hit(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Another run's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// What of these should have happened, and never did.
    pub fn missing(&self, of: &[&'static str]) -> Vec<&'static str> {
        of.iter().copied().filter(|what| !self.0.contains_key(what)).collect()
    }
}
