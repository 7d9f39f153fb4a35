//! Rolls of retired origins (R9): vectors count only between nodes whose rolls are the same.
//!
//! Invariants:
//! 1. What a vector of another roll says is not looked at: it covers other origins than it seems.
//! 2. Rolls only grow, and nodes that meet tell each other what the other may lack, more of it
//!    each time: they become equal.
//! 3. A copy that is not whole, because it missed something that was retired, serves nothing and
//!    merges nothing outwards. Blank, it takes a whole state; else it first hands on the
//!    operations that nobody else has, and becomes blank.

use std::collections::BTreeMap;

use atoll_store::command::RequestHash;
use atoll_store::dot::{Dot, Origin, VersionVector};
use atoll_store::name::EntityKey;
use atoll_store::operation::{Operation, Part, Path, Payload};
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
/// Notes with operations that only this node knew.
const UNKNOWN: &str = "unknown/";

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
        for shard in self.own_shards() {
            match () {
                () if self.engine.is_whole(shard) => self.stamp_unknown(shard),
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
        let mut live = here.iter().filter(|(origin, _)| !self.engine.is_retired(*origin));
        let whole = self.engine.roll().0;
        self.peers.values().any(|peer| {
            let vector = peer.vectors.get(&shard).filter(|vector| vector.covered() == whole);
            peer.same_roll
                && vector.is_some_and(|v| live.all(|(origin, seq)| v.sequence(origin) >= seq))
        })
    }

    /// Notes what only this copy knows of retired origins, as far as its log has it.
    fn keep_unknown(&mut self, shard: ShardId) {
        let here = self.engine.vector(shard);
        for (origin, sequence) in here.iter() {
            let Some(last) = self.engine.retired_last(origin, shard.slot) else { continue };
            if sequence <= last {
                continue;
            }
            let wanted = self.engine.operations(shard, origin, last + 1, usize::MAX);
            let Ok(operations) = wanted else {
                tracing::error!(%shard, %origin, "what only this copy knew is not in its log");
                continue;
            };
            for bytes in operations {
                let Ok((dot, _)) = Operation::peek(&bytes) else { continue };
                let slot = shard.slot;
                let name = format!("{UNKNOWN}{slot:05}/{origin}/{:020}", dot.sequence);
                self.engine.put_note(&name, &bytes);
                self.ends.unknown.insert(name, bytes);
            }
        }
    }

    /// Writes again what only this copy knew, as new operations: each under a key made of its old
    /// name, so that it counts once wherever else it comes back.
    fn stamp_unknown(&mut self, shard: ShardId) {
        if self.ends.unknown.is_empty() || self.serves(shard).is_err() {
            return;
        }
        let start = format!("{UNKNOWN}{:05}/", shard.slot);
        let notes = self.ends.unknown.range(start.clone()..);
        let notes = notes.take_while(|(name, _)| name.starts_with(&start));
        let notes: Vec<_> = notes.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        let mut renamed = Renamed::new();
        for (name, bytes) in notes {
            self.ends.unknown.remove(&name);
            self.engine.drop_note(&name);
            let Ok(operation) = Operation::decode(&bytes) else { continue };
            let origin = self.me.origin;
            let dot = Dot { origin, sequence: self.engine.sequence(shard, origin) + 1 };
            self.hlc = self.hlc.tick(self.clock);
            let old = operation.dot;
            let parts = operation.parts.into_iter();
            let parts: Vec<Part> = parts.map(|part| self.again(part, old, &renamed)).collect();
            let paths = parts.iter().flat_map(|part| {
                part.effect.adds.iter().map(|(path, _)| (part.key.clone(), path.clone()))
            });
            renamed.insert(old, (dot, paths.collect()));
            let operation = Operation { dot, stamp: self.hlc, parts };
            tracing::info!(%shard, ?old, new = ?dot, "written again");
            let bytes = operation.encode();
            self.engine.apply(shard, &operation, bytes.clone());
            self.push.entry(shard).or_default().push(bytes);
        }
    }

    /// A part of an operation, to be written again: increments as dots of their own; removes of
    /// what was renamed under its new name; of retired counts nothing is closed, as more may have
    /// been counted since.
    fn again(&self, mut part: Part, old: Dot, renamed: &Renamed) -> Part {
        let effect = &mut part.effect;
        let counts = std::mem::take(&mut effect.counts).into_iter();
        let count = |(path, _, plus, minus)| (path, Payload::Count { plus, minus });
        effect.adds.extend(counts.map(count));
        for (dot, (new, paths)) in renamed {
            for (_, path) in paths.iter().filter(|(key, _)| *key == part.key) {
                if effect.removes_dot(path, *dot) {
                    effect.removes.push((path.clone(), vec![*new]));
                }
            }
        }
        let engine = &self.engine;
        effect.closes.retain(|(epoch, _)| !engine.is_retired(epoch.origin));
        part.hash.get_or_insert_with(|| name_hash(old));
        part
    }

    /// What an earlier run noted and did not write again.
    pub(super) fn read_unknown(&mut self) {
        self.ends.unknown = self.engine.notes(UNKNOWN).unwrap_or_default().into_iter().collect();
    }
}

/// The key under which an operation is written again, from its old name.
fn name_hash(dot: Dot) -> RequestHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"written again").update(&dot.origin.0.to_be_bytes());
    hasher.update(&dot.sequence.to_be_bytes());
    let hash = hasher.finalize();
    let (key, rest) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    let request = rest.first_chunk().expect("a hash has 32 bytes");
    RequestHash { key: u128::from_be_bytes(*key), request: u64::from_be_bytes(*request) }
}

/// Operations written again: their new names, and where they put something.
type Renamed = BTreeMap<Dot, (Dot, Vec<(EntityKey, Path)>)>;

/// Of each origin whose end is being agreed on, the sequences up to which it is taken, by slot.
pub(super) type Limits = BTreeMap<Origin, BTreeMap<u16, u64>>;
