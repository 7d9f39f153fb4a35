//! Groups without traffic sleep: no ticks, no heartbeats, no timers.
//!
//! A leader to whom nothing happened for a while tells the members that are there to sleep, and
//! sleeps once they have answered. Whoever sleeps keeps term, vote and log, and knows who leads.
//!
//! Invariants:
//! 1. A member goes to sleep only where its log ends at the leader's, all of it committed: there
//!    is nothing that it would have to be told.
//! 2. Sleep changes no promise. A leader that sleeps answers no read and commits nothing without a
//!    majority, like any other; it holds no lease, and neither do those that follow it.
//! 3. Members wake on traffic, on the word that a node is gone, back or started anew, and when
//!    asked. Who is awake and hears nothing of its leader wakes it before it asks for votes.
//! 4. Who is not there is not waited for; when it is back, the leader wakes.

use std::collections::BTreeSet;

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::message::Part;
use super::slot::Slot;
use super::{Groups, TICK_MS};
use crate::raft::OWNER_TICKS;

/// Ticks without anything new after which a leader wants to sleep.
const QUIET_TICKS: u32 = 10;
/// Ticks for which a leader tries to send everyone to sleep, and between its words.
const DROWSY_TICKS: u32 = 20;
const AGAIN_TICKS: u32 = 4;
/// Ticks that it waits after it failed.
const PATIENCE_TICKS: u32 = 100;
/// Ticks without a word of the leader after which it is woken.
const SILENT_TICKS: u32 = OWNER_TICKS as u32 / 2;

/// What a member's rest looks at: while that changes, it is awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pulse {
    term: u64,
    end: u64,
    given: u64,
    config: u64,
    leads: bool,
}

/// Whether a member is awake.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) asleep: bool,
    pulse: Pulse,
    /// Ticks without a change.
    quiet: u32,
    /// Ticks since the leader began to send everyone to sleep, and who sleeps.
    drowsy: Option<(u32, BTreeSet<u64>)>,
    /// Ticks until it may try again.
    patience: u32,
    /// Ticks since a word of the leader.
    pub(super) silent: u32,
}

impl Rest {
    pub(super) fn rouse(&mut self) {
        (self.asleep, self.quiet, self.drowsy, self.silent) = (false, 0, None, 0);
    }
}

fn pulse(slot: &Slot) -> Pulse {
    let member = &slot.member;
    Pulse {
        term: member.term(),
        end: member.end(),
        given: member.given(),
        config: member.config_index(),
        leads: member.leads(),
    }
}

impl Groups {
    /// Wakes a group, if it sleeps here; its leader tells everyone that it leads.
    pub(super) fn wake(&mut self, group: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let tired = slot.rest.asleep || slot.rest.drowsy.is_some();
        slot.rest.rouse();
        if tired {
            slot.member.wake();
            self.dirty.insert(group);
        }
    }

    /// One tick of a group that is awake and may speak.
    pub(super) fn tick_slot(&mut self, group: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let now = pulse(slot);
        let busy = slot.is_busy() || slot.taking.is_some() || slot.astray;
        slot.rest.quiet = if busy || now != slot.rest.pulse { 0 } else { slot.rest.quiet + 1 };
        slot.rest.pulse = now;
        slot.rest.patience = slot.rest.patience.saturating_sub(1);
        slot.rest.silent += 1;
        self.dirty.insert(group);
        if self.tire(group) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&group) else { return };
        slot.member.tick();
        let (silent, leader) = (slot.rest.silent, slot.member.leader());
        if let (Some(leader), false) = (leader, slot.member.leads())
            && silent.is_multiple_of(SILENT_TICKS)
        {
            self.say(group, leader, Part::Wake { group });
        }
    }

    /// Whether a leader sleeps, or is about to: then it does not tick.
    fn tire(&mut self, group: u64) -> bool {
        let others = self.others_there(group);
        let Some(slot) = self.slots.get_mut(&group) else { return true };
        if !slot.member.leads() || slot.rest.quiet == 0 {
            slot.rest.drowsy = None;
        }
        if slot.rest.drowsy.is_none() {
            let ready = slot.rest.quiet >= QUIET_TICKS && slot.rest.patience == 0;
            if !ready || !self.may_sleep(group, &others) {
                return false;
            }
        }
        let Some(slot) = self.slots.get_mut(&group) else { return true };
        let (ticks, slept) = slot.rest.drowsy.get_or_insert_default();
        let awake: Vec<u64> = others.difference(slept).copied().collect();
        let again = ticks.is_multiple_of(AGAIN_TICKS);
        *ticks += 1;
        if awake.is_empty() {
            slot.rest.drowsy = None;
            slot.rest.asleep = true;
            slot.member.shrink();
            return true;
        }
        if *ticks > DROWSY_TICKS {
            self.wake(group);
            self.slots.get_mut(&group).expect("it was there").rest.patience = PATIENCE_TICKS;
            return false;
        }
        let (term, index) = (slot.member.term(), slot.member.end());
        for disk in awake.into_iter().filter(|_| again) {
            self.say(group, disk, Part::Sleep { group, term, index });
        }
        true
    }

    /// The other members on nodes that are there.
    pub(super) fn others_there(&self, group: u64) -> BTreeSet<u64> {
        let Some(slot) = self.slots.get(&group) else { return BTreeSet::new() };
        let me = self.starts.disk();
        let there =
            |disk: &u64| self.node_of(slot, *disk).is_some_and(|node| self.live.contains(&node));
        slot.member.config().members().filter(|disk| *disk != me).filter(there).collect()
    }

    fn may_sleep(&self, group: u64, others: &BTreeSet<u64>) -> bool {
        let Some(slot) = self.slots.get(&group) else { return false };
        let (member, me) = (&slot.member, self.starts.disk());
        let level = |disk: u64| disk == me || member.is_level(disk);
        member.owns()
            && member.is_even()
            && !member.is_handing_over()
            && !member.is_changing()
            && !self.handing_over
            && self.next_step(slot).is_none()
            && others.iter().all(|disk| level(*disk))
            && member.config().is_majority(level)
    }

    /// The leader wants this member to sleep.
    pub(super) fn sleep(&mut self, group: u64, from: u64, term: u64, index: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let member = &slot.member;
        let follows = !member.leads() && member.leader() == Some(from) && member.term() == term;
        let even = member.is_even() && member.end() == index;
        if !follows || !even || slot.is_busy() || slot.taking.is_some() || slot.astray {
            return;
        }
        slot.rest.asleep = true;
        slot.member.shrink();
        self.say(group, from, Part::Slept { group, term, index });
    }

    /// A member sleeps.
    pub(super) fn slept(&mut self, group: u64, from: u64, term: u64, index: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let same = slot.member.leads() && (slot.member.term(), slot.member.end()) == (term, index);
        if let Some((_, slept)) = slot.rest.drowsy.as_mut().filter(|_| same) {
            slept.insert(from);
        }
    }

    /// Other nodes are there now than before.
    pub(super) fn look(&mut self, live: BTreeSet<NodeId>) {
        let before = std::mem::replace(&mut self.live, live);
        let changed: BTreeSet<_> = before.symmetric_difference(&self.live).copied().collect();
        let groups: Vec<u64> = self.slots.keys().copied().collect();
        for group in groups {
            let slot = &self.slots[&group];
            let of = |disk: u64| self.node_of(slot, disk).filter(|node| changed.contains(node));
            let touched = slot.member.config().members().any(|disk| of(disk).is_some());
            let gone = slot.member.leader().and_then(of).filter(|node| !self.live.contains(node));
            match gone {
                Some(_) if !slot.member.leads() => self.lose_leader(group),
                _ if slot.member.leads() && touched => self.wake(group),
                _ => {}
            }
        }
    }

    /// The leader of a group is gone, or has started anew. Who slept has to find another.
    pub(super) fn lose_leader(&mut self, group: u64) {
        let me = self.starts.disk();
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let config = slot.member.config();
        let votes = config.voters.contains(&me) || config.outgoing.contains(&me);
        if slot.rest.asleep && votes {
            slot.rest.rouse();
            slot.member.hasten();
            self.dirty.insert(group);
        }
    }

    /// A node has started anew, with this disk: it knows nothing of who leads, and may have led.
    pub(super) fn restarted(&mut self, node: NodeId, disk: u64) {
        for group in self.slots.keys().copied().collect::<Vec<_>>() {
            let slot = &self.slots[&group];
            let there = |disk: u64| self.node_of(slot, disk) == Some(node);
            if slot.member.leads() {
                if slot.member.config().contains(disk) {
                    self.wake(group);
                }
            } else if slot.member.leader().is_some_and(there) {
                self.lose_leader(group);
            }
        }
    }

    /// Somebody asks for a group to be awake: its owner does not answer, or hears nothing.
    pub(super) fn ask_to_wake(&mut self, group: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let (leads, leader) = (slot.member.leads(), slot.member.leader());
        slot.rest.rouse();
        slot.member.wake();
        self.dirty.insert(group);
        if let Some(leader) = leader.filter(|_| !leads) {
            self.say(group, leader, Part::Wake { group });
        }
    }

    /// When the next tick is due; `None` while everything sleeps.
    pub(super) fn next_tick(&self) -> Option<Millis> {
        let ticks = |slot: &Slot| !slot.is_blank() && !slot.rest.asleep;
        let due = self.ticked.map_or(0, |ticked| ticked + TICK_MS);
        self.slots.values().any(ticks).then_some(due)
    }
}
