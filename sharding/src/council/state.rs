//! What a council has agreed on: a state machine fed by its log.
//!
//! Commands say what a leader wanted; what they do depends on the state alone, so every member
//! arrives at the same one. A command that no longer fits does nothing.
//!
//! Invariants:
//! 1. A slot that has had a replica keeps one: nothing here empties a current set.
//! 2. A set changes in two records (next, then current), and each raises its epoch; only who
//!    left, was evicted, or came back with another disk is struck out of a set at once.
//! 3. A next set becomes current when each of its new replicas has caught up for it, and has at
//!    least as many replicas as the current one, or as the factor asks for.
//! 4. What is recorded of origins that ended is in `ends`, by the same rules.
//! 5. The version's number rises by one with each change of what is published, and by nothing
//!    else; its epoch when an operator re-forms the council.
//!
//! Left out: who is alive, which is the leader's to judge before it proposes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use atoll_replication::placement::{self, RegionPlacement, Replicas, Version};
use atoll_replication::transport::NodeId;
use atoll_store::dot::Origin;

use super::Roles;
use super::ends::{Ends, Step};

/// Nodes that left and are remembered, so that late news of them does not admit them again.
const LEFT_KEPT: usize = 256;

/// What is set once, when the council is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Replicas of a shard, where there are nodes enough. At least 1.
    pub factor: u16,
    /// Hash slots. At least 1.
    pub slots: u16,
}

/// A node that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    pub(super) name: String,
    pub(super) zone: String,
    /// 0: not known, since the record was recovered from what nodes tell each other.
    pub(super) disk: u64,
    pub(super) roles: Roles,
    /// Orders the admissions: lower is longer.
    pub(super) since: u64,
    /// The start that wants to leave.
    pub(super) leaving: Option<u64>,
    /// Evicted, and kept only because it holds the last replica of some slot.
    pub(super) evicted: bool,
}

impl Seat {
    /// Whether it is to keep what it holds.
    pub(super) fn stays(&self) -> bool {
        self.leaving.is_none() && !self.evicted
    }
}

/// A slot's replicas, and who of those that join has caught up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) replicas: Replicas,
    pub(super) caught: BTreeSet<NodeId>,
}

impl Slot {
    /// Who is to join, and has not caught up yet.
    pub(super) fn joining(&self) -> impl Iterator<Item = NodeId> + '_ {
        let next = self.replicas.next.iter().flatten();
        let new = next.filter(|node| !self.replicas.current.contains(*node));
        new.filter(|node| !self.caught.contains(*node)).copied()
    }

    /// The set that it will have, as far as was decided.
    pub(super) fn intended(&self) -> &BTreeSet<NodeId> {
        self.replicas.next.as_ref().unwrap_or(&self.replicas.current)
    }

    fn names(&self, node: NodeId) -> bool {
        self.replicas.receives(node)
    }

    fn set_next(&mut self, next: BTreeSet<NodeId>) {
        self.caught.retain(|node| next.contains(node));
        match self.replicas.current.is_empty() {
            true => self.replicas.current = next,
            false => self.replicas.next = Some(next),
        }
        self.replicas.epoch = self.replicas.epoch.saturating_add(1);
        self.finish();
    }

    fn cancel(&mut self) {
        self.replicas.next = None;
        self.replicas.epoch = self.replicas.epoch.saturating_add(1);
        self.caught.clear();
    }

    /// Makes the next set current once nobody of it is behind.
    fn finish(&mut self) {
        if self.joining().next().is_some() {
            return;
        }
        if let Some(next) = self.replicas.next.take() {
            self.replicas.struck = self.replicas.struck_after(&next);
            self.replicas.current = next;
            self.replicas.epoch = self.replicas.epoch.saturating_add(1);
            self.caught.clear();
        }
    }

    /// Takes a node out, if that leaves a replica.
    fn strike(&mut self, node: NodeId) {
        let others = self.replicas.current.iter().any(|other| *other != node);
        if !self.names(node) || !others {
            return;
        }
        if self.replicas.current.remove(&node) {
            self.replicas.struck = self.replicas.struck.saturating_add(1);
        }
        self.replicas.epoch = self.replicas.epoch.saturating_add(1);
        self.caught.remove(&node);
        let Some(next) = &mut self.replicas.next else { return };
        next.remove(&node);
        // Without anyone who joins there is no move left to finish.
        if next.is_subset(&self.replicas.current) {
            self.replicas.next = None;
            self.caught.clear();
        } else {
            self.finish();
        }
    }
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Command {
    /// A node belongs to the region; or it has another name, zone, disk or roles than before.
    Admit { node: NodeId, name: String, zone: String, disk: u64, roles: Roles },
    /// It wants to leave, in this start.
    Leave { node: NodeId, start: u64 },
    /// It came back, and does not want to leave any more.
    Stay { node: NodeId },
    /// A slot is to move to another set, if it still has the epoch that this was decided on.
    Next { slot: u16, epoch: u64, next: BTreeSet<NodeId> },
    /// A slot is to stay where it is.
    Cancel { slot: u16, epoch: u64 },
    /// A node that joins a slot's set has all of it.
    CaughtUp { node: NodeId, slot: u16, epoch: u64 },
    /// A node that wanted to leave may go.
    Release { node: NodeId },
    /// A node will not come back.
    Evict { node: NodeId },
    /// An origin that ended came a step further.
    End { origin: Origin, step: Step },
}

/// All that a council has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) region: String,
    pub(super) council: u64,
    pub(super) version: Version,
    pub(super) settings: Settings,
    pub(super) seats: BTreeMap<NodeId, Seat>,
    pub(super) slots: Vec<Slot>,
    admissions: u64,
    /// Starts that left for good, the oldest first.
    left: Vec<(NodeId, u64)>,
    pub(super) ends: Ends,
}

impl State {
    pub(super) fn new(region: &str, council: u64, settings: Settings) -> State {
        State {
            region: region.to_owned(),
            council,
            version: Version { epoch: 1, number: 1 },
            settings,
            seats: BTreeMap::new(),
            slots: vec![Slot::default(); usize::from(settings.slots)],
            admissions: 0,
            left: Vec::new(),
            ends: Ends::default(),
        }
    }

    /// The state of a record that nodes told each other, without what only councils know: disks
    /// and roles, which the members tell again.
    pub(super) fn from_record(record: &RegionPlacement) -> State {
        let slots = u16::try_from(record.slots.len()).unwrap_or(u16::MAX);
        let settings = Settings { factor: record.factor, slots };
        let mut state = State::new(&record.region, record.council, settings);
        state.version = record.version;
        for (node, seat) in &record.nodes {
            state.admit(*node, &seat.name, &seat.zone, seat.disk, Roles::ALL);
        }
        for (slot, replicas) in state.slots.iter_mut().zip(&record.slots) {
            slot.replicas = replicas.clone();
        }
        state.ends = Ends::from_record(record);
        state
    }

    /// Admits who forms the council, and gives it every replica.
    pub(super) fn seat_founder(
        &mut self,
        node: NodeId,
        name: &str,
        zone: &str,
        disk: u64,
        roles: Roles,
    ) {
        self.admit(node, name, zone, disk, roles);
        if roles.replica {
            self.slots.iter_mut().for_each(|slot| slot.set_next([node].into()));
        }
    }

    /// Replicas on their way.
    pub(super) fn moving(&self) -> usize {
        self.slots.iter().map(|slot| slot.joining().count()).sum()
    }

    /// Goes on under the next epoch.
    pub(super) fn reform(&mut self) {
        self.version.epoch = self.version.epoch.saturating_add(1);
        self.version.number = self.version.number.saturating_add(1);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a state encodes to memory")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<State> {
        let state: State = postcard::from_bytes(bytes).ok()?;
        (state.slots.len() == usize::from(state.settings.slots)).then_some(state)
    }

    /// What is published.
    pub(super) fn record(&self) -> RegionPlacement {
        let seat = |(node, seat): (&NodeId, &Seat)| {
            (
                *node,
                placement::Seat {
                    name: seat.name.clone(),
                    zone: seat.zone.clone(),
                    disk: seat.disk,
                },
            )
        };
        let mut record = RegionPlacement {
            region: self.region.clone(),
            council: self.council,
            version: self.version,
            factor: self.settings.factor,
            nodes: self.seats.iter().map(seat).collect(),
            slots: self.slots.iter().map(|slot| slot.replicas.clone()).collect(),
            ..RegionPlacement::default()
        };
        self.ends.publish(&mut record);
        record
    }

    /// How often any set has changed: each change raises one epoch by one.
    pub(super) fn changes(&self) -> u64 {
        self.slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.replicas.epoch))
    }

    /// Whether this start of a node has left for good.
    pub(super) fn has_left(&self, node: NodeId, start: u64) -> bool {
        self.left.contains(&(node, start))
    }

    /// Applies the commands of one entry. What does not read as such does nothing.
    pub(super) fn apply(&mut self, entry: &[u8]) {
        let Ok(commands) = postcard::from_bytes::<Vec<Command>>(entry) else { return };
        let before = self.record();
        for command in commands {
            self.obey(command);
        }
        self.dismiss();
        if self.record() != before {
            self.version.number = self.version.number.saturating_add(1);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Admit { node, name, zone, disk, roles } => {
                self.admit(node, &name, &zone, disk, roles);
            }
            Command::Leave { node, start } => self.with_seat(node, |s| s.leaving = Some(start)),
            Command::Stay { node } => self.with_seat(node, |seat| seat.leaving = None),
            Command::Next { slot, epoch, next } => self.next(slot, epoch, next),
            Command::Cancel { slot, epoch } => {
                if let Some(slot) = self.slot_at(slot, epoch)
                    && slot.replicas.next.is_some()
                {
                    slot.cancel();
                }
            }
            Command::CaughtUp { node, slot, epoch } => {
                if let Some(slot) = self.slot_at(slot, epoch)
                    && slot.joining().any(|joins| joins == node)
                {
                    slot.caught.insert(node);
                    slot.finish();
                }
            }
            Command::Release { node } => self.release(node),
            Command::Evict { node } => {
                self.slots.iter_mut().for_each(|slot| slot.strike(node));
                self.with_seat(node, |seat| seat.evicted = true);
            }
            Command::End { origin, step } => {
                let changes = self.changes();
                self.ends.take(origin, step, changes);
            }
        }
    }

    fn admit(&mut self, node: NodeId, name: &str, zone: &str, disk: u64, roles: Roles) {
        let known = self.seats.get(&node);
        let emptied = known.is_some_and(|seat| seat.disk != 0 && seat.disk != disk);
        let (since, leaving) = known.map_or((self.admissions, None), |s| (s.since, s.leaving));
        self.admissions = self.admissions.saturating_add(1);
        let (name, zone) = (name.to_owned(), zone.to_owned());
        let seat = Seat { name, zone, disk, roles, since, leaving, evicted: false };
        self.seats.insert(node, seat);
        self.ends.welcome(node);
        // Another disk has nothing, or what an older copy had: it joins again, as a newcomer.
        if emptied {
            self.slots.iter_mut().for_each(|slot| slot.strike(node));
        }
    }

    fn with_seat(&mut self, node: NodeId, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.seats.get_mut(&node) {
            change(seat);
        }
    }

    /// A slot, if it has the epoch that something was decided on.
    fn slot_at(&mut self, slot: u16, epoch: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(slot))?;
        (slot.replicas.epoch == epoch).then_some(slot)
    }

    fn next(&mut self, slot: u16, epoch: u64, next: BTreeSet<NodeId>) {
        let may = |node: &NodeId| {
            self.seats.get(node).is_some_and(|seat| seat.roles.replica && seat.stays())
        };
        let factor = usize::from(self.settings.factor);
        let new = |current: &BTreeSet<NodeId>| {
            let joins = |node: &&NodeId| !current.contains(*node);
            next.iter().any(|node| joins(&node)) && next.iter().filter(joins).all(may)
        };
        let Some(found) = self.slots.get(usize::from(slot)) else { return };
        let current = &found.replicas.current;
        let fits = new(current) && next.len() >= current.len().min(factor);
        if let Some(slot) = self.slot_at(slot, epoch).filter(|_| fits) {
            slot.set_next(next);
        }
    }

    /// Lets go of a node that wants to leave, unless it holds the last replica of some slot.
    fn release(&mut self, node: NodeId) {
        let last = |slot: &Slot| slot.replicas.current.iter().all(|other| *other == node);
        let bound = |slot: &Slot| slot.names(node) && last(slot);
        let leaving = self.seats.get(&node).and_then(|seat| seat.leaving);
        if let Some(start) = leaving.filter(|_| !self.slots.iter().any(bound)) {
            self.slots.iter_mut().for_each(|slot| slot.strike(node));
            self.seats.remove(&node);
            self.ends.see_off(node);
            self.left.push((node, start));
            let excess = self.left.len().saturating_sub(LEFT_KEPT);
            self.left.drain(..excess);
        }
    }

    /// Forgets who was evicted, once no set names it any more.
    fn dismiss(&mut self) {
        let slots = &self.slots;
        let held = |node: NodeId| slots.iter().any(|slot| slot.names(node));
        let over = |(node, seat): (&NodeId, &Seat)| (seat.evicted && !held(*node)).then_some(*node);
        for node in self.seats.iter().filter_map(over).collect::<Vec<_>>() {
            self.seats.remove(&node);
            self.ends.see_off(node);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);
    const C: NodeId = NodeId([3; 16]);

    /// Slots of one replica each, at A; B and C are admitted.
    fn state() -> State {
        let mut state = State::new("eu", 1, Settings { factor: 2, slots: 2 });
        state.seat_founder(A, "a", "z", 1, Roles::ALL);
        state.admit(B, "b", "z", 2, Roles::ALL);
        state.admit(C, "c", "z", 3, Roles::ALL);
        state
    }

    /// Applies one command; answers whether that changed what is published.
    fn apply(state: &mut State, command: Command) -> bool {
        let before = state.version.number;
        state.apply(&postcard::to_stdvec(&vec![command]).unwrap());
        assert!(state.version.number - before <= 1, "by one");
        state.version.number > before
    }

    fn next(slot: u16, epoch: u64, next: &[NodeId]) -> Command {
        Command::Next { slot, epoch, next: next.iter().copied().collect() }
    }

    fn sets(state: &State) -> (Vec<NodeId>, Option<Vec<NodeId>>, u64) {
        let Replicas { epoch, current, next, .. } = &state.slots[0].replicas;
        let list = |set: &BTreeSet<NodeId>| set.iter().copied().collect();
        (list(current), next.as_ref().map(list), *epoch)
    }

    #[test]
    fn r12_a_set_changes_in_two_records_and_each_raises_its_epoch() {
        let mut state = state();
        assert!(!apply(&mut state, next(0, 2, &[A, B])), "decided on another epoch");
        assert!(apply(&mut state, next(0, 1, &[A, B])));
        assert_eq!(sets(&state), (vec![A], Some(vec![A, B]), 2));
        let caught_up = |node, epoch| Command::CaughtUp { node, slot: 0, epoch };
        assert!(!apply(&mut state, caught_up(B, 1)), "for an earlier set");
        assert!(!apply(&mut state, caught_up(C, 2)), "not of this set");
        assert!(apply(&mut state, caught_up(B, 2)));
        assert_eq!(sets(&state), (vec![A, B], None, 3));
        assert!(!apply(&mut state, caught_up(B, 2)), "again");
    }

    #[test]
    fn r12_a_set_gets_no_smaller_by_a_move() {
        let mut state = state();
        apply(&mut state, next(0, 1, &[A, B]));
        apply(&mut state, Command::CaughtUp { node: B, slot: 0, epoch: 2 });
        assert!(!apply(&mut state, next(0, 3, &[C])), "one of two");
        assert!(!apply(&mut state, next(0, 3, &[A])), "nobody joins");
        assert!(!apply(&mut state, next(0, 3, &[A, NodeId([9; 16])])), "not admitted");
        assert!(apply(&mut state, next(0, 3, &[B, C])));
        assert!(apply(&mut state, Command::Cancel { slot: 0, epoch: 4 }));
        assert_eq!(sets(&state), (vec![A, B], None, 5));
    }

    #[test]
    fn the_last_replica_neither_leaves_nor_is_struck_out() {
        let mut state = state();
        apply(&mut state, Command::Leave { node: A, start: 5 });
        assert!(!apply(&mut state, Command::Release { node: A }));
        assert!(!apply(&mut state, Command::Evict { node: A }), "kept, for what it holds");
        assert!(state.seats[&A].evicted);
        for slot in 0..2 {
            apply(&mut state, next(slot, 1, &[B]));
            assert_eq!(state.slots[usize::from(slot)].replicas.current, [A].into());
            apply(&mut state, Command::CaughtUp { node: B, slot, epoch: 2 });
        }
        assert!(!state.seats.contains_key(&A), "it holds nothing any more");
        assert_eq!(state.record().gone, [A].into(), "what it wrote last ends");
        let (name, zone, roles) = ("a".to_owned(), "z".to_owned(), Roles::ALL);
        apply(&mut state, Command::Admit { node: A, name, zone, disk: 1, roles });
        assert_eq!(state.record().gone, [].into());
    }

    #[test]
    fn a_node_with_another_disk_has_to_catch_up_again() {
        let mut state = state();
        apply(&mut state, next(0, 1, &[A, B]));
        apply(&mut state, Command::CaughtUp { node: B, slot: 0, epoch: 2 });
        let (name, zone, roles) = ("a".to_owned(), "z".to_owned(), Roles::ALL);
        assert!(apply(&mut state, Command::Admit { node: A, name, zone, disk: 9, roles }));
        assert_eq!(sets(&state), (vec![B], None, 4));
        assert_eq!(state.slots[1].replicas.current, [A].into(), "nobody else has the other slot");
    }

    #[test]
    fn who_left_is_remembered_and_who_joined_with_it_goes_on() {
        let mut state = state();
        apply(&mut state, next(0, 1, &[B, C]));
        apply(&mut state, Command::CaughtUp { node: B, slot: 0, epoch: 2 });
        apply(&mut state, Command::Evict { node: C });
        assert_eq!(sets(&state), (vec![B], None, 4), "B had caught up, and nobody else joins");
        for slot in [0, 1] {
            let epoch = state.slots[slot].replicas.epoch;
            let number = slot as u16;
            apply(&mut state, next(number, epoch, &[A, B]));
            for node in [A, B] {
                apply(&mut state, Command::CaughtUp { node, slot: number, epoch: epoch + 1 });
            }
        }
        apply(&mut state, Command::Leave { node: A, start: 5 });
        assert!(apply(&mut state, Command::Release { node: A }));
        assert!(state.has_left(A, 5) && !state.has_left(A, 6));
        assert_eq!(state.record().gone, [A, C].into());
        assert!(state.slots.iter().all(|slot| slot.replicas.current == [B].into()));
    }

    #[test]
    fn what_no_command_is_does_nothing_and_a_state_reads_as_written() {
        let mut state = state();
        apply(&mut state, Command::Evict { node: C });
        let changes = state.changes();
        let steps = [
            Step::Ended(["eu".to_owned()].into()),
            Step::Agreed { changes, finals: [(1, 3)].into() },
        ];
        for step in steps {
            assert!(apply(&mut state, Command::End { origin: Origin(7), step }), "published");
        }
        let before = state.clone();
        state.apply(b"\xff\xff\xff\xff");
        state.apply(b"");
        assert_eq!(state, before);
        assert_eq!(State::decode(&state.encode()), Some(before.clone()));
        assert_eq!(State::decode(&state.encode()[1..]), None);
        let record = state.record();
        assert_eq!((record.gone.len(), record.ended.len(), record.ends.len()), (1, 1, 1));
        assert_eq!(State::from_record(&record).record(), record);
    }
}
