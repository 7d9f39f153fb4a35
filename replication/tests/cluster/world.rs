//! A cluster in one thread: machines, the network between them, time, and clients.
//!
//! Each millisecond in which something happens: arrivals, committers, deadlines and requests make
//! one step of each core, as the driver would.

use std::collections::BTreeMap;

use atoll_replication::core::message::Message;
use atoll_replication::core::{Bounds, Event, Reply};
use atoll_replication::transport::memory::{Link, Network, Timing};
use atoll_replication::transport::{Arrival, Class, NodeId};
use atoll_store::backend::memory::Memory;
use atoll_store::command::Refusal;
use atoll_store::dot::Origin;
use atoll_store::engine::Options;
use atoll_store::operation::Operation;
use bytes::Bytes;

use crate::common::random::Random;
use crate::common::{Node, Released, identity, node_id};
use crate::coverage::Coverage;
use crate::ledger::{Ledger, covers};
use crate::machine::Machine;

/// How a run differs from others, beside chance.
#[derive(Clone, Copy, Debug)]
pub struct Mood {
    /// Small logs, so that they are trimmed before everybody has them.
    pub tiny_logs: bool,
    pub harsh_links: bool,
    pub rollbacks: bool,
    pub rot: bool,
    pub skew: bool,
    pub big: bool,
}

pub struct World {
    pub random: Random,
    pub mood: Mood,
    pub network: Network,
    pub time: u64,
    pub machines: Vec<Machine>,
    pub ledger: Ledger,
    pub coverage: Coverage,
    pub bounds: Bounds,
    pub owners: BTreeMap<Origin, u8>,
    pub trace: blake3::Hasher,
    pub next_request: u64,
    pub next_fault: u64,
    pub next_sample: u64,
    /// Short cuts, and until when.
    pub flaps: Vec<(u64, NodeId, NodeId)>,
    pub messages: u64,
    next_origin: u64,
}

const SMALL: Bounds = Bounds { waiting: 3_000, message: 400, answer: 1_500, chunk: 700 };

/// Three regions of one node, or two of two.
fn layout(random: &mut Random) -> &'static [&'static str] {
    if random.one_in(3) { &["east", "east", "west", "west"] } else { &["east", "north", "west"] }
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0xA7011);
        let rot = random.one_in(4);
        let mood = Mood {
            tiny_logs: random.one_in(2),
            harsh_links: random.one_in(2),
            rollbacks: !rot && random.one_in(2),
            rot,
            skew: random.one_in(2),
            big: random.one_in(2),
        };
        let mut network = Network::new(random.next());
        network.set_timing(Timing { detection_ms: (300, 900), reconnection_ms: (10, 300) });
        let bounds = match random.below(3) {
            0 => Bounds::default(),
            // Entities of later chunks may be ahead of the vector (R3). If the sender's disk then
            // loses the operations that they are ahead by, they stay so until origins retire (R9).
            _ if mood.rollbacks => Bounds { chunk: 1 << 20, ..SMALL },
            _ => SMALL,
        };
        let mut world = World {
            random,
            mood,
            network,
            time: 0,
            machines: Vec::new(),
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            bounds,
            owners: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            next_request: 0,
            next_fault: 0,
            next_sample: 0,
            flaps: Vec::new(),
            messages: 0,
            next_origin: 0,
        };
        world.set_links();
        let regions = layout(&mut world.random);
        for (number, region) in (1..).zip(regions) {
            world.add(number, region);
        }
        world
    }

    fn set_links(&mut self) {
        let harsh = self.mood.harsh_links;
        let link = Link {
            delay_min_ms: 1,
            delay_max_ms: self.random.between(2, 120),
            loss: if harsh { self.random.below(10) as f64 / 100.0 } else { 0.0 },
            duplication: if harsh { self.random.below(10) as f64 / 100.0 } else { 0.0 },
            reordering: if harsh { self.random.below(20) as f64 / 100.0 } else { 0.0 },
        };
        self.network.set_default_link(link);
    }

    fn options(&mut self) -> Options {
        let mut options = Options { slots: 3, ..Options::default() };
        if self.mood.tiny_logs {
            options.log_soft_bytes = self.random.between(200, 2_000);
            options.log_hard_bytes = self.random.between(2_000, 6_000);
            options.checkpoint_bytes = self.random.between(200, 2_000);
        }
        if self.mood.rot {
            // What only one log held, and no longer does, a damaged record cannot be healed to.
            options.log_hard_bytes = u64::MAX;
        }
        if self.random.one_in(2) {
            options.cache_bytes = 6_000;
        }
        options
    }

    fn add(&mut self, number: u8, region: &'static str) {
        let offset_ms = self.random.between(0, 400) as i64 - 200;
        let options = self.options();
        self.machines.push(Machine {
            number,
            id: node_id(number),
            region,
            options,
            memory: Memory::new(),
            node: None,
            origin: Origin(0),
            offset_ms,
            durable: BTreeMap::new(),
            pending: Vec::new(),
            snapshots: Vec::new(),
            events: Vec::new(),
            restart_at: None,
            commit_at: None,
            flush_at: None,
            quarantined: 0,
            closed: BTreeMap::new(),
            connected: Vec::new(),
        });
        self.start(self.machines.len() - 1);
    }

    /// Starts a node on what its disk holds, with a new origin.
    pub fn start(&mut self, at: usize) {
        self.next_origin += 1;
        // Their order is random.
        let origin = (self.random.next() << 16) | self.next_origin;
        let machine = &mut self.machines[at];
        let mut me = identity(machine.number, machine.region, origin);
        me.seeds = 1;
        self.owners.insert(me.origin, machine.number);
        machine.origin = me.origin;
        let now = machine.wall(self.time);
        machine.node = Some(Node::open(&machine.memory, machine.options, me, self.bounds, now));
        machine.durable = machine.vectors();
        machine.pending = vec![machine.vectors()];
        machine.commit_at = Some(self.time);
        self.network.join(self.time, machine.id);
    }

    /// Power off: what was not flushed is lost, but for what the disk wrote early.
    pub fn crash(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.node.take().is_none() {
            return;
        }
        let unflushed = machine.memory.unflushed();
        if unflushed > 0 {
            self.coverage.hit("unflushed commits lost");
        }
        let kept = self.random.below(unflushed + 1);
        machine.memory.crash_keeping(kept);
        machine.pending.clear();
        machine.events.clear();
        (machine.commit_at, machine.flush_at) = (None, None);
        machine.quarantined = 0;
        self.network.leave(self.time, machine.id);
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until: u64, chaos: bool) {
        loop {
            let own = chaos.then(|| self.next_request.min(self.next_fault));
            let machines = self.machines.iter().filter_map(|machine| machine.next_at(self.time));
            let next = machines.chain(own).chain(self.network.next_at());
            let next = next.chain([self.next_sample]).min().unwrap_or(until);
            if next > until {
                self.time = until;
                return;
            }
            self.time = self.time.max(next);
            self.turn(chaos);
        }
    }

    fn turn(&mut self, chaos: bool) {
        for at in 0..self.machines.len() {
            if self.machines[at].restart_at.is_some_and(|due| due <= self.time) {
                self.machines[at].restart_at = None;
                self.start(at);
            }
        }
        let time = self.time;
        let (over, flaps) = self.flaps.drain(..).partition(|(until, ..)| *until <= time);
        self.flaps = flaps;
        for (_, from, to) in over as Vec<(u64, NodeId, NodeId)> {
            self.network.heal(time, from, to);
        }
        for (to, arrival) in self.network.deliver(self.time) {
            self.arrive(to, arrival);
        }
        if chaos && self.next_fault <= self.time {
            self.next_fault = self.time + self.random.between(100, 1_200);
            self.fault();
        }
        if chaos && self.next_request <= self.time {
            self.next_request = self.time + self.random.between(2, 70);
            self.request();
        }
        for at in 0..self.machines.len() {
            self.step(at);
            self.commit(at);
        }
        if self.next_sample <= self.time {
            self.next_sample = self.time + 100;
            self.sample();
        }
    }

    fn arrive(&mut self, to: NodeId, arrival: Arrival) {
        let Some(machine) = self.machines.iter_mut().find(|machine| machine.id == to) else {
            return;
        };
        if machine.node.is_none() {
            return;
        }
        machine.events.push(match arrival {
            Arrival::Connected { peer, .. } => Event::Connected(peer),
            Arrival::Disconnected { peer } => Event::Disconnected(peer),
            Arrival::Received { peer, frame, .. } => {
                if has_known(machine, &frame) {
                    self.coverage.hit("duplicate operation ignored");
                }
                Event::Received(peer, frame)
            }
        });
    }

    fn request(&mut self) {
        for _ in 0..self.random.between(1, 3) {
            let at = self.random.below(self.machines.len());
            if self.machines[at].node.is_some() {
                let (ticket, change) = self.ledger.issue(&mut self.random, self.mood.big);
                self.machines[at].events.push(Event::Write(ticket, vec![change]));
            }
        }
    }

    /// One step of a core, if there is anything to do.
    fn step(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let now = machine.wall(self.time);
        let Some(node) = &mut machine.node else { return };
        let due = node.core.deadline() <= now;
        if machine.events.is_empty() && !due {
            return;
        }
        let mut events = std::mem::take(&mut machine.events);
        if due {
            events.push(Event::Tick);
        }
        let stepped = node.step(now, events);
        assert!(node.core.deadline() > now, "a deadline that has passed: a busy loop");
        let vectors = machine.vectors();
        machine.pending.push(vectors);
        self.ledger.note(machine.origin, &stepped);
        let (number, origin) = (machine.number, machine.origin);
        if machine.commit_at.is_none() && machine.flush_at.is_none() {
            machine.commit_at = Some(self.time + self.random.below(4) as u64);
        }
        for (_, operation, bytes) in &stepped.logged {
            self.trace.update(bytes);
            let author = operation.dot.origin;
            if author != origin && self.owners.get(&author) == Some(&number) {
                self.coverage.hit("earlier start taken back");
            }
        }
        let own = stepped.logged.iter().filter(|(_, op, _)| op.dot.origin == origin).count();
        if own > stepped.written.iter().filter(|(_, replayed)| !replayed).count() {
            self.coverage.hit("expired state removed");
        }
        if stepped.written.iter().any(|(_, replayed)| *replayed) {
            self.coverage.hit("retry answered as one");
        }
    }

    /// The committer: a commit of what queued up, some time later its flush, then the release.
    fn commit(&mut self, at: usize) {
        let (time, delay) = (self.time, self.random.clone().below(15) as u64);
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        if machine.commit_at.is_some_and(|due| due <= time) {
            node.write_out();
            machine.commit_at = None;
            machine.flush_at = Some(time + delay);
        }
        if machine.flush_at.is_none_or(|due| due > time) {
            return;
        }
        machine.flush_at = None;
        let all = node.flush();
        if node.has_queued() {
            machine.commit_at = Some(time);
        }
        let last = machine.pending.drain(..all.len()).next_back();
        machine.durable = last.unwrap_or_default();
        let id = machine.id;
        for released in all {
            self.release(at, id, released);
        }
    }

    fn release(&mut self, at: usize, id: NodeId, released: Released) {
        for (to, class, frame) in released.sends {
            self.send(id, to, class, frame);
        }
        assert!(released.rejects.is_empty(), "{id} rejects {:?}", released.rejects);
        for (ticket, reply) in released.replies {
            let Reply::Written(written) = reply else { continue };
            let issue = &mut self.ledger.issues[ticket as usize];
            match &written[0] {
                Ok(_) => issue.acknowledged = true,
                Err(Refusal::ClockSkew { .. }) => {
                    self.coverage.hit("clock far ahead refused a write");
                }
                Err(_) => {}
            }
        }
        if let Some(status) = released.status {
            assert_eq!(status.diverged, 0, "{id} saw a divergence");
            let machine = &mut self.machines[at];
            let peers = status.peers.iter().filter(|peer| peer.connected);
            machine.connected = peers.map(|peer| peer.name.clone()).collect();
            let before = std::mem::replace(&mut machine.quarantined, status.quarantined);
            if before > 0 && status.quarantined == 0 {
                self.coverage.hit("repaired from a peer");
            }
            if status.waiting > 0 {
                self.coverage.hit("gap waited");
            }
            let machine = &mut self.machines[at];
            if machine.closed == status.closed {
                return;
            }
            machine.closed = status.closed.clone();
            let closed = status.closed.iter().map(|(origin, hlc)| (*origin, hlc.0)).collect();
            let own = self.machines[at].vectors();
            let all: Vec<_> = self.machines.iter().map(Machine::vectors).collect();
            self.ledger.check_closed(&closed, &own, &all);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, class: Class, frame: Bytes) {
        self.trace.update(&self.time.to_le_bytes()).update(&from.0).update(&to.0).update(&frame);
        self.messages += 1;
        match Message::decode(&frame).expect("a core sends messages") {
            Message::Trimmed(_) => self.coverage.hit("trimmed"),
            Message::Request(_) => self.coverage.hit("range asked for"),
            Message::StateChunk { chunk, .. } => {
                self.coverage.hit("state transferred");
                if chunk.after.is_some() {
                    self.coverage.hit("state in several chunks");
                }
            }
            Message::Operations { relay: false, answer: false, batches } => {
                let mut all = batches.iter().flat_map(|(_, operations)| operations);
                let from = self.machines.iter().find(|machine| machine.id == from);
                let own = from.map(|machine| machine.origin);
                if all.any(|bytes| Operation::peek(bytes).ok().map(|(dot, _)| dot.origin) != own) {
                    self.coverage.hit("passed on inside a region");
                }
            }
            _ => {}
        }
        self.network.send(self.time, from, to, class, frame);
    }
}

/// Whether a frame holds an operation that was applied before.
fn has_known(machine: &Machine, frame: &Bytes) -> bool {
    let Ok(Message::Operations { batches, .. }) = Message::decode(frame) else { return false };
    let mut places = batches.iter().flat_map(|(shard, operations)| {
        operations.iter().filter_map(|bytes| Some((*shard, Operation::peek(bytes).ok()?.0)))
    });
    places.any(|place| covers(&machine.durable, place))
}
