//! R9: origins that ended leave vectors, clocks and facts, once everyone has all of them.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;

use atoll_replication::core::Event;
use atoll_replication::level::Demand;
use atoll_store::command::{Command, View};
use atoll_store::dot::Origin;
use atoll_store::log::RETIRED;
use atoll_store::name::{EntityKey, Kind};
use atoll_store::shard::ShardId;
use common::group::Group;
use common::{add, change, key, node_id, plus, record, remove, value};

const SHARD: ShardId = ShardId { placement: 0, slot: 0 };

fn write(group: &mut Group, number: u8, key: &EntityKey, command: Command) {
    group.run(number, vec![Event::Write(1, vec![change(key, command)], Demand::default())]);
}

fn set() -> EntityKey {
    key(Kind::Sets, "s")
}

fn counter() -> EntityKey {
    key(Kind::Counters, "n")
}

fn view(group: &mut Group, number: u8, key: &EntityKey) -> Option<View> {
    let now = group.now;
    let node = group.nodes.get_mut(&number).unwrap();
    node.image(now, key).unwrap().view(key.kind, now)
}

/// Three regions of one node each, with councils.
fn three() -> Group {
    let mut group = Group::new();
    for number in 1..=3 {
        group.start(number, &format!("r{number}"), number.into());
        group.place(&format!("r{number}"), 1, &[number]);
    }
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        group.connect(one, other);
    }
    group.settle();
    group
}

/// Starts a node again, under another origin.
fn restart(group: &mut Group, number: u8, origin: u64) {
    let others: Vec<u8> = group.nodes.keys().copied().filter(|other| *other != number).collect();
    for other in &others {
        group.disconnect(number, *other);
    }
    let region = group.regions[&number].clone();
    group.start(number, &region, origin);
    for other in others {
        group.connect(number, other);
    }
}

/// The origins that a node's vector, clocks and facts name.
fn origins(group: &Group, number: u8) -> BTreeSet<u64> {
    let core = &group.nodes[&number].core;
    let status = core.status();
    let vector = core.engine().vector(SHARD);
    let named = vector.iter().map(|(origin, _)| origin);
    let named = named.chain(status.regions.keys().copied()).chain(status.closed.keys().copied());
    let named = named.chain(core.engine().trimmed().keys().copied());
    named.filter(|origin| *origin != RETIRED).map(|origin| origin.0).collect()
}

fn assert_equal(group: &mut Group) {
    let numbers: Vec<u8> = group.nodes.keys().copied().collect();
    let digest = |group: &Group, number| {
        let engine = group.nodes[&number].core.engine();
        (engine.digest(SHARD), engine.vector(SHARD))
    };
    let first = digest(group, numbers[0]);
    assert!(first.0.0.is_some());
    for number in &numbers[1..] {
        assert_eq!(digest(group, *number), first, "node {number}");
    }
}

#[test]
fn r9_an_origin_that_ended_leaves_once_every_region_has_all_of_it() {
    let mut group = three();
    write(&mut group, 1, &set(), add("old"));
    write(&mut group, 1, &set(), add("gone"));
    write(&mut group, 1, &counter(), plus(5));
    group.settle();
    restart(&mut group, 1, 11);
    group.wait(40_000);
    for number in 1..=3 {
        assert_eq!(origins(&group, number), [2, 3, 11].into(), "at node {number}");
        assert!(group.nodes[&number].core.engine().is_retired(Origin(1)));
        let record = &group.councils[&format!("r{number}")].record;
        assert!(record.ended.is_empty() && record.ends.is_empty(), "records are tidy");
    }
    // What it wrote is there, and can be removed and counted on.
    write(&mut group, 2, &set(), remove("gone"));
    write(&mut group, 3, &counter(), plus(2));
    group.settle();
    for number in 1..=3 {
        assert_eq!(view(&mut group, number, &set()), Some(View::Set(vec![value("old")])));
        assert_eq!(view(&mut group, number, &counter()), Some(View::Counter(7)));
    }
    assert_equal(&mut group);
    // And after restarts of all: from the disk, too.
    for number in 1..=3 {
        restart(&mut group, number, 20 + u64::from(number));
    }
    group.settle();
    assert_equal(&mut group);
    assert_eq!(view(&mut group, 1, &counter()), Some(View::Counter(7)));
}

/// The clock that has settled at a node, and how many of its roll.
fn settled(group: &Group, number: u8) -> (u64, u32) {
    let settled = group.nodes[&number].core.engine().settled();
    (settled.clock.millis(), settled.known)
}

#[test]
fn r9_a_clock_settles_once_every_node_has_applied_all_that_was_stamped_by_then() {
    let mut group = three();
    for number in 1..=3 {
        write(&mut group, number, &set(), add("x"));
    }
    group.settle();
    let now = group.now;
    assert!((1..=3).all(|number| settled(&group, number).0 > now - 20_000), "all is quiet");
    // What one cut off does nobody knows, and nobody goes on.
    group.disconnect(1, 3);
    group.disconnect(2, 3);
    group.settle();
    assert!((1..=3).all(|number| settled(&group, number).0 == 0), "a node is away");
    group.connect(1, 3);
    group.connect(2, 3);
    group.settle();
    assert!((1..=3).all(|number| settled(&group, number).0 > 0));
    // One that is recorded and was never met may have stamped anything.
    group.place("r2", 2, &[2, 9]);
    group.settle();
    assert!((1..=3).all(|number| settled(&group, number).0 == 0), "a node is not known");
}

#[test]
fn r9_nothing_is_retired_while_a_region_may_lack_some_of_it() {
    let mut group = three();
    group.disconnect(1, 3);
    group.disconnect(2, 3);
    write(&mut group, 1, &set(), add("x"));
    group.settle();
    group.disconnect(1, 2);
    group.start(1, "r1", 11);
    group.connect(1, 2);
    group.wait(60_000);
    for number in 1..=3 {
        assert!(!group.nodes[&number].core.engine().is_retired(Origin(1)), "node {number}");
    }
    group.connect(1, 3);
    group.connect(2, 3);
    group.wait(40_000);
    for number in 1..=3 {
        assert!(group.nodes[&number].core.engine().is_retired(Origin(1)), "node {number}");
        assert_eq!(view(&mut group, number, &set()), Some(View::Set(vec![value("x")])));
    }
    assert_equal(&mut group);
}

/// Nodes 1 and 2 of one region, 3 of another; 2 goes away with what only it knows.
fn away() -> Group {
    let mut group = Group::new();
    for (number, region) in [(1, "r1"), (2, "r1"), (3, "r2")] {
        group.start(number, region, number.into());
    }
    group.place("r1", 1, &[1, 2]);
    group.place("r2", 1, &[3]);
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        group.connect(one, other);
    }
    write(&mut group, 2, &set(), add("shared"));
    write(&mut group, 2, &counter(), plus(10));
    group.settle();
    group.disconnect(1, 2);
    group.disconnect(2, 3);
    write(&mut group, 2, &set(), add("only here"));
    write(&mut group, 2, &set(), add("and gone"));
    write(&mut group, 2, &set(), remove("and gone"));
    write(&mut group, 2, &counter(), plus(1));
    group.wire.clear();
    group
}

/// Its council gives 2 up.
fn give_up(group: &mut Group) {
    let mut without = record("r1", 50, &[1], None);
    without.gone.insert(node_id(2));
    group.councils.get_mut("r1").unwrap().record = without.clone();
    group.run(1, vec![Event::Placed(Box::new(without))]);
}

/// And what it wrote is retired.
fn given_up() -> Group {
    let mut group = away();
    give_up(&mut group);
    group.settle();
    write(&mut group, 1, &set(), remove("shared"));
    group.wait(40_000);
    assert!(group.nodes[&1].core.engine().is_retired(Origin(2)));
    assert!(group.nodes[&3].core.engine().is_retired(Origin(2)));
    group
}

#[test]
fn r9_of_an_origin_that_ended_nothing_more_is_taken() {
    let mut group = away();
    group.disconnect(1, 3);
    give_up(&mut group);
    group.wait(5_000);
    assert!(group.councils["r1"].record.ends.contains_key(&Origin(2)), "agreed on in r1");
    group.connect(1, 2);
    group.wait(5_000);
    let members = view(&mut group, 1, &set());
    assert_eq!(members, Some(View::Set(vec![value("shared")])), "what others never had");
    let vector = group.nodes[&1].core.engine().vector(SHARD);
    assert_eq!(vector.sequence(Origin(2)), 2);
}

#[test]
fn r9_replicas_fill_each_others_gaps_while_an_end_waits_for_a_dead_one() {
    let mut group = away();
    // A third replica of the region is dead, another region is cut off: nobody can say yet how far
    // 2's earlier start came. It comes back with what 1 lacks.
    group.place("r1", 60, &[1, 2, 9]);
    group.disconnect(1, 3);
    group.start(2, "r1", 12);
    group.wait(15_000);
    let record = Box::new(group.councils["r1"].record.clone());
    assert!(record.ended.contains_key(&Origin(2)), "it has ended");
    group.run(1, vec![Event::Placed(record)]);
    group.connect(1, 2);
    group.wait(10_000);
    assert_eq!(view(&mut group, 1, &counter()), Some(View::Counter(11)));
    assert!(!group.nodes[&1].core.engine().is_retired(Origin(2)));
}

#[test]
fn r9_a_region_has_all_only_when_every_region_has_told_what_it_has() {
    let mut group = three();
    group.disconnect(1, 2);
    let before = group.nodes[&1].memory.snapshot();
    write(&mut group, 1, &set(), add("x"));
    group.settle();
    group.disconnect(1, 3);
    group.disconnect(2, 3);
    group.nodes[&1].memory.restore(&before);
    group.start(1, "r1", 11);
    group.connect(1, 2);
    group.wait(60_000);
    group.connect(2, 3);
    group.connect(1, 3);
    group.wait(40_000);
    for number in 1..=3 {
        let core = &group.nodes[&number].core;
        assert!(core.engine().is_retired(Origin(1)), "node {number}");
        assert_eq!(core.engine().discarded().count(), 0, "node {number} began anew");
        assert_eq!(view(&mut group, number, &set()), Some(View::Set(vec![value("x")])));
    }
    assert_equal(&mut group);
}

#[test]
fn r9_a_replica_that_was_given_up_comes_back_as_new_and_writes_again_what_only_it_knew() {
    let mut group = given_up();
    group.start(2, "r1", 12);
    let mut back = group.councils["r1"].record.clone();
    back.version.number += 1;
    back.gone.clear();
    back.slots = record("r1", 90, &[1, 2], None).slots;
    group.councils.get_mut("r1").unwrap().record = back.clone();
    group.run(1, vec![Event::Placed(Box::new(back))]);
    group.connect(1, 2);
    group.connect(2, 3);
    group.wait(60_000);
    for number in 1..=3 {
        let members = View::Set(vec![value("only here")]);
        assert_eq!(view(&mut group, number, &set()), Some(members), "node {number}");
        assert_eq!(view(&mut group, number, &counter()), Some(View::Counter(11)));
        assert!(!origins(&group, number).contains(&2), "node {number}");
    }
    assert_equal(&mut group);
}

#[test]
fn r9_what_was_written_again_counts_once_whoever_else_brings_it_back() {
    let mut group = given_up();
    // A copy of the disk comes back, and then the disk itself.
    let copy = group.nodes[&2].memory.snapshot();
    for origin in [12, 13] {
        group.nodes[&2].memory.restore(&copy);
        group.start(2, "r1", origin);
        let council = group.councils.get_mut("r1").unwrap();
        council.record.version.number += 1;
        council.record.gone.clear();
        let number = council.record.version.number + 10;
        council.record.slots = record("r1", number, &[1, 2], None).slots;
        let back = council.record.clone();
        group.run(1, vec![Event::Placed(Box::new(back))]);
        group.connect(1, 2);
        group.connect(2, 3);
        group.wait(60_000);
        group.disconnect(1, 2);
        group.disconnect(2, 3);
    }
    group.connect(1, 2);
    group.connect(2, 3);
    group.wait(60_000);
    assert_equal(&mut group);
    assert_eq!(view(&mut group, 3, &counter()), Some(View::Counter(11)));
}

#[test]
fn r9_a_start_that_was_ended_writes_nothing() {
    let mut group = given_up();
    group.connect(1, 2);
    group.connect(2, 3);
    group.settle();
    let released =
        group.run(2, vec![Event::Write(1, vec![change(&set(), add("late"))], Demand::default())]);
    let refused = format!("{:?}", released.replies);
    assert!(refused.contains("Elsewhere"), "{refused}");
}

/// What a node alone had is written again by others where it is a replica no more.
#[test]
fn r9_what_only_a_copy_knew_that_is_not_held_any_more_is_written_again_by_who_holds_it() {
    let mut group = given_up();
    group.start(2, "r1", 12);
    let mut back = group.councils["r1"].record.clone();
    back.version.number += 1;
    back.gone.clear();
    back.nodes = record("r1", 90, &[1, 2], None).nodes;
    group.councils.get_mut("r1").unwrap().record = back.clone();
    group.run(1, vec![Event::Placed(Box::new(back))]);
    group.connect(1, 2);
    group.connect(2, 3);
    group.wait(60_000);
    for number in [1, 3] {
        let members = View::Set(vec![value("only here")]);
        assert_eq!(view(&mut group, number, &set()), Some(members), "node {number}");
        assert_eq!(view(&mut group, number, &counter()), Some(View::Counter(11)));
    }
    let given_up = group.nodes[&2].core.engine();
    assert_eq!(given_up.shards().count(), 0);
    assert_eq!(given_up.notes("unknown/").unwrap(), [], "nothing is left to hand on");
    let written = group.nodes[&1].core.engine().sequence(SHARD, Origin(1));
    group.wait(60_000);
    assert_eq!(group.nodes[&1].core.engine().sequence(SHARD, Origin(1)), written, "once");
}

/// Its council admits it again before it has noticed that its start had ended.
#[test]
fn r9_who_was_given_up_and_is_admitted_again_is_not_believed_about_its_ended_start() {
    let mut group = away();
    group.disconnect(1, 3);
    give_up(&mut group);
    group.wait(5_000);
    assert!(group.councils["r1"].record.ends.contains_key(&Origin(2)), "agreed on in r1");
    let mut back = group.councils["r1"].record.clone();
    back.version.number += 1;
    back.gone.clear();
    let admitted = record("r1", 90, &[1, 2], None);
    (back.nodes, back.slots) = (admitted.nodes, admitted.slots);
    group.councils.get_mut("r1").unwrap().record = back.clone();
    group.run(1, vec![Event::Placed(Box::new(back))]);
    group.connect(1, 2);
    group.wait(3_000);
    let vector = group.nodes[&1].core.engine().vector(SHARD);
    assert!(vector.is_retired(Origin(2)) || vector.sequence(Origin(2)) == 2, "{vector:?}");
    group.connect(1, 3);
    group.connect(2, 3);
    group.wait(10_000);
    group.start(2, "r1", 12);
    group.connect(1, 2);
    group.connect(2, 3);
    group.wait(60_000);
    for number in 1..=3 {
        assert!(group.nodes[&number].core.engine().is_retired(Origin(2)), "node {number}");
        assert_eq!(view(&mut group, number, &counter()), Some(View::Counter(11)));
    }
    assert_equal(&mut group);
}
