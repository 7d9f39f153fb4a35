//! What retired origins and deletes leave behind (R9, R10): folded, and collected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;

use atoll_store::backend::Backend;
use atoll_store::backend::memory::Memory;
use atoll_store::command::{Change, Command, FieldCommand, RequestHash, View};
use atoll_store::dot::{Dot, Hlc, Origin};
use atoll_store::engine::{Options, Readiness};
use atoll_store::entity::{Entity, Item, RETRY_WINDOW_MS};
use atoll_store::name::{EntityKey, Kind};
use atoll_store::operation::{Effect, FOLDED, Leaf, Operation, Part, Path};
use atoll_store::retire::{Retirement, Settled};
use common::{Node, SHARD, assert_equal, change, count, key, options};

/// Origins that counted and ended.
const ENDED: std::ops::Range<u64> = 100..108;

fn likes() -> EntityKey {
    key(Kind::Counters, "likes")
}

/// One increment by an origin that does nothing else.
fn counted(origin: u64, stamp: Hlc) -> bytes::Bytes {
    let path = Path { field: None, leaf: Leaf::Count };
    let effect = Effect { counts: vec![(path, 1, u128::from(origin), 1)], ..Effect::default() };
    let part = Part { key: likes(), hash: None, effect };
    let dot = Dot { origin: Origin(origin), sequence: 1 };
    Operation { dot, stamp, parts: vec![part] }.encode()
}

/// Nodes that have seen what the ended origins counted, and whose clocks are above it.
fn nodes<const COUNT: usize>() -> [Node; COUNT] {
    let mut nodes: [Node; COUNT] = std::array::from_fn(|at| Node::new(1 + at as u64));
    for origin in ENDED {
        let bytes = counted(origin, Hlc::at(900_000 + origin));
        nodes.iter_mut().for_each(|node| assert_eq!(node.receive(&bytes), Readiness::Ready));
    }
    nodes
}

fn retire(node: &mut Node, origins: impl Iterator<Item = u64>) {
    let at = Hlc::at(900_000 + ENDED.end - 1);
    for origin in origins {
        let finals = Some(BTreeMap::from([(SHARD.slot, 1)]));
        let retirement = Retirement { origin: Origin(origin), at, finals };
        node.engine.retire(vec![retirement], |_| true);
    }
    node.commit();
}

/// Settles all that a node has seen.
fn settle(node: &mut Node) {
    let (clock, known) = (node.stamp(), node.engine.roll().0);
    node.engine.settle(Settled { clock, known });
}

/// Retires and settles at a node, and has it fold: by a change.
fn fold(node: &mut Node) -> bytes::Bytes {
    retire(node, ENDED);
    settle(node);
    let bytes = node.write(&likes(), count(1));
    assert_eq!(items(node, &likes()), [1, 1], "folded");
    bytes
}

/// How many (epochs, folds) an entity holds.
fn items(node: &mut Node, key: &EntityKey) -> [usize; 2] {
    let mut found = [0, 0];
    for item in node.engine.entity(key).unwrap().items(None, None) {
        match item {
            Item::Epoch(..) => found[0] += 1,
            Item::Folded(..) => found[1] += 1,
            _ => {}
        }
    }
    found
}

fn names_folded(bytes: &bytes::Bytes) -> bool {
    let operation = Operation::decode(bytes).unwrap();
    let closes = operation.parts.iter().flat_map(|part| &part.effect.closes);
    closes.into_iter().any(|(key, _)| key.origin == FOLDED)
}

fn total() -> i128 {
    ENDED.map(|origin| i128::from(origin) - 1).sum()
}

#[test]
fn r9_folding_keeps_value_sum_and_version() {
    let [mut folded, mut plain] = nodes();
    let bytes = fold(&mut folded);
    plain.receive(&bytes);
    assert_eq!(items(&mut plain, &likes()), [9, 0]);
    assert_eq!(folded.view(&likes()), Some(View::Counter(total() + 1)));
    assert_eq!(folded.view(&likes()), plain.view(&likes()));
    assert_eq!(folded.sum(&likes()), plain.sum(&likes()));
    assert_eq!(folded.engine.digest(SHARD), plain.engine.digest(SHARD));
    // And on disk: from a checkpoint, and from the log over an older one.
    folded.checkpoint();
    let mut folded = folded.restart(11);
    assert_eq!(items(&mut folded, &likes()), [1, 1]);
    let bytes = folded.write(&likes(), Command::Delete);
    assert!(names_folded(&bytes));
    let mut folded = folded.restart(12);
    assert_eq!((folded.view(&likes()), folded.sum(&likes())), (None, 0));
    retire(&mut plain, ENDED);
    plain.receive(&bytes);
    assert_eq!((plain.view(&likes()), plain.sum(&likes())), (None, 0));
}

#[test]
fn r9_only_what_settled_is_folded() {
    let [mut node] = nodes();
    let all = ENDED.count() + 1;
    retire(&mut node, ENDED);
    node.write(&likes(), count(1));
    assert_eq!(items(&mut node, &likes()), [all, 0], "nothing has settled");
    let (early, known) = (Hlc::at(900_000), 3);
    node.engine.settle(Settled { clock: early, known });
    node.write(&likes(), count(1));
    assert_eq!(items(&mut node, &likes()), [all, 0], "it settled before they were retired");
    node.engine.settle(Settled { clock: node.stamp(), known });
    node.write(&likes(), count(1));
    assert_eq!(items(&mut node, &likes()), [all - 3, 1], "not every node knows the others");
}

#[test]
fn r9_a_late_close_meets_a_fold() {
    let [mut folded, mut plain] = nodes();
    let bytes = fold(&mut folded);
    plain.receive(&bytes);
    retire(&mut plain, ENDED);
    let bytes = plain.write(&likes(), Command::Delete);
    assert!(!names_folded(&bytes));
    assert_eq!(folded.receive(&bytes), Readiness::Ready);
    assert_eq!(folded.view(&likes()), None);
    assert_equal(&mut [folded, plain], &[likes()], "closed one by one, and as one");
}

#[test]
fn r9_a_close_of_what_was_folded_waits_for_a_whole_copy() {
    let [mut folded, mut plain] = nodes();
    let bytes = [fold(&mut folded), folded.write(&likes(), Command::Delete)];
    let dot = Operation::decode(&bytes[1]).unwrap().dot;
    plain.receive(&bytes[0]);
    // It has all there is of the origins, and does not know yet that this is all: with its roll it
    // knows neither.
    let mut away = Node::new(9);
    away.receive(&bytes[0]);
    retire(&mut away, ENDED);
    assert_eq!(away.receive(&bytes[1]), Readiness::Waits(dot));
    retire(&mut plain, ENDED);
    assert_eq!(plain.receive(&bytes[1]), Readiness::Ready);
    assert_equal(&mut [folded, plain], &[likes()], "closed as one, and one by one");
}

#[test]
fn r9_a_fold_on_one_side_merges() {
    // 0: nobody deletes. 1: who folded does. 2: the other does. Either way, either side merges.
    for (deleted, into) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut sides: [Node; 2] = nodes();
        let bytes = fold(&mut sides[0]);
        sides[1].receive(&bytes);
        retire(&mut sides[1], ENDED);
        if deleted > 0 {
            sides[deleted - 1].write(&likes(), Command::Delete);
        }
        sides[1].write(&likes(), count(1000));
        let expected = if deleted == 0 { total() + 1001 } else { 1000 };
        let mut merge = |into: usize| {
            let [one, other] = sides.get_disjoint_mut([into, 1 - into]).unwrap();
            merge_from(one, other);
            assert_eq!(one.view(&likes()), Some(View::Counter(expected)), "{deleted} {into}");
        };
        merge(into);
        merge(1 - into);
        assert_equal(&mut sides, &[likes()], "merged");
    }
}

/// A whole transfer of state between nodes with the same roll.
fn merge_from(node: &mut Node, from: &mut Node) {
    assert_eq!(node.engine.roll(), from.engine.roll());
    let mut incoming = atoll_store::transfer::Incoming::default();
    for mut chunk in common::chunks(from, 1 << 20) {
        node.engine.adopt(&mut chunk.vector);
        incoming.push(chunk);
    }
    node.engine.switch(SHARD, incoming).unwrap();
    node.commit();
}

#[test]
fn r9_an_empty_copy_takes_a_fold_as_it_is() {
    let [mut folded] = nodes();
    fold(&mut folded);
    let mut empty = Node::new(9);
    retire(&mut empty, ENDED);
    assert!(!empty.engine.is_whole(SHARD));
    merge_from(&mut empty, &mut folded);
    assert!(empty.engine.is_whole(SHARD));
    assert_eq!(items(&mut empty, &likes()), [1, 1]);
    assert_equal(&mut [empty, folded], &[likes()], "taken");
}

#[test]
fn r9_what_was_deleted_and_folded_does_not_come_back() {
    let [mut folded, mut stale] = nodes();
    let first = fold(&mut folded);
    retire(&mut stale, ENDED);
    stale.receive(&first);
    folded.write(&likes(), Command::Delete);
    folded.checkpoint();
    settle(&mut folded);
    sweep(&mut folded);
    assert_eq!(items(&mut folded, &likes()), [0, 0], "collected");
    merge_from(&mut folded, &mut stale);
    assert_eq!(folded.view(&likes()), None);
    merge_from(&mut stale, &mut folded);
    assert_eq!(stale.view(&likes()), None);
    assert_equal(&mut [folded, stale], &[likes()], "deleted");
}

/// A state that was read before all that has settled was applied where it was read.
#[test]
fn r9_a_state_of_an_earlier_moment_tells_of_a_delete() {
    let last = ENDED.end - 1;
    let [mut folded, mut early, mut other] = nodes();
    // One deleted what only the last of the origins had counted; it took long to get around.
    let mut deleter = Node::new(7);
    deleter.receive(&counted(last, Hlc::at(900_000 + last)));
    let first = deleter.write(&likes(), Command::Delete);
    // Another one, who had seen that, deleted what was left.
    other.receive(&first);
    let second = other.write(&likes(), Command::Delete);
    early.receive(&second);
    folded.receive(&first);
    for node in [&mut folded, &mut early] {
        retire(node, ENDED);
    }
    settle(&mut folded);
    folded.write(&likes(), Command::Count { plus: 0, minus: 0 });
    assert_eq!(items(&mut folded, &likes()), [1, 1]);
    let shown = Some(View::Counter(i128::from(last) - 1));
    assert_eq!(early.view(&likes()), shown, "it lacks the first delete");
    merge_from(&mut folded, &mut early);
    assert_eq!(folded.view(&likes()), Some(View::Counter(0)), "the second delete is seen");
    let own = folded.engine.operations(SHARD, folded.origin, 1, 1 << 20).unwrap();
    for bytes in own.iter().chain([&first]) {
        assert_eq!(early.receive(bytes), Readiness::Ready);
    }
    assert_eq!(folded.sum(&likes()), early.sum(&likes()));
}

#[test]
fn r9_a_repair_loses_nothing_and_resurrects_nothing() {
    let state = |node: &mut Node| node.engine.entity(&likes()).unwrap().clone();
    let repaired = |node: &mut Node, other: &Entity| {
        node.engine.repair(SHARD, &likes(), other, &[]).unwrap();
        node.commit();
        node.view(&likes())
    };
    let [mut folded, mut plain, mut poor] = nodes();
    let bytes = fold(&mut folded);
    plain.receive(&bytes);
    retire(&mut plain, ENDED);
    // One that lost an epoch, whatever its vector says, takes what the others have.
    let lost = state(&mut plain).items(None, None).skip(1).collect::<Vec<_>>();
    poor.receive(&bytes);
    retire(&mut poor, ENDED);
    let all = Some(View::Counter(total() + 1));
    for other in [&mut folded, &mut plain] {
        let lost = Entity::from_items(lost.clone());
        assert_eq!(repaired(other, &lost), all, "the poorer of two");
        assert_eq!(repaired(&mut poor, &state(other)), all);
    }
    // What one side knows to be deleted is deleted.
    let open = [state(&mut folded), state(&mut plain)];
    for deleted in [&mut folded, &mut plain] {
        deleted.write(&likes(), Command::Delete);
        open.iter().for_each(|open| assert_eq!(repaired(deleted, open), None));
    }
    let closed = state(&mut folded);
    assert_eq!(repaired(&mut poor, &closed), None);
}

fn sweep(node: &mut Node) {
    for _ in 0..1_000 {
        node.engine.maintain(|_, _| true);
        if node.commit() == 0 {
            return;
        }
    }
    panic!("a sweep that spins");
}

fn records(memory: &Memory) -> [usize; 3] {
    let count = |prefix: u8| memory.scan(&[prefix], &[prefix + 1], 100_000).unwrap().len();
    [count(b'e'), count(b'p'), count(b'g')]
}

/// 100,000 cycles over a cache of a few hundred entities leave neither entity records nor lists.
#[test]
fn r9_cycles_leave_nothing() {
    let memory = Memory::new();
    let options = Options {
        cache_bytes: 200 << 10,
        checkpoint_bytes: 64 << 10,
        log_soft_bytes: 256 << 10,
        ..options()
    };
    let mut node = Node::on(&memory, options, 1);
    let mut most = 0;
    for cycle in 0..100_000u64 {
        let one = key(Kind::Counters, &format!("c{cycle}"));
        let request = RequestHash { key: u128::from(cycle), request: 1 };
        let hash = (cycle % 10 == 0).then_some(request);
        let write = Change { hash, ..change(&one, vec![count(1)]) };
        node.stage(&[write]).unwrap();
        node.stage(&[change(&one, vec![Command::Delete])]).unwrap();
        if cycle % 100 == 99 {
            let _shown = node.commit();
            node.engine.maintain(|_, _| true);
            node.commit();
        }
        if cycle % 500 == 499 {
            node.now += 3_600_000;
            settle(&mut node);
            let before = Hlc::at(node.now - RETRY_WINDOW_MS.min(node.now));
            node.engine.close_retries(before);
            most = most.max(records(&memory).into_iter().sum());
        }
    }
    // A day of keyed writes, and what the last cycles left.
    assert!(most < 8_000, "{most} records in between");
    node.checkpoint();
    node.now += 3 * RETRY_WINDOW_MS;
    node.write(&key(Kind::Counters, "last"), count(1));
    node.checkpoint();
    node.engine.close_retries(Hlc::at(node.now - RETRY_WINDOW_MS));
    settle(&mut node);
    sweep(&mut node);
    assert_eq!(records(&memory), [1, 0, 0]);
    assert_eq!(node.engine.digest(SHARD).1, 1);
}

#[test]
fn r9_a_sweep_waits_and_does_not_spin() {
    let memory = Memory::new();
    let mut node = Node::on(&memory, options(), 1);
    let one = key(Kind::Registers, "r");
    let hash = Some(RequestHash { key: 1, request: 1 });
    let write = Change { hash, ..change(&one, vec![common::set("x")]) };
    node.stage(&[write]).unwrap();
    node.write(&one, Command::Delete);
    node.checkpoint();
    assert_eq!(records(&memory), [1, 0, 1]);
    sweep(&mut node);
    assert_eq!(records(&memory), [1, 0, 1], "nothing has settled");
    // It stays for its retry, and is not looked at again for a day.
    settle(&mut node);
    sweep(&mut node);
    assert_eq!(records(&memory), [1, 0, 1]);
    let other = key(Kind::Registers, "other");
    for hour in 1..24 {
        node.now += 3_600_000;
        node.write(&other, common::set("x"));
        settle(&mut node);
        node.engine.maintain(|_, _| true);
        assert_eq!(node.commit(), 0, "hour {hour}");
    }
    // Later it is looked at from time to time, until the retry may be forgotten.
    node.now += 3_600_000;
    node.write(&other, common::set("x"));
    settle(&mut node);
    sweep(&mut node);
    assert_eq!(records(&memory)[2], 1);
    let mut node = node.restart(2);
    node.now += 120_000;
    node.write(&other, common::set("x"));
    node.engine.close_retries(Hlc::at(node.now - RETRY_WINDOW_MS));
    settle(&mut node);
    sweep(&mut node);
    assert_eq!(node.engine.entity(&one).unwrap().keys_len(), 0);
    assert_eq!(records(&memory)[2], 0);
}

#[test]
fn r9_what_is_made_again_is_not_swept() {
    let memory = Memory::new();
    let mut node = Node::on(&memory, options(), 1);
    node.write(&likes(), count(1));
    node.write(&likes(), Command::Delete);
    node.checkpoint();
    settle(&mut node);
    node.write(&likes(), count(5));
    sweep(&mut node);
    assert_eq!(node.view(&likes()), Some(View::Counter(5)));
    node.checkpoint();
    assert_eq!(records(&memory), [1, 0, 0]);
    // Deleted once more, it waits for the later stamp.
    node.write(&likes(), count(1));
    let clock = node.stamp();
    node.write(&likes(), Command::Delete);
    node.checkpoint();
    node.engine.settle(Settled { clock, known: 0 });
    sweep(&mut node);
    assert_eq!(records(&memory), [1, 0, 1]);
    settle(&mut node);
    sweep(&mut node);
    assert_eq!(records(&memory), [0; 3]);
}

/// A thousand starts of a node that each counted once leave the counter as small as one.
#[test]
fn r9_replaced_nodes_leave_a_counter_flat() {
    let mut node = Node::new(1);
    let mut most = 0;
    for origin in 100..1_100u64 {
        let stamp = node.stamp().tick(node.now);
        node.receive(&counted(origin, stamp));
        let finals = Some(BTreeMap::from([(SHARD.slot, 1)]));
        let retirement = Retirement { origin: Origin(origin), at: stamp, finals };
        node.engine.retire(vec![retirement], |_| true);
        settle(&mut node);
        most = most.max(items(&mut node, &likes()).into_iter().sum());
    }
    assert!(most < 10, "{most}");
    let expected = (100..1_100).map(|origin: i128| origin - 1).sum();
    assert_eq!(node.view(&likes()), Some(View::Counter(expected)));
}

/// Counters in a map that stays: each leaves an epoch when its field is removed.
#[test]
fn r9_removed_fields_leave_a_present_map_flat() {
    let mut node = Node::new(1);
    let map = key(Kind::Maps, "m");
    let fields = |update, remove| Command::Fields { update, remove };
    let by = || FieldCommand::Count { plus: 1, minus: 0 };
    node.write(&map, fields(vec![("stays".into(), by())], Vec::new()));
    for cycle in 0..200 {
        let name = format!("f{cycle}");
        node.write(&map, fields(vec![(name.clone(), by())], Vec::new()));
        node.write(&map, fields(Vec::new(), vec![name]));
        if cycle == 100 {
            node.checkpoint();
            node = node.restart(2);
            assert_eq!(items(&mut node, &map), [2, 0], "what stays, and the last that went");
        }
        if cycle % 10 == 9 {
            settle(&mut node);
        }
    }
    node.write(&map, fields(vec![("stays".into(), by())], Vec::new()));
    assert!(items(&mut node, &map)[0] < 5);
    let Some(View::Map(shown)) = node.view(&map) else { panic!("a map") };
    assert_eq!(shown.len(), 1);
}

#[test]
fn r9_a_shard_given_up_leaves_no_list() {
    let memory = Memory::new();
    let mut node = Node::on(&memory, options(), 1);
    for number in 0..20 {
        let one = key(Kind::Counters, &format!("c{number}"));
        node.write(&one, count(1));
        node.write(&one, Command::Delete);
    }
    node.checkpoint();
    assert_eq!(records(&memory), [20, 0, 20]);
    node.engine.discard(SHARD);
    node.commit();
    while !node.engine.is_swept(SHARD) {
        node.engine.maintain(|_, _| false);
        node.commit();
    }
    assert_eq!(records(&memory), [0; 3]);
}
