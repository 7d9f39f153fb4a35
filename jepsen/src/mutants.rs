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

use crate::checkers::Verdict;
use crate::matrix::MutantRow;
use crate::simulator;
use crate::workloads;

/// Once a check inside has caught a bug, this many seeds of a try are enough for the judges: some
/// bugs no client can see.
const JUDGED_WITHIN: u64 = 50;

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

/// What became of one try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Try {
    /// Seeds until anything caught the bug; none if it got away.
    pub seeds: Option<u64>,
    /// Seeds until a judge of histories did.
    pub judged: Option<u64>,
    /// The judges that did.
    pub judges: Vec<&'static str>,
    /// The first check inside of the simulator that did, in the words of its complaint.
    pub inside: Option<String>,
}

/// What became of the tries to catch one bug.
#[derive(Debug)]
pub struct Hunt {
    /// The bug.
    pub mutant: Mutant,
    /// The workload of all tries.
    pub workload: &'static str,
    /// Each try.
    pub tries: Vec<Try>,
}

impl Hunt {
    /// Whether every try has caught it.
    pub fn is_caught(&self) -> bool {
        !self.tries.is_empty() && self.tries.iter().all(|one| one.seeds.is_some())
    }

    /// The row of a table.
    pub fn row(&self) -> MutantRow {
        let caught: Vec<u64> = self.tries.iter().filter_map(|one| one.seeds).collect();
        let judged: Vec<u64> = self.tries.iter().filter_map(|one| one.judged).collect();
        let judges = by_frequency(self.tries.iter().flat_map(|one| one.judges.iter().copied()));
        let inside = by_frequency(self.tries.iter().filter_map(|one| one.inside.as_deref()));
        MutantRow {
            mutant: self.mutant.name().into(),
            rule: self.mutant.rule().unwrap_or("-").into(),
            workload: self.workload.into(),
            median_seeds: median(&caught),
            caught: caught.len() as u64,
            trials: self.tries.len() as u64,
            judges: judges.join(", "),
            median_judged: median(&judged),
            judged: judged.len() as u64,
            inside: inside.first().map_or_else(String::new, |first| (*first).to_owned()),
        }
    }
}

fn median(numbers: &[u64]) -> Option<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Each once, the most frequent first.
fn by_frequency<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    all.for_each(|one| *counts.entry(one).or_default() += 1);
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted.into_iter().map(|(one, _)| one).collect()
}

/// The workload that is best at catching a bug.
pub fn workload(mutant: Mutant) -> &'static str {
    let best = match mutant {
        Mutant::CollectEarly | Mutant::MergeTwice | Mutant::CountRetries => "pn-counter",
        Mutant::TrustWallClock => "register",
        Mutant::ResumeOffByOne => "pubsub",
        Mutant::SplitUpdate => "map",
        Mutant::TrimEarly | Mutant::ServeDamaged => "session",
        Mutant::RepairLost | Mutant::CountLive => "levels",
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
    // What concerns placement, what is retired and levels shows only where nodes come and go.
    let placed = matches!(mutant.rule(), Some("R9" | "R12")) || workload == "levels";
    let run: Run = if placed { simulator::run_councils } else { simulator::run };
    std::thread::scope(|scope| {
        for _ in 0..effort.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= effort.tries {
                        return;
                    }
                    let first = number * effort.most_seeds + 1;
                    let found = attempt(run, workload, first, effort.most_seeds);
                    caught.lock().expect("nothing panics under it").insert(number, found);
                }
            });
        }
    });
    Mutant::switch(None);
    let tries = caught.into_inner().expect("nothing panics under it").into_values().collect();
    Hunt { mutant, workload, tries }
}

type Run = fn(u64, Option<&'static str>) -> simulator::Outcome;

/// Runs seeds from `first` on until a judge finds something, or until there are enough.
fn attempt(run: Run, workload: &'static str, first: u64, most: u64) -> Try {
    let mut found = Try::default();
    for number in 1..=most {
        if found.seeds.is_some() && number > JUDGED_WITHIN {
            break;
        }
        let outcome = run(first + number - 1, Some(workload));
        if outcome.violations.is_empty() {
            continue;
        }
        found.seeds.get_or_insert(number);
        let guilty = |(name, verdict): &(&'static str, Verdict)| {
            (!verdict.violations.is_empty()).then_some(*name)
        };
        found.judges = outcome.verdicts.iter().filter_map(guilty).collect();
        // What judges found comes after what was found inside.
        let inside = outcome.violations.first().filter(|_| outcome.complaints > 0);
        if let Some(what) = inside {
            found.inside.get_or_insert_with(|| gist(what));
        }
        if !found.judges.is_empty() {
            found.judged = Some(number);
            break;
        }
    }
    found
}

/// What a complaint says before it goes into details: without what differs between runs.
fn gist(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let start = line.split(':').next().unwrap_or_default();
    let words = start.split_whitespace();
    let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(12).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_medians_of_those_caught() {
        let of = |seeds, judged, judge: Option<&'static str>| Try {
            seeds,
            judged,
            judges: judge.into_iter().collect(),
            inside: seeds.map(|_| "not quiet".to_owned()),
        };
        let tries = vec![
            of(Some(9), None, None),
            of(None, None, None),
            of(Some(1), Some(7), Some("set")),
            of(Some(4), Some(8), Some("convergence")),
            of(Some(5), Some(6), Some("set")),
        ];
        let mut hunt = Hunt { mutant: Mutant::SkipFlush, workload: "g-set", tries };
        let row = hunt.row();
        assert_eq!((row.median_seeds, row.caught, row.trials), (Some(5), 4, 5));
        assert_eq!((row.median_judged, row.judged), (Some(7), 3));
        assert_eq!((row.judges.as_str(), row.inside.as_str()), ("set, convergence", "not quiet"));
        assert!(!hunt.is_caught());
        hunt.tries.retain(|one| one.seeds.is_some());
        assert!(hunt.is_caught());
        hunt.tries.clear();
        assert_eq!(hunt.row().median_seeds, None);
        assert!(!hunt.is_caught());
    }

    #[test]
    fn a_gist_is_the_same_for_every_run() {
        assert_eq!(
            gist("equal vectors, unequal digests: 0/1 of 2 and 3 at 512\nmore"),
            "equal vectors, unequal digests"
        );
        assert_eq!(gist("store 7 is damaged"), "store is damaged");
    }
}
