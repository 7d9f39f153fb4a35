//! Operations that only a copy knew which is given up: beyond the end of their retired origin (R9).
//!
//! ```text
//! the copy goes ── noted, in the commit that drops it ── written again, as new operations: here if
//!   this node serves the shard, else by a node that does ── durable there ── the note goes
//! ```
//!
//! Invariants:
//! 1. Each is written again under a key made of its old name, unless it had one: so it counts once,
//!    however often and wherever it is written again (R10).
//! 2. A note goes only once what it says is durable elsewhere, or with the commit that has it here.
//! 3. Only what is beyond the end of a retired origin is written again for a peer.
//!
//! Left out: what was removed from a counter before; what it counted comes back with the count.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use atoll_store::command::RequestHash;
use atoll_store::dot::{Dot, Millis};
use atoll_store::name::EntityKey;
use atoll_store::operation::{Operation, Part, Path, Payload};
use atoll_store::shard::ShardId;

use super::Core;
use super::message::Message;
use crate::transport::NodeId;

/// Names of the notes start so.
const UNKNOWN: &str = "unknown/";
/// Most operations, and bytes of them, that are handed on in one message; and how long is waited
/// for the word that they are durable.
const HANDED: usize = 64;
const HANDED_BYTES: usize = 256 * 1024;
const HANDED_AGAIN_MS: Millis = 5_000;

/// The note of an operation.
fn note(shard: ShardId, dot: Dot) -> String {
    format!("{}{}/{:020}", notes_of(shard), dot.origin, dot.sequence)
}

fn notes_of(shard: ShardId) -> String {
    format!("{UNKNOWN}{:05}/", shard.slot)
}

impl Core {
    /// What an earlier run noted and did not write again.
    pub(super) fn read_unknown(&mut self) {
        self.ends.unknown = self.engine.notes(UNKNOWN).unwrap_or_default().into_iter().collect();
    }

    /// Notes what only this copy knows of retired origins, as far as its log has it.
    pub(super) fn keep_unknown(&mut self, shard: ShardId) {
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
            tracing::info!(%shard, %origin, count = operations.len(), "to be written again");
            for bytes in operations {
                let Ok((dot, _)) = Operation::peek(&bytes) else { continue };
                let name = note(shard, dot);
                self.engine.put_note(&name, &bytes);
                self.ends.unknown.insert(name, bytes);
            }
        }
    }

    /// Writes again what was noted, or has it written; at every tick.
    pub(super) fn hand_on_unknown(&mut self) {
        let slots: BTreeSet<u16> = (self.ends.unknown.keys())
            .filter_map(|name| name.strip_prefix(UNKNOWN)?.split('/').next()?.parse().ok())
            .collect();
        for shard in slots.into_iter().map(|slot| ShardId { placement: 0, slot }) {
            if self.may_write_again(shard) {
                let operations = self.noted(shard, usize::MAX, usize::MAX);
                let dots = self.write_again(shard, operations);
                self.drop_notes(shard, dots);
            } else if !self.is_received(shard) {
                self.hand_on(shard);
            }
        }
    }

    /// What was noted of a shard, the first of it: so many, and so many bytes, but one at least.
    fn noted(&self, shard: ShardId, most: usize, bytes: usize) -> Vec<Bytes> {
        let start = notes_of(shard);
        let notes = self.ends.unknown.range(start.clone()..);
        let notes = notes.take_while(|(name, _)| name.starts_with(&start)).take(most);
        let (mut noted, mut left) = (Vec::new(), bytes);
        for (_, operation) in notes {
            if operation.len() > left && !noted.is_empty() {
                break;
            }
            left = left.saturating_sub(operation.len());
            noted.push(operation.clone());
        }
        noted
    }

    /// Asks a node that serves a shard to write again what was noted of it here.
    fn hand_on(&mut self, shard: ShardId) {
        let waits = |at: &Millis| self.elapsed < *at + HANDED_AGAIN_MS;
        if self.ends.handed.get(&shard).is_some_and(waits) {
            return;
        }
        let Some(peer) = self.server_of(shard) else { return };
        self.ends.handed.insert(shard, self.elapsed);
        let operations = self.noted(shard, HANDED, HANDED_BYTES);
        self.send(peer, &Message::Unknown { shard, operations });
    }

    /// A connected peer that is recorded to serve a shard: each in turn, as one may not serve yet.
    fn server_of(&self, shard: ShardId) -> Option<NodeId> {
        let serves = |region: &str, node: NodeId| {
            let set = self.placement.replicas(region, shard.slot);
            set.is_some_and(|set| set.counts(node))
        };
        let peers = self.peers.iter().filter(|(_, peer)| peer.connected && peer.same_roll);
        let serving = peers.filter(|(node, peer)| serves(peer.region(), **node));
        let serving: Vec<NodeId> = serving.map(|(node, _)| *node).collect();
        let turn = (self.elapsed / HANDED_AGAIN_MS) as usize;
        serving.get(turn % serving.len().max(1)).copied()
    }

    /// Whether this node may stamp operations of a shard.
    fn may_write_again(&self, shard: ShardId) -> bool {
        let refused = self.disk_full().or_else(|| self.clock_skew());
        refused.is_none() && self.serves(shard).is_ok()
    }

    /// A peer asks to write again what only its copy knew.
    pub(super) fn rewrite(&mut self, peer: NodeId, shard: ShardId, operations: Vec<Bytes>) {
        if !self.may_write_again(shard) {
            return;
        }
        let beyond = |bytes: &Bytes| {
            let operation = Operation::decode(bytes).ok();
            let belongs = operation.filter(|operation| self.engine.belongs(shard, operation));
            belongs.is_some_and(|Operation { dot, .. }| {
                let last = self.engine.retired_last(dot.origin, shard.slot);
                self.engine.is_retired(dot.origin) && last.is_none_or(|last| dot.sequence > last)
            })
        };
        if operations.iter().all(beyond) {
            let dots = self.write_again(shard, operations);
            self.send(peer, &Message::Rewritten { shard, dots });
        }
    }

    /// A peer has written again, durably, what was noted here.
    pub(super) fn rewritten(&mut self, shard: ShardId, dots: Vec<Dot>) {
        self.ends.handed.remove(&shard);
        self.drop_notes(shard, dots);
    }

    fn drop_notes(&mut self, shard: ShardId, dots: Vec<Dot>) {
        for name in dots.into_iter().map(|dot| note(shard, dot)) {
            if self.ends.unknown.remove(&name).is_some() {
                self.engine.drop_note(&name);
            }
        }
    }

    /// Writes operations again, as new ones. Answers the old names of all.
    fn write_again(&mut self, shard: ShardId, operations: Vec<Bytes>) -> Vec<Dot> {
        let mut renamed = Renamed::new();
        let mut done = Vec::new();
        for operation in operations.iter().filter_map(|bytes| Operation::decode(bytes).ok()) {
            let old = operation.dot;
            done.push(old);
            let origin = self.me.origin;
            let dot = Dot { origin, sequence: self.engine.sequence(shard, origin) + 1 };
            let parts = operation.parts.into_iter();
            let parts: Vec<Part> = parts.map(|part| self.again(part, old, &renamed)).collect();
            if parts.iter().all(|part| self.is_remembered(part)) {
                continue;
            }
            self.hlc = self.hlc.tick(self.clock);
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
        done
    }

    /// Whether a part was written here before, under its key.
    fn is_remembered(&mut self, part: &Part) -> bool {
        let Some(hash) = part.hash else { return false };
        let now = self.clock;
        let entity = self.engine.entity(&part.key);
        entity.is_ok_and(|entity| entity.remembered(hash.key, now).next().is_some())
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
