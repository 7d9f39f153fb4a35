//! Availability: how often a region served its clients, under which faults, and how fast.
//!
//! Every client's operation that names a node is of its region, and of one class:
//! - `calm`: no fault meanwhile;
//! - `cut`: faults of links, none of them between nodes of this region, and nothing else on it;
//! - `hit`: a fault of this region, or one that began or ended just before ([`GRACE`]).
//!
//! 1. `cut` operations end well in more than 99 of 100: a region needs no other. Judged for
//!    [`OPERATIONS_MIN`] of them, below which one chance failure would decide.
//!
//! Counted for each region and class: `operations`, `ok` (their share), and `p50`, `p95`, `p99` and
//! `max` of those that ended well, in milliseconds.
//!
//! Which faults are a region's own: of links, those whose two sides both name its nodes. Sides are
//! `"sides"` (between any two of which links are cut), `"cut"` (an object, from a node to those
//! that do not hear it), `"links"` (pairs), or `"from"` and `"to"`. Of others, those that name its
//! nodes; clocks are everybody's, for nodes compare them. A fault that does not say is a fault of
//! all: the judge may then miss something, and never invents it.
//!
//! Left out: final reads, digests, and refusals that are about the request itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::faults::{Fault, faults, is_of_links, nodes, region};
use super::{FINAL_READ, Verdict, quantile};
use crate::history::{History, Pair, Type};

/// Fewest operations whose share is judged.
pub const OPERATIONS_MIN: usize = 100;
/// How long after a fault its node may still be busy with it.
pub const GRACE: u64 = 2_000_000_000;
/// What is asked by the test, not by its clients.
const NO_CLIENTS: [&str; 4] = [FINAL_READ, "final-poll", "digest", "final-digest"];
/// Refusals of what was asked for, which any store would give.
const DESERVED: [&str; 3] = ["session-behind", "session-lost", "revision-conflict"];

/// Judges the operations of all regions.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let windows: Vec<Window> = faults(history).iter().map(Window::of).collect();
    let mut served: BTreeMap<(&str, Class), Served> = BTreeMap::new();
    for pair in history.pairs() {
        let node = pair.invoke.node.as_deref().filter(|_| is_of_a_client(&pair));
        let Some(region) = node.map(region) else { continue };
        verdict.judged += 1;
        served.entry((region, class(&windows, region, &pair))).or_default().take(&pair);
    }
    for ((region, class), served) in &mut served {
        served.count(&format!("{region} {}", class.name()), &mut verdict.counted);
        let (all, ok) = (served.operations, served.latencies.len());
        if *class == Class::Cut && all >= OPERATIONS_MIN && (all - ok) * 100 >= all {
            let what = format!("region {region} served {ok} of {all} with only its links cut");
            verdict.violations.push(what);
        }
    }
    verdict
}

fn is_of_a_client(pair: &Pair<'_>) -> bool {
    let error = pair.end.and_then(|end| end.error.as_ref()).and_then(Value::as_str);
    let deserved = error.is_some_and(|code| DESERVED.contains(&code));
    !NO_CLIENTS.contains(&pair.invoke.f.as_str()) && !deserved
}

/// What happened around an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Calm,
    Cut,
    Hit,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::Calm => "calm",
            Class::Cut => "cut",
            Class::Hit => "hit",
        }
    }
}

/// A fault, and whose own it is.
struct Window {
    begin: u64,
    end: u64,
    /// Regions that it is on; `None`: on all.
    own: Option<BTreeSet<String>>,
    of_links: bool,
}

impl Window {
    fn of(fault: &Fault<'_>) -> Window {
        let of_links = is_of_links(fault.name);
        let own = if of_links { inner(fault.value) } else { named(fault) };
        Window { begin: fault.begin, end: fault.end, own, of_links }
    }

    fn is_on(&self, region: &str) -> bool {
        self.own.as_ref().is_none_or(|own| own.contains(region))
    }
}

/// The regions that a fault of nodes is on.
fn named(fault: &Fault<'_>) -> Option<BTreeSet<String>> {
    let nodes = nodes(fault.value);
    let says = !nodes.is_empty() && !fault.name.starts_with("clock");
    says.then(|| nodes.into_iter().map(|node| region(node).to_owned()).collect())
}

/// The regions within which a fault cuts links; `None` if it does not say.
fn inner(value: &Value) -> Option<BTreeSet<String>> {
    if let Some(sides) = value["sides"].as_array() {
        let pairs = sides.iter().enumerate();
        let cut = pairs.flat_map(|(at, one)| sides[at + 1..].iter().map(|other| both(one, other)));
        return Some(cut.flatten().collect());
    }
    if let Some(cuts) = value["cut"].as_object() {
        let one = |(from, to): (&String, &Value)| both(&Value::from(from.as_str()), to);
        return Some(cuts.iter().flat_map(one).collect());
    }
    if let Some(links) = value["links"].as_array() {
        return Some(links.iter().flat_map(|link| both(&link[0], &link[1])).collect());
    }
    let (from, to) = (&value["from"], &value["to"]);
    (!from.is_null() && !to.is_null()).then(|| both(from, to))
}

/// The regions that have nodes on both sides; a side is a name or an array of them.
fn both(one: &Value, other: &Value) -> BTreeSet<String> {
    let regions = |side: &Value| -> BTreeSet<String> {
        let names = side.as_array().into_iter().flatten().chain([side]).filter_map(Value::as_str);
        names.map(|node| region(node).to_owned()).collect()
    };
    regions(one).intersection(&regions(other)).cloned().collect()
}

fn class(windows: &[Window], region: &str, pair: &Pair<'_>) -> Class {
    let (from, to) = (pair.invoke.time, pair.end.map_or(u64::MAX, |end| end.time));
    let mut class = Class::Calm;
    for window in windows.iter().filter(|window| window.begin <= to) {
        let on = window.is_on(region);
        if on && from <= window.end.saturating_add(GRACE) {
            return Class::Hit;
        }
        if window.of_links && from <= window.end {
            class = Class::Cut;
        }
    }
    class
}

/// What was served.
#[derive(Default)]
struct Served {
    operations: usize,
    /// Of what ended well, in milliseconds.
    latencies: Vec<f64>,
}

impl Served {
    fn take(&mut self, pair: &Pair<'_>) {
        self.operations += 1;
        if let Some(end) = pair.end.filter(|end| end.kind == Type::Ok) {
            self.latencies.push((end.time - pair.invoke.time) as f64 / 1e6);
        }
    }

    fn count(&mut self, of: &str, counted: &mut BTreeMap<String, f64>) {
        self.latencies.sort_by(f64::total_cmp);
        let ok = self.latencies.len() as f64 / self.operations as f64;
        counted.insert(format!("{of} operations"), self.operations as f64);
        counted.insert(format!("{of} ok"), ok);
        for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
            counted.insert(format!("{of} {name}"), quantile(&self.latencies, share));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::Verdict;
    use crate::checkers::testing::{Line, timed};
    use crate::history::Type::{Fail, Invoke, Ok};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// `count` adds of a node, a millisecond each, from a time on; the last ones fail.
    fn adds(from: u64, node: &'static str, count: u64, failed: u64) -> Vec<Line<'static>> {
        let add = |n: u64| {
            let kind = if n < count - failed { Ok } else { Fail };
            let line = |at, kind| Line::Client(at, 0, kind, "add", json!(n), node);
            [line(from + n, Invoke), line(from + n + 1, kind)]
        };
        (0..count).flat_map(add).collect()
    }

    fn during(f: &'static str, details: &Value, adds: Vec<Line<'static>>) -> Verdict {
        let line = |at, phase: &str| {
            let mut value = details.clone();
            value["phase"] = phase.into();
            Line::Nemesis(at, f, value)
        };
        let lines = [vec![line(0, "begin")], adds, vec![line(1_000, "end")]].concat();
        check(&timed(&lines))
    }

    const DOWN: &str = "region eu served 198 of 200 with only its links cut";

    #[test]
    fn a_region_whose_links_to_others_are_cut_serves_on() {
        for details in [
            json!({"sides": [["eu-1", "eu-2"], ["us-1"]]}),
            json!({"links": [["eu-1", "us-1"], ["eu-2", "us-1"]]}),
            json!({"cut": {"eu-1": ["us-1"], "us-1": ["eu-1", "eu-2"]}}),
            json!({"from": ["eu-1"], "to": ["us-1"]}),
            json!({"from": "eu-1", "to": "us-1"}),
        ] {
            assert!(during("partition-halves", &details, adds(1, "eu-1", 200, 0)).is_good());
            let one = during("one-way", &details, adds(1, "eu-1", 200, 1));
            assert!(one.is_good(), "{details}");
            assert_eq!(one.counted["eu cut ok"], 0.995);
            let two = during("slow-link", &details, adds(1, "eu-1", 200, 2));
            assert_eq!(two.violations, [DOWN], "{details}");
        }
    }

    #[test]
    fn faults_of_its_own_nodes_and_links_are_an_excuse() {
        for (f, details) in [
            ("partition", json!({"sides": [["eu-1", "us-1"], ["eu-2"]]})),
            ("partition", json!({"links": [["eu-1", "eu-2"]]})),
            ("partition", json!({"cut": {"us-1": ["eu-1"], "eu-1": ["us-1", "eu-2"]}})),
            ("slow-link", json!({"delay_ms": 100})),
            ("partition", json!({"nodes": ["us-1"]})),
            ("kill", json!({"nodes": ["eu-2"]})),
            ("kill-all", json!({})),
            ("clock", json!({"nodes": ["us-1"]})),
        ] {
            let verdict = during(f, &details, adds(1, "eu-1", 200, 100));
            assert!(verdict.is_good(), "{f} {details}");
            assert_eq!(verdict.counted["eu hit ok"], 0.5);
        }
    }

    #[test]
    fn a_fault_elsewhere_is_none_here() {
        let verdict = during("kill", &json!({"nodes": ["us-1"]}), adds(1, "eu-1", 200, 0));
        assert_eq!(verdict.counted["eu calm operations"], 200.0);
        assert_eq!(verdict.counted["eu calm p99"], 1.0);
        assert!(!verdict.counted.contains_key("us calm operations"));
    }

    #[test]
    fn a_node_that_was_hit_just_before_is_not_blamed() {
        let kill = |phase: &str| json!({"phase": phase, "nodes": ["eu-1"]});
        let cut = json!({"phase": "begin", "sides": [["eu-1"], ["us-1"]]});
        let after = |at| {
            let begin = vec![
                Line::Nemesis(0, "partition", cut.clone()),
                Line::Nemesis(0, "kill", kill("begin")),
                Line::Nemesis(1, "kill", kill("end")),
            ];
            check(&timed(&[begin, adds(at, "eu-1", 200, 2)].concat())).violations
        };
        assert_eq!(after(1_000), [""; 0]);
        assert_eq!(after(3_000), [DOWN]);
    }

    #[test]
    fn few_operations_and_final_reads_decide_nothing() {
        let details = json!({"sides": [["eu-1"], ["us-1"]]});
        assert!(during("partition", &details, adds(1, "eu-1", 99, 50)).is_good());
        let last = |at, kind| Line::Client(at, 0, kind, "final-read", json!(null), "eu-1");
        let lines = [last(1, Invoke), last(2, Fail)];
        assert_eq!(during("partition", &details, lines.to_vec()).judged, 0);
    }

    proptest! {
        #[test]
        fn more_than_one_in_a_hundred_is_caught_and_less_is_not(
            hundreds in 1u64..5,
            missing in 0u64..8,
        ) {
            let details = json!({"sides": [["eu-1"], ["us-1"]]});
            let verdict = during("partition", &details, adds(1, "eu-1", hundreds * 100, missing));
            prop_assert_eq!(verdict.is_good(), missing < hundreds);
        }
    }
}
