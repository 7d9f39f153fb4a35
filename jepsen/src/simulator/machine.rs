//! A machine: a disk, a clock, and at times a node that runs on them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll::node::Node;
use atoll_replication::driver::{Clock, Stepped};
use atoll_replication::transport::{Arrival, Class, NodeId, Transport};
use atoll_store::backend::memory::{Memory, Snapshot};
use atoll_store::dot::{Millis, Origin, VersionVector};
use atoll_store::engine::Options;
use atoll_store::shard::ShardId;
use bytes::Bytes;

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

/// What a node has sent, until the network takes it.
#[derive(Default)]
pub(super) struct Outbox {
    sent: Mutex<Vec<(NodeId, Class, Bytes)>>,
    rejected: Mutex<Vec<(NodeId, &'static str)>>,
}

impl Transport for Outbox {
    fn send(&self, peer: NodeId, class: Class, frame: Bytes) -> bool {
        self.sent.lock().expect("nothing panics under it").push((peer, class, frame));
        true
    }

    /// The core of replication sends none.
    fn datagram(&self, _: NodeId, _: Bytes) -> bool {
        false
    }

    fn received(&self, _: NodeId) -> Option<u64> {
        None
    }

    fn reject(&self, peer: NodeId, why: &'static str) {
        self.rejected.lock().expect("nothing panics under it").push((peer, why));
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }
}

impl Outbox {
    pub(super) fn take(&self) -> Vec<(NodeId, Class, Bytes)> {
        let rejected = self.rejected.lock().expect("nothing panics under it");
        assert!(rejected.is_empty(), "a peer's connection was rejected: {rejected:?}");
        std::mem::take(&mut *self.sent.lock().expect("nothing panics under it"))
    }
}

/// A node that runs.
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) driver: Stepped,
    pub(super) outbox: Arc<Outbox>,
    pub(super) origin: Origin,
}

/// A machine.
pub(super) struct Machine {
    /// The node's number: its id, and part of its name. A pod that replaces another has another.
    pub(super) number: u8,
    pub(super) region: &'static str,
    pub(super) options: Options,
    pub(super) memory: Memory,
    pub(super) running: Option<Running>,
    pub(super) wall: Arc<Wall>,
    /// How far its clock is from the simulated time, and how much faster it runs.
    pub(super) offset_ms: i64,
    pub(super) drift_ppm: i64,
    /// What its disk holds durably, as released.
    pub(super) durable: Vectors,
    /// What it held at each step that is not durable yet.
    pub(super) pending: Vec<Vectors>,
    pub(super) snapshots: Vec<(Snapshot, Vectors)>,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) restart_at: Option<u64>,
    pub(super) paused_until: Option<u64>,
    pub(super) commit_at: Option<u64>,
    pub(super) flush_at: Option<u64>,
    pub(super) quarantined: usize,
}

impl Machine {
    pub(super) fn new(number: u8, region: &'static str, options: Options) -> Machine {
        Machine {
            number,
            region,
            options,
            memory: Memory::new(),
            running: None,
            wall: Arc::default(),
            offset_ms: 0,
            drift_ppm: 0,
            durable: BTreeMap::new(),
            pending: Vec::new(),
            snapshots: Vec::new(),
            arrivals: Vec::new(),
            restart_at: None,
            paused_until: None,
            commit_at: None,
            flush_at: None,
            quarantined: 0,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        NodeId([self.number; 16])
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

    /// What its core has seen.
    pub(super) fn vectors(&self) -> Vectors {
        let Some(running) = &self.running else { return Vectors::new() };
        let engine = running.driver.core().engine();
        engine.shards().map(|shard| (shard, engine.vector(shard))).collect()
    }

    /// When something happens at it.
    pub(super) fn next_at(&self, time: u64) -> Option<u64> {
        if let Some(until) = self.paused_until.filter(|until| *until > time) {
            return Some(until);
        }
        let deadline = self.running.as_ref().map(|running| {
            time + running.driver.deadline().saturating_sub(self.wall(time)).clamp(1, 1_000)
        });
        let times = [self.restart_at, self.commit_at, self.flush_at, deadline];
        times.into_iter().flatten().min()
    }
}

/// Whether a vector of these covers a place.
pub(super) fn covers(vectors: &Vectors, (shard, dot): super::ledger::Place) -> bool {
    vectors.get(&shard).is_some_and(|vector| vector.covers(dot))
}
