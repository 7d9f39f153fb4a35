//! Who said what, and what a copy has seen: origins, dots, version vectors, hybrid time.
//!
//! Invariants:
//! 1. Sequences of an origin in a shard are dense from 1; a vector holds the highest contiguous.
//! 2. A dot is never used twice: an origin lives as long as one start of a node.
//! 3. A vector covers a retired origin only if it had seen all of it (R9).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mutant::Mutant;

/// Physical time: milliseconds since the Unix epoch. Only ever an argument.
pub type Millis = u64;

/// The author of operations: 64 random bits drawn at every start of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin(pub u64);

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One operation's name in its shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Its author.
    pub origin: Origin,
    /// Its number, dense from 1 per shard and origin.
    pub sequence: u64,
}

impl Dot {
    /// Before every dot.
    pub const MIN: Dot = Dot { origin: Origin(0), sequence: 0 };
    /// After every dot.
    pub const MAX: Dot = Dot { origin: Origin(u64::MAX), sequence: u64::MAX };
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.sequence)
    }
}

/// What a copy has seen of a shard: origin -> highest contiguous sequence, and how many of the
/// retired origins it covers wholly (R9), in the order of its node's roll.
///
/// Which origins these are, its node's roll tells: one that was read from a disk or a peer covers
/// none of them until it was adopted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VersionVector {
    seen: BTreeMap<Origin, u64>,
    covered: u32,
    #[serde(skip)]
    retired: Order,
}

/// Retired origins, and the place of each in its node's roll.
pub(crate) type Order = Arc<BTreeMap<Origin, u32>>;

impl PartialEq for VersionVector {
    fn eq(&self, other: &Self) -> bool {
        (&self.seen, self.covered) == (&other.seen, other.covered)
    }
}

impl Eq for VersionVector {}

impl VersionVector {
    /// The highest contiguous sequence of `origin`; 0 if none was seen, the highest there is if it
    /// was retired and all of it is covered.
    pub fn sequence(&self, origin: Origin) -> u64 {
        match self.seen.get(&origin) {
            Some(sequence) => *sequence,
            None if self.is_retired(origin) => u64::MAX,
            None => 0,
        }
    }

    /// Whether all of `origin` is covered, since it was retired.
    pub fn is_retired(&self, origin: Origin) -> bool {
        self.covered > 0 && self.retired.get(&origin).is_some_and(|place| *place < self.covered)
    }

    /// Whether `dot` was seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.sequence(dot.origin) >= dot.sequence
    }

    /// Whether everything that `other` saw was seen here too.
    pub fn contains(&self, other: &VersionVector) -> bool {
        self.covered >= other.covered
            && other.iter().all(|(origin, sequence)| self.sequence(origin) >= sequence)
    }

    /// Raises `origin` to at least `sequence`.
    pub fn raise(&mut self, origin: Origin, sequence: u64) {
        if sequence > 0 && !self.is_retired(origin) {
            let entry = self.seen.entry(origin).or_insert(0);
            *entry = (*entry).max(sequence);
        }
    }

    /// Raises every origin to what `other` saw.
    pub fn join(&mut self, other: &VersionVector) {
        if other.covered > self.covered {
            (self.covered, self.retired) = (other.covered, other.retired.clone());
            let (order, covered) = (&self.retired, self.covered);
            let live = |origin: &Origin| order.get(origin).is_none_or(|place| *place >= covered);
            self.seen.retain(|origin, _| live(origin));
        }
        for (origin, sequence) in other.iter() {
            self.raise(origin, sequence);
        }
    }

    /// Origins that are not retired, and their sequences, by origin.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, u64)> + '_ {
        self.seen.iter().map(|(origin, sequence)| (*origin, *sequence))
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.covered == 0
    }

    /// How many operations were seen, of origins that are not retired.
    pub fn total(&self) -> u64 {
        self.seen.values().sum()
    }

    /// How many retired origins it covers wholly.
    pub fn covered(&self) -> u32 {
        self.covered
    }

    /// A sum over the retired origins that it covers wholly, whatever their order: equal for the
    /// same ones.
    pub fn retired_sum(&self) -> u64 {
        let covered = self.retired.iter().filter(|(_, place)| **place < self.covered);
        covered.fold(0, |sum, (origin, _)| sum ^ origin.0)
    }

    /// Covers the next origin of the roll: all of it was seen, which is `last`.
    pub(crate) fn retire(&mut self, origin: Origin, last: u64) -> bool {
        let whole = self.seen.get(&origin).copied().unwrap_or(0) == last;
        if whole {
            self.seen.remove(&origin);
            self.covered += 1;
        }
        whole
    }

    /// Covers what its node's roll tells.
    pub(crate) fn adopt(&mut self, roll: &Order) {
        self.retired = roll.clone();
    }

    /// Covers no retired origin.
    pub(crate) fn uncover(&mut self) {
        self.covered = 0;
    }
}

impl FromIterator<(Origin, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Origin, u64)>>(pairs: I) -> Self {
        let mut vector = VersionVector::default();
        for (origin, sequence) in pairs {
            vector.raise(origin, sequence);
        }
        vector
    }
}

/// Hybrid logical time: milliseconds in the upper 48 bits, a logical count in the lower 16.
///
/// Source: Kulkarni et al., "Logical Physical Clocks" (2014), in one word.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first moment of a millisecond.
    pub fn at(millis: Millis) -> Hlc {
        Hlc(millis << 16)
    }

    /// The physical part.
    pub fn millis(self) -> Millis {
        self.0 >> 16
    }

    /// The next stamp: after `self`, and not before `now`.
    pub fn tick(self, now: Millis) -> Hlc {
        let after = if Mutant::TrustWallClock.is_on() { 0 } else { self.0 + 1 };
        Hlc(after.max(Hlc::at(now).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_only_rises() {
        let mut vector = VersionVector::default();
        vector.raise(Origin(1), 3);
        vector.raise(Origin(1), 2);
        vector.raise(Origin(2), 0);
        assert_eq!(vector.iter().collect::<Vec<_>>(), [(Origin(1), 3)]);
        assert!(vector.covers(Dot { origin: Origin(1), sequence: 3 }));
        assert!(!vector.covers(Dot { origin: Origin(2), sequence: 1 }));
    }

    #[test]
    fn stamps_never_repeat_nor_fall_behind_the_clock() {
        let first = Hlc::default().tick(1000);
        assert_eq!(first, Hlc::at(1000));
        assert!(first.tick(900) > first);
        assert_eq!(first.tick(2000), Hlc::at(2000));
    }
}
