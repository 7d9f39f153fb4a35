//! What is told to the judge of levels: when all replicas are known everywhere, and what was lost.
//!
//! Invariant: a node that leaves a record counts as a loss: its disk may be gone, and it is not
//! waited for.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::placement::RegionPlacement;
use atoll_replication::transport::NodeId;
use serde_json::json;

use super::world::World;

/// Who was recorded when it was last looked at.
#[derive(Default)]
pub(super) struct Seated {
    regions: BTreeMap<String, BTreeSet<NodeId>>,
    formed: bool,
}

impl World {
    /// A disk of a region was lost, whose newest record is this.
    pub(super) fn record_loss(&mut self, at: usize, record: Option<&RegionPlacement>) {
        let region = self.machines[at].region;
        // Without a council nobody knows which disk was lost.
        let of = record.filter(|_| self.councils.is_some()).map_or(0, size);
        self.recorder.nemesis(self.nanos(), "lose", json!({ "region": region, "of": of }));
    }

    /// A region's council begins anew, from a record that may be an older one.
    pub(super) fn record_re_formed(&mut self, region: &str) {
        self.recorder.nemesis(self.nanos(), "lose", json!({ "region": region, "of": 0 }));
    }

    /// Looks at who is recorded, in a world with councils.
    pub(super) fn look_at_seats(&mut self) {
        if self.councils.is_none() {
            return;
        }
        let running = self.machines.iter().filter_map(|machine| machine.running.as_ref());
        let placements: Vec<_> =
            running.map(|running| running.driver.core().status().placement).collect();
        let regions: BTreeSet<&str> = self.machines.iter().map(|machine| machine.region).collect();
        let mut lost = Vec::new();
        for region in &regions {
            let records = placements.iter().filter_map(|placement| placement.region(region));
            let Some(newest) = records.max_by_key(|record| record.version) else { continue };
            let seats: BTreeSet<NodeId> = newest.nodes.keys().copied().collect();
            let before = self.seated.regions.insert((*region).to_owned(), seats.clone());
            let gone = before.unwrap_or_default().difference(&seats).count();
            lost.extend((0..gone).map(|_| json!({ "region": region, "of": size(newest) })));
        }
        let is_known = |region: &&str| {
            let whole = |record: &RegionPlacement| size(record) > 0;
            placements.iter().all(|placement| placement.region(region).is_some_and(whole))
        };
        let formed = !placements.is_empty() && regions.iter().all(is_known);
        let time = self.nanos();
        lost.into_iter().for_each(|value| self.recorder.nemesis(time, "lose", value));
        if formed && !std::mem::replace(&mut self.seated.formed, formed) {
            self.recorder.nemesis(time, "formed", json!(regions));
        }
    }
}

/// How many replicas the smallest set of a region has.
fn size(record: &RegionPlacement) -> usize {
    record.slots.iter().map(|set| set.current.len()).min().unwrap_or(0)
}
