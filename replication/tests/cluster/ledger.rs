//! What clients asked and were told, and every operation ever logged: what must be true at the end.

use std::collections::{BTreeMap, BTreeSet};

use atoll_store::dot::{Dot, Millis, Origin, VersionVector};
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;
use atoll_store::shard::ShardId;
use bytes::Bytes;

use crate::common::random::Random;
use crate::common::{Stepped, add, change, key, keyed, plus, random, value};
use atoll_store::command::{Change, Value};
use atoll_store::name::Kind;

pub type Vectors = BTreeMap<ShardId, VersionVector>;
pub type Place = (ShardId, Dot);

/// What a request was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Anything.
    Any,
    /// Adds a member that no other request adds; nothing removes it.
    Unique(Value),
    /// Counts this without a key.
    Count(u128),
    /// Counts this, by the request of this number, at one node or several.
    Keyed(u128, u128),
}

/// One request.
#[derive(Debug)]
pub struct Issue {
    pub key: EntityKey,
    pub purpose: Purpose,
    pub dot: Option<Place>,
    pub acknowledged: bool,
}

/// The account of a run.
#[derive(Default)]
pub struct Ledger {
    pub issues: Vec<Issue>,
    /// Every operation that any node logged, and its bytes' author's stamp.
    pub history: BTreeMap<Place, (Operation, Bytes)>,
    /// Dots by the number of a keyed request.
    pub attempts: BTreeMap<u128, BTreeSet<Place>>,
    /// Dots that the only disk which held them lost.
    pub excused: BTreeSet<Place>,
    requests: u128,
}

pub fn unique_keys() -> [EntityKey; 2] {
    [key(Kind::Sets, "unique-0"), key(Kind::Sets, "unique-1")]
}

pub fn sum_key() -> EntityKey {
    key(Kind::Counters, "sum")
}

pub fn keyed_key() -> EntityKey {
    key(Kind::Counters, "keyed")
}

/// Every entity that a run may touch.
pub fn all_keys() -> Vec<EntityKey> {
    let mut keys = random::keys();
    keys.extend(unique_keys());
    keys.extend([sum_key(), keyed_key()]);
    keys
}

impl Ledger {
    /// A new request; its ticket is its place.
    pub fn issue(&mut self, random: &mut Random, big: bool) -> (u64, Change) {
        let ticket = self.issues.len() as u64;
        let (purpose, asked) = match random.below(10) {
            0..=2 => {
                let padding = if big { "x".repeat(random.below(900)) } else { String::new() };
                let name = format!("w{ticket}-{padding}");
                let to = unique_keys()[random.below(2)].clone();
                (Purpose::Unique(value(&name)), change(&to, add(&name)))
            }
            3 => {
                let amount = random.between(1, 1000) as u128;
                (Purpose::Count(amount), change(&sum_key(), plus(amount)))
            }
            4 => {
                if self.requests == 0 || random.one_in(2) {
                    self.requests += 1;
                }
                // A retry of a recent request, at whatever node.
                let back = random.below(3) as u128;
                let request = self.requests.saturating_sub(back).max(1);
                let amount = request * 1000 + 7;
                let asked = keyed(&keyed_key(), plus(amount), request);
                (Purpose::Keyed(request, amount), asked)
            }
            _ => (Purpose::Any, random::change(random, &random::keys())),
        };
        let key = asked.key.clone();
        self.issues.push(Issue { key, purpose, dot: None, acknowledged: false });
        (ticket, asked)
    }

    /// Notes what a step logged. Panics if a dot was ever used for something else.
    pub fn note(&mut self, origin: Origin, stepped: &Stepped) {
        for (shard, operation, bytes) in &stepped.logged {
            let place = (*shard, operation.dot);
            let known = self.history.entry(place).or_insert((operation.clone(), bytes.clone()));
            assert_eq!(known.1, *bytes, "dot {place:?} was issued twice");
            for part in operation.parts.iter().filter(|part| part.key == keyed_key()) {
                let request = part.hash.expect("only keyed requests are sent to it").key;
                self.attempts.entry(request).or_default().insert(place);
            }
        }
        // A delete of nothing makes no operation: the order holds for each entity only.
        let own = stepped.logged.iter().filter(|(_, op, _)| op.dot.origin == origin);
        let mut own: Vec<_> =
            own.map(|(shard, op, _)| (op.parts[0].key.clone(), (*shard, op.dot))).collect();
        for (ticket, _) in stepped.written.iter().filter(|(_, replayed)| !replayed) {
            let issue = &mut self.issues[*ticket as usize];
            if let Some(place) = own.iter().position(|(key, _)| *key == issue.key) {
                issue.dot = Some(own.remove(place).1);
            }
        }
    }

    /// A disk went back from `before` to `after`, while others hold `others`.
    pub fn lose(&mut self, before: &Vectors, after: &Vectors, others: &[&Vectors]) {
        for (shard, vector) in before {
            for (origin, sequence) in vector.iter() {
                let held = |vectors: &Vectors| {
                    vectors.get(shard).map_or(0, |vector| vector.sequence(origin))
                };
                let rest = others.iter().map(|v| held(v)).max().unwrap_or(0).max(held(after));
                for sequence in rest + 1..=sequence {
                    self.excused.insert((*shard, Dot { origin, sequence }));
                }
            }
        }
    }

    /// Nothing acknowledged is missing from where the cluster ended.
    pub fn check_nothing_lost(&self, end: &Vectors) {
        for issue in self.issues.iter().filter(|issue| issue.acknowledged) {
            match (&issue.purpose, issue.dot) {
                (_, Some(place)) => {
                    let excused = self.excused.contains(&place);
                    assert!(covers(end, place) || excused, "lost: {place:?} of {issue:?}");
                }
                (Purpose::Keyed(request, _), None) => {
                    let known = &self.attempts[request];
                    let held = |at: &Place| covers(end, *at) || self.excused.contains(at);
                    assert!(known.iter().any(held), "lost: retry {issue:?}");
                }
                _ => {}
            }
        }
    }

    /// What the unique members must be: no more, no less.
    pub fn expected_members(&self, key: &EntityKey, end: &Vectors) -> Vec<Value> {
        let there = self.issues.iter().filter(|issue| issue.key == *key);
        let there = there.filter(|issue| issue.dot.is_some_and(|place| covers(end, place)));
        let mut members: Vec<Value> = there
            .filter_map(|issue| match &issue.purpose {
                Purpose::Unique(member) => Some(member.clone()),
                _ => None,
            })
            .collect();
        members.sort();
        members
    }

    pub fn expected_sum(&self, end: &Vectors) -> i128 {
        let there =
            self.issues.iter().filter(|issue| issue.dot.is_some_and(|place| covers(end, place)));
        let amounts = there.map(|issue| match issue.purpose {
            Purpose::Count(amount) => amount as i128,
            _ => 0,
        });
        amounts.sum()
    }

    /// Every request once, however often it was tried.
    pub fn expected_keyed(&self, end: &Vectors) -> i128 {
        let counted =
            self.attempts.iter().filter(|(_, dots)| dots.iter().any(|place| covers(end, *place)));
        counted.map(|(request, _)| *request as i128 * 1000 + 7).sum()
    }

    /// (R11, cursors) What an origin has closed, a node that says so has seen: all of it that
    /// anyone has.
    pub fn check_closed(&self, closed: &BTreeMap<Origin, Millis>, own: &Vectors, all: &[Vectors]) {
        for ((shard, dot), (operation, _)) in &self.history {
            let Some(closed) = closed.get(&dot.origin) else { continue };
            if operation.stamp.0 > *closed || covers(own, (*shard, *dot)) {
                continue;
            }
            let somewhere = all.iter().any(|vectors| covers(vectors, (*shard, *dot)));
            assert!(!somewhere, "closed {closed} of {:?}, but {dot:?} is missing", dot.origin);
        }
    }
}

pub fn covers(vectors: &Vectors, (shard, dot): Place) -> bool {
    vectors.get(&shard).is_some_and(|vector| vector.covers(dot))
}
