//! What a node that held something may have forgotten: whose disk was lost or put back, and when.
//!
//! Invariants:
//! 1. A node keeps what it held, through crashes and cuts; only faults of its disk take it away.
//! 2. A fault that is not known to be harmless may have taken everything from the nodes that it
//!    names, or from all if it names none, at any time from its begin to its end, or till all is
//!    healed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::history::{History, Op, Pair, Process};

/// Faults, and lines of the nemesis that are none, which take nothing from a disk that was synced.
const HARMLESS: &[&str] = &[
    "clock",
    "delay",
    "duplicate",
    "flap",
    "full-disk",
    "kill",
    "loss",
    "one-way",
    "partition",
    "pause",
    "power",
    "rolling",
    "sample",
    "seen",
    "slow-link",
];

/// When which nodes may have forgotten.
#[derive(Debug, Default)]
pub(super) struct Memory {
    spans: Vec<Span>,
}

#[derive(Debug)]
struct Span {
    f: String,
    /// `None`: any node.
    nodes: Option<BTreeSet<String>>,
    from: u64,
    to: u64,
}

impl Memory {
    /// The lapses of a history.
    pub(super) fn of(history: &History) -> Memory {
        let mut memory = Memory::default();
        for op in history.ops().iter().filter(|op| op.process == Process::Nemesis) {
            if op.f == "healed" {
                let open = memory.spans.iter_mut().filter(|span| span.to == u64::MAX);
                open.for_each(|span| span.to = op.index);
            } else if !HARMLESS.contains(&op.f.as_str()) {
                memory.take(op);
            }
        }
        memory
    }

    fn take(&mut self, op: &Op) {
        let nodes = op.value["nodes"].as_array().map(|nodes| nodes.iter().map(name).collect());
        let phase = op.value["phase"].as_str();
        if phase == Some("end") {
            let begun = |span: &&mut Span| {
                span.to == u64::MAX && span.f == op.f && (nodes.is_none() || span.nodes == nodes)
            };
            if let Some(span) = self.spans.iter_mut().find(begun) {
                span.to = op.index;
                return;
            }
        }
        let to = if phase == Some("begin") { u64::MAX } else { op.index };
        self.spans.push(Span { f: op.f.clone(), nodes, from: op.index, to });
    }

    /// Whether a node certainly holds at line `to` what it held at some time after line `from`.
    pub(super) fn keeps(&self, node: &str, from: u64, to: u64) -> bool {
        !self.spans.iter().any(|span| {
            let hit = span.nodes.as_ref().is_none_or(|nodes| nodes.contains(node));
            hit && span.from <= to && from <= span.to
        })
    }
}

fn name(node: &Value) -> String {
    node.as_str().map_or_else(|| node.to_string(), str::to_owned)
}

/// The node that did an operation: the one that answered it, else the one that was asked; a client
/// whose node is not told has one of its own.
pub(super) fn node_of(pair: &Pair<'_>) -> String {
    let answered = pair.end.and_then(|end| end.node.as_ref());
    match (answered.or(pair.invoke.node.as_ref()), pair.invoke.process) {
        (Some(node), _) => node.clone(),
        (None, Process::Client(number)) => format!("the node of {number}"),
        (None, Process::Nemesis) => "no node".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use crate::history::Recorder;
    use serde_json::{Value, json};

    fn memory(lines: &[(&str, Value)]) -> Memory {
        let mut recorder = Recorder::default();
        lines.iter().for_each(|(f, value)| recorder.nemesis(0, f, value.clone()));
        Memory::of(&recorder.history())
    }

    #[test]
    fn a_node_forgets_from_the_begin_of_its_fault_to_the_end() {
        let begin = json!({"phase": "begin", "nodes": ["eu-1"]});
        let end = json!({"phase": "end", "nodes": ["eu-1"]});
        let idle = ("sample", json!({}));
        let memory =
            memory(&[idle.clone(), ("restore", begin), idle.clone(), ("restore", end), idle]);
        assert!(memory.keeps("eu-1", 0, 0) && memory.keeps("eu-1", 4, 9));
        assert!(!memory.keeps("eu-1", 0, 1) && !memory.keeps("eu-1", 2, 2));
        assert!(!memory.keeps("eu-1", 3, 9) && !memory.keeps("eu-1", 0, 9));
        assert!(memory.keeps("us-1", 0, 9));
    }

    #[test]
    fn crashes_and_cuts_take_nothing_and_what_is_unknown_may_take_all() {
        let begin = json!({"phase": "begin", "nodes": ["eu-1"]});
        assert!(memory(&[("kill", begin.clone()), ("partition", json!({}))]).keeps("eu-1", 0, 9));
        let begun = ("meteor", json!({"phase": "begin"}));
        let healed = memory(&[begun, ("healed", json!(null))]);
        assert!(healed.keeps("us-1", 2, 9) && !healed.keeps("us-1", 1, 9));
        let unended = memory(&[("meteor", json!({"phase": "begin"}))]);
        assert!(!unended.keeps("us-1", 5, 9));
        assert!(!memory(&[("meteor", json!(null))]).keeps("us-1", 0, 9));
    }
}
