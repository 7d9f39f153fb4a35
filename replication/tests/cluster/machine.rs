//! A machine: a disk, a clock, and at times a node that runs on them.

use std::collections::BTreeMap;

use atoll_replication::core::Event;
use atoll_replication::transport::NodeId;
use atoll_store::backend::memory::{Memory, Snapshot};
use atoll_store::dot::{Hlc, Millis, Origin};
use atoll_store::engine::Options;

use crate::common::{EPOCH_MS, Node};
use crate::ledger::Vectors;

pub struct Machine {
    pub number: u8,
    pub id: NodeId,
    pub region: &'static str,
    pub options: Options,
    pub memory: Memory,
    pub node: Option<Node>,
    pub origin: Origin,
    /// How far its clock is from the simulated time.
    pub offset_ms: i64,
    /// What its disk holds durably, as released.
    pub durable: Vectors,
    /// What it held at each step that is not durable yet, with the steps' number.
    pub pending: Vec<Vectors>,
    pub snapshots: Vec<(Snapshot, Vectors)>,
    pub events: Vec<Event>,
    pub restart_at: Option<u64>,
    pub commit_at: Option<u64>,
    pub flush_at: Option<u64>,
    pub quarantined: usize,
    /// The closed clocks of its last status.
    pub closed: BTreeMap<Origin, Hlc>,
    /// The peers that it was connected to, as of its last status.
    pub connected: Vec<String>,
}

impl Machine {
    pub fn wall(&self, time: u64) -> Millis {
        (EPOCH_MS as i64 + time as i64 + self.offset_ms) as Millis
    }

    /// When, in simulated time, its core wants to be called.
    pub fn deadline(&self, time: u64) -> Option<u64> {
        let node = self.node.as_ref()?;
        let wait = node.core.deadline().saturating_sub(self.wall(time)).min(1_000);
        Some(time + wait)
    }

    /// What its core has seen.
    pub fn vectors(&self) -> Vectors {
        let Some(node) = &self.node else { return Vectors::new() };
        let engine = node.core.engine();
        engine.shards().map(|shard| (shard, engine.vector(shard))).collect()
    }

    pub fn next_at(&self, time: u64) -> Option<u64> {
        let times = [self.restart_at, self.commit_at, self.flush_at, self.deadline(time)];
        times.into_iter().flatten().min()
    }
}
