//! How a world comes to rest, and what must be true then.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use atoll_store::shard::ShardId;

use super::world::{Seating, World, id, place_of};

impl World {
    /// Heals everything.
    pub(super) fn heal(&mut self) {
        self.heal_but(usize::MAX);
    }

    /// Heals everything but one node.
    pub(super) fn heal_but(&mut self, but: usize) {
        (self.loss, self.doubled, self.slow) = (0, 0, 0);
        self.cut.clear();
        for place in (0..self.places.len()).filter(|place| *place != but) {
            self.places[place].paused = 0;
            if !self.is_up(place) {
                self.start(place);
            }
        }
    }

    /// Whether every group is as it should be, and rests.
    pub(super) fn rests(&self) -> bool {
        let silent = |place: &usize| {
            let at = &self.places[*place];
            at.queue.is_empty() && at.groups.as_ref().unwrap().deadline().is_none()
        };
        self.network.is_empty()
            && self.up().iter().all(silent)
            && self.groups.iter().all(|group| self.is_seated(*group))
    }

    fn is_seated(&self, group: ShardId) -> bool {
        let seats = self.seats(&self.seating[&group]);
        let (voters, learners): (BTreeSet<u64>, BTreeSet<u64>) =
            (seats.voters.keys().copied().collect(), seats.learners.keys().copied().collect());
        self.owner(group).is_some()
            && self.up().into_iter().all(|place| {
                let named = seats.voters.values().chain(seats.learners.values());
                let named = named.into_iter().any(|node| *node == id(place));
                match self.view(place, group) {
                    Some(view) => named && (&view.voters, &view.learners) == (&voters, &learners),
                    None => !named,
                }
            })
    }

    /// Runs until everything rests, and checks that every node has all of every log.
    pub(super) fn settle(&mut self) {
        let end = self.now + 60_000;
        while self.now < end {
            self.run(500);
            if self.rests() {
                return self.check();
            }
        }
        panic!("no rest at {}:\n{}", self.now, self.describe());
    }

    fn describe(&self) -> String {
        let mut lines = vec![format!("{} frames under way", self.network.len())];
        let of = |disks: &BTreeSet<u64>| {
            let places = disks
                .iter()
                .map(|disk| (0..self.places.len()).find(|place| self.disk_id(*place) == *disk));
            format!("{:?}", places.map(|place| place.map_or(99, |place| place)).collect::<Vec<_>>())
        };
        for group in &self.groups {
            let Seating { voters, learners } = &self.seating[group];
            lines.push(format!("{group} should be {voters:?} {learners:?}"));
            for place in self.up() {
                let Some(view) = self.view(place, *group) else { continue };
                let leader = view.leader.map(place_of);
                let flags = [view.leads, view.owns, view.asleep, view.cleared, view.is_joint];
                let flags: String = ("LOSCJ".chars().zip(flags))
                    .map(|(letter, set)| if set { letter } else { '-' })
                    .collect();
                let (voters, learners) = (of(&view.voters), of(&view.learners));
                let log = (view.base, view.committed, view.end);
                let who = format!("node {place} term {} leader {leader:?} {flags}", view.term);
                lines.push(format!("  {who} log {log:?} {voters} {learners}"));
            }
        }
        lines.join("\n")
    }

    /// Runs until those that are up have what they want from each other.
    pub(super) fn settle_up(&mut self) {
        let end = self.now + 60_000;
        let rests = |world: &World| {
            let silent = |place: &usize| {
                let at = &world.places[*place];
                at.queue.is_empty() && at.groups.as_ref().unwrap().deadline().is_none()
            };
            world.network.is_empty() && world.up().iter().all(silent)
        };
        while !rests(self) {
            assert!(self.now < end, "no rest at {}:\n{}", self.now, self.describe());
            self.run(500);
        }
    }

    /// Every member's state is all that was ever committed.
    pub(super) fn check(&self) {
        for place in self.up() {
            for group in &self.groups {
                if self.view(place, *group).is_none() {
                    continue;
                }
                let part = &self.places[place].machine.parts[group];
                let logged = self.judge.log.range((*group, 0)..=(*group, u64::MAX));
                let all: BTreeMap<u64, Bytes> = logged
                    .filter(|(_, (_, bytes))| !bytes.is_empty())
                    .map(|((_, index), (_, bytes))| (*index, bytes.clone()))
                    .collect();
                assert_eq!(part.commands, all, "{group} at node {place}");
            }
        }
    }
}
