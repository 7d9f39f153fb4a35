//! Clocks: how far this node's runs from its peers', and what each origin has closed.
//!
//! Invariants:
//! 1. (R5) A clock more than 500 ms ahead of the peers' median refuses to stamp; a peer's
//!    operation is never refused.
//! 2. A clock of an origin is closed here once every operation that it had stamped by then is.
//! 3. A clock has settled once every node has applied all that was stamped by then, and all that
//!    each had issued before it did is here.

use std::collections::{BTreeMap, BTreeSet};

use atoll_store::command::Refusal;
use atoll_store::dot::{Hlc, Millis, Origin, VersionVector};
use atoll_store::entity::RETRY_WINDOW_MS;
use atoll_store::retire::Settled;
use atoll_store::shard::ShardId;

use super::Core;
use super::peer::{Closing, Peer};
use crate::transport::NodeId;

/// How far ahead of its peers a clock may run. Default 500 ms: well above what NTP leaves.
const SKEW_MS: i64 = 500;

impl Peer {
    /// Notes the clocks that the peer closes, and has applied, with the vectors that it has told.
    pub(super) fn closes(&mut self, clock: Hlc, applied: Hlc, origin: Origin) {
        if self.closed.is_none() {
            let held = self.vectors.iter().map(|(id, vector)| (*id, vector.sequence(origin)));
            let given_up = self.issued.iter().map(|(id, sequence)| (*id, *sequence));
            let sequences = held.filter(|(_, sequence)| *sequence > 0).chain(given_up);
            let sequences = sequences.collect();
            self.closed = Some(Closing { clock, applied, sequences });
        }
    }
}

impl Core {
    pub(super) fn pong(&mut self, now: Millis, peer: NodeId, sent: Millis, clock: Millis) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let round_trip = now.saturating_sub(sent);
        let estimate = clock.saturating_add(round_trip / 2);
        known.rtt_ms = Some(round_trip);
        known.ahead_ms = Some(now as i64 - estimate as i64);
    }

    pub(super) fn clock_skew(&self) -> Option<Refusal> {
        let peers = self.peers.values().filter(|peer| peer.connected);
        let mut ahead: Vec<i64> = peers.filter_map(|peer| peer.ahead_ms).collect();
        ahead.sort_unstable();
        let median = *ahead.get(ahead.len().saturating_sub(1) / 2)?;
        (median > SKEW_MS).then_some(Refusal::ClockSkew { ahead_ms: median.unsigned_abs() })
    }

    /// Retries are forgotten 24 h behind the clocks that all peers, connected, have closed here.
    fn close_retries(&mut self) {
        let whole = self.peers.values().all(|peer| {
            let caught_up = |(shard, vector): (&ShardId, &VersionVector)| {
                !self.is_received(*shard)
                    || vector.iter().all(|(o, seq)| self.engine.sequence(*shard, o) >= seq)
            };
            peer.connected && peer.compared && peer.vectors.iter().all(caught_up)
        });
        // Of a recorded replica that was never met nothing is known.
        let recorded = self.placement.regions().flat_map(|record| record.nodes.keys());
        let met = |node: &NodeId| *node == self.me.node || self.peers.contains_key(node);
        if !whole || !recorded.into_iter().all(met) || self.peers.len() < self.me.seeds.min(1) {
            return;
        }
        let origins = self.peers.values().map(|peer| Some(peer.hello.as_ref()?.origin));
        let closed = origins.map(|o| self.closed.get(&o?).copied());
        let lowest = closed.chain([Some(self.hlc)]).map(Option::unwrap_or_default).min();
        self.lowest = self.lowest.max(lowest.unwrap_or_default());
        let millis = self.lowest.millis().saturating_sub(RETRY_WINDOW_MS);
        self.engine.close_retries(Hlc::at(millis));
        // What every node has applied, and what is in every node's roll, has settled.
        let applied = self.peers.values().map(|peer| peer.applied).chain([self.lowest]).min();
        if self.peers.values().all(|peer| peer.same_roll) {
            let (known, _) = self.engine.roll();
            self.engine.settle(Settled { clock: applied.unwrap_or_default(), known });
        }
    }

    /// The closed clocks, this node's own too.
    pub(super) fn closed_clocks(&self) -> BTreeMap<Origin, Hlc> {
        let mut closed = self.closed.clone();
        closed.insert(self.me.origin, self.hlc);
        closed
    }

    /// Keeps the closed clocks for the next start. What the log holds does not tell them: of two
    /// operations of an origin the later may have come first, in another shard.
    pub(super) fn keep_closed(&mut self) {
        let closed = self.closed_clocks();
        if *self.engine.closed() != closed {
            self.engine.put_closed(closed);
        }
    }

    /// Closes the clocks whose operations have all come.
    pub(super) fn close_clocks(&mut self) {
        let named = self.peers.values().filter_map(|peer| peer.closed.as_ref());
        let named = named.flat_map(|closing| closing.sequences.iter().map(|(shard, _)| *shard));
        // What is received from now on only, nobody has closed yet.
        let received: BTreeSet<ShardId> = named.filter(|shard| self.is_received(*shard)).collect();
        let engine = &self.engine;
        for peer in self.peers.values_mut() {
            let Some(origin) = peer.hello.as_ref().map(|hello| hello.origin) else { continue };
            let Some(Closing { clock, applied, sequences }) = &peer.closed else { continue };
            let mut due = sequences.iter().filter(|(shard, _)| received.contains(shard));
            if due.all(|(shard, seq)| engine.sequence(*shard, origin) >= *seq) {
                let closed = self.closed.entry(origin).or_default();
                *closed = (*closed).max(*clock);
                peer.applied = peer.applied.max(*applied);
                peer.closed = None;
            }
        }
        self.close_retries();
    }
}
