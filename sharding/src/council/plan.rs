//! What the leader of a council wants: whom to admit, where replicas go, who may leave.
//!
//! A pure function of the state and of who is alive. Nothing here is done: it is proposed, and
//! what was recorded counts.
//!
//! Invariants:
//! 1. At most `moves` replicas of the region are on their way; of those that want to be, slots
//!    with too few live replicas come first, then those of nodes that leave, then balance.
//! 2. New replicas are placed on nodes that are up. A node that is away keeps what it holds; one
//!    that has been down for `replace_after` loses it to those who take its place, and only then.
//! 3. No set gets smaller but for a node that leaves or is given up, and then only where another
//!    current replica is alive.
//!
//! Left out: origins that ended (`endings`), and loads of nodes other than numbers of replicas.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;

use super::endings::Gathered;
use super::state::{Command, Seat, Slot, State};
use super::{Liveness, Member, Report};
use crate::placement::{self, Node, Placement, Shape};

/// How a node is, to a leader that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    /// Heard of lately.
    Up,
    /// Not heard of, but not for long.
    Away,
    /// Down for longer than a node is waited for.
    Dead,
    /// Down for so long that it is given up.
    Lost,
}

/// What a decision looks at.
pub(super) struct Outlook<'a> {
    pub(super) state: &'a State,
    pub(super) members: &'a BTreeMap<NodeId, Member>,
    pub(super) lives: &'a BTreeMap<NodeId, Life>,
    /// Reports and requests that arrived.
    pub(super) reports: &'a BTreeSet<Report>,
    /// What nodes told of origins that ended.
    pub(super) gathered: &'a Gathered,
    /// Disks that are members of the Raft group.
    pub(super) group: &'a BTreeSet<u64>,
    /// Replicas on their way at a time, in the region.
    pub(super) moves: usize,
}

impl Outlook<'_> {
    /// What to propose next: first what is known of nodes; when that is recorded, what to move;
    /// when nothing is to be moved, or may be at the moment, who may go.
    pub(super) fn commands(&self) -> Vec<Command> {
        let mut commands = self.news();
        // Placement is worth its while only where something could come of it.
        if commands.is_empty() && !self.is_busy() {
            let desired = self.desired();
            commands = self.moves(&desired);
            if commands.is_empty() {
                commands.extend(self.release(&desired));
            }
        }
        // What is on its way may wait for the dead.
        if commands.is_empty() {
            commands.extend(self.give_up());
        }
        commands
    }

    /// Whether as many replicas are on their way as may be, and all of them can arrive.
    fn is_busy(&self) -> bool {
        let joining = || self.state.slots.iter().flat_map(Slot::joining);
        joining().count() >= self.moves && !joining().any(|node| self.is_lost_to(node))
    }

    fn life(&self, node: NodeId) -> Life {
        self.lives.get(&node).copied().unwrap_or(Life::Away)
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.life(node) == Life::Up
    }

    fn is_dead(&self, node: NodeId) -> bool {
        self.life(node) >= Life::Dead
    }

    fn news(&self) -> Vec<Command> {
        let mut commands: Vec<Command> =
            self.members.values().filter_map(|member| self.news_of(member)).collect();
        commands.extend(self.reports.iter().filter_map(|report| self.reported(report)));
        commands
    }

    fn news_of(&self, member: &Member) -> Option<Command> {
        let node = member.node;
        let Some(seat) = self.state.seats.get(&node) else {
            let new = member.liveness == Liveness::Up && !self.state.has_left(node, member.start);
            return new.then(|| admit(member));
        };
        match member.liveness {
            Liveness::Up if !is_current(seat, member) => Some(admit(member)),
            Liveness::Up if seat.leaving.is_some_and(|start| start != member.start) => {
                Some(Command::Stay { node })
            }
            Liveness::Leaving if seat.leaving != Some(member.start) => {
                Some(Command::Leave { node, start: member.start })
            }
            _ => None,
        }
    }

    fn reported(&self, report: &Report) -> Option<Command> {
        match *report {
            Report::CaughtUp { node, slot, epoch } => {
                let found = self.state.slots.get(usize::from(slot))?;
                let awaited = found.replicas.epoch == epoch && found.joining().any(|n| n == node);
                awaited.then_some(Command::CaughtUp { node, slot, epoch })
            }
            Report::Leave { node, start } => {
                let seat = self.state.seats.get(&node)?;
                (seat.leaving != Some(start)).then_some(Command::Leave { node, start })
            }
            Report::Evict { node } => {
                let seat = self.state.seats.get(&node)?;
                (!self.is_up(node) && !seat.evicted).then_some(Command::Evict { node })
            }
            Report::Ending { .. } => None,
        }
    }

    /// Whether a node may be given replicas, or keep them.
    fn holds(&self, node: NodeId, seat: &Seat) -> bool {
        seat.roles.replica && seat.stays() && !self.is_dead(node)
    }

    /// The sets that the region should have, starting from those that were decided on.
    fn desired(&self) -> Vec<BTreeSet<NodeId>> {
        let region = &self.state.region;
        let nodes: Vec<Node> = (self.state.seats.iter())
            .filter(|(node, seat)| self.holds(**node, seat))
            .map(|(id, s)| Node { id: id.0, region: region.clone(), zone: s.zone.clone() })
            .collect();
        let settings = self.state.settings;
        let shape = Shape { shards: settings.slots, factor: usize::from(settings.factor) };
        let ids = |slot: &Slot| slot.intended().iter().map(|node| node.0).collect();
        let intended = Placement::of_region(region, self.state.slots.iter().map(ids).collect());
        let placement = placement::propose(&nodes, shape, &intended);
        let set = |slot| placement.replicas(region, slot).map(|id| NodeId(*id)).collect();
        (0..settings.slots).map(set).collect()
    }

    fn moves(&self, desired: &[BTreeSet<NodeId>]) -> Vec<Command> {
        let under_way: usize = self.state.slots.iter().map(|slot| slot.joining().count()).sum();
        let mut free = self.moves.saturating_sub(under_way);
        let mut slots: Vec<_> = (0..).zip(self.state.slots.iter().zip(desired)).collect();
        slots.sort_by_key(|(number, (slot, desired))| (self.urgency(slot, desired), *number));
        let mut commands = Vec::new();
        for (number, (slot, desired)) in slots {
            let epoch = slot.replicas.epoch;
            if slot.replicas.next.is_some() {
                if !slot.joining().any(|node| self.is_lost_to(node)) {
                    continue;
                }
                free += slot.joining().count();
            }
            let command = match self.step(slot, desired, free) {
                Some(next) if slot.replicas.next.as_ref() != Some(&next) => {
                    let joins = next.difference(&slot.replicas.current);
                    free -= joins.filter(|node| !slot.caught.contains(*node)).count().min(free);
                    Command::Next { slot: number, epoch, next }
                }
                None if slot.replicas.next.is_some() => Command::Cancel { slot: number, epoch },
                _ => continue,
            };
            commands.push(command);
        }
        commands
    }

    /// Whether a node that was to join will not.
    fn is_lost_to(&self, node: NodeId) -> bool {
        self.state.seats.get(&node).is_none_or(|seat| !self.holds(node, seat))
    }

    /// How soon a slot's turn comes: lower is sooner.
    fn urgency(&self, slot: &Slot, desired: &BTreeSet<NodeId>) -> (u8, usize) {
        let current = &slot.replicas.current;
        let alive = current.iter().filter(|node| !self.is_dead(**node)).count();
        let leaves = |node: &NodeId| self.state.seats.get(node).is_none_or(|seat| !seat.stays());
        match () {
            () if alive < desired.len() => (0, alive),
            () if current.iter().any(leaves) => (1, alive),
            () => (2, alive),
        }
    }

    /// A slot's next set: up to `free` of the nodes that it should have join, and as many go.
    /// `None` if there is nobody to join, or nobody may at the moment.
    fn step(
        &self,
        slot: &Slot,
        desired: &BTreeSet<NodeId>,
        free: usize,
    ) -> Option<BTreeSet<NodeId>> {
        let current = &slot.replicas.current;
        let joins = desired.difference(current).filter(|node| self.is_up(**node));
        let joins: Vec<NodeId> = joins.copied().take(free).collect();
        if joins.is_empty() {
            return None;
        }
        let mut next: BTreeSet<NodeId> = current.iter().copied().chain(joins).collect();
        let mut goes: Vec<NodeId> = current.difference(desired).copied().collect();
        let leaves = |node: &NodeId| self.state.seats.get(node).is_none_or(|seat| !seat.stays());
        goes.sort_by_key(|node| (!self.is_dead(*node), !leaves(node), *node));
        let factor = usize::from(self.state.settings.factor);
        let least = desired.len().max(current.len().min(factor));
        for node in goes {
            if next.len() > least {
                next.remove(&node);
            }
        }
        Some(next)
    }

    /// A node that wanted to leave and holds nothing that could move elsewhere.
    fn release(&self, desired: &[BTreeSet<NodeId>]) -> Option<Command> {
        let spare = |node: NodeId, slot: &Slot, desired: &BTreeSet<NodeId>| {
            let other = |other: &NodeId| {
                *other != node
                    && self.is_up(*other)
                    && self.state.seats.get(other).is_some_and(Seat::stays)
            };
            let current = &slot.replicas.current;
            slot.replicas.next.is_none() && desired.is_subset(current) && current.iter().any(other)
        };
        let may_go = |node: NodeId, seat: &Seat| {
            let slots = self.state.slots.iter().zip(desired);
            let mut held = slots.filter(|(slot, _)| slot.replicas.receives(node));
            seat.leaving.is_some()
                && !self.group.contains(&seat.disk)
                && held.all(|(slot, desired)| spare(node, slot, desired))
        };
        let mut seats = self.state.seats.iter();
        let (node, _) = seats.find(|(node, seat)| may_go(**node, seat))?;
        Some(Command::Release { node: *node })
    }

    /// A node that has been down for too long to be waited for, and whose slots have others.
    fn give_up(&self) -> Option<Command> {
        let other = |node: NodeId, slot: &Slot| {
            let mut current = slot.replicas.current.iter();
            !slot.replicas.current.contains(&node)
                || current.any(|other| *other != node && !self.is_dead(*other))
        };
        let lost = |node: NodeId, seat: &Seat| {
            self.life(node) == Life::Lost
                && !seat.evicted
                && self.state.slots.iter().all(|slot| other(node, slot))
        };
        let mut seats = self.state.seats.iter();
        let (node, _) = seats.find(|(node, seat)| lost(**node, seat))?;
        Some(Command::Evict { node: *node })
    }
}

fn admit(member: &Member) -> Command {
    Command::Admit {
        node: member.node,
        name: member.name.clone(),
        zone: member.zone.clone(),
        disk: member.disk,
        roles: member.roles,
    }
}

/// Whether a seat says what the member says.
fn is_current(seat: &Seat, member: &Member) -> bool {
    seat.name == member.name
        && seat.zone == member.zone
        && seat.disk == member.disk
        && seat.roles == member.roles
        && !seat.evicted
}
