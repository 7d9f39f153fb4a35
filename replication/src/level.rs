//! Consistency levels: how many of the recorded replicas an answer waits for.
//!
//! Invariants:
//! 1. (R12) A level counts recorded replicas, dead or alive; during a move it needs as many of the
//!    next set as of the current one.
//! 2. Of two `quorum`s, each of its own time, some replica of the later one has what the earlier
//!    one had: also where one region's set changed in between and the other's asker did not know.
//!
//! Left out: who has done something, and when that counts, which is the core's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use atoll_store::command::Refusal;
use atoll_store::dot::Millis;

use crate::placement::Replicas;
use crate::transport::NodeId;

/// How many replicas must have acknowledged a write, or told what they have for a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The one that answers.
    #[default]
    One,
    /// A majority of this region's.
    LocalQuorum,
    /// A majority of all regions' together.
    Quorum,
    /// A majority in every region.
    EachQuorum,
    /// All of them.
    All,
}

impl Level {
    /// All levels, from the weakest on.
    pub const ALL: [Level; 5] =
        [Level::One, Level::LocalQuorum, Level::Quorum, Level::EachQuorum, Level::All];

    /// Its name, as clients say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::One => "one",
            Level::LocalQuorum => "local_quorum",
            Level::Quorum => "quorum",
            Level::EachQuorum => "each_quorum",
            Level::All => "all",
        }
    }

    /// The level of a name.
    pub fn parse(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str() == name)
    }

    /// Whether it asks replicas of other regions.
    pub fn is_global(self) -> bool {
        self >= Level::Quorum
    }

    /// Whether those who `did` something are enough of a shard's replicas, for a node of `region`.
    pub(crate) fn is_met(
        self,
        region: &str,
        sets: &Sets<'_>,
        did: impl Fn(NodeId) -> bool,
    ) -> bool {
        match self {
            Level::One => true,
            Level::LocalQuorum => sets.get(region).is_some_and(|set| set.is_majority(&did)),
            Level::Quorum => is_quorum(sets, did),
            Level::EachQuorum => sets.values().all(|set| set.is_majority(&did)),
            Level::All => sets.values().all(|set| set.all().all(&did)),
        }
    }
}

/// The replicas of one shard by region: recorded ones; all nodes of a region without a record.
pub(crate) type Sets<'a> = BTreeMap<&'a str, Cow<'a, Replicas>>;

/// A majority of all replicas, counted in regions of which a majority is among them.
///
/// A region's council changes its set without asking other regions. A minority of a region may
/// not have heard of that: added up over regions, two such minorities and two halves of the rest
/// could be majorities of two sets and have nobody in common. Counted so, any two quorums share a
/// region with a majority in both, and there the rule for one region holds.
fn is_quorum(sets: &Sets<'_>, did: impl Fn(NodeId) -> bool) -> bool {
    let counted = || sets.values().filter(|set| set.is_majority(&did));
    let most = |of: fn(&Replicas) -> &BTreeSet<NodeId>| {
        let all: usize = sets.values().map(|set| of(set).len()).sum();
        let done = counted().flat_map(|set| of(set)).filter(|node| did(**node)).count();
        done * 2 > all
    };
    most(|set| &set.current) && most(|set| set.next.as_ref().unwrap_or(&set.current))
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The level.
    pub level: Level,
    /// How long it may wait for the level.
    pub timeout_ms: Millis,
}

/// Replicas by region: so many did it, of so many recorded.
pub type Count = BTreeMap<String, (usize, usize)>;

/// Why a request was not done as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Refused: nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Fewer replicas can be reached than the level counts: nothing was changed.
    #[error("too few of the recorded replicas can be reached: {}", said(.0))]
    NotEnough(Count),
    /// Too many requests wait for other replicas: nothing was changed, come back.
    #[error("too many requests wait for other replicas")]
    Overloaded,
    /// Too few replicas answered in time. A write is durable where it was applied, and spreads.
    #[error("too few replicas answered in time: {}", said(.0))]
    Late(Count),
}

fn said(count: &Count) -> String {
    let each: Vec<String> =
        count.iter().map(|(region, (did, of))| format!("{did} of {of} in {region}")).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u8]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId([*id; 16])).collect()
    }

    /// A region, its current set and its next one.
    type Region<'a> = (&'static str, &'a [u8], Option<&'a [u8]>);

    fn sets(regions: &[Region<'_>]) -> Sets<'static> {
        let one = |(name, current, next): &Region<'_>| {
            let replicas =
                Replicas { epoch: 1, current: set(current), next: next.map(set), struck: 0 };
            (*name, Cow::Owned(replicas))
        };
        regions.iter().map(one).collect()
    }

    /// The levels that are met at a node of "a" by those who did something.
    fn check(sets: &Sets<'_>, did: &[u8], expected: &[Level]) {
        let met = |level: &Level| level.is_met("a", sets, |node| did.contains(&node.0[0]));
        let met: Vec<Level> = Level::ALL.into_iter().filter(met).collect();
        assert_eq!(met, expected, "{did:?}");
    }

    #[test]
    fn levels_count_the_recorded_replicas() {
        use Level::*;
        let three = sets(&[("a", &[1, 2, 3], None), ("b", &[4, 5, 6], None)]);
        check(&three, &[1], &[One]);
        check(&three, &[1, 9, 8, 7], &[One]);
        check(&three, &[1, 2], &[One, LocalQuorum]);
        check(&three, &[1, 2, 3], &[One, LocalQuorum]);
        check(&three, &[1, 2, 4, 5], &[One, LocalQuorum, Quorum, EachQuorum]);
        check(&three, &[1, 4, 5, 6], &[One]);
        check(&three, &[1, 2, 3, 4, 5, 6], &Level::ALL);
        let ones = sets(&[("a", &[1], None), ("b", &[2], None), ("c", &[3], None)]);
        check(&ones, &[1], &[One, LocalQuorum]);
        check(&ones, &[1, 3], &[One, LocalQuorum, Quorum]);
        let alone = sets(&[("a", &[1], None)]);
        check(&alone, &[1], &Level::ALL);
    }

    #[test]
    fn r12_a_level_needs_both_sets_of_a_move() {
        use Level::*;
        let moving = sets(&[("a", &[1, 2, 3], Some(&[3, 4, 5]))]);
        check(&moving, &[1, 2, 3], &[One]);
        check(&moving, &[3, 4, 5], &[One]);
        check(&moving, &[2, 3, 4], &[One, LocalQuorum, Quorum, EachQuorum]);
        check(&moving, &[1, 2, 3, 4, 5], &Level::ALL);
        let two = sets(&[("a", &[1], Some(&[2])), ("b", &[3], None), ("c", &[4], None)]);
        check(&two, &[1, 3], &[One]);
        check(&two, &[3, 4], &[One, Quorum]);
        check(&two, &[1, 2, 3], &[One, LocalQuorum, Quorum]);
    }

    /// Every quorum before a move of one region, of replicas that have not heard of it, meets
    /// every quorum after it: of the old set at least half, rounded up, have heard of it.
    #[test]
    fn quorums_meet_across_a_move_that_one_of_them_did_not_hear_of() {
        let others: &[Region<'_>] = &[("b", &[4, 5, 6], None), ("c", &[7, 8, 9], None)];
        let of = |first: &'static [u8]| sets(&[&[("a", first, None)], others].concat());
        let (before, after) = (of(&[1, 2, 3]), of(&[10, 2, 3]));
        let met = |sets: &Sets<'_>, bits: u16| {
            Level::Quorum.is_met("a", sets, |node| bits >> (node.0[0] - 1) & 1 == 1)
        };
        // Node 1 alone has not heard of the move; 2 and 3 refuse what names the old set.
        let unaware = |bits: &u16| bits & 0b110 == 0;
        let early: Vec<u16> = (0..1 << 9).filter(unaware).filter(|b| met(&before, *b)).collect();
        let late: Vec<u16> = (0..1 << 10).filter(|bits| met(&after, *bits)).collect();
        assert!(!early.is_empty() && !late.is_empty());
        for one in &early {
            assert!(late.iter().all(|other| one & other != 0), "{one:b}");
        }
    }
}
