//! A node as the tests drive it: a core, a disk in memory, and commits as the committer makes them.
//!
//! Left out: threads and real time; what happens when is an argument.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod council;
pub mod group;
pub mod random;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_replication::core::{Bounds, Core, Effects, Event, Identity, Reply, Status, Ticket};
use atoll_replication::level::{Demand, Unmet};
use atoll_replication::placement::{Ending, RegionPlacement, Replicas, Seat, Version};
use atoll_replication::transport::{Class, NodeId};
use atoll_store::backend::memory::Memory;
use atoll_store::backend::{Backend, Write};
use atoll_store::command::{Change, Command, RequestHash, Value};
use atoll_store::committer::{Batch, pack};
use atoll_store::dot::{Millis, Origin};
use atoll_store::engine::{Engine, Options};
use atoll_store::entity::Image;
use atoll_store::name::{EntityKey, Kind};
use bytes::Bytes;

/// What a node's clock shows at the simulated time 0.
pub const EPOCH_MS: Millis = 1_000_000_000;

pub fn node_id(number: u8) -> NodeId {
    NodeId([number; 16])
}

pub fn key(kind: Kind, id: &str) -> EntityKey {
    EntityKey::parse(kind, "c", id).unwrap()
}

pub fn value(text: &str) -> Value {
    Value::copy_from_slice(format!("\"{text}\"").as_bytes())
}

pub fn change(key: &EntityKey, command: Command) -> Change {
    Change { key: key.clone(), commands: vec![command], hash: None, ttl_ms: None }
}

pub fn keyed(key: &EntityKey, command: Command, hash: u128) -> Change {
    let hash = Some(RequestHash { key: hash, request: hash as u64 });
    Change { key: key.clone(), commands: vec![command], hash, ttl_ms: None }
}

pub fn add(member: &str) -> Command {
    Command::Members { add: vec![value(member)], remove: Vec::new() }
}

pub fn remove(member: &str) -> Command {
    Command::Members { add: Vec::new(), remove: vec![value(member)] }
}

pub fn plus(amount: u128) -> Command {
    Command::Count { plus: amount, minus: 0 }
}

/// Who a node is; its number is its id.
pub fn identity(number: u8, region: &str, origin: u64) -> Identity {
    Identity {
        node: node_id(number),
        name: format!("n{number}"),
        region: region.to_owned(),
        zone: "z".to_owned(),
        address: format!("10.0.0.{number}:7400"),
        version: "0".to_owned(),
        origin: Origin(origin),
        seeds: 0,
        council: false,
        disk: None,
    }
}

/// A record of a region's one slot: who holds it, and who will; its version is also the set's
/// epoch.
pub fn record(region: &str, number: u64, current: &[u8], next: Option<&[u8]>) -> RegionPlacement {
    let set = |numbers: &[u8]| numbers.iter().map(|number| node_id(*number)).collect();
    let replicas =
        Replicas { epoch: number, current: set(current), next: next.map(set), struck: 0 };
    let seat = |node| (node, Seat { name: "n".to_owned(), zone: "z".to_owned(), disk: 1 });
    RegionPlacement {
        region: region.to_owned(),
        council: 1,
        version: Version { epoch: 1, number },
        factor: 3,
        nodes: replicas.all().map(seat).collect(),
        slots: vec![replicas],
        ..RegionPlacement::default()
    }
}

/// A step whose effects wait for their commit.
struct Held {
    number: u64,
    released: Released,
}

/// What leaves once a step is durable.
#[derive(Default)]
pub struct Released {
    pub sends: Vec<(NodeId, Class, Bytes)>,
    pub replies: Vec<(Ticket, Reply)>,
    pub rejects: Vec<(NodeId, &'static str)>,
    pub caught_up: Vec<(u16, u64)>,
    pub endings: Vec<Ending>,
    pub status: Option<Status>,
}

/// A running node.
pub struct Node {
    pub core: Core,
    pub memory: Memory,
    durable: Arc<AtomicU64>,
    steps: u64,
    /// Steps that wait for the committer, and those that wait for its flush.
    queued: VecDeque<(Batch, Held)>,
    written: Vec<Held>,
}

impl Node {
    /// Opens a disk for a new start. Its first step is queued.
    pub fn open(
        memory: &Memory,
        options: Options,
        identity: Identity,
        bounds: Bounds,
        now: Millis,
    ) -> Node {
        let backend = Arc::new(memory.clone());
        let engine = Engine::open(backend, options, identity.origin).unwrap();
        let durable = engine.durable();
        let core = Core::new(identity, engine, now).bounded(bounds);
        let (memory, queued) = (memory.clone(), VecDeque::new());
        let mut node = Node { core, memory, durable, steps: 0, queued, written: Vec::new() };
        node.step(now, Vec::new());
        node
    }

    /// One step, queued for the committer.
    pub fn step(&mut self, now: Millis, events: Vec<Event>) {
        let effects = self.core.step(now, events);
        let Effects { mut staged, sends, replies, rejects, caught_up, endings, status, .. } =
            effects;
        self.steps += 1;
        let released = Released { sends, replies, rejects, caught_up, endings, status };
        let held = Held { number: self.steps, released };
        self.queued.push_back((std::mem::take(&mut staged.batch), held));
    }

    /// The committer's commit of all that queued up: one write.
    pub fn write_out(&mut self) {
        let (batches, held): (Vec<Batch>, Vec<Held>) = self.queued.drain(..).unzip();
        let log = pack(&batches);
        let mut writes: Vec<Write> = batches.into_iter().flat_map(|batch| batch.writes).collect();
        writes.extend(log);
        if !writes.is_empty() {
            self.memory.commit(&writes).unwrap();
        }
        self.written.extend(held);
    }

    /// The committer's flush, and what it releases.
    pub fn flush(&mut self) -> Vec<Released> {
        self.memory.flush().unwrap();
        let held = std::mem::take(&mut self.written);
        if let Some(last) = held.last() {
            self.durable.store(last.number, Ordering::Release);
        }
        held.into_iter().map(|held| held.released).collect()
    }

    /// A step, durable at once.
    pub fn run(&mut self, now: Millis, events: Vec<Event>) -> Released {
        self.step(now, events);
        self.write_out();
        let mut all = Released::default();
        for released in self.flush() {
            all.sends.extend(released.sends);
            all.replies.extend(released.replies);
            all.rejects.extend(released.rejects);
            all.caught_up.extend(released.caught_up);
            all.endings.extend(released.endings);
            all.status = released.status.or(all.status);
        }
        all
    }

    /// One change, durable at once.
    pub fn write(
        &mut self,
        now: Millis,
        change: Change,
    ) -> (Result<bool, atoll_store::command::Refusal>, Released) {
        let mut released = self.run(now, vec![Event::Write(1, vec![change], Demand::default())]);
        let place = released.replies.iter().position(|(_, r)| matches!(r, Reply::Written(_)));
        let Some((_, Reply::Written(mut written))) = place.map(|p| released.replies.remove(p))
        else {
            panic!("no reply to a write");
        };
        let refusal = |unmet| match unmet {
            Unmet::Refused(refusal) => refusal,
            other => panic!("asked of one: {other}"),
        };
        (written.remove(0).map(|written| written.replayed).map_err(refusal), released)
    }

    /// Reads an entity; nothing is committed. `None`: it is damaged.
    pub fn image(&mut self, now: Millis, key: &EntityKey) -> Option<Arc<Image>> {
        let released = self.run(now, vec![Event::Load(1, key.clone())]);
        released.replies.into_iter().find_map(|(_, reply)| match reply {
            Reply::Loaded(image) => image.ok(),
            _ => None,
        })
    }
}

/// The keys of entity records on a disk.
pub fn entity_records(memory: &Memory) -> Vec<Bytes> {
    memory.scan(b"e", b"f", usize::MAX).unwrap().into_iter().map(|(key, _)| key).collect()
}
