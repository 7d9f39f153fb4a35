//! Where the shards of this region are, as recorded.
//!
//! Invariants:
//! 1. A node serves a shard only while the record counts it as a replica of it.
//! 2. What is asked of another node is asked of one that is connected; if none is, of those that
//!    are recorded, so that the caller can say whom it missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_replication::core::Status;
use atoll_replication::placement::{Placement, RegionPlacement};
use atoll_replication::transport::NodeId;
use atoll_store::name::EntityKey;

use super::{Node, ReadError};

/// Who can serve an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holders {
    /// This node.
    Here,
    /// These nodes of the region, the one to ask first in front.
    Elsewhere(Vec<NodeId>),
}

/// Hash slots, and who is to be asked for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// A node of this region; none: this one.
    pub node: Option<NodeId>,
    /// In ascending order.
    pub slots: Vec<u16>,
}

/// One shard, as it is placed.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// Its hash slot.
    pub slot: u16,
    /// Whether this node serves it.
    pub here: bool,
    /// Entities of this node's copy.
    pub entities: Option<u64>,
}

/// `GET /v1/cluster/shards`.
#[derive(Clone, Debug)]
pub struct ShardsView {
    /// This node's id, hex.
    pub node: String,
    /// This node's region.
    pub region: String,
    /// What is recorded.
    pub placement: Arc<Placement>,
    /// Shards of this region that are being moved.
    pub moving: usize,
    /// Shards of this region with fewer replicas than there should be.
    pub under_replicated: usize,
    /// By slot.
    pub shards: Vec<ShardView>,
}

impl Node {
    /// All shards, as they are recorded.
    pub async fn shards(&self) -> Result<ShardsView, ReadError> {
        let held = self.0.replica.digests().await.map_err(|_| ReadError::Overloaded)?;
        let held: BTreeMap<u16, u64> =
            held.into_iter().map(|shard| (shard.shard.slot, shard.entities)).collect();
        let placement = self.placement();
        let one = |slot| ShardView {
            slot,
            here: self.journal().serves(slot),
            entities: held.get(&slot).copied(),
        };
        let (moving, under_replicated) =
            placement.region(self.region()).map(progress).unwrap_or_default();
        Ok(ShardsView {
            node: self.id().to_owned(),
            region: self.region().to_owned(),
            moving,
            under_replicated,
            shards: (0..self.slots()).map(one).collect(),
            placement,
        })
    }

    /// The slot of an entity, what is recorded, and whether this node serves it.
    pub fn locate(&self, key: &EntityKey) -> (u16, Arc<Placement>, bool) {
        let slot = key.slot(self.slots());
        (slot, self.placement(), self.journal().serves(slot))
    }

    fn placement(&self) -> Arc<Placement> {
        self.journal().cluster().map(|status| status.placement.clone()).unwrap_or_default()
    }

    /// Who can serve an entity: without a lock or an allocation if it is this node.
    pub fn holders(&self, key: &EntityKey) -> Holders {
        let slot = key.slot(self.slots());
        if self.journal().serves(slot) {
            return Holders::Here;
        }
        let status = self.journal().cluster();
        Holders::Elsewhere(status.map(|status| replicas_of(&status, slot)).unwrap_or_default())
    }

    /// All slots, each under one node that serves it, in as few parts as are found.
    pub fn cover(&self) -> Vec<Part> {
        let all = 0..self.slots();
        let (here, mut rest): (Vec<u16>, BTreeSet<u16>) = {
            let (here, rest): (Vec<u16>, Vec<u16>) =
                all.partition(|slot| self.journal().serves(*slot));
            (here, rest.into_iter().collect())
        };
        let mut parts = Vec::new();
        if !here.is_empty() {
            parts.push(Part { node: None, slots: here });
        }
        let Some(status) = self.journal().cluster() else { return parts };
        let mut held: BTreeMap<NodeId, BTreeSet<u16>> = BTreeMap::new();
        for slot in &rest {
            for node in replicas_of(&status, *slot) {
                held.entry(node).or_default().insert(*slot);
            }
        }
        while let Some((node, slots)) = fullest(&held, &rest) {
            rest.retain(|slot| !slots.contains(slot));
            parts.push(Part { node: Some(node), slots: slots.into_iter().collect() });
        }
        parts
    }

    /// Whether this node serves all of these slots.
    pub(super) fn serves_all(&self, mut slots: impl Iterator<Item = u16>) -> bool {
        slots.all(|slot| self.journal().serves(slot))
    }
}

/// Shards that are being moved, and those with fewer replicas than there should be.
pub(super) fn progress(record: &RegionPlacement) -> (usize, usize) {
    let wanted = usize::from(record.factor).min(record.nodes.len());
    let moving = record.slots.iter().filter(|set| set.next.is_some()).count();
    let short = record.slots.iter().filter(|set| set.current.len() < wanted).count();
    (moving, short)
}

/// The node that holds most of what is left, with that.
fn fullest(
    held: &BTreeMap<NodeId, BTreeSet<u16>>,
    rest: &BTreeSet<u16>,
) -> Option<(NodeId, BTreeSet<u16>)> {
    let left = held.iter().map(|(node, slots)| (*node, slots & rest));
    left.filter(|(_, slots)| !slots.is_empty()).max_by_key(|(_, slots)| slots.len())
}

/// Other replicas of a slot in this region that count: connected ones, else all.
fn replicas_of(status: &Status, slot: u16) -> Vec<NodeId> {
    let recorded = status.placement.replicas(&status.me.region, slot);
    let current: Vec<NodeId> = recorded
        .map(|set| set.current.iter().copied().filter(|node| *node != status.me.node).collect())
        .unwrap_or_default();
    let round_trip = |node: &NodeId| {
        let peer = status.peers.iter().find(|peer| peer.node == *node && peer.connected)?;
        Some(peer.rtt_ms.unwrap_or(u64::MAX))
    };
    let mut near: Vec<(u64, NodeId)> =
        current.iter().filter_map(|node| Some((round_trip(node)?, *node))).collect();
    near.sort();
    if near.is_empty() { current } else { near.into_iter().map(|(_, node)| node).collect() }
}
