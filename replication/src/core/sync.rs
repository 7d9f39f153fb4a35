//! How copies converge: push, acknowledge, compare, ask.
//!
//! Invariants:
//! 1. (R2) Operations are applied in the order of their origin, after what they name; others
//!    wait, bounded, and what they wait for is asked for at once.
//! 2. A gap that a peer's vectors show, and that is still there a tick later, is asked for.

use std::collections::BTreeMap;

use bytes::Bytes;

use atoll_store::dot::{Dot, Millis, Origin, VersionVector};
use atoll_store::engine::Readiness;
use atoll_store::operation::Operation;
use atoll_store::shard::ShardId;

use super::answer::split;
use super::message::{Fact, Hello, Message, Seen, ShardState, Vectors};
use super::placed::Route;
use super::{Core, PING_MS, QUIET_PEERS, RECALL_MS, TICK_MS};
use crate::transport::NodeId;

impl Core {
    pub(super) fn connected(&mut self, now: Millis, peer: NodeId) {
        let known = self.peers.entry(peer).or_default();
        known.reset();
        known.connected = true;
        known.knows_records = self.placement.regions().next().is_none();
        known.heard = self.elapsed;
        self.forget_routes();
        self.introduce(peer);
        if self.placement.regions().next().is_some() {
            self.tell_records(peer);
        }
        self.send(peer, &Message::Ping { sent: now });
        self.tell(peer, true);
        self.changed = true;
    }

    fn introduce(&mut self, peer: NodeId) {
        let me = &self.me;
        let hello = Hello {
            name: me.name.clone(),
            region: me.region.clone(),
            zone: me.zone.clone(),
            address: me.address.clone(),
            version: me.version.clone(),
            origin: me.origin,
            slots: self.engine.slots(),
            facts: self.facts.values().cloned().collect(),
        };
        self.send(peer, &Message::Hello(Box::new(hello)));
    }

    pub(super) fn disconnected(&mut self, peer: NodeId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.connected = false;
            known.reset();
        }
        self.receiving.retain(|_, receiving| receiving.from != peer);
        self.forget_asker(peer);
        self.forget_routes();
        self.changed = true;
    }

    pub(super) fn received(&mut self, now: Millis, peer: NodeId, message: Message) {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| known.connected) else { return };
        known.heard = self.elapsed;
        match message {
            Message::Hello(hello) => self.hello(peer, *hello),
            Message::Who => self.introduce(peer),
            Message::Operations { relay, answer: _, batches } => {
                self.operations(peer, relay, batches);
            }
            Message::Acknowledge(seen) => self.acknowledged(peer, seen),
            Message::Await { shard, dot } => self.awaited(peer, shard, dot),
            Message::Ask { number, shard, roll, vector } => {
                self.asked(peer, (number, shard), roll, vector);
            }
            Message::Told { number, standing, roll, vector } => {
                self.told(peer, number, standing, roll, vector);
            }
            Message::Vectors(told) => self.vectors(peer, *told),
            Message::Roll(entries) => self.learn(entries),
            Message::Records(versions) => self.records(peer, versions),
            Message::NewerRecords(versions) => self.newer_records(peer, versions),
            Message::RecordsRequest(regions) => self.send_records(peer, regions),
            Message::Record(record) => self.receive_record(*record),
            Message::Follow { shard, epoch } => self.answer_follow(peer, shard, epoch),
            Message::Followed { shard, epoch, roll, vector } => {
                if let Some(vector) = self.adopt(roll, vector) {
                    self.followed(peer, shard, epoch, vector);
                }
            }
            Message::Request(wants) => self.answer(peer, wants),
            Message::Answered(wants) => self.answered(peer, wants),
            Message::Trimmed(shard) => self.ask_state(peer, shard),
            Message::Unknown { shard, operations } => self.rewrite(peer, shard, operations),
            Message::Rewritten { shard, dots } => self.rewritten(shard, dots),
            Message::StateRequest { shard, transfer, number } => {
                self.send_chunk(peer, shard, transfer, number);
            }
            Message::StateChunk { shard, transfer, number, roll, chunk } => {
                if let Some(chunk) = self.adopt_chunk(peer, shard, roll, *chunk) {
                    self.chunk(peer, shard, transfer, number, chunk);
                }
            }
            Message::Ping { sent } => self.send(peer, &Message::Pong { sent, clock: now }),
            Message::Pong { sent, clock } => self.pong(now, peer, sent, clock),
            other => self.repair_message(peer, other),
        }
    }

    /// What a peer has, and has closed. Of doubled or overtaken words only the newest counts, and
    /// only those of peers with the same roll: vectors of others say less, or more, than they seem.
    fn vectors(&mut self, peer: NodeId, mut told: Vectors) {
        let same = self.compare_rolls(peer, told.roll);
        let Some(known) = self.peers.get_mut(&peer).filter(|_| same) else { return };
        if !known.hears(told.number, told.whole) {
            return;
        }
        if told.whole {
            // What it had and no longer names is gone: it may have lost its disk.
            known.vectors.clear();
            known.issued.clear();
        }
        known.issued.extend(told.issued);
        for state in &mut told.shards {
            self.engine.adopt(&mut state.vector);
            known.vectors.insert(state.shard, state.vector.clone());
        }
        let first = told.whole && !known.compared;
        known.compared |= told.whole;
        let own = known.hello.as_ref().filter(|_| known.introduced).map(|hello| hello.origin);
        let own = own.filter(|_| known.intact);
        if let Some(origin) = own.filter(|_| self.counts_all(told.record))
            && let Some(known) = self.peers.get_mut(&peer)
        {
            known.closes(told.closed, told.applied, origin);
        }
        self.compare(peer, first, told.shards);
    }

    fn hello(&mut self, peer: NodeId, hello: Hello) {
        if hello.slots != self.engine.slots() {
            tracing::error!(name = %hello.name, slots = hello.slots, "peer has other hash slots");
            self.out.rejects.push((peer, "another number of hash slots"));
            return;
        }
        let own = Fact { origin: hello.origin, node: peer, region: hello.region.clone() };
        let live = |fact: &&Fact| !self.engine.is_retired(fact.origin);
        let facts: Vec<&Fact> = hello.facts.iter().chain([&own]).filter(live).collect();
        for fact in facts {
            if self.facts.insert(fact.origin, fact.clone()).as_ref() != Some(fact) {
                let body = postcard::to_stdvec(fact).expect("a fact encodes to memory");
                self.engine.put_fact(fact.origin, &body);
            }
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.hello = Some(hello);
            known.introduced = true;
        }
        self.forget_routes();
        self.changed = true;
    }

    fn operations(&mut self, peer: NodeId, relay: bool, batches: Vec<(ShardId, Vec<Bytes>)>) {
        if self.disk_full().is_some() {
            return;
        }
        for (shard, operations) in batches {
            if !self.is_received(shard) {
                continue;
            }
            for bytes in operations {
                let operation = Operation::decode(&bytes);
                let Some(operation) = operation.ok().filter(|op| self.engine.belongs(shard, op))
                else {
                    self.out.rejects.push((peer, "malformed operation"));
                    return;
                };
                self.offer(peer, relay, shard, operation, bytes);
            }
            self.drain_waiting(shard);
        }
    }

    /// Applies an operation, or lets it wait behind what it needs.
    fn offer(
        &mut self,
        peer: NodeId,
        relay: bool,
        shard: ShardId,
        operation: Operation,
        bytes: Bytes,
    ) {
        let origin = operation.dot.origin;
        if !self.may_take(peer, shard, operation.dot) {
            return;
        }
        match self.engine.readiness(shard, &operation) {
            Readiness::Seen => {}
            Readiness::Ready => {
                if relay {
                    self.pass_on.entry(shard).or_default().push(bytes.clone());
                }
                self.apply(shard, &operation, bytes);
            }
            Readiness::Waits(missing) => {
                let size = bytes.len() + 256;
                if self.waiting_bytes + size > self.bounds.waiting {
                    return;
                }
                let waiting = self.waiting.entry(shard).or_default();
                if waiting.insert(operation.dot, (operation, bytes)).is_none() {
                    self.waiting_bytes += size;
                }
                self.ask(peer, &[(shard, missing.origin)]);
            }
        }
        let seen = self.seen.entry(peer).or_default();
        seen.entry(shard).or_default().insert(origin);
    }

    fn apply(&mut self, shard: ShardId, operation: &Operation, bytes: Bytes) {
        self.hlc = self.hlc.max(operation.stamp);
        self.engine.apply(shard, operation, bytes);
        self.waits.touch(shard);
    }

    /// Applies what waited for operations that have come. Only the first of an origin can be
    /// next: a look costs by the origins that wait, not by the operations.
    pub(super) fn drain_waiting(&mut self, shard: ShardId) {
        let Some(mut waiting) = self.waiting.remove(&shard) else { return };
        loop {
            let (before, mut from) = (waiting.len(), Dot::MIN);
            while let Some((dot, (operation, _))) = waiting.range(from..).next() {
                let (dot, readiness) = (*dot, self.engine.readiness(shard, operation));
                if let Readiness::Waits(_) = readiness {
                    from = Dot { sequence: u64::MAX, ..dot };
                    continue;
                }
                let Some((operation, bytes)) = waiting.remove(&dot) else { break };
                self.waiting_bytes -= bytes.len() + 256;
                if readiness == Readiness::Ready {
                    self.apply(shard, &operation, bytes);
                }
            }
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        if !waiting.is_empty() {
            self.waiting.insert(shard, waiting);
        }
    }

    /// Ships what this step stamped, and passes on what came from other regions.
    pub(super) fn send_operations(&mut self) {
        let push = std::mem::take(&mut self.push);
        let inside = self.by_route(&push, |route| &route.inside);
        let outside = self.by_route(&push, |route| &route.outside);
        let pass_on = std::mem::take(&mut self.pass_on);
        let passed = self.by_route(&pass_on, |route| &route.inside);
        for (to, operations) in inside.into_iter().chain(passed) {
            self.ship(&to, false, &operations);
        }
        for (to, operations) in outside {
            self.ship(&to, true, &operations);
        }
    }

    /// Operations by where they go: shards with equal routes share their frames.
    fn by_route(
        &mut self,
        operations: &BTreeMap<ShardId, Vec<Bytes>>,
        to: impl Fn(&Route) -> &Vec<NodeId>,
    ) -> BTreeMap<Vec<NodeId>, BTreeMap<ShardId, Vec<Bytes>>> {
        let mut routes: BTreeMap<Vec<NodeId>, BTreeMap<ShardId, Vec<Bytes>>> = BTreeMap::new();
        for (shard, bytes) in operations {
            let nodes = to(self.route(*shard)).clone();
            routes.entry(nodes).or_default().insert(*shard, bytes.clone());
        }
        routes
    }

    fn ship(&mut self, to: &[NodeId], relay: bool, operations: &BTreeMap<ShardId, Vec<Bytes>>) {
        if to.is_empty() {
            return;
        }
        let batches = operations.iter().map(|(shard, bytes)| (*shard, bytes.clone()));
        for message in split(batches, self.bounds.message, relay, false) {
            let (class, frame) = (message.class(), message.encode());
            for peer in to {
                self.out.sends.push((*peer, class, frame.clone()));
            }
        }
    }

    /// Tells whoever sent operations in this step what is now durable here.
    pub(super) fn acknowledge(&mut self) {
        for (peer, shards) in std::mem::take(&mut self.seen) {
            let seen = shards.into_iter().map(|(shard, origins)| {
                let origins = origins.into_iter().filter(|o| !self.engine.is_retired(*o));
                let sequences = origins.map(|o| (o, self.engine.sequence(shard, o))).collect();
                Seen { shard, standing: self.standing(shard), sequences }
            });
            let message = Message::Acknowledge(seen.collect());
            self.send(peer, &message);
        }
    }

    fn acknowledged(&mut self, peer: NodeId, seen: Vec<Seen>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        for Seen { shard, standing, sequences } in seen {
            let vector = known.vectors.entry(shard).or_default();
            for (origin, sequence) in sequences {
                vector.raise(origin, sequence);
                if let Some(epoch) = standing.filter(|_| origin == self.me.origin) {
                    known.acknowledged.insert(shard, (epoch, sequence));
                    self.waits.touch(shard);
                }
            }
        }
    }

    pub(super) fn tick(&mut self, now: Millis) {
        self.next_tick = self.elapsed + TICK_MS;
        let ping = self.elapsed >= self.next_ping;
        if ping {
            self.next_ping = self.elapsed + PING_MS;
        }
        self.give_up_transfers();
        self.tick_records();
        self.advance_clock(now);
        let connected = self.peers.iter().filter(|(_, peer)| peer.connected);
        for peer in connected.map(|(id, _)| *id).collect::<Vec<_>>() {
            if ping {
                self.send(peer, &Message::Ping { sent: now });
                if self.peers.get(&peer).is_some_and(|known| !known.introduced) {
                    self.send(peer, &Message::Who);
                }
            }
            // Now and then everything is told again: whatever was dropped is noticed.
            if ping && self.placement.regions().next().is_some() {
                self.tell_records(peer);
            }
            self.tell(peer, ping);
            self.ask_gaps(peer);
            self.ask_damaged(peer);
        }
        self.tick_placement();
        self.ask_again();
        self.close_clocks();
        self.tick_endings();
        self.refill();
        if ping {
            self.keep_closed();
        }
        self.check_ready();
        self.changed = true;
    }

    /// A start is ready when peers gave back what they hold of earlier ones, or did not answer.
    fn check_ready(&mut self) {
        if self.ready {
            return;
        }
        let all = self.peers.values().filter(|peer| peer.compared).count() >= self.me.seeds;
        let own: Vec<Origin> = self
            .facts
            .values()
            .filter(|fact| fact.node == self.me.node)
            .map(|fact| fact.origin)
            .collect();
        let recalled = self.peers.values().filter(|peer| peer.compared).all(|peer| {
            let lacks = |(shard, vector): (&ShardId, &VersionVector)| {
                own.iter().any(|o| vector.sequence(*o) > self.engine.sequence(*shard, *o))
            };
            !peer.vectors.iter().any(lacks)
        });
        let waited = self.elapsed >= self.started + RECALL_MS;
        let whole = self.unwhole().next().is_none();
        self.ready = ((all && recalled) || waited) && self.unplaced().is_none() && whole;
    }

    /// Tells a peer what changed here since it was last told, or all. That nothing did is told at
    /// every tick, but in large clusters only in turns.
    fn tell(&mut self, peer: NodeId, whole: bool) {
        let turns = 1 + self.peers.len() as u64 / QUIET_PEERS;
        let turn = self.elapsed / TICK_MS + u64::from(peer.0[15]);
        let told = self.engine.shards().filter(|shard| self.is_told(peer, *shard));
        let told: Vec<ShardId> = told.collect();
        let record = self.record_of(peer);
        let floors = self.floors_for(peer);
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if whole {
            known.told.clear();
            known.told_issued.clear();
        }
        let mut shards = Vec::new();
        for shard in told {
            let (vector, digest) = (self.engine.vector(shard), self.engine.digest(shard).0);
            let now = (vector.clone(), digest);
            if known.told.get(&shard) != Some(&now) {
                known.told.insert(shard, now);
                shards.push(ShardState { shard, vector, digest });
            }
        }
        let new = |(shard, issued): &(ShardId, u64)| {
            known.told_issued.insert(*shard, *issued) != Some(*issued)
        };
        let issued: Vec<_> = floors.into_iter().filter(new).collect();
        let quiet = !whole && shards.is_empty() && issued.is_empty();
        if quiet && !turn.is_multiple_of(turns) {
            return;
        }
        let number = known.tell_number;
        known.tell_number += 1;
        let (closed, applied, roll) = (self.hlc, self.lowest, self.engine.roll());
        let told = Vectors { number, whole, roll, closed, applied, record, issued, shards };
        self.send(peer, &Message::Vectors(Box::new(told)));
    }

    /// What a peer has and this node lacks: asked for at once on a new connection, else if it is
    /// still missing at the next tick, so that what is on its way is not asked for.
    fn compare(&mut self, peer: NodeId, first: bool, shards: Vec<ShardState>) {
        if atoll_store::mutant::Mutant::ForgetResend.is_on() {
            return;
        }
        let mut wants = Vec::new();
        for state in shards {
            if !self.is_received(state.shard) {
                continue;
            }
            let own = self.engine.vector(state.shard);
            let lacks = state.vector.iter().filter(|(o, seq)| own.sequence(*o) < *seq);
            let lacks: Vec<(Origin, u64)> = lacks.collect();
            if lacks.is_empty() && own == state.vector {
                self.check_digest(peer, &state);
            }
            for (origin, sequence) in lacks {
                wants.push((state.shard, origin));
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.gaps.insert((state.shard, origin), sequence);
                }
            }
        }
        if first {
            self.ask(peer, &wants);
        }
    }

    fn ask_gaps(&mut self, peer: NodeId) {
        let engine = &self.engine;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let gaps = std::mem::take(&mut known.gaps);
        let open = gaps.into_iter().filter(|((shard, o), seq)| engine.sequence(*shard, *o) < *seq);
        let open: Vec<(ShardId, Origin)> = open.map(|(gap, _)| gap).collect();
        // Kept until the next tick finds them filled.
        for (shard, origin) in &open {
            let sequence = known.vectors.get(shard).map_or(0, |vector| vector.sequence(*origin));
            known.gaps.insert((*shard, *origin), sequence);
        }
        self.ask(peer, &open);
    }
}
