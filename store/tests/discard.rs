//! A copy that is given up, and taken again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;

use atoll_store::backend::Backend;
use atoll_store::backend::memory::Memory;
use atoll_store::command::{Change, View};
use atoll_store::dot::{Hlc, Origin};
use atoll_store::engine::Options;
use atoll_store::log::is_trimmed;
use atoll_store::name::{Collection, Kind};
use atoll_store::reader::Range;
use common::{Node, SHARD, add, assert_equal, change, count, key, options, set};

/// More entities than one step sweeps.
const MANY: usize = 1_500;

fn filled(memory: &Memory) -> Node {
    let mut node = Node::on(memory, options(), 1);
    for number in 0..MANY {
        let one = key(Kind::Registers, &format!("r{number}"));
        node.stage(&[change(&one, vec![set("x")])]).unwrap();
    }
    let members: Vec<String> = (0..4_000).map(|n| format!("a member of some length {n}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    node.write(&key(Kind::Sets, "in-pieces"), add(&members));
    let short = key(Kind::Registers, "short");
    let ttl = Change { ttl_ms: Some(5_000), ..change(&short, vec![set("x")]) };
    node.stage(&[ttl]).unwrap();
    node.checkpoint();
    node.write(&key(Kind::Counters, "in-the-log"), count(7));
    node
}

fn is_listed(node: &Node) -> bool {
    let collection = Collection::parse("c").unwrap();
    let range = Range { kind: Kind::Registers, collection, prefix: String::new(), after: None };
    !node.reader.list(&range, &[0], 0, 1).unwrap().is_empty()
}

fn sweep(node: &mut Node) {
    while !node.engine.is_swept(SHARD) {
        node.engine.maintain(|_, _| false);
        node.commit();
    }
}

fn entity_records(memory: &Memory) -> usize {
    let all = [(b"e", b"f"), (b"p", b"q"), (b"s", b"u"), (b"x", b"y")];
    all.iter().map(|(from, until)| memory.scan(*from, *until, 10_000).unwrap().len()).sum()
}

#[test]
fn a_copy_given_up_leaves_nothing_behind() {
    let memory = Memory::new();
    let mut node = filled(&memory);
    node.engine.discard(SHARD);
    node.commit();
    assert!(node.vector().is_empty() && node.engine.shards().next().is_none());
    assert!(node.engine.entity(&key(Kind::Registers, "r1")).is_err(), "unknown while it is swept");
    assert!(node.engine.expired(u64::MAX, 9).is_empty());
    sweep(&mut node);
    assert_eq!(entity_records(&memory), 0);
    assert!(!is_listed(&node), "readers forget it, too");
    assert_eq!(node.view(&key(Kind::Counters, "in-the-log")), None);
    let mut node = node.restart(2);
    assert!(node.vector().is_empty(), "its log is not replayed");
    assert_eq!(node.view(&key(Kind::Counters, "in-the-log")), None);
}

#[test]
fn an_interrupted_sweep_goes_on_at_the_next_start() {
    let memory = Memory::new();
    let mut node = filled(&memory);
    node.engine.discard(SHARD);
    node.commit();
    node.engine.maintain(|_, _| false);
    node.commit();
    let left = entity_records(&memory);
    assert!(left > 0 && left < MANY, "{left}");
    let mut node = node.restart(2);
    assert!(node.vector().is_empty() && !node.engine.is_swept(SHARD));
    sweep(&mut node);
    assert_eq!(entity_records(&memory), 0);
}

#[test]
fn a_crash_before_the_commit_keeps_the_copy() {
    let memory = Memory::new();
    let mut node = filled(&memory);
    let before = node.engine.digest(SHARD);
    node.engine.discard(SHARD);
    drop(node);
    memory.crash();
    let mut node = Node::on(&memory, options(), 2);
    assert_eq!(node.engine.digest(SHARD), before);
    assert_eq!(node.view(&key(Kind::Counters, "in-the-log")), Some(View::Counter(7)));
}

#[test]
fn a_copy_taken_again_is_as_its_peers() {
    let memory = Memory::new();
    let mut node = filled(&memory);
    let (likes, gone) = (key(Kind::Counters, "in-the-log"), key(Kind::Registers, "r3"));
    let mut peer = Node::new(9);
    peer.sync(&node);
    node.engine.discard(SHARD);
    node.commit();
    sweep(&mut node);
    peer.write(&likes, count(5));
    peer.write(&gone, atoll_store::command::Command::Delete);
    node.merge_from(&mut peer, 4 << 10);
    let keys = [likes.clone(), gone, key(Kind::Sets, "in-pieces")];
    assert_equal(&mut [node, peer], &keys, "after the transfer");
}

#[test]
fn a_copy_taken_again_from_a_log_replays_what_came_since() {
    let memory = Memory::new();
    let mut node = filled(&memory);
    let likes = key(Kind::Counters, "in-the-log");
    let mut peer = Node::new(9);
    peer.sync(&node);
    node.engine.discard(SHARD);
    node.commit();
    let from = node.engine.journal_end();
    sweep(&mut node);
    peer.write(&likes, count(5));
    node.sync(&peer);
    assert_eq!(node.engine.taken_at(SHARD), from);
    let node = node.restart(2);
    assert_eq!(node.engine.taken_at(SHARD), from);
    assert_equal(&mut [node, peer], &[likes], "after a restart");
}

#[test]
fn a_merge_of_states_tells_resumers_that_its_operations_are_not_in_the_log() {
    // A resumer that saw an entity elsewhere must learn that it was deleted, where the deletion
    // came as a state: as nothing at all.
    let mut author = Node::new(1);
    let likes = key(Kind::Counters, "likes");
    author.write(&likes, count(1));
    let seen = BTreeMap::from([(Origin(1), author.stamp())]);
    author.at(2_000_000).write(&likes, atoll_store::command::Command::Delete);
    let mut node = Node::on(&Memory::new(), Options { ..options() }, 2);
    node.merge_from(&mut author, 1 << 20);
    assert!(
        is_trimmed(&*node.backend, |origin| seen.get(&origin).copied().unwrap_or_default())
            .unwrap(),
        "the delete is not in the log"
    );
    let all = BTreeMap::from([(Origin(1), Hlc::at(3_000_000))]);
    assert!(
        !is_trimmed(&*node.backend, |origin| all.get(&origin).copied().unwrap_or_default())
            .unwrap(),
        "who saw the delete resumes"
    );
}
