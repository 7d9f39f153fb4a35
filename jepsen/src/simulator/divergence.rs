//! A copy that lost the effect of an operation, though its vector covers it: the product has to
//! notice by digests, and to repair it.
//!
//! It strikes once all is quiet: while states are transferred, what one copy lacks and its vector
//! covers counts as removed, and is gone everywhere; which no store can tell from a remove.

use atoll_store::command::{Change, Command, Value};
use atoll_store::mutant;
use atoll_store::name::{EntityKey, Kind};

use super::ask;
use super::checks::QUIET_MS;
use super::noise;
use super::world::World;

/// Where the loss of an effect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divergence {
    /// The next operation at this machine on the entity that is written for it is lost.
    Waits(usize),
    /// It was.
    Struck,
}

impl World {
    /// In one run of four a machine loses an operation's effect; waits until that is repaired.
    pub(super) fn diverge(&mut self) {
        if !self.random.one_in(4) || !self.ledger.complaints.is_empty() {
            return;
        }
        let key = entity();
        let holders = self.living().filter(|at| self.holder(*at, &key) == Some(*at));
        let holders: Vec<usize> = holders.collect();
        let victim = holders[1 + self.random.below(holders.len() - 1)];
        self.divergence = Some(Divergence::Waits(victim));
        let running = self.machines[holders[0]].running.as_ref().expect("settled");
        let add = vec![Value::from_static(b"\"lost\"")];
        let commands = vec![Command::Members { add, remove: Vec::new() }];
        let mut pending =
            ask::write(&running.node, Change { key, commands, hash: None, ttl_ms: None });
        let until = self.time + QUIET_MS;
        let mut written = false;
        while !written || self.divergence != Some(Divergence::Struck) {
            if self.time >= until {
                self.ledger.complain("a write among quiet nodes does not come through".into());
                return;
            }
            self.run_until(self.time + 20, false);
            written = written || pending.poll(0).is_some();
        }
        if !self.wait(QUIET_MS) {
            return;
        }
        let running = self.machines.iter().filter_map(|machine| machine.running.as_ref());
        let noticed = running.map(|running| running.driver.core().status().diverged).sum::<u64>();
        match noticed {
            0 => self.ledger.complain("a divergence is gone, and nobody saw it".into()),
            _ => self.coverage.hit("divergence repaired"),
        }
    }

    /// Before a step of a machine: the next operation that it applies may be lost.
    pub(super) fn before_step(&self, at: usize) {
        if self.divergence == Some(Divergence::Waits(at)) {
            mutant::diverge_next(entity());
        }
    }

    /// After it: whether one was.
    pub(super) fn after_step(&mut self, at: usize) {
        if self.divergence == Some(Divergence::Waits(at)) && !mutant::cancel_divergence() {
            self.divergence = Some(Divergence::Struck);
        }
    }
}

/// What is written for the fault. Any other operation might have had no effect to lose, or be done
/// again soon, as what removes what expired is.
fn entity() -> EntityKey {
    EntityKey::parse(Kind::Sets, noise::COLLECTION, "lost").expect("a valid name")
}
