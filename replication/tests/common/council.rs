//! A region's council as far as ends of origins go: it gathers what nodes tell, and records.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::placement::{End, Ending, RegionPlacement};
use atoll_replication::transport::NodeId;
use atoll_store::dot::{Hlc, Origin};

type Told<T> = BTreeMap<(Origin, NodeId), T>;

/// One region's, of one slot.
pub struct Council {
    pub record: RegionPlacement,
    holds: Told<u64>,
    reached: Told<Hlc>,
}

impl Council {
    pub fn new(record: RegionPlacement) -> Council {
        Council { record, holds: BTreeMap::new(), reached: BTreeMap::new() }
    }

    fn members(&self) -> BTreeSet<NodeId> {
        self.record.slots[0].all().collect()
    }

    /// What every member told of an origin, once all have.
    fn all<T: Copy>(&self, told: &Told<T>, origin: Origin) -> Option<Vec<T>> {
        self.members().into_iter().map(|node| told.get(&(origin, node)).copied()).collect()
    }

    /// Takes what a node tells; answers whether the record changed.
    pub fn take(&mut self, node: NodeId, ending: Ending) -> bool {
        let before = self.record.clone();
        match ending {
            Ending::Ended { origin, regions } => {
                self.record.ended.entry(origin).or_insert(regions);
            }
            // Nobody here dies before it is recorded.
            Ending::Orphan { .. } => {}
            Ending::Holds { origin, slots } => {
                self.holds.extend(slots.get(&0).map(|held| ((origin, node), held.last)));
                if let Some(all) = self.all(&self.holds, origin) {
                    let last = all.into_iter().max().filter(|last| *last > 0);
                    let finals = last.map(|last| (0, last)).into_iter().collect();
                    let end = End { finals, ..End::default() };
                    self.record.ends.entry(origin).or_insert(end);
                }
            }
            Ending::Reached { origin, at, slots } => {
                if slots.contains(&0) {
                    self.reached.insert((origin, node), at);
                }
                if let Some(all) = self.all(&self.reached, origin)
                    && let Some(end) = self.record.ends.get_mut(&origin)
                {
                    end.reached = true;
                    end.at = all.into_iter().max().unwrap_or_default().max(end.at);
                }
            }
            Ending::Retired { origin } => {
                self.record.ended.remove(&origin);
                self.record.ends.remove(&origin);
            }
        }
        if self.record != before {
            self.record.version.number += 1;
        }
        self.record != before
    }
}
