//! What a node tells of itself and its peers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_store::dot::{Hlc, Origin, VersionVector};
use atoll_store::log::RETIRED;
use atoll_store::shard::ShardId;

use super::{Core, Identity};
use crate::placement::Placement;
use crate::transport::NodeId;

/// How far this node is behind the writers of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Milliseconds since the newest word from there that is wholly applied.
    pub ms: u64,
    /// Operations known to exist there and not yet here.
    pub operations: u64,
}

/// A peer, as this node sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its address.
    pub address: String,
    /// The version of its program.
    pub version: String,
    /// The origin of its start.
    pub origin: Origin,
    /// Whether it is connected.
    pub connected: bool,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<u64>,
}

/// A shard's copy.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Which.
    pub shard: ShardId,
    /// Its content; none while nothing compares to it.
    pub digest: Option<u128>,
    /// Entities present.
    pub entities: u64,
    /// What was seen.
    pub vector: VersionVector,
}

/// A node's view of the cluster.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub me: Identity,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Lag by region of origin, other regions only.
    pub lag: BTreeMap<String, Lag>,
    /// Client writes accepted since the start.
    pub writes: u64,
    /// Why it is not ready, if it is not.
    pub not_ready: Vec<String>,
    /// Regions by origin.
    pub regions: BTreeMap<Origin, String>,
    /// Closed clocks by origin. Of all retired origins together the sum over the roll: who knows
    /// the same ones has seen all of them.
    pub closed: BTreeMap<Origin, Hlc>,
    /// Starts on this directory, with the journal position where each began.
    pub starts: Vec<(Origin, u64)>,
    /// Damaged entities.
    pub quarantined: usize,
    /// Divergences seen since the start: should be 0.
    pub diverged: u64,
    /// Operations behind a gap.
    pub waiting: usize,
    /// Entities present.
    pub entities: u64,
    /// The position after the last change.
    pub journal_end: u64,
    /// The recorded placement.
    pub placement: Arc<Placement>,
    /// Nodes of other regions to be connected to.
    pub wanted: BTreeSet<NodeId>,
    /// Slots that are recorded for this node and that it does not serve: their copies are not
    /// whole. All slots, while the record is not of this node as it is.
    pub unserved: BTreeSet<u16>,
    /// How many origins were retired.
    pub retired: u32,
    /// The cluster gave this start up while it was away: its node must start again.
    pub ended: bool,
    /// Where the copies of shards that were held before begin anew, by slot.
    pub taken_at: BTreeMap<u16, u64>,
}

impl Core {
    /// The node's view of the cluster.
    pub fn status(&self) -> Status {
        let mut closed = self.closed_clocks();
        let (retired, sum) = self.engine.roll();
        if retired > 0 {
            closed.insert(RETIRED, Hlc(sum));
        }
        let shards = self.engine.shards();
        Status {
            me: self.me.clone(),
            peers: self.peer_statuses(),
            lag: self.lag(),
            writes: self.writes,
            not_ready: self.not_ready(),
            regions: self.facts.iter().map(|(o, fact)| (*o, fact.region.clone())).collect(),
            closed,
            starts: self.engine.starts().to_vec(),
            quarantined: self.engine.quarantined().len(),
            diverged: self.diverged,
            waiting: self.waiting.values().map(BTreeMap::len).sum(),
            entities: shards.map(|shard| self.engine.digest(shard).1).sum(),
            journal_end: self.engine.journal_end(),
            placement: Arc::new(self.placement.clone()),
            wanted: self.wanted(),
            unserved: self.unserved(),
            retired,
            ended: self.is_ended(),
            taken_at: self.engine.discarded().collect(),
        }
    }

    pub(super) fn shard_statuses(&self) -> Vec<ShardStatus> {
        let one = |shard| {
            let (digest, entities) = self.engine.digest(shard);
            ShardStatus { shard, digest, entities, vector: self.engine.vector(shard) }
        };
        self.engine.shards().map(one).collect()
    }

    fn unserved(&self) -> BTreeSet<u16> {
        match self.is_recorded() {
            true => self.unwhole().map(|shard| shard.slot).collect(),
            false => (0..self.engine.slots()).collect(),
        }
    }

    fn not_ready(&self) -> Vec<String> {
        if self.ready {
            return Vec::new();
        }
        let unwhole = self.unwhole().count();
        if self.unplaced().is_none() && unwhole > 0 {
            return vec![format!("{unwhole} copies missed what was retired, and are taken anew")];
        }
        let recall = "taking back from peers what they hold of earlier starts".to_owned();
        vec![self.unplaced().unwrap_or(recall)]
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let one = |(node, peer): (&NodeId, &super::peer::Peer)| {
            let hello = peer.hello.as_ref()?;
            Some(PeerStatus {
                node: *node,
                name: hello.name.clone(),
                region: hello.region.clone(),
                zone: hello.zone.clone(),
                address: hello.address.clone(),
                version: hello.version.clone(),
                origin: hello.origin,
                connected: peer.connected,
                rtt_ms: peer.rtt_ms,
            })
        };
        self.peers.iter().filter_map(one).collect()
    }

    /// By region: operations that some peer is known to have, and the age of the newest word.
    fn lag(&self) -> BTreeMap<String, Lag> {
        let mut behind: BTreeMap<(ShardId, Origin), u64> = BTreeMap::new();
        let mut lag: BTreeMap<String, Lag> = BTreeMap::new();
        for peer in self.peers.values() {
            for (shard, vector) in &peer.vectors {
                if !self.is_received(*shard) {
                    continue;
                }
                for (origin, sequence) in vector.iter() {
                    let missing = sequence.saturating_sub(self.engine.sequence(*shard, origin));
                    if missing > 0 {
                        let most = behind.entry((*shard, origin)).or_default();
                        *most = (*most).max(missing);
                    }
                }
            }
            if !peer.region().is_empty() && peer.region() != self.me.region {
                let age = self.elapsed.saturating_sub(peer.heard) + peer.rtt_ms.unwrap_or(0) / 2;
                let entry = lag.entry(peer.region().to_owned());
                let entry = entry.or_insert(Lag { ms: age, operations: 0 });
                entry.ms = entry.ms.min(age);
            }
        }
        for ((_, origin), missing) in behind {
            let region = self.facts.get(&origin).map_or("", |fact| &fact.region);
            if let Some(lag) = lag.get_mut(region) {
                lag.operations += missing;
            }
        }
        lag
    }
}
