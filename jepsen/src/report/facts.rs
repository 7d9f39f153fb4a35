//! A history as reports need it: calls with latencies, windows of faults, stable latencies.
//!
//! Invariants:
//! 1. Probes and samples are the harness's own work: they are no calls.
//! 2. A fault that was never ended lasts until all was healed, or to the end.
//!
//! Left out: values; only the timeline shows them, from the history.

use std::collections::BTreeMap;

use serde_json::Value;

use super::stable::{PROBE, SEEN, Stable};
use crate::history::{History, Op, Pair, Process, Type};

/// Functions of clients that measure instead of working.
const OWN: [&str; 3] = [PROBE, "digest", "final-digest"];
/// All faults are over.
const HEALED: &str = "healed";
/// Lines of the nemesis that are no faults.
const NO_FAULTS: [&str; 5] = [HEALED, SEEN, "quiet", "sample", "owner"];

/// What a report shows of a history.
pub(super) struct Facts<'a> {
    /// Clients' operations, in order of their invocations.
    pub(super) calls: Vec<Call<'a>>,
    /// Faults, in order of their beginnings.
    pub(super) faults: Vec<Fault<'a>>,
    /// When all faults were over, in seconds.
    pub(super) healed: Option<f64>,
    /// The last time of the history, in seconds.
    pub(super) end: f64,
    /// How long until everyone sees, if it was measured.
    pub(super) stable: Option<Stable>,
}

/// A client's operation.
pub(super) struct Call<'a> {
    /// The lines.
    pub(super) pair: Pair<'a>,
    /// When it was invoked, in seconds.
    pub(super) start: f64,
    /// When it ended; the end of the history for what never did.
    pub(super) end: f64,
    /// How.
    pub(super) outcome: Type,
    /// The region of the node that was asked; empty if none is named.
    pub(super) region: &'a str,
}

impl Call<'_> {
    /// The function.
    pub(super) fn f(&self) -> &str {
        &self.pair.invoke.f
    }

    /// How long it took.
    pub(super) fn latency_ms(&self) -> f64 {
        (self.end - self.start) * 1e3
    }
}

/// A fault from its beginning to its end, in seconds.
pub(super) struct Fault<'a> {
    pub(super) name: &'a str,
    pub(super) start: f64,
    pub(super) end: f64,
    /// Whether its end was recorded.
    pub(super) ended: bool,
    /// Whether its beginning was; others are moments that only the list shows.
    pub(super) counts: bool,
    /// Its value without the phase.
    pub(super) details: Value,
}

/// Nanoseconds as seconds.
pub(super) fn seconds(time: u64) -> f64 {
    time as f64 / 1e9
}

/// Nanoseconds as milliseconds.
pub(super) fn milliseconds(time: u64) -> f64 {
    time as f64 / 1e6
}

impl<'a> Facts<'a> {
    pub(super) fn new(history: &'a History) -> Facts<'a> {
        let end = seconds(history.ops().last().map_or(0, |op| op.time));
        let nemesis = || history.ops().iter().filter(|op| op.process == Process::Nemesis);
        let healed = nemesis().find(|op| op.f == HEALED).map(|op| seconds(op.time));
        let work = history.pairs().into_iter();
        let work = work.filter(|pair| !OWN.contains(&pair.invoke.f.as_str()));
        Facts {
            calls: work.map(|pair| call(pair, end)).collect(),
            faults: faults(nemesis(), healed, end),
            healed,
            end,
            stable: Stable::new(history),
        }
    }

    /// Functions with how often each was called, the most frequent first.
    pub(super) fn functions(&self) -> Vec<(&str, usize)> {
        let mut counts = BTreeMap::new();
        for call in &self.calls {
            *counts.entry(call.f()).or_insert(0) += 1;
        }
        let mut functions: Vec<(&str, usize)> = counts.into_iter().collect();
        functions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        functions
    }

    /// Names of regions that were asked, in order.
    pub(super) fn regions(&self) -> Vec<&str> {
        let mut regions: Vec<&str> = self.calls.iter().map(|call| call.region).collect();
        regions.sort_unstable();
        regions.dedup();
        regions.retain(|region| !region.is_empty());
        regions
    }
}

fn call<'a>(pair: Pair<'a>, last: f64) -> Call<'a> {
    let node = pair.invoke.node.as_deref().unwrap_or_default();
    let region = node.rsplit_once('-').map_or(node, |(region, _)| region);
    let end = pair.end.map_or(last, |op| seconds(op.time));
    Call { pair, start: seconds(pair.invoke.time), end, outcome: pair.outcome(), region }
}

/// Matches beginnings with ends: first those with the same details, else the oldest of the name.
fn faults<'a>(
    nemesis: impl Iterator<Item = &'a Op>,
    healed: Option<f64>,
    last: f64,
) -> Vec<Fault<'a>> {
    let mut faults: Vec<Fault<'a>> = Vec::new();
    for op in nemesis.filter(|op| !NO_FAULTS.contains(&op.f.as_str())) {
        let (phase, details) = phase(&op.value);
        let now = seconds(op.time);
        if phase == Some("end") {
            let open = |fault: &Fault<'_>| fault.counts && !fault.ended && fault.name == op.f;
            let same = faults.iter().position(|fault| open(fault) && fault.details == details);
            if let Some(place) = same.or_else(|| faults.iter().position(open)) {
                (faults[place].end, faults[place].ended) = (now, true);
                continue;
            }
        }
        let counts = phase == Some("begin");
        let until = healed.filter(|healed| *healed >= now).unwrap_or(last);
        let end = if counts { until } else { now };
        faults.push(Fault { name: &op.f, start: now, end, ended: !counts, counts, details });
    }
    faults
}

/// The phase of a fault's line, and the rest of its value.
fn phase(value: &Value) -> (Option<&str>, Value) {
    let phase = value.get("phase").and_then(Value::as_str);
    let mut details = value.clone();
    if let Some(fields) = details.as_object_mut() {
        fields.remove("phase");
    }
    (phase, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;
    use serde_json::json;

    const SECOND: u64 = 1_000_000_000;

    /// Windows of a list of lines, one a second: name, phase, node.
    fn check(lines: &[(&str, &str, &str)], expected: &[(&str, f64, f64, bool)]) {
        let mut recorder = Recorder::default();
        for (time, (f, phase, node)) in lines.iter().enumerate() {
            recorder.nemesis(time as u64 * SECOND, f, json!({"phase": phase, "nodes": [node]}));
        }
        let history = recorder.history();
        let facts = Facts::new(&history);
        let found: Vec<_> =
            facts.faults.iter().map(|f| (f.name, f.start, f.end, f.ended)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_end_closes_the_fault_of_the_same_node() {
        check(
            &[
                ("kill", "begin", "eu-1"),
                ("kill", "begin", "us-1"),
                ("kill", "end", "us-1"),
                ("kill", "end", "eu-1"),
            ],
            &[("kill", 0.0, 3.0, true), ("kill", 1.0, 2.0, true)],
        );
    }

    #[test]
    fn an_end_with_other_details_closes_the_oldest_of_its_name() {
        check(
            &[("kill", "begin", "a"), ("pause", "begin", "a"), ("kill", "end", "")],
            &[("kill", 0.0, 2.0, true), ("pause", 1.0, 2.0, false)],
        );
    }

    #[test]
    fn what_was_never_ended_lasts_until_all_is_healed() {
        check(
            &[("slow", "begin", ""), ("healed", "", ""), ("sample", "", ""), ("seen", "", "")],
            &[("slow", 0.0, 1.0, false)],
        );
    }

    #[test]
    fn probes_and_samples_are_no_work() {
        let mut recorder = Recorder::default();
        for f in ["add", PROBE, "digest", "add"] {
            recorder.invoke(0, 0, f, json!(1), Some("eu-west-2"));
            recorder.end(5_000_000, 0, Type::Ok, f, json!(1), None, None);
        }
        let history = recorder.history();
        let facts = Facts::new(&history);
        assert_eq!(facts.functions(), [("add", 2)]);
        assert_eq!(facts.regions(), ["eu-west"]);
        assert!((facts.calls[0].latency_ms() - 5.0).abs() < 1e-6);
    }
}
