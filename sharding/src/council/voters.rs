//! Who votes in a council, and the next step towards it.
//!
//! One voter in a region of one or two nodes, three from three on, five from seven on. Two voters
//! stop when either is lost, where one stops only when that one is; the other node is a learner,
//! so that its copy of the log is there to recover from. Five bear two losses at once, or one
//! beside a restart; a council is not on the way of any write, so more would buy little.
//!
//! Invariants:
//! 1. Members change one step at a time, and each step is recorded before the next is thought of.
//! 2. Nobody gets a vote before it has all of the log.
//! 3. A voter is replaced only once it has been down for `replace_after`, has left, or speaks
//!    under another disk id. Votes come and go together, in a joint configuration, so that no
//!    step has fewer votes to lose than the one before.
//! 4. Voters are spread over zones; among equals those who vote already, then the longest members.
//!
//! Left out: leaders near the clients. Nothing waits for a council.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::transport::NodeId;

use super::plan::Life;
use super::state::{Seat, State};
use crate::raft::{Change, Config};

/// What to do about the members of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Change them.
    Change(Change),
    /// Let this disk lead first: who leads now is to go.
    Transfer(u64),
}

/// Votes for a number of nodes.
fn wanted(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    }
}

/// What the choice of voters looks at.
pub(super) struct Ballot<'a> {
    pub(super) state: &'a State,
    pub(super) lives: &'a BTreeMap<NodeId, Life>,
    pub(super) config: &'a Config,
    /// The leader's disk.
    pub(super) me: u64,
}

impl Ballot<'_> {
    /// The next step, if there is one. `has_all` says whether a disk has all of the log.
    pub(super) fn step(&self, has_all: impl Fn(u64) -> bool) -> Option<Step> {
        let config = self.config;
        if config.is_joint() {
            let heir = |id: &&u64| has_all(**id);
            return match config.voters.contains(&self.me) {
                true => Some(Step::Change(Change::Settle)),
                false => config.voters.iter().find(heir).map(|id| Step::Transfer(*id)),
            };
        }
        let chosen = self.chosen();
        if chosen.is_empty() {
            return None;
        }
        let learners = self.learners(&chosen);
        if let Some(idle) = config.learners.iter().find(|id| !learners.contains_key(*id)) {
            return Some(Step::Change(Change::Remove(*idle)));
        }
        let mut new = learners.iter().filter(|(id, _)| !config.contains(**id));
        if let Some((id, node)) = new.find(|(_, node)| self.life(**node) == Life::Up) {
            return Some(Step::Change(Change::Learner(*id, *node)));
        }
        let promote: BTreeSet<u64> = chosen.difference(&config.voters).copied().collect();
        let remove: BTreeSet<u64> = config.voters.difference(&chosen).copied().collect();
        let ready = promote.iter().all(|id| config.learners.contains(id) && has_all(*id));
        let changes = !promote.is_empty() || !remove.is_empty();
        (ready && changes).then_some(Step::Change(Change::Joint { promote, remove }))
    }

    fn life(&self, node: NodeId) -> Life {
        self.lives.get(&node).copied().unwrap_or(Life::Away)
    }

    fn seats(&self) -> impl Iterator<Item = (NodeId, &Seat)> {
        let seats = self.state.seats.iter().map(|(node, seat)| (*node, seat));
        seats.filter(|(_, seat)| seat.roles.voter && seat.stays() && seat.disk != 0)
    }

    /// The disks that should vote.
    fn chosen(&self) -> BTreeSet<u64> {
        let votes = |seat: &Seat| self.config.voters.contains(&seat.disk);
        let mut candidates: Vec<(NodeId, &Seat)> =
            self.seats().filter(|(node, s)| self.life(*node) < Life::Dead || votes(s)).collect();
        // Even numbers have more to lose and no more to spare.
        let odd = candidates.len().saturating_sub(1) / 2 * 2 + usize::from(!candidates.is_empty());
        let count = wanted(self.seats().count()).min(odd);
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            let rank = |(_, (node, seat)): &(usize, &(NodeId, &Seat))| {
                let life = self.life(*node);
                let away = life == Life::Away && !votes(seat);
                let zone = zones.get(seat.zone.as_str()).copied().unwrap_or(0);
                (life >= Life::Dead, away, zone, !votes(seat), seat.since)
            };
            let best = candidates.iter().enumerate().min_by_key(rank).map(|(place, _)| place);
            let Some(place) = best else { break };
            let (_, seat) = candidates.remove(place);
            *zones.entry(seat.zone.as_str()).or_default() += 1;
            chosen.insert(seat.disk);
        }
        chosen
    }

    /// The disks that should receive without a vote: who is to get one, and in a region that has
    /// one voter, the others, as copies.
    fn learners(&self, chosen: &BTreeSet<u64>) -> BTreeMap<u64, NodeId> {
        let few = self.seats().count() <= 2;
        let receives = |seat: &Seat| !self.config.voters.contains(&seat.disk);
        let wanted = |seat: &Seat| few || chosen.contains(&seat.disk);
        let seats = self.seats().filter(|(_, seat)| receives(seat) && wanted(seat));
        seats.map(|(node, seat)| (seat.disk, node)).collect()
    }
}
