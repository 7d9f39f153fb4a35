//! A core in its caller's hands: what is released when, and what is not after a failure.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use atoll_store::backend::memory::Memory;
use atoll_store::command::{Change, Command};
use atoll_store::dot::Origin;
use atoll_store::engine::{Changed, Engine, Options};
use atoll_store::log::Entry;
use atoll_store::name::{EntityKey, Kind};
use atoll_store::reader::Reader;

use super::*;
use crate::core::{Identity, Status};
use crate::driver::{Clock, Observer, Unanswered};
use crate::level::Demand;
use crate::placement::Ending;
use crate::transport::{Class, NodeId, Transport};

/// What left the node, in order, and whether its readers showed it by then.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Left {
    Sent(NodeId),
    Committed(Vec<(String, bool)>),
}

/// A network and an observer that take notes.
struct Notes {
    left: Mutex<Vec<Left>>,
    reader: Reader,
}

impl Transport for Notes {
    fn send(&self, to: NodeId, class: Class, _: Bytes) -> bool {
        // Vectors and pings are not about steps.
        if class == Class::Operations {
            self.left.lock().unwrap().push(Left::Sent(to));
        }
        true
    }

    fn datagram(&self, _: NodeId, _: Bytes) -> bool {
        false
    }

    fn received(&self, _: NodeId) -> Option<u64> {
        None
    }

    fn reject(&self, _: NodeId, _: &'static str) {}

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }
}

impl Observer for Notes {
    fn committed(&self, changes: &[Changed]) {
        let shown = |changed: &Changed| {
            let image = self.reader.peek(&changed.key);
            (
                changed.key.id.as_str().to_owned(),
                image.is_some_and(|i| Arc::ptr_eq(&i, &changed.image)),
            )
        };
        self.left.lock().unwrap().push(Left::Committed(changes.iter().map(shown).collect()));
    }

    fn caught_up(&self, _: &[(u16, u64)]) {}

    fn endings(&self, _: Vec<Ending>) {}

    fn status(&self, _: Status) {}
}

/// A clock that is set by hand.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }
}

struct World {
    stepped: Stepped,
    replica: Replica,
    memory: Memory,
    notes: Arc<Notes>,
    clock: Arc<Hand>,
}

fn world() -> World {
    open(Memory::default(), Origin(7), 1_000_000)
}

fn open(memory: Memory, origin: Origin, now: Millis) -> World {
    let backend = Arc::new(memory.clone());
    let options = Options { slots: 4, ..Options::default() };
    let engine = Engine::open(backend.clone(), options, origin).unwrap();
    let reader = Reader::new(backend, options.slots);
    let notes = Arc::new(Notes { left: Mutex::default(), reader: reader.clone() });
    let clock = Arc::new(Hand(AtomicU64::new(now)));
    let identity = Identity {
        node: NodeId([1; 16]),
        name: "eu-1".into(),
        region: "eu".into(),
        zone: "a".into(),
        address: "10.0.0.1:7400".into(),
        version: "0".into(),
        origin,
        seeds: 0,
        council: false,
        disk: None,
    };
    let (transport, observer) = (notes.clone(), notes.clone());
    let parts =
        Parts { identity, engine, reader, transport, clock: clock.clone(), observer, reserve: 0 };
    let (stepped, replica) = Stepped::new(parts, Bounds::default());
    World { stepped, replica, memory, notes, clock }
}

impl World {
    fn left(&self) -> Vec<Left> {
        std::mem::take(&mut *self.notes.left.lock().unwrap())
    }

    /// Commits and flushes what waits.
    fn settle(&mut self) {
        self.stepped.commit().unwrap();
        self.stepped.flush().unwrap();
    }
}

fn add(id: &str) -> Vec<Change> {
    let key = EntityKey::parse(Kind::Counters, "c", id).unwrap();
    let commands = vec![Command::Count { plus: 1, minus: 0 }];
    vec![Change { key, commands, hash: None, ttl_ms: None }]
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn committed(id: &str) -> Left {
    Left::Committed(vec![(id.to_owned(), true)])
}

#[test]
fn a_write_is_answered_after_its_flush_and_in_order() {
    let mut world = world();
    world.settle();
    let replica = world.replica.clone();
    let (mut one, mut two) = (
        pin!(replica.write(add("one"), Demand::default())),
        pin!(replica.write(add("two"), Demand::default())),
    );
    assert!(poll(one.as_mut()).is_pending() && world.stepped.has_requests());
    let first = world.stepped.step(Vec::new());
    assert!(poll(two.as_mut()).is_pending());
    let second = world.stepped.step(Vec::new());
    assert!(!world.stepped.has_requests() && second.number == first.number + 1);
    let logged: Vec<u64> = [first, second].iter().flat_map(|t| &t.logged).map(|l| l.0).collect();
    assert_eq!(logged, [1, 2]);

    assert_eq!((world.stepped.flush().unwrap(), world.memory.commits()), (0, 1));
    assert!(world.stepped.has_queued() && !world.stepped.has_written());
    world.stepped.commit().unwrap();
    assert!(!world.stepped.has_queued() && world.stepped.has_written());
    assert_eq!(world.memory.commits(), 2, "both steps in one write");
    assert!(poll(one.as_mut()).is_pending() && poll(two.as_mut()).is_pending());
    assert_eq!(world.left(), []);

    assert_eq!(world.stepped.flush().unwrap(), 2);
    assert_eq!(world.left(), [committed("one"), committed("two")]);
    for written in [poll(one), poll(two)] {
        let Poll::Ready(Ok(written)) = written else { panic!("not answered") };
        assert!(matches!(&written[..], [Ok(_)]));
    }
}

#[test]
fn peers_are_sent_what_is_durable_and_before_observers_hear_of_it() {
    let mut world = world();
    let peer = NodeId([2; 16]);
    let connected = Arrival::Connected { peer, address: ([10, 0, 0, 2], 7400).into() };
    world.stepped.step(vec![connected]);
    world.settle();
    let replica = world.replica.clone();
    let mut write = pin!(replica.write(add("one"), Demand::default()));
    assert!(poll(write.as_mut()).is_pending());
    world.stepped.step(Vec::new());
    world.stepped.commit().unwrap();
    assert_eq!(world.left(), []);
    world.stepped.flush().unwrap();
    assert_eq!(world.left(), [Left::Sent(peer), committed("one")]);
}

#[test]
fn after_a_failure_nothing_is_released() {
    for fail in [Memory::fail_next_commit, Memory::fail_next_flush] {
        let mut world = world();
        world.settle();
        let replica = world.replica.clone();
        let mut write = pin!(replica.write(add("one"), Demand::default()));
        assert!(poll(write.as_mut()).is_pending());
        world.stepped.step(Vec::new());
        fail(&world.memory);
        let failed = world.stepped.commit().and_then(|()| world.stepped.flush());
        assert!(failed.is_err());
        assert!(world.stepped.flush().is_err() && world.stepped.commit().is_err());
        assert!(matches!(poll(write), Poll::Ready(Err(Unanswered::Unknown))));
        assert_eq!(world.left(), []);
    }
}

#[test]
fn a_stop_is_answered_when_the_last_step_is_durable() {
    let mut world = world();
    world.settle();
    let replica = world.replica.clone();
    let (mut write, mut stop) =
        (pin!(replica.write(add("one"), Demand::default())), pin!(replica.stop()));
    assert!(poll(write.as_mut()).is_pending() && poll(stop.as_mut()).is_pending());
    world.stepped.step(Vec::new());
    world.stepped.commit().unwrap();
    assert!(world.stepped.has_stopped() && poll(stop.as_mut()).is_pending());
    assert!(matches!(poll(pin!(replica.digests())), Poll::Ready(Err(Unanswered::Stopping))));
    assert_eq!(world.stepped.step(Vec::new()), Turned::default());
    world.stepped.flush().unwrap();
    assert!(poll(stop).is_ready() && poll(write).is_ready());
}

#[test]
fn time_is_the_clock_that_it_was_given() {
    let mut world = world();
    world.settle();
    let deadline = world.stepped.deadline();
    assert!(deadline > world.clock.now());
    world.clock.0.store(deadline, Ordering::Relaxed);
    world.stepped.step(Vec::new());
    assert!(world.stepped.deadline() > deadline && world.replica.turned() == deadline);
}

#[test]
fn what_the_first_step_logged_is_told_with_the_next() {
    let mut before = world();
    let replica = before.replica.clone();
    let change = add("one").into_iter().map(|change| Change { ttl_ms: Some(1), ..change });
    let mut write = pin!(replica.write(change.collect(), Demand::default()));
    assert!(poll(write.as_mut()).is_pending());
    before.stepped.step(Vec::new());
    before.settle();
    // A long time later a start deletes what has expired.
    let mut after = open(before.memory.clone(), Origin(8), before.clock.now() + 86_400_000);
    let turned = after.stepped.step(Vec::new());
    let positions: Vec<u64> = turned.logged.iter().map(|(position, _)| *position).collect();
    assert_eq!((turned.number, positions), (2, vec![2]));
    let deleted = Entry::decode(&turned.logged[0].1).expect("an entry");
    assert!(matches!(deleted, Entry::Operation { .. }));
}
