//! One test and more for each rule of the architecture that the store keeps: R7, R8, R10, R11.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use atoll_store::backend::memory::Memory;
use atoll_store::command::{Change, Command, RequestHash, View};
use atoll_store::dot::{Hlc, Millis, Origin};
use atoll_store::engine::{Options, Readiness};
use atoll_store::entity::RETRY_WINDOW_MS;
use atoll_store::log::{Trimmed, is_trimmed};
use atoll_store::name::{Collection, EntityKey, Kind};
use atoll_store::operation::Operation;
use atoll_store::reader::Range;
use atoll_store::transfer::State;
use common::{Node, SHARD, add, assert_equal, change, count, key, options, remove, set, value};

const SETS: [&str; 3] = ["a", "b", "c"];

fn set_of(members: &[&str]) -> Option<View> {
    Some(View::Set(members.iter().map(|member| value(member)).collect()))
}

fn everything(kind: Kind) -> Range {
    let collection = Collection::parse("c").unwrap();
    Range { kind, collection, prefix: String::new(), after: None }
}

/// Tiny bounds: the log is trimmed wherever it may be.
fn narrow() -> Options {
    Options { log_soft_bytes: 0, checkpoint_bytes: 0, ..options() }
}

#[test]
fn r7_a_restart_replays_what_no_checkpoint_holds() {
    let mut node = Node::new(1);
    let likes = key(Kind::Counters, "likes");
    node.write(&likes, count(1));
    node.checkpoint();
    node.write(&likes, count(2));
    let before = (node.view(&likes), node.vector(), node.engine.digest(SHARD));
    let mut node = node.restart(2);
    assert_eq!((node.view(&likes), node.vector(), node.engine.digest(SHARD)), before);
    let peeked = node.reader.list(&everything(Kind::Counters), &[0], 0, 9).unwrap();
    assert_eq!(peeked[0].1.view(Kind::Counters, 0), Some(View::Counter(3)), "readers see it, too");
    // The log goes on behind what it held; the new start has a sequence of its own.
    node.write(&likes, count(4));
    assert_eq!(node.vector().sequence(Origin(2)), 1);
    assert_eq!(node.restart(3).view(&likes), Some(View::Counter(7)));
}

#[test]
fn r7_the_log_is_trimmed_only_where_saved_and_everywhere() {
    let memory = Memory::new();
    let likes = key(Kind::Counters, "likes");
    let unsaved = Options { checkpoint_bytes: u64::MAX, ..narrow() };
    let mut node = Node::on(&memory, unsaved, 1);
    (0..6).for_each(|_| drop(node.write(&likes, count(1))));
    let kept = |node: &Node| node.engine.operations(SHARD, Origin(1), 1, 1 << 20);
    // Nothing is in a checkpoint.
    node.engine.maintain(|_, _| true);
    node.commit();
    assert_eq!(kept(&node).unwrap().len(), 6);
    // All of it is, and the peers lack what is after 3.
    node.checkpoint();
    let mut node = Node::on(&memory, narrow(), 2);
    node.engine.maintain(|_, dot| dot.sequence <= 3);
    node.commit();
    assert_eq!(kept(&node), Err(Trimmed));
    let rest = node.engine.operations(SHARD, Origin(1), 4, 1 << 20).unwrap();
    assert_eq!(rest.len(), 3);
    // The same after a restart; and a bound that is exceeded trims what peers lack.
    let bounded = Options { log_hard_bytes: 0, ..narrow() };
    let mut node = Node::on(&memory, bounded, 3);
    assert_eq!(kept(&node), Err(Trimmed));
    assert_eq!(node.engine.operations(SHARD, Origin(1), 4, 1 << 20).unwrap(), rest);
    node.write(&likes, count(1));
    node.checkpoint();
    node.engine.maintain(|_, _| false);
    node.commit();
    assert_eq!(node.engine.operations(SHARD, Origin(1), 4, 1 << 20), Err(Trimmed));
    assert_eq!(node.restart(4).view(&likes), Some(View::Counter(7)));
}

#[test]
fn r7_operations_that_came_as_state_are_not_in_the_log() {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    let likes = key(Kind::Counters, "likes");
    let first = one.write(&likes, count(1));
    two.receive(&first);
    one.write(&likes, count(2));
    two.merge_from(&mut one, 1 << 20);
    assert_eq!(two.engine.operations(SHARD, Origin(1), 2, 1 << 20), Err(Trimmed));
}

/// Two equal nodes with three sets, the second restarted on a disk where `damage` was done.
fn damaged(damage: impl Fn(&Memory)) -> (Node, Node, Vec<EntityKey>, Memory) {
    let memory = Memory::new();
    let mut one = Node::new(1);
    let mut two = Node::on(&memory, options(), 2);
    let keys: Vec<_> = SETS.map(|id| key(Kind::Sets, id)).into();
    for key in &keys {
        let bytes = one.write(key, add(&["x", "y"]));
        two.receive(&bytes);
    }
    two.checkpoint();
    drop(two);
    damage(&memory);
    (one, Node::on(&memory, options(), 3), keys, memory)
}

fn record_of(key: &EntityKey) -> Vec<u8> {
    [&b"e"[..], &SHARD.bytes(), &key.bytes()].concat()
}

fn flip_b(memory: &Memory) {
    assert!(memory.corrupt(&record_of(&key(Kind::Sets, "b")), 300));
}

/// Repairs a damaged entity from a peer, as a driver does.
fn replace(node: &mut Node, peer: &mut Node, key: &EntityKey) -> Result<(), Trimmed> {
    let state = State::whole(key.clone(), peer.engine.entity(key).unwrap());
    let (_, entity) = state.into_entity();
    let vector = peer.vector();
    let replaced = node.engine.replace(SHARD, key, entity, &vector);
    node.commit();
    replaced
}

#[test]
fn r8_a_damaged_entity_is_unknown_until_a_peer_replaces_it() {
    let (mut one, mut two, keys, _) = damaged(flip_b);
    let b = &keys[1];
    assert!(two.engine.entity(b).is_err());
    assert_eq!(two.engine.quarantined(), [(SHARD, b.clone())]);
    assert_eq!(two.engine.digest(SHARD).0, None);
    assert!(two.reader.list(&everything(Kind::Sets), &[0], 0, 9).is_err());
    assert!(two.stage(&[change(b, vec![add(&["z"])])]).is_err());
    let mut out = atoll_store::transfer::Outgoing::new(SHARD);
    assert!(two.engine.chunk(&mut out, 1 << 20).is_err(), "not sent");
    assert_eq!(two.view(&keys[0]), set_of(&["x", "y"]), "its neighbours are served");
    // Operations go on; what they do to the damaged entity waits in the log.
    let bytes = [one.write(b, remove(&["x"])), one.write(&keys[2], add(&["z"]))];
    bytes.iter().for_each(|bytes| assert_eq!(two.receive(bytes), Readiness::Ready));
    replace(&mut two, &mut one, b).unwrap();
    assert_eq!(two.view(b), set_of(&["y"]));
    assert_equal(&mut [one, two.restart(4)], &keys, "replaced");
}

#[test]
fn r8_a_replacement_gets_what_only_this_log_holds() {
    let (mut one, mut two, keys, _) = damaged(flip_b);
    let b = &keys[1];
    assert!(two.engine.entity(b).is_err());
    // Two more nodes write to it: one with the higher origin removes what the lower one adds and
    // the other way round, so no order of origins is the order of causes.
    let [mut low, mut high] = [4, 9].map(Node::new);
    for node in [&mut low, &mut high] {
        node.merge_from(&mut one, 1 << 20);
    }
    let mut later = vec![low.write(b, add(&["l"]))];
    high.receive(&later[0]);
    later.extend([high.write(b, remove(&["l"])), high.write(b, add(&["h"]))]);
    later[1..].iter().for_each(|bytes| assert_eq!(low.receive(bytes), Readiness::Ready));
    later.push(low.write(b, remove(&["h"])));
    later.iter().for_each(|bytes| assert_eq!(two.receive(bytes), Readiness::Ready));
    replace(&mut two, &mut one, b).unwrap();
    assert_eq!(two.view(b), set_of(&["x", "y"]));
    assert_equal(&mut [two, low], &keys, "replaced");
}

#[test]
fn r8_a_replacement_waits_for_operations_that_no_log_holds() {
    let (mut one, mut two, keys, _) = damaged(flip_b);
    let b = &keys[1];
    assert!(two.engine.entity(b).is_err());
    let mut third = Node::new(7);
    third.merge_from(&mut one, 1 << 20);
    one.write(b, add(&["z"]));
    two.merge_from(&mut one, 1 << 20);
    assert_eq!(two.vector(), one.vector(), "what is damaged does not hold up the rest");
    assert_eq!(replace(&mut two, &mut third, b), Err(Trimmed), "the peer knows too little");
    assert!(two.engine.entity(b).is_err());
    replace(&mut two, &mut one, b).unwrap();
    assert_equal(&mut [one, two], &keys, "replaced");
}

#[test]
fn r8_a_transfer_to_a_damaged_copy_is_whole() {
    let (mut one, mut two, keys, _) = damaged(flip_b);
    let likes = key(Kind::Counters, "likes");
    let counts: Vec<_> = (0..3).map(|_| one.write(&likes, count(1))).collect();
    two.merge_from(&mut one, 1 << 20);
    for bytes in &counts {
        assert_eq!(two.receive(bytes), Readiness::Seen);
    }
    replace(&mut two, &mut one, &keys[1]).unwrap();
    let keys = [&keys[..], &[likes]].concat();
    assert_equal(&mut [one, two], &keys, "replaced");
}

#[test]
fn r8_a_replaced_entity_expires() {
    let (mut one, mut two, keys, _) = damaged(flip_b);
    let b = &keys[1];
    let ttl = Change { ttl_ms: Some(5_000), ..change(b, vec![add(&["t"])]) };
    let (_, bytes) = one.stage(&[ttl]).unwrap();
    one.commit();
    two.receive(&bytes);
    assert_eq!(two.engine.next_expiry(), None);
    replace(&mut two, &mut one, b).unwrap();
    assert!(two.engine.next_expiry().is_some());
    assert_eq!(two.engine.next_expiry(), one.engine.next_expiry());
}

#[test]
fn r8_a_damaged_shard_record_is_not_an_empty_shard() {
    let shard_record = [&b"s"[..], &SHARD.bytes()].concat();
    let flip = |memory: &Memory| assert!(memory.corrupt(&shard_record, 77));
    let (mut one, mut two, mut keys, _) = damaged(flip);
    // Whatever of the log is replayed over the records counts once.
    two.sync(&one);
    let likes = key(Kind::Counters, "likes");
    keys.push(likes.clone());
    two.receive(&one.write(&likes, count(1)));
    assert_equal(&mut [one, two], &keys, "filled again");
}

#[test]
fn r8_a_damaged_shard_record_counts_nothing_twice() {
    let memory = Memory::new();
    let likes = key(Kind::Counters, "likes");
    let mut node = Node::on(&memory, options(), 1);
    (0..5).for_each(|_| drop(node.write(&likes, count(1))));
    let digest = node.engine.digest(SHARD);
    node.checkpoint();
    memory.corrupt(&[&b"s"[..], &SHARD.bytes()].concat(), 77);
    let mut node = node.restart(2);
    assert_eq!(node.view(&likes), Some(View::Counter(5)));
    assert_eq!(node.engine.digest(SHARD), digest);
}

#[test]
fn r8_equal_vectors_with_unequal_content_are_repaired() {
    let (mut one, mut two, keys, memory) = damaged(|_| {});
    // A record of an older state comes back with a sound checksum: a lost write of the disk.
    let b = &keys[1];
    two.view(b);
    two.receive(&one.write(b, add(&["w"])));
    two.checkpoint();
    let old = memory.snapshot();
    two.receive(&one.write(b, remove(&["x"])));
    two.receive(&one.write(b, add(&["z"])));
    two.checkpoint();
    drop(two);
    let new = memory.snapshot();
    memory.restore(&old);
    let at = record_of(b);
    let record = atoll_store::backend::Backend::get(&memory, &at).unwrap().unwrap();
    memory.restore(&new);
    let lost = [(at, Some(record.to_vec()))];
    atoll_store::backend::Backend::commit(&memory, &lost).unwrap();
    atoll_store::backend::Backend::flush(&memory).unwrap();
    let mut two = Node::on(&memory, options(), 5);
    assert_eq!(two.vector(), one.vector());
    let sums = |node: &mut Node| node.engine.sums(SHARD, None, 99).unwrap().0;
    let (here, there) = (sums(&mut one), sums(&mut two));
    let unequal: Vec<_> = here.iter().filter(|pair| !there.contains(pair)).collect();
    assert_eq!(unequal.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b]);
    repair(&mut one, &mut two, b);
    repair(&mut two, &mut one, b);
    for node in [&mut one, &mut two] {
        assert_eq!(node.view(b), set_of(&["w", "y", "z"]), "what a log names removed stays so");
    }
    let digests = [&mut one, &mut two].map(|node| node.digest_anew(SHARD, &keys));
    assert_eq!(digests[0], digests[1]);
    assert_eq!(two.sum(b), one.sum(b));
}

/// One direction of a repair, as a driver does it.
fn repair(node: &mut Node, peer: &mut Node, key: &EntityKey) {
    let other = peer.engine.entity(key).unwrap().clone();
    let mine = node.engine.entity(key).unwrap().clone();
    let doubtful = [mine.lacks(&other), other.lacks(&mine)].concat();
    let mut removed = node.engine.removed_by_log(key, &doubtful);
    removed.extend(peer.engine.removed_by_log(key, &doubtful));
    node.engine.repair(SHARD, key, &other, &removed).unwrap();
    node.commit();
}

fn keyed(key: &EntityKey, command: Command, hash: u128) -> Change {
    let hash = Some(RequestHash { key: hash, request: 7 });
    Change { hash, ..change(key, vec![command]) }
}

fn write_keyed(node: &mut Node, at: Millis, change: Change) -> Operation {
    let (operation, _) = node.at(at).stage(&[change]).unwrap();
    node.commit();
    operation
}

#[test]
fn r10_a_retry_at_another_node_counts_once() {
    let likes = key(Kind::Counters, "likes");
    for state in [false, true] {
        let [mut one, mut two, mut three] = [1, 2, 3].map(Node::new);
        for node in [&mut two, &mut one] {
            write_keyed(node, 1_000_000, keyed(&likes, count(5), 1));
            assert_eq!(node.view(&likes), Some(View::Counter(5)));
        }
        if state {
            three.merge_from(&mut two, 1 << 20);
            three.merge_from(&mut one, 1 << 20);
            one.merge_from(&mut three, 1 << 20);
            two.merge_from(&mut three, 1 << 20);
        } else {
            three.sync(&two);
            three.sync(&one);
            one.sync(&three);
            two.sync(&three);
        }
        assert_eq!(three.view(&likes), Some(View::Counter(5)));
        assert_equal(&mut [one, two, three], std::slice::from_ref(&likes), "synced");
    }
}

#[test]
fn r10_the_removes_of_the_higher_one_stand() {
    let [mut one, mut two] = [1, 2].map(Node::new);
    let name = key(Kind::Registers, "name");
    let first = two.write(&name, set("first"));
    write_keyed(&mut one, 1_000_000, keyed(&name, set("second"), 1));
    write_keyed(&mut two, 1_000_000, keyed(&name, set("second"), 1));
    one.receive(&first);
    one.sync(&two);
    two.sync(&one);
    let live = one.engine.entity(&name).unwrap().origins().collect::<Vec<_>>();
    assert_eq!(live, [Origin(1)], "the value of the lower dot alone");
    assert_equal(&mut [one, two], &[name], "synced");
}

#[test]
fn r10_the_memory_survives_a_delete_and_pairs_within_a_day() {
    let likes = key(Kind::Counters, "likes");
    for (apart, counted) in [(RETRY_WINDOW_MS, None), (RETRY_WINDOW_MS + 1, Some(5))] {
        let [mut one, mut two] = [1, 2].map(Node::new);
        write_keyed(&mut one, 1_000_000, keyed(&likes, count(5), 1));
        one.write(&likes, Command::Delete);
        write_keyed(&mut two, 1_000_000 + apart, keyed(&likes, count(5), 1));
        let mut one = one.restart(3);
        one.sync(&two);
        assert_eq!(one.view(&likes), counted.map(View::Counter), "{apart} ms apart");
        let remembered = one.engine.entity(&likes).unwrap().remembered(1, 1_000_000).count();
        assert_eq!(remembered, 2);
        two.sync(&one);
        assert_equal(&mut [one, two], std::slice::from_ref(&likes), "synced");
    }
}

#[test]
fn r11_expired_state_is_hidden_and_dropped_by_an_observed_remove() {
    let [mut one, mut two] = [1, 2].map(Node::new);
    let set = key(Kind::Sets, "s");
    let ttl = Change { ttl_ms: Some(1_000), ..change(&set, vec![add(&["x"])]) };
    let (_, bytes) = one.at(10_000).stage(&[ttl]).unwrap();
    one.commit();
    two.receive(&bytes);
    let shown = |node: &Node, now| node.reader.peek(&set).unwrap().view(Kind::Sets, now);
    assert_eq!(shown(&one, 10_999), set_of(&["x"]));
    assert_eq!(shown(&one, 11_000), None);
    let range = everything(Kind::Sets);
    assert!(one.reader.list(&range, &[0], 11_000, 9).unwrap().is_empty());
    assert_eq!(one.engine.expired(10_999, 9), []);
    assert_eq!(one.engine.expired(11_000, 9), std::slice::from_ref(&set));
    // A concurrent write elsewhere was not seen by the one that finds it expired.
    let concurrent = two.at(10_500).write(&set, add(&["y"]));
    one.at(12_000).write(&set, add(&["z"]));
    assert_eq!(one.view(&set), set_of(&["z"]));
    assert_eq!(one.engine.next_expiry(), None);
    one.receive(&concurrent);
    two.sync(&one);
    assert_eq!(two.view(&set), set_of(&["y", "z"]));
    assert_equal(&mut [one, two], &[set], "synced");
}

#[test]
fn r11_expiry_survives_checkpoints_restarts_and_eviction() {
    let memory = Memory::new();
    let cold = Options { cache_bytes: 0, checkpoint_bytes: 0, ..options() };
    let mut node = Node::on(&memory, cold, 1);
    let keys: Vec<_> = SETS.map(|id| key(Kind::Sets, id)).into();
    for (key, ttl_ms) in keys.iter().zip([3_000, 1_000, 2_000]) {
        let ttl = Change { ttl_ms: Some(ttl_ms), ..change(key, vec![add(&["x"])]) };
        node.at(10_000).stage(&[ttl]).unwrap();
        node.engine.maintain(|_, _| false);
        node.commit();
    }
    let longer = Change { ttl_ms: Some(9_000), ..change(&keys[1], vec![add(&["y"])]) };
    node.stage(&[longer]).unwrap();
    node.commit();
    let mut node = node.restart(2);
    assert_eq!(node.engine.expired(13_000, 9), [keys[2].clone(), keys[0].clone()]);
    node.at(14_000).write(&keys[0], Command::Delete);
    node.checkpoint();
    let node = node.restart(3);
    assert_eq!(node.engine.expired(13_000, 9), [keys[2].clone()]);
    assert_eq!(node.engine.next_expiry(), Some(12_000));
}

/// Rounds of housekeeping, enough for the eviction hand to pass twice.
fn keep_house(node: &mut Node) {
    node.checkpoint();
    for _ in 0..4 {
        node.engine.maintain(|_, _| false);
        node.commit();
    }
}

#[test]
fn the_cache_is_bounded_by_the_size_of_values() {
    let small = Options { cache_bytes: 64 << 10, ..options() };
    let mut node = Node::on(&Memory::new(), small, 1);
    let keys: Vec<_> = (0..16).map(|id| key(Kind::Registers, &id.to_string())).collect();
    keys.iter().for_each(|key| drop(node.write(key, set(&"x".repeat(32 << 10)))));
    keep_house(&mut node);
    let hot = keys.iter().filter(|key| node.reader.peek(key).is_some()).count();
    assert!(hot <= 2, "{hot} values of 32 KiB stay in a cache of 64 KiB");
}

#[test]
fn r10_forgotten_retries_take_no_room_in_the_cache() {
    let small = Options { cache_bytes: 64 << 10, ..options() };
    let mut node = Node::on(&Memory::new(), small, 1);
    let (tags, other) = (key(Kind::Sets, "tags"), key(Kind::Sets, "other"));
    for hash in 0..500 {
        write_keyed(&mut node, 1_000_000, keyed(&tags, add(&["x"]), hash));
    }
    node.write(&other, add(&["y"]));
    node.engine.close_retries(Hlc::at(2_000_000));
    assert_eq!(node.engine.forget_retries(&tags), Ok(0));
    keep_house(&mut node);
    assert!(node.reader.peek(&tags).is_some() && node.reader.peek(&other).is_some());
}

#[test]
fn r8_a_restart_knows_what_was_found_damaged() {
    let (mut one, mut two, keys, _) = damaged(flip_b);
    assert!(two.engine.entity(&keys[1]).is_err());
    // The checkpoint's vector covers this, and the damaged record does not have it.
    two.receive(&one.write(&keys[1], add(&["z"])));
    two.checkpoint();
    let mut two = two.restart(4);
    assert_eq!(two.engine.digest(SHARD).0, None, "no digest is told without its share");
    replace(&mut two, &mut one, &keys[1]).unwrap();
    two.checkpoint();
    let two = two.restart(5);
    assert_eq!(two.engine.quarantined(), []);
    assert_equal(&mut [one, two], &keys, "replaced");
}

#[test]
fn r8_damage_met_by_a_comparison_is_quarantined() {
    let (_one, mut two, keys, _) = damaged(flip_b);
    assert!(two.engine.sums(SHARD, None, 100).is_err());
    assert_eq!(two.engine.quarantined(), [(SHARD, keys[1].clone())], "or nobody asks for it");
}

#[test]
fn r7_a_trimmed_merge_tells_what_it_brought() {
    let memory = Memory::new();
    let (mut one, mut two) = (Node::new(1), Node::on(&memory, narrow(), 2));
    let (likes, other) = (key(Kind::Counters, "likes"), key(Kind::Counters, "other"));
    one.write(&likes, count(1));
    let brought = one.stamp();
    let below = |origin| if origin == Origin(1) { Hlc(brought.0 - 1) } else { Hlc(u64::MAX) };
    assert!(!is_trimmed(&memory, below).expect("sound"));
    two.merge_from(&mut one, 1 << 20);
    for _ in 0..4 {
        two.at(2_000_000).write(&other, count(1));
        two.checkpoint();
        two.engine.maintain(|_, _| true);
        two.commit();
    }
    // Who resumes below it must start anew: the log no longer tells what the merge changed.
    assert!(two.engine.trimmed().get(&Origin(1)).is_some_and(|stamp| *stamp >= brought));
    assert!(is_trimmed(&memory, below).expect("sound"), "the trim and its word are one commit");
}

#[test]
fn r7_after_damage_nobody_takes_a_trimmed_log_for_a_whole_one() {
    let memory = Memory::new();
    let mut node = Node::on(&memory, options(), 1);
    node.write(&key(Kind::Counters, "likes"), count(1));
    let clocks = |_| Hlc(u64::MAX - 1);
    assert!(!is_trimmed(&memory, clocks).expect("sound"));
    assert!(memory.corrupt(b"m", 20));
    assert!(is_trimmed(&memory, clocks).expect("known to be damaged"));
    let _node = node.restart(2);
    assert!(is_trimmed(&memory, clocks).expect("sound again"), "forgotten by the next start");
}
