//! What a run came to: the history that is judged, the verdicts, and what it leaves behind.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::Plan;
use super::excuse::excuse;
use super::world::{World, lock};
use crate::checkers::{Verdict, availability, convergence, growth, stable_latency};
use crate::history::{History, Process, Type};
use crate::report::{Operations, Run};
use crate::workloads::Workload;

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened, without what was not promised.
    pub history: History,
    /// What clients were told: what was not promised was served none the less.
    pub told: History,
    /// What each judge found.
    pub verdicts: Vec<(String, Verdict)>,
    /// How often each fault was made, by the function of its lines.
    pub faults: BTreeMap<String, usize>,
    /// Acknowledged operations that were not promised.
    pub excused: usize,
    /// Clients' operations, by how they ended; probes left out.
    pub operations: Operations,
}

/// Judges what happened.
pub(super) fn judge(plan: &Plan, world: &World, workload: &dyn Workload) -> Outcome {
    let names = plan.places();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (samples, losses) = (lock(&world.samples), lock(&world.losses));
    let told = if world.roams { at_servers(&world.history()) } else { world.history() };
    let (history, excused) = excuse(&told, &samples, &losses, &names);
    let faults = faults(&history);
    let (verdicts, operations) = (Vec::new(), Operations::default());
    let mut outcome = Outcome { history, told, verdicts, faults, excused, operations };
    outcome.judge(workload);
    let mut nodes = Verdict { judged: plan.nodes, ..Verdict::default() };
    nodes.violations = lock(&world.complaints).clone();
    let missing = plan.faults.iter().filter(|fault| !outcome.faults.contains_key(fault.name()));
    // Asked for, and not seen: no proof of anything.
    nodes.violations.extend(missing.map(|f| format!("{} was not made once", f.name())));
    nodes.counted.insert("excused".into(), excused as f64);
    if world.roams {
        for (what, counts) in [("cured elsewhere", &world.cured), ("streams ended", &world.ends)] {
            let counts = lock(counts);
            let counts = counts.iter().map(|(why, n)| (format!("{what}: {why}"), *n as f64));
            nodes.counted.extend(counts);
        }
    }
    outcome.verdicts.push(("nodes".into(), nodes));
    outcome
}

/// Names the node that served an operation where it begins, too: judges know a node as a copy.
fn at_servers(history: &History) -> History {
    let mut ops = history.ops().to_vec();
    for pair in history.pairs() {
        let Some(end) = pair.end.filter(|end| end.kind == Type::Ok) else { continue };
        let invoke = pair.invoke.index as usize;
        ops[invoke].node.clone_from(&end.node);
    }
    History::new(ops).expect("only names of nodes have changed")
}

impl Outcome {
    /// Asks the judges about the history as it is now.
    pub fn judge(&mut self, workload: &dyn Workload) {
        let own = workload.judge(&self.history).into_iter();
        self.verdicts = own.map(|(name, verdict)| (name.to_owned(), verdict)).collect();
        let convergence = convergence::check(&self.history);
        self.verdicts.push(("convergence".into(), convergence));
        let latency = stable_latency::check(&self.history);
        self.verdicts.push(("stable-latency".into(), latency));
        self.verdicts.push(("availability".into(), availability::check(&self.told)));
        let growth = growth::check(&self.history);
        // It needs two samples while all is quiet; a short run has none.
        self.verdicts.extend((growth.judged > 0).then(|| ("growth".into(), growth)));
    }

    /// Whether every judge found it good.
    pub fn is_good(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| verdict.is_good())
    }

    /// Writes the folder of the run.
    pub(super) fn write(self, plan: &Plan, directory: &Path) -> Result<Outcome> {
        let options = [
            ("regions", plan.regions.to_string()),
            ("nodes", plan.nodes.to_string()),
            ("time-limit", format!("{} s", plan.time_limit.as_secs())),
            ("rate", format!("{}/s", plan.rate)),
            ("concurrency", plan.concurrency.to_string()),
            ("quiet", format!("{} s", plan.quiet.as_secs())),
        ];
        let run = Run {
            workload: plan.workload.clone(),
            nemesis: plan.faults.iter().map(|fault| fault.name().to_owned()).collect(),
            seed: plan.seed,
            nodes: plan.places(),
            options: options.map(|(name, value)| (name.to_owned(), value)).into(),
            started: None,
            history: self.history,
            verdicts: self.verdicts,
        };
        run.write(directory)?;
        let operations = run.results().operations;
        Ok(Outcome { history: run.history, verdicts: run.verdicts, operations, ..self })
    }
}

/// How often each fault began.
fn faults(history: &History) -> BTreeMap<String, usize> {
    let mut faults = BTreeMap::new();
    let lines = history.ops().iter().filter(|op| op.process == Process::Nemesis);
    for line in lines.filter(|op| op.value["phase"] == "begin") {
        let name = line.value["kind"].as_str().unwrap_or(&line.f);
        *faults.entry(name.to_owned()).or_insert(0) += 1;
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{Line, timed};
    use crate::workloads::find;
    use serde_json::json;

    /// A region serves two hundred while another is cut off; this many of the last as `end`.
    fn history(last: u64, end: Type) -> History {
        let cut = json!({"phase": "begin", "sides": [["eu-1"], ["us-1"]]});
        let mut lines = vec![Line::Nemesis(0, "partition", cut)];
        for n in 0..200 {
            let kind = if n < 200 - last { Type::Ok } else { end };
            // Each by a process of its own: one that ends as unknown is never used again.
            lines.push(Line::Client(n + 1, n, Type::Invoke, "add", n.into(), "eu-1"));
            lines.push(Line::Client(n + 1, n, kind, "add", n.into(), "eu-1"));
        }
        timed(&lines)
    }

    fn violations(history: History, told: History) -> Vec<String> {
        let (verdicts, faults) = (Vec::new(), BTreeMap::new());
        let operations = Operations::default();
        let mut outcome = Outcome { history, told, verdicts, faults, excused: 0, operations };
        outcome.judge(&*find("g-set").unwrap()(2));
        let of = outcome.verdicts.into_iter().find(|(name, _)| name == "availability");
        of.unwrap().1.violations
    }

    #[test]
    fn what_is_excused_was_served_all_the_same() {
        let excused = history(50, Type::Info);
        assert_eq!(violations(excused.clone(), history(0, Type::Ok)), [""; 0]);
        let what = "region eu served 150 of 200 with only its links cut";
        assert_eq!(violations(excused.clone(), excused), [what]);
    }
}
