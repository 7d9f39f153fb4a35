//! Whole clusters in one thread, each a function of its seed: chaos, then healing, then checks.
//!
//! `ATOLL_SEEDS=17` or `ATOLL_SEEDS=1..5000` runs these seeds instead of the usual ones.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod coverage;
mod faults;
mod ledger;
mod machine;
mod world;

use std::ops::Range;

use coverage::Coverage;
use world::World;

/// Seeds that failed once: they always run.
const REGRESSIONS: &[u64] = &[20, 202, 238, 252, 286, 342, 674, 1431, 2127];

/// Names the seed of a run that panics, and how to see it again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let command = "cargo test -p atoll-replication --test cluster chaos";
            eprintln!("failing seed: ATOLL_SEEDS={} {command}", self.0);
        }
    }
}

fn run(seed: u64) -> (blake3::Hash, Coverage) {
    let _seed = Seed(seed);
    let mut world = World::new(seed);
    let chaos = 4_000 + world.random.between(0, 9_000);
    world.run_until(chaos, true);
    world.heal();
    world.settle();
    world.check_end();
    (world.trace.finalize(), world.coverage)
}

/// Runs seeds on two threads; answers what happened in them.
fn run_all(seeds: &[u64]) -> Coverage {
    let half = |odd: usize| {
        let mut coverage = Coverage::default();
        let mine = seeds.iter().skip(odd).step_by(2);
        mine.for_each(|seed| coverage.add(&run(*seed).1));
        coverage
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let mut coverage = half(0);
        coverage.add(&other.join().expect("the other half failed, see above"));
        coverage
    })
}

fn asked() -> Option<Range<u64>> {
    let text = std::env::var("ATOLL_SEEDS").ok()?;
    let number = |text: &str| text.parse::<u64>().expect("ATOLL_SEEDS is 17 or 1..5000");
    match text.split_once("..") {
        Some((first, end)) => Some(number(first)..number(end)),
        None => Some(number(&text)..number(&text) + 1),
    }
}

#[test]
fn chaos_ends_in_equal_copies_that_lost_nothing() {
    if let Some(seeds) = asked() {
        let coverage = run_all(&seeds.collect::<Vec<_>>());
        return eprintln!("{coverage:#?}, never: {:?}", coverage.missing());
    }
    let coverage = run_all(&(0..200).collect::<Vec<_>>());
    assert!(coverage.missing().is_empty(), "never happened: {:?}", coverage.missing());
}

#[test]
fn seeds_that_failed_once_pass() {
    run_all(REGRESSIONS);
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 4] {
        assert_eq!(run(seed), run(seed));
    }
}
