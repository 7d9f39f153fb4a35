//! Whom to be connected to.
//!
//! Invariants:
//! 1. Dialled are: live members of the own region; nodes that replication wants; between regions,
//!    relays by relays; and addresses of seeds and discovery at which no live member answered.
//! 2. The dead are not dialled, but one at a time, now and then: so two halves of a region find
//!    each other again without discovery. Likewise one of a region that is out of reach.
//! 3. A connection is closed only once both ends have no use for it.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::member::{Life, RELAY, Record, Verdict};
use super::message::Message;
use super::{Membership, Region};

/// Addresses, and who is behind them.
#[derive(Debug, Default)]
pub(super) struct Dialling {
    seeds: BTreeSet<String>,
    discovered: BTreeSet<String>,
    wanted: BTreeSet<NodeId>,
    /// Who answered at an address of a seed or of discovery.
    answers: BTreeMap<String, NodeId>,
    /// What is dialled.
    dialled: BTreeSet<String>,
    /// Of the dead, and of regions out of reach: whose turn it is.
    turns: BTreeSet<NodeId>,
    turn_at: Option<Millis>,
    /// Something changed since it was decided what to dial.
    pub(super) stale: bool,
}

impl Dialling {
    pub(super) fn new(seeds: BTreeSet<String>) -> Self {
        Self { seeds, stale: true, ..Self::default() }
    }

    pub(super) fn discovered(&mut self, addresses: BTreeSet<String>) {
        self.discovered = addresses;
        self.stale = true;
    }

    pub(super) fn wanted(&mut self, nodes: BTreeSet<NodeId>) {
        self.wanted = nodes;
        self.stale = true;
    }

    pub(super) fn answered(&mut self, address: String, peer: NodeId) {
        if self.seeds.contains(&address) || self.discovered.contains(&address) {
            self.answers.insert(address, peer);
            self.stale = true;
        }
    }
}

impl Membership {
    /// A region's relays: the first by id among those up with the role; where there is none, among
    /// those with the role; where there is none, among those up; else among all that live.
    pub(super) fn relays_of(&self, region: &str) -> BTreeSet<NodeId> {
        let rank = |record: &Record| {
            let up = record.life == Life::Up && record.verdict == Verdict::Alive;
            match (record.facts.roles.contains(RELAY), up) {
                (true, true) => 0,
                (true, false) => 1,
                (false, true) => 2,
                (false, false) => 3,
            }
        };
        let of = || self.table.live().filter(|record| record.facts.region == region);
        let best = of().map(rank).min();
        let best = of().filter(|record| Some(rank(record)) == best);
        best.map(|record| record.node).take(self.relays).collect()
    }

    /// Whether this node carries news between regions.
    pub(super) fn is_relay(&self) -> bool {
        let own = self.table.own();
        self.relays_of(&own.facts.region).contains(&own.node)
    }

    /// The other regions that have a live member.
    pub(super) fn far_regions(&self) -> BTreeSet<String> {
        let own = &self.table.own().facts.region;
        let regions = self.table.live().map(|record| &record.facts.region);
        regions.filter(|region| *region != own).cloned().collect()
    }

    /// The nodes to be connected to.
    fn useful(&self) -> BTreeSet<NodeId> {
        let own = self.table.own().node;
        let near = self.table.live().filter(|record| self.table.is_near(record.node));
        let mut useful: BTreeSet<NodeId> = near.map(|record| record.node).collect();
        let wanted = self.dialling.wanted.iter().copied();
        useful.extend(wanted.filter(|node| self.is_live(*node)));
        if self.is_relay() {
            let regions = self.far_regions();
            useful.extend(regions.iter().flat_map(|region| self.relays_of(region)));
        }
        useful.remove(&own);
        useful
    }

    fn is_live(&self, node: NodeId) -> bool {
        self.table.record(node).is_some_and(|record| !record.is_down())
    }

    /// Whether a live member within reach is known to be behind an address.
    fn is_answered(&self, address: &str, relay: bool) -> bool {
        let own = self.table.own();
        let found = |record: &&Record| record.facts.address == address;
        let named = self.table.live().find(found).map(|record| record.node);
        let peer = named.or_else(|| self.dialling.answers.get(address).copied());
        let Some(record) = peer.and_then(|peer| self.table.record(peer)) else { return false };
        let region = &record.facts.region;
        let near = *region == own.facts.region;
        let reached = near || !relay || self.regions.get(region).copied().unwrap_or(true);
        !record.is_down() && reached
    }

    /// Dials what is to be dialled, and forgets the rest.
    pub(super) fn redial(&mut self) {
        if !std::mem::take(&mut self.dialling.stale) {
            return;
        }
        let own = self.table.own().facts.address.clone();
        let relay = self.is_relay();
        let nodes = self.useful().into_iter().chain(self.dialling.turns.iter().copied());
        let addresses = nodes.filter_map(|node| self.table.record(node));
        let addresses = addresses.map(|record| &record.facts.address);
        let listed = self.dialling.seeds.iter().chain(&self.dialling.discovered);
        let listed = listed.filter(|address| !self.is_answered(address, relay));
        let wish: BTreeSet<String> = addresses
            .chain(listed)
            .filter(|address| !address.is_empty() && **address != own)
            .cloned()
            .collect();
        self.out.dial.extend(wish.difference(&self.dialling.dialled).cloned());
        self.out.forget.extend(self.dialling.dialled.difference(&wish).cloned());
        self.dialling.dialled = wish;
        let dialling = &mut self.dialling;
        let listed = |address: &String| {
            dialling.seeds.contains(address) || dialling.discovered.contains(address)
        };
        dialling.answers.retain(|address, _| listed(address));
    }

    /// Now and then the next of the dead, and of those out of reach, has its turn.
    pub(super) fn take_turns(&mut self, now: Millis) {
        let due = *self.dialling.turn_at.get_or_insert(now + self.timing.retry_ms);
        if due > now {
            return;
        }
        self.dialling.turn_at = Some(now + self.timing.retry_ms);
        let dead = |record: &&Record| {
            record.is_down() && record.life != Life::Leaving && self.table.is_near(record.node)
        };
        let dead: Vec<NodeId> = self.table.all().filter(dead).map(|record| record.node).collect();
        let mut groups = vec![dead];
        let lost = self.regions.iter().filter(|(_, reachable)| !**reachable);
        if self.is_relay() {
            for (region, _) in lost {
                let of = self.table.live().filter(|record| record.facts.region == *region);
                groups.push(of.map(|record| record.node).collect());
            }
        }
        let turns = groups.iter().filter_map(|group| self.random.pick(group)).collect();
        self.dialling.turns = turns;
    }

    /// Offers connections without use for closing.
    pub(super) fn offer_spares(&mut self, now: Millis) {
        let useful = self.useful();
        let mut offers = Vec::new();
        for (node, peer) in &mut self.peers {
            // Strangers are about to say who they are.
            if useful.contains(node) || self.table.record(*node).is_none() {
                peer.spare_at = None;
                continue;
            }
            let since = *peer.spare_at.get_or_insert(now);
            if now.saturating_sub(since) >= self.timing.spare_ms {
                peer.spare_at = Some(now);
                offers.push(*node);
            }
        }
        if !offers.is_empty() {
            self.send(&offers, &Message::Spare);
        }
    }

    /// A peer offers its connection for closing.
    pub(super) fn offered(&mut self, peer: NodeId) {
        if !self.useful().contains(&peer) && !self.dialling.turns.contains(&peer) {
            self.out.disconnect.push(peer);
        }
    }

    /// Which regions are within reach: of this node, or of a relay of its region.
    pub(super) fn look_around(&mut self, now: Millis) {
        let silence = self.timing.silence_ms;
        let far = self.far_regions();
        self.heard.retain(|region, _| far.contains(region));
        let own: BTreeSet<String> = far
            .iter()
            .filter(|region| self.heard.get(*region).is_some_and(|at| now < at + silence))
            .cloned()
            .collect();
        let told = self.table.live().filter(|record| self.table.is_near(record.node));
        let told = told.filter(|record| record.node != self.table.own().node);
        let mut reached: BTreeSet<String> =
            told.flat_map(|record| record.facts.reaches.iter().cloned()).collect();
        reached.extend(own.iter().cloned());
        let says = if self.is_relay() { own } else { BTreeSet::new() };
        if self.table.own().facts.reaches != says {
            self.table.change_own(|record| {
                record.facts.reaches = says;
                record.revision += 1;
            });
        }
        self.regions.retain(|region, _| far.contains(region));
        self.reached.retain(|region, _| far.contains(region));
        for name in far {
            // Relays change: a moment without one is no cut.
            let at = self.reached.entry(name.clone()).or_insert(now);
            if reached.contains(&name) {
                *at = now;
            }
            let reachable = now < *at + self.timing.exchange_ms;
            if self.regions.insert(name.clone(), reachable) != Some(reachable) {
                self.out.regions.push(Region { name, reachable });
            }
        }
    }
}
