//! A few deliberate bugs, each caught within a few seeds that pass without it.
//!
//! Only in a build with the feature `mutants`: `cargo test -p jepsen --features mutants --test
//! mutants`. Left out: the others, which `jepsen mutants` looks for.
#![cfg(feature = "mutants")]

use atoll_store::mutant::Mutant;
use jepsen::mutants::{Effort, hunt, workload};
use jepsen::simulator::run;

/// Seeds in which each is caught; measured medians are 1.
const SEEDS: u64 = 5;

/// One test, as the switch is the process's.
#[test]
fn quick_bugs_are_caught_and_seeds_pass_without() {
    for mutant in [Mutant::DropOperation, Mutant::MergeTwice, Mutant::SplitUpdate] {
        let effort = Effort { tries: 1, most_seeds: SEEDS, threads: 1 };
        let found = hunt(mutant, workload(mutant), effort);
        let seeds = found.tries[0].judged;
        let seeds = seeds.unwrap_or_else(|| panic!("no judge saw {}: {found:?}", mutant.name()));
        for seed in 1..=seeds {
            let outcome = run(seed, Some(workload(mutant)));
            assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        }
    }
}
