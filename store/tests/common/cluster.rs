//! Several nodes of one shard under a seed: writes, deliveries, duplicates, transfers, restarts.

use std::collections::BTreeMap;

use atoll_store::dot::Origin;
use atoll_store::engine::Readiness;
use atoll_store::name::{EntityKey, Kind};
use atoll_store::operation::Operation;
use atoll_store::transfer::{Chunk, Incoming, Outgoing};
use bytes::Bytes;

use super::random::{Mix, Random, changes, keys};
use super::retire::Ends;
use super::{Node, SHARD, options};

struct Transfer {
    from: usize,
    to: usize,
    out: Outgoing,
    incoming: Incoming,
    budget: usize,
    /// The roll of its sender: vectors compare only where it is the receiver's, too.
    roll: (u32, u64),
}

/// What may happen besides writes and deliveries.
#[derive(Clone, Copy)]
pub struct Chaos {
    pub transfers: bool,
    pub restarts: bool,
    /// Origins that ended are retired, and lost disks replaced by empty ones.
    pub retires: bool,
    pub mix: Mix,
}

pub struct Cluster {
    pub random: Random,
    pub nodes: Vec<Node>,
    pub keys: Vec<EntityKey>,
    /// Every operation, by origin, and in the order in which they were written.
    pub history: BTreeMap<Origin, Vec<Bytes>>,
    pub order: Vec<Bytes>,
    /// The same as if nothing had ever been folded, and a node that has seen it all.
    pub plain: Vec<Operation>,
    pub truth: Node,
    /// Nodes whose disk was lost, until they have taken a state.
    pub fresh: Vec<bool>,
    pub ends: Ends,
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
            plain: Vec::new(),
            truth: Node::new(u64::MAX),
            fresh: vec![false; size],
            ends: Ends::default(),
            transfers: Vec::new(),
            chaos,
            now: 1_000_000,
            next_origin: 0,
        };
        if chaos.retires {
            cluster.keys.retain(|key| matches!(key.kind, Kind::Counters | Kind::Maps));
        }
        for at in 0..size {
            let mut options = options();
            if cluster.random.one_in(2) {
                options.cache_bytes = 4000;
                options.checkpoint_bytes = 500;
            }
            let origin = cluster.draw();
            let memory = std::sync::Arc::new(atoll_store::backend::memory::Memory::new());
            cluster.nodes.push(Node::open(memory, options, origin));
            cluster.ends.starts(at, Origin(origin));
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
            19 if self.chaos.retires && self.random.one_in(8) => self.lose_disk(),
            19 if self.chaos.retires => self.restart(),
            19 if self.chaos.restarts && self.random.one_in(5) => self.restart(),
            _ => self.deliver(),
        }
        if self.chaos.retires {
            (0..6).for_each(|_| self.deliver());
            self.watch_ends();
            (0..3).for_each(|_| self.step_ends());
        }
    }

    fn write(&mut self) {
        let at = self.random.below(self.nodes.len());
        if self.fresh[at] {
            return;
        }
        let node = &mut self.nodes[at];
        node.now = self.now + self.random.below(500) as u64;
        let asked = changes(&mut self.random, node, &self.keys, self.chaos.mix);
        let origin = node.origin;
        let Ok((_, bytes)) = node.stage(&asked) else { return };
        node.commit();
        self.history.entry(origin).or_default().push(bytes.clone());
        let plain = self.unfolded(&bytes);
        self.truth.engine.apply(SHARD, &plain, plain.encode());
        self.plain.push(plain);
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
            let roll = self.nodes[from].engine.roll();
            self.transfers.push(Transfer { from, to, out, incoming, budget, roll });
        } else if !self.transfers.is_empty() {
            let which = self.random.below(self.transfers.len());
            self.step_transfer(which);
        }
    }

    fn step_transfer(&mut self, which: usize) {
        let transfer = &mut self.transfers[which];
        let Transfer { from, to, roll, .. } = *transfer;
        // Only whole copies tell what they have, to nodes with the same roll.
        let rolls = [from, to].map(|at| self.nodes[at].engine.roll());
        if self.fresh[from] || !self.nodes[from].engine.is_whole(SHARD) || rolls != [roll; 2] {
            self.transfers.swap_remove(which);
            return;
        }
        let chunk = self.nodes[from].engine.chunk(&mut transfer.out, transfer.budget).unwrap();
        let bytes = super::encode(&chunk);
        let mut chunk: Chunk = super::decode(&bytes).unwrap();
        let node = &mut self.nodes[to];
        node.engine.adopt(&mut chunk.vector);
        for ahead in chunk.states.iter_mut().filter_map(|state| state.ahead.as_mut()) {
            node.engine.adopt(ahead);
        }
        if transfer.incoming.push(chunk) {
            let done = self.transfers.swap_remove(which);
            node.engine.switch(SHARD, done.incoming).unwrap();
            node.commit();
            self.fresh[to] = false;
        }
    }

    /// A node whose disk is lost starts with an empty one, and the roll of the others.
    fn lose_disk(&mut self) {
        let at = self.random.below(self.nodes.len());
        let (origin, count) = (self.nodes[at].origin, self.nodes.len());
        let issued = self.history.get(&origin).map_or(0, Vec::len) as u64;
        let known = |node: &Node| node.vector().sequence(origin) >= issued;
        let others: Vec<usize> = (0..count).filter(|other| *other != at).collect();
        // What only it knew would be lost with it.
        if !others.iter().all(|other| !self.fresh[*other] && known(&self.nodes[*other])) {
            return;
        }
        self.transfers.retain(|transfer| transfer.from != at && transfer.to != at);
        let drawn = self.draw();
        let options = self.nodes[at].options;
        let memory = std::sync::Arc::new(atoll_store::backend::memory::Memory::new());
        self.nodes[at] = Node::open(memory, options, drawn);
        self.fresh[at] = true;
        self.ends.starts(at, Origin(drawn));
        self.ends.wipes(at);
        self.tell_all_retired(at);
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
        let (before, (vector, views)) = seen(node, &self.keys);
        let node = before.restart(origin);
        self.ends.starts(at, Origin(origin));
        let (node, (risen, again)) = seen(node, &self.keys);
        assert_eq!(again, views, "a restart changes nothing");
        // What catches up by operations alone covers what was retired when it starts.
        assert!(risen == vector || self.fresh[at], "{risen:?} after {vector:?}");
        self.nodes.insert(at, node);
    }

    /// Ends all transfers and delivers everything everywhere.
    pub fn heal(&mut self) {
        while !self.transfers.is_empty() {
            self.step_transfer(0);
        }
        (0..self.nodes.len()).for_each(|at| self.tell_all_retired(at));
        while let Some(to) = self.fresh.iter().position(|fresh| *fresh) {
            let from = self.fresh.iter().position(|fresh| !*fresh).unwrap();
            let (out, incoming) = (Outgoing::new(SHARD), Incoming::default());
            let roll = self.nodes[from].engine.roll();
            self.transfers.push(Transfer { from, to, out, incoming, budget: 500, roll });
            while !self.transfers.is_empty() {
                self.step_transfer(0);
            }
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
        for operation in &self.plain {
            assert_eq!(node.receive(&operation.encode()), Readiness::Ready);
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
