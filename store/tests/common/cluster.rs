//! Several nodes of one shard under a seed: writes, deliveries, duplicates, transfers, restarts.

use std::collections::BTreeMap;

use atoll_store::dot::Origin;
use atoll_store::engine::Readiness;
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;
use atoll_store::transfer::{Chunk, Incoming, Outgoing};
use bytes::Bytes;

use super::random::{Mix, Random, changes, keys};
use super::{Node, SHARD, options};

struct Transfer {
    from: usize,
    to: usize,
    out: Outgoing,
    incoming: Incoming,
    budget: usize,
}

/// What may happen besides writes and deliveries.
#[derive(Clone, Copy)]
pub struct Chaos {
    pub transfers: bool,
    pub restarts: bool,
    pub mix: Mix,
}

pub struct Cluster {
    pub random: Random,
    pub nodes: Vec<Node>,
    pub keys: Vec<EntityKey>,
    /// Every operation, by origin, and in the order in which they were written.
    pub history: BTreeMap<Origin, Vec<Bytes>>,
    pub order: Vec<Bytes>,
    transfers: Vec<Transfer>,
    chaos: Chaos,
    now: u64,
    next_origin: u64,
}

impl Cluster {
    pub fn new(seed: u64, size: usize, chaos: Chaos) -> Cluster {
        let mut cluster = Cluster {
            random: Random(seed),
            nodes: Vec::new(),
            keys: keys(),
            history: BTreeMap::new(),
            order: Vec::new(),
            transfers: Vec::new(),
            chaos,
            now: 1_000_000,
            next_origin: 0,
        };
        for _ in 0..size {
            let mut options = options();
            if cluster.random.one_in(2) {
                options.cache_bytes = 4000;
                options.checkpoint_bytes = 500;
            }
            let origin = cluster.draw();
            let memory = std::sync::Arc::new(atoll_store::backend::memory::Memory::new());
            cluster.nodes.push(Node::open(memory, options, origin));
        }
        cluster
    }

    /// A new origin; their order is random.
    fn draw(&mut self) -> u64 {
        self.next_origin += 1;
        (self.random.next() << 16) | self.next_origin
    }

    pub fn step(&mut self) {
        self.now += match self.random.below(60) {
            0 => 13 * 3600 * 1000,
            n => n as u64 * 20,
        };
        match self.random.below(20) {
            0..=5 => self.write(),
            6..=12 => self.deliver(),
            13 => self.duplicate(),
            14..=17 if self.chaos.transfers => self.transfer(),
            18 => self.maintain(),
            19 if self.chaos.restarts && self.random.one_in(5) => self.restart(),
            _ => self.deliver(),
        }
    }

    fn write(&mut self) {
        let at = self.random.below(self.nodes.len());
        let node = &mut self.nodes[at];
        node.now = self.now + self.random.below(500) as u64;
        let asked = changes(&mut self.random, node, &self.keys, self.chaos.mix);
        let origin = node.origin;
        let Ok((_, bytes)) = node.stage(&asked) else { return };
        node.commit();
        self.history.entry(origin).or_default().push(bytes.clone());
        self.order.push(bytes);
    }

    /// The next operation of a random origin to a random node.
    fn deliver(&mut self) {
        let at = self.random.below(self.nodes.len());
        let origins: Vec<Origin> = self.history.keys().copied().collect();
        if !origins.is_empty() {
            let origin = *self.random.pick(&origins);
            let many = 1 + self.random.below(3);
            (0..many).for_each(|_| {
                self.deliver_next(at, origin);
            });
        }
    }

    fn deliver_next(&mut self, at: usize, origin: Origin) -> bool {
        let node = &mut self.nodes[at];
        let next = node.vector().sequence(origin) as usize;
        let Some(bytes) = self.history[&origin].get(next) else { return false };
        node.receive(bytes) == Readiness::Ready
    }

    fn duplicate(&mut self) {
        if self.order.is_empty() {
            return;
        }
        let bytes = self.random.pick(&self.order).clone();
        let dot = Operation::decode(&bytes).unwrap().dot;
        let at = self.random.below(self.nodes.len());
        let node = &mut self.nodes[at];
        if node.vector().covers(dot) {
            assert_eq!(node.receive(&bytes), Readiness::Seen);
        }
    }

    /// Starts a transfer, or moves a random one by a chunk.
    fn transfer(&mut self) {
        if self.transfers.len() < 2 && self.random.one_in(3) {
            let from = self.random.below(self.nodes.len());
            let to = (from + 1 + self.random.below(self.nodes.len() - 1)) % self.nodes.len();
            let budget = [40, 200, 1500][self.random.below(3)];
            let (out, incoming) = (Outgoing::new(SHARD), Incoming::default());
            self.transfers.push(Transfer { from, to, out, incoming, budget });
        } else if !self.transfers.is_empty() {
            let which = self.random.below(self.transfers.len());
            self.step_transfer(which);
        }
    }

    fn step_transfer(&mut self, which: usize) {
        let transfer = &mut self.transfers[which];
        let node = &mut self.nodes[transfer.from];
        let chunk = node.engine.chunk(&mut transfer.out, transfer.budget).unwrap();
        let bytes = super::encode(&chunk);
        let chunk: Chunk = super::decode(&bytes).unwrap();
        if transfer.incoming.push(chunk) {
            let done = self.transfers.swap_remove(which);
            let node = &mut self.nodes[done.to];
            node.engine.switch(SHARD, done.incoming).unwrap();
            node.commit();
        }
    }

    fn maintain(&mut self) {
        let at = self.random.below(self.nodes.len());
        let node = &mut self.nodes[at];
        if self.random.one_in(4) {
            node.engine.checkpoint_all();
        }
        node.engine.maintain(|_, _| false);
        node.commit();
    }

    fn restart(&mut self) {
        let at = self.random.below(self.nodes.len());
        let origin = self.draw();
        self.transfers.retain(|transfer| transfer.from != at && transfer.to != at);
        let node = self.nodes.remove(at);
        let (before, views) = seen(node, &self.keys);
        let node = before.restart(origin);
        let (node, again) = seen(node, &self.keys);
        assert_eq!(again, views, "a restart changes nothing");
        self.nodes.insert(at, node);
    }

    /// Ends all transfers and delivers everything everywhere.
    pub fn heal(&mut self) {
        while !self.transfers.is_empty() {
            self.step_transfer(0);
        }
        loop {
            let mut moved = false;
            for at in 0..self.nodes.len() {
                let origins: Vec<Origin> = self.history.keys().copied().collect();
                for origin in origins {
                    while self.deliver_next(at, origin) {
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// A node that was fed with the history, in the order in which it was written.
    pub fn reference(&self) -> Node {
        let mut node = Node::new(u64::MAX);
        for bytes in &self.order {
            assert_eq!(node.receive(bytes), Readiness::Ready);
        }
        node
    }
}

type Seen = (atoll_store::dot::VersionVector, Vec<(Option<atoll_store::command::View>, u128)>);

fn seen(mut node: Node, keys: &[EntityKey]) -> (Node, Seen) {
    let views = keys.iter().map(|key| (node.view(key), node.sum(key))).collect();
    let vector = node.vector();
    (node, (vector, views))
}
