//! `results.json`: what came out of a run, in numbers and verdicts.
//!
//! Invariant: a run is valid only if some judge judged something and none found anything wrong.
//!
//! Left out: violations beyond the first hundred of a judge; their number stays.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::stable::Quantiles;
use crate::checkers::Verdict;
use crate::history::{History, Type};

/// Most violations of a judge that are kept.
const VIOLATIONS_MAX: usize = 100;

/// What is known of a run besides its history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Whether something was judged and nothing is wrong.
    pub valid: bool,
    /// The workload's name.
    pub workload: String,
    /// Names of the faults that were asked for.
    pub nemesis: Vec<String>,
    /// What the run was drawn from.
    pub seed: u64,
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// When it began, as whoever ran it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// With what it was run.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Clients' operations, without probes and samples.
    pub operations: Operations,
    /// How often each fault began.
    pub faults: BTreeMap<String, u64>,
    /// From an acknowledgement until all nodes showed it; absent without probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_latency_ms: Option<Quantiles>,
    /// What the judges found, in their order.
    pub verdicts: Vec<Judged>,
}

/// Operations by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// Took effect.
    pub ok: u64,
    /// Certainly took none.
    pub fail: u64,
    /// Nobody knows.
    pub info: u64,
}

impl Operations {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.ok + self.fail + self.info
    }
}

/// A verdict as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The judge's name.
    pub name: String,
    /// Whether something was judged and nothing is wrong.
    pub good: bool,
    /// The verdict in one word: `good`, `BAD`, or `UNKNOWN` if it could not be decided.
    pub word: String,
    /// How many operations were judged.
    pub judged: u64,
    /// How many violations there are.
    pub violations_total: u64,
    /// The first of them.
    pub violations: Vec<String>,
    /// What could not be decided, the first of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// What is worth a number and no violation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<String, f64>,
}

impl Judged {
    /// What is kept of a verdict.
    fn new((name, verdict): &(String, Verdict)) -> Judged {
        // JSON has no infinities; one would make the file unreadable.
        let finite = |(name, number): (&String, &f64)| (name.clone(), *number);
        let counted = verdict.counted.iter().filter(|(_, n)| n.is_finite()).map(finite).collect();
        Judged {
            name: name.clone(),
            good: verdict.is_good(),
            word: verdict.word().into(),
            judged: verdict.judged as u64,
            violations_total: verdict.violations.len() as u64,
            violations: verdict.violations.iter().take(VIOLATIONS_MAX).cloned().collect(),
            unknown: verdict.unknown.iter().take(VIOLATIONS_MAX).cloned().collect(),
            counted,
        }
    }
}

impl Results {
    /// What came out of a run.
    pub(super) fn new(run: &super::Run) -> Results {
        let verdicts: Vec<Judged> = run.verdicts.iter().map(Judged::new).collect();
        let mut results = Results {
            valid: !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.good),
            workload: run.workload.clone(),
            nemesis: run.nemesis.clone(),
            seed: run.seed,
            nodes: run.nodes.clone(),
            started: run.started.clone(),
            options: run.options.clone(),
            verdicts,
            ..Results::default()
        };
        results.count(&run.history);
        results
    }

    fn count(&mut self, history: &History) {
        let facts = Facts::new(history);
        for call in &facts.calls {
            match call.outcome {
                Type::Ok => self.operations.ok += 1,
                Type::Fail => self.operations.fail += 1,
                Type::Invoke | Type::Info => self.operations.info += 1,
            }
        }
        for fault in facts.faults.iter().filter(|fault| fault.counts) {
            *self.faults.entry(fault.name.to_owned()).or_default() += 1;
        }
        self.stable_latency_ms = facts.stable.as_ref().map(|stable| stable.quantiles());
    }

    /// The run in one word. What could not be decided counts only if nothing is wrong.
    pub fn word(&self) -> &'static str {
        let undecided = |verdict: &Judged| verdict.good || verdict.word == "UNKNOWN";
        match self.valid {
            true => "good",
            false if !self.verdicts.is_empty() && self.verdicts.iter().all(undecided) => "UNKNOWN",
            false => "BAD",
        }
    }

    /// Violations of all judges.
    pub fn violations(&self) -> u64 {
        self.verdicts.iter().map(|verdict| verdict.violations_total).sum()
    }
}
