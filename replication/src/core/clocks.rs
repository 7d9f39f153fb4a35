//! Clocks: how far this node's runs from its peers', and what each origin has closed.
//!
//! Invariants:
//! 1. (R5) A clock that is certainly more than 500 ms ahead of the peers' median refuses to stamp.
//!    An answer that comes late makes no clock wrong, and none right. A peer's operation is never
//!    refused.
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
use crate::placement::Version;
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
            let applied = if self.knows_records { applied } else { Hlc::default() };
            self.closed = Some(Closing { clock, applied, sequences });
        }
    }
}

impl Core {
    pub(super) fn pong(&mut self, now: Millis, peer: NodeId, sent: Millis, clock: Millis) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.rtt_ms = Some(now.saturating_sub(sent));
        // Where question and answer were held up, on the way or at either end, nobody knows: only
        // what lies between is certain. What was known stays unless this contradicts it.
        let (least, most) = (sent as i64 - clock as i64, now as i64 - clock as i64);
        let stays = known.ahead_ms.filter(|ahead| (least..=most).contains(ahead));
        known.ahead_ms = Some(stays.unwrap_or(least));
    }

    pub(super) fn clock_skew(&self) -> Option<Refusal> {
        let peers = self.peers.values().filter(|peer| peer.connected);
        let mut ahead: Vec<i64> = peers.filter_map(|peer| peer.ahead_ms).collect();
        ahead.sort_unstable();
        let median = *ahead.get(ahead.len().saturating_sub(1) / 2)?;
        (median > SKEW_MS).then_some(Refusal::ClockSkew { ahead_ms: median.unsigned_abs() })
    }

    /// Peers whose operations and clocks count: recorded nodes, and in a region without a record
    /// every node that was heard of. What others wrote ends with them (R9).
    fn counted(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        let counts = |node: &NodeId, peer: &Peer| {
            self.placement
                .region(peer.region())
                .is_none_or(|record| record.nodes.contains_key(node))
        };
        self.peers.iter().filter(move |(node, peer)| counts(node, peer))
    }

    /// The clock up to which everything that any node stamped is here; none while a node that
    /// counts is away, or was never met.
    fn lowest(&self) -> Option<Hlc> {
        let caught_up = |(shard, vector): (&ShardId, &VersionVector)| {
            !self.is_received(*shard)
                || vector.iter().all(|(o, seq)| self.engine.sequence(*shard, o) >= seq)
        };
        let whole =
            |peer: &Peer| peer.connected && peer.compared && peer.vectors.iter().all(caught_up);
        let mut recorded = self.placement.regions().flat_map(|record| record.nodes.keys());
        let met = |node: &NodeId| *node == self.me.node || self.peers.contains_key(node);
        let all = recorded.all(met) && self.counted().all(|(_, peer)| whole(peer));
        if !all || self.peers.len() < self.me.seeds.min(1) {
            return None;
        }
        let origins = self.counted().map(|(_, peer)| Some(peer.hello.as_ref()?.origin));
        let closed = origins.map(|o| self.closed.get(&o?).copied());
        closed.chain([Some(self.hlc)]).map(Option::unwrap_or_default).min()
    }

    /// What every node has applied, and what is in every node's roll, has settled: as far as the
    /// records known now tell of all nodes. One that comes later may have stamped below that.
    /// Retries are forgotten 24 h behind what is here of all.
    fn settle(&mut self) {
        self.lowest = self.lowest().unwrap_or_default();
        let millis = self.lowest.millis().saturating_sub(RETRY_WINDOW_MS);
        self.engine.close_retries(Hlc::at(millis));
        let applied = self.counted().map(|(_, peer)| peer.applied).chain([self.lowest]).min();
        let clock = applied.unwrap_or_default();
        let same = self.counted().all(|(_, peer)| peer.same_roll);
        let known = if same { self.engine.roll().0 } else { 0 };
        self.engine.settle(Settled { clock, known });
    }

    /// The clock goes on while nothing is written: what will be stamped is later. Not that of a
    /// clock that runs ahead: it will be set right.
    pub(super) fn advance_clock(&mut self, now: Millis) {
        if self.clock_skew().is_none() {
            self.hlc = self.hlc.max(Hlc::at(now));
        }
    }

    /// A peer told which records it knows. What it has applied counts only if it knows of all the
    /// nodes that are known here.
    pub(super) fn knows_records(&mut self, peer: NodeId, theirs: &BTreeMap<String, Version>) {
        let mut known = self.placement.regions();
        let all = known.all(|record| {
            theirs.get(&record.region).is_some_and(|version| *version >= record.version)
        });
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.knows_records = all;
        }
    }

    /// A record was taken: until peers know it too, nothing that they have applied counts.
    pub(super) fn unsettle(&mut self) {
        for peer in self.peers.values_mut() {
            (peer.knows_records, peer.applied) = (false, Hlc::default());
            if let Some(closing) = &mut peer.closed {
                closing.applied = Hlc::default();
            }
        }
    }

    /// The closed clocks, this node's own too.
    pub(super) fn closed_clocks(&self) -> BTreeMap<Origin, Hlc> {
        let mut closed = self.closed.clone();
        closed.insert(self.me.origin, self.hlc);
        closed
    }

    /// Keeps the closed clocks for the next start, if anything was written since. What the log
    /// holds does not tell them: of two operations of an origin the later may have come first, in
    /// another shard.
    pub(super) fn keep_closed(&mut self) {
        let end = self.engine.journal_end();
        if self.kept_closed != end {
            self.kept_closed = end;
            self.engine.put_closed(self.closed_clocks());
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
                peer.applied = *applied;
                peer.closed = None;
            }
        }
        self.settle();
    }
}
