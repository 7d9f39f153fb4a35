//! Simulated clusters, a bounded set of seeds: `cargo sim` runs more.

use jepsen::simulator::{COUNCIL_REGRESSIONS, Coverage, Outcome, REGRESSIONS};
use jepsen::simulator::{replacements, run, run_councils};

/// Seeds of an ordinary run.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=60;

fn expect_good(outcome: &Outcome) {
    let Outcome { seed, workload, violations, .. } = outcome;
    assert!(
        violations.is_empty(),
        "{violations:#?}\nto see it again: cargo sim --seed {seed} --workload {workload}"
    );
}

type Run = fn(u64, Option<&'static str>) -> Outcome;

/// Runs on two threads; answers what happened.
fn run_all(run: Run, seeds: &[(u64, Option<&'static str>)]) -> Coverage {
    let half = |odd: usize| {
        let mut coverage = Coverage::default();
        for (seed, workload) in seeds.iter().skip(odd).step_by(2) {
            let outcome = run(*seed, *workload);
            expect_good(&outcome);
            coverage.add(&outcome.coverage);
        }
        coverage
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let mut coverage = half(0);
        coverage.add(&other.join().expect("the other half failed, see above"));
        coverage
    })
}

#[test]
fn chaos_ends_in_equal_copies_that_lost_nothing() {
    let seeds: Vec<_> = SEEDS.map(|seed| (seed, None)).collect();
    let coverage = run_all(run, &seeds);
    // Rare states need more seeds than fit here; faults do not.
    for what in ["crash", "partition", "disk rolled back", "pause", "state transferred"] {
        assert!(coverage.0.contains_key(what), "never happened: {what}");
    }
}

#[test]
fn nodes_come_and_go_and_nothing_is_lost() {
    let seeds: Vec<_> = (4..=9).map(|seed| (seed, None)).collect();
    let coverage = run_all(run_councils, &seeds);
    for what in ["node joined", "replica caught up", "copy given up", "origin retired"] {
        assert!(coverage.0.contains_key(what), "never happened: {what}");
    }
}

#[test]
fn levels_hold_while_replicas_move_and_regions_are_cut_off() {
    let seeds: Vec<_> = (1..=4).map(|seed| (seed, Some("levels"))).collect();
    let coverage = run_all(run_councils, &seeds);
    for what in ["too few replicas could be reached", "replica caught up", "partition"] {
        assert!(coverage.0.contains_key(what), "never happened: {what}");
    }
}

#[test]
fn r9_replaced_pods_leave_nothing_that_grows() {
    let looks = replacements(40);
    let (early, last) = (looks[10], looks[looks.len() - 1]);
    assert_eq!(last.retired, 40, "{looks:#?}");
    assert!(last.vectors <= early.vectors.max(8), "{looks:#?}");
    assert!(last.items <= early.items.max(8), "{looks:#?}");
    assert!(last.origins <= 8, "{looks:#?}");
}

#[test]
fn seeds_that_failed_once_pass() {
    let named = |(seed, name): &(u64, &'static str)| (*seed, Some(*name));
    run_all(run, &REGRESSIONS.iter().map(named).collect::<Vec<_>>());
    run_all(run_councils, &COUNCIL_REGRESSIONS.iter().map(named).collect::<Vec<_>>());
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 4] {
        let (one, other) = (run(seed, None), run(seed, None));
        assert_eq!((one.trace, one.history), (other.trace, other.history));
    }
}
