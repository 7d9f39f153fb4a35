//! What goes wrong, and how it is put right again.

use atoll_replication::core::Event;
use atoll_replication::transport::memory::{Link, Timing};
use atoll_store::backend::memory::Memory;

use crate::common::entity_records;
use crate::ledger::Vectors;
use crate::world::World;

impl World {
    /// Something goes wrong, or is put right.
    pub fn fault(&mut self) {
        let at = self.random.below(self.machines.len());
        match self.random.below(16) {
            0 => self.crash_for(at, 1_500),
            1 => self.crash_for(at, 6_000),
            2 => self.stop(at),
            3 if self.mood.rollbacks => self.roll_back(at),
            4 if self.mood.rollbacks && self.random.one_in(2) => self.replace_disk(at),
            5 if self.mood.rot => self.rot(),
            6 if self.mood.skew => self.jump(at),
            7 | 8 => self.partition(),
            9 => self.cut(at),
            10 => self.flap(at),
            11..=13 => self.network.heal_all(self.time),
            _ => self.snapshot(at),
        }
    }

    fn crash_for(&mut self, at: usize, most_ms: u64) {
        self.crash(at);
        self.coverage.hit("crash");
        if self.machines[at].restart_at.is_none() {
            self.machines[at].restart_at = Some(self.time + self.random.between(20, most_ms));
        }
    }

    /// A clean stop: checkpoints, and everything is durable.
    fn stop(&mut self, at: usize) {
        let now = self.machines[at].wall(self.time);
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        let events = std::mem::take(&mut machine.events);
        let stepped = node.step(now, events);
        self.ledger.note(machine.origin, &stepped);
        node.run(now, vec![Event::Stop]);
        let last = node.step(now, Vec::new());
        self.ledger.note(machine.origin, &last);
        machine.durable = machine.vectors();
        self.coverage.hit("clean stop");
        self.crash_for(at, 1_500);
    }

    fn snapshot(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.node.is_some() {
            let durable = machine.durable.clone();
            machine.snapshots.push((machine.memory.snapshot(), durable));
        }
    }

    fn roll_back(&mut self, at: usize) {
        if self.machines[at].snapshots.is_empty() {
            return;
        }
        self.crash_for(at, 2_000);
        let which = self.random.below(self.machines[at].snapshots.len());
        let (snapshot, vectors) = self.machines[at].snapshots[which].clone();
        self.machines[at].memory.restore(&snapshot);
        self.lose(at, vectors);
        self.coverage.hit("disk rolled back");
    }

    fn replace_disk(&mut self, at: usize) {
        self.crash_for(at, 2_000);
        self.machines[at].memory = Memory::new();
        self.machines[at].snapshots.clear();
        self.lose(at, Vectors::new());
        self.coverage.hit("disk replaced");
    }

    fn lose(&mut self, at: usize, after: Vectors) {
        let before = std::mem::replace(&mut self.machines[at].durable, after.clone());
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<&Vectors> = others.map(|(_, machine)| &machine.durable).collect();
        let excused = self.ledger.excused.len();
        self.ledger.lose(&before, &after, &others);
        if self.ledger.excused.len() > excused {
            self.coverage.hit("only copy lost");
        }
    }

    /// A bit flips on a disk while its node is down. Only where another disk holds all that this
    /// one does: a damaged only copy is lost, and is not what is tested here.
    fn rot(&mut self) {
        let durable = &self.machines[0].durable;
        let held = |vectors: &Vectors| {
            durable.iter().all(|(shard, vector)| {
                vectors.get(shard).is_some_and(|other| other.contains(vector))
            })
        };
        if !self.machines[1..].iter().any(|machine| held(&machine.durable)) {
            return;
        }
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
    }

    fn partition(&mut self) {
        let alone = self.random.below(self.machines.len());
        let region = self.machines[alone].region;
        let whole = self.random.one_in(2);
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (at, machine) in self.machines.iter().enumerate() {
            let inside = at == alone || (whole && machine.region == region);
            if inside { left.push(machine.id) } else { right.push(machine.id) }
        }
        self.network.partition(self.time, &left, &right);
        self.coverage.hit("partition");
    }

    fn cut(&mut self, at: usize) {
        let to = self.random.below(self.machines.len());
        self.network.cut(self.time, self.machines[at].id, self.machines[to].id);
        self.coverage.hit("one-way cut");
    }

    /// Shorter than a detection: frames are lost, and nobody is told.
    fn flap(&mut self, at: usize) {
        let to = self.random.below(self.machines.len());
        let (from, to) = (self.machines[at].id, self.machines[to].id);
        self.network.cut(self.time, from, to);
        let until = self.time + self.random.between(1, 250);
        self.flaps.push((until, from, to));
    }

    /// Everything is put right: links, clocks, machines.
    pub fn heal(&mut self) {
        self.flaps.clear();
        self.network.heal_all(self.time);
        self.network.set_timing(Timing { detection_ms: (300, 900), reconnection_ms: (10, 300) });
        self.network.set_default_link(Link { delay_max_ms: 40, ..Link::default() });
        for at in 0..self.machines.len() {
            let offset_ms = self.random.between(0, 400) as i64 - 200;
            let machine = &mut self.machines[at];
            machine.offset_ms = offset_ms;
            if machine.node.is_none() && machine.restart_at.is_none() {
                machine.restart_at = Some(self.time + 1);
            }
        }
    }
}
