//! What must hold inside: at every sample, and once all is healed and quiet.
//!
//! What clients can see is left to the judges of histories. What is wrong here goes to the ledger's
//! complaints, and the run goes on: the judges are to have their say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll::node::ReadError;
use atoll_replication::core::Status;
use atoll_store::backend::memory::Memory;
use atoll_store::dot::Origin;
use atoll_store::engine::{Engine, Options, Readiness};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;
use atoll_store::shard::{ShardId, entity_hash};
use futures_util::FutureExt;

use super::clients::Client;
use super::machine::{Machine, Vectors, covers};
use super::world::World;

/// Entities as a node has them.
type Images = BTreeMap<EntityKey, Arc<Image>>;

/// After healing, all must be quiet within this time; and answered, within this time again.
pub(super) const QUIET_MS: u64 = 60_000;
/// Between looks whether it is: not a multiple of what nodes do by the clock.
const LOOK_MS: u64 = 97;

impl World {
    /// Equal vectors, equal contents; closed clocks tell the truth.
    pub(super) fn sample(&mut self) {
        let repairs = self.is_repairing();
        if !repairs {
            self.sample_digests();
        }
        let all: Vec<Vectors> = self.machines.iter().map(Machine::vectors).collect();
        let mut statuses = Vec::new();
        for (machine, own) in self.machines.iter_mut().zip(&all) {
            let Some(running) = &machine.running else { continue };
            let status = running.driver.core().status();
            let (id, region) = (machine.id(), machine.region);
            let serves = |shard: ShardId| {
                let set = status.placement.replicas(region, shard.slot);
                set.is_none_or(|set| set.counts(id)) && !status.unserved.contains(&shard.slot)
            };
            if !repairs && status.diverged > 0 {
                self.ledger.complain(format!("a node saw a divergence: {}", machine.name()));
            }
            let whose = format!("{} at {}", machine.name(), self.time);
            self.ledger.check_closed(&whose, &status.closed, own, &all, serves);
            if status.retired > 0 {
                self.coverage.hit("origin retired");
            }
            if status.waiting > 0 {
                self.coverage.hit("gap waited");
            }
            let before = std::mem::replace(&mut machine.quarantined, status.quarantined);
            if before > 0 && status.quarantined == 0 {
                self.coverage.hit("repaired from a peer");
            }
            statuses.push(status);
        }
        self.check_moves(&statuses);
        self.restart_ended(&statuses);
    }

    /// A start that its cluster has given up ends, and whoever supervises it starts it again.
    fn restart_ended(&mut self, statuses: &[Status]) {
        for status in statuses.iter().filter(|status| status.ended) {
            if let Some(at) = self.machine(status.me.node) {
                self.crash_for(at, 500);
                self.coverage.hit("node given up restarted");
            }
        }
    }

    /// Whether a copy was made to differ.
    pub(super) fn is_repairing(&self) -> bool {
        #[cfg(feature = "mutants")]
        return self.divergence.is_some();
        #[cfg(not(feature = "mutants"))]
        false
    }

    fn sample_digests(&mut self) {
        let running: Vec<_> = self
            .machines
            .iter()
            .filter_map(|machine| {
                Some((machine.number, machine.running.as_ref()?.driver.core().engine()))
            })
            .collect();
        for (place, (one, engine)) in running.iter().enumerate() {
            for (other, peer) in &running[place + 1..] {
                for shard in engine.shards() {
                    let (ours, theirs) = (engine.digest(shard).0, peer.digest(shard).0);
                    let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
                    let alike = engine.roll() == peer.roll();
                    if ours != theirs && alike && engine.vector(shard) == peer.vector(shard) {
                        let whose = format!("{shard} of {one} and {other} at {}", self.time);
                        self.ledger.complain(format!("equal vectors, unequal digests: {whose}"));
                    }
                }
            }
        }
    }

    /// Runs on until every node holds the same.
    pub(super) fn settle(&mut self) {
        if !self.wait(QUIET_MS) {
            return;
        }
        // It stays so, and nobody talks for nothing. What expires meanwhile is removed.
        let (before, nodes) = (self.messages, self.living().count().max(2) as u64);
        self.run_until(self.time + 12_000, false);
        self.wait(2_000);
        let each = (self.messages - before) / (nodes * (nodes - 1));
        if each >= 24 + 2 * 16 {
            let state = self.state();
            self.ledger.complain(format!(
                "not silent when all is quiet: {each} to each peer in 12 s, {state}"
            ));
        }
    }

    /// Runs on until every node holds the same and every client is answered; whether that was
    /// soon enough.
    pub(super) fn wait(&mut self, most_ms: u64) -> bool {
        let most_ms = if self.councils.is_some() { 3 * most_ms } else { most_ms };
        let until = self.time + most_ms;
        while !(self.is_settled() && self.clients.iter().all(Client::is_idle)) {
            if self.time >= until {
                let state = self.state();
                self.ledger.complain(format!("not quiet soon after healing: {state}"));
                return false;
            }
            self.run_until(self.time + LOOK_MS, false);
            self.operate();
        }
        true
    }

    /// Whether every replica holds the same, and shows what it holds.
    fn is_settled(&self) -> bool {
        match self.councils {
            Some(_) => self.unsettled().is_none(),
            None => self.is_same(),
        }
    }

    fn is_same(&self) -> bool {
        let mut all = self.machines.iter().map(|machine| {
            let driver = &machine.running.as_ref()?.driver;
            if driver.has_queued() || driver.has_written() {
                return None;
            }
            let engine = driver.core().engine();
            let digests = engine.shards().map(|shard| Some((shard, engine.digest(shard).0?)));
            Some((machine.vectors(), digests.collect::<Option<Vec<_>>>()?))
        });
        let Some(Some(first)) = all.next() else { return false };
        all.all(|other| other.as_ref() == Some(&first))
    }

    fn state(&self) -> String {
        let mut text = format!("at {}, {:?}", self.time, self.mood);
        if self.councils.is_some() {
            text = format!("{}, {text}", self.unsettled().unwrap_or_default());
        }
        for machine in self.machines.iter().filter(|machine| !machine.gone) {
            let Some(running) = &machine.running else {
                text += &format!("\n{} is down", machine.number);
                continue;
            };
            let engine = running.driver.core().engine();
            for shard in engine.shards() {
                let digest = engine.digest(shard).0.map(|digest| digest as u32);
                let vector = engine.vector(shard);
                text += &format!("\n{} {shard} {digest:?} {vector:?}", machine.number);
            }
            let status = running.driver.core().status();
            let peers = status.peers.iter().filter(|peer| peer.connected);
            let peers: Vec<&str> = peers.map(|peer| peer.name.as_str()).collect();
            let (damaged, waiting) = (engine.quarantined(), status.waiting);
            text += &format!(" damaged {damaged:?}, {waiting} wait, connected to {peers:?}");
            text += &self.council_of(machine);
            text += &format!(
                ", {} arrived, to commit {:?}, to flush {:?}",
                machine.arrivals.len(),
                machine.commit_at,
                machine.flush_at
            );
        }
        text
    }

    /// The workload's final operations, at every node.
    pub(super) fn finish(&mut self) {
        for at in self.living() {
            let client = Client::scripted(at, self.time, self.workload.finals());
            self.clients.push(client);
        }
        self.wait(QUIET_MS);
    }

    /// The end: contents against all operations in order.
    pub(super) fn check_end(&mut self) {
        let (end, all) = loop {
            if !self.wait(20_000) {
                return;
            }
            let end = self.held();
            let all: Option<Vec<_>> = {
                let all: Vec<_> = self.living().map(|at| self.images(at)).collect();
                all.into_iter().collect()
            };
            self.run_until(self.time + 200, false);
            if let Some(all) = all
                && self.is_settled()
                && end == self.held()
            {
                break (end, all);
            }
            // Something expired just now, or was found damaged when it was read.
        };
        let Some(images) = all.iter().cloned().reduce(|mut one, other| {
            one.extend(other);
            one
        }) else {
            return;
        };
        let checks = [
            check_equal(&images, &all),
            self.check_digest(&images),
            self.check_reference(&end, &images),
        ];
        for what in checks.into_iter().filter_map(Result::err) {
            self.ledger.complain(what);
        }
        if self.ledger.has_double_attempt(&end) {
            self.coverage.hit("both attempts of a retry were applied");
        }
    }

    /// What any machine has seen.
    fn held(&self) -> Vectors {
        let mut held = Vectors::new();
        for (shard, vector) in self.machines.iter().flat_map(Machine::vectors) {
            held.entry(shard).or_default().join(&vector);
        }
        held
    }

    /// Every entity that a node serves, as it has it; none if one is damaged there.
    fn images(&mut self, at: usize) -> Option<Images> {
        let mut images = BTreeMap::new();
        for key in self.ledger.keys() {
            let node = self.machines[at].running.as_ref()?.node.clone();
            let mut read = Box::pin(async move {
                let image = node.read(&key).await;
                (key, image)
            });
            let (key, image) = loop {
                if let Some(read) = (&mut read).now_or_never() {
                    break read;
                }
                self.run_until(self.time + 20, false);
            };
            match image {
                Err(ReadError::Elsewhere) => {}
                image => drop(images.insert(key, image.ok()?)),
            }
        }
        Some(images)
    }

    /// The digests kept up are those that the states have.
    fn check_digest(&self, images: &Images) -> Result<(), String> {
        for machine in self.machines.iter().filter(|machine| !machine.gone) {
            let engine = machine.running.as_ref().expect("settled").driver.core().engine();
            for shard in engine.shards() {
                let inside = images.iter().filter(|(key, _)| engine.shard_of(key) == shard);
                let hashes = inside.map(|(key, image)| entity_hash(key, image.entity().sum()));
                let anew = hashes.fold(0u128, u128::wrapping_add);
                if engine.digest(shard).0 != Some(anew) {
                    return Err(format!("a digest is not that of its entities: {shard}"));
                }
            }
        }
        Ok(())
    }

    /// A store that is fed with every operation, in any allowed order, is the same.
    fn check_reference(&self, end: &Vectors, images: &Images) -> Result<(), String> {
        let slots = self.machines[0].options.slots;
        let options = Options { slots, ..Options::default() };
        let backend = Arc::new(Memory::new());
        let mut engine = Engine::open(backend, options, Origin(1)).expect("an empty store opens");
        let running = self.machines.iter().filter_map(|machine| machine.running.as_ref());
        let live: BTreeSet<Origin> = running.map(|running| running.origin).collect();
        let mut rest = Vec::new();
        for (place @ (shard, dot), (operation, bytes)) in &self.ledger.history {
            if covers(end, *place) {
                rest.push((*shard, operation.clone(), bytes.clone()));
            } else if self.councils.is_some() && !live.contains(&dot.origin) {
                // Of a node that was given up, beyond the end of its origin: others may have seen
                // it and named it, but it came to nothing, or was written again.
                let nothing = Operation { parts: Vec::new(), ..operation.clone() };
                let bytes = nothing.encode();
                rest.push((*shard, nothing, bytes));
            }
        }
        while !rest.is_empty() {
            let before = rest.len();
            rest.retain(|(shard, operation, bytes)| {
                if engine.readiness(*shard, operation) == Readiness::Ready {
                    engine.apply(*shard, operation, bytes.clone());
                }
                matches!(engine.readiness(*shard, operation), Readiness::Waits(_))
            });
            if rest.len() == before {
                return Err(format!("operations wait for others that nobody has: {rest:?}"));
            }
        }
        for (key, image) in images {
            let expected = engine.entity(key).expect("sound").clone();
            let (held, wanted) = (image.entity().view(key.kind), expected.view(key.kind));
            if held != wanted || image.entity().sum() != expected.sum() {
                let what = "is not what its operations make";
                return Err(format!("an entity {what}: {key}: {held:?} instead of {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// All nodes hold the same of every entity that they hold.
fn check_equal(images: &Images, all: &[Images]) -> Result<(), String> {
    for (key, image) in images {
        let (ours, kind) = (image.entity(), key.kind);
        let same = |theirs: &Arc<Image>| {
            let theirs = theirs.entity();
            ours.sum() == theirs.sum() && ours.view(kind) == theirs.view(kind)
        };
        if !all.iter().filter_map(|theirs| theirs.get(key)).all(same) {
            return Err(format!("an entity differs between nodes in the end: {key}"));
        }
    }
    Ok(())
}
