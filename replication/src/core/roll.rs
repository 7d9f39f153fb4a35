//! Rolls of retired origins (R9): vectors count only between nodes whose rolls are the same.
//!
//! Invariants:
//! 1. What a vector of another roll says is not looked at: it covers other origins than it seems.
//! 2. Rolls only grow, and nodes that meet tell each other what the other may lack, more of it
//!    each time: they become equal.
//! 3. A copy that is not whole, because it missed something that was retired, serves nothing and
//!    merges nothing outwards. Blank, it takes a whole state; else it first notes the operations
//!    that nobody else has (`unknown`), and becomes blank.

use std::collections::BTreeMap;

use atoll_store::dot::{Dot, Origin, VersionVector};
use atoll_store::retire::Retirement;
use atoll_store::shard::ShardId;
use atoll_store::transfer::{Chunk, State};

use super::Core;
use super::message::Message;
use crate::transport::NodeId;

/// Of the roll, told to a peer whose roll differs: at first, and in one message.
const TOLD: usize = 32;
const TOLD_AT_ONCE: usize = 64;
/// Times that this doubles: beyond it, all is told.
const DOUBLINGS: u32 = 20;

impl Core {
    /// Whether a peer's roll is this node's; else tells the peer what it may lack.
    pub(super) fn compare_rolls(&mut self, peer: NodeId, theirs: (u32, u64)) -> bool {
        let mine = self.engine.roll();
        let Some(known) = self.peers.get_mut(&peer) else { return false };
        known.same_roll = mine == theirs;
        if known.same_roll {
            known.apart = 0;
            return true;
        }
        let surplus = mine.0.saturating_sub(theirs.0) as usize;
        let count = surplus.max(TOLD << known.apart.min(DOUBLINGS));
        known.apart += 1;
        let entries = self.engine.retired(count).to_vec();
        for entries in entries.chunks(TOLD_AT_ONCE) {
            self.send(peer, &Message::Roll(entries.to_vec()));
        }
        false
    }

    /// A vector of a peer, if the peer's roll is this node's.
    pub(super) fn adopt(&self, roll: u64, mut vector: VersionVector) -> Option<VersionVector> {
        let same = self.engine.roll().1 == roll;
        same.then(|| {
            self.engine.adopt(&mut vector);
            vector
        })
    }

    /// The same, of a whole copy only.
    pub(super) fn adopt_whole(&self, roll: u64, vector: VersionVector) -> Option<VersionVector> {
        let whole = vector.covered() == self.engine.roll().0;
        self.adopt(roll, vector).filter(|_| whole)
    }

    pub(super) fn adopt_state(&self, mut state: State) -> State {
        if let Some(context) = &mut state.ahead {
            self.engine.adopt(context);
        }
        state
    }

    /// Whether a peer's copy is at the vector of this node's, and both are whole.
    pub(super) fn is_at(&self, shard: ShardId, roll: u64, vector: &VersionVector) -> bool {
        self.engine.is_whole(shard)
            && self.engine.roll().1 == roll
            && *vector == self.engine.vector(shard)
    }

    /// A chunk of a whole copy's state that says nothing beyond the ends of origins. Any other
    /// ends its transfer.
    pub(super) fn adopt_chunk(
        &mut self,
        peer: NodeId,
        shard: ShardId,
        roll: u64,
        chunk: Chunk,
    ) -> Option<Chunk> {
        let Chunk { vector, after, until, states, stamp } = chunk;
        let within = |vector: &VersionVector| {
            vector
                .iter()
                .all(|(origin, sequence)| self.may_take(peer, shard, Dot { origin, sequence }))
        };
        let vector = self.adopt_whole(roll, vector).filter(within);
        let states: Vec<State> = states.into_iter().map(|state| self.adopt_state(state)).collect();
        let ahead = states.iter().filter_map(|state| state.ahead.as_ref());
        let Some(vector) = vector.filter(|_| ahead.into_iter().all(within)) else {
            self.receiving.remove(&shard);
            return None;
        };
        Some(Chunk { vector, after, until, states, stamp })
    }

    /// Takes in what a peer knows to be retired.
    pub(super) fn learn(&mut self, entries: Vec<Retirement>) {
        let new = |entry: &Retirement| !self.engine.is_retired(entry.origin);
        let entries: Vec<Retirement> = entries.into_iter().filter(new).collect();
        if !entries.is_empty() {
            self.retire(entries);
        }
    }

    fn own_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        let slots = self.own_slots().into_iter();
        slots.map(|slot| ShardId { placement: 0, slot: slot as u16 })
    }

    /// Shards that this node is to hold and whose copies are not whole.
    pub(super) fn unwhole(&self) -> impl Iterator<Item = ShardId> + '_ {
        let retired = self.engine.roll().0 > 0;
        let shards = retired.then(|| self.own_shards()).into_iter().flatten();
        shards.filter(|shard| !self.engine.is_whole(*shard))
    }

    /// Makes copies whole again; at every tick.
    pub(super) fn refill(&mut self) {
        if self.engine.roll().0 == 0 {
            return;
        }
        self.hand_on_unknown();
        for shard in self.own_shards() {
            match () {
                () if self.engine.is_whole(shard) => {}
                () if !self.ends.stale.contains(&shard) => self.take_whole(shard),
                () if self.is_known_elsewhere(shard) => {
                    tracing::warn!(%shard, "this copy missed what was retired: taken anew");
                    self.keep_unknown(shard);
                    self.ends.stale.remove(&shard);
                    self.drop_copy(shard);
                }
                () => {}
            }
        }
    }

    /// Asks for a whole state, in the region if it can be had there.
    fn take_whole(&mut self, shard: ShardId) {
        if !self.engine.is_swept(shard) {
            return;
        }
        let whole = self.engine.roll().0;
        let has = |peer: &super::peer::Peer| {
            let vector = peer.vectors.get(&shard);
            peer.connected && peer.same_roll && vector.is_some_and(|v| v.covered() == whole)
        };
        let here = &self.me.region;
        let peers = self.peers.iter().filter(|(_, peer)| has(peer));
        let near = peers.map(|(node, peer)| (peer.region() != here, *node)).min();
        if let Some((_, peer)) = near {
            self.ask_state(peer, shard);
        }
    }

    /// Whether a whole copy has every operation of this one, but those of retired origins.
    fn is_known_elsewhere(&self, shard: ShardId) -> bool {
        let here = self.engine.vector(shard);
        let live = || here.iter().filter(|(origin, _)| !self.engine.is_retired(*origin));
        let whole = self.engine.roll().0;
        self.peers.values().any(|peer| {
            let vector = peer.vectors.get(&shard).filter(|vector| vector.covered() == whole);
            peer.same_roll
                && vector.is_some_and(|v| live().all(|(origin, seq)| v.sequence(origin) >= seq))
        })
    }
}

/// Of each origin whose end is being agreed on, the sequences up to which it is taken, by slot.
pub(super) type Limits = BTreeMap<Origin, BTreeMap<u16, u64>>;
