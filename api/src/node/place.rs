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

    /// Few nodes that serve these slots together, this one first, without those to avoid. `None`:
    /// of some slot nobody is known who may be asked.
    pub fn cover(&self, slots: &[u16], avoid: &BTreeSet<NodeId>) -> Option<Vec<Part>> {
        let (here, mut rest): (Vec<u16>, Vec<u16>) =
            slots.iter().partition(|slot| self.journal().serves(**slot));
        let mut parts = Vec::new();
        if !here.is_empty() {
            parts.push(Part { node: None, slots: here });
        }
        if !rest.is_empty() {
            let status = self.journal().cluster()?;
            let holders = |slot| {
                let nodes = replicas_of(&status, slot).into_iter();
                nodes.filter(|node| !avoid.contains(node)).collect()
            };
            parts.extend(share(rest.drain(..).map(|slot| (slot, holders(slot))).collect())?);
        }
        Some(parts)
    }

    /// The slot of an entity.
    pub fn slot(&self, key: &EntityKey) -> u16 {
        key.slot(self.slots())
    }

    /// Every slot, in ascending order.
    pub fn all_slots(&self) -> Vec<u16> {
        (0..self.slots()).collect()
    }

    /// Whether this node serves all of these slots.
    pub fn serves_all(&self, mut slots: impl Iterator<Item = u16>) -> bool {
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

/// Few nodes that hold all of these slots: whoever holds most of what is left comes next, of equals
/// the one named sooner. `None`: one is held by nobody.
fn share(mut left: BTreeMap<u16, Vec<NodeId>>) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while !left.is_empty() {
        // How many slots a node holds, and how far down the lists it stands.
        let mut counts: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for nodes in left.values() {
            nodes.first()?;
            for (rank, node) in nodes.iter().enumerate() {
                let (count, ranks) = counts.entry(*node).or_default();
                (*count, *ranks) = (*count + 1, *ranks + rank);
            }
        }
        let best = |(node, (count, ranks)): &(&NodeId, &(usize, usize))| {
            (std::cmp::Reverse(*count), *ranks, **node)
        };
        let node = *counts.iter().min_by_key(best)?.0;
        let held = left.iter().filter(|(_, nodes)| nodes.contains(&node));
        let slots: Vec<u16> = held.map(|(slot, _)| *slot).collect();
        slots.iter().for_each(|slot| drop(left.remove(slot)));
        parts.push(Part { node: Some(node), slots });
    }
    Some(parts)
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);
    const C: NodeId = NodeId([3; 16]);

    fn check(held: &[&[NodeId]], expected: Option<&[(NodeId, &[u16])]>) {
        let held = (0..).zip(held).map(|(slot, nodes)| (slot, nodes.to_vec())).collect();
        let expected = expected.map(|parts| {
            let part = |(node, slots): &(NodeId, &[u16])| Part {
                node: Some(*node),
                slots: slots.to_vec(),
            };
            parts.iter().map(part).collect::<Vec<_>>()
        });
        assert_eq!(share(held), expected);
    }

    #[test]
    fn few_nodes_hold_everything_once() {
        check(&[&[A, B], &[B, C], &[C, B]], Some(&[(B, &[0, 1, 2])]));
        check(&[&[A], &[B, C], &[C, B], &[B]], Some(&[(B, &[1, 2, 3]), (A, &[0])]));
        check(&[&[C, A], &[C, A]], Some(&[(C, &[0, 1])]));
        check(&[], Some(&[]));
    }

    #[test]
    fn what_nobody_holds_is_not_left_out() {
        check(&[&[A], &[]], None);
    }
}
