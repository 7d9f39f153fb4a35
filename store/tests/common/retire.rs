//! What a cluster under test knows of origins that ended: who had seen all of them at which clock,
//! which clocks have settled, and what each node was told of it, late and in an order of its own.
//!
//! It knows everything, so it retires and settles as early as the rules of R9 allow.
//!
//! Left out: the protocol that finds this out, which is replication's.

use std::collections::BTreeMap;

use atoll_store::dot::{Hlc, Origin};
use atoll_store::entity::Item;
use atoll_store::operation::{EpochKey, FOLDED, Operation};
use atoll_store::retire::{Retirement, Settled};

use super::cluster::Cluster;
use super::{Node, SHARD};

type Frontier = BTreeMap<Origin, u64>;

/// A clock that is settling: nothing is stamped up to it any more.
struct Settling {
    clock: Hlc,
    /// What was stamped up to it.
    stamped: Frontier,
    /// By node: what it had issued when it had applied all that.
    issued: Vec<Option<Frontier>>,
}

#[derive(Default)]
pub struct Ends {
    /// Who wrote under which origin.
    owners: BTreeMap<Origin, usize>,
    /// Of origins that ended, by node: its clock when it had all of it.
    whole_at: BTreeMap<Origin, Vec<Option<Hlc>>>,
    pub retired: Vec<Retirement>,
    settling: Vec<Settling>,
    /// Clocks that have settled, with what a node must have before it may go by them.
    settled: Vec<(Hlc, Frontier)>,
    /// Deletes that named what was folded.
    pub folded_closes: usize,
}

impl Ends {
    pub fn starts(&mut self, node: usize, origin: Origin) {
        self.owners.insert(origin, node);
    }

    /// A node lost all that it had.
    pub fn wipes(&mut self, node: usize) {
        self.settling.iter_mut().for_each(|settling| settling.issued[node] = None);
        self.whole_at.values_mut().for_each(|nodes| nodes[node] = None);
    }

    fn at(&self, origin: Origin) -> Option<Hlc> {
        self.retired.iter().find(|one| one.origin == origin).map(|one| one.at)
    }
}

fn covers(node: &Node, frontier: &Frontier) -> bool {
    let vector = node.vector();
    frontier.iter().all(|(origin, sequence)| vector.sequence(*origin) >= *sequence)
}

impl Cluster {
    fn issued(&self, origin: Origin) -> u64 {
        self.history.get(&origin).map_or(0, |all| all.len() as u64)
    }

    /// Notes what every step may have brought.
    pub fn watch_ends(&mut self) {
        let size = self.nodes.len();
        let live: Vec<Origin> = self.nodes.iter().map(|node| node.origin).collect();
        let ended: Vec<Origin> =
            self.ends.owners.keys().filter(|origin| !live.contains(origin)).copied().collect();
        for origin in ended {
            let last = self.issued(origin);
            let nodes = self.ends.whole_at.entry(origin).or_insert_with(|| vec![None; size]);
            for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| !self.fresh[*at]) {
                if nodes[at].is_none() && node.vector().sequence(origin) >= last {
                    nodes[at] = Some(node.stamp());
                }
            }
        }
        let (owners, history) = (&self.ends.owners, &self.history);
        for settling in &mut self.ends.settling {
            for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| !self.fresh[*at]) {
                if settling.issued[at].is_none() && covers(node, &settling.stamped) {
                    let own = owners.iter().filter(|(_, owner)| **owner == at);
                    let count = |origin| history.get(origin).map_or(0, |all| all.len() as u64);
                    let issued = own.map(|(origin, _)| (*origin, count(origin))).collect();
                    settling.issued[at] = Some(issued);
                }
            }
        }
        self.ends.settling.retain_mut(|settling| {
            let all: Option<Vec<Frontier>> = settling.issued.iter().cloned().collect();
            let Some(all) = all else { return true };
            self.ends.settled.push((settling.clock, all.into_iter().flatten().collect()));
            false
        });
    }

    /// One step of retiring: something is decided, or somebody is told.
    pub fn step_ends(&mut self) {
        match self.random.below(5) {
            0 => self.decide_retired(),
            1 => self.propose_clock(),
            2 | 3 => {
                let at = self.random.below(self.nodes.len());
                self.tell_retired(at);
            }
            _ => {
                let at = self.random.below(self.nodes.len());
                self.tell_settled(at);
            }
        }
    }

    fn decide_retired(&mut self) {
        let known = |origin: &Origin| self.ends.at(*origin).is_some();
        let seen = self.ends.whole_at.iter().filter(|(origin, _)| !known(origin));
        let whole: Vec<(Origin, Hlc)> = seen
            .filter_map(|(origin, nodes)| {
                let all: Option<Vec<Hlc>> = nodes.iter().copied().collect();
                Some((*origin, all?.into_iter().max()?))
            })
            .collect();
        if !whole.is_empty() {
            let (origin, at) = *self.random.pick(&whole);
            let finals = BTreeMap::from([(SHARD.slot, self.issued(origin))]);
            self.ends.retired.push(Retirement { origin, at, finals: Some(finals) });
        }
    }

    fn propose_clock(&mut self) {
        let nodes = self.nodes.iter().enumerate().filter(|(at, _)| !self.fresh[*at]);
        let Some(clock) = nodes.map(|(_, node)| node.stamp()).min() else { return };
        if self.ends.settling.len() >= 3 {
            return;
        }
        let stamped = |all: &Vec<bytes::Bytes>| {
            let stamp = |bytes: &&bytes::Bytes| Operation::peek(bytes).unwrap().1 <= clock;
            all.iter().filter(stamp).count() as u64
        };
        let stamped = self.history.iter().map(|(origin, all)| (*origin, stamped(all))).collect();
        let issued = vec![None; self.nodes.len()];
        self.ends.settling.push(Settling { clock, stamped, issued });
    }

    fn tell_retired(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let news = self.ends.retired.iter().filter(|one| !node.engine.is_retired(one.origin));
        let news: Vec<Retirement> = news.cloned().collect();
        if !news.is_empty() {
            let one = self.random.pick(&news).clone();
            node.engine.retire(vec![one], |_| true);
            node.commit();
        }
    }

    /// Tells a node everything that was decided.
    pub fn tell_all_retired(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for one in &self.ends.retired {
            node.engine.retire(vec![one.clone()], |_| true);
        }
        node.commit();
    }

    /// Tells a node of a clock, if it has all that this takes.
    pub fn tell_settled(&mut self, at: usize) {
        let retired = self.nodes[at].engine.retired(usize::MAX);
        let everywhere =
            |one: &&Retirement| self.nodes.iter().all(|node| node.engine.is_retired(one.origin));
        let known = retired.iter().take_while(everywhere).count() as u32;
        let node = &self.nodes[at];
        let may = self.ends.settled.iter().filter(|(_, issued)| covers(node, issued));
        let clocks: Vec<Hlc> = may.map(|(clock, _)| *clock).collect();
        if !clocks.is_empty() && !self.fresh[at] && node.engine.is_whole(SHARD) {
            let clock = *self.random.pick(&clocks);
            self.nodes[at].engine.settle(Settled { clock, known });
        }
    }

    /// An operation as its author would have written it had it folded nothing: what it closed as
    /// one, it closes one by one. The truth has seen all that the author saw.
    pub fn unfolded(&mut self, bytes: &bytes::Bytes) -> Operation {
        let mut operation = Operation::decode(bytes).unwrap();
        for part in &mut operation.parts {
            let closes = std::mem::take(&mut part.effect.closes);
            let (folded, mut named): (Vec<_>, Vec<_>) =
                closes.into_iter().partition(|(key, _)| key.origin == FOLDED);
            let entity = self.truth.engine.entity(&part.key).unwrap();
            for (fold, _) in folded {
                self.ends.folded_closes += 1;
                let old = |key: &EpochKey| {
                    let at = self.ends.at(key.origin);
                    key.path == fold.path && at.is_some_and(|at| at <= Hlc(fold.first))
                };
                named.extend(entity.items(None, None).filter_map(|item| match item {
                    Item::Epoch(key, epoch) if old(&key) => Some((key, epoch.total)),
                    _ => None,
                }));
            }
            named.sort_by(|one, other| one.0.cmp(&other.0));
            part.effect.closes = named;
        }
        operation
    }

    /// What a node shows is what one would show that has seen the same and never folded.
    pub fn check_values(&mut self, at: usize, what: &str) {
        let mut plain = Node::new(u64::MAX);
        let vector = self.nodes[at].vector();
        for operation in self.plain.iter().filter(|operation| vector.covers(operation.dot)) {
            plain.engine.apply(SHARD, operation, operation.encode());
        }
        let node = &mut self.nodes[at];
        if node.engine.digest(SHARD).0.is_none() {
            return;
        }
        for key in &self.keys {
            let (here, there) =
                ((node.view(key), node.sum(key)), (plain.view(key), plain.sum(key)));
            assert_eq!(here, there, "{what}: {key} at {at}, folded and not");
        }
    }

    /// How many folded counters the nodes hold: (all, those that show).
    pub fn count_folded(&mut self) -> (usize, usize) {
        let (mut all, mut open) = (0, 0);
        for node in &mut self.nodes {
            for key in &self.keys {
                let entity = node.engine.entity(key).unwrap();
                for item in entity.items(None, None) {
                    if let Item::Folded(_, folded) = item {
                        all += 1;
                        open += usize::from(!folded.closed);
                    }
                }
            }
        }
        (all, open)
    }
}
