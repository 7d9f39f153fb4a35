//! Equal vectors with unequal digests: an alarm, and a repair by ranges (R8).
//!
//! Invariants:
//! 1. Digests are compared only at equal vectors, where nothing is ahead or damaged.
//! 2. A dot that one side lacks survives, unless a logged remove of either side names it.
//! 3. A damaged entity is replaced from a peer, never merged outwards.

use std::collections::BTreeMap;

use atoll_store::dot::{Dot, Millis};
use atoll_store::mutant::Mutant;
use atoll_store::name::EntityKey;
use atoll_store::operation::Path;
use atoll_store::shard::ShardId;
use atoll_store::transfer::State;

use super::Core;
use super::message::{Message, ShardState};
use crate::transport::NodeId;

/// Entities compared in one message.
const SUMS: usize = 500;
/// Between two repairs of one shard with one peer.
const REPAIR_EVERY_MS: Millis = 5_000;

impl Core {
    /// At equal vectors: are the contents equal?
    pub(super) fn check_digest(&mut self, peer: NodeId, state: &ShardState) {
        let (own, _) = self.engine.digest(state.shard);
        let (Some(own), Some(theirs)) = (own, state.digest) else { return };
        if own == theirs || Mutant::TrustVectors.is_on() {
            return;
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.repairing.get(&state.shard).is_some_and(|until| *until > self.elapsed) {
            return;
        }
        known.repairing.insert(state.shard, self.elapsed + REPAIR_EVERY_MS);
        self.diverged += 1;
        tracing::error!(shard = %state.shard, peer = %peer, "equal vectors, unequal contents");
        self.send_sums(peer, state.shard, None);
    }

    fn send_sums(&mut self, peer: NodeId, shard: ShardId, after: Option<EntityKey>) {
        let Ok((sums, more)) = self.engine.sums(shard, after.as_ref(), SUMS) else { return };
        let (vector, (_, roll)) = (self.engine.vector(shard), self.engine.roll());
        self.send(peer, &Message::Sums { shard, roll, vector, after, sums, more });
    }

    pub(super) fn repair_message(&mut self, peer: NodeId, message: Message) {
        match message {
            Message::Sums { shard, roll, vector, after, sums, more }
                if self.is_at(shard, roll, &vector) =>
            {
                self.compare_sums(peer, shard, after, sums, more);
            }
            Message::Repair { shard, roll, vector, state, removed }
                if self.is_at(shard, roll, &vector) =>
            {
                self.repair(peer, shard, state, removed);
            }
            Message::EntityRequest { shard, key } => self.send_entity(peer, shard, key),
            Message::EntityReply { shard, roll, vector, state } => {
                let whole = self.adopt_whole(roll, vector);
                let (key, entity) = self.adopt_state(state).into_entity();
                let in_shard = self.engine.shard_of(&key) == shard;
                let Some(vector) = whole.filter(|_| in_shard) else { return };
                if self.engine.replace(shard, &key, entity, &vector).is_err() {
                    tracing::warn!(entity = %key, "repair waits for a peer to catch up");
                }
            }
            _ => {}
        }
    }

    /// Sends the entities of a range whose sums differ.
    fn compare_sums(
        &mut self,
        peer: NodeId,
        shard: ShardId,
        after: Option<EntityKey>,
        sums: Vec<(EntityKey, u128)>,
        more: bool,
    ) {
        let until = if more { sums.last().map(|(key, _)| key.clone()) } else { None };
        let mut theirs: BTreeMap<EntityKey, u128> = sums.into_iter().collect();
        let mut from = after;
        'pages: loop {
            let Ok((page, _)) = self.engine.sums(shard, from.as_ref(), SUMS) else { return };
            let Some((last, _)) = page.last() else { break };
            from = Some(last.clone());
            for (key, sum) in page {
                if until.as_ref().is_some_and(|until| key > *until) {
                    break 'pages;
                }
                if theirs.remove(&key).unwrap_or(0) != sum {
                    self.send_repair(peer, shard, &key, Vec::new());
                }
            }
        }
        let rest: Vec<EntityKey> =
            theirs.into_iter().filter(|(_, sum)| *sum != 0).map(|(key, _)| key).collect();
        for key in rest {
            self.send_repair(peer, shard, &key, Vec::new());
        }
        if let Some(until) = until {
            // The rest of the shard, from this side.
            self.send_sums(peer, shard, Some(until));
        }
    }

    fn send_repair(
        &mut self,
        peer: NodeId,
        shard: ShardId,
        key: &EntityKey,
        removed: Vec<(Path, Dot)>,
    ) {
        let (vector, (_, roll)) = (self.engine.vector(shard), self.engine.roll());
        let Ok(entity) = self.engine.entity(key) else { return };
        let state = State::whole(key.clone(), entity);
        self.send(peer, &Message::Repair { shard, roll, vector, state, removed });
    }

    /// Takes in a peer's copy, and answers while the peer has something to learn.
    fn repair(&mut self, peer: NodeId, shard: ShardId, state: State, removed: Vec<(Path, Dot)>) {
        let (key, theirs) = self.adopt_state(state).into_entity();
        if self.engine.shard_of(&key) != shard {
            return;
        }
        let Ok(ours) = self.engine.entity(&key).cloned() else { return };
        let mut gone = self.engine.removed_by_log(&key, &ours.lacks(&theirs));
        let known = gone.len();
        gone.extend(removed);
        let Ok(changed) = self.engine.repair(shard, &key, &theirs, &gone) else { return };
        let Ok(merged) = self.engine.entity(&key) else { return };
        let peer_differs = merged.sum() != theirs.sum();
        if peer_differs && (changed || known > 0 || !theirs.lacks(&ours).is_empty()) {
            self.send_repair(peer, shard, &key, gone);
        }
    }

    /// Asks for what is damaged here.
    pub(super) fn ask_damaged(&mut self, peer: NodeId) {
        for (shard, key) in self.engine.quarantined() {
            self.send(peer, &Message::EntityRequest { shard, key });
        }
    }

    fn send_entity(&mut self, peer: NodeId, shard: ShardId, key: EntityKey) {
        if self.engine.shard_of(&key) != shard {
            return;
        }
        let (vector, (_, roll)) = (self.engine.vector(shard), self.engine.roll());
        let Ok(entity) = self.engine.entity(&key) else { return };
        let state = State::whole(key, entity);
        self.send(peer, &Message::EntityReply { shard, roll, vector, state });
    }
}
