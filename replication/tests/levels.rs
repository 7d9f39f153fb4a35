//! Consistency levels: whom an answer waits for, and what becomes of it where they do not answer.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use atoll_replication::core::message::Message;
use atoll_replication::core::{Event, Reply, Written};
use atoll_replication::level::{Count, Demand, Level, Unmet};
use atoll_store::command::{Change, Command, View};
use atoll_store::dot::Origin;
use atoll_store::entity::Image;
use atoll_store::name::{EntityKey, Kind};
use atoll_store::shard::ShardId;
use bytes::Bytes;
use common::group::Group;
use common::{Released, add, change, key, keyed, node_id, plus, record};

const SHARD: ShardId = ShardId { placement: 0, slot: 0 };

fn set() -> EntityKey {
    key(Kind::Sets, "a")
}

fn demand(level: Level) -> Demand {
    Demand { level, timeout_ms: 2_000 }
}

/// What a request came to, if it was answered.
type Answer<T> = Option<Result<T, Unmet>>;

fn written(released: &Released) -> Answer<Written> {
    released.replies.iter().find_map(|(_, reply)| match reply {
        Reply::Written(written) => Some(written[0].clone()),
        _ => None,
    })
}

fn shown(released: &Released) -> Answer<Arc<Image>> {
    released.replies.iter().find_map(|(_, reply)| match reply {
        Reply::Read(image) => Some(image.clone()),
        _ => None,
    })
}

fn members(image: &Image, now: u64) -> Vec<String> {
    match image.view(Kind::Sets, now) {
        Some(View::Set(members)) => {
            members.iter().map(|m| String::from_utf8_lossy(m).replace('"', "")).collect()
        }
        _ => Vec::new(),
    }
}

fn write(group: &mut Group, number: u8, change: Change, level: Level) -> Released {
    group.run(number, vec![Event::Write(1, vec![change], demand(level))])
}

fn read(group: &mut Group, number: u8, level: Level) -> Released {
    group.run(number, vec![Event::Read(2, set(), demand(level))])
}

/// Delivers all but what the filter drops, until `done` of what some node released.
fn deliver<T>(
    group: &mut Group,
    drops: impl Fn(u8, u8, &Message) -> bool,
    done: impl Fn(&Released) -> Option<T>,
) -> Option<T> {
    while let Some((from, to, _)) = group.wire.first().cloned() {
        let frames = group.take(from, to).into_iter();
        let kept = |frame: &Bytes| !drops(from, to, &Message::decode(frame).unwrap());
        let events = frames.filter(kept).map(|frame| Event::Received(node_id(from), frame));
        let released = group.run(to, events.collect());
        if let Some(done) = done(&released) {
            return Some(done);
        }
    }
    None
}

fn all(_: u8, _: u8, _: &Message) -> bool {
    false
}

/// Regions of nodes, recorded as replicas, connected, and quiet: "a" holds 1, 2, 3, "b" 4, 5, 6.
fn regions(sizes: &[u8]) -> Group {
    let mut group = Group::new();
    let (mut next, names) = (1, ["a", "b", "c"]);
    let mut sets = Vec::new();
    for (size, name) in sizes.iter().zip(names) {
        let nodes: Vec<u8> = (next..next + size).collect();
        nodes.iter().for_each(|node| group.start(*node, name, u64::from(*node)));
        next += size;
        sets.push((name, nodes));
    }
    for one in 1..next {
        (1..one).for_each(|other| group.connect(one, other));
    }
    sets.iter().for_each(|(name, nodes)| group.place(name, 1, nodes));
    group.settle();
    group
}

fn sequence(group: &Group, number: u8, origin: u64) -> u64 {
    group.nodes[&number].core.engine().sequence(SHARD, Origin(origin))
}

fn count(each: &[(&str, usize, usize)]) -> Count {
    each.iter().map(|(region, did, of)| ((*region).to_owned(), (*did, *of))).collect()
}

/// Nodes on whose disks the first operation of node 1 is.
fn holders(group: &Group) -> Vec<u8> {
    group.nodes.keys().copied().filter(|node| sequence(group, *node, 1) > 0).collect()
}

#[test]
fn an_acknowledgement_answers_at_once() {
    let mut group = regions(&[3]);
    let asked = write(&mut group, 1, change(&set(), add("x")), Level::LocalQuorum);
    assert!(written(&asked).is_none(), "one disk is no majority of three");
    group.deliver(1, 2);
    let done = group.deliver(2, 1);
    assert!(written(&done).unwrap().is_ok(), "with the first of two, in the step that takes it");
    assert_eq!(holders(&group), [1, 2]);
}

#[test]
fn who_is_enough_alone_waits_for_nobody() {
    let mut group = regions(&[1, 1, 1]);
    for level in [Level::One, Level::LocalQuorum] {
        let asked = write(&mut group, 1, change(&set(), add("x")), level);
        assert!(written(&asked).unwrap().is_ok());
        assert!(shown(&read(&mut group, 1, level)).unwrap().is_ok());
    }
    let alone = &mut regions(&[1]);
    for level in Level::ALL {
        assert!(written(&write(alone, 1, change(&set(), add("x")), level)).unwrap().is_ok());
    }
}

#[test]
fn each_level_waits_for_its_replicas() {
    // With those acknowledgements lost, in two regions of three.
    let cases: [(Level, &[u8], bool); 9] = [
        (Level::LocalQuorum, &[2], true),
        (Level::LocalQuorum, &[2, 3], false),
        (Level::Quorum, &[2, 4], true),
        (Level::Quorum, &[2, 4, 5], false),
        (Level::EachQuorum, &[3, 6], true),
        (Level::EachQuorum, &[2, 3], false),
        (Level::EachQuorum, &[4, 6], false),
        (Level::All, &[], true),
        (Level::All, &[5], false),
    ];
    for (level, lost, expected) in cases {
        let mut group = regions(&[3, 3]);
        let asked = write(&mut group, 1, change(&set(), add("x")), level);
        assert!(written(&asked).is_none());
        let is_lost = |from: u8, _: u8, message: &Message| {
            lost.contains(&from) && matches!(message, Message::Acknowledge(_))
        };
        let done = deliver(&mut group, is_lost, written);
        assert_eq!(done.is_some(), expected, "{level:?} without {lost:?}");
        assert!(done.is_none_or(|result| result.is_ok()));
    }
}

#[test]
fn what_cannot_be_reached_is_refused_before_anything_is_applied() {
    let mut group = regions(&[3, 1]);
    group.disconnect(1, 2);
    group.disconnect(1, 3);
    let unmet = |of: &[(&str, usize, usize)]| Unmet::NotEnough(count(of));
    let refused = written(&write(&mut group, 1, change(&set(), add("x")), Level::LocalQuorum));
    assert_eq!(refused.unwrap().unwrap_err(), unmet(&[("a", 1, 3)]));
    let refused = written(&write(&mut group, 1, change(&set(), add("x")), Level::Quorum));
    assert_eq!(refused.unwrap().unwrap_err(), unmet(&[("a", 1, 3), ("b", 1, 1)]));
    assert_eq!(sequence(&group, 1, 1), 0, "no dot was drawn");
    let refused = shown(&read(&mut group, 1, Level::LocalQuorum));
    assert_eq!(refused.unwrap().unwrap_err(), unmet(&[("a", 1, 3)]));
    assert!(written(&write(&mut group, 1, change(&set(), add("x")), Level::One)).unwrap().is_ok());
}

#[test]
fn what_is_late_says_who_has_it_and_stays() {
    let mut group = regions(&[3, 3]);
    write(&mut group, 1, change(&set(), add("x")), Level::All);
    let silent = |from: u8, _: u8, _: &Message| from == 6;
    assert!(deliver(&mut group, silent, written).is_none());
    group.now += 1_999;
    assert!(written(&group.run(1, vec![Event::Tick])).is_none());
    assert!(group.nodes[&1].core.deadline() <= group.now + 1, "it wakes for that");
    group.now += 1;
    let late = written(&group.run(1, vec![Event::Tick])).unwrap();
    assert_eq!(late.unwrap_err(), Unmet::Late(count(&[("a", 3, 3), ("b", 2, 3)])));
    group.settle();
    assert_eq!(holders(&group), [1, 2, 3, 4, 5, 6], "it spreads all the same");
}

#[test]
fn a_lost_acknowledgement_is_asked_for_again() {
    let mut group = regions(&[3]);
    write(&mut group, 1, change(&set(), add("x")), Level::LocalQuorum);
    let lost = |_: u8, _: u8, message: &Message| matches!(message, Message::Acknowledge(_));
    assert!(deliver(&mut group, lost, written).is_none());
    group.now += 500;
    group.run(1, vec![Event::Tick]);
    assert!(deliver(&mut group, all, written).unwrap().is_ok());
}

#[test]
fn a_retry_and_a_delete_of_nothing_wait_as_well() {
    for again in [keyed(&set(), add("x"), 7), change(&key(Kind::Sets, "b"), Command::Delete)] {
        let mut group = regions(&[3]);
        write(&mut group, 1, keyed(&set(), add("x"), 7), Level::One);
        group.wire.clear();
        let asked = write(&mut group, 1, again, Level::LocalQuorum);
        assert!(written(&asked).is_none(), "only one disk has what it stands on");
        let answered = |released: &Released| written(released);
        let mut done = deliver(&mut group, all, answered);
        for _ in 0..3 {
            group.now += 500;
            for node in [1, 2, 3] {
                let released = group.run(node, vec![Event::Tick]);
                done = done.or(written(&released));
            }
            done = done.or_else(|| deliver(&mut group, all, answered));
        }
        assert!(done.unwrap().is_ok());
        assert!(holders(&group).len() >= 2);
    }
}

#[test]
fn a_read_sees_what_it_lacked_and_repairs_who_lacks_it() {
    let mut group = regions(&[3, 3]);
    // On nodes 3 and 6 alone: nobody else hears of it.
    write(&mut group, 3, change(&set(), add("x")), Level::One);
    deliver(&mut group, |from, to, _| (from, to) != (3, 6), |_| None::<()>);
    assert_eq!((sequence(&group, 3, 3), sequence(&group, 6, 3)), (1, 1));
    // Node 4 reads at a quorum, of which 6 is one.
    let asked = read(&mut group, 4, Level::Quorum);
    assert!(shown(&asked).is_none());
    let away = |from: u8, to: u8, _: &Message| [3, 5].contains(&from) || [3, 5].contains(&to);
    let image = deliver(&mut group, away, shown).unwrap().unwrap();
    assert_eq!(members(&image, group.now), ["x"]);
    let have = (1..=6).filter(|node| sequence(&group, *node, 3) > 0).count();
    assert!(have >= 4, "on a majority before it is answered: {have}");
}

#[test]
fn a_read_of_what_all_have_takes_one_question() {
    let mut group = regions(&[3]);
    write(&mut group, 1, change(&set(), add("x")), Level::One);
    group.settle();
    read(&mut group, 2, Level::LocalQuorum);
    group.deliver(2, 3);
    let image = shown(&group.deliver(3, 2)).expect("one answer is enough").unwrap();
    assert_eq!(members(&image, group.now), ["x"]);
}

#[test]
fn a_late_read_changed_nothing_and_says_who_told() {
    let mut group = regions(&[3]);
    read(&mut group, 1, Level::All);
    assert!(deliver(&mut group, |from, _, _| from == 2, shown).is_none());
    group.now += 2_000;
    let late = shown(&group.run(1, vec![Event::Tick])).unwrap();
    assert_eq!(late.unwrap_err(), Unmet::Late(count(&[("a", 2, 3)])));
}

/// Tells nodes a record of region "a"; what came of it at the last of them.
fn place(
    group: &mut Group,
    nodes: &[u8],
    number: u64,
    current: &[u8],
    next: Option<&[u8]>,
) -> Released {
    let placed = Box::new(record("a", number, current, next));
    let each = nodes.iter().map(|node| group.run(*node, vec![Event::Placed(placed.clone())]));
    each.last().unwrap()
}

/// Records are what the test tells: nodes do not tell each other.
fn records(_: u8, _: u8, message: &Message) -> bool {
    let newer = matches!(message, Message::Records(_) | Message::NewerRecords(_));
    newer || matches!(message, Message::Record(_) | Message::RecordsRequest(_))
}

#[test]
fn r12_what_knows_a_newer_set_does_not_count_for_an_older_one() {
    let mut group = regions(&[3]);
    group.start(4, "a", 4);
    (1..4).for_each(|node| group.connect(4, node));
    group.settle();
    // Nodes 2 and 3 know of a move in which 4 takes the place of 1; node 1 does not.
    place(&mut group, &[2, 3, 4], 2, &[1, 2, 3], Some(&[2, 3, 4]));
    assert!(deliver(&mut group, records, written).is_none());
    write(&mut group, 1, change(&set(), add("x")), Level::LocalQuorum);
    assert!(
        deliver(&mut group, records, written).is_none(),
        "who joins may have asked them before"
    );
    read(&mut group, 1, Level::LocalQuorum);
    assert!(deliver(&mut group, records, shown).is_none());
    // As soon as it knows, what they have said counts.
    let known = place(&mut group, &[1], 2, &[1, 2, 3], Some(&[2, 3, 4]));
    assert!(written(&known).unwrap().is_ok() && shown(&known).unwrap().is_ok());
}

#[test]
fn r12_a_move_needs_both_sets_and_who_joins_counts_once_it_has_caught_up() {
    let mut group = regions(&[3]);
    for node in [4, 5] {
        group.start(node, "a", node.into());
        (1..node).for_each(|other| group.connect(node, other));
    }
    group.settle();
    place(&mut group, &[1, 2, 3, 4, 5], 2, &[1, 2, 3], Some(&[3, 4, 5]));
    // Who joins hears the operation, and nothing of what the others have.
    let apart = |from: u8, to: u8, message: &Message| {
        records(from, to, message) || matches!(message, Message::Followed { .. })
    };
    write(&mut group, 1, change(&set(), add("x")), Level::LocalQuorum);
    assert!(deliver(&mut group, apart, written).is_none(), "of the next set only node 3 counts");
    assert_eq!(holders(&group), [1, 2, 3, 4, 5]);
    for _ in 0..2 {
        group.now += 500;
        let mut done = None;
        for node in 1..=5 {
            let released = group.run(node, vec![Event::Tick]);
            done = done.or(written(&released));
        }
        if done.or_else(|| deliver(&mut group, records, written)).is_some() {
            return;
        }
    }
    panic!("they caught up, and count");
}

#[test]
fn what_is_lost_with_a_connection_does_not_count() {
    let mut group = regions(&[3]);
    write(&mut group, 1, change(&set(), add("x")), Level::All);
    group.deliver(1, 2);
    group.deliver(2, 1);
    // Node 2 comes back without its disk; node 3 acknowledges.
    group.disconnect(1, 2);
    group.nodes.remove(&2);
    group.start(2, "a", 22);
    group.connect(1, 2);
    group.deliver(1, 3);
    assert!(written(&group.deliver(3, 1)).is_none(), "what node 2 acknowledged is gone");
    group.wait(1_000);
    assert!(holders(&group).contains(&3));
}

#[test]
fn so_many_wait_at_most() {
    let mut group = regions(&[3]);
    let many: Vec<Change> =
        (0..8_200).map(|_| change(&key(Kind::Counters, "n"), plus(1))).collect();
    let (first, last) = many.split_at(8_192);
    let level = demand(Level::LocalQuorum);
    group.run(1, vec![Event::Write(1, first.to_vec(), level)]);
    let refused = written(&group.run(1, vec![Event::Write(2, last.to_vec(), level)])).unwrap();
    assert_eq!(refused.unwrap_err(), Unmet::Overloaded);
    assert_eq!(sequence(&group, 1, 1), 8_192);
    assert!(deliver(&mut group, all, written).unwrap().is_ok());
}
