//! Many groups of voters in one node: one for each shard in use, whose leader owns it.
//!
//! A pure core, like the council: events and the time go in, effects come out. The seam upwards is
//! [`Event`], [`News`] and [`State`]; `docs/groups.md` says what happens when. It differs in four
//! points from what one would draw first: every index is given out, those that are no command
//! without bytes, so that an index to read at is always reached; what certainly is not in the log
//! is answered [`News::Refused`], and only what may be there [`News::Lost`]; a state machine says
//! at [`Groups::open`] how far it has durably applied each log, and keeps that number itself, with
//! what it applied; and snapshots are asked for and taken through [`State`], within the step.
//!
//! Invariants:
//! 1. (R1) Effects are durable first, then said, in the order of the steps: see [`Effects`].
//! 2. All of one step goes into one batch of writes, and into one frame for each peer.
//! 3. Time and chance are arguments, and groups are gone through in order of their numbers.
//! 4. (R13) A member votes and acknowledges only after its start was recognised: see `talk`.
//! 5. What is in a log, and in which order, is the same at all members; who leads is one a term.
//! 6. Groups without traffic sleep: see `sleep`.
//!
//! Left out: groups that lost a majority for good, and moving the home region; both change who
//! votes without asking those who did.

mod message;
mod plan;
mod seam;
mod sleep;
mod slot;
mod talk;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use atoll_replication::transport::NodeId;
use atoll_store::backend::Backend;
use atoll_store::dot::Millis;
use atoll_store::record::RecordError;
use atoll_store::shard::ShardId;

use crate::raft::starts::{Clearance, Starts};
pub use crate::raft::{At, Entry};
use crate::raft::{Member, Message as MemberMessage, Name, Unreadable};
pub use message::Chunk;
use message::{Part, Speaker};
pub use plan::{Seats, seats};
pub use seam::{Effects, Event, Limits, News, Options, State, Ticket, View};
use slot::{Slot, number};

/// The unit of the groups' time.
pub const TICK_MS: Millis = 50;

/// The groups of one node.
pub struct Groups {
    backend: Arc<dyn Backend>,
    node: NodeId,
    chance: u64,
    limits: Limits,
    starts: Starts,
    /// Disks that have recognised this start.
    answered: BTreeSet<u64>,
    /// This disk has to be given up; nothing is said meanwhile.
    mute: bool,
    slots: BTreeMap<u64, Slot>,
    /// Groups to which something happened in this step.
    dirty: BTreeSet<u64>,
    seats: BTreeMap<u64, Seats>,
    live: BTreeSet<NodeId>,
    /// The nodes that disks were heard from.
    routes: BTreeMap<u64, NodeId>,
    /// When each node may be greeted again.
    greeted: BTreeMap<NodeId, Millis>,
    handing_over: bool,
    astray_ticks: u64,
    steps: u64,
    questions: u64,
    ticked: Option<Millis>,
    parts: BTreeMap<NodeId, Vec<Part>>,
    bulk: BTreeMap<NodeId, Vec<Part>>,
    out: Effects,
}

impl Groups {
    /// The groups that a disk has, whose state machines have durably applied their logs up to
    /// `applied`. The first effects may hold what was found out on the way.
    pub fn open(
        backend: Arc<dyn Backend>,
        options: Options,
        applied: impl Fn(ShardId) -> u64,
    ) -> Result<Groups, RecordError> {
        let Options { node, disk, chance, limits } = options;
        let mut groups = Groups {
            starts: Starts::beside(&*backend, disk, chance)?,
            backend,
            node,
            chance,
            limits,
            answered: BTreeSet::new(),
            mute: false,
            slots: BTreeMap::new(),
            dirty: BTreeSet::new(),
            seats: BTreeMap::new(),
            live: BTreeSet::new(),
            routes: BTreeMap::new(),
            greeted: BTreeMap::new(),
            handing_over: false,
            astray_ticks: 0,
            steps: 0,
            questions: 0,
            ticked: None,
            parts: BTreeMap::new(),
            bulk: BTreeMap::new(),
            out: Effects::default(),
        };
        for group in Member::groups(&*groups.backend)? {
            groups.load(group, &applied)?;
        }
        Ok(groups)
    }

    fn load(&mut self, group: u64, applied: &impl Fn(ShardId) -> u64) -> Result<(), RecordError> {
        let Some(shard) = slot::shard(group) else { return Ok(()) };
        match Member::load(self.backend.clone(), self.name(group), applied(shard)) {
            Ok(member) => {
                self.slots.insert(group, Slot::new(shard, member, Clearance::default()));
                self.dirty.insert(group);
            }
            // What this disk promised in the group cannot be found any more.
            Err(RecordError::Damaged(_)) => self.give_up("a log does not read"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn name(&self, group: u64) -> Name {
        Name { group, disk: self.starts.disk(), chance: self.chance }
    }

    /// Makes groups, with this node as their only voter: for the node that forms the home region,
    /// in the batch in which it does. Takes effect by the next step.
    pub fn form(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        for shard in shards {
            let group = number(shard);
            if self.slots.contains_key(&group) {
                continue;
            }
            let (name, disk) = (self.name(group), self.backend.clone());
            let member = Member::create(disk, name, self.node, &mut self.out.writes);
            let mut slot = Slot::new(shard, member, Clearance::given());
            slot.member.campaign();
            self.slots.insert(group, slot);
            self.dirty.insert(group);
        }
    }

    /// Takes events, in order.
    pub fn step(
        &mut self,
        now: Millis,
        events: impl IntoIterator<Item = Event>,
        state: &mut dyn State,
    ) -> Effects {
        self.steps += 1;
        for event in events {
            self.handle(now, event, state);
        }
        self.turn(now);
        self.finish(state);
        std::mem::take(&mut self.out)
    }

    /// When it wants to be told the time; `None` while everything sleeps.
    pub fn deadline(&self) -> Option<Millis> {
        self.next_tick().filter(|_| !self.mute)
    }

    fn handle(&mut self, now: Millis, event: Event, state: &mut dyn State) {
        match event {
            Event::Tick => {}
            Event::Received(from, frame) => self.receive(now, from, &frame, state),
            Event::Propose { group, ticket, command } => self.propose(group, ticket, command),
            Event::Read { group, ticket } => self.read(group, ticket),
            Event::Transfer { group, node } => self.transfer(number(group), node),
            Event::HandOver => {
                self.handing_over = true;
                self.slots.keys().copied().collect::<Vec<_>>().into_iter().for_each(|group| {
                    self.wake(group);
                });
            }
            Event::Wake(group) => self.ask_to_wake(number(group)),
            Event::Placed(seats) => self.place(seats, state),
            Event::Live(live) => self.look(live),
            Event::Applied { group, index } => {
                if let Some(slot) = self.slots.get_mut(&number(group)) {
                    slot.applied(index);
                    self.dirty.insert(number(group));
                }
            }
            Event::Compact { group, index } => {
                if let Some(slot) = self.slots.get_mut(&number(group)) {
                    slot.compactable = slot.compactable.max(index);
                    self.dirty.insert(number(group));
                }
            }
            Event::Flushed(step) => {
                self.slots.values_mut().for_each(|slot| slot.member.flushed(step));
            }
            Event::Disk(disk) => self.begin_anew(disk, state),
        }
    }

    fn propose(&mut self, group: ShardId, ticket: Ticket, command: Bytes) {
        self.wake(number(group));
        match self.slots.get_mut(&number(group)).filter(|_| !self.mute) {
            Some(slot) => {
                slot.propose(ticket, command, &mut self.out.news);
                self.dirty.insert(number(group));
            }
            None => self.out.news.push(News::Refused { group, ticket }),
        }
    }

    fn read(&mut self, group: ShardId, ticket: Ticket) {
        self.wake(number(group));
        match self.slots.get_mut(&number(group)).filter(|_| !self.mute) {
            Some(slot) => {
                slot.reads.push(ticket);
                self.dirty.insert(number(group));
            }
            None => self.out.news.push(News::Refused { group, ticket }),
        }
    }

    fn transfer(&mut self, group: u64, node: NodeId) {
        self.wake(group);
        let Some(slot) = self.slots.get(&group) else { return };
        let mut voters = slot.member.config().voters.iter();
        let disk = voters.find(|disk| self.node_of(slot, **disk) == Some(node)).copied();
        if let (Some(disk), Some(slot)) = (disk, self.slots.get_mut(&group)) {
            slot.member.transfer(disk);
            self.dirty.insert(group);
        }
    }

    /// Who should be in each group has changed.
    fn place(&mut self, seats: BTreeMap<ShardId, Seats>, state: &mut dyn State) {
        let seats: BTreeMap<u64, Seats> =
            seats.into_iter().map(|(shard, seats)| (number(shard), seats)).collect();
        let before = std::mem::replace(&mut self.seats, seats);
        for group in self.slots.keys().copied().collect::<Vec<_>>() {
            if before.get(&group) == self.seats.get(&group) {
                continue;
            }
            self.look_astray(group, state);
            let slot = &self.slots[&group];
            let named = |disk: u64| self.seats.get(&group).is_some_and(|s| s.node(disk).is_some());
            // A leader that is not named any more may have lost its disk, and not know of it.
            let lost = slot.member.leader().is_some_and(|disk| !named(disk)) && slot.rest.asleep;
            if slot.member.leads() && self.next_step(slot).is_some() {
                self.wake(group);
            } else if lost {
                self.ask_to_wake(group);
            }
        }
    }

    /// What passes with time, and what follows from what came.
    fn turn(&mut self, now: Millis) {
        if self.mute {
            return;
        }
        self.clear(now);
        let due = self.ticked.is_none_or(|ticked| now >= ticked + TICK_MS || now < ticked);
        if due && self.next_tick().is_some() {
            self.ticked = Some(now);
            self.tick();
        }
        self.greet(now);
    }

    fn tick(&mut self) {
        let awake = |slot: &Slot| slot.clearance.is_cleared() && !slot.rest.asleep;
        let groups: Vec<u64> =
            self.slots.iter().filter(|(_, slot)| awake(slot)).map(|(group, _)| *group).collect();
        for group in groups {
            self.lead(group);
            self.tick_slot(group);
            self.go_on_taking(group);
        }
        self.ask_astray();
    }

    /// What a leader does about who is in the group, and who should lead.
    fn lead(&mut self, group: u64) {
        let Some(slot) = self.slots.get(&group) else { return };
        let busy = slot.member.is_changing() || slot.member.is_handing_over();
        if !slot.member.owns() || busy {
            return;
        }
        let step = self.next_step(slot).or_else(|| self.heir(slot).map(plan::Step::Transfer));
        let Some(slot) = self.slots.get_mut(&group) else { return };
        match step {
            Some(plan::Step::Change(change)) => slot.member.change(&change),
            Some(plan::Step::Transfer(disk)) => slot.member.transfer(disk),
            None => {}
        }
    }

    fn next_step(&self, slot: &Slot) -> Option<plan::Step> {
        let seats = self.seats.get(&number(slot.shard))?;
        plan::step(seats, &slot.member, |node| self.live.contains(&node))
    }

    /// Who should lead instead of a node that is about to leave.
    fn heir(&self, slot: &Slot) -> Option<u64> {
        let (member, me) = (&slot.member, self.starts.disk());
        let there = |disk: u64| self.node_of(slot, disk).is_some_and(|n| self.live.contains(&n));
        let voters = member.config().voters.iter().copied();
        let heirs = voters.filter(|disk| *disk != me && there(*disk) && member.is_near(*disk));
        heirs.max_by_key(|disk| member.matched(*disk)).filter(|_| self.handing_over)
    }

    /// The node of a member's disk, by the newest word of it.
    fn node_of(&self, slot: &Slot, disk: u64) -> Option<NodeId> {
        let seated = self.seats.get(&number(slot.shard)).and_then(|seats| seats.node(disk));
        let known = self.routes.get(&disk).copied().or(seated);
        known.or(slot.member.peers().get(&disk).copied()).or(slot.addresses.get(&disk).copied())
    }

    /// Says something to a member of a group.
    fn say(&mut self, group: u64, disk: u64, part: Part) {
        let node = self.slots.get(&group).and_then(|slot| self.node_of(slot, disk));
        if let Some(node) = node {
            self.send(node, part);
        }
    }

    fn send(&mut self, node: NodeId, part: Part) {
        if node != self.node && !self.mute {
            self.parts.entry(node).or_default().push(part);
        }
    }

    /// Takes what the groups made of this step, until nothing more comes of it.
    fn finish(&mut self, state: &mut dyn State) {
        while let Some(group) = self.dirty.pop_first() {
            self.drain(group, state);
            self.trim(group);
            self.part(group, state);
        }
        let speaker = Speaker { disk: self.starts.disk(), nonce: self.starts.nonce() };
        let framed = |parts: BTreeMap<NodeId, Vec<Part>>| {
            let frames = |(node, parts): (NodeId, Vec<Part>)| {
                message::encode(speaker, &parts).into_iter().map(move |frame| (node, frame))
            };
            parts.into_iter().flat_map(frames).collect()
        };
        self.out.sends = framed(std::mem::take(&mut self.parts));
        self.out.bulk = framed(std::mem::take(&mut self.bulk));
        self.out.step = self.steps;
    }

    /// Takes what a group's member made of what it was told.
    fn drain(&mut self, group: u64, state: &mut dyn State) {
        let Some(slot) = self.slots.get_mut(&group).filter(|_| !self.mute) else { return };
        self.questions += 1;
        slot.ask(self.questions, &mut self.out.news);
        let config = slot.member.config_index();
        let drained = slot.member.drain(self.steps, &mut self.out.writes);
        if let Some(index) = drained.installed {
            slot.restart();
            state.install(slot.shard, index, &mut self.out.writes);
            self.out.news.push(News::Installed { group: slot.shard, index });
        }
        for (question, index) in drained.readable {
            slot.readable(question, index, &mut self.out.news);
        }
        if let Err(Unreadable) = slot.give(&mut self.out.news) {
            return self.give_up("a log does not read");
        }
        if drained.enrolled && slot.member.config_index() != config {
            self.forget_strangers(group);
        }
        self.tell_leader(group);
        let speaks = self.slots[&group].clearance.is_cleared();
        for message in drained.messages.into_iter().filter(|_| speaks) {
            self.say(group, message.to(), Part::Raft { group, message });
        }
    }

    fn tell_leader(&mut self, group: u64) {
        let slot = &self.slots[&group];
        let node = slot.member.leader().and_then(|disk| self.node_of(slot, disk));
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.tell(node, &mut self.out.news);
        }
    }

    /// What disks promised that are no members any more is of no account.
    fn forget_strangers(&mut self, group: u64) {
        let config = self.slots[&group].member.config().clone();
        for disk in self.routes.keys().filter(|disk| !config.contains(**disk)) {
            self.starts.release(*disk, group);
        }
    }

    /// Drops what nobody needs of a log.
    fn trim(&mut self, group: u64) {
        let limits = self.limits;
        let there = self.others_there(group);
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let member = &mut slot.member;
        let may = slot.compactable.min(member.state());
        let mut needed = may;
        if member.leads() {
            let lacking = there.iter().map(|disk| member.matched(*disk));
            needed = lacking.chain(member.offered().map(|at| at.index)).fold(may, u64::min);
        }
        // Members that lack too much take the state, and the log does not wait for them.
        let until = needed
            .min(may.saturating_sub(limits.trim))
            .max(may.min(member.end().saturating_sub(limits.keep)));
        if until >= member.base() + limits.trim {
            member.compact(until, &mut self.out.writes);
        }
    }

    /// Whether a node is told to own a group: what is to be seen of it.
    pub fn view(&self, group: ShardId) -> Option<View> {
        let slot = self.slots.get(&number(group)).filter(|slot| !slot.is_blank())?;
        let member = &slot.member;
        let leader = member.leader().and_then(|disk| self.node_of(slot, disk));
        Some(View {
            term: member.term(),
            leader,
            leads: member.leads(),
            owns: member.owns(),
            committed: member.committed(),
            end: member.end(),
            base: member.base(),
            bytes: member.bytes(),
            asleep: slot.rest.asleep,
            cleared: slot.clearance.is_cleared(),
            voters: member.config().voters.clone(),
            learners: member.config().learners.clone(),
            is_joint: member.config().is_joint(),
        })
    }
}
