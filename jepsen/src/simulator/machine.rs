//! A machine: a disk, a clock, and at times a node that runs on them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll::node::Node;
use atoll_replication::driver::{Clock, Stepped};
use atoll_replication::placement::Version;
use atoll_replication::transport::{Arrival, Class, NodeId, Transport};
use atoll_sharding::driver::Dialer;
use atoll_store::backend::memory::{Memory, Snapshot};
use atoll_store::dot::{Millis, Origin, VersionVector};
use atoll_store::engine::Options;
use atoll_store::retire::Retirement;
use atoll_store::shard::ShardId;
use bytes::Bytes;

use super::cluster::Side;
use super::ledger::Place;

/// What the clock of a machine without offset and drift shows at the simulated time 0.
const EPOCH_MS: Millis = 1_000_000_000;

/// Version vectors by shard.
pub(super) type Vectors = BTreeMap<ShardId, VersionVector>;

/// A machine's clock, as its node reads it.
#[derive(Default)]
pub(super) struct Wall(AtomicU64);

impl Clock for Wall {
    fn now(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a node wants of the network.
pub(super) enum Sent {
    Frame(NodeId, Class, Bytes),
    Datagram(NodeId, Bytes),
    Dial(String),
    Forget(String),
    Disconnect(NodeId),
}

/// What a node has sent, until the network takes it; and what it may know of the network.
#[derive(Default)]
pub(super) struct Outbox {
    sent: Mutex<Vec<Sent>>,
    rejected: Mutex<Vec<(NodeId, &'static str)>>,
    /// What has come from connected peers, by count.
    received: Mutex<BTreeMap<NodeId, u64>>,
}

impl Transport for Outbox {
    fn send(&self, peer: NodeId, class: Class, frame: Bytes) -> bool {
        self.push(Sent::Frame(peer, class, frame));
        true
    }

    fn datagram(&self, peer: NodeId, bytes: Bytes) -> bool {
        self.push(Sent::Datagram(peer, bytes));
        true
    }

    fn received(&self, peer: NodeId) -> Option<u64> {
        self.received.lock().expect("nothing panics under it").get(&peer).copied()
    }

    fn reject(&self, peer: NodeId, why: &'static str) {
        self.rejected.lock().expect("nothing panics under it").push((peer, why));
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }
}

impl Dialer for Outbox {
    fn dial(&self, address: &str) {
        self.push(Sent::Dial(address.to_owned()));
    }

    fn forget(&self, address: &str) {
        self.push(Sent::Forget(address.to_owned()));
    }

    fn disconnect(&self, node: NodeId) {
        self.push(Sent::Disconnect(node));
    }
}

impl Outbox {
    fn push(&self, sent: Sent) {
        self.sent.lock().expect("nothing panics under it").push(sent);
    }

    pub(super) fn take(&self) -> Vec<Sent> {
        let rejected = self.rejected.lock().expect("nothing panics under it");
        assert!(rejected.is_empty(), "a peer's connection was rejected: {rejected:?}");
        std::mem::take(&mut *self.sent.lock().expect("nothing panics under it"))
    }

    /// Counts what arrives.
    pub(super) fn count(&self, arrival: &Arrival) {
        let mut received = self.received.lock().expect("nothing panics under it");
        match arrival {
            Arrival::Connected { peer, .. } => drop(received.insert(*peer, 0)),
            Arrival::Disconnected { peer } => drop(received.remove(peer)),
            Arrival::Received { peer, .. } | Arrival::Datagram { peer, .. } => {
                *received.entry(*peer).or_default() += 1;
            }
        }
    }
}

/// A node that is about to leave for good.
pub(super) struct Leaving {
    /// Ends once the council does not record it any more.
    pub(super) release: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) released: bool,
    /// When whoever waits for that loses patience.
    pub(super) until: u64,
}

/// A node that runs.
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) driver: Stepped,
    pub(super) outbox: Arc<Outbox>,
    pub(super) origin: Origin,
    /// The cluster core beside it, in a world with councils.
    pub(super) side: Option<Side>,
}

/// What a machine held after a step.
pub(super) struct Held {
    pub(super) vectors: Vectors,
    /// Of a step that gave a copy up, what it had logged before: it may have told of that.
    pub(super) logged: Vec<Place>,
}

/// A copy of a disk.
#[derive(Clone)]
pub(super) struct Copy {
    pub(super) disk: Snapshot,
    pub(super) vectors: Vectors,
    /// If its node alone voted: the version of its region's record, as far as it had one.
    pub(super) alone_at: Option<Option<Version>>,
}

/// A machine.
pub(super) struct Machine {
    /// The node's number: its id, and part of its name. A pod that replaces another has another.
    pub(super) number: u32,
    pub(super) region: &'static str,
    pub(super) options: Options,
    pub(super) memory: Memory,
    /// By slot, the epoch of the set when its disk was last replaced or put back.
    pub(super) doubted: BTreeMap<u16, u64>,
    pub(super) running: Option<Running>,
    pub(super) wall: Arc<Wall>,
    /// How far its clock is from the simulated time, and how much faster it runs.
    pub(super) offset_ms: i64,
    pub(super) drift_ppm: i64,
    /// What its disk holds durably, as released.
    pub(super) durable: Vectors,
    /// What it held durably at any step of the last release.
    pub(super) told: Vectors,
    /// What it held after each step that is not durable yet.
    pub(super) pending: Vec<Held>,
    pub(super) snapshots: Vec<Copy>,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) restart_at: Option<u64>,
    pub(super) paused_until: Option<u64>,
    pub(super) commit_at: Option<u64>,
    pub(super) flush_at: Option<u64>,
    pub(super) quarantined: usize,
    /// It is no more, and nothing comes in its place.
    pub(super) gone: bool,
    pub(super) leaving: Option<Leaving>,
    /// What it says is compared with what it holds.
    pub(super) watched: bool,
    /// Copies that it gave up, and where in its journal.
    pub(super) given_up: BTreeMap<u16, u64>,
}

impl Machine {
    pub(super) fn new(number: u32, region: &'static str, options: Options) -> Machine {
        Machine {
            number,
            region,
            options,
            memory: Memory::new(),
            doubted: BTreeMap::new(),
            running: None,
            wall: Arc::default(),
            offset_ms: 0,
            drift_ppm: 0,
            durable: BTreeMap::new(),
            told: BTreeMap::new(),
            pending: Vec::new(),
            snapshots: Vec::new(),
            arrivals: Vec::new(),
            restart_at: None,
            paused_until: None,
            commit_at: None,
            flush_at: None,
            quarantined: 0,
            gone: false,
            leaving: None,
            watched: true,
            given_up: BTreeMap::new(),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        let number = self.number.to_be_bytes();
        NodeId(std::array::from_fn(|at| number[at % 4]))
    }

    /// Where others dial it.
    pub(super) fn address(&self) -> String {
        let [_, a, b, c] = self.number.to_be_bytes();
        format!("10.{a}.{b}.{c}:7400")
    }

    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.region, self.number)
    }

    /// What its clock shows.
    pub(super) fn wall(&self, time: u64) -> Millis {
        let drift = time as i64 * self.drift_ppm / 1_000_000;
        (EPOCH_MS as i64 + time as i64 + drift + self.offset_ms) as Millis
    }

    /// Sets the clock that its node reads.
    pub(super) fn show_time(&self, time: u64) {
        self.wall.0.store(self.wall(time), Ordering::Relaxed);
    }

    /// Whether it does anything now.
    pub(super) fn is_up(&self, time: u64) -> bool {
        self.running.is_some() && self.paused_until.is_none_or(|until| until <= time)
    }

    /// What its core has seen, with what its roll says of retired origins spelled out: nodes'
    /// rolls may differ. Nothing in runs so long that rolls forget it.
    pub(super) fn vectors(&self) -> Vectors {
        let Some(running) = self.running.as_ref().filter(|_| self.watched) else {
            return Vectors::new();
        };
        let engine = running.driver.core().engine();
        let roll = engine.retired(usize::MAX);
        engine.shards().map(|shard| (shard, spelled(engine.vector(shard), roll, shard))).collect()
    }

    /// Shards of which it holds no replica, as far as it knows.
    pub(super) fn unrecorded(&self) -> Vec<ShardId> {
        let Some(running) = &self.running else { return Vec::new() };
        let placement = running.driver.core().status().placement;
        let all = (0..self.options.slots).map(|slot| ShardId { placement: 0, slot });
        let elsewhere = |shard: &ShardId| {
            let set = placement.replicas(self.region, shard.slot);
            set.is_some_and(|set| !set.counts(self.id()))
        };
        all.filter(elsewhere).collect()
    }

    /// When something happens at it.
    pub(super) fn next_at(&self, time: u64) -> Option<u64> {
        if let Some(until) = self.paused_until.filter(|until| *until > time) {
            return Some(until);
        }
        let deadline = self.running.as_ref().map(|running| {
            time + running.driver.deadline().saturating_sub(self.wall(time)).clamp(1, 1_000)
        });
        let turn = self.running.as_ref().and_then(|running| Some(running.side.as_ref()?.due));
        let times = [self.restart_at, self.commit_at, self.flush_at, deadline, turn];
        times.into_iter().flatten().min()
    }
}

fn spelled(vector: VersionVector, roll: &[Retirement], shard: ShardId) -> VersionVector {
    let last = |entry: &Retirement| {
        let finals = entry.finals.as_ref().expect("a run is shorter than what finals are kept for");
        (entry.origin, finals.get(&shard.slot).copied().unwrap_or(0))
    };
    let retired = roll.iter().take(vector.covered() as usize).map(last);
    retired.filter(|(_, last)| *last > 0).chain(vector.iter()).collect()
}

/// Whether a vector of these covers a place.
pub(super) fn covers(vectors: &Vectors, (shard, dot): Place) -> bool {
    vectors.get(&shard).is_some_and(|vector| vector.covers(dot))
}
