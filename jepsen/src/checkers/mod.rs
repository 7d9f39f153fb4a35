//! Judges: pure functions from a history to what is wrong in it.
//!
//! Invariants:
//! 1. A judge sees a history and nothing else; the same history has the same verdict.
//! 2. Unknown is not failed: what ended with `:info` may have happened, then or later.
//! 3. A stale read is legal before the final reads; those come after healing, once all is quiet.
//!
//! Reads that are final have the function [`FINAL_READ`]; the others are `read`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::{History, Pair, Type};

pub mod availability;
pub mod bank;
pub mod convergence;
mod entity;
pub mod exactly_once;
mod faults;
pub mod growth;
pub mod keyed;
mod keyed_set;
pub mod levels;
pub mod linearizable;
pub mod list_append;
pub mod map;
mod memory;
pub mod multi_entity;
pub mod mv_register;
mod observed;
pub mod or_set;
pub mod ownership;
pub mod pn_counter;
pub mod register;
pub mod session;
pub mod set;
pub mod stable_latency;
pub mod subscription;

/// The function of reads that must show everything.
pub const FINAL_READ: &str = "final-read";

/// What a judge found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// What must not be; empty if the history is good.
    pub violations: Vec<String>,
    /// What could not be decided within the bound of work: neither good nor bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// How many operations were judged: none is no proof.
    pub judged: usize,
    /// What is no violation and worth a number: anomalies that are allowed, latencies, rates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<String, f64>,
}

impl Verdict {
    /// Whether nothing is wrong, nothing undecided, and something was looked at.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.unknown.is_empty() && self.judged > 0
    }

    /// The verdict in one word.
    pub fn word(&self) -> &'static str {
        match self.is_good() {
            true => "good",
            false if self.violations.is_empty() && !self.unknown.is_empty() => "UNKNOWN",
            false => "BAD",
        }
    }

    fn blame(&mut self, pair: &Pair<'_>, what: String) {
        let index = pair.end.unwrap_or(pair.invoke).index;
        self.violations.push(format!("operation {index}: {what}"));
    }
}

/// Operations of one function, in order of their invocations.
fn of<'a>(history: &'a History, f: &'a str) -> impl Iterator<Item = Pair<'a>> {
    history.pairs().into_iter().filter(move |pair| pair.invoke.f == f)
}

/// Reads that were answered: whether it is a final one, with the operation.
fn answered_reads(history: &History) -> Vec<(bool, Pair<'_>)> {
    let is_read = |f: &str| f == "read" || f == FINAL_READ;
    let reads = history.pairs().into_iter().filter(|pair| is_read(&pair.invoke.f));
    let answered = reads.filter(|pair| pair.outcome() == Type::Ok);
    answered.map(|pair| (pair.invoke.f == FINAL_READ, pair)).collect()
}

/// The least of sorted numbers that `share` of them do not exceed; 0 if there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Short histories by hand, and others with one line changed.

    use serde_json::Value;

    use crate::history::{History, Op, Process, Type};

    /// A history of clients' operations: process, type, function, value.
    pub(crate) fn history(lines: &[(u64, Type, &str, Value)]) -> History {
        let op = |(index, (process, kind, f, value)): (usize, &(u64, Type, &str, Value))| Op {
            index: index as u64,
            time: index as u64 * 1_000_000,
            process: Process::Client(*process),
            kind: *kind,
            f: (*f).into(),
            value: value.clone(),
            error: None,
            node: None,
        };
        History::new(lines.iter().enumerate().map(op).collect()).unwrap()
    }

    /// A line of the nemesis at a time in milliseconds, or of a client with its node.
    #[derive(Clone)]
    pub(crate) enum Line<'a> {
        Nemesis(u64, &'a str, Value),
        Client(u64, u64, Type, &'a str, Value, &'a str),
    }

    /// A history with acts of the nemesis: times, processes, types, functions, values, nodes.
    pub(crate) fn timed(lines: &[Line<'_>]) -> History {
        let op = |(index, line): (usize, &Line<'_>)| {
            let (at, process, kind, f, value, node) = match line {
                Line::Nemesis(at, f, value) => {
                    (at, Process::Nemesis, Type::Info, f, value.clone(), None)
                }
                Line::Client(at, process, kind, f, value, node) => {
                    let node = Some((*node).to_owned());
                    (at, Process::Client(*process), *kind, f, value.clone(), node)
                }
            };
            let (index, time, f) = (index as u64, at * 1_000_000, (*f).to_owned());
            Op { index, time, process, kind, f, value, error: None, node }
        };
        History::new(lines.iter().enumerate().map(op).collect()).unwrap()
    }

    /// The same history, with another value in one line.
    pub(crate) fn with_value(history: &History, index: u64, value: Value) -> History {
        let mut ops = history.ops().to_vec();
        ops[index as usize].value = value;
        History::new(ops).unwrap()
    }

    /// Judges lines, and expects exactly these violations.
    pub(crate) fn expect(
        judge: fn(&History) -> super::Verdict,
        lines: &[(u64, Type, &str, Value)],
        violations: &[&str],
    ) {
        assert_eq!(judge(&history(lines)).violations, violations);
    }
}
