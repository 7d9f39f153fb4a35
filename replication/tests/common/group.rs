//! Some nodes and the frames between them, delivered when a test says so.

use std::collections::BTreeMap;

use atoll_replication::core::message::Message;
use atoll_replication::core::{Bounds, Event, Identity};
use atoll_store::backend::memory::Memory;
use atoll_store::dot::{Millis, Origin};
use atoll_store::engine::Options;
use bytes::Bytes;

use super::council::Council;
use super::{EPOCH_MS, Node, Released, identity, node_id, record};

/// Nodes by number; the number is also the first origin.
pub struct Group {
    pub nodes: BTreeMap<u8, Node>,
    pub regions: BTreeMap<u8, String>,
    pub now: Millis,
    pub options: Options,
    pub bounds: Bounds,
    /// Frames under way: from, to, in the order sent.
    pub wire: Vec<(u8, u8, Bytes)>,
    /// Nodes that start wait for a council's word.
    pub council: bool,
    /// By region, where there is one.
    pub councils: BTreeMap<String, Council>,
}

impl Group {
    pub fn new() -> Group {
        Group {
            nodes: BTreeMap::new(),
            regions: BTreeMap::new(),
            now: EPOCH_MS,
            options: Options { slots: 1, ..Options::default() },
            bounds: Bounds::default(),
            wire: Vec::new(),
            council: false,
            councils: BTreeMap::new(),
        }
    }

    /// `count` nodes of one region each, connected, and quiet.
    pub fn connected(count: u8) -> Group {
        let mut group = Group::new();
        (1..=count).for_each(|number| group.start(number, &format!("r{number}"), number.into()));
        for one in 1..=count {
            (1..one).for_each(|other| group.connect(one, other));
        }
        group.settle();
        group
    }

    /// Starts a node on its disk, or on an empty one.
    pub fn start(&mut self, number: u8, region: &str, origin: u64) {
        let memory = self.nodes.get(&number).map_or_else(Memory::new, |node| node.memory.clone());
        let me = Identity { council: self.council, ..identity(number, region, origin) };
        self.regions.insert(number, region.to_owned());
        let mut node = Node::open(&memory, self.options, me, self.bounds, self.now);
        node.run(self.now, Vec::new());
        self.nodes.insert(number, node);
    }

    pub fn run(&mut self, number: u8, events: Vec<Event>) -> Released {
        let node = self.nodes.get_mut(&number).unwrap();
        let released = node.run(self.now, events);
        for (to, _, frame) in &released.sends {
            self.wire.push((number, to.0[0], frame.clone()));
        }
        self.tell_council(number, &released);
        released
    }

    /// What a node asks its council for is recorded, and told to the node.
    fn tell_council(&mut self, number: u8, released: &Released) {
        let Some(council) = self.councils.get_mut(&self.regions[&number]) else { return };
        let mut endings = released.endings.iter().cloned();
        if endings.any(|ending| council.take(node_id(number), ending)) {
            let record = Box::new(council.record.clone());
            self.run(number, vec![Event::Placed(record)]);
        }
    }

    /// Gives a region a council, which records that these nodes are its replicas.
    pub fn place(&mut self, region: &str, number: u64, nodes: &[u8]) {
        let record = record(region, number, nodes, None);
        self.councils.insert(region.to_owned(), Council::new(record.clone()));
        for node in nodes.iter().filter(|node| self.nodes.contains_key(node)).collect::<Vec<_>>() {
            self.run(*node, vec![Event::Placed(Box::new(record.clone()))]);
        }
    }

    pub fn connect(&mut self, one: u8, other: u8) {
        self.run(one, vec![Event::Connected(node_id(other))]);
        self.run(other, vec![Event::Connected(node_id(one))]);
    }

    pub fn disconnect(&mut self, one: u8, other: u8) {
        self.run(one, vec![Event::Disconnected(node_id(other))]);
        self.run(other, vec![Event::Disconnected(node_id(one))]);
        self.wire.retain(|(from, to, _)| ![(one, other), (other, one)].contains(&(*from, *to)));
    }

    /// Takes what is under way from one node to another.
    pub fn take(&mut self, from: u8, to: u8) -> Vec<Bytes> {
        let mine = |entry: &(u8, u8, Bytes)| (entry.0, entry.1) == (from, to);
        let (taken, rest) = self.wire.drain(..).partition(mine);
        self.wire = rest;
        let taken: Vec<(u8, u8, Bytes)> = taken;
        taken.into_iter().map(|(_, _, frame)| frame).collect()
    }

    pub fn deliver(&mut self, from: u8, to: u8) -> Released {
        let frames = self.take(from, to).into_iter();
        let events = frames.map(|frame| Event::Received(node_id(from), frame)).collect();
        self.run(to, events)
    }

    pub fn receive(&mut self, from: u8, to: u8, message: &Message) -> Released {
        self.run(to, vec![Event::Received(node_id(from), message.encode())])
    }

    /// Delivers all that is under way, and what that leads to.
    pub fn deliver_all(&mut self) -> usize {
        let mut count = 0;
        while let Some((from, to, _)) = self.wire.first().cloned() {
            count += 1;
            assert!(count < 10_000, "they never stop talking");
            self.deliver(from, to);
        }
        count
    }

    /// Lets time pass at all nodes.
    pub fn wait(&mut self, ms: Millis) {
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + 100).min(end);
            for number in self.nodes.keys().copied().collect::<Vec<_>>() {
                if self.nodes[&number].core.deadline() <= self.now {
                    self.run(number, vec![Event::Tick]);
                }
            }
            self.deliver_all();
        }
    }

    pub fn settle(&mut self) {
        self.deliver_all();
        self.wait(12_000);
    }

    pub fn origin(number: u64) -> Origin {
        Origin(number)
    }
}
