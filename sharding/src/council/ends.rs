//! What a council has agreed on about origins that ended (R9): a part of its state.
//!
//! An origin goes *ended* (the council of its own region says so) -> *agreed* (this region's
//! replicas have told what they have of it) -> *reached* (each has what any region has) ->
//! *retired* (nothing of it is recorded any more). Regions go at their own pace and read each
//! other's records; nodes join them together.
//!
//! Invariants:
//! 1. What was agreed or reached is so of the sets that it was decided on: a change of any set
//!    meanwhile makes the command do nothing.
//! 2. Finals, once agreed on, stay as they are until the origin is retired.
//! 3. An origin is retired once: late news of it does not begin it again, as long as it is among
//!    the last that were.
//! 4. All of it is bounded; what finds no room is asked for again.
//!
//! Left out: what ends where, and who may be believed, which the nodes know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use atoll_replication::placement::{End, RegionPlacement};
use atoll_replication::transport::NodeId;
use atoll_store::dot::{Hlc, Origin};

/// Origins of this region that end at a time. A start ends one, and it takes seconds.
pub(super) const ENDED_MAX: usize = 32;
/// Origins of all regions of which an end is recorded: those of eight regions, all at once.
pub(super) const ENDS_MAX: usize = 256;
/// Nodes that are gone, and remembered: the oldest is forgotten first.
const GONE_KEPT: usize = 256;
/// Origins that were retired, and are remembered.
const RETIRED_KEPT: usize = 512;

/// A decision about an origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// It is of this region, and ended; these regions are to agree on its end.
    Ended(BTreeSet<String>),
    /// Its last sequences known to this region's replicas, whose sets have changed so often.
    Agreed { changes: u64, finals: BTreeMap<u16, u64> },
    /// Each replica, of sets that have changed so often, has all of it; no clock was higher.
    Reached { changes: u64, at: Hlc },
    /// It was retired.
    Retired,
}

/// Origins that ended, and nodes whose origins do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    /// The oldest first.
    gone: VecDeque<NodeId>,
    pub(super) ended: BTreeMap<Origin, BTreeSet<String>>,
    pub(super) ends: BTreeMap<Origin, End>,
    /// The oldest first.
    retired: VecDeque<Origin>,
}

impl Ends {
    /// What a record says of them.
    pub(super) fn from_record(record: &RegionPlacement) -> Ends {
        Ends {
            gone: record.gone.iter().copied().collect(),
            ended: record.ended.clone(),
            ends: record.ends.clone(),
            retired: VecDeque::new(),
        }
    }

    /// Writes them to a record.
    pub(super) fn publish(&self, record: &mut RegionPlacement) {
        record.gone = self.gone.iter().copied().collect();
        record.ended = self.ended.clone();
        record.ends = self.ends.clone();
    }

    /// A node left, or was given up.
    pub(super) fn see_off(&mut self, node: NodeId) {
        self.welcome(node);
        self.gone.push_back(node);
        let excess = self.gone.len().saturating_sub(GONE_KEPT);
        self.gone.drain(..excess);
    }

    /// A node is there: it says itself what of it ended.
    pub(super) fn welcome(&mut self, node: NodeId) {
        self.gone.retain(|gone| *gone != node);
    }

    /// Whether an origin was retired, not long ago.
    pub(super) fn is_retired(&self, origin: Origin) -> bool {
        self.retired.contains(&origin)
    }

    /// Whether a step is one that can be taken; `changes` of the sets there have been until now.
    pub(super) fn may(&self, origin: Origin, step: &Step, changes: u64) -> bool {
        let end = self.ends.get(&origin);
        match step {
            _ if self.is_retired(origin) => false,
            Step::Ended(regions) => {
                let room = self.ended.len() < ENDED_MAX;
                room && !regions.is_empty() && !self.ended.contains_key(&origin)
            }
            Step::Agreed { changes: then, .. } => {
                end.is_none() && self.ends.len() < ENDS_MAX && *then == changes
            }
            Step::Reached { changes: then, .. } => {
                end.is_some_and(|end| !end.reached) && *then == changes
            }
            Step::Retired => end.is_some() || self.ended.contains_key(&origin),
        }
    }

    /// Takes a step, if it can be taken.
    pub(super) fn take(&mut self, origin: Origin, step: Step, changes: u64) {
        if !self.may(origin, &step, changes) {
            return;
        }
        match step {
            Step::Ended(regions) => drop(self.ended.insert(origin, regions)),
            Step::Agreed { finals, .. } => {
                let finals = finals.into_iter().filter(|(_, last)| *last > 0).collect();
                self.ends.insert(origin, End { finals, ..End::default() });
            }
            Step::Reached { at, .. } => {
                if let Some(end) = self.ends.get_mut(&origin) {
                    (end.reached, end.at) = (true, at);
                }
            }
            Step::Retired => {
                self.ended.remove(&origin);
                self.ends.remove(&origin);
                self.retired.push_back(origin);
                let excess = self.retired.len().saturating_sub(RETIRED_KEPT);
                self.retired.drain(..excess);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const X: Origin = Origin(7);

    fn ended() -> Step {
        Step::Ended(["eu".to_owned()].into())
    }

    fn agreed(changes: u64) -> Step {
        Step::Agreed { changes, finals: [(0, 0), (1, 3)].into() }
    }

    /// Takes a step after four changes of sets; answers whether that did anything.
    fn take(ends: &mut Ends, origin: Origin, step: Step) -> bool {
        let before = ends.clone();
        ends.take(origin, step, 4);
        *ends != before
    }

    #[test]
    fn r9_an_origin_goes_through_its_steps_in_their_order() {
        let mut ends = Ends::default();
        let reached = |changes| Step::Reached { changes, at: Hlc(5) };
        assert!(!take(&mut ends, X, Step::Ended(BTreeSet::new())), "of no region");
        assert!(take(&mut ends, X, ended()) && !take(&mut ends, X, ended()));
        assert!(!take(&mut ends, X, reached(4)), "not agreed on");
        assert!(!take(&mut ends, X, agreed(3)), "by other sets");
        assert!(take(&mut ends, X, agreed(4)));
        let finals = [(1, 4)].into();
        assert!(!take(&mut ends, X, Step::Agreed { changes: 4, finals }), "for good");
        assert_eq!(ends.ends[&X].finals, [(1, 3)].into(), "those above 0");
        assert!(!take(&mut ends, X, reached(3)), "by other sets");
        assert!(take(&mut ends, X, reached(4)) && !take(&mut ends, X, reached(4)));
        assert!(take(&mut ends, X, Step::Retired) && !take(&mut ends, X, Step::Retired));
        assert!(ends.ended.is_empty() && ends.ends.is_empty());
        assert!(!take(&mut ends, X, ended()) && !take(&mut ends, X, agreed(4)), "for good");
    }

    #[test]
    fn everything_is_bounded() {
        let mut ends = Ends::default();
        for number in 0..1_000 {
            take(&mut ends, Origin(number), ended());
            take(&mut ends, Origin(number), agreed(4));
            ends.see_off(NodeId([(number % 250) as u8; 16]));
        }
        assert_eq!((ends.ended.len(), ends.ends.len()), (ENDED_MAX, ENDS_MAX));
        assert_eq!(ends.gone.len(), 250, "each once");
        for number in 0..1_000 {
            take(&mut ends, Origin(number), Step::Retired);
            take(&mut ends, Origin(number), agreed(4));
            take(&mut ends, Origin(number), Step::Retired);
        }
        assert_eq!(ends.retired.len(), RETIRED_KEPT);
        assert!(ends.is_retired(Origin(999)) && !ends.is_retired(Origin(0)));
    }

    #[test]
    fn the_oldest_that_is_gone_is_forgotten_and_who_returns_is_not_gone() {
        let mut ends = Ends::default();
        let node = |number: usize| NodeId((number as u128).to_be_bytes());
        (0..GONE_KEPT + 2).for_each(|number| ends.see_off(node(number)));
        ends.see_off(node(2));
        ends.see_off(node(1_000));
        ends.welcome(node(4));
        let kept: Vec<NodeId> = ends.gone.iter().copied().take(1).collect();
        assert_eq!((kept, ends.gone.len()), (vec![node(5)], GONE_KEPT - 1));
        assert!(ends.gone.contains(&node(2)), "gone again, and later");
        let mut record = RegionPlacement::default();
        ends.publish(&mut record);
        assert_eq!(record.gone.len(), GONE_KEPT - 1);
        assert!(record.gone.contains(&node(2)) && !record.gone.contains(&node(4)));
    }
}
