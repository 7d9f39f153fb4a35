//! What must hold of placement once all is healed and quiet: councils, records, replicas, members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_replication::core::Status;
use atoll_replication::placement::{Placement, RegionPlacement, Replicas, Version};
use atoll_replication::transport::NodeId;
use atoll_sharding::membership::State;
use atoll_store::dot::{Origin, VersionVector};
use atoll_store::shard::ShardId;

use super::machine::Machine;
use super::world::World;

/// What a world knows of moves: to see that who joins has what its set had.
#[derive(Default)]
pub(super) struct Moves {
    records: BTreeMap<String, RegionPlacement>,
    /// By region and slot: what all current replicas held at the last look.
    common: BTreeMap<(String, u16), VersionVector>,
    /// The same, when a move began: by the epoch of the set, too.
    before: BTreeMap<(String, u16, u64), VersionVector>,
}

impl Moves {
    /// Disks have lost something: nothing is certain any more.
    pub(super) fn forget(&mut self) {
        self.common.clear();
        self.before.clear();
    }
}

/// Why something is not as it is to be in the end.
type Check = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

impl World {
    /// (R12) Who is recorded as caught up has what all replicas had when it was to join.
    pub(super) fn check_moves(&mut self, statuses: &[Status]) {
        for status in statuses {
            for record in status.placement.regions() {
                let known = self.moves.records.get(&record.region);
                if known.is_none_or(|known| known.version < record.version) {
                    self.recorded(record);
                }
            }
        }
        self.moves.common.clear();
        for record in self.moves.records.values() {
            for (slot, set) in (0..).zip(&record.slots) {
                if let Some(common) = self.common(slot, set) {
                    self.moves.common.insert((record.region.clone(), slot), common);
                }
            }
        }
    }

    /// What all current replicas hold, durable.
    fn common(&self, slot: u16, set: &Replicas) -> Option<VersionVector> {
        let shard = ShardId { placement: 0, slot };
        let mut all = set.current.iter().map(|node| {
            let machine = self.machines.iter().find(|machine| machine.id() == *node)?;
            Some(machine.durable.get(&shard).cloned().unwrap_or_default())
        });
        let first = all.next()??;
        all.try_fold(first, |common, other| {
            let other = other?;
            let least = common.iter().map(|(o, sequence)| (o, sequence.min(other.sequence(o))));
            Some(least.filter(|(_, sequence)| *sequence > 0).collect())
        })
    }

    /// The newest record of a machine's region that was ever seen.
    pub(super) fn recorded_of(&self, at: usize) -> Option<Version> {
        let record = self.moves.records.get(self.machines[at].region);
        record.map(|record| record.version)
    }

    fn recorded(&mut self, record: &RegionPlacement) {
        let before = self.moves.records.insert(record.region.clone(), record.clone());
        for (slot, set) in (0..).zip(&record.slots) {
            let old = before.as_ref().and_then(|before| before.slots.get(usize::from(slot)));
            let Some(old) = old.filter(|old| old.epoch < set.epoch) else { continue };
            let region = record.region.clone();
            // Steps may be seen two at a time: what is known of is what the former set had, and who
            // joins may catch up from who joined it meanwhile.
            if set.next.is_some()
                && set.current == old.current
                && let Some(common) = self.moves.common.get(&(region.clone(), slot))
            {
                self.moves.before.insert((region.clone(), slot, set.epoch), common.clone());
            }
            let Some(due) = self.moves.before.remove(&(region, slot, old.epoch)) else { continue };
            for node in set.current.difference(&old.current) {
                self.check_joined(slot, *node, &due);
            }
        }
    }

    fn check_joined(&mut self, slot: u16, node: NodeId, due: &VersionVector) {
        let shard = ShardId { placement: 0, slot };
        let Some(machine) = self.machines.iter().find(|machine| machine.id() == node) else {
            return;
        };
        let held = machine.durable.get(&shard).is_some_and(|held| held.contains(due));
        if !held && !due.is_empty() {
            let (name, held) = (machine.name(), machine.durable.get(&shard));
            self.ledger.complain(format!(
                "recorded before it had caught up: {name}, {shard}, has {held:?} for {due:?}"
            ));
        }
        self.coverage.hit("replica caught up");
    }

    /// What is not as it is to be in the end; none if all is.
    pub(super) fn unsettled(&self) -> Option<String> {
        let living: Vec<&Machine> = self.machines.iter().filter(|m| !m.gone).collect();
        let check = || {
            let mut statuses = Vec::new();
            for machine in &living {
                let driver = machine.running.as_ref().map(|running| &running.driver);
                let driver = driver.ok_or_else(|| format!("{} is down", machine.name()))?;
                // Somebody always has something to commit; what it holds is not waiting for it.
                let shown = machine.vectors() == machine.durable;
                ensure(shown, || format!("{} is busy", machine.name()))?;
                let core = driver.core();
                ensure(machine.leaving.is_none(), || format!("{} leaves", machine.name()))?;
                statuses.push((*machine, core.status()));
            }
            let placement = &statuses[0].1.placement;
            let starts: BTreeSet<Origin> = statuses.iter().map(|(_, s)| s.me.origin).collect();
            for (machine, status) in &statuses {
                let same = status.placement == *placement;
                ensure(same, || format!("{} knows other records", machine.name()))?;
                self.check_retired(machine, status, &starts)?;
            }
            let regions: BTreeSet<&str> = living.iter().map(|machine| machine.region).collect();
            for region in regions {
                self.check_region(region, &statuses, placement)?;
            }
            for slot in 0..living[0].options.slots {
                check_shard(slot, &living, placement)?;
            }
            self.check_members(&living)
        };
        check().err()
    }

    /// One leader, all nodes seated, every set as large as it should be.
    fn check_region(
        &self,
        region: &str,
        statuses: &[(&Machine, Status)],
        placement: &Arc<Placement>,
    ) -> Check {
        let here = || statuses.iter().map(|(machine, _)| *machine).filter(|m| m.region == region);
        let views: Vec<_> = here().filter_map(|m| Some((m.id(), self.view_of(m)?))).collect();
        let leads = |(id, view): &&(NodeId, _)| -> bool {
            let view: &Arc<atoll_sharding::core::View> = view;
            view.council.leader == Some(*id)
        };
        let leaders = views.iter().filter(leads).count();
        ensure(leaders == 1, || {
            let views = views.iter().map(|(id, view)| format!("{id}: {:?}", view.council));
            format!("{leaders} lead {region}: {}", views.collect::<Vec<_>>().join("; "))
        })?;
        let record = placement.region(region);
        let record = record.ok_or_else(|| format!("{region} has no record"))?;
        let nodes: BTreeSet<NodeId> = here().map(Machine::id).collect();
        let seated: BTreeSet<NodeId> = record.nodes.keys().copied().collect();
        ensure(seated == nodes, || format!("{region} has seats for {seated:?}"))?;
        let factor = usize::from(record.factor).min(nodes.len());
        let whole = |set: &Replicas| {
            set.next.is_none() && set.current.len() == factor && set.current.is_subset(&nodes)
        };
        let short = record.slots.iter().find(|set| !whole(set));
        ensure(short.is_none(), || format!("of {factor} replicas {region} has {short:?}"))
    }

    /// What a machine's council says, for people.
    pub(super) fn council_of(&self, machine: &Machine) -> String {
        let view = self.view_of(machine).map(|view| format!(", {:?}", view.council));
        let status = machine.running.as_ref().map(|running| running.driver.core().status());
        let record = status.and_then(|status| status.placement.region(machine.region).cloned());
        let record = record.map(|record| (record.version, record.slots));
        format!("{}, {record:?}", view.unwrap_or_default())
    }

    /// Every start that ended is retired (R9), and no copy missed that.
    fn check_retired(
        &self,
        machine: &Machine,
        status: &Status,
        starts: &BTreeSet<Origin>,
    ) -> Check {
        let (name, unserved) = (machine.name(), &status.unserved);
        ensure(unserved.is_empty(), || format!("{name} does not serve {unserved:?}"))?;
        let known: BTreeSet<Origin> = status.regions.keys().copied().collect();
        let unlike = known.symmetric_difference(starts).next();
        ensure(unlike.is_none(), || {
            let owner = unlike.and_then(|origin| self.owners.get(origin));
            let of = |record: &RegionPlacement| {
                let end = unlike.and_then(|origin| record.ends.get(origin).cloned());
                (record.region.clone(), end, record.gone.clone())
            };
            let ends: Vec<_> = status.placement.regions().map(of).collect();
            format!("{name} is wrong about {unlike:?}, of {owner:?}: {ends:?}")
        })
    }

    fn view_of(&self, machine: &Machine) -> Option<Arc<atoll_sharding::core::View>> {
        Some(machine.running.as_ref()?.side.as_ref()?.handle.view())
    }

    /// Everyone knows that all who live do, and nobody else.
    fn check_members(&self, living: &[&Machine]) -> Check {
        let all: BTreeSet<NodeId> = living.iter().map(|machine| machine.id()).collect();
        for machine in living {
            let Some(view) = self.view_of(machine) else { continue };
            let states: BTreeMap<NodeId, State> =
                view.members.iter().map(|member| (member.node, member.state)).collect();
            let up: BTreeSet<NodeId> = (states.iter())
                .filter(|(_, state)| **state == State::Up)
                .map(|(node, _)| *node)
                .collect();
            let name = machine.name();
            let unlike = up.symmetric_difference(&all).next();
            ensure(unlike.is_none(), || {
                let state = unlike.and_then(|node| states.get(node));
                let ready = living.iter().map(|other| (other.number, not_ready(other)));
                let ready: Vec<_> = ready.filter(|(_, why)| !why.is_empty()).collect();
                format!("{name} takes {unlike:?} for {state:?}; not ready: {ready:?}")
            })?;
            let stale = states.iter().find(|(node, state)| {
                !all.contains(*node) && !matches!(state, State::Down | State::Gone)
            });
            ensure(stale.is_none(), || format!("{name} knows {stale:?}"))?;
        }
        Ok(())
    }
}

fn not_ready(machine: &Machine) -> Vec<String> {
    let running = machine.running.as_ref();
    running.map(|running| running.driver.core().status().not_ready).unwrap_or_default()
}

/// All replicas of a shard hold the same, and nobody else holds any of it.
fn check_shard(slot: u16, living: &[&Machine], placement: &Placement) -> Check {
    let shard = ShardId { placement: 0, slot };
    let mut first = None;
    for machine in living {
        let Some(running) = &machine.running else { continue };
        let engine = running.driver.core().engine();
        let counts = placement.replicas(machine.region, slot);
        let vector = engine.vector(shard);
        if !counts.is_some_and(|set| set.counts(machine.id())) {
            let empty = vector.is_empty() && engine.is_swept(shard);
            ensure(empty, || format!("{} has not given up {shard}", machine.name()))?;
            continue;
        }
        let digest = engine.digest(shard).0;
        let digest =
            digest.ok_or_else(|| format!("{} has no digest of {shard}", machine.name()))?;
        let (name, held) = first.get_or_insert_with(|| (machine.name(), (vector.clone(), digest)));
        let same = *held == (vector, digest);
        ensure(same, || format!("{shard} differs at {name} and {}", machine.name()))?;
    }
    Ok(())
}
