//! Transfers of a shard's state, where the log no longer holds what a peer lacks (R3).
//!
//! Invariants:
//! 1. One transfer a shard at a time; its chunks are numbered, asked for one by one, and any
//!    that is not the next is ignored.
//! 2. A transfer that stands still is given up: the gap that it was to fill is asked for again,
//!    of any peer.
//! 3. Nothing is merged before the last chunk, and nothing of another shard.

use atoll_store::dot::Millis;
use atoll_store::shard::ShardId;
use atoll_store::transfer::{Chunk, Incoming, Outgoing};

use super::Core;
use super::message::Message;
use crate::transport::NodeId;

/// How long a chunk is awaited. Default 5 s: a chunk over a slow link between regions.
const CHUNK_AWAITED_MS: Millis = 5_000;
/// Transfers received at a time: each is held in memory until it is whole.
const TRANSFERS: usize = 16;

/// A transfer to this node.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) from: NodeId,
    id: u64,
    next: u32,
    until: Millis,
    incoming: Incoming,
}

/// A transfer to a peer, which named it.
#[derive(Debug)]
pub(super) struct Sending {
    id: u64,
    next: u32,
    outgoing: Outgoing,
}

impl Core {
    /// Asks a peer for a shard's state, if it has anything that this node lacks.
    pub(super) fn ask_state(&mut self, peer: NodeId, shard: ShardId) {
        let theirs = self.peers.get(&peer).and_then(|known| known.vectors.get(&shard));
        let useful = theirs.is_some_and(|theirs| !self.engine.vector(shard).contains(theirs));
        let busy = self.receiving.len() >= TRANSFERS || self.receiving.contains_key(&shard);
        if !useful || busy || !self.is_received(shard) || self.disk_full().is_some() {
            // Still missing at a later tick: asked for again.
            return;
        }
        self.transfers += 1;
        let (id, until) = (self.transfers, self.elapsed + CHUNK_AWAITED_MS);
        let receiving = Receiving { from: peer, id, next: 0, until, incoming: Incoming::default() };
        self.receiving.insert(shard, receiving);
        self.send(peer, &Message::StateRequest { shard, transfer: id, number: 0 });
    }

    pub(super) fn send_chunk(&mut self, peer: NodeId, shard: ShardId, transfer: u64, number: u32) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let newer = known.sending.get(&shard).is_none_or(|sending| sending.id < transfer);
        if number == 0 && newer {
            let outgoing = Outgoing::new(shard);
            known.sending.insert(shard, Sending { id: transfer, next: 0, outgoing });
        }
        let Some(mut sending) = known.sending.remove(&shard) else { return };
        if (sending.id, sending.next) != (transfer, number) {
            known.sending.insert(shard, sending);
            return;
        }
        // A copy that missed what was retired merges nothing outwards (R9).
        if !self.engine.is_whole(shard) {
            return;
        }
        // A damaged entity is unknown: nothing of the shard is sent until it is repaired (R8).
        let chunk = self.engine.chunk(&mut sending.outgoing, self.bounds.chunk);
        let Ok(chunk) = chunk.map(Box::new) else { return };
        sending.next += 1;
        if !sending.outgoing.is_done()
            && let Some(known) = self.peers.get_mut(&peer)
        {
            known.sending.insert(shard, sending);
        }
        let (_, roll) = self.engine.roll();
        self.send(peer, &Message::StateChunk { shard, transfer, number, roll, chunk });
    }

    pub(super) fn chunk(
        &mut self,
        peer: NodeId,
        shard: ShardId,
        transfer: u64,
        number: u32,
        chunk: Chunk,
    ) {
        let Some(receiving) = self.receiving.get_mut(&shard) else { return };
        if (receiving.from, receiving.id, receiving.next) != (peer, transfer, number) {
            return;
        }
        if chunk.states.iter().any(|state| self.engine.shard_of(&state.key) != shard) {
            self.receiving.remove(&shard);
            self.out.rejects.push((peer, "state of another shard"));
            return;
        }
        receiving.next += 1;
        receiving.until = self.elapsed + CHUNK_AWAITED_MS;
        if !receiving.incoming.push(chunk) {
            let number = receiving.next;
            self.send(peer, &Message::StateRequest { shard, transfer, number });
            return;
        }
        let Some(Receiving { incoming, .. }) = self.receiving.remove(&shard) else { return };
        if self.engine.switch(shard, incoming).is_err() {
            tracing::warn!(%shard, "state not merged: it cannot be read here");
        }
        self.hlc = self.hlc.max(self.engine.stamp());
        self.waits.touch(shard);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.asked.retain(|(asked, _), _| *asked != shard);
        }
        self.drain_waiting(shard);
    }

    /// Gives up what stands still: a chunk was lost, or the peer cannot serve it.
    pub(super) fn give_up_transfers(&mut self) {
        let now = self.elapsed;
        self.receiving.retain(|_, receiving| receiving.until > now);
    }
}
