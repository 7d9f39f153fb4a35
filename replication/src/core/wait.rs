//! Requests that wait for other replicas, until their level is met or their time is over.
//!
//! ```text
//! accepted ── stamped, committed, shipped ── acknowledged by enough ── answered
//!    └─ too few can be reached: refused       └─ not in time: late, and says who did
//! ```
//!
//! Invariants:
//! 1. (R12) A peer's acknowledgement counts if the set of which it says to be a replica is not
//!    newer than the one known here: else whoever joins that newer set may have asked it before.
//! 2. What counts is what was acknowledged on the present connection: a peer that comes back may
//!    have lost its disk.
//! 3. An acknowledgement wakes who waits for it in the step that takes it; time is looked at only
//!    to give up, and to ask again for what was lost on the way.
//! 4. A change that cannot reach its level draws no dot. So many changes and reads wait at most.

use std::collections::{BTreeMap, BTreeSet};

use atoll_store::dot::{Dot, Millis, Origin};
use atoll_store::shard::ShardId;

use super::confirm::Askers;
use super::gather::Reading;
use super::message::Message;
use super::{Core, Reply, Ticket, Written};
use crate::level::{Count, Demand, Level, Sets, Unmet};
use crate::transport::NodeId;

/// Changes and reads that wait for other replicas. Above it a client is told to come back: 503.
const WAITING: usize = 8_192;

/// What a change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Enough replicas have this sequence of this node's origin.
    Operation(u64),
    /// Enough replicas have all that this copy has.
    Copy,
}

/// A change, answered or not.
#[derive(Debug)]
pub(super) enum Item {
    /// To be answered like this.
    Done(Result<Written, Unmet>),
    /// It waits.
    Open(Written, ShardId, Goal),
}

/// A group of changes of which some wait.
#[derive(Debug)]
struct Writing {
    level: Level,
    until: Millis,
    items: Vec<Item>,
    open: usize,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiter {
    Write(Ticket),
    Read(u64),
}

/// All that waits, here and for peers.
#[derive(Debug)]
pub(super) struct Waits {
    writes: BTreeMap<Ticket, Writing>,
    /// Groups with open changes, by shard.
    by_shard: BTreeMap<ShardId, BTreeSet<Ticket>>,
    pub(super) reads: BTreeMap<u64, Reading>,
    /// The last name of a read: other starts of this node use others.
    pub(super) last_read: u64,
    pub(super) timers: BTreeSet<(Millis, Waiter)>,
    /// Changes and reads that wait.
    pub(super) open: usize,
    pub(super) askers: Askers,
    /// Shards of which something came in this step.
    touched: BTreeSet<ShardId>,
    /// Shards with new changes for other regions.
    shipped: BTreeSet<ShardId>,
}

impl Waits {
    pub(super) fn new(origin: Origin) -> Waits {
        Waits {
            writes: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            reads: BTreeMap::new(),
            last_read: origin.0 & u64::from(u32::MAX),
            timers: BTreeSet::new(),
            open: 0,
            askers: Askers::default(),
            touched: BTreeSet::new(),
            shipped: BTreeSet::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.open == 0 && self.askers.is_empty()
    }

    /// Something of a shard came: whoever waits for it is looked at in this step.
    pub(super) fn touch(&mut self, shard: ShardId) {
        if !self.is_idle() {
            self.touched.insert(shard);
        }
    }

    /// The same of what begins to wait.
    pub(super) fn wake(&mut self, shard: ShardId) {
        self.touched.insert(shard);
    }

    pub(super) fn touch_all(&mut self) {
        self.touched.extend(self.by_shard.keys().copied());
        self.touched.extend(self.reads.values().map(|read| read.shard));
    }

    /// When the first that waits gives up, by time that only passes.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.timers.first().map(|(until, _)| *until)
    }
}

impl Core {
    /// Whether this node alone is enough for a level. Refuses what cannot be reached, or waited
    /// for.
    pub(super) fn is_enough(&self, shard: ShardId, level: Level) -> Result<bool, Unmet> {
        if level == Level::One {
            return Ok(true);
        }
        let (sets, region) = (self.sets(shard, level), &self.me.region);
        if level.is_met(region, &sets, |node| node == self.me.node) {
            return Ok(true);
        }
        let reachable = |node: NodeId| self.is_reachable(node);
        if !level.is_met(region, &sets, reachable) {
            return Err(Unmet::NotEnough(count(&sets, reachable)));
        }
        if self.waits.open >= WAITING { Err(Unmet::Overloaded) } else { Ok(false) }
    }

    /// Answers a group of changes, or lets it wait for those that are open.
    pub(super) fn wait_for(&mut self, ticket: Ticket, items: Vec<Item>, demand: Demand) {
        let until = self.elapsed + demand.timeout_ms;
        let mut open = 0;
        for (place, item) in items.iter().enumerate() {
            let Item::Open(_, shard, goal) = item else { continue };
            open += 1;
            match goal {
                Goal::Operation(_) => {
                    self.waits.by_shard.entry(*shard).or_default().insert(ticket);
                    if demand.level.is_global() {
                        self.waits.shipped.insert(*shard);
                    }
                }
                Goal::Copy => self.cover((ticket, place), *shard, demand.level, until),
            }
        }
        let writing = Writing { level: demand.level, until, items, open };
        if open == 0 {
            return self.answer_write(ticket, writing);
        }
        self.waits.open += open;
        self.waits.timers.insert((until, Waiter::Write(ticket)));
        self.waits.writes.insert(ticket, writing);
    }

    fn answer_write(&mut self, ticket: Ticket, writing: Writing) {
        let each = writing.items.into_iter().map(|item| match item {
            Item::Done(result) => result,
            Item::Open(..) => Err(Unmet::Late(Count::new())),
        });
        self.out.replies.push((ticket, Reply::Written(each.collect())));
    }

    /// Looks at all that waits for what came in this step, and at the time.
    pub(super) fn settle_waits(&mut self) {
        if self.waits.is_idle() {
            self.waits.touched.clear();
            return;
        }
        self.ask_others();
        let touched = std::mem::take(&mut self.waits.touched);
        self.tell_askers(&touched);
        self.advance_reads(&touched);
        for shard in &touched {
            self.confirm_writes(*shard);
        }
        while let Some((until, waiter)) = self.waits.timers.first().copied()
            && until <= self.elapsed
        {
            self.waits.timers.remove(&(until, waiter));
            self.give_up_waiting(waiter);
        }
    }

    /// Ends all waiting: the node stops.
    pub(super) fn end_waits(&mut self) {
        for (_, waiter) in std::mem::take(&mut self.waits.timers) {
            self.give_up_waiting(waiter);
        }
    }

    fn give_up_waiting(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Read(number) => self.give_up_read(number),
            Waiter::Write(ticket) => {
                let Some(mut writing) = self.waits.writes.remove(&ticket) else { return };
                self.waits.open -= writing.open;
                let level = writing.level;
                for item in &mut writing.items {
                    let Item::Open(_, shard, goal) = item else { continue };
                    let count = match *goal {
                        Goal::Operation(sequence) => self.has_confirmed(*shard, level, sequence),
                        Goal::Copy => self.count_covering(ticket, *shard, level),
                    };
                    self.waits.by_shard.entry(*shard).or_default().remove(&ticket);
                    *item = Item::Done(Err(Unmet::Late(count)));
                }
                self.answer_write(ticket, writing);
            }
        }
        self.waits.by_shard.retain(|_, tickets| !tickets.is_empty());
    }

    /// Answers what enough replicas have acknowledged.
    fn confirm_writes(&mut self, shard: ShardId) {
        let Some(tickets) = self.waits.by_shard.get(&shard).cloned() else { return };
        let mut confirmed: BTreeMap<Level, u64> = BTreeMap::new();
        for ticket in tickets {
            let Some(level) = self.waits.writes.get(&ticket).map(|writing| writing.level) else {
                continue;
            };
            let known = confirmed.get(&level).copied();
            let last = known.unwrap_or_else(|| self.confirmed(shard, level));
            confirmed.insert(level, last);
            self.confirm(ticket, |open, goal| {
                open == shard && matches!(goal, Goal::Operation(sequence) if sequence <= last)
            });
        }
    }

    /// A copy that a change waits for is on enough replicas.
    pub(super) fn confirm_copy(&mut self, ticket: Ticket, place: usize) {
        let Some(writing) = self.waits.writes.get_mut(&ticket) else { return };
        if let Some(Item::Open(_, _, goal @ Goal::Copy)) = writing.items.get_mut(place) {
            *goal = Goal::Operation(0);
        }
        self.confirm(ticket, |_, goal| goal == Goal::Operation(0));
    }

    fn confirm(&mut self, ticket: Ticket, is_done: impl Fn(ShardId, Goal) -> bool) {
        let Some(writing) = self.waits.writes.get_mut(&ticket) else { return };
        let mut left = BTreeSet::new();
        let mut shards = BTreeSet::new();
        for item in &mut writing.items {
            let Item::Open(written, shard, goal) = item else { continue };
            shards.insert(*shard);
            if is_done(*shard, *goal) {
                *item = Item::Done(Ok(written.clone()));
                writing.open -= 1;
                self.waits.open -= 1;
            } else if matches!(goal, Goal::Operation(_)) {
                left.insert(*shard);
            }
        }
        let done = writing.open == 0;
        for shard in shards.difference(&left) {
            if let Some(tickets) = self.waits.by_shard.get_mut(shard) {
                tickets.remove(&ticket);
                if tickets.is_empty() {
                    self.waits.by_shard.remove(shard);
                }
            }
        }
        if done && let Some(writing) = self.waits.writes.remove(&ticket) {
            self.waits.timers.remove(&(writing.until, Waiter::Write(ticket)));
            self.answer_write(ticket, writing);
        }
    }

    /// The last sequence of this origin that enough replicas have acknowledged.
    fn confirmed(&self, shard: ShardId, level: Level) -> u64 {
        let sets = self.sets(shard, level);
        let nodes = sets.values().flat_map(|set| set.all());
        let acknowledged: BTreeMap<NodeId, u64> =
            nodes.map(|node| (node, self.acknowledged_by(node, shard, &sets))).collect();
        let mut sequences: Vec<u64> = acknowledged.values().copied().collect();
        sequences.sort_unstable_by(|one, other| other.cmp(one));
        sequences.dedup();
        let region = &self.me.region;
        let is_met = |last: &u64| {
            level.is_met(region, &sets, |node| acknowledged.get(&node).is_some_and(|s| s >= last))
        };
        sequences.into_iter().find(is_met).unwrap_or(0)
    }

    /// Up to where a replica has acknowledged this origin, as far as that counts (R12).
    fn acknowledged_by(&self, node: NodeId, shard: ShardId, sets: &Sets<'_>) -> u64 {
        if node == self.me.node {
            let here = self.serves(shard).is_ok();
            return if here { self.engine.sequence(shard, self.me.origin) } else { 0 };
        }
        let told = self.peers.get(&node).and_then(|peer| peer.acknowledged.get(&shard));
        let counts = |(epoch, _): &&(u64, u64)| counts(sets, node, *epoch);
        told.filter(counts).map_or(0, |(_, sequence)| *sequence)
    }

    fn has_confirmed(&self, shard: ShardId, level: Level, sequence: u64) -> Count {
        let sets = self.sets(shard, level);
        count(&sets, |node| self.acknowledged_by(node, shard, &sets) >= sequence)
    }

    /// Other regions' replicas that get operations from one of their own say so to it alone: those
    /// that a change waits for are asked.
    fn ask_others(&mut self) {
        for shard in std::mem::take(&mut self.waits.shipped) {
            let last = self.engine.sequence(shard, self.me.origin);
            let outside = self.route(shard).outside.clone();
            let sets = self.sets(shard, Level::All);
            let others = sets.iter().filter(|(region, _)| **region != self.me.region);
            let others = others.flat_map(|(_, set)| set.all());
            let others = others.filter(|node| !outside.contains(node) && self.is_reachable(*node));
            for node in others.collect::<Vec<_>>() {
                self.send_await(node, shard, last);
            }
        }
    }

    /// Asks again for acknowledgements that may have been lost; at every tick.
    pub(super) fn ask_again(&mut self) {
        if self.waits.open == 0 {
            return;
        }
        let mut missing = BTreeSet::new();
        for (shard, tickets) in &self.waits.by_shard {
            let levels = tickets.iter().filter_map(|ticket| self.waits.writes.get(ticket));
            let Some(level) = levels.map(|writing| writing.level).max() else { continue };
            let last = self.engine.sequence(*shard, self.me.origin);
            let sets = self.sets(*shard, level);
            for node in sets.values().flat_map(|set| set.all()) {
                let lacks = self.acknowledged_by(node, *shard, &sets) < last;
                if lacks && node != self.me.node && self.is_reachable(node) {
                    missing.insert((node, *shard, last));
                }
            }
        }
        for (node, shard, last) in missing {
            self.send_await(node, shard, last);
        }
        for number in self.waits.reads.keys().copied().collect::<Vec<_>>() {
            self.ask_replicas(number);
        }
        self.waits.touch_all();
    }

    fn send_await(&mut self, node: NodeId, shard: ShardId, sequence: u64) {
        let dot = Dot { origin: self.me.origin, sequence };
        self.send(node, &Message::Await { shard, dot });
    }
}

/// Whether a word of a replica counts: it knew no newer set than the one known here (R12).
pub(super) fn counts(sets: &Sets<'_>, node: NodeId, epoch: u64) -> bool {
    sets.values().any(|set| set.receives(node) && epoch <= set.epoch)
}

/// How many of the replicas of each region did something.
pub(super) fn count(sets: &Sets<'_>, did: impl Fn(NodeId) -> bool) -> Count {
    let one = |(region, set): (&&str, &std::borrow::Cow<'_, crate::placement::Replicas>)| {
        let did = set.all().filter(|node| did(*node)).count();
        ((*region).to_owned(), (did, set.all().count()))
    };
    sets.iter().map(one).collect()
}
