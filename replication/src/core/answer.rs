//! Asking for what is missing, and answering from the log.
//!
//! Invariants:
//! 1. One request a range is under way at a time, and its answer is awaited, but not for ever.
//! 2. A request is answered from the log, or with `Trimmed`, and then by state.

use std::collections::BTreeMap;

use bytes::Bytes;

use atoll_store::dot::{Dot, Millis, Origin};
use atoll_store::shard::ShardId;

use super::Core;
use super::message::{Message, Want};
use crate::transport::NodeId;

/// An answer is awaited this long before a range is asked for again.
const ASK_AGAIN_MS: Millis = 1_000;
/// Wants in one request.
const WANTS: usize = 1_024;

impl Core {
    /// Asks on for what a peer is still known to have, once an answer is whole: one request is
    /// under way at a time. An answer that brought nothing new is not asked for again at once.
    pub(super) fn answered(&mut self, peer: NodeId, wants: Vec<Want>) {
        let engine = &self.engine;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let came =
            |want: &Want| engine.sequence(want.shard, want.from.origin) >= want.from.sequence;
        if !wants.iter().any(came) {
            return;
        }
        for want in &wants {
            known.asked.remove(&(want.shard, want.from.origin));
        }
        let lacking = known.vectors.iter().flat_map(|(shard, vector)| {
            let each = vector.iter().map(|(origin, sequence)| (*shard, origin, sequence));
            each.filter(|(shard, origin, seq)| engine.sequence(*shard, *origin) < *seq)
        });
        let mut wants: Vec<_> = lacking.map(|(shard, origin, _)| (shard, origin)).collect();
        wants.retain(|(shard, _)| self.is_received(*shard));
        self.ask(peer, &wants);
    }

    pub(super) fn ask(&mut self, peer: NodeId, wants: &[(ShardId, Origin)]) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let mut request = Vec::new();
        for (shard, origin) in wants {
            // Of an origin that was retired meanwhile nothing is missing.
            let Some(sequence) = self.engine.sequence(*shard, *origin).checked_add(1) else {
                continue;
            };
            let pending =
                known.asked.get(&(*shard, *origin)).is_some_and(|until| *until > self.elapsed);
            let transfer = self.receiving.contains_key(shard);
            if !pending && !transfer {
                known.asked.insert((*shard, *origin), self.elapsed + ASK_AGAIN_MS);
                request.push(Want { shard: *shard, from: Dot { origin: *origin, sequence } });
            }
        }
        for wants in request.chunks(WANTS) {
            self.send(peer, &Message::Request(wants.to_vec()));
        }
    }

    /// Answers from the log, every shard with a share. Operations come in the log's order: were
    /// they sent origin by origin, one that fills the answer and waits for another would keep
    /// the other from ever being sent.
    pub(super) fn answer(&mut self, peer: NodeId, wants: Vec<Want>) {
        let mut by_shard: BTreeMap<ShardId, Vec<(Origin, u64)>> = BTreeMap::new();
        for Want { shard, from: Dot { origin, sequence } } in wants.into_iter().take(WANTS) {
            if sequence > 0 && sequence <= self.engine.sequence(shard, origin) {
                by_shard.entry(shard).or_default().push((origin, sequence));
            }
        }
        let share = self.bounds.answer / by_shard.len().max(1);
        let (mut batches, mut answered) = (Vec::new(), Vec::new());
        for (shard, mut wanted) in by_shard {
            let asked = wanted.len();
            wanted.retain(|(origin, from)| self.engine.holds(shard, *origin, *from));
            match self.engine.operations_of(shard, &wanted, share) {
                Ok(operations) if wanted.len() == asked => batches.push((shard, operations)),
                Ok(operations) => {
                    batches.push((shard, operations));
                    self.send(peer, &Message::Trimmed(shard));
                }
                Err(_) => self.send(peer, &Message::Trimmed(shard)),
            }
            let want = |(origin, sequence)| Want { shard, from: Dot { origin, sequence } };
            answered.extend(wanted.into_iter().map(want));
        }
        for message in split(batches, self.bounds.message, false, true) {
            self.send(peer, &message);
        }
        if !answered.is_empty() {
            self.send(peer, &Message::Answered(answered));
        }
    }
}

/// Messages of about `bound` bytes each.
pub(super) fn split(
    batches: impl IntoIterator<Item = (ShardId, Vec<Bytes>)>,
    bound: usize,
    relay: bool,
    answer: bool,
) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut current: Vec<(ShardId, Vec<Bytes>)> = Vec::new();
    let mut size = 0;
    for (shard, operations) in batches {
        current.push((shard, Vec::new()));
        for bytes in operations {
            size += bytes.len() + 8;
            current.last_mut().expect("just pushed").1.push(bytes);
            if size >= bound {
                let batches = std::mem::replace(&mut current, vec![(shard, Vec::new())]);
                messages.push(Message::Operations { relay, answer, batches });
                size = 0;
            }
        }
    }
    current.retain(|(_, operations)| !operations.is_empty());
    if !current.is_empty() {
        messages.push(Message::Operations { relay, answer, batches: current });
    }
    messages
}
