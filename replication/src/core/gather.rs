//! Reads at a level: what enough replicas have is here, and what is shown is on enough of them.
//!
//! ```text
//! asked ── enough told ── this copy has all of that ── state taken, others repaired ── answered
//! ```
//!
//! Invariants:
//! 1. What is shown holds everything that enough replicas told of: so all that was acknowledged at
//!    this level before the read began.
//! 2. What is shown is durable on enough replicas before it is answered: whoever reads at this
//!    level later sees it too.
//! 3. (R9) Vectors are compared within one roll: when origins retire, a read begins again.
//!
//! Left out: reading a part of a shard. What one entity's state stands on is told by the vector of
//! its shard alone; what is on its way in the shard anyway is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_store::command::Refusal;
use atoll_store::dot::{Millis, Origin, VersionVector};
use atoll_store::entity::Image;
use atoll_store::mutant::Mutant;
use atoll_store::name::EntityKey;
use atoll_store::shard::ShardId;

use super::answer::split;
use super::message::Message;
use super::wait::{Waiter, count, counts};
use super::{Core, Reply, Ticket};
use crate::level::{Count, Demand, Level, Unmet};
use crate::transport::NodeId;

/// Who is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    /// A client, with an entity.
    Read(Ticket, EntityKey),
    /// The change at this place of a group: it is on enough replicas.
    Change(Ticket, usize),
}

/// What is shown, and what must be on enough replicas for it.
#[derive(Debug)]
struct Shown {
    vector: VersionVector,
    image: Option<Arc<Image>>,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Reading {
    purpose: Purpose,
    pub(super) shard: ShardId,
    level: Level,
    until: Millis,
    /// What others were told to catch up with.
    asked: VersionVector,
    /// What replicas have, and the epoch of the set by which they count.
    told: BTreeMap<NodeId, (u64, VersionVector)>,
    /// What enough replicas have together.
    floor: Option<VersionVector>,
    shown: Option<Shown>,
}

impl Core {
    pub(super) fn read(&mut self, ticket: Ticket, key: EntityKey, demand: Demand) {
        let shard = self.engine.shard_of(&key);
        let serves = self.serves(shard).map_err(Unmet::from);
        match serves.and_then(|()| self.is_enough(shard, demand.level)) {
            Err(unmet) => self.out.replies.push((ticket, Reply::Read(Err(unmet)))),
            Ok(true) => {
                let image = self.show(&key).map_err(Unmet::from);
                self.out.replies.push((ticket, Reply::Read(image)));
            }
            Ok(false) => {
                let until = self.elapsed + demand.timeout_ms;
                self.begin_read(Purpose::Read(ticket, key), shard, demand.level, until, None);
            }
        }
    }

    /// Waits until all that this copy has is on enough replicas, for a change.
    pub(super) fn cover(
        &mut self,
        (ticket, place): (Ticket, usize),
        shard: ShardId,
        level: Level,
        until: Millis,
    ) {
        let floor = Some(self.engine.vector(shard));
        self.begin_read(Purpose::Change(ticket, place), shard, level, until, floor);
    }

    fn begin_read(
        &mut self,
        purpose: Purpose,
        shard: ShardId,
        level: Level,
        until: Millis,
        floor: Option<VersionVector>,
    ) {
        self.waits.last_read = self.waits.last_read.wrapping_add(1);
        let number = self.waits.last_read;
        if matches!(purpose, Purpose::Read(..)) {
            self.waits.open += 1;
            self.waits.timers.insert((until, Waiter::Read(number)));
        }
        let (asked, told) = (self.engine.vector(shard), BTreeMap::new());
        let reading = Reading { purpose, shard, level, until, asked, told, floor, shown: None };
        self.waits.reads.insert(number, reading);
        self.waits.wake(shard);
        self.ask_replicas(number);
    }

    /// The entity as it is now; hot from now on.
    fn show(&mut self, key: &EntityKey) -> Result<Arc<Image>, Refusal> {
        let image = self.engine.image(key).map_err(|_| Refusal::Quarantined)?;
        self.out.loaded.push((key.clone(), image.clone()));
        Ok(image)
    }

    /// Asks all replicas that a read looks at and that lack what it waits for, as far as is known.
    pub(super) fn ask_replicas(&mut self, number: u64) {
        let Some(reading) = self.waits.reads.get(&number) else { return };
        let (shard, vector) = (reading.shard, reading.asked.clone());
        let sets = self.sets(shard, reading.level);
        let lacks = |node: &NodeId| {
            reading.told.get(node).is_none_or(|(_, theirs)| !theirs.contains(&vector))
        };
        let nodes = sets.values().flat_map(|set| set.all()).filter(lacks);
        let others = nodes.filter(|node| *node != self.me.node && self.is_reachable(*node));
        let others: Vec<NodeId> = others.collect();
        let (_, roll) = self.engine.roll();
        let message = Message::Ask { number, shard, roll, vector };
        let (class, frame) = (message.class(), message.encode());
        self.out.sends.extend(others.into_iter().map(|node| (node, class, frame.clone())));
    }

    /// A replica tells what it has.
    pub(super) fn told(
        &mut self,
        peer: NodeId,
        number: u64,
        standing: u64,
        roll: u64,
        vector: VersionVector,
    ) {
        let Some(vector) = self.adopt(roll, vector) else { return };
        let Some(reading) = self.waits.reads.get_mut(&number) else { return };
        let shard = reading.shard;
        reading.told.insert(peer, (standing, vector.clone()));
        if let Some(known) = self.peers.get_mut(&peer) {
            known.vectors.entry(shard).or_default().join(&vector);
        }
        self.waits.touch(shard);
    }

    /// Goes on with reads of shards of which something came.
    pub(super) fn advance_reads(&mut self, touched: &BTreeSet<ShardId>) {
        let reads = self.waits.reads.iter();
        let due = reads.filter(|(_, reading)| touched.contains(&reading.shard));
        for number in due.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.advance_read(number);
        }
    }

    fn advance_read(&mut self, number: u64) {
        let Some(mut reading) = self.waits.reads.remove(&number) else { return };
        let begun = reading.shown.is_none();
        let done = self.pursue(&mut reading);
        let asks = begun && reading.shown.is_some() && done.is_none();
        match done {
            Some(result) => self.end_read(number, reading, result),
            None => drop(self.waits.reads.insert(number, reading)),
        }
        if asks {
            self.repair_others(number);
        }
    }

    /// As far as a read gets now; its result, if that is to the end.
    fn pursue(&mut self, reading: &mut Reading) -> Option<Result<Option<Arc<Image>>, Unmet>> {
        if let Err(refusal) = self.serves(reading.shard) {
            return Some(Err(refusal.into()));
        }
        if reading.floor.is_none() {
            reading.floor = self.floor(reading);
            self.catch_up_with(reading);
        }
        let here = self.engine.vector(reading.shard);
        if reading.shown.is_none() && reading.floor.as_ref().is_some_and(|f| here.contains(f)) {
            let image = match &reading.purpose {
                Purpose::Read(_, key) => match self.show(&key.clone()) {
                    Ok(image) => Some(image),
                    Err(refusal) => return Some(Err(refusal.into())),
                },
                Purpose::Change(..) => None,
            };
            reading.shown = Some(Shown { vector: here, image });
        }
        let shown = reading.shown.as_ref()?;
        let is_whole = |vector: &VersionVector| vector.contains(&shown.vector);
        let done = self.have_told(reading, is_whole) || Mutant::RepairLost.is_on();
        done.then(|| Ok(shown.image.clone()))
    }

    /// What enough replicas have together, once they told.
    fn floor(&self, reading: &Reading) -> Option<VersionVector> {
        if !self.have_told(reading, |_| true) {
            return None;
        }
        let sets = self.sets(reading.shard, reading.level);
        let mut floor = self.engine.vector(reading.shard);
        for (node, (epoch, vector)) in &reading.told {
            if counts(&sets, *node, *epoch) {
                floor.join(vector);
            }
        }
        Some(floor)
    }

    /// Whether enough replicas told of something like this. This node has what it has.
    fn have_told(&self, reading: &Reading, is: impl Fn(&VersionVector) -> bool) -> bool {
        let sets = self.sets(reading.shard, reading.level);
        reading.level.is_met(&self.me.region, &sets, |node| {
            let told = reading.told.get(&node);
            let told = told.filter(|(epoch, _)| counts(&sets, node, *epoch));
            node == self.me.node || told.is_some_and(|(_, vector)| is(vector))
        })
    }

    /// Asks for what this copy lacks, of whoever told of it.
    fn catch_up_with(&mut self, reading: &Reading) {
        let Some(floor) = &reading.floor else { return };
        let here = self.engine.vector(reading.shard);
        if here.contains(floor) {
            return;
        }
        for (peer, (_, theirs)) in &reading.told {
            let lacks = theirs.iter().filter(|(origin, seq)| here.sequence(*origin) < *seq);
            let wants: Vec<(ShardId, Origin)> =
                lacks.map(|(origin, _)| (reading.shard, origin)).collect();
            self.ask(*peer, &wants);
        }
    }

    /// Sends replicas that told of less what they lack of what is shown, and asks for their word.
    fn repair_others(&mut self, number: u64) {
        let Some(reading) = self.waits.reads.get_mut(&number) else { return };
        let Some(shown) = &reading.shown else { return };
        let shard = reading.shard;
        let behind = reading.told.iter().filter(|(_, (_, v))| !v.contains(&shown.vector));
        let behind: Vec<(NodeId, Vec<(Origin, u64)>)> =
            behind.map(|(node, (_, theirs))| (*node, lacking(&shown.vector, theirs))).collect();
        let asks = reading.asked != shown.vector;
        reading.asked = shown.vector.clone();
        for (node, lacking) in behind {
            // What the log no longer holds they ask for, as state.
            let held = self.engine.operations_of(shard, &lacking, self.bounds.answer);
            let batches = held.map(|operations| vec![(shard, operations)]).unwrap_or_default();
            for message in split(batches, self.bounds.message, false, false) {
                self.send(node, &message);
            }
        }
        if asks {
            self.ask_replicas(number);
        }
    }

    fn end_read(
        &mut self,
        number: u64,
        reading: Reading,
        result: Result<Option<Arc<Image>>, Unmet>,
    ) {
        match reading.purpose {
            Purpose::Read(ticket, _) => {
                self.waits.timers.remove(&(reading.until, Waiter::Read(number)));
                self.waits.open -= 1;
                let missing = || Unmet::Refused(Refusal::Quarantined);
                let result = result.and_then(|image| image.ok_or_else(missing));
                self.out.replies.push((ticket, Reply::Read(result)));
            }
            Purpose::Change(ticket, place) if result.is_ok() => self.confirm_copy(ticket, place),
            // It waits until its time is over: it was applied.
            Purpose::Change(..) => {}
        }
    }

    pub(super) fn give_up_read(&mut self, number: u64) {
        let Some(reading) = self.waits.reads.remove(&number) else { return };
        let count = self.count_told(&reading);
        self.end_read(number, reading, Err(Unmet::Late(count)));
    }

    /// Replicas that have what a change of a group waits for; it is given up.
    pub(super) fn count_covering(&mut self, ticket: Ticket, shard: ShardId, level: Level) -> Count {
        let of = |reading: &Reading| {
            reading.shard == shard
                && matches!(reading.purpose, Purpose::Change(known, _) if known == ticket)
        };
        let number = self.waits.reads.iter().find(|(_, reading)| of(reading)).map(|(n, _)| *n);
        match number.and_then(|number| self.waits.reads.remove(&number)) {
            Some(reading) => self.count_told(&reading),
            None => count(&self.sets(shard, level), |node| node == self.me.node),
        }
    }

    fn count_told(&self, reading: &Reading) -> Count {
        let goal = reading.shown.as_ref().map(|shown| &shown.vector);
        let has = |(epoch, vector): &(u64, VersionVector), sets: &_, node| {
            counts(sets, node, *epoch) && goal.is_none_or(|goal| vector.contains(goal))
        };
        let sets = self.sets(reading.shard, reading.level);
        count(&sets, |node| {
            node == self.me.node || reading.told.get(&node).is_some_and(|t| has(t, &sets, node))
        })
    }

    /// What a peer told before its connection ended does not count.
    pub(super) fn forget_told(&mut self, peer: NodeId) {
        for reading in self.waits.reads.values_mut() {
            reading.told.remove(&peer);
        }
    }

    /// Origins were retired: vectors that were told before say something else now.
    pub(super) fn restart_reads(&mut self) {
        let reads = std::mem::take(&mut self.waits.reads);
        for (number, reading) in reads {
            let Reading { purpose, shard, level, until, .. } = reading;
            if let Purpose::Read(..) = purpose {
                self.waits.open -= 1;
                self.waits.timers.remove(&(until, Waiter::Read(number)));
            }
            let change = matches!(purpose, Purpose::Change(..));
            let floor = change.then(|| self.engine.vector(shard));
            self.begin_read(purpose, shard, level, until, floor);
        }
    }
}

/// What one vector lacks of another: origins, and from where on.
fn lacking(whole: &VersionVector, part: &VersionVector) -> Vec<(Origin, u64)> {
    let lacks = whole.iter().filter(|(origin, last)| part.sequence(*origin) < *last);
    lacks.map(|(origin, _)| (origin, part.sequence(origin) + 1)).collect()
}
