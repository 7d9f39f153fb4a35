//! Merging is commutative, associative and idempotent; what is written and sent round-trips, and
//! garbage never panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use atoll_store::backend::memory::Memory;
use atoll_store::backend::{Backend, Write};
use atoll_store::dot::{Origin, VersionVector};
use atoll_store::engine::Engine;
use atoll_store::entity::{Entity, Item};
use atoll_store::log::Entry;
use atoll_store::operation::Operation;
use atoll_store::retire::Retired;
use atoll_store::transfer::{Chunk, State};
use common::cluster::{Chaos, Cluster};
use common::random::{EVERYTHING, LASTING};
use common::{SHARD, chunks, decode, encode, options};
use proptest::prelude::*;

const CHAOS: Chaos = Chaos { transfers: true, restarts: false, retires: false, mix: EVERYTHING };
const RETIRING: Chaos = Chaos { restarts: true, retires: true, mix: LASTING, ..CHAOS };

fn cluster(seed: u64, steps: usize) -> Cluster {
    run(seed, steps, CHAOS)
}

fn run(seed: u64, steps: usize, chaos: Chaos) -> Cluster {
    let mut cluster = Cluster::new(seed, 3, chaos);
    (0..steps).for_each(|_| cluster.step());
    cluster
}

type Copy = (Entity, VersionVector);

fn merged((entity, ours): &Copy, (other, theirs): &Copy, retired: &Retired) -> Copy {
    let mut entity = entity.clone();
    let theirs_whole = other.context(theirs).into_owned();
    entity.merge(ours, other, theirs, retired);
    let mut context = entity.context(ours).into_owned();
    context.join(&theirs_whole);
    entity.set_ahead(None);
    (entity, context)
}

/// What two copies may not differ in. Closed epochs are hidden: collected here, kept there.
fn shown(copy: &Copy, kind: atoll_store::name::Kind) -> impl PartialEq + std::fmt::Debug + use<> {
    let (entity, context) = copy;
    (entity.view(kind), entity.sum(), entity.expires_at(), entity.keys_len(), context.clone())
}

fn check_merges(seed: u64, steps: usize, chaos: Chaos) {
    let mut cluster = run(seed, steps, chaos);
    // Contexts compare where the rolls are the same, and only whole copies are merged.
    (0..3).for_each(|at| cluster.tell_all_retired(at));
    if (0..3).any(|at| cluster.fresh[at] || !cluster.nodes[at].engine.is_whole(SHARD)) {
        return;
    }
    let retired = cluster.nodes[0].engine.retirements();
    for key in &cluster.keys {
        let copies = [0, 1, 2].map(|at| {
            let node = &mut cluster.nodes[at];
            let (mut entity, mut vector) =
                (node.engine.entity(key).unwrap().clone(), node.vector());
            let mut ahead = entity.ahead().map(|ahead| (**ahead).clone());
            let engine = &cluster.nodes[0].engine;
            engine.adopt(&mut vector);
            ahead.iter_mut().for_each(|ahead| engine.adopt(ahead));
            entity.set_ahead(ahead.map(std::sync::Arc::new));
            (entity, vector)
        });
        let merged = |one: &Copy, other: &Copy| merged(one, other, &retired);
        let shown = |copy: &Copy| shown(copy, key.kind);
        let [a, b, c] = &copies;
        let (ab, ba) = (merged(a, b), merged(b, a));
        assert_eq!(shown(&ab), shown(&ba), "commutative");
        assert_eq!(shown(&merged(&ab, c)), shown(&merged(a, &merged(b, c))), "associative");
        assert_eq!(shown(&merged(&ab, b)), shown(&ab), "idempotent");
        assert_eq!(shown(&merged(&ab, &ab)), shown(&ab), "idempotent");
        let again = Entity::from_items(ab.0.items(None, None));
        assert_eq!(again, ab.0, "items make the same entity");
    }
}

fn check_round_trips(seed: u64) {
    let mut cluster = cluster(seed, 120);
    for bytes in &cluster.order {
        let operation = Operation::decode(bytes).unwrap();
        assert_eq!(operation.encode(), bytes);
        assert_eq!(Operation::peek(bytes).unwrap(), (operation.dot, operation.stamp));
        let entry = Entry::Operation { shard: SHARD, bytes: bytes.clone() };
        assert_eq!(Entry::decode(&encode(&entry)), Some(entry));
        assert!(Operation::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Operation::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    let merged = Entry::Merged { shard: SHARD, keys: cluster.keys.clone() };
    assert_eq!(Entry::decode(&encode(&merged)), Some(merged));
    for key in &cluster.keys {
        let entity = cluster.nodes[0].engine.entity(key).unwrap().clone();
        let items: Vec<Item> = entity.items(None, None).collect();
        assert_eq!(decode::<Vec<Item>>(&encode(&items)), Some(items));
        let state = State::whole(key.clone(), &entity);
        assert_eq!(decode::<State>(&encode(&state)).unwrap().into_entity(), (key.clone(), entity));
    }
    for chunk in chunks(&mut cluster.nodes[1], 150) {
        assert_eq!(decode::<Chunk>(&encode(&chunk)), Some(chunk));
    }
}

/// Bytes with some of them changed, cut or grown.
fn spoiled(bytes: &[u8], at: usize, with: u8, cut: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len().max(1);
    match bytes.get_mut(at) {
        Some(byte) if !cut => *byte ^= with,
        _ => bytes.truncate(at),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_is_a_join(seed: u64, steps in 10..200_usize) {
        check_merges(seed, steps, CHAOS);
    }

    #[test]
    fn r9_merging_what_was_folded_is_a_join(seed: u64, steps in 100..600_usize) {
        check_merges(seed, steps, RETIRING);
    }

    #[test]
    fn what_is_written_and_sent_round_trips(seed: u64) {
        check_round_trips(seed);
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        let _ = Operation::decode(&bytes);
        let _ = Operation::peek(&bytes);
        let _ = Entry::decode(&bytes);
        let _ = decode::<Item>(&bytes);
        let _ = decode::<Chunk>(&bytes);
    }

    /// Nearly sound: whatever still decodes can be judged, rendered and merged.
    #[test]
    fn spoiled_bytes_never_panic(seed: u64, at: Vec<(usize, u8, bool)>) {
        let mut cluster = cluster(seed, 40);
        let chunks = chunks(&mut cluster.nodes[0], 1 << 16);
        for (at, with, cut) in at {
            for bytes in &cluster.order {
                if let Ok(operation) = Operation::decode(&spoiled(bytes, at, with, cut)) {
                    let _ = cluster.nodes[1].engine.readiness(SHARD, &operation);
                    let _ = cluster.nodes[1].engine.belongs(SHARD, &operation);
                }
            }
            for chunk in &chunks {
                let Some(chunk) = decode::<Chunk>(&spoiled(&encode(chunk), at, with, cut)) else {
                    continue;
                };
                for state in chunk.states {
                    let (key, other) = state.into_entity();
                    let mut entity = Entity::default();
                    let (nothing, retired) = (VersionVector::default(), Retired::default());
                    entity.merge(&nothing, &other, &chunk.vector, &retired);
                    let _ = entity.view(key.kind);
                }
            }
        }
    }

    /// Any record on disk may be any bytes: the store opens, or says why not.
    #[test]
    fn spoiled_disks_never_panic(seed: u64, which: usize, at: usize, with in 1..=255u8) {
        let mut cluster = cluster(seed, 40);
        let node = &mut cluster.nodes[0];
        node.checkpoint();
        let records = node.backend.scan(b"", &[0xFF], 10_000).unwrap();
        let memory = Memory::new();
        let mut copy: Vec<Write> = Vec::new();
        for (place, (key, record)) in records.iter().enumerate() {
            let hit = place == which % records.len();
            let record = if hit { spoiled(record, at, with, false) } else { record.to_vec() };
            copy.push((key.to_vec(), Some(record)));
        }
        memory.commit(&copy).unwrap();
        memory.flush().unwrap();
        let opened = Engine::open(std::sync::Arc::new(memory), options(), Origin(77));
        if let Ok(mut engine) = opened {
            for key in &cluster.keys {
                if let Ok(entity) = engine.entity(key) {
                    let _ = entity.view(key.kind);
                }
            }
        }
    }
}
