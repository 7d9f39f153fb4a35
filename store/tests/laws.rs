//! The laws of convergence: whatever the order, the duplicates, the transfers and the restarts,
//! copies that have seen the same are the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::cluster::{Chaos, Cluster};
use common::random::{EVERYTHING, LASTING, PLAIN};
use common::{SHARD, Seed, assert_equal};

fn check_convergence(seeds: std::ops::Range<u64>, steps: usize, chaos: Chaos) {
    for seed in seeds {
        let _seed = Seed(seed);
        let mut cluster = Cluster::new(seed, 3, chaos);
        for step in 0..steps {
            cluster.step();
            if step % 50 == 49 {
                check_digests(&mut cluster);
            }
        }
        cluster.heal();
        check_digests(&mut cluster);
        let keys = cluster.keys.clone();
        cluster.nodes.push(cluster.reference());
        assert_equal(&mut cluster.nodes, &keys, "after healing");
    }
}

/// The digest that is kept up is the one that the states have.
fn check_digests(cluster: &mut Cluster) {
    let keys = cluster.keys.clone();
    for node in &mut cluster.nodes {
        let (digest, present) = node.engine.digest(SHARD);
        let (anew, counted) = node.digest_anew(SHARD, &keys);
        assert!(digest.is_none_or(|digest| digest == anew), "the digest drifted");
        assert_eq!(present, counted);
    }
}

#[test]
fn operations_in_any_order_across_origins_converge() {
    let chaos = Chaos { transfers: false, restarts: false, retires: false, mix: EVERYTHING };
    check_convergence(0..60, 250, chaos);
}

#[test]
fn operations_and_restarts_converge() {
    let chaos = Chaos { transfers: false, restarts: true, retires: false, mix: EVERYTHING };
    check_convergence(1000..1060, 250, chaos);
}

#[test]
fn plain_operations_and_transfers_converge() {
    let chaos = Chaos { transfers: true, restarts: false, retires: false, mix: PLAIN };
    check_convergence(2000..2060, 250, chaos);
}

#[test]
fn operations_transfers_and_restarts_converge() {
    let chaos = Chaos { transfers: true, restarts: true, retires: false, mix: EVERYTHING };
    check_convergence(3000..3100, 300, chaos);
}

/// How a run with origins that are retired ends.
fn check_folding(seeds: std::ops::Range<u64>, steps: usize, transfers: bool) {
    let (mut folded, mut open, mut closes) = (0, 0, 0);
    for seed in seeds {
        let _seed = Seed(seed);
        let chaos = Chaos { transfers, restarts: true, retires: true, mix: LASTING };
        let mut cluster = Cluster::new(seed, 3, chaos);
        for step in 0..steps {
            cluster.step();
            if step % 80 == 79 {
                check_digests(&mut cluster);
                (0..3).for_each(|at| cluster.check_values(at, "on the way"));
            }
        }
        let count = cluster.count_folded();
        (folded, open) = (folded + count.0, open + count.1);
        cluster.heal();
        check_digests(&mut cluster);
        (0..3).for_each(|at| cluster.check_values(at, "after healing"));
        let keys = cluster.keys.clone();
        assert_equal(&mut cluster.nodes, &keys, "after healing");
        closes += cluster.ends.folded_closes;
    }
    eprintln!("{folded} folded, {open} open, {closes} deletes named them");
    assert!(open > 20 && folded > open && closes > 10, "histories that say nothing");
}

#[test]
fn r9_folding_shows_nothing_whatever_the_order() {
    check_folding(4000..4050, 500, false);
}

#[test]
fn r9_folding_shows_nothing_through_transfers() {
    check_folding(5000..5050, 500, true);
}
