//! A node in its caller's hands: all that surfaces do, with no runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_replication::core::Bounds;
use atoll_replication::driver::Stepped;
use atoll_replication::transport::NodeId;
use atoll_store::backend::memory::Memory;
use atoll_store::command::{Command, Value};
use atoll_store::dot::Millis;
use futures_util::FutureExt;

use super::*;

/// A clock that is set by hand.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }
}

struct World {
    node: Node,
    stepped: Stepped,
    memory: Memory,
    clock: Arc<Hand>,
}

impl World {
    fn open(memory: Memory, origin: u64, now: Millis) -> World {
        let clock = Arc::new(Hand(AtomicU64::new(now)));
        let mut settings = testing::settings("unused".as_ref(), "eu");
        settings.store.slots = 4;
        let (transport, backend) = (Arc::new(testing::Nowhere), Arc::new(memory.clone()));
        let id = NodeId([1; 16]);
        let (time, origin) = (clock.clone(), Origin(origin));
        let started =
            Node::stepped(settings, id, transport, backend, time, origin, Bounds::default());
        let (node, stepped) = started.expect("a node starts in memory");
        let mut world = World { node, stepped, memory, clock };
        world.turn();
        world
    }

    fn turn(&mut self) {
        self.stepped.step(Vec::new());
        self.stepped.commit().unwrap();
        self.stepped.flush().unwrap();
    }

    /// Drives a future to its end.
    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        for _ in 0..10 {
            if let Some(done) = future.as_mut().now_or_never() {
                return done;
            }
            self.turn();
        }
        panic!("it waits for more than steps");
    }

    fn write(&mut self, id: &str, text: &str) {
        let node = self.node.clone();
        let commands = vec![Command::Set(value(text))];
        let change = Change { key: key(id), commands, hash: None, ttl_ms: None };
        let written = self.run(async move { node.write(vec![change], Demand::default()).await });
        assert!(matches!(&written[..], [Ok(_)]));
    }

    fn subscribe(&mut self, prefix: &str, start: Start) -> Subscription {
        let (kind, collection) = (Kind::Registers, key("x").collection);
        let what = Selection::Prefix { kind, collection, prefix: prefix.to_owned() };
        let node = self.node.clone();
        self.run(async move { node.subscribe(what, start).await }).expect("a subscription")
    }

    fn pass(&self, ms: Millis) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }
}

fn key(id: &str) -> EntityKey {
    EntityKey::parse(Kind::Registers, "c", id).expect("a name")
}

fn value(text: &str) -> Value {
    Value::copy_from_slice(format!("\"{text}\"").as_bytes())
}

/// What is there to be received now, in short, and the last cursor.
fn received(subscription: &mut Subscription) -> (Vec<String>, Option<Cursor>) {
    let (mut records, mut last) = (Vec::new(), None);
    while let Some((record, cursor)) = subscription.next().now_or_never() {
        records.push(match record {
            Record::Snapshot(changed) => format!("snapshot {}", changed.key.id.as_str()),
            Record::Changed(changed) => format!("changed {}", changed.key.id.as_str()),
            Record::Ready => "ready".to_owned(),
            Record::Progress => "progress".to_owned(),
            Record::Reset => "reset".to_owned(),
            Record::Ended(code) => format!("ended {code}"),
        });
        last = Some(cursor);
    }
    (records, last)
}

fn check(subscription: &mut Subscription, expect: &[&str]) -> Option<Cursor> {
    let (records, cursor) = received(subscription);
    assert_eq!(records, expect);
    cursor
}

#[test]
fn a_write_is_seen_when_its_caller_has_flushed() {
    let mut world = World::open(Memory::default(), 1, 1_000_000);
    let (node, commands) = (world.node.clone(), vec![Command::Set(value("a"))]);
    let change = Change { key: key("k"), commands, hash: None, ttl_ms: None };
    let mut write = Box::pin(node.write(vec![change], Demand::default()));
    assert!(write.as_mut().now_or_never().is_none());
    world.stepped.step(Vec::new());
    world.stepped.commit().unwrap();
    assert!(write.as_mut().now_or_never().is_none() && node.peek(&key("k")).is_none());
    world.stepped.flush().unwrap();
    let written = write.now_or_never().expect("answered");
    let image = written[0].as_ref().expect("taken").image.clone();
    assert!(node.peek(&key("k")).is_some_and(|shown| Arc::ptr_eq(&shown, &image)));
}

#[test]
fn reads_and_lists_need_no_runtime() {
    let mut world = World::open(Memory::default(), 1, 1_000_000);
    for id in ["a", "b", "c"] {
        world.write(id, "v");
    }
    let mut world = World::open(world.memory.clone(), 2, 2_000_000);
    let node = world.node.clone();
    let (known, other) = (key("b"), key("none"));
    let image = world.run(node.read(&known)).expect("readable");
    assert!(!image.is_absent(node.now()));
    assert!(world.run(node.read(&other)).expect("readable").is_absent(node.now()));
    let collection = known.collection.clone();
    let page =
        world.run(node.list(Kind::Registers, &collection, "", Some("a"), 1)).expect("a page");
    assert_eq!(page.items.first().map(|(key, _)| key), Some(&known));
    assert!(page.more && page.items.len() == 1);
    let digests = world.run(node.digests(None)).expect("digests");
    assert_eq!(digests.iter().map(|shard| shard.entities).sum::<u64>(), 3);
}

#[test]
fn a_subscription_goes_by_the_clock_of_its_node() {
    let mut world = World::open(Memory::default(), 1, 1_000_000);
    world.write("a/1", "v");
    world.write("b/1", "v");
    let mut subscription = world.subscribe("a/", Start::Snapshot);
    check(&mut subscription, &["snapshot a/1", "ready"]);
    world.write("a/2", "v");
    world.write("b/2", "v");
    check(&mut subscription, &["changed a/2"]);
    world.pass(14_999);
    check(&mut subscription, &[]);
    world.pass(1);
    let cursor = check(&mut subscription, &["progress"]).expect("a cursor");
    world.pass(15_000);
    check(&mut subscription, &[]);

    world.write("a/3", "v");
    let mut resumed = world.subscribe("a/", Start::After(cursor));
    check(&mut resumed, &["changed a/3", "progress"]);
    check(&mut subscription, &["changed a/3"]);
}

#[test]
fn a_wait_that_is_kept_ends_when_the_clock_moves_or_is_set_back() {
    for now in [1_015_000, 900_000] {
        let mut world = World::open(Memory::default(), 1, 1_000_000);
        let mut subscription = world.subscribe("a/", Start::Now);
        check(&mut subscription, &["progress"]);
        let mut next = Box::pin(subscription.next());
        world.write("b/1", "v");
        assert!(next.as_mut().now_or_never().is_none());
        world.clock.0.store(now, Ordering::Relaxed);
        let (record, _) = next.as_mut().now_or_never().expect("progress");
        assert!(matches!(record, Record::Progress), "{record:?}");
    }
}

#[test]
fn a_cursor_of_an_earlier_start_leads_on() {
    let mut world = World::open(Memory::default(), 1, 1_000_000);
    let mut subscription = world.subscribe("", Start::Now);
    let cursor = check(&mut subscription, &["progress"]).expect("a cursor");
    world.write("a", "v");
    world.write("b", "v");
    let memory = world.memory.clone();
    drop((world, subscription));
    memory.crash();
    let mut world = World::open(memory, 2, 1_001_000);
    let mut resumed = world.subscribe("", Start::After(cursor));
    check(&mut resumed, &["changed a", "changed b", "progress"]);
}

#[test]
fn who_resumes_is_told_once_that_it_has_caught_up() {
    let mut world = World::open(Memory::default(), 1, 1_000_000);
    let mut subscription = world.subscribe("", Start::Now);
    let cursor = check(&mut subscription, &["progress"]).expect("a cursor");
    let mut resumed = world.subscribe("", Start::After(cursor.clone()));
    check(&mut resumed, &["progress"]);
    world.write("a", "v");
    check(&mut resumed, &["changed a"]);
    let mut resumed = world.subscribe("", Start::After(cursor));
    check(&mut resumed, &["changed a", "progress"]);
    world.write("b", "v");
    check(&mut resumed, &["changed b"]);
}

#[test]
fn a_stop_ends_streams_and_is_answered_when_all_is_durable() {
    let mut world = World::open(Memory::default(), 1, 1_000_000);
    let mut subscription = world.subscribe("", Start::Snapshot);
    check(&mut subscription, &["ready"]);
    let node = world.node.clone();
    world.run(node.stop());
    check(&mut subscription, &["ended draining"]);
    assert!(world.stepped.has_stopped() && world.memory.unflushed() == 0);
}
