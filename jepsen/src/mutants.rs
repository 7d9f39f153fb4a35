//! How many seeds of the simulator it takes to catch each deliberate bug.
//!
//! A try is a range of seeds of its own, run until one finds a violation. The number of seeds that
//! it took depends on nothing but the range.
//!
//! Invariant: one bug at a time, as the switch is the process's; tries of one run side by side.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_store::mutant::Mutant;

use crate::matrix::MutantRow;
use crate::simulator;
use crate::workloads;

/// How long bugs are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Tries of each.
    pub tries: u64,
    /// Seeds of a try after which the bug has got away.
    pub most_seeds: u64,
    /// Tries side by side.
    pub threads: usize,
}

/// What became of the tries to catch one bug.
#[derive(Debug)]
pub struct Hunt {
    /// The bug.
    pub mutant: Mutant,
    /// The workload of all tries.
    pub workload: &'static str,
    /// Seeds of each try until it was caught; none if it got away.
    pub seeds: Vec<Option<u64>>,
    /// Who caught it, and how often.
    pub by: BTreeMap<String, u64>,
}

impl Hunt {
    /// Whether every try has caught it.
    pub fn is_caught(&self) -> bool {
        !self.seeds.is_empty() && self.seeds.iter().all(Option::is_some)
    }

    /// The row of a table.
    pub fn row(&self) -> MutantRow {
        let mut caught: Vec<u64> = self.seeds.iter().flatten().copied().collect();
        caught.sort_unstable();
        MutantRow {
            mutant: self.mutant.name().into(),
            rule: self.mutant.rule().unwrap_or("-").into(),
            workload: self.workload.into(),
            median_seeds: caught.get(caught.len() / 2).copied(),
            caught: caught.len() as u64,
            trials: self.seeds.len() as u64,
        }
    }
}

/// The workload that is best at catching a bug.
pub fn workload(mutant: Mutant) -> &'static str {
    let best = match mutant {
        Mutant::CollectEarly | Mutant::MergeTwice | Mutant::CountRetries => "pn-counter",
        Mutant::TrustWallClock => "register",
        Mutant::ResumeOffByOne => "pubsub",
        Mutant::SplitUpdate => "map",
        _ => "g-set",
    };
    let found = workloads::ALL.iter().find(|(name, _)| *name == best);
    found.or(workloads::ALL.first()).map_or(best, |(name, _)| *name)
}

/// Tries to catch a bug. Leaves all bugs switched off.
pub fn hunt(mutant: Mutant, workload: &'static str, effort: Effort) -> Hunt {
    let next = AtomicU64::new(0);
    let caught = Mutex::new(BTreeMap::new());
    Mutant::switch(Some(mutant));
    std::thread::scope(|scope| {
        for _ in 0..effort.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= effort.tries {
                        return;
                    }
                    let first = number * effort.most_seeds + 1;
                    let found = attempt(workload, first, effort.most_seeds);
                    caught.lock().expect("nothing panics under it").insert(number, found);
                }
            });
        }
    });
    Mutant::switch(None);
    let mut hunt = Hunt { mutant, workload, seeds: Vec::new(), by: BTreeMap::new() };
    for found in caught.into_inner().expect("nothing panics under it").into_values() {
        hunt.seeds.push(found.as_ref().map(|(seeds, _)| *seeds));
        for by in found.into_iter().flat_map(|(_, by)| by) {
            *hunt.by.entry(by).or_default() += 1;
        }
    }
    hunt
}

/// Runs seeds from `first` on until one finds something: how many it took, and who found it.
fn attempt(workload: &'static str, first: u64, most: u64) -> Option<(u64, Vec<String>)> {
    (0..most).find_map(|offset| {
        let outcome = simulator::run(first + offset, Some(workload));
        if outcome.violations.is_empty() {
            return None;
        }
        let judges = outcome.verdicts.iter().filter(|(_, verdict)| !verdict.violations.is_empty());
        let mut by: Vec<String> = judges.map(|(name, _)| (*name).to_owned()).collect();
        if by.is_empty() {
            by.push(format!("inside: {}", gist(&outcome.violations[0])));
        }
        Some((offset + 1, by))
    })
}

/// A message without what differs between runs: its first words, without numbers.
fn gist(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let words = line.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(8).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_median_of_those_caught() {
        let mut hunt = Hunt {
            mutant: Mutant::SkipFlush,
            workload: "g-set",
            seeds: vec![Some(9), None, Some(1), Some(4)],
            by: BTreeMap::new(),
        };
        let row = hunt.row();
        assert_eq!((row.median_seeds, row.caught, row.trials), (Some(4), 3, 4));
        assert!(!hunt.is_caught());
        hunt.seeds.retain(Option::is_some);
        assert!(hunt.is_caught());
        hunt.seeds.clear();
        assert_eq!(hunt.row().median_seeds, None);
        assert!(!hunt.is_caught());
    }

    #[test]
    fn a_gist_is_the_same_for_every_run() {
        assert_eq!(
            gist("at 512: 2 and 3 are equal in 0/1 and differ\nmore"),
            "and are equal in and differ"
        );
    }
}
