//! Nodes of the membership core on a small network, in one thread, from one seed.
//!
//! Connections are made because cores ask for them, carry frames in order, and are lost 5 s after
//! either end falls silent, as by QUIC's idle timeout. Datagrams may be lost one by one. At one
//! time a node's timers run before what arrives: the worse order for a node that was paused.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;
use atoll_sharding::membership::{Config, Effects, Event, Member, Membership, State, Timing};
use bytes::Bytes;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub const IDLE_MS: u64 = 5_000;
const KEEP_ALIVE_MS: u64 = 2_000;
const POLL_MS: u64 = 250;
const REDIAL_MS: u64 = 500;

/// What is under way.
enum Wire {
    Datagram(u8, u8, Bytes),
    Frame(u8, u8, u64, Bytes),
    Dial(u8, String),
    Lost(u8, u8, u64),
    Poll(u8),
}

pub struct Node {
    pub core: Membership,
    pub region: String,
    pub dialled: BTreeSet<String>,
    /// Bytes and packets sent for membership.
    pub sent: (u64, u64),
    heard: BTreeSet<u8>,
    /// Connections numbered lower are of its former life.
    born: u64,
    paused_until: u64,
    deadline: Option<u64>,
}

/// A change that a node told.
#[derive(Clone, Debug)]
pub struct Told {
    pub at: u64,
    pub by: u8,
    pub member: Member,
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub nodes: BTreeMap<u8, Node>,
    pub told: Vec<Told>,
    /// Lost datagrams, of 1,000.
    pub loss: u64,
    /// Pairs between which nothing passes.
    pub cut: BTreeSet<(u8, u8)>,
    /// Pairs between which no datagram passes.
    pub muted: BTreeSet<(u8, u8)>,
    /// Pairs between which frames pass a minute late: their streams are full of other things.
    pub clogged: BTreeSet<(u8, u8)>,
    /// Connections closed because a core asked for it.
    pub closed: usize,
    pub timing: Timing,
    pub roles: BTreeMap<u8, &'static str>,
    starts: u64,
    links: BTreeMap<(u8, u8), u64>,
    wire: BTreeMap<(u64, u64), Wire>,
    number: u64,
    deadlines: BTreeSet<(u64, u8)>,
}

pub fn id(number: u8) -> NodeId {
    NodeId([number; 16])
}

pub fn address(number: u8) -> String {
    format!("n{number}:7401")
}

fn pair(a: u8, b: u8) -> (u8, u8) {
    (a.min(b), a.max(b))
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: 1_000,
            random: Random(seed),
            nodes: BTreeMap::new(),
            told: Vec::new(),
            loss: 0,
            cut: BTreeSet::new(),
            muted: BTreeSet::new(),
            clogged: BTreeSet::new(),
            closed: 0,
            timing: Timing::default(),
            roles: BTreeMap::new(),
            starts: 0,
            links: BTreeMap::new(),
            wire: BTreeMap::new(),
            number: 0,
            deadlines: BTreeSet::new(),
        }
    }

    /// A region of these nodes, each of which discovers the first, ready.
    pub fn region(seed: u64, count: u8) -> Self {
        let mut world = Self::new(seed);
        for number in 1..=count {
            world.start(number, "eu", &[1]);
            world.event(number, Event::Ready);
        }
        world
    }

    pub fn config(&mut self, number: u8, region: &str) -> Config {
        self.starts += 1;
        Config {
            node: id(number),
            name: format!("n{number}"),
            region: region.to_owned(),
            zone: format!("{region}-a"),
            address: address(number),
            roles: self.roles.get(&number).iter().map(|role| (**role).to_owned()).collect(),
            version: "0.1.0".to_owned(),
            disk: number.into(),
            start: self.starts,
            incarnation: 1_700_000_000_000 + self.now + self.starts,
            seed: self.random.next(),
            seeds: BTreeSet::new(),
            relays: 2,
            members_max: 4_096,
            timing: self.timing.clone(),
        }
    }

    /// Starts a node that discovers these.
    pub fn start(&mut self, number: u8, region: &str, discovers: &[u8]) {
        let config = self.config(number, region);
        self.start_as(number, config, discovers);
    }

    pub fn start_as(&mut self, number: u8, config: Config, discovers: &[u8]) {
        let region = config.region.clone();
        let core = Membership::new(config).unwrap();
        let node = Node {
            core,
            region,
            dialled: BTreeSet::new(),
            sent: (0, 0),
            heard: BTreeSet::new(),
            born: self.number,
            paused_until: 0,
            deadline: None,
        };
        self.nodes.insert(number, node);
        let addresses = discovers.iter().map(|other| address(*other)).collect();
        self.event(number, Event::Discovered(addresses));
        let poll = self.random.below(POLL_MS);
        self.put(poll, Wire::Poll(number));
    }

    /// Ends a node without a word: its peers' connections die of silence.
    pub fn kill(&mut self, number: u8) {
        let node = self.nodes.remove(&number).unwrap();
        self.deadlines.retain(|(_, other)| *other != number);
        drop(node);
        let silence = |ends: &(u8, u8)| ends.0 == number || ends.1 == number;
        let links: Vec<((u8, u8), u64)> =
            self.links.iter().filter(|(ends, _)| silence(ends)).map(|(e, n)| (*e, *n)).collect();
        for ((a, b), epoch) in links {
            let after = IDLE_MS + self.random.below(1_000);
            self.put(after, Wire::Lost(a, b, epoch));
        }
    }

    /// Ends a node in order: it says so, and closes its connections.
    pub fn stop(&mut self, number: u8) {
        self.event(number, Event::Stop);
        self.run(5);
        self.nodes.remove(&number);
        self.deadlines.retain(|(_, other)| *other != number);
        self.hang_up(number);
    }

    /// Closes a node's connections cleanly.
    pub fn hang_up(&mut self, number: u8) {
        let links: Vec<(u8, u8)> = self.links.keys().copied().collect();
        for ends in links.into_iter().filter(|ends| ends.0 == number || ends.1 == number) {
            self.unlink(ends);
        }
    }

    pub fn pause(&mut self, number: u8, ms: u64) {
        let until = self.now + ms;
        self.nodes.get_mut(&number).unwrap().paused_until = until;
        self.plan(number);
    }

    /// Nothing passes between two groups any more.
    pub fn part(&mut self, one: &[u8], other: &[u8]) {
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| pair(*a, *b))) {
            self.cut.insert((a, b));
            if let Some(epoch) = self.links.get(&(a, b)).copied() {
                let after = IDLE_MS + self.random.below(1_000);
                self.put(after, Wire::Lost(a, b, epoch));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    fn put(&mut self, after: u64, wire: Wire) {
        self.number += 1;
        self.wire.insert((self.now + after, self.number), wire);
    }

    fn latency(&self, a: u8, b: u8) -> u64 {
        let region = |number| self.nodes.get(&number).map(|node| &node.region);
        if region(a) == region(b) { 1 } else { 60 }
    }

    fn plan(&mut self, number: u8) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        if let Some(before) = node.deadline.take() {
            self.deadlines.remove(&(before, number));
        }
        node.deadline = node.core.deadline().map(|due| due.max(node.paused_until));
        if let Some(due) = node.deadline {
            self.deadlines.insert((due, number));
        }
    }

    pub fn event(&mut self, number: u8, event: Event) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let effects = node.core.step(self.now, event);
        self.plan(number);
        self.apply(number, effects);
    }

    fn apply(&mut self, number: u8, effects: Effects) {
        for member in effects.changes {
            self.told.push(Told { at: self.now, by: number, member });
        }
        assert!(effects.reject.is_empty(), "{:?}", effects.reject);
        for (to, bytes) in effects.datagrams {
            assert!(bytes.len() <= 1_100, "{} bytes", bytes.len());
            let to = to.0[0];
            self.count(number, bytes.len());
            let lost = self.random.below(1_000) < self.loss;
            if !lost && !self.muted.contains(&pair(number, to)) {
                let after = self.latency(number, to);
                self.put(after, Wire::Datagram(number, to, bytes));
            }
        }
        for (to, frame) in effects.frames {
            let to = to.0[0];
            self.count(number, frame.len());
            if let Some(epoch) = self.links.get(&pair(number, to)).copied() {
                let late = if self.clogged.contains(&pair(number, to)) { 60_000 } else { 0 };
                let after = self.latency(number, to) + late;
                self.put(after, Wire::Frame(number, to, epoch, frame));
            }
        }
        for address in effects.forget {
            let node = self.nodes.get_mut(&number).unwrap();
            assert!(node.dialled.remove(&address), "{address} was not dialled");
        }
        for address in effects.dial {
            assert!(self.nodes.get_mut(&number).unwrap().dialled.insert(address.clone()));
            self.put(3, Wire::Dial(number, address));
        }
        for peer in effects.disconnect {
            self.closed += 1;
            self.unlink(pair(number, peer.0[0]));
        }
    }

    fn count(&mut self, number: u8, bytes: usize) {
        let sent = &mut self.nodes.get_mut(&number).unwrap().sent;
        *sent = (sent.0 + bytes as u64, sent.1 + 1);
    }

    pub fn is_linked(&self, a: u8, b: u8) -> bool {
        self.links.contains_key(&pair(a, b))
    }

    /// Whether there is no connection between two nodes, or one of a former life.
    fn is_open(&self, a: u8, b: u8) -> bool {
        let born = self.nodes[&a].born.max(self.nodes[&b].born);
        self.links.get(&pair(a, b)).is_none_or(|epoch| *epoch <= born)
    }

    pub fn links_of(&self, number: u8) -> usize {
        self.links.keys().filter(|ends| ends.0 == number || ends.1 == number).count()
    }

    fn unlink(&mut self, (a, b): (u8, u8)) {
        if self.links.remove(&(a, b)).is_some() {
            self.event(a, Event::Disconnected(id(b)));
            self.event(b, Event::Disconnected(id(a)));
        }
    }

    fn dial(&mut self, from: u8, to_address: &str) {
        let Some(node) = self.nodes.get(&from) else { return };
        if !node.dialled.contains(to_address) {
            return;
        }
        let target = self.nodes.keys().copied().find(|number| address(*number) == to_address);
        let awake = |number: &u8| self.nodes[number].paused_until <= self.now;
        if let Some(to) = target.filter(awake)
            && to != from
            && !self.cut.contains(&pair(from, to))
            && self.is_open(from, to)
        {
            self.unlink(pair(from, to));
            self.number += 1;
            self.links.insert(pair(from, to), self.number);
            self.event(to, Event::Connected(id(from)));
            self.event(from, Event::Connected(id(to)));
        }
        self.put(REDIAL_MS, Wire::Dial(from, to_address.to_owned()));
    }

    fn poll(&mut self, number: u8) {
        let Some(node) = self.nodes.get(&number) else { return };
        let now = self.now;
        if node.paused_until <= now {
            let mut peers = node.heard.clone();
            if now % KEEP_ALIVE_MS < POLL_MS {
                let speaks =
                    |other: &u8| self.nodes.get(other).is_some_and(|o| o.paused_until <= now);
                let reached = |other: &u8| !self.cut.contains(&pair(number, *other));
                let numbers = self.nodes.keys().copied();
                let linked = numbers.filter(|other| self.is_linked(number, *other));
                peers.extend(linked.filter(|other| speaks(other) && reached(other)));
            }
            self.nodes.get_mut(&number).unwrap().heard.clear();
            for peer in peers {
                if self.is_linked(number, peer) {
                    self.event(number, Event::Heard(id(peer)));
                }
            }
        }
        self.put(POLL_MS, Wire::Poll(number));
    }

    fn arrive(&mut self, wire: Wire) {
        match wire {
            Wire::Poll(number) => self.poll(number),
            Wire::Dial(from, to) => self.dial(from, &to),
            Wire::Lost(a, b, epoch) => {
                let silent = self.cut.contains(&(a, b))
                    || !self.nodes.contains_key(&a)
                    || !self.nodes.contains_key(&b);
                if silent && self.links.get(&(a, b)) == Some(&epoch) {
                    self.unlink((a, b));
                }
            }
            Wire::Datagram(from, to, bytes) => {
                if self.passes(from, to) {
                    self.event(to, Event::Datagram(id(from), bytes));
                }
            }
            Wire::Frame(from, to, epoch, frame) => {
                if self.passes(from, to) && self.links.get(&pair(from, to)) == Some(&epoch) {
                    self.event(to, Event::Frame(id(from), frame));
                }
            }
        }
    }

    fn passes(&mut self, from: u8, to: u8) -> bool {
        let passes = self.is_linked(from, to) && !self.cut.contains(&pair(from, to));
        if passes && let Some(node) = self.nodes.get_mut(&to) {
            node.heard.insert(from);
        }
        passes
    }

    /// What is next, and when.
    fn turn(&mut self, until: u64) -> bool {
        let timer = self.deadlines.first().copied().filter(|(at, _)| *at <= until);
        let wire = self.wire.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= until);
        match (timer, wire) {
            (Some((at, number)), next) if next.is_none_or(|(other, _)| at <= other) => {
                self.now = self.now.max(at);
                self.event(number, Event::Tick);
            }
            (_, Some(key)) => {
                self.now = self.now.max(key.0);
                let wire = self.wire.remove(&key).unwrap();
                let to = match &wire {
                    Wire::Datagram(_, to, _) | Wire::Frame(_, to, ..) => self.nodes.get(to),
                    _ => None,
                };
                match to.map(|node| node.paused_until).filter(|until| *until > self.now) {
                    Some(until) => {
                        // The number keeps the order.
                        self.wire.insert((until, key.1), wire);
                    }
                    None => self.arrive(wire),
                }
            }
            _ => return false,
        }
        true
    }

    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.turn(until) {}
        self.now = until;
    }

    /// Runs until a condition holds, for so long at most; answers after how long it did.
    pub fn run_until(&mut self, ms: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now;
        while self.now < start + ms {
            if holds(self) {
                return Some(self.now - start);
            }
            self.run(10);
        }
        holds(self).then_some(self.now - start)
    }

    /// What a node shows of another.
    pub fn state(&self, by: u8, of: u8) -> Option<State> {
        self.nodes[&by].core.member(id(of)).map(|member| member.state)
    }

    /// Whether all of these show all of those in a state.
    pub fn show(&self, by: &[u8], of: &[u8], state: Option<State>) -> bool {
        by.iter().all(|one| of.iter().all(|other| self.state(*one, *other) == state))
    }

    pub fn numbers(&self) -> Vec<u8> {
        self.nodes.keys().copied().collect()
    }

    /// All nodes show all nodes in a state, and nothing else.
    pub fn agree(&self, state: State) -> bool {
        let all = self.numbers();
        self.show(&all, &all, Some(state))
            && self.nodes.values().all(|node| node.core.members().count() == all.len())
    }

    /// States that were told of others since a time.
    pub fn told_since(&self, at: u64, states: &[State]) -> Vec<String> {
        let told = self.told.iter().filter(|told| told.at >= at && told.member.node != id(told.by));
        let told = told.filter(|told| states.contains(&told.member.state));
        told.map(|told| {
            let Told { at, by, member } = told;
            format!("at {at} {by} told {} {}", member.name, member.state.name())
        })
        .collect()
    }
}
