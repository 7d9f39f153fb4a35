//! Every operation that any node ever logged, which acknowledged ones a disk has lost, and what was
//! found wrong inside.
//!
//! A run goes on after a complaint, so that the judges of its history may notice the same.

use std::collections::{BTreeMap, BTreeSet};

use atoll_store::dot::{Dot, Hlc, Origin};
use atoll_store::log::Entry;
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;
use atoll_store::shard::ShardId;
use bytes::Bytes;

use super::machine::{Vectors, covers};

/// Where an operation stands.
pub(super) type Place = (ShardId, Dot);

/// Most complaints that are told of one run: the first.
const TOLD: usize = 5;

/// The account of a run.
#[derive(Default)]
pub(super) struct Ledger {
    /// Every operation that any node logged, with its author's bytes.
    pub(super) history: BTreeMap<Place, (Operation, Bytes)>,
    /// Dots by entity and key of a retried request.
    attempts: BTreeMap<(EntityKey, u128), BTreeSet<Place>>,
    /// Lines of the history that acknowledged a write, each with the last dots that it can be.
    acknowledged: Vec<(u64, Vec<Place>)>,
    /// Of those, what only one disk held, and lost: it was not promised.
    pub(super) excused: BTreeSet<u64>,
    /// What was wrong, and did not end the run.
    pub(super) complaints: Vec<String>,
}

impl Ledger {
    /// Something is not as it must be.
    pub(super) fn complain(&mut self, what: String) {
        if self.complaints.len() < TOLD {
            self.complaints.push(what);
        }
    }

    /// Notes what a step logged: no dot was ever used for something else.
    pub(super) fn note(&mut self, logged: &[(u64, Bytes)]) -> Vec<Place> {
        let mut places = Vec::new();
        for (_, bytes) in logged {
            let Some(Entry::Operation { shard, bytes }) = Entry::decode(bytes) else { continue };
            let operation = Operation::decode(&bytes).expect("a core logs operations");
            let place = (shard, operation.dot);
            places.push(place);
            for part in &operation.parts {
                if let Some(hash) = part.hash {
                    let request = (part.key.clone(), hash.key);
                    self.attempts.entry(request).or_default().insert(place);
                }
            }
            let known = self.history.entry(place).or_insert((operation, bytes.clone()));
            if known.1 != bytes {
                self.complain(format!("a dot was issued twice: {place:?}"));
            }
        }
        places
    }

    /// A line acknowledged a write that is one of these dots, or an earlier one of their origins.
    pub(super) fn acknowledge(&mut self, line: u64, places: Vec<Place>) {
        self.acknowledged.push((line, places));
    }

    /// Disks now hold `held`: what was acknowledged and is on none of them is excused.
    pub(super) fn lose(&mut self, held: &[&Vectors]) -> usize {
        let lost = |place: &Place| !held.iter().any(|vectors| covers(vectors, *place));
        let before = self.excused.len();
        let lines = self.acknowledged.iter().filter(|(_, places)| places.iter().any(lost));
        self.excused.extend(lines.map(|(line, _)| *line));
        self.excused.len() - before
    }

    /// (R11, cursors) What an origin has closed, a node that says so has seen: all of it that
    /// anyone has, in shards that it serves.
    pub(super) fn check_closed(
        &mut self,
        whose: &str,
        closed: &BTreeMap<Origin, Hlc>,
        own: &Vectors,
        all: &[Vectors],
        serves: impl Fn(ShardId) -> bool,
    ) {
        let open = |place: &Place, operation: &Operation| {
            closed.get(&place.1.origin).is_none_or(|closed| operation.stamp > *closed)
        };
        let somewhere = |place: &Place| all.iter().any(|vectors| covers(vectors, *place));
        let missing = self.history.iter().find(|(place, (operation, _))| {
            let missing = !open(place, operation) && !covers(own, **place) && serves(place.0);
            missing && somewhere(place)
        });
        if let Some((place, _)) = missing {
            self.complain(format!("closed, and yet missing: {place:?} of {whose}"));
        }
    }

    /// Whether some request was applied at two nodes, and both attempts are in the end.
    pub(super) fn has_double_attempt(&self, end: &Vectors) -> bool {
        let twice = |places: &BTreeSet<Place>| {
            places.iter().filter(|place| covers(end, **place)).count() > 1
        };
        self.attempts.values().any(twice)
    }

    /// Entities that any operation touched.
    pub(super) fn keys(&self) -> BTreeSet<EntityKey> {
        let operations = self.history.values();
        operations.flat_map(|(op, _)| op.parts.iter().map(|part| part.key.clone())).collect()
    }
}
