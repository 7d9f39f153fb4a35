//! One test and more for each rule of the architecture that the store keeps: R2 to R6.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use atoll_store::command::{Change, Command, FieldCommand, View};
use atoll_store::dot::{Dot, Hlc, Origin};
use atoll_store::engine::Readiness;
use atoll_store::entity::Limits;
use atoll_store::log::Entry;
use atoll_store::name::Kind;
use atoll_store::operation::Operation;
use atoll_store::transfer::{Incoming, Outgoing};
use common::{
    Node, SHARD, add, assert_equal, change, chunks, count, key, options, remove, set, sync_all,
    value,
};

fn nodes(count: u64) -> Vec<Node> {
    (1..=count).map(Node::new).collect()
}

fn set_of(members: &[&str]) -> Option<View> {
    Some(View::Set(members.iter().map(|member| value(member)).collect()))
}

#[test]
fn r2_an_operation_after_a_gap_waits() {
    let (mut author, mut other) = (Node::new(1), Node::new(2));
    let set = key(Kind::Sets, "s");
    let bytes: Vec<_> = ["x", "y", "z"].map(|m| author.write(&set, add(&[m]))).into();
    let before = Dot { origin: Origin(1), sequence: 2 };
    assert_eq!(other.receive(&bytes[2]), Readiness::Waits(before));
    assert_eq!(other.receive(&bytes[0]), Readiness::Ready);
    assert_eq!(other.receive(&bytes[0]), Readiness::Seen);
    assert_eq!(other.receive(&bytes[1]), Readiness::Ready);
    assert_eq!(other.receive(&bytes[2]), Readiness::Ready);
    assert_eq!(other.view(&set), set_of(&["x", "y", "z"]));
}

#[test]
fn r2_an_operation_waits_for_what_it_names() {
    for (kind, create, destroy) in [
        (Kind::Sets, add(&["x"]), remove(&["x"])),
        (Kind::Sets, add(&["x"]), Command::Delete),
        (Kind::Counters, count(3), Command::Delete),
        (Kind::Registers, set("one"), set("two")),
    ] {
        let [mut one, mut two, mut three] = [1, 2, 3].map(Node::new);
        let key = key(kind, "e");
        let created = one.write(&key, create);
        two.receive(&created);
        let destroyed = two.write(&key, destroy);
        let named = Dot { origin: Origin(1), sequence: 1 };
        assert_eq!(three.receive(&destroyed), Readiness::Waits(named));
        three.receive(&created);
        assert_eq!(three.receive(&destroyed), Readiness::Ready);
        assert_eq!(three.view(&key), two.view(&key));
    }
}

fn deliver(node: &mut Node, operations: &[bytes::Bytes]) {
    operations.iter().for_each(|bytes| assert_eq!(node.receive(bytes), Readiness::Ready));
}

/// A transfer of three entities whose later chunks are read after more was written.
fn ahead() -> (Node, Node, Vec<bytes::Bytes>) {
    let (mut from, mut to) = (Node::new(1), Node::new(2));
    let [a, b, c] = ["a", "b", "c"].map(|id| key(Kind::Counters, id));
    let mut written: Vec<_> =
        [(&a, 1), (&b, 10), (&c, 7)].map(|(key, by)| from.write(key, count(by))).into();
    let mut out = Outgoing::new(SHARD);
    let mut incoming = Incoming::default();
    assert!(!incoming.push(from.engine.chunk(&mut out, 1).unwrap()));
    written.push(from.write(&b, count(100)));
    written.push(from.write(&a, count(2)));
    while !incoming.push(from.engine.chunk(&mut out, 1).unwrap()) {}
    to.engine.switch(SHARD, incoming).unwrap();
    assert!(to.reader.peek(&b).is_none(), "readers keep the old image until the commit");
    to.commit();
    assert!(to.reader.peek(&b).is_some());
    (from, to, written)
}

#[test]
fn r3_the_vector_rises_to_the_first_chunks() {
    let (from, mut to, written) = ahead();
    let [a, b] = ["a", "b"].map(|id| key(Kind::Counters, id));
    assert_eq!(to.vector().sequence(Origin(1)), 3);
    assert_eq!(to.view(&a), Some(View::Counter(1)));
    assert_eq!(to.view(&b), Some(View::Counter(110)), "an entity may be ahead");
    assert_eq!(to.engine.digest(SHARD).0, None, "nothing compares while one is ahead");
    // The operation of the entity that is ahead is skipped there.
    deliver(&mut to, &written[3..]);
    assert_eq!(to.view(&b), Some(View::Counter(110)));
    assert_equal(&mut [to, from], &[a, b], "caught up");
}

#[test]
fn r3_an_entity_ahead_travels_with_its_context() {
    let (from, mut to, written) = ahead();
    let [a, b] = ["a", "b"].map(|id| key(Kind::Counters, id));
    let mut third = Node::new(3);
    third.merge_from(&mut to, 1 << 20);
    assert_eq!(third.engine.digest(SHARD).0, None);
    deliver(&mut third, &written[3..]);
    assert_equal(&mut [third, from], &[a, b], "caught up");
}

#[test]
fn r3_being_ahead_survives_a_restart_and_eviction() {
    for evicted in [false, true] {
        let (from, mut to, written) = ahead();
        let [a, b] = ["a", "b"].map(|id| key(Kind::Counters, id));
        if evicted {
            to.options.cache_bytes = 0;
        }
        let mut to = to.restart(4);
        assert_eq!(to.engine.digest(SHARD).0, None, "nothing compares while one is ahead");
        assert_eq!(to.view(&b), Some(View::Counter(110)));
        to.engine.maintain(|_, _| false);
        to.engine.maintain(|_, _| false);
        to.commit();
        deliver(&mut to, &written[3..]);
        assert!(to.engine.digest(SHARD).0.is_some(), "nothing is ahead any more");
        assert_equal(&mut [to, from], &[a, b], "caught up");
    }
}

#[test]
fn r3_what_caught_up_can_leave_the_cache() {
    let (_from, mut to, written) = ahead();
    to.options.cache_bytes = 0;
    let mut to = to.restart(4);
    for id in ["a", "b", "c"] {
        to.view(&key(Kind::Counters, id));
    }
    deliver(&mut to, &written[3..]);
    to.checkpoint();
    let mut evicted = 0;
    for _ in 0..4 {
        to.engine.maintain(|_, _| false);
        evicted += to.engine.take().evicted.len();
    }
    assert_eq!(evicted, 3);
}

#[test]
fn r3_what_was_removed_stays_removed_by_a_transfer() {
    let mut nodes = nodes(2);
    let keys = ["s", "t"].map(|id| key(Kind::Sets, id));
    for key in &keys {
        nodes[0].write(key, add(&["x", "y"]));
    }
    sync_all(&mut nodes);
    nodes[0].write(&keys[0], remove(&["x"]));
    nodes[0].write(&keys[1], Command::Delete);
    nodes[1].write(&keys[0], add(&["z"]));
    let [one, other] = nodes.get_disjoint_mut([1, 0]).unwrap();
    one.merge_from(other, 1 << 20);
    assert_eq!(nodes[1].view(&keys[0]), set_of(&["y", "z"]));
    assert_eq!(nodes[1].view(&keys[1]), None);
    let [one, other] = nodes.get_disjoint_mut([0, 1]).unwrap();
    one.merge_from(other, 1 << 20);
    assert_equal(&mut nodes, &keys, "merged both ways");
}

#[test]
fn r4_a_concurrent_increment_survives_a_delete() {
    let mut nodes = nodes(2);
    let likes = key(Kind::Counters, "likes");
    nodes[0].write(&likes, count(5));
    sync_all(&mut nodes);
    nodes[0].write(&likes, count(2));
    nodes[1].write(&likes, Command::Delete);
    assert_eq!(nodes[1].view(&likes), None);
    sync_all(&mut nodes);
    assert_eq!(nodes[0].view(&likes), Some(View::Counter(2)));
    nodes[0].write(&likes, count(1));
    sync_all(&mut nodes);
    assert_eq!(nodes[1].view(&likes), Some(View::Counter(3)));
    assert_equal(&mut nodes, &[likes], "after the delete");
}

#[test]
fn r4_a_stale_copy_resurrects_nothing() {
    for two_deletes in [false, true] {
        let mut nodes = nodes(4);
        let likes = key(Kind::Counters, "likes");
        let ones: Vec<_> = (0..5).map(|_| nodes[0].write(&likes, count(1))).collect();
        deliver(&mut nodes[1], &ones);
        deliver(&mut nodes[2], &ones[..4]);
        deliver(&mut nodes[3], &ones);
        let whole = nodes[1].write(&likes, Command::Delete);
        let part = nodes[2].write(&likes, Command::Delete);
        // The origin sees the delete and opens an epoch: the closed one is collected there.
        nodes[0].receive(&whole);
        nodes[0].write(&likes, count(1));
        if two_deletes {
            // A delete that saw less arrives afterwards, and at the stale copy it comes alone.
            nodes[0].receive(&part);
            nodes[3].receive(&part);
        }
        let [fresh, stale] = nodes.get_disjoint_mut([0, 3]).unwrap();
        fresh.merge_from(stale, 1 << 20);
        assert_eq!(fresh.view(&likes), Some(View::Counter(1)), "two deletes: {two_deletes}");
        stale.merge_from(fresh, 1 << 20);
        assert_eq!(stale.view(&likes), Some(View::Counter(1)));
        sync_all(&mut nodes);
        assert_equal(&mut nodes, &[likes], "synced");
    }
}

#[test]
fn r4_cycles_leave_the_state_flat() {
    let mut nodes = nodes(2);
    let likes = key(Kind::Counters, "likes");
    let map = key(Kind::Maps, "map");
    let update = |remove: bool| Command::Fields {
        update: vec![("f".into(), FieldCommand::Count { plus: 1, minus: 0 })],
        remove: if remove { vec!["f".into()] } else { Vec::new() },
    };
    for round in 0..50 {
        for at in [0, 1] {
            nodes[at].write(&likes, count(1));
            nodes[at].write(&map, update(round % 2 == 0));
            sync_all(&mut nodes);
        }
        let deleter = round % 2;
        nodes[deleter].write(&likes, Command::Delete);
        nodes[deleter].write(&map, Command::Delete);
        sync_all(&mut nodes);
        for node in &mut nodes {
            assert_eq!(node.view(&likes), None);
            for key in [&likes, &map] {
                assert!(node.engine.entity(key).unwrap().weight() <= 4, "round {round}");
            }
        }
    }
    assert_equal(&mut nodes, &[likes, map], "after the cycles");
}

#[test]
fn r5_a_register_keeps_what_no_operation_named() {
    let mut nodes = nodes(3);
    let name = key(Kind::Registers, "name");
    nodes[0].at(5_000_000).write(&name, set("fast clock"));
    nodes[1].at(1_000_000).write(&name, set("slow clock"));
    sync_all(&mut nodes);
    assert_eq!(nodes[2].view(&name), Some(View::Register(value("fast clock"))));
    assert_eq!(nodes[2].engine.entity(&name).unwrap().weight(), 2);
    // The slow clock has seen both: it is stamped above them all the same.
    nodes[1].write(&name, set("last"));
    sync_all(&mut nodes);
    for node in &mut nodes {
        assert_eq!(node.view(&name), Some(View::Register(value("last"))));
        assert_eq!(node.engine.entity(&name).unwrap().weight(), 1);
    }
}

#[test]
fn r5_equal_stamps_are_parted_by_origin() {
    let mut nodes = nodes(2);
    let name = key(Kind::Registers, "name");
    nodes[0].write(&name, set("one"));
    nodes[1].write(&name, set("two"));
    assert_eq!(nodes[0].stamp(), nodes[1].stamp());
    sync_all(&mut nodes);
    assert_equal(&mut nodes, std::slice::from_ref(&name), "synced");
    assert_eq!(nodes[0].view(&name), Some(View::Register(value("two"))));
}

#[test]
fn r5_the_clock_passes_what_a_transfer_brings() {
    let mut nodes = nodes(2);
    let name = key(Kind::Registers, "name");
    nodes[0].at(5_000_000).write(&name, set("fast clock"));
    let [one, other] = nodes.get_disjoint_mut([1, 0]).unwrap();
    one.merge_from(other, 1 << 20);
    assert!(one.stamp() >= Hlc::at(5_000_000));
    one.write(&name, set("last"));
    assert_eq!(one.view(&name), Some(View::Register(value("last"))));
}

#[test]
fn r6_an_atomic_update_is_one_record_with_one_dot() {
    let mut node = Node::new(1);
    let [set, map] = [key(Kind::Sets, "s"), key(Kind::Maps, "m")];
    let before = node.engine.journal_end();
    let field = |by| FieldCommand::Count { plus: by, minus: 0 };
    let fields = |update| Command::Fields { update, remove: Vec::new() };
    let changes = [
        change(&set, vec![add(&["x"]), remove(&["x"]), add(&["x", "y"]), remove(&["y"])]),
        change(
            &map,
            vec![
                fields(vec![("n".into(), field(1)), ("n".into(), field(2))]),
                fields(vec![
                    ("r".into(), FieldCommand::Set(value("old"))),
                    ("r".into(), FieldCommand::Set(value("new"))),
                ]),
            ],
        ),
    ];
    let (operation, bytes) = node.stage(&changes).unwrap();
    assert_eq!(node.engine.journal_end(), before + 1);
    for part in &operation.parts {
        let mut paths: Vec<_> = part.effect.adds.iter().map(|(path, _)| path).collect();
        paths.extend(part.effect.counts.iter().map(|(path, ..)| path));
        let all = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), all, "one payload a path");
    }
    let staged = node.engine.take();
    assert_eq!(staged.batch.log.len(), 1);
    let entry = Entry::decode(&staged.batch.log[0].1).unwrap();
    assert_eq!(entry, Entry::Operation { shard: SHARD, bytes: bytes.clone() });
    assert_eq!(node.view(&set), set_of(&["x"]));
    // Liveness is per (dot, entity, path): a later remove takes one part only.
    let mut other = Node::new(2);
    other.receive(&bytes);
    assert_eq!(Operation::decode(&bytes).unwrap(), operation);
    other.write(&set, Command::Delete);
    assert_eq!(other.view(&set), None);
    assert_eq!(other.view(&map), node.view(&map));
}

#[test]
fn r6_a_refused_part_changes_nothing() {
    let mut narrow = options();
    narrow.limits = Limits { set_members: 2, ..Limits::default() };
    let memory = atoll_store::backend::memory::Memory::new();
    let mut node = Node::on(&memory, narrow, 1);
    let likes = key(Kind::Counters, "likes");
    let set = key(Kind::Sets, "s");
    let asked: [Change; 2] =
        [change(&likes, vec![count(1)]), change(&set, vec![add(&["x", "y", "z"])])];
    assert!(node.stage(&asked).is_err());
    assert_eq!((node.view(&likes), node.vector().is_empty()), (None, true));
    assert!(node.stage(&[change(&set, vec![add(&["x", "y"])])]).is_ok());
    assert!(node.stage(&[change(&set, vec![remove(&["x"]), add(&["z"])])]).is_ok());
    let whole: usize = chunks(&mut node, 1 << 20).iter().map(|chunk| chunk.states.len()).sum();
    assert!(whole >= 1);
}
