//! The recorded placement: which nodes hold a replica of which shard, region by region.
//!
//! A region's council records it; everyone else learns it from peers and keeps the newest.
//!
//! Invariants:
//! 1. Of two records of one region the one with the higher version is newer, whoever sends it.
//! 2. (R12) Quorums count the recorded replicas, dead or alive; during a move a majority of the
//!    old set and a majority of the new one.
//! 3. A set changes in two records: one that names the next set, and one that makes it current
//!    once its new replicas have caught up. Each raises the set's epoch.
//!
//! Left out: who decides, and how it is made durable, which is the council's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use atoll_store::dot::{Hlc, Origin};

use crate::transport::NodeId;

/// Orders the records of a region.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// Rises when an operator re-forms the region's council.
    pub epoch: u64,
    /// Rises with every change within an epoch.
    pub number: u64,
}

/// A node that a region's council has admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Its name, for people.
    pub name: String,
    /// Its failure domain in the region.
    pub zone: String,
    /// Its disk: with another one it holds nothing of what is recorded. 0: not known.
    pub disk: u64,
}

/// The replicas of one shard in one region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// Rises with every change of this set.
    pub epoch: u64,
    /// They hold the shard, and count.
    pub current: BTreeSet<NodeId>,
    /// During a move: those who will hold it. Who is not current catches up.
    pub next: Option<BTreeSet<NodeId>>,
    /// So many were struck out of the current set, and nobody has taken their places yet: what
    /// they acknowledged may be on fewer than a majority of those left.
    pub struck: usize,
}

impl Replicas {
    /// Every node that is to receive the shard's operations, each once.
    pub fn all(&self) -> impl Iterator<Item = NodeId> + '_ {
        let joining = self.next.iter().flatten().filter(|node| !self.current.contains(*node));
        self.current.iter().chain(joining).copied()
    }

    /// Whether a node is to receive the shard's operations.
    pub fn receives(&self, node: NodeId) -> bool {
        self.current.contains(&node) || self.next.as_ref().is_some_and(|next| next.contains(&node))
    }

    /// Whether a node holds the shard and has caught up.
    pub fn counts(&self, node: NodeId) -> bool {
        self.current.contains(&node)
    }

    /// Whether those who did something are a majority of the recorded set, and, during a move, of
    /// the next one too (R12). Who was struck out counts as a replica that did not, as far as
    /// those left can make up for it.
    pub fn is_majority(&self, did: impl Fn(NodeId) -> bool) -> bool {
        let most = |set: &BTreeSet<NodeId>, struck: usize| {
            let enough = ((set.len() + struck) / 2 + 1).min(set.len());
            !set.is_empty() && set.iter().filter(|node| did(**node)).count() >= enough
        };
        let next = |next: &BTreeSet<NodeId>| most(next, self.struck_after(next));
        most(&self.current, self.struck) && self.next.as_ref().is_none_or(next)
    }

    /// How many of the current replicas who joins must catch up with: so many that every majority
    /// has one of them, also one of before somebody was struck out.
    pub fn enough_to_join(&self) -> usize {
        (self.current.len() + self.struck).div_ceil(2).min(self.current.len())
    }

    /// How many places are left empty when this becomes the current set.
    pub fn struck_after(&self, next: &BTreeSet<NodeId>) -> usize {
        (self.current.len() + self.struck).saturating_sub(next.len())
    }
}

/// What a region's replicas have of an origin that ended (R9).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its last sequence known to any replica of this region, by hash slot; those above 0.
    pub finals: BTreeMap<u16, u64>,
    /// Every replica of this region has it all, up to the last sequence known in any region.
    pub reached: bool,
    /// No replica's clock was higher when it had it all.
    pub at: Hlc,
}

/// How far the end of an origin has come, for those who ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// See [`Ending::Ended`].
    Ended,
    /// See [`Ending::Holds`].
    Holds,
    /// See [`Ending::Reached`].
    Reached,
    /// See [`Ending::Retired`].
    Retired,
}

/// What a replica has of an origin in one slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Held {
    /// The set of replicas that it knew when it told so.
    pub epoch: u64,
    /// The last sequence; 0 if there is nothing.
    pub last: u64,
}

/// What a node asks its council to record of an origin that ended (R9), again until it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ending {
    /// It is of this region, it ended, and these regions are to agree on its end.
    Ended {
        /// The origin.
        origin: Origin,
        /// The regions.
        regions: BTreeSet<String>,
    },
    /// As [`Ending::Ended`], if this node is neither recorded nor gone, and does not come back: it
    /// died before its council admitted it.
    Orphan {
        /// The origin.
        origin: Origin,
        /// Whose it was.
        node: NodeId,
        /// The regions.
        regions: BTreeSet<String>,
    },
    /// This node takes no more of it than the records allow, and has this, of every slot that it
    /// receives.
    Holds {
        /// The origin.
        origin: Origin,
        /// By hash slot.
        slots: BTreeMap<u16, Held>,
    },
    /// This node has what any region has, of these slots: of all that it receives.
    Reached {
        /// The origin.
        origin: Origin,
        /// Its clock then.
        at: Hlc,
        /// The slots.
        slots: BTreeSet<u16>,
    },
    /// It was retired: nothing of it needs to be recorded any more.
    Retired {
        /// The origin.
        origin: Origin,
    },
}

impl Ending {
    /// Of which origin, and at which stage: what a node asks replaces what it asked of the same.
    pub fn subject(&self) -> (Origin, Stage) {
        match self {
            Ending::Ended { origin, .. } | Ending::Orphan { origin, .. } => (*origin, Stage::Ended),
            Ending::Holds { origin, .. } => (*origin, Stage::Holds),
            Ending::Reached { origin, .. } => (*origin, Stage::Reached),
            Ending::Retired { origin } => (*origin, Stage::Retired),
        }
    }
}

/// What a region's council recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionPlacement {
    /// The region.
    pub region: String,
    /// Drawn when the council was formed: two councils of one region are an accident.
    pub council: u64,
    /// Which record of it.
    pub version: Version,
    /// Replicas of a shard in this region, where there are nodes enough.
    pub factor: u16,
    /// The nodes admitted.
    pub nodes: BTreeMap<NodeId, Seat>,
    /// Replicas by hash slot.
    pub slots: Vec<Replicas>,
    /// Nodes that left or were given up: what they wrote last ends.
    pub gone: BTreeSet<NodeId>,
    /// Origins of this region that ended and are not retired yet, and the regions that are to
    /// agree on their ends.
    pub ended: BTreeMap<Origin, BTreeSet<String>>,
    /// What the replicas of this region have of ended origins, of any region.
    pub ends: BTreeMap<Origin, End>,
}

/// The newest record known of each region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    regions: BTreeMap<String, RegionPlacement>,
}

impl Placement {
    /// Takes a record, if it is newer than the one known. Answers whether it was.
    pub fn take(&mut self, record: RegionPlacement) -> bool {
        let known = self.regions.get(&record.region);
        let newer = known.is_none_or(|known| known.version < record.version);
        if newer {
            self.regions.insert(record.region.clone(), record);
        }
        newer
    }

    /// The record of a region.
    pub fn region(&self, name: &str) -> Option<&RegionPlacement> {
        self.regions.get(name)
    }

    /// All records.
    pub fn regions(&self) -> impl Iterator<Item = &RegionPlacement> {
        self.regions.values()
    }

    /// The replicas of a hash slot in a region.
    pub fn replicas(&self, region: &str, slot: u16) -> Option<&Replicas> {
        self.regions.get(region)?.slots.get(usize::from(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u8]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId([*id; 16])).collect()
    }

    #[test]
    fn r12_a_quorum_counts_the_recorded_set_and_both_during_a_move() {
        let did = |ids: &'static [u8]| move |node: NodeId| ids.contains(&node.0[0]);
        let mut replicas = Replicas { epoch: 1, current: set(&[1, 2, 3]), next: None, struck: 0 };
        assert!(replicas.is_majority(did(&[1, 2])));
        assert!(!replicas.is_majority(did(&[1, 4, 5])), "others do not count");
        replicas.next = Some(set(&[3, 4, 5]));
        assert!(!replicas.is_majority(did(&[1, 2, 3])), "of the old set only");
        assert!(!replicas.is_majority(did(&[3, 4, 5])), "of the new set only");
        assert!(replicas.is_majority(did(&[2, 3, 4])));
        assert!(replicas.receives(NodeId([4; 16])) && !replicas.counts(NodeId([4; 16])));
        assert_eq!(replicas.all().count(), 5);
    }

    /// However replicas are struck out and replaced: what a majority had, every later majority
    /// finds, as long as less than a majority was lost.
    #[test]
    fn r12_majorities_meet_though_replicas_were_struck_out() {
        let check = |size: u8, struck: &[u8]| {
            let all: Vec<u8> = (1..=size).collect();
            let whole = Replicas { epoch: 1, current: set(&all), next: None, struck: 0 };
            let among = |nodes: &BTreeSet<NodeId>, bits: u16| {
                nodes.iter().filter(|n| bits >> n.0[0] & 1 == 1).copied().collect::<BTreeSet<_>>()
            };
            for bits in 0..1 << (size + 1) {
                let mut have = among(&whole.current, bits);
                if !whole.is_majority(|node| have.contains(&node)) {
                    continue;
                }
                let mut now = whole.clone();
                now.current.retain(|node| !struck.contains(&node.0[0]));
                now.struck = struck.len();
                for (joins, _) in (size + 1..).zip(struck) {
                    // Who joins has what those had that it caught up with, the worst choice.
                    let lacks = now.current.difference(&have).count();
                    if lacks < now.enough_to_join() {
                        have.insert(NodeId([joins; 16]));
                    }
                    let mut next = now.current.clone();
                    next.insert(NodeId([joins; 16]));
                    now.struck = now.struck_after(&next);
                    now.current = next;
                    let lacking = |node: NodeId| !have.contains(&node);
                    assert!(!now.is_majority(lacking), "{size} without {struck:?}: {have:?}");
                }
            }
        };
        check(3, &[1]);
        check(4, &[1]);
        check(5, &[1]);
        check(5, &[1, 2]);
    }

    #[test]
    fn only_a_higher_version_replaces_a_record() {
        let record = |epoch, number| RegionPlacement {
            region: "eu".into(),
            version: Version { epoch, number },
            ..RegionPlacement::default()
        };
        let mut placement = Placement::default();
        assert!(placement.take(record(1, 7)));
        assert!(!placement.take(record(1, 7)) && !placement.take(record(1, 6)));
        assert!(placement.take(record(2, 1)), "re-formed by an operator");
        assert!(!placement.take(record(1, 9)));
        assert_eq!(placement.region("eu").unwrap().version, Version { epoch: 2, number: 1 });
    }
}
