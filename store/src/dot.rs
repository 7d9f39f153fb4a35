//! Who said what, and what a copy has seen: origins, dots, version vectors, hybrid time.
//!
//! Invariants:
//! 1. Sequences of an origin in a shard are dense from 1; a vector holds the highest contiguous.
//! 2. A dot is never used twice: an origin lives as long as one start of a node.

use std::collections::BTreeMap;
use std::fmt;

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

/// What a copy has seen of a shard: origin -> highest contiguous sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionVector(BTreeMap<Origin, u64>);

impl VersionVector {
    /// The highest contiguous sequence of `origin`; 0 if none was seen.
    pub fn sequence(&self, origin: Origin) -> u64 {
        self.0.get(&origin).copied().unwrap_or(0)
    }

    /// Whether `dot` was seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.sequence(dot.origin) >= dot.sequence
    }

    /// Whether everything that `other` saw was seen here too.
    pub fn contains(&self, other: &VersionVector) -> bool {
        other.iter().all(|(origin, sequence)| self.sequence(origin) >= sequence)
    }

    /// Raises `origin` to at least `sequence`.
    pub fn raise(&mut self, origin: Origin, sequence: u64) {
        if sequence > 0 {
            let entry = self.0.entry(origin).or_insert(0);
            *entry = (*entry).max(sequence);
        }
    }

    /// Raises every origin to what `other` saw.
    pub fn join(&mut self, other: &VersionVector) {
        for (origin, sequence) in other.iter() {
            self.raise(origin, sequence);
        }
    }

    /// Origins and their sequences, by origin.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, u64)> + '_ {
        self.0.iter().map(|(origin, sequence)| (*origin, *sequence))
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many operations were seen.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
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
