//! Between nodes that share groups: whose start is recognised, and who is still a member.
//!
//! Starts and disks are those of [`crate::raft::starts`], one handshake for all groups of two
//! nodes: a start tells its list and what it woke up with in each group, and hears which groups
//! the other knows. Whether it may speak is decided for each group by itself.
//!
//! Invariants:
//! 1. (R13) A message of a group is read only from a start that was recognised here, by a member
//!    whose own start was recognised by a majority of that group.
//! 2. Whoever finds its disk stale says nothing more under its id.
//! 3. Every question is asked again until it is answered or without object.
//! 4. Who is not cleared greets; who is answers those who ask. So rest is silent.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::message::{self, Part, Roll, Speaker};
use super::slot::{Slot, shard};
use super::{Groups, MemberMessage, News, State};
use crate::raft::Member;
use crate::raft::starts::{Clearance, Disk, Hello};

/// Between greetings of a node that has not answered.
const GREET_MS: Millis = 500;
/// Ticks between questions of a node that may be no member any more.
const ASTRAY_TICKS: u64 = 10;
/// Disks whose nodes are remembered; far more than members.
const ROUTES_MAX: usize = 4096;
/// Groups that are told of in one answer.
const ROLLS_MAX: usize = 4096;

impl Groups {
    pub(super) fn receive(
        &mut self,
        now: Millis,
        from: NodeId,
        frame: &[u8],
        state: &mut dyn State,
    ) {
        let Some((speaker, parts)) = message::decode(frame) else { return };
        if self.mute || from == self.node {
            return;
        }
        let mut unknown = false;
        for part in parts {
            match part {
                Part::Hello(hello) => self.greeted_by(now, from, &hello),
                Part::Answer { nonce, stale, rolls } => {
                    if nonce == self.starts.nonce() {
                        self.answered(speaker.disk, stale);
                        self.learn(rolls, state);
                    }
                }
                Part::Who => self.hello(now, from, 0),
                part if self.starts.knows(from, speaker.disk, speaker.nonce) => {
                    self.hear(now, from, speaker, part, state);
                }
                _ => unknown = true,
            }
        }
        if unknown {
            self.send(from, Part::Who);
        }
    }

    /// Another node's start.
    fn greeted_by(&mut self, now: Millis, from: NodeId, hello: &Hello) {
        let Some(nonce) = hello.nonce() else { return };
        let new = !self.starts.knows(from, hello.disk, nonce);
        // A second disk with this one's id is a copy of it, or this one is.
        let copy = hello.disk == self.starts.disk();
        let known = !copy && self.starts.recognise(from, hello, &mut self.out.writes);
        let rolls = self.rolls_for(hello);
        self.send(from, Part::Answer { nonce, stale: !known, rolls });
        if !known {
            return;
        }
        if self.routes.len() > ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(hello.disk, from);
        let in_use: BTreeSet<u64> =
            self.slots.values().flat_map(|slot| slot.member.config().members()).collect();
        self.starts.prune(|disk| in_use.contains(&disk), &mut self.out.writes);
        if new {
            self.restarted(from, hello.disk);
        }
        if !self.answered.contains(&hello.disk) {
            self.hello(now, from, GREET_MS);
        }
    }

    /// Who is in the groups that a start has named, and in those that it is to be in.
    fn rolls_for(&self, hello: &Hello) -> Vec<Roll> {
        let shared = self.slots.iter().filter(|(group, slot)| {
            hello.promised.contains_key(group) || slot.member.config().contains(hello.disk)
        });
        shared.filter_map(|(_, slot)| slot.roll()).take(ROLLS_MAX).collect()
    }

    fn answered(&mut self, by: u64, stale: bool) {
        if stale {
            return self.give_up("a peer has seen a later start, or a later promise");
        }
        self.answered.insert(by);
        self.slots.values_mut().for_each(|slot| slot.clearance.answer(by));
    }

    /// Who others say is in groups.
    fn learn(&mut self, rolls: Vec<Roll>, state: &mut dyn State) {
        for roll in rolls {
            let Some(slot) = self.slots.get_mut(&roll.group) else { continue };
            let me = self.starts.disk();
            let within = roll.config.contains(me);
            let named = self.seats.get(&roll.group).is_some_and(|seats| seats.node(me).is_some());
            // Who has left a group has no business with it.
            if slot.member.config().voters.is_empty() && !(within && named) {
                continue;
            }
            slot.clearance.learn(roll.index, &roll.config);
            slot.addresses.extend(roll.peers.iter().map(|(disk, node)| (*disk, *node)));
            // What this disk has acknowledged as a member must not be forgotten. All of it is
            // behind what was committed without this member: if it is to be one again, that is
            // decided later in the log.
            if !within && slot.astray && slot.member.is_behind(roll.until) {
                self.leave(roll.group, state);
            }
        }
    }

    /// Tells a node of this start, unless it was told less than `pause` ago.
    fn hello(&mut self, now: Millis, to: NodeId, pause: Millis) {
        if self.greeted.get(&to).is_some_and(|at| now < at.saturating_add(pause) && now >= *at) {
            return;
        }
        self.greeted.insert(to, now);
        let promised = |(group, slot): (&u64, &Slot)| (*group, slot.woke);
        let hello = self.starts.hello(self.slots.iter().map(promised).collect());
        self.send(to, Part::Hello(hello));
    }

    /// Tells members of groups in which this start may not speak yet of it.
    pub(super) fn greet(&mut self, now: Millis) {
        let me = self.starts.disk();
        let mut silent = BTreeSet::new();
        for slot in self.slots.values().filter(|slot| !slot.clearance.is_cleared()) {
            let members = slot.member.peers().keys().chain(slot.addresses.keys());
            let others = members.filter(|disk| **disk != me && !self.answered.contains(*disk));
            silent.extend(others.filter_map(|disk| self.node_of(slot, *disk)));
        }
        silent.into_iter().for_each(|node| self.hello(now, node, GREET_MS));
    }

    /// Looks in which groups this start may speak.
    pub(super) fn clear(&mut self, now: Millis) {
        let me = self.starts.disk();
        for (group, slot) in &mut self.slots {
            if slot.clearance.is_cleared() {
                continue;
            }
            let config = slot.member.config();
            if !config.voters.is_empty() {
                slot.clearance.learn(slot.member.config_index(), config);
            }
            if !slot.clearance.check(now, me) {
                continue;
            }
            slot.rest.rouse();
            self.dirty.insert(*group);
            // Who votes alone need not wait for anyone.
            if !config.is_joint() && config.voters.iter().eq([&me]) {
                slot.member.campaign();
            }
        }
    }

    fn hear(
        &mut self,
        now: Millis,
        from: NodeId,
        speaker: Speaker,
        part: Part,
        state: &mut dyn State,
    ) {
        match part {
            Part::Raft { group, message } => {
                self.hear_member(now, from, speaker, group, message, state);
            }
            Part::Sleep { group, term, index } => self.sleep(group, speaker.disk, term, index),
            Part::Slept { group, term, index } => self.slept(group, speaker.disk, term, index),
            Part::Wake { group } => self.wake(group),
            Part::Want { group, at, after } => {
                self.wanted(from, speaker.disk, group, at, after, state);
            }
            Part::Chunk { group, at, after, chunk } => self.take(group, at, &after, chunk, state),
            Part::Ask { groups } => {
                let known = groups.iter().take(ROLLS_MAX).filter_map(|group| self.slots.get(group));
                let rolls = known.filter_map(Slot::roll).collect();
                self.send(from, Part::Rolls(rolls));
            }
            Part::Rolls(rolls) => self.learn(rolls, state),
            Part::Hello(_) | Part::Answer { .. } | Part::Who => {}
        }
    }

    fn hear_member(
        &mut self,
        now: Millis,
        from: NodeId,
        speaker: Speaker,
        group: u64,
        message: MemberMessage,
        state: &mut dyn State,
    ) {
        let me = self.starts.disk();
        if message.from() != speaker.disk || message.to() != me || !self.enter(group) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&group) else { return };
        if !slot.clearance.is_cleared() {
            return match self.answered.contains(&speaker.disk) {
                true => self.send(from, Part::Ask { groups: vec![group] }),
                false => self.hello(now, from, GREET_MS),
            };
        }
        if slot.member.is_contradicted_by(&message) {
            return self.give_up("a leader knows of a longer log");
        }
        if slot.member.is_overrated_by(&message) {
            slot.member.refuse();
            self.dirty.insert(group);
            return;
        }
        let member = slot.member.config().contains(speaker.disk);
        if let Some(promise) = message.promise().filter(|_| member) {
            self.starts.notice(speaker.disk, group, promise);
        }
        if slot.rest.asleep && message.rouses(slot.member.leads()) {
            slot.member.forgo_lease(&message);
            self.wake(group);
        }
        let Some(slot) = self.slots.get_mut(&group) else { return };
        if message.is_leaders() && message.term() >= slot.member.term() {
            slot.rest.silent = 0;
        }
        if let Some(at) = slot.member.needs(&message) {
            return self.offered(from, group, at, message, state);
        }
        slot.member.receive(message);
        self.dirty.insert(group);
        // What a member that does not lead holds back must be on its way before the next message.
        if !slot.member.leads() {
            self.drain(group, state);
        }
    }

    /// Whether there is a group of this number; a new one is entered as a member that knows
    /// nothing.
    fn enter(&mut self, group: u64) -> bool {
        if self.slots.contains_key(&group) {
            return true;
        }
        let (true, Some(shard)) = (self.seats.contains_key(&group), shard(group)) else {
            return false;
        };
        let loaded = Member::load(self.backend.clone(), self.name(group), 0);
        let Ok(member) = loaded else { return false };
        let mut clearance = Clearance::default();
        self.answered.iter().for_each(|disk| clearance.answer(*disk));
        self.slots.insert(group, Slot::new(shard, member, clearance));
        true
    }

    /// This disk must not speak under its id any more.
    pub(super) fn give_up(&mut self, why: &'static str) {
        self.mute = true;
        self.out.stale = Some(why);
        self.parts.clear();
        self.bulk.clear();
    }

    /// Begins anew, as an empty disk.
    pub(super) fn begin_anew(&mut self, disk: Disk, state: &mut dyn State) {
        let stored = Member::groups(&*self.backend).unwrap_or_default();
        let groups: BTreeSet<u64> = self.slots.keys().copied().chain(stored).collect();
        for group in groups {
            // What is on its way to the disk is deleted by the member that wrote it.
            if let Some(slot) = self.slots.remove(&group) {
                slot.member.leave(&mut self.out.writes);
            }
            // What is left behind is of another disk, and is not read.
            let _ = Member::forget(&*self.backend, group, &mut self.out.writes);
            let Some(shard) = shard(group) else { continue };
            state.leave(shard, &mut self.out.writes);
            self.out.news.push(News::Left { group: shard });
        }
        self.dirty.clear();
        self.starts.adopt(disk);
        self.answered.clear();
        self.greeted.clear();
        self.mute = false;
    }
}

/// Groups that this node is to be in no more.
impl Groups {
    /// Notices whether the record still names this disk in a group.
    pub(super) fn look_astray(&mut self, group: u64, state: &mut dyn State) {
        let me = self.starts.disk();
        let named = self.seats.get(&group).is_none_or(|seats| seats.node(me).is_some());
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let member = !slot.member.config().voters.is_empty();
        slot.astray = !named && member;
        if !named && !member {
            slot.addresses.clear();
        }
        if slot.astray {
            slot.rest.rouse();
            self.part(group, state);
        }
    }

    /// Leaves a group whose own log says that this disk is no member any more.
    pub(super) fn part(&mut self, group: u64, state: &mut dyn State) {
        let me = self.starts.disk();
        let Some(slot) = self.slots.get(&group) else { return };
        let config = slot.member.config();
        let out = !config.voters.is_empty() && !config.contains(me);
        let behind = slot.member.is_behind(slot.member.reached());
        if slot.astray && out && behind && !slot.member.leads() {
            self.leave(group, state);
        }
    }

    /// Asks those who should be in a group whether this disk still is.
    pub(super) fn ask_astray(&mut self) {
        self.astray_ticks += 1;
        if !self.astray_ticks.is_multiple_of(ASTRAY_TICKS) {
            return;
        }
        let mut asks: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
        for (group, _) in self.slots.iter().filter(|(_, slot)| slot.astray) {
            let seats = self.seats.get(group);
            for node in seats.iter().flat_map(|seats| seats.voters.values()) {
                asks.entry(*node).or_default().push(*group);
            }
        }
        for (node, groups) in asks {
            self.send(node, Part::Ask { groups });
        }
    }

    fn leave(&mut self, group: u64, state: &mut dyn State) {
        let Some(Slot { shard, member, .. }) = self.slots.remove(&group) else { return };
        let blank = member.leave(&mut self.out.writes);
        state.leave(shard, &mut self.out.writes);
        self.out.news.push(News::Left { group: shard });
        self.starts.leave(group);
        let mut clearance = Clearance::default();
        self.answered.iter().for_each(|disk| clearance.answer(*disk));
        self.slots.insert(group, Slot::new(shard, blank, clearance));
    }
}
