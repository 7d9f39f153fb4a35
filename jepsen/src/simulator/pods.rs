//! Machines that come, leave, die for good and are replaced; and an operator who gives some up.
//!
//! A machine dies for good only where every shard of its region has another sound replica, that
//! stays: a region that lost all of them has nothing to move.

use atoll_replication::placement::{RegionPlacement, Replicas};
use atoll_replication::transport::NodeId;
use atoll_store::backend::memory::Memory;
use futures_util::FutureExt;

use super::machine::{Leaving, Machine, Vectors};
use super::world::World;

/// Machines at a time.
const MACHINES: usize = 15;

impl World {
    /// Something happens to the set of machines.
    pub(super) fn pod_fault(&mut self) {
        let Some(at) = self.pick_living() else { return };
        match self.random.below(8) {
            0 | 1 => self.join_pod(at),
            2 | 3 => self.leave_pod(at),
            4 | 5 if self.mood.deaths => self.replace_pod(at),
            4..=6 => self.crash_for_long(at),
            _ => {
                self.crash_for_long(at);
                let due = self.time + self.random.between(3_000, 6_000);
                let id = self.machines[at].id();
                self.councils.iter_mut().for_each(|councils| councils.evictions.push((due, id)));
            }
        }
    }

    /// A machine that is not gone for good.
    pub(super) fn pick_living(&mut self) -> Option<usize> {
        let living: Vec<usize> = self.living().collect();
        (!living.is_empty()).then(|| *self.random.pick(&living))
    }

    /// Machines that are not gone for good.
    pub(super) fn living(&self) -> impl Iterator<Item = usize> + use<> {
        let gone: Vec<bool> = self.machines.iter().map(|machine| machine.gone).collect();
        (0..gone.len()).filter(move |at| !gone[*at])
    }

    /// A new machine with an empty disk, in the region of another.
    fn join_pod(&mut self, beside: usize) {
        if self.living().count() < MACHINES {
            let region = self.machines[beside].region;
            self.add(region);
            self.coverage.hit("node joined");
            self.tell_discovered();
        }
    }

    /// A machine is told to hand off what it holds.
    fn leave_pod(&mut self, at: usize) {
        let mates =
            self.living().filter(|other| self.machines[*other].region == self.machines[at].region);
        let alone = mates.count() < 2 || !self.may_die(at);
        if alone || self.machines[at].leaving.is_some() {
            return;
        }
        if let Some(handle) = self.side(at).map(|side| side.handle.clone()) {
            let mut release: std::pin::Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(async move { handle.leave().await });
            let released = (&mut release).now_or_never().is_some();
            let until = self.time + self.random.between(4_000, 15_000);
            self.machines[at].leaving = Some(Leaving { release, released, until });
            self.turn_cluster(at, true);
        }
    }

    /// Longer than a region waits before it replaces a node.
    fn crash_for_long(&mut self, at: usize) {
        self.crash_for(at, 20);
        self.machines[at].restart_at = Some(self.time + self.random.between(5_000, 14_000));
        self.coverage.hit("long crash");
    }

    /// A new pod, with a name and an empty disk of its own, takes the place of another for good.
    pub(super) fn replace_pod(&mut self, at: usize) {
        if !self.may_die(at) {
            return;
        }
        self.note("replace", at);
        self.crash_for(at, 2_000);
        self.machines[at].number = self.next_number;
        self.next_number += 1;
        self.empty_disk(at);
        self.coverage.hit("pod replaced");
        self.tell_discovered();
    }

    /// Whether a region can go on without a machine and its disk.
    pub(super) fn may_die(&self, at: usize) -> bool {
        self.councils.is_none() || self.spares(at, |_| false)
    }

    /// Whether a region can go on if a machine loses its disk: its council knows no better than to
    /// strike it out of its sets, where these name anyone else.
    pub(super) fn may_forget(&self, at: usize) -> bool {
        let id = self.machines[at].id();
        let stays = |set: &Replicas| !set.counts(id) || set.current.len() == 1;
        self.councils.is_none() || self.spares(at, stays)
    }

    /// Whether the record of a machine's region does not go with its disk, and every set of it has
    /// another living replica whose disk is the one that was recorded; but for some.
    fn spares(&self, at: usize, but: impl Fn(&Replicas) -> bool) -> bool {
        let dies = &self.machines[at];
        let stays = |other: &&Machine| {
            !other.gone && other.leaving.is_none() && other.number != dies.number
        };
        let others: Vec<&Machine> = self.machines.iter().filter(stays).collect();
        let held = |(slot, set): (u16, &Replicas)| {
            // Of a disk that was replaced the council may not know yet.
            let known =
                |other: &&&Machine| other.doubted.get(&slot).is_none_or(|epoch| *epoch < set.epoch);
            let mut sound = others.iter().filter(known);
            but(set) || sound.any(|other| set.current.contains(&other.id()))
        };
        let newest = self.newest_elsewhere(at);
        newest.is_some_and(|record| (0..).zip(&record.slots).all(held))
    }

    /// The newest record of a machine's region that other nodes know.
    pub(super) fn newest_elsewhere(&self, at: usize) -> Option<RegionPlacement> {
        let region = self.machines[at].region;
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != at);
        let records = others.filter_map(|(_, machine)| {
            let status = machine.running.as_ref()?.driver.core().status();
            status.placement.region(region).cloned()
        });
        records.max_by_key(|record| record.version)
    }

    /// Goes on with machines that leave, and with what operators have decided.
    pub(super) fn tend_pods(&mut self) {
        let Some(councils) = &mut self.councils else { return };
        let time = self.time;
        let (due, later) =
            std::mem::take(&mut councils.evictions).into_iter().partition(|(at, _)| *at <= time);
        councils.evictions = later;
        for (_, node) in due as Vec<(u64, NodeId)> {
            self.evict(node);
        }
        for at in 0..self.machines.len() {
            let machine = &mut self.machines[at];
            let Some(leaving) = &mut machine.leaving else { continue };
            leaving.released = leaving.released || (&mut leaving.release).now_or_never().is_some();
            let (released, late) = (leaving.released, leaving.until <= time);
            if !machine.is_up(time) {
                continue;
            }
            let handed_off = released && machine.vectors().is_empty();
            if handed_off {
                self.coverage.hit("node left");
                self.end_pod(at);
            } else if late && self.mood.deaths && self.may_die(at) {
                self.coverage.hit("node left too soon");
                self.end_pod(at);
            }
        }
    }

    /// A machine that was to leave ends, with its disk.
    fn end_pod(&mut self, at: usize) {
        self.note("replace", at);
        self.stop(at);
        self.machines[at].restart_at = None;
        self.machines[at].gone = true;
        self.machines[at].memory = Memory::new();
        self.machines[at].snapshots.clear();
        self.lose(at, Vectors::new());
        self.rehome(at);
        self.tell_discovered();
    }

    /// Clients of a machine that is gone go to another, of its region if there is one.
    fn rehome(&mut self, from: usize) {
        let region = self.machines[from].region;
        let living: Vec<usize> = self.living().collect();
        let near: Vec<usize> =
            living.iter().copied().filter(|at| self.machines[*at].region == region).collect();
        let to = *self.random.pick(if near.is_empty() { &living } else { &near });
        let bound = self.clients.iter_mut().filter(|client| client.home == from);
        bound.for_each(|client| client.home = to);
    }

    fn evict(&mut self, node: NodeId) {
        let Some(lost) = self.machine(node).filter(|lost| self.may_die(*lost)) else { return };
        let here: Vec<usize> = self.here(self.machines[lost].region).collect();
        let Some(at) = here.into_iter().find(|at| self.machines[*at].id() != node) else { return };
        let Some(handle) = self.side(at).map(|side| side.handle.clone()) else { return };
        let mut asked = Box::pin(async move { handle.evict(node).await });
        let _ = (&mut asked).now_or_never();
        self.turn_cluster(at, true);
        if let Some(Ok(Ok(()))) = asked.now_or_never() {
            self.coverage.hit("node evicted");
        }
    }
}
