//! What goes wrong, and how it is put right again.

use atoll_replication::transport::NodeId;
use atoll_replication::transport::memory::Link;
use atoll_store::backend::Backend;
use atoll_store::backend::memory::Memory;
use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::json;

use super::machine::{Copy, Vectors};
use super::world::{RESERVE, TIMING, World};

/// In worlds with councils one fault of so many is to the set of machines.
const PODS: usize = 7;

impl World {
    /// Something goes wrong, or is put right.
    pub(super) fn fault(&mut self) {
        if self.councils.is_some() && self.random.one_in(PODS) {
            return self.pod_fault();
        }
        let Some(at) = self.pick_living() else { return };
        match self.random.below(20) {
            0 => self.crash_for(at, 1_500),
            1 => self.crash_for(at, 6_000),
            2 => self.stop(at),
            3 if self.mood.rollbacks => self.roll_back(at),
            4 if self.mood.rollbacks && self.random.one_in(2) => self.replace_disk(at),
            4 if self.mood.pods => self.replace_pod(at),
            3..=5 if self.mood.rot => self.rot(),
            6 if self.mood.skew => self.jump(at),
            7 | 8 => self.partition(),
            9 => self.cut(at),
            10 => self.flap(at),
            11 => self.pause(at),
            12 => self.clog(at),
            13 if self.machines.len() > 3 => self.ring(),
            14 if self.mood.full_disks => self.fill(at),
            15..=17 => self.network.heal_all(self.time),
            _ => self.snapshot(at),
        }
    }

    pub(super) fn note(&mut self, f: &str, at: usize) {
        let value = json!({ "phase": "begin", "nodes": [self.machines[at].name()] });
        self.recorder.nemesis(self.nanos(), f, value);
    }

    /// Ends a node as a crash does; it starts again some time later.
    pub(super) fn crash_for(&mut self, at: usize, most_ms: u64) {
        self.note("kill", at);
        self.crash(at);
        self.coverage.hit("crash");
        let machine = &mut self.machines[at];
        // Whoever operates it frees a full disk before it is started again.
        machine.memory.set_free_space(Some(u64::MAX));
        if machine.restart_at.is_none() {
            machine.restart_at = Some(self.time + self.random.between(20, most_ms));
        }
    }

    /// A clean stop: checkpoints, and everything is durable.
    pub(super) fn stop(&mut self, at: usize) {
        if !self.machines[at].is_up(self.time) {
            return;
        }
        self.say_goodbye(at);
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        let node = running.node.clone();
        let mut stop = Box::pin(async move { node.stop().await });
        let asked = (&mut stop).now_or_never();
        let turned = running.driver.step(std::mem::take(&mut machine.arrivals));
        self.ledger.note(&turned.logged);
        let driver = &mut running.driver;
        let durable = driver.commit().and_then(|()| driver.flush()).is_ok();
        if durable {
            assert!(asked.is_none() && stop.now_or_never().is_some(), "a stop is told when done");
            machine.durable = machine.vectors();
            self.coverage.hit("clean stop");
        }
        self.crash_for(at, 1_500);
    }

    fn snapshot(&mut self, at: usize) {
        if self.machines[at].running.is_none() {
            return;
        }
        let alone_at = self.votes_alone(at).then(|| self.record_of(at));
        let machine = &mut self.machines[at];
        let (disk, vectors) = (machine.memory.snapshot(), machine.durable.clone());
        machine.snapshots.push(Copy { disk, vectors, alone_at });
    }

    fn roll_back(&mut self, at: usize) {
        if self.machines[at].snapshots.is_empty() || !self.may_forget(at) {
            return;
        }
        let which = self.random.below(self.machines[at].snapshots.len());
        let copy = self.machines[at].snapshots[which].clone();
        // A voter that was alone asks nobody whether its disk is the newest (R13): a copy of it
        // goes on from a state that others know the successors of, and records other ones under
        // their versions. That is not promised; `docs/council.md` says so.
        // What it has recorded since may be on its way to them.
        let elsewhere = self.newest_elsewhere(at).map(|record| record.version);
        let newest = elsewhere.max(self.record_of(at)).max(self.recorded_of(at));
        if copy.alone_at.is_some_and(|version| version != newest) {
            return;
        }
        self.note("restore", at);
        self.crash_for(at, 2_000);
        self.machines[at].memory.restore(&copy.disk);
        self.lose(at, copy.vectors);
        self.coverage.hit("disk rolled back");
    }

    fn replace_disk(&mut self, at: usize) {
        if !self.may_forget(at) {
            return;
        }
        self.note("replace", at);
        self.crash_for(at, 2_000);
        self.empty_disk(at);
        self.coverage.hit("disk replaced");
    }

    pub(super) fn empty_disk(&mut self, at: usize) {
        self.machines[at].memory = Memory::new();
        self.machines[at].snapshots.clear();
        self.lose(at, Vectors::new());
    }

    pub(super) fn lose(&mut self, at: usize, after: Vectors) {
        self.machines[at].durable = after;
        let newest = self.newest_elsewhere(at);
        let sets = newest.iter().flat_map(|record| (0..).zip(&record.slots));
        self.machines[at].doubted = sets.map(|(slot, set)| (slot, set.epoch)).collect();
        self.moves.forget();
        self.record_loss(at, newest.as_ref());
        let held: Vec<&Vectors> = self.machines.iter().map(|machine| &machine.durable).collect();
        if self.ledger.lose(&held) > 0 {
            self.coverage.hit("only copy lost");
        }
        let bound = self.clients.iter_mut().filter(|client| client.home == at);
        bound.for_each(|client| client.renew = true);
    }

    /// A bit flips on a disk while its node is down. Only where another disk holds all that this
    /// one does: a damaged only copy is lost, and is not what is tested here.
    fn rot(&mut self) {
        if self.machines[0].gone {
            return;
        }
        let durable = &self.machines[0].durable;
        let held = |vectors: &Vectors| {
            durable.iter().all(|(shard, vector)| {
                vectors.get(shard).is_some_and(|other| other.contains(vector))
            })
        };
        if !self.machines[1..].iter().any(|machine| held(&machine.durable)) {
            return;
        }
        self.note("corrupt", 0);
        self.crash_for(0, 1_500);
        let records = entity_records(&self.machines[0].memory);
        if !records.is_empty() {
            let (record, bit) = (self.random.pick(&records).clone(), self.random.below(10_000));
            self.machines[0].memory.corrupt(&record, bit);
            self.coverage.hit("record damaged");
        }
    }

    /// A clock is set: within what is allowed, or far ahead.
    fn jump(&mut self, at: usize) {
        let before = self.machines[at].offset_ms;
        let offset_ms = match self.random.below(3) {
            0 => self.random.between(700, 20_000) as i64,
            _ => self.random.between(0, 400) as i64 - 200,
        };
        if offset_ms < before {
            self.coverage.hit("clock jumped back");
        }
        self.machines[at].offset_ms = offset_ms;
        self.machines[at].show_time(self.time);
    }

    /// A node stops for a while: nothing of it moves, and what is sent to it waits.
    fn pause(&mut self, at: usize) {
        if self.machines[at].is_up(self.time) {
            self.note("pause", at);
            let ms = self.random.between(50, 4_000);
            self.machines[at].paused_until = Some(self.time + ms);
            self.coverage.hit("pause");
        }
    }

    /// A disk runs full: below its reserve, or to the last byte.
    fn fill(&mut self, at: usize) {
        self.note("full-disk", at);
        let free = if self.random.one_in(3) { self.random.between(0, 200) } else { RESERVE - 1 };
        let full = self.machines[at].memory.free_space();
        let full = full.is_ok_and(|free| free.is_some_and(|free| free < RESERVE));
        self.machines[at].memory.set_free_space(Some(if full { u64::MAX } else { free }));
    }

    fn partition(&mut self) {
        let Some(alone) = self.pick_living() else { return };
        let region = self.machines[alone].region;
        let whole = self.random.one_in(2);
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (at, machine) in self.machines.iter().enumerate() {
            let inside = at == alone || (whole && machine.region == region);
            if inside { left.push(machine.id()) } else { right.push(machine.id()) }
        }
        self.network.partition(self.time, &left, &right);
        self.coverage.hit("partition");
    }

    /// Every node sees a majority, and no two see the same one.
    fn ring(&mut self) {
        let ids: Vec<NodeId> = self.machines.iter().map(|machine| machine.id()).collect();
        let count = ids.len();
        for (place, one) in ids.iter().enumerate() {
            for (other_place, other) in ids.iter().enumerate().skip(place + 1) {
                let apart = (other_place - place).min(count - (other_place - place));
                if apart > count / 4 + usize::from(count > 4) {
                    self.network.partition(self.time, &[*one], &[*other]);
                }
            }
        }
        self.coverage.hit("ring of majorities");
    }

    fn cut(&mut self, at: usize) {
        let to = self.random.below(self.machines.len());
        self.network.cut(self.time, self.machines[at].id(), self.machines[to].id());
        self.coverage.hit("one-way cut");
    }

    /// Shorter than a detection: frames are lost, and nobody is told.
    fn flap(&mut self, at: usize) {
        let to = self.random.below(self.machines.len());
        let (from, to) = (self.machines[at].id(), self.machines[to].id());
        self.network.cut(self.time, from, to);
        let until = self.time + self.random.between(1, 250);
        self.flaps.push((until, from, to));
    }

    /// A link becomes slow, for as long as the run goes on.
    fn clog(&mut self, at: usize) {
        let to = self.random.below(self.machines.len());
        let delay_max_ms = self.random.between(200, 1_500);
        let link = Link { delay_min_ms: delay_max_ms / 2, delay_max_ms, ..Link::default() };
        self.network.set_link(self.machines[at].id(), self.machines[to].id(), link);
        self.coverage.hit("link clogged");
    }

    /// Everything is put right: links, clocks, disks, machines.
    pub(super) fn heal(&mut self) {
        self.flaps.clear();
        self.network.heal_all(self.time);
        self.network.set_timing(TIMING);
        let quiet = Link { delay_max_ms: 40, ..Link::default() };
        self.network.set_default_link(quiet);
        let ids: Vec<NodeId> = self.machines.iter().map(|machine| machine.id()).collect();
        for from in &ids {
            ids.iter().for_each(|to| self.network.set_link(*from, *to, quiet));
        }
        for machine in &mut self.machines {
            machine.offset_ms = self.random.between(0, 400) as i64 - 200;
            machine.drift_ppm = 0;
            machine.paused_until = None;
            machine.memory.set_free_space(Some(u64::MAX));
            if machine.running.is_none() && machine.restart_at.is_none() && !machine.gone {
                machine.restart_at = Some(self.time + 1);
            }
        }
        self.recorder.nemesis(self.time * 1_000_000, "healed", json!({ "phase": "end" }));
    }
}

/// The keys of entity records on a disk.
fn entity_records(memory: &Memory) -> Vec<Bytes> {
    let records = memory.scan(b"e", b"f", usize::MAX).expect("memory can be read");
    records.into_iter().map(|(key, _)| key).collect()
}
