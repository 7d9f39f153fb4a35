//! Nodes that play the end of origins, with made-up sequences (R9): they take, tell and retire by
//! the rules, each by the record that it knows.
//!
//! What is judged, of each record: an end is agreed on when all replicas have told, and is no
//! lower than what any of them told; it is reached when each has it all and has said so; finals
//! stay; what was retired does not come back.

use atoll_replication::placement::{End, Ending, Held, Replicas};
use atoll_store::dot::{Hlc, Origin};

use super::world::{World, id};
use super::*;
use crate::council::ends::{ENDED_MAX, ENDS_MAX};

/// What of origins is true, whoever is up: disks keep it.
#[derive(Default)]
pub(super) struct Origins {
    ended: BTreeSet<Origin>,
    has: BTreeMap<(Origin, NodeId, u16), u64>,
    /// Nodes that take no more than the record allows.
    frozen: BTreeSet<(Origin, NodeId)>,
    retired: BTreeSet<(Origin, NodeId)>,
    /// What a node told that it has.
    held: BTreeMap<(Origin, NodeId, u16), u64>,
    /// The clocks at which a node told that it has all, the first and the last.
    complete: BTreeMap<(Origin, NodeId, u16), (Hlc, Hlc)>,
    /// Origins that were recorded, and are not any more.
    over: BTreeSet<Origin>,
    /// Replicas whose word was compared with an end that was agreed on, or reached.
    pub(super) compared: usize,
}

impl Origins {
    fn last(&self, origin: Origin, node: NodeId, slot: u16) -> u64 {
        self.has.get(&(origin, node, slot)).copied().unwrap_or(0)
    }

    /// What a node tells that it has, or has all of.
    fn tell(&mut self, node: NodeId, ending: &Ending) {
        match ending {
            Ending::Holds { origin, slots } => {
                let told = slots.iter().map(|(slot, held)| ((*origin, node, *slot), held.last));
                self.held.extend(told);
            }
            Ending::Reached { origin, at, slots } => {
                for slot in slots {
                    let told = self.complete.entry((*origin, node, *slot)).or_insert((*at, *at));
                    told.1 = *at;
                }
            }
            Ending::Ended { .. } | Ending::Orphan { .. } | Ending::Retired { .. } => {}
        }
    }

    /// Judges a record by the one before it.
    pub(super) fn judge(&mut self, before: &RegionPlacement, after: &RegionPlacement) {
        assert!(after.ended.len() <= ENDED_MAX && after.ends.len() <= ENDS_MAX);
        let recorded = |record: &RegionPlacement| {
            let ended = record.ended.keys().chain(record.ends.keys());
            ended.copied().collect::<BTreeSet<Origin>>()
        };
        let (was, is) = (recorded(before), recorded(after));
        for origin in was.difference(&is) {
            let told = self.retired.iter().any(|(retired, _)| retired == origin);
            assert!(told, "r9: {origin} is recorded no more, and nobody has retired it");
            self.over.insert(*origin);
        }
        assert!(is.is_disjoint(&self.over), "r9: a retired origin came back");
        for (origin, end) in &after.ends {
            let known = before.ends.get(origin);
            assert!(known.is_none_or(|known| known.finals == end.finals), "r9: finals changed");
            // Sets that changed on the way there were judged by others.
            let sets = (0..).zip(before.slots.iter().zip(&after.slots));
            let same = sets.filter(|(_, (old, new))| old.epoch == new.epoch);
            for (slot, (_, set)) in same {
                if known.is_none() {
                    self.judge_agreed(*origin, slot, set, end);
                }
                if end.reached && known.is_none_or(|known| !known.reached) {
                    self.judge_reached(*origin, slot, set, end);
                }
            }
        }
    }

    fn judge_agreed(&mut self, origin: Origin, slot: u16, set: &Replicas, end: &End) {
        let told = set.all().map(|node| {
            let told = self.held.get(&(origin, node, slot)).copied();
            told.unwrap_or_else(|| panic!("r9: agreed on {origin} before {node} told of {slot}"))
        });
        let highest = told.max().unwrap_or(0);
        let last = end.finals.get(&slot).copied().unwrap_or(0);
        assert_eq!(last, highest, "r9: the end of {origin} in slot {slot}");
        self.compared += set.all().count();
    }

    fn judge_reached(&mut self, origin: Origin, slot: u16, set: &Replicas, end: &End) {
        let last = end.finals.get(&slot).copied().unwrap_or(0);
        for node in set.all() {
            let told = self.complete.get(&(origin, node, slot));
            let Some((first, _)) = told else {
                panic!("r9: {origin} reached before {node} said so of {slot}");
            };
            assert!(self.last(origin, node, slot) >= last, "r9: {node} has not all of {origin}");
            assert!(end.at >= *first, "r9: {node} had a higher clock");
            self.compared += 1;
        }
        let latest = self.complete.iter().filter(|((other, ..), _)| *other == origin);
        assert!(latest.map(|(_, (_, at))| *at).max() >= Some(end.at), "r9: nobody's clock");
    }
}

impl World {
    /// An origin ends: some nodes have some of it.
    pub(super) fn end_origin(&mut self) {
        let origin = Origin(self.random.next());
        self.origins.ended.insert(origin);
        let slots = self.newest().slots.len() as u16;
        for place in 0..self.places.len() {
            for slot in 0..slots {
                if self.random.percent(50) {
                    let last = self.random.below(20);
                    self.origins.has.insert((origin, id(place), slot), last);
                }
            }
        }
    }

    /// Each node does its part, by the record that it knows.
    pub(super) fn play_endings(&mut self) {
        for place in self.up() {
            let Some(record) = self.places[place].record.clone() else { continue };
            let mut endings = Vec::new();
            for origin in self.origins.ended.clone() {
                self.learn(place, origin);
                self.exchange(place, origin, &record);
                endings.extend(self.ending(place, origin, &record));
            }
            let node = id(place);
            endings.iter().for_each(|ending| self.origins.tell(node, ending));
            if !endings.is_empty() {
                self.step(place, Event::Ending(endings));
            }
        }
    }

    fn retire(&mut self, place: usize, origin: Origin) {
        let node = id(place);
        let slots = self.newest().slots.len();
        self.origins.retired.insert((origin, node));
        (0..=u16::MAX).take(slots).for_each(|slot| {
            self.origins.has.remove(&(origin, node, slot));
        });
    }

    /// Who missed that an origin was retired hears it from a peer.
    fn learn(&mut self, place: usize, origin: Origin) {
        let retired = |place: usize| self.origins.retired.contains(&(origin, id(place)));
        let mut peers = self.up().into_iter().filter(|from| retired(*from));
        if !retired(place) && peers.any(|from| self.reaches(from, place)) {
            self.retire(place, origin);
        }
    }

    /// Takes operations of a peer, as far as the record allows.
    fn exchange(&mut self, place: usize, origin: Origin, record: &RegionPlacement) {
        let (node, up) = (id(place), self.up());
        let from = up[self.random.below(up.len() as u64) as usize];
        if !self.reaches(from, place) || self.origins.retired.contains(&(origin, node)) {
            return;
        }
        if record.ended.contains_key(&origin) {
            self.origins.frozen.insert((origin, node));
        }
        let frozen = self.origins.frozen.contains(&(origin, node));
        let end = record.ends.get(&origin);
        for slot in 0..record.slots.len() as u16 {
            let most = match end {
                Some(end) => end.finals.get(&slot).copied().unwrap_or(0),
                None if frozen => 0,
                None => u64::MAX,
            };
            let theirs = self.origins.last(origin, id(from), slot).min(most);
            let mine = self.origins.has.entry((origin, node, slot)).or_default();
            *mine = theirs.max(*mine);
        }
    }

    /// What a node asks for.
    fn ending(&mut self, place: usize, origin: Origin, record: &RegionPlacement) -> Option<Ending> {
        let node = id(place);
        let recorded = record.ended.contains_key(&origin) || record.ends.contains_key(&origin);
        if self.origins.retired.contains(&(origin, node)) {
            return recorded.then_some(Ending::Retired { origin });
        }
        let slots = (0..).zip(&record.slots).filter(|(_, set)| set.receives(node));
        let slots = slots.map(|(slot, set)| {
            (slot, Held { epoch: set.epoch, last: self.origins.last(origin, node, slot) })
        });
        let slots: BTreeMap<u16, Held> = slots.collect();
        match record.ends.get(&origin) {
            None if recorded => {
                self.origins.frozen.insert((origin, node));
                Some(Ending::Holds { origin, slots })
            }
            None => {
                let regions = [record.region.clone()].into();
                Some(Ending::Ended { origin, regions })
            }
            Some(end) if end.reached => {
                self.retire(place, origin);
                Some(Ending::Retired { origin })
            }
            Some(end) => {
                let reached = |(slot, held): (&u16, &Held)| {
                    end.finals.get(slot).is_none_or(|last| *last <= held.last)
                };
                let at = Hlc::at(self.now + place as u64);
                let complete = slots.iter().all(reached);
                let slots = slots.into_keys().collect();
                complete.then_some(Ending::Reached { origin, at, slots })
            }
        }
    }

    /// Whether nothing of any origin is recorded any more.
    pub(super) fn ends_rest(&self) -> bool {
        self.newest().ended.is_empty() && self.newest().ends.is_empty()
    }

    /// At rest: every origin that ended is retired, wherever a node is up.
    pub(super) fn check_retired(&self) {
        assert!(self.ends_rest());
        let nodes = || self.up().into_iter().map(id);
        for origin in &self.origins.ended {
            let retired = |node| self.origins.retired.contains(&(*origin, node));
            assert!(nodes().all(retired), "r9: {origin} is left somewhere");
        }
    }

    /// How many of the origins that ended are recorded no more.
    pub(super) fn over(&self) -> usize {
        self.origins.over.len()
    }
}
