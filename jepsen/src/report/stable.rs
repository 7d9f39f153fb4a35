//! Stable latency: from a probe's acknowledgement until every node has shown it.
//!
//! Probes are `probe` operations with `[node, n]`, sights are `seen` lines of the nemesis; see
//! [`crate::report`]. Whoever watched at all counts as a node that has to see.
//!
//! Left out: what it should be; a judge says that. Here it is only measured.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::facts::milliseconds;
use crate::history::{History, Process, Type};

/// The function of probes.
pub(super) const PROBE: &str = "probe";
/// The function of sights.
pub(super) const SEEN: &str = "seen";

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are at most this.
    pub p50: f64,
    /// 95 in a hundred are.
    pub p95: f64,
    /// 99 in a hundred are.
    pub p99: f64,
    /// All are.
    pub max: f64,
    /// How many there are.
    pub count: u64,
    /// Acknowledged, and not seen everywhere by the end.
    #[serde(default)]
    pub unseen: u64,
}

/// Stable latencies of a run.
pub(super) struct Stable {
    /// In milliseconds, ascending.
    pub(super) sorted_ms: Vec<f64>,
    /// Acknowledged probes that some node had not shown by the end.
    pub(super) unseen: u64,
}

impl Stable {
    /// Measures a history; `None` if nobody watched.
    pub(super) fn new(history: &History) -> Option<Stable> {
        let sights = Sights::new(history);
        let mut stable = Stable { sorted_ms: Vec::new(), unseen: 0 };
        for op in history.ops().iter().filter(|op| op.f == PROBE && op.kind == Type::Ok) {
            let (Some(of), Some(n)) = (op.value[0].as_str(), op.value[1].as_u64()) else {
                continue;
            };
            match sights.everywhere(of, n) {
                Some(time) => stable.sorted_ms.push(milliseconds(time.saturating_sub(op.time))),
                None => stable.unseen += 1,
            }
        }
        stable.sorted_ms.sort_by(f64::total_cmp);
        (!sights.watchers.is_empty()).then_some(stable)
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        Quantiles { unseen: self.unseen, ..quantiles(&self.sorted_ms) }
    }
}

/// Percentiles by nearest rank of what is sorted; zeros if there is nothing.
pub(super) fn quantiles(sorted_ms: &[f64]) -> Quantiles {
    let rank = |share: f64| {
        let place = (share * sorted_ms.len() as f64).ceil() as usize;
        sorted_ms.get(place.max(1) - 1).copied().unwrap_or_default()
    };
    let count = sorted_ms.len() as u64;
    Quantiles { p50: rank(0.5), p95: rank(0.95), p99: rank(0.99), max: rank(1.0), count, unseen: 0 }
}

/// Who saw what first when.
struct Sights<'a> {
    watchers: BTreeSet<&'a str>,
    /// By whose probe and who saw: numbers with times, both rising.
    first: BTreeMap<(&'a str, &'a str), Vec<(u64, u64)>>,
}

impl<'a> Sights<'a> {
    fn new(history: &'a History) -> Sights<'a> {
        let mut sights = Sights { watchers: BTreeSet::new(), first: BTreeMap::new() };
        let ops = history.ops().iter();
        for op in ops.filter(|op| op.process == Process::Nemesis && op.f == SEEN) {
            let text = |key: &str| op.value.get(key).and_then(Value::as_str);
            let n = op.value.get("n").and_then(Value::as_u64);
            let (Some(at), Some(of), Some(n)) = (text("at"), text("of"), n) else { continue };
            sights.watchers.insert(at);
            let seen = sights.first.entry((of, at)).or_default();
            if seen.last().is_none_or(|(before, _)| *before < n) {
                seen.push((n, op.time));
            }
        }
        sights
    }

    /// When the last of all watchers first saw `n` or more.
    fn everywhere(&self, of: &str, n: u64) -> Option<u64> {
        let when = |at: &&str| {
            let seen = self.first.get(&(of, *at))?;
            let place = seen.partition_point(|(number, _)| *number < n);
            seen.get(place).map(|(_, time)| *time)
        };
        let times: Option<Vec<u64>> = self.watchers.iter().map(when).collect();
        times?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;
    use serde_json::json;

    const MS: u64 = 1_000_000;

    fn probe(recorder: &mut Recorder, time_ms: u64, n: u64) {
        recorder.invoke(time_ms * MS, 0, PROBE, json!(["eu-1", n]), Some("eu-1"));
        recorder.end(time_ms * MS, 0, Type::Ok, PROBE, json!(["eu-1", n]), None, Some("eu-1"));
    }

    fn seen(recorder: &mut Recorder, time_ms: u64, at: &str, n: u64) {
        recorder.nemesis(time_ms * MS, SEEN, json!({"at": at, "of": "eu-1", "n": n}));
    }

    #[test]
    fn the_last_node_counts_and_later_numbers_stand_for_earlier_ones() {
        let mut recorder = Recorder::default();
        probe(&mut recorder, 10, 1);
        seen(&mut recorder, 11, "eu-1", 1);
        probe(&mut recorder, 20, 2);
        seen(&mut recorder, 22, "eu-1", 2);
        seen(&mut recorder, 50, "us-1", 2);
        probe(&mut recorder, 60, 3);
        seen(&mut recorder, 61, "eu-1", 3);
        let history = recorder.history();
        let stable = Stable::new(&history).unwrap();
        assert_eq!(stable.sorted_ms, [30.0, 40.0]);
        assert_eq!(stable.unseen, 1);
        let quantiles = stable.quantiles();
        assert_eq!((quantiles.p50, quantiles.max, quantiles.count), (30.0, 40.0, 2));
    }

    #[test]
    fn without_watchers_nothing_is_measured() {
        let mut recorder = Recorder::default();
        probe(&mut recorder, 10, 1);
        assert!(Stable::new(&recorder.history()).is_none());
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let all: Vec<f64> = (1..=200).map(f64::from).collect();
        let q = quantiles(&all);
        assert_eq!((q.p50, q.p95, q.p99, q.max), (100.0, 190.0, 198.0, 200.0));
        assert_eq!(quantiles(&[7.0]).p50, 7.0);
        assert_eq!(quantiles(&[]), Quantiles::default());
    }
}
