//! Who should be in a group, by the record, and the leader's next step towards it.
//!
//! Voters are the current replicas of the slot in the home region; the replicas to come, and those
//! of all other regions, receive the log without a vote.
//!
//! Invariants:
//! 1. (R12) The record says who should be in a group; the group's own log says who is. Only its
//!    leader changes that, one step at a time, each after the one before is applied.
//! 2. Nobody gets a vote before it has nearly all of the log.
//! 3. Votes come and go together, in a joint configuration: while somebody who should vote is not
//!    ready, there are as many voters after a step as before it.
//!
//! Left out: groups that lost the majority of their voters for good.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::placement::Placement;
use atoll_replication::transport::NodeId;
use atoll_store::shard::ShardId;

use crate::raft::{Change, Member};

/// Who should be in a group: disks, and their nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seats {
    /// Who should vote.
    pub voters: BTreeMap<u64, NodeId>,
    /// Who should only receive.
    pub learners: BTreeMap<u64, NodeId>,
}

impl Seats {
    /// The node of a disk.
    pub(super) fn node(&self, disk: u64) -> Option<NodeId> {
        self.voters.get(&disk).or(self.learners.get(&disk)).copied()
    }
}

/// Who should be in the groups of the default placement, with this home region.
pub fn seats(placement: &Placement, home: &str) -> BTreeMap<ShardId, Seats> {
    let mut found: BTreeMap<ShardId, Seats> = BTreeMap::new();
    for record in placement.regions() {
        let disk = |node: NodeId| {
            let disk = record.nodes.get(&node).map(|seat| seat.disk);
            disk.filter(|disk| *disk != 0).map(|disk| (disk, node))
        };
        for (slot, replicas) in (0..).zip(&record.slots) {
            let seats = found.entry(ShardId { placement: 0, slot }).or_default();
            for (disk, node) in replicas.all().filter_map(disk) {
                match record.region == home && replicas.counts(node) {
                    true => seats.voters.insert(disk, node),
                    false => seats.learners.insert(disk, node),
                };
            }
        }
    }
    // Without a voter there is no group: its home region is not known here yet.
    found.retain(|_, seats| !seats.voters.is_empty());
    found
}

/// What a leader does next about who is in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Change them.
    Change(Change),
    /// Let this disk lead first: who leads now is to go.
    Transfer(u64),
}

/// The next step of a group's leader, if there is one.
pub(super) fn step(seats: &Seats, leader: &Member, live: impl Fn(NodeId) -> bool) -> Option<Step> {
    let (config, me) = (leader.config(), leader.name().disk);
    if config.is_joint() {
        let heir = |id: &&u64| **id != me && leader.is_near(**id);
        return match config.voters.contains(&me) {
            true => Some(Step::Change(Change::Settle)),
            false => config.voters.iter().find(heir).map(|id| Step::Transfer(*id)),
        };
    }
    if seats.voters.is_empty() {
        return None;
    }
    if let Some(idle) = config.learners.iter().find(|id| seats.node(**id).is_none()) {
        return Some(Step::Change(Change::Remove(*idle)));
    }
    let mut wanted = seats.voters.iter().chain(&seats.learners);
    let new = wanted.find(|(id, node)| !config.contains(**id) && live(**node));
    if let Some((id, node)) = new {
        return Some(Step::Change(Change::Learner(*id, *node)));
    }
    votes(seats, leader)
}

/// The change of votes that can be made now.
fn votes(seats: &Seats, leader: &Member) -> Option<Step> {
    let config = leader.config();
    let (ready, waiting): (BTreeSet<u64>, BTreeSet<u64>) = (seats.voters.keys())
        .filter(|id| !config.voters.contains(*id))
        .partition(|id| config.learners.contains(*id) && leader.is_near(**id));
    let mut remove: Vec<u64> =
        config.voters.iter().copied().filter(|id| !seats.voters.contains_key(id)).collect();
    let mut promote = ready;
    if !waiting.is_empty() {
        // Those that have least go first; who leads now goes last.
        remove.sort_by_key(|id| (*id == leader.name().disk, leader.matched(*id)));
        let count = promote.len().min(remove.len());
        remove.truncate(count);
        promote = promote.into_iter().take(count).collect();
    }
    let remove: BTreeSet<u64> = remove.into_iter().collect();
    let changes = !promote.is_empty() || !remove.is_empty();
    changes.then_some(Step::Change(Change::Joint { promote, remove }))
}
