//! A cluster in one thread: machines, the network between them, time, and clients.
//!
//! In each millisecond in which something happens: machines start, frames arrive, faults strike,
//! cores step, committers commit, and clients see what they were told, in this order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use atoll::node::{Node, Settings, origin_of};
use atoll_replication::core::Bounds;
use atoll_replication::transport::NodeId;
use atoll_replication::transport::memory::{Link, Network, Timing};
use atoll_store::dot::Origin;
use atoll_store::engine::Options;
use atoll_store::shard::ShardId;

use super::ask::{self, Pending};
use super::clients::Client;
use super::cluster::Councils;
use super::coverage::Coverage;
use super::layout::{self, Kind};
use super::ledger::Ledger;
use super::losses::Seated;
use super::machine::{Held, Machine, Outbox, Running};
use super::mood::Mood;
use super::noise;
use super::placed::Moves;
use super::wire::Traffic;
use crate::history::Recorder;
use crate::random::Random;
use crate::workloads::Workload;

/// Between two looks at the invariants.
const SAMPLE_MS: u64 = 100;
/// Bytes kept free on a disk that has a limit.
pub(super) const RESERVE: u64 = 1 << 20;
/// Small bounds, so that messages, answers and chunks are many.
const SMALL: Bounds = Bounds { waiting: 3_000, message: 400, answer: 1_500, chunk: 700 };
/// How nodes notice faults of links: faster than real ones, so that more happens.
pub(super) const TIMING: Timing = Timing { detection_ms: (300, 900), reconnection_ms: (10, 300) };

/// A running simulation.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) mood: Mood,
    pub(super) network: Network,
    pub(super) time: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) clients: Vec<Client>,
    pub(super) workload: Box<dyn Workload>,
    pub(super) recorder: Recorder,
    pub(super) ledger: Ledger,
    pub(super) coverage: Coverage,
    bounds: Bounds,
    pub(super) owners: BTreeMap<Origin, u32>,
    /// In a world with councils.
    pub(super) councils: Option<Councils>,
    pub(super) moves: Moves,
    pub(super) trace: blake3::Hasher,
    noise: Vec<Pending>,
    next_noise: u64,
    next_fault: u64,
    pub(super) next_sample: u64,
    pub(super) next_record: u64,
    /// Short cuts, and until when.
    pub(super) flaps: Vec<(u64, NodeId, NodeId)>,
    #[cfg(feature = "mutants")]
    pub(super) divergence: Option<super::divergence::Divergence>,
    pub(super) messages: u64,
    pub(super) traffic: Traffic,
    /// Streams of several parts, so far.
    pub(super) streams: u64,
    pub(super) seated: Seated,
    pub(super) events: u64,
    /// How stores are kept, if that is not drawn.
    pub(super) small: Option<Options>,
    pub(super) next_number: u32,
    next_origin: u64,
}

impl World {
    /// A cluster that has just started, with its clients.
    pub(super) fn new(seed: u64, kind: Kind, make: fn(usize) -> Box<dyn Workload>) -> World {
        let mut random = Random::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0xA7011);
        let mood = Mood::draw(&mut random, kind);
        let mut network = kind.network(random.bits());
        network.set_timing(TIMING);
        let bounds = match random.below(3) {
            0 => Bounds::default(),
            // Entities of later chunks may be ahead of the vector (R3). If the sender's disk then
            // loses the operations that they are ahead by, they stay so until origins retire (R9).
            _ if mood.rollbacks || mood.pods || mood.deaths => Bounds { chunk: 1 << 20, ..SMALL },
            _ => SMALL,
        };
        let regions = layout::regions(kind, &mut random);
        let councils = (kind == Kind::Councils).then(|| Councils::new(&mut random));
        let workload = make(regions.len());
        let mut world = World::empty(random, mood, network, bounds, councils, workload);
        world.set_links();
        regions.iter().for_each(|region| world.add(region));
        for number in 0..layout::clients(kind, regions.len()) {
            let home = number as usize % regions.len();
            world.clients.push(Client::new(number, home, 0));
        }
        world
    }

    /// One without machines yet.
    pub(super) fn empty(
        random: Random,
        mood: Mood,
        network: Network,
        bounds: Bounds,
        councils: Option<Councils>,
        workload: Box<dyn Workload>,
    ) -> World {
        World {
            random,
            mood,
            network,
            time: 0,
            machines: Vec::new(),
            clients: Vec::new(),
            workload,
            recorder: Recorder::default(),
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            bounds,
            owners: BTreeMap::new(),
            councils,
            moves: Moves::default(),
            trace: blake3::Hasher::new(),
            noise: Vec::new(),
            next_noise: 0,
            next_fault: 0,
            next_sample: 0,
            next_record: 0,
            flaps: Vec::new(),
            #[cfg(feature = "mutants")]
            divergence: None,
            messages: 0,
            traffic: Traffic::default(),
            streams: 0,
            seated: Seated::default(),
            events: 0,
            small: None,
            next_number: 1,
            next_origin: 0,
        }
    }

    fn set_links(&mut self) {
        let mut percent = |below| match self.mood.harsh_links {
            true => self.random.below(below) as f64 / 100.0,
            false => 0.0,
        };
        let (loss, duplication, reordering) = (percent(10), percent(10), percent(20));
        let delay_max_ms = self.random.between(2, 120);
        let link = Link { delay_min_ms: 1, delay_max_ms, loss, duplication, reordering };
        self.network.set_default_link(link);
    }

    fn options(&mut self) -> Options {
        let slots = self.councils.as_ref().map_or(3, |councils| councils.settings().slots);
        if let Some(small) = self.small {
            return Options { slots, ..small };
        }
        let mut options = Options { slots, ..Options::default() };
        if self.mood.tiny_logs {
            options.log_soft_bytes = self.random.between(200, 2_000);
            options.log_hard_bytes = self.random.between(2_000, 6_000);
            // At times more than a log may hold: then only R7 keeps what no checkpoint has.
            options.checkpoint_bytes = self.random.between(200, 12_000);
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

    pub(super) fn add(&mut self, region: &'static str) {
        let options = self.options();
        let mut machine = Machine::new(self.next_number, region, options);
        self.next_number += 1;
        machine.watched = self.small.is_none();
        machine.offset_ms = self.random.between(0, 400) as i64 - 200;
        if self.mood.skew && self.random.one_in(2) {
            // Up to 50 ms over a long run: what a bad oscillator does in minutes.
            machine.drift_ppm = self.random.between(0, 4_000) as i64 - 2_000;
            self.coverage.hit("clock drifts");
        }
        self.machines.push(machine);
        self.start(self.machines.len() - 1);
    }

    /// The simulated time, in the unit of histories.
    pub(super) fn nanos(&self) -> u64 {
        self.time * 1_000_000
    }

    /// Starts a node on what its disk holds, with a new origin.
    pub(super) fn start(&mut self, at: usize) {
        self.next_origin += 1;
        // Their order is random.
        let drawn = (self.random.bits() << 16) | self.next_origin;
        let machine = &mut self.machines[at];
        let origin = origin_of(machine.id(), drawn);
        machine.show_time(self.time);
        self.owners.insert(origin, machine.number);
        let outbox = Arc::new(Outbox::default());
        let zone = self.councils.as_ref().map_or("a", |councils| councils.zone(machine.number));
        let opened = Node::stepped(
            settings(machine, zone, self.councils.is_some()),
            machine.id(),
            outbox.clone(),
            Arc::new(machine.memory.clone()),
            machine.wall.clone(),
            origin,
            self.bounds,
        );
        let (node, driver) = opened.expect("a store opens on what a crash left");
        let side = self.join_cluster(at, &node, &outbox, origin.0);
        let machine = &mut self.machines[at];
        machine.given_up = driver.core().engine().discarded().collect();
        machine.running = Some(Running { node, driver, outbox, origin, side });
        self.check_start(at);
        let machine = &mut self.machines[at];
        machine.durable = machine.vectors();
        machine.told = machine.durable.clone();
        // The driver has made its first step.
        machine.pending = vec![Held { vectors: machine.vectors(), logged: Vec::new() }];
        machine.commit_at = Some(self.time);
        self.network.join(self.time, machine.id());
        // What a founder forms is on its disk before anyone can ask it anything.
        self.turn_cluster(at, true);
    }

    /// Power off: what was not flushed is lost, but for what the disk wrote early.
    pub(super) fn crash(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.running.take().is_none() {
            return;
        }
        let unflushed = machine.memory.unflushed();
        if unflushed > 0 {
            self.coverage.hit("unflushed commits lost");
        }
        let kept = self.random.below(unflushed + 1);
        machine.memory.crash_keeping(kept);
        // A copy that was being given up may be gone.
        let pending = std::mem::take(&mut machine.pending);
        let kept = |shard: &ShardId| pending.iter().all(|held| held.vectors.contains_key(shard));
        machine.durable.retain(|shard, _| kept(shard));
        machine.leaving = None;
        machine.arrivals.clear();
        (machine.commit_at, machine.flush_at, machine.paused_until) = (None, None, None);
        machine.quarantined = 0;
        self.network.leave(self.time, machine.id());
    }

    /// Lets time pass; with `chaos`, faults strike and clients draw new operations.
    pub(super) fn run_until(&mut self, until: u64, chaos: bool) {
        loop {
            let own = chaos.then(|| self.next_noise.min(self.next_fault));
            let machines = self.machines.iter().filter_map(|machine| machine.next_at(self.time));
            let clients = self.clients.iter().filter_map(|client| client.next_at(chaos));
            let next = machines.chain(clients).chain(own).chain(self.network.next_at());
            let next = next.chain([self.next_sample]).min().unwrap_or(until);
            if next > until {
                self.time = until;
                return;
            }
            self.time = self.time.max(next);
            self.turn(chaos);
            if self.time >= until {
                return;
            }
            // What was due is done; the next millisecond comes.
            self.time += 1;
        }
    }

    fn turn(&mut self, chaos: bool) {
        let time = self.time;
        for at in 0..self.machines.len() {
            self.machines[at].show_time(time);
            if self.machines[at].restart_at.is_some_and(|due| due <= time) {
                self.machines[at].restart_at = None;
                self.start(at);
            }
        }
        let (over, flaps) = self.flaps.drain(..).partition(|(until, ..)| *until <= time);
        self.flaps = flaps;
        for (_, from, to) in over as Vec<(u64, NodeId, NodeId)> {
            self.network.heal(time, from, to);
        }
        for (to, arrival) in self.network.deliver(time) {
            self.arrive(to, arrival);
        }
        self.tend_pods();
        if chaos && self.next_fault <= time {
            self.next_fault = time + self.random.between(100, self.mood.fault_ms);
            self.fault();
        }
        if chaos && self.next_noise <= time {
            self.next_noise = time + self.random.between(5, 150);
            self.make_noise();
        }
        for at in 0..self.machines.len() {
            #[cfg(feature = "mutants")]
            self.before_step(at);
            self.step(at);
            #[cfg(feature = "mutants")]
            self.after_step(at);
            self.commit(at);
            self.turn_cluster(at, false);
        }
        self.serve_clients(chaos);
        if self.next_sample <= time {
            self.next_sample = time + SAMPLE_MS;
            self.sample();
            self.record_samples();
            self.look_at_seats();
        }
    }

    fn make_noise(&mut self) {
        let Some(at) = self.pick_living() else { return };
        let change = noise::change(&mut self.random, self.mood.big);
        let at = self.holder(at, &change.key).unwrap_or(at);
        if let Some(running) = &self.machines[at].running {
            let mut pending = ask::write(&running.node, change);
            if pending.poll(0).is_none() {
                self.noise.push(pending);
            }
        }
        self.noise.retain_mut(|pending| pending.poll(0).is_none());
    }

    /// One step of a core, if there is anything to do.
    fn step(&mut self, at: usize) {
        let (time, machine) = (self.time, &mut self.machines[at]);
        let (now, up) = (machine.wall(time), machine.is_up(time));
        let Some(running) = machine.running.as_mut().filter(|_| up) else { return };
        let asked = running.driver.has_requests();
        let due = running.driver.deadline() <= now;
        if !(due || asked) && machine.arrivals.is_empty() {
            return;
        }
        let _inside = tracing::info_span!("core", time, node = machine.number).entered();
        let turned = running.driver.step(std::mem::take(&mut machine.arrivals));
        assert!(running.driver.deadline() > now, "a deadline that has passed: a busy loop");
        self.events += 1;
        let (number, origin) = (machine.number, running.origin);
        let given_up = running.driver.core().engine().discarded().collect();
        let gave_up = given_up != machine.given_up;
        machine.given_up = given_up;
        let vectors = machine.vectors();
        if machine.commit_at.is_none() && machine.flush_at.is_none() {
            machine.commit_at = Some(time + self.random.below(4) as u64);
        }
        for (_, bytes) in &turned.logged {
            self.trace.update(bytes);
        }
        let logged = self.ledger.note(&turned.logged);
        for (_, dot) in &logged {
            if dot.origin != origin && self.owners.get(&dot.origin) == Some(&number) {
                self.coverage.hit("earlier start taken back");
            }
            if dot.origin == origin && !asked {
                self.coverage.hit("expired state removed");
            }
        }
        let logged = if gave_up { logged } else { Vec::new() };
        self.machines[at].pending.push(Held { vectors, logged });
        if gave_up {
            // What it held there, and may hold again, it has forgotten.
            self.coverage.hit("copy given up");
            self.note("give-up", at);
        }
        self.send_sent(at);
    }

    /// The committer: a commit of what queued up, some time later its flush, then the release.
    fn commit(&mut self, at: usize) {
        let (time, delay) = (self.time, self.random.below(15) as u64);
        let machine = &mut self.machines[at];
        let up = machine.is_up(time);
        let Some(running) = machine.running.as_mut().filter(|_| up) else { return };
        if machine.commit_at.is_some_and(|due| due <= time) {
            if running.driver.commit().is_err() {
                // The disk is full, or failed: the process ends.
                self.coverage.hit("disk full");
                return self.crash_for(at, 1_500);
            }
            machine.commit_at = None;
            machine.flush_at = Some(time + delay);
        }
        if machine.flush_at.is_none_or(|due| due > time) {
            return;
        }
        machine.flush_at = None;
        let count = running.driver.flush().expect("the memory backend flushes");
        if running.driver.has_queued() {
            machine.commit_at = Some(time);
        }
        // Of a copy that was given up by one of these steps, an earlier one may tell, and so may
        // what came before in the same step: every recorded replica has what is told of then, or
        // it would not be given up.
        machine.told = machine.durable.clone();
        for held in machine.pending.drain(..count) {
            for (shard, vector) in &held.vectors {
                machine.told.entry(*shard).or_default().join(vector);
            }
            for (shard, dot) in &held.logged {
                machine.told.entry(*shard).or_default().raise(dot.origin, dot.sequence);
            }
            machine.durable = held.vectors;
        }
        self.send_sent(at);
    }
}

fn settings(machine: &Machine, zone: &str, council: bool) -> Settings {
    Settings {
        name: machine.name(),
        region: machine.region.to_owned(),
        zone: zone.to_owned(),
        advertise: machine.address(),
        data: PathBuf::new(),
        seeds: 1,
        council,
        store: machine.options,
        engine_cache: 0,
        disk_reserve: RESERVE,
        subscriptions: 1_000,
    }
}
