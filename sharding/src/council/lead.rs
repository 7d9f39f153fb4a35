//! What a leader does: it watches who is there, proposes, and tells everyone that it leads.
//!
//! Invariants:
//! 1. A decision is proposed only from a state that holds every earlier one: there is one entry,
//!    or one change of members, under way at a time.
//! 2. For how long a node has been down, every node counts for itself, so a new leader need not
//!    begin to count.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::message::Message;
use super::plan::{Life, Outlook};
use super::voters::{Ballot, Step};
use super::{Council, Liveness, Member};
use crate::raft::{Event, Group};

/// Between notices of the leader to a node.
const NOTICE_MS: Millis = 3_000;
/// Decisions that one step may take after each other. More than one only where nobody else votes.
const DECISIONS: usize = 16;

impl Council {
    /// Counts since when nodes have been down: whoever is recorded, or has begun something, and is
    /// not there.
    pub(super) fn watch(&mut self, now: Millis) {
        if self.members.is_empty() {
            return;
        }
        let here = |member: &&Member| member.liveness != Liveness::Down;
        let here: BTreeSet<NodeId> =
            self.members.values().filter(here).map(|member| member.node).collect();
        let recorded = self.state.iter().flat_map(|state| state.seats.keys().copied());
        let known = recorded.chain(self.strangers.keys().copied());
        let away = known.filter(|node| !here.contains(node) && *node != self.options.node);
        let since = |node: NodeId| (node, self.down.get(&node).map_or(now, |at| now.min(*at)));
        self.down = away.map(since).collect();
    }

    fn lives(&self, now: Millis) -> BTreeMap<NodeId, Life> {
        let limits = self.options.limits;
        let life = |node: &NodeId| {
            if *node == self.options.node {
                return Life::Up;
            }
            if let Some(since) = self.down.get(node) {
                let down = now.saturating_sub(*since);
                return match () {
                    () if down >= limits.forget_after_ms => Life::Lost,
                    () if down >= limits.replace_after_ms => Life::Dead,
                    () => Life::Away,
                };
            }
            match self.members.get(node).map(|member| member.liveness) {
                Some(Liveness::Up | Liveness::Leaving) => Life::Up,
                _ => Life::Away,
            }
        };
        let seats = self.state.iter().flat_map(|state| state.seats.keys());
        seats.map(|node| (*node, life(node))).collect()
    }

    /// Decides what is to be decided, as the leader.
    pub(super) fn lead(&mut self, now: Millis) {
        if !self.leads() {
            self.inbox.clear();
            self.noticed.clear();
            self.gathered.clear();
            self.decided = None;
            return;
        }
        self.tell(now);
        for _ in 0..DECISIONS {
            if !self.decide(now) {
                return;
            }
        }
    }

    /// Proposes what is next. False if there is nothing, or something is under way.
    fn decide(&mut self, now: Millis) -> bool {
        let (Some(group), Some(state)) = (&self.group, &self.state) else { return false };
        if !group.is_settled() || self.members.is_empty() {
            return false;
        }
        let lives = self.lives(now);
        self.gathered.prune(now, state);
        let looked_at = (group.applied(), lives);
        let changed = self.decided.as_ref() != Some(&looked_at) || !self.inbox.is_empty();
        if changed || self.gathered.is_fresh() {
            let outlook = Outlook {
                state,
                members: &self.members,
                lives: &looked_at.1,
                reports: &self.inbox,
                gathered: &self.gathered,
                group: &group.config().members().collect(),
                moves: self.options.limits.moves.max(1),
            };
            // First, while the sets are as they were looked at; and beside the others, so that
            // neither waits for the other.
            let mut commands = outlook.endings();
            if changed {
                commands.extend(outlook.commands());
            }
            self.inbox.clear();
            self.gathered.rest();
            if !commands.is_empty() {
                let entry = postcard::to_stdvec(&commands).expect("commands encode to memory");
                self.propose(now, Event::Propose(entry.into()));
                return true;
            }
        }
        let me = self.starts.disk();
        let ballot = Ballot { state, lives: &looked_at.1, config: group.config(), me };
        let step = ballot.step(|id| group.has_all(id));
        self.decided = Some(looked_at);
        let event = match step {
            None => return false,
            Some(Step::Change(change)) => Event::Change(change),
            Some(Step::Transfer(disk)) => Event::Transfer(disk),
        };
        self.propose(now, event);
        true
    }

    fn propose(&mut self, now: Millis, event: Event) {
        if let Some(group) = &mut self.group {
            let effects = group.step(now, event);
            self.absorb(effects);
        }
    }

    /// Tells every node that is there who leads, and who votes.
    fn tell(&mut self, now: Millis) {
        let here = |member: &&Member| member.liveness != Liveness::Down;
        let due = |node: &NodeId| {
            self.noticed.get(node).is_none_or(|at| now >= at + NOTICE_MS || now < *at)
        };
        let here: BTreeSet<NodeId> =
            self.members.values().filter(here).map(|member| member.node).collect();
        let due: Vec<NodeId> = here.iter().copied().filter(due).collect();
        if due.is_empty() {
            return;
        }
        let Some(group) = self.group.as_ref().filter(|group| Group::leads(group)) else { return };
        let voters = group.config().voters.iter();
        let voters = voters.filter_map(|id| group.peers().get(id).copied()).collect();
        let notice = Message::Notice { leader: self.options.node, voters };
        self.noticed.retain(|node, _| here.contains(node));
        for node in due {
            self.noticed.insert(node, now);
            self.send(node, &notice);
        }
    }
}
