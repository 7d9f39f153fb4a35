//! The rules that the replication core owns, each by name.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use atoll_replication::core::message::{Message, ShardState, Vectors};
use atoll_replication::core::{Bounds, Event};
use atoll_replication::level::Demand;
use atoll_replication::placement::Version;
use atoll_store::command::{Command, Refusal, View};
use atoll_store::dot::{Dot, Hlc, Origin};
use atoll_store::name::{EntityKey, Kind};
use atoll_store::operation::{Effect, Leaf, Operation, Part, Path, Payload};
use atoll_store::shard::ShardId;
use bytes::Bytes;
use common::group::Group;
use common::random::Random;
use common::{add, change, key, keyed, node_id, plus, record, remove, value};

const SHARD: ShardId = ShardId { placement: 0, slot: 0 };

fn set() -> EntityKey {
    key(Kind::Sets, "a")
}

fn view(group: &mut Group, number: u8, key: &EntityKey) -> Option<View> {
    let now = group.now;
    let image = group.nodes.get_mut(&number).unwrap().image(now, key).expect("not damaged");
    image.view(key.kind, now)
}

fn members(group: &mut Group, number: u8) -> Vec<String> {
    match view(group, number, &set()) {
        Some(View::Set(members)) => members
            .iter()
            .map(|m| String::from_utf8(m.to_vec()).unwrap().replace('"', ""))
            .collect(),
        _ => Vec::new(),
    }
}

fn write(group: &mut Group, number: u8, change: atoll_store::command::Change) {
    group.run(number, vec![Event::Write(1, vec![change], Demand::default())]);
}

fn digest(group: &Group, number: u8) -> Option<u128> {
    group.nodes[&number].core.engine().digest(SHARD).0
}

/// An operation of an origin that no node here is.
fn foreign(sequence: u64, adds: &[&str], removes: &[(&str, u64)]) -> Bytes {
    let path = |m: &str| Path { field: None, leaf: Leaf::Member(value(m)) };
    let dot = |sequence| Dot { origin: Origin(99), sequence };
    let effect = Effect {
        adds: adds.iter().map(|m| (path(m), Payload::Unit)).collect(),
        removes: removes.iter().map(|(m, seq)| (path(m), vec![dot(*seq)])).collect(),
        ..Effect::default()
    };
    let parts = vec![Part { key: set(), hash: None, effect }];
    Operation { dot: dot(sequence), stamp: Hlc::at(common::EPOCH_MS), parts }.encode()
}

fn operations(shard: ShardId, operations: Vec<Bytes>) -> Message {
    Message::Operations { relay: false, answer: false, batches: vec![(shard, operations)] }
}

#[test]
fn r1_nothing_is_sent_or_answered_before_the_commit() {
    let mut group = Group::connected(2);
    let now = group.now;
    let node = group.nodes.get_mut(&1).unwrap();
    node.step(now, vec![Event::Write(1, vec![change(&set(), add("x"))], Demand::default())]);
    node.write_out();
    node.memory.crash();
    let memory = node.memory.clone();
    group.start(1, "r1", 11);
    assert!(members(&mut group, 1).is_empty(), "{:?}", memory.unflushed());
}

#[test]
fn r2_operations_wait_behind_a_gap() {
    let mut group = Group::connected(2);
    group.receive(1, 2, &operations(SHARD, vec![foreign(2, &["y"], &[])]));
    assert!(members(&mut group, 2).is_empty());
    let asked = group.take(2, 1);
    let asked: Vec<_> = asked.iter().map(|frame| Message::decode(frame).unwrap()).collect();
    assert!(asked.iter().any(|message| matches!(message, Message::Request(_))), "asked at once");
    group.receive(1, 2, &operations(SHARD, vec![foreign(1, &["x"], &[])]));
    assert_eq!(members(&mut group, 2), ["x", "y"]);
}

#[test]
fn r2_the_buffer_behind_a_gap_is_bounded() {
    let mut group = Group::new();
    group.bounds = Bounds { waiting: 2_000, ..Bounds::default() };
    group.start(1, "r1", 1);
    group.start(2, "r2", 2);
    group.connect(1, 2);
    group.settle();
    for sequence in (2..100).rev() {
        group.receive(1, 2, &operations(SHARD, vec![foreign(sequence, &["y"], &[])]));
    }
    let status = group.run(2, Vec::new()).status;
    group.wait(600);
    let waiting = status.map_or(0, |status| status.waiting);
    assert!(waiting <= 8, "{waiting} operations wait in 2000 bytes");
    let all = (1..100).map(|sequence| foreign(sequence, &["y"], &[])).collect();
    group.receive(1, 2, &operations(SHARD, all));
    assert_eq!(members(&mut group, 2), ["y"]);
    assert_eq!(group.nodes[&2].core.engine().sequence(SHARD, Origin(99)), 99);
}

#[test]
fn r3_a_lost_chunk_is_made_up_for() {
    let mut group = Group::new();
    group.options.log_soft_bytes = 100;
    group.options.log_hard_bytes = 200;
    group.options.checkpoint_bytes = 100;
    group.bounds = Bounds { chunk: 300, ..Bounds::default() };
    group.start(1, "r1", 1);
    group.start(2, "r2", 2);
    for id in 0..60 {
        write(&mut group, 1, change(&key(Kind::Sets, &format!("s{id}")), add("x")));
    }
    group.connect(1, 2);
    let mut lost = 0;
    for _ in 0..400 {
        group.wait(100);
        for number in [1, 2] {
            group.run(number, Vec::new());
        }
        // The third chunk is lost, once.
        while let Some((from, to, frame)) = group.wire.first().cloned() {
            let chunk =
                matches!(Message::decode(&frame), Ok(Message::StateChunk { number: 2, .. }));
            if chunk && lost == 0 {
                lost += 1;
                group.wire.remove(0);
                continue;
            }
            group.deliver(from, to);
        }
    }
    assert_eq!(digest(&group, 1), digest(&group, 2));
    assert!(group.nodes[&2].core.engine().sequence(SHARD, Origin(1)) == 60);
}

#[test]
fn a_record_goes_to_each_node_once_whoever_tells_of_it() {
    let mut group = Group::connected(6);
    // Several at once: what is asked for is answered with the newest.
    let records = (1..=4).map(|number| Event::Placed(Box::new(record("r1", number, &[1], None))));
    group.run(1, records.collect());
    let mut copies = 0;
    while let Some((from, to, frame)) = group.wire.first().cloned() {
        copies += usize::from(matches!(Message::decode(&frame), Ok(Message::Record(_))));
        group.wire.remove(0);
        group.run(to, vec![Event::Received(node_id(from), frame)]);
    }
    assert_eq!((copies, known(&group)), (5, vec![4; 6]));
}

#[test]
fn a_record_that_does_not_come_is_asked_of_another() {
    let mut group = Group::connected(3);
    group.run(1, vec![Event::Placed(Box::new(record("r1", 1, &[1], None)))]);
    group.deliver(1, 2);
    group.deliver(1, 3);
    group.deliver(2, 1);
    group.deliver(1, 2);
    // Node 3 has asked node 1, which goes; node 2, which has it by now, tells of it meanwhile.
    group.disconnect(1, 3);
    group.deliver(2, 3);
    group.wait(1_000);
    assert_eq!(known(&group), [1, 1, 1]);
}

/// The number of the record of `r1` at each node.
fn known(group: &Group) -> Vec<u64> {
    let of = |node: &common::Node| {
        node.core.status().placement.region("r1").map_or(0, |record| record.version.number)
    };
    group.nodes.values().map(of).collect()
}

#[test]
fn r5_a_clock_far_ahead_refuses_to_stamp() {
    let mut group = Group::connected(3);
    let ahead = group.now + 700;
    let pongs = [2, 3].map(|peer| {
        let pong = Message::Pong { sent: ahead, clock: group.now };
        Event::Received(node_id(peer), pong.encode())
    });
    let node = group.nodes.get_mut(&1).unwrap();
    node.run(ahead, pongs.into());
    let (refused, _) = node.write(ahead, change(&set(), add("x")));
    assert_eq!(refused, Err(Refusal::ClockSkew { ahead_ms: 700 }));
    // A peer's operation is never refused.
    let message = operations(SHARD, vec![foreign(1, &["y"], &[])]);
    node.run(ahead, vec![Event::Received(node_id(2), message.encode())]);
    assert_eq!(members(&mut group, 1), ["y"]);
}

#[test]
fn r5_answers_that_come_late_make_no_clock_wrong_and_none_right() {
    let mut group = Group::connected(3);
    let now = group.now;
    let node = group.nodes.get_mut(&1).unwrap();
    let mut expect = |sent, clock, read, ahead_ms: Option<u64>| {
        let pong = Message::Pong { sent, clock }.encode();
        node.run(read, [2, 3].map(|peer| Event::Received(node_id(peer), pong.clone())).into());
        let (done, _) = node.write(read, change(&set(), add("x")));
        assert_eq!(done.err(), ahead_ms.map(|ahead_ms| Refusal::ClockSkew { ahead_ms }));
    };
    expect(now, now + 10, now + 2_000, None);
    // The clock jumps ahead by 700 ms: seen at once, even where the answer waits to be read.
    expect(now + 2_700, now + 2_000, now + 4_700, Some(700));
    // A question that is answered late does not hide it.
    expect(now + 5_700, now + 7_000, now + 7_710, Some(700));
    // Put right, it is right with the first answer that leaves no doubt.
    expect(now + 8_000, now + 8_005, now + 8_010, None);
}

#[test]
fn r8_a_divergence_is_repaired_and_a_logged_remove_wins() {
    let mut group = Group::connected(2);
    // One origin, two histories: the vectors are equal, the contents are not.
    let one = vec![foreign(1, &["x", "z"], &[]), foreign(2, &["y"], &[])];
    let two = vec![foreign(1, &["x", "z"], &[]), foreign(2, &[], &[("x", 1)])];
    group.receive(2, 1, &operations(SHARD, one));
    group.receive(1, 2, &operations(SHARD, two));
    assert_ne!(digest(&group, 1), digest(&group, 2));
    group.settle();
    assert_eq!(digest(&group, 1), digest(&group, 2));
    for number in [1, 2] {
        assert_eq!(members(&mut group, number), ["y", "z"]);
    }
}

#[test]
fn r10_a_retry_at_another_node_counts_once() {
    let counter = key(Kind::Counters, "a");
    let mut group = Group::connected(2);
    group.disconnect(1, 2);
    for number in [1, 2] {
        write(&mut group, number, keyed(&counter, plus(5), 7));
    }
    group.wire.clear();
    group.connect(1, 2);
    group.settle();
    for number in [1, 2] {
        assert_eq!(view(&mut group, number, &counter), Some(View::Counter(5)));
        let now = group.now;
        let node = group.nodes.get_mut(&number).unwrap();
        let (replayed, _) = node.write(now, keyed(&counter, plus(5), 7));
        assert_eq!(replayed, Ok(true));
    }
}

#[test]
fn a_write_that_names_what_has_not_come_here_is_refused_and_not_half_done() {
    let register = key(Kind::MultiRegisters, "a");
    let seen = |sequence, text| {
        let dots = vec![Dot { origin: Group::origin(1), sequence }];
        change(&register, Command::SetSeen(value(text), dots))
    };
    let mut group = Group::connected(2);
    let read = |group: &mut Group, number| match view(group, number, &register) {
        Some(View::MultiRegister(values, _)) => values.len(),
        other => panic!("{other:?}"),
    };
    write(&mut group, 1, change(&register, Command::Set(value("x"))));
    // A client that read at node 1 goes on at node 2, faster than the operation.
    let now = group.now;
    let node = group.nodes.get_mut(&2).unwrap();
    assert_eq!(node.write(now, seen(1, "y")).0, Err(Refusal::Behind));
    group.settle();
    write(&mut group, 2, seen(1, "y"));
    group.settle();
    assert_eq!([1, 2].map(|number| read(&mut group, number)), [1, 1]);
}

#[test]
fn r11_expired_state_is_removed_by_its_setter_or_after_a_grace() {
    let mut group = Group::connected(2);
    let mut short = change(&set(), add("x"));
    short.ttl_ms = Some(1_000);
    write(&mut group, 1, short.clone());
    group.wait(900);
    assert_eq!(members(&mut group, 2), ["x"]);
    let others = |group: &Group, number: u8| {
        let origin = Origin(u64::from(number));
        group.nodes[&2].core.engine().sequence(SHARD, origin)
    };
    group.wait(500);
    assert!(members(&mut group, 2).is_empty());
    assert_eq!((others(&group, 1), others(&group, 2)), (2, 0), "its setter removed it");
    // The setter is gone.
    write(&mut group, 1, short);
    group.deliver_all();
    group.disconnect(1, 2);
    group.nodes.remove(&1);
    group.wait(5_000);
    assert_eq!(others(&group, 2), 0, "within the grace nobody else does");
    group.wait(7_000);
    assert_eq!(others(&group, 2), 1);
}

#[test]
fn r12_a_node_serves_what_is_recorded_for_its_disk_and_for_no_other() {
    let mut group = Group::new();
    group.council = true;
    group.start(1, "r1", 1);
    let refused = |group: &mut Group| {
        let event = Event::Write(1, vec![change(&set(), add("x"))], Demand::default());
        format!("{:?}", group.run(1, vec![event]).replies).contains("Elsewhere")
    };
    assert!(refused(&mut group), "nothing is recorded");
    group.place("r1", 1, &[1]);
    assert!(refused(&mut group), "which disk this is, nobody has said");
    group.run(1, vec![Event::Disk(2)]);
    assert!(refused(&mut group), "the record is of another disk");
    assert_eq!(group.nodes[&1].core.status().unserved.len(), 1, "readers are told");
    group.run(1, vec![Event::Disk(1)]);
    assert!(!refused(&mut group));
    assert!(group.nodes[&1].core.status().unserved.is_empty());
}

#[test]
fn a_peer_that_breaks_the_protocol_is_rejected_and_nothing_changes() {
    let mut group = Group::connected(2);
    let wrong = ShardId { placement: 0, slot: 9 };
    let before = digest(&group, 2);
    let garbage = Event::Received(node_id(1), Bytes::from_static(b"\xFF\xFF\xFF"));
    assert_eq!(group.run(2, vec![garbage]).rejects.len(), 1);
    for message in [
        operations(wrong, vec![foreign(1, &["x"], &[])]),
        operations(SHARD, vec![Bytes::from_static(b"no operation")]),
    ] {
        assert_eq!(group.receive(1, 2, &message).rejects.len(), 1);
    }
    assert_eq!(digest(&group, 2), before);
    assert!(members(&mut group, 2).is_empty());
    // Of a peer that is not connected, nothing is taken.
    group.receive(7, 2, &operations(SHARD, vec![foreign(1, &["x"], &[])]));
    assert!(members(&mut group, 2).is_empty());
}

#[test]
fn damaged_frames_never_panic() {
    let mut random = Random(1);
    let mut group = Group::connected(2);
    write(&mut group, 1, change(&set(), add("x")));
    let vector = group.nodes[&1].core.engine().vector(SHARD);
    let state = ShardState { shard: SHARD, vector, digest: Some(1) };
    let message = |number| {
        Message::Vectors(Box::new(Vectors {
            number,
            whole: true,
            record: Version { epoch: 1, number: 2 },
            issued: vec![(SHARD, 3)],
            shards: vec![state.clone()],
            ..Vectors::default()
        }))
    };
    let mut frames: Vec<Bytes> = group.wire.iter().map(|(_, _, frame)| frame.clone()).collect();
    frames.push(message(100).encode());
    for round in 0..2_000 {
        let mut frame = random.pick(&frames).to_vec();
        let at = random.below(frame.len());
        frame[at] ^= 1 << random.below(8);
        if round % 3 == 0 {
            frame.truncate(at);
        }
        group.run(2, vec![Event::Received(node_id(1), frame.into())]);
        group.wire.clear();
    }
}

#[test]
fn catching_up_costs_about_what_is_missing() {
    let mut group = Group::new();
    group.bounds = Bounds { message: 1_000, answer: 5_000, ..Bounds::default() };
    group.start(1, "r1", 1);
    group.start(2, "r2", 2);
    for number in 0..500 {
        write(&mut group, 1, change(&set(), add(&format!("member-{number}-{}", "x".repeat(80)))));
    }
    group.connect(1, 2);
    let mut carried = 0;
    for _ in 0..100_000 {
        let Some((from, to, frame)) = group.wire.first().cloned() else { break };
        carried += frame.len();
        group.wire.remove(0);
        group.run(to, vec![Event::Received(node_id(from), frame)]);
    }
    group.settle();
    assert_eq!(digest(&group, 1), digest(&group, 2));
    assert!(carried < 2 * 500 * 130, "{carried} bytes carried");
    let gone = vec![change(&set(), Command::Delete), change(&set(), remove("none"))];
    group.run(1, vec![Event::Write(1, gone, Demand::default())]);
}

/// What is swept is of the earlier copy: a state that came before would go with it.
#[test]
fn r3_a_copy_that_was_given_up_takes_no_state_before_it_is_swept() {
    let mut group = Group::new();
    (1..=2).for_each(|number| group.start(number, "r1", u64::from(number)));
    group.place("r1", 1, &[1, 2]);
    group.connect(1, 2);
    write(&mut group, 1, change(&set(), add("a")));
    group.settle();
    let placed = |number, nodes: &[u8]| Event::Placed(Box::new(record("r1", number, nodes, None)));
    group.run(1, vec![placed(2, &[1])]);
    group.run(2, vec![placed(2, &[1])]);
    while group.nodes[&2].core.engine().shards().count() > 0 {
        group.now += 100;
        group.run(2, vec![Event::Tick]);
    }
    assert!(!group.nodes[&2].core.engine().is_swept(SHARD), "the sweep takes a step or two");
    group.wire.clear();
    let late = Event::Received(node_id(1), Message::Trimmed(SHARD).encode());
    group.run(2, vec![placed(3, &[1, 2]), late]);
    let sent = group.take(2, 1).into_iter().map(|frame| Message::decode(&frame).unwrap());
    let asked = sent.filter(|message| matches!(message, Message::StateRequest { .. })).count();
    assert_eq!(asked, 0, "a state would be swept away");
    group.run(1, vec![placed(3, &[1, 2])]);
    group.settle();
    assert_eq!(digest(&group, 2), digest(&group, 1));
}
