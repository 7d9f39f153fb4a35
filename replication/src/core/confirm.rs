//! The other side of a level: peers that are told when this node has something.
//!
//! Invariants:
//! 1. What is told is durable, or is made so by the commit of the step that tells it (R1).
//! 2. (R12) Only a replica that counts tells, and says of which set it is one.
//! 3. Peers ask again; so much is kept for them, not for long, and not beyond their connection.

use std::collections::{BTreeMap, BTreeSet};

use atoll_store::dot::{Dot, Millis, Origin, VersionVector};
use atoll_store::shard::ShardId;

use super::Core;
use super::message::Message;
use crate::transport::NodeId;

/// What peers wait for, at most; what finds no room is asked for again.
const ASKERS: usize = 16_384;
/// How long it is kept: three times as long as it takes a peer to ask again.
const KEPT_MS: Millis = 1_500;

/// What a peer waits for.
#[derive(Debug)]
struct Asker {
    shard: ShardId,
    vector: VersionVector,
    until: Millis,
}

/// All that peers wait for.
#[derive(Debug, Default)]
pub(super) struct Askers {
    /// By peer and its name for the read.
    reads: BTreeMap<(NodeId, u64), Asker>,
    /// By peer and what it waits for: the last sequence wanted, what it was told, and until when.
    dots: BTreeMap<(NodeId, ShardId, Origin), (u64, u64, Millis)>,
}

impl Askers {
    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.dots.is_empty()
    }

    fn is_full(&self) -> bool {
        self.reads.len() + self.dots.len() >= ASKERS
    }
}

impl Core {
    /// A peer waits for an operation: acknowledged now, or when it comes.
    pub(super) fn awaited(&mut self, peer: NodeId, shard: ShardId, dot: Dot) {
        if self.standing(shard).is_none() || self.engine.is_retired(dot.origin) {
            return;
        }
        let here = self.engine.sequence(shard, dot.origin);
        if here > 0 {
            self.seen.entry(peer).or_default().entry(shard).or_default().insert(dot.origin);
        }
        if here < dot.sequence && !self.waits.askers.is_full() {
            let until = self.elapsed + KEPT_MS;
            let key = (peer, shard, dot.origin);
            let known = self.waits.askers.dots.entry(key).or_insert((0, 0, 0));
            *known = (known.0.max(dot.sequence), here, until);
        }
    }

    /// A peer asks what this node has of a shard: told now, and again when it has all that the
    /// peer has.
    pub(super) fn asked(
        &mut self,
        peer: NodeId,
        (number, shard): (u64, ShardId),
        roll: u64,
        vector: VersionVector,
    ) {
        // With another roll nothing compares; they are the same soon, and it asks again.
        let Some(vector) = self.adopt(roll, vector) else { return };
        if self.standing(shard).is_none() {
            return;
        }
        self.tell_vector(peer, number, shard);
        if self.engine.vector(shard).contains(&vector) || self.waits.askers.is_full() {
            self.waits.askers.reads.remove(&(peer, number));
            return;
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            // What does not come by itself is asked for, as if it had told its vectors.
            known.vectors.entry(shard).or_default().join(&vector);
            let gaps = vector.iter().map(|(origin, sequence)| ((shard, origin), sequence));
            known.gaps.extend(gaps);
        }
        let until = self.elapsed + KEPT_MS;
        self.waits.askers.reads.insert((peer, number), Asker { shard, vector, until });
    }

    fn tell_vector(&mut self, peer: NodeId, number: u64, shard: ShardId) {
        let Some(standing) = self.standing(shard) else { return };
        let (vector, (_, roll)) = (self.engine.vector(shard), self.engine.roll());
        self.send(peer, &Message::Told { number, standing, roll, vector });
    }

    /// Tells peers what came of these shards, if they wait for it.
    pub(super) fn tell_askers(&mut self, touched: &BTreeSet<ShardId>) {
        let (engine, elapsed) = (&self.engine, self.elapsed);
        let askers = &mut self.waits.askers;
        let mut seen = Vec::new();
        askers.dots.retain(|(peer, shard, origin), (wanted, told, until)| {
            let here = if touched.contains(shard) { engine.sequence(*shard, *origin) } else { 0 };
            if here > *told {
                *told = here;
                seen.push((*peer, *shard, *origin));
            }
            *told < *wanted && elapsed < *until
        });
        let mut tell = Vec::new();
        askers.reads.retain(|(peer, number), asker| {
            let whole = touched.contains(&asker.shard)
                && engine.vector(asker.shard).contains(&asker.vector);
            if whole {
                tell.push((*peer, *number, asker.shard));
            }
            !whole && elapsed < asker.until
        });
        for (peer, shard, origin) in seen {
            self.seen.entry(peer).or_default().entry(shard).or_default().insert(origin);
        }
        for (peer, number, shard) in tell {
            self.tell_vector(peer, number, shard);
        }
    }

    /// A peer's connection ended: what it asked for is asked anew, and what it told is not counted.
    pub(super) fn forget_asker(&mut self, peer: NodeId) {
        self.waits.askers.reads.retain(|(asker, _), _| *asker != peer);
        self.waits.askers.dots.retain(|(asker, _, _), _| *asker != peer);
        self.forget_told(peer);
    }

    /// Origins were retired: what was compared before compares no more.
    pub(super) fn begin_again(&mut self) {
        self.waits.askers.reads.clear();
        let engine = &self.engine;
        self.waits.askers.dots.retain(|(_, _, origin), _| !engine.is_retired(*origin));
        self.restart_reads();
    }
}
