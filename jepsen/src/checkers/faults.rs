//! What the nemesis did: when, to which nodes, and what a node may have lost by it.
//!
//! A fault is a nemesis line whose value has a `"phase"`, `"begin"` or `"end"`; its nodes are in
//! `"nodes"` or `"node"`. A fault that names no node is one of all nodes. `healed` ends them all.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::history::{History, Op, Process};

/// After it all faults are over.
pub(super) const HEALED: &str = "healed";
/// Faults that put another disk into a node, or another content onto it; and no fault, but with
/// the same effect, that it gives up a shard's copy.
const DISK: [&str; 7] = ["restore", "replace", "corrupt", "truncate", "join", "leave", "give-up"];
/// Faults that leave processes running.
const RUNNING: [&str; 2] = ["pause", "clock"];
/// Faults of links alone.
const LINKS: [&str; 5] = ["partition", "one-way", "flap", "slow", "link"];

/// A fault from its beginning to its end.
pub(super) struct Fault<'a> {
    pub(super) name: &'a str,
    /// What its first line says of it.
    pub(super) value: &'a Value,
    pub(super) begin: u64,
    /// `u64::MAX` if it never ended.
    pub(super) end: u64,
}

/// Lines of the nemesis.
pub(super) fn lines(history: &History) -> impl Iterator<Item = &Op> {
    history.ops().iter().filter(|op| op.process == Process::Nemesis)
}

/// All faults.
pub(super) fn faults(history: &History) -> Vec<Fault<'_>> {
    let mut faults: Vec<Fault<'_>> = Vec::new();
    for line in lines(history) {
        match line.value["phase"].as_str() {
            _ if line.f == HEALED => {
                let open = faults.iter_mut().filter(|fault| fault.end == u64::MAX);
                open.for_each(|fault| fault.end = line.time);
            }
            Some("begin") => {
                let (name, value) = (line.f.as_str(), &line.value);
                faults.push(Fault { name, value, begin: line.time, end: u64::MAX });
            }
            Some("end") => end(&mut faults, line),
            _ => {}
        }
    }
    faults
}

/// Ends the oldest fault of that name and those nodes, or else the oldest of that name.
fn end(faults: &mut [Fault<'_>], line: &Op) {
    let open = |fault: &Fault<'_>| fault.name == line.f && fault.end == u64::MAX;
    let same = |fault: &Fault<'_>| open(fault) && nodes(fault.value) == nodes(&line.value);
    let place = faults.iter().position(same).or_else(|| faults.iter().position(open));
    if let Some(place) = place {
        faults[place].end = line.time;
    }
}

/// The nodes that a line names.
pub(super) fn nodes(value: &Value) -> Vec<&str> {
    let many = value["nodes"].as_array().into_iter().flatten();
    many.chain([&value["node"]]).filter_map(Value::as_str).collect()
}

/// The region of a node: its name up to the last `-`.
pub(super) fn region(node: &str) -> &str {
    node.rsplit_once('-').map_or(node, |(region, _)| region)
}

/// Whether a fault is one of links, and of nothing else.
pub(super) fn is_of_links(name: &str) -> bool {
    LINKS.iter().any(|link| name.starts_with(link))
}

/// How often nodes went through something, by the index of each time.
#[derive(Default)]
pub(super) struct Lives {
    one: BTreeMap<String, Vec<u64>>,
    all: Vec<u64>,
}

impl Lives {
    /// Disks that were changed.
    pub(super) fn of_disks(history: &History) -> Lives {
        Lives::of(history, |f| DISK.iter().any(|disk| f.starts_with(disk)))
    }

    /// Processes that may have been started again.
    pub(super) fn of_processes(history: &History) -> Lives {
        let running = |f: &str| RUNNING.iter().any(|name| f.starts_with(name));
        Lives::of(history, |f| !is_of_links(f) && !running(f))
    }

    fn of(history: &History, counts: impl Fn(&str) -> bool) -> Lives {
        let mut lives = Lives::default();
        let faults = lines(history).filter(|line| line.value["phase"].is_string());
        for line in faults.filter(|line| line.f != HEALED && counts(&line.f)) {
            let nodes = nodes(&line.value);
            if nodes.is_empty() {
                lives.all.push(line.index);
            }
            for node in nodes {
                lives.one.entry(node.into()).or_default().push(line.index);
            }
        }
        lives
    }

    /// Which life of a node it is at a line of the history.
    pub(super) fn at(&self, node: Option<&str>, index: u64) -> usize {
        let before = |places: &Vec<u64>| places.partition_point(|place| *place < index);
        let one = node.and_then(|node| self.one.get(node));
        before(&self.all) + one.map_or(0, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{Line, timed};
    use serde_json::json;

    #[test]
    fn faults_end_with_their_end_or_with_the_healing() {
        let nemesis = |at, f, phase: &str, node: &str| {
            Line::Nemesis(at, f, json!({"phase": phase, "nodes": [node]}))
        };
        let history = timed(&[
            nemesis(1, "kill", "begin", "eu-1"),
            nemesis(2, "kill", "begin", "us-1"),
            nemesis(3, "kill", "end", "us-1"),
            nemesis(4, "restore", "begin", "us-1"),
            Line::Nemesis(5, HEALED, json!({"phase": "end"})),
        ]);
        let faults: Vec<_> = faults(&history).iter().map(|f| (f.name, f.begin, f.end)).collect();
        let ms = 1_000_000;
        let expected =
            [("kill", ms, 5 * ms), ("kill", 2 * ms, 3 * ms), ("restore", 4 * ms, 5 * ms)];
        assert_eq!(faults, expected);
        let disks = Lives::of_disks(&history);
        assert_eq!([2, 3, 4].map(|at| disks.at(Some("us-1"), at)), [0, 0, 1]);
        assert_eq!(disks.at(Some("eu-1"), 5), 0);
        assert_eq!(Lives::of_processes(&history).at(Some("eu-1"), 9), 1);
    }
}
