//! What a node knows of a peer.

use std::collections::BTreeMap;

use atoll_store::dot::{Dot, Hlc, Millis, Origin, VersionVector};
use atoll_store::shard::ShardId;

use super::message::Hello;
use super::state::Sending;

/// Clocks that a peer closes once its operations up to there have come.
#[derive(Debug)]
pub(super) struct Closing {
    /// Everything that it had stamped up to here is among the sequences.
    pub(super) clock: Hlc,
    /// Everything that any node had stamped up to here it had applied.
    pub(super) applied: Hlc,
    pub(super) sequences: Vec<(ShardId, u64)>,
}

/// A peer: connected, or known from before.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) connected: bool,
    pub(super) hello: Option<Hello>,
    /// What it is known to have, durable.
    pub(super) vectors: BTreeMap<ShardId, VersionVector>,
    /// What of this start it acknowledged on this connection, as a replica that counts: by shard,
    /// the epoch of its set and the sequence.
    pub(super) acknowledged: BTreeMap<ShardId, (u64, u64)>,
    /// Whether its first word on this connection came.
    pub(super) introduced: bool,
    /// The number of the last vectors from it, and whether none since the last whole were lost.
    pub(super) heard_number: Option<u64>,
    pub(super) intact: bool,
    /// The number of the next vectors to it.
    pub(super) tell_number: u64,
    /// What it was told that this node has.
    pub(super) told: BTreeMap<ShardId, (VersionVector, Option<u128>)>,
    /// What it has issued in shards that it gave up; and what it was told of the same here.
    pub(super) issued: BTreeMap<ShardId, u64>,
    pub(super) told_issued: BTreeMap<ShardId, u64>,
    /// Its first vectors on this connection came.
    pub(super) compared: bool,
    /// What it had and this node lacked at the last tick: asked for if it still does.
    pub(super) gaps: BTreeMap<(ShardId, Origin), u64>,
    /// Ranges asked for, and until when the answer is awaited.
    pub(super) asked: BTreeMap<(ShardId, Origin), Millis>,
    pub(super) closed: Option<Closing>,
    /// Everything that any node stamped up to here it had applied, and what it issued before it
    /// had is here.
    pub(super) applied: Hlc,
    /// It knows all records that are known here.
    pub(super) knows_records: bool,
    /// How many of its last words had another roll; and whether the last one had this node's.
    pub(super) apart: u32,
    pub(super) same_roll: bool,
    /// The last word from it, and how far this node's clock is ahead of its, at least.
    pub(super) heard: Millis,
    pub(super) ahead_ms: Option<i64>,
    pub(super) rtt_ms: Option<u64>,
    pub(super) sending: BTreeMap<ShardId, Sending>,
    /// Shards under repair, at the vector where the difference was seen.
    pub(super) repairing: BTreeMap<ShardId, Millis>,
}

impl Peer {
    /// Whether it is known to have an operation.
    pub(super) fn has(&self, shard: ShardId, dot: Dot) -> bool {
        self.vectors.get(&shard).is_some_and(|vector| vector.covers(dot))
    }

    /// Forgets what holds for one connection only.
    pub(super) fn reset(&mut self) {
        // It may come back without its disk.
        self.acknowledged.clear();
        self.told.clear();
        self.issued.clear();
        self.told_issued.clear();
        self.gaps.clear();
        self.asked.clear();
        self.sending.clear();
        self.repairing.clear();
        self.compared = false;
        self.introduced = false;
        (self.heard_number, self.intact, self.tell_number) = (None, false, 0);
        self.closed = None;
        (self.apart, self.same_roll) = (0, false);
        (self.applied, self.knows_records) = (Hlc::default(), false);
        self.ahead_ms = None;
    }

    /// Whether vectors of this number are new; notes whether any before them were lost.
    pub(super) fn hears(&mut self, number: u64, whole: bool) -> bool {
        if self.heard_number.is_some_and(|heard| number <= heard) {
            return false;
        }
        let next = self.heard_number.map_or(0, |heard| heard + 1) == number;
        self.intact = whole || (self.intact && next);
        self.heard_number = Some(number);
        true
    }

    /// Forgets what concerns a shard that this node gives up.
    pub(super) fn forget_shard(&mut self, shard: ShardId) {
        self.told.remove(&shard);
        self.gaps.retain(|(gap, _), _| *gap != shard);
        self.asked.retain(|(asked, _), _| *asked != shard);
        self.sending.remove(&shard);
        self.repairing.remove(&shard);
    }

    pub(super) fn region(&self) -> &str {
        self.hello.as_ref().map_or("", |hello| &hello.region)
    }
}
