//! What must hold inside: at every sample, and once all is healed and quiet.
//!
//! What clients can see is left to the judges of histories.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_store::backend::memory::Memory;
use atoll_store::dot::Origin;
use atoll_store::engine::{Engine, Options, Readiness};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::shard::entity_hash;
use futures_util::FutureExt;

use super::clients::Client;
use super::machine::{Machine, Vectors, covers};
use super::world::World;

/// After healing, all must be quiet within this time; and answered, within this time again.
pub(super) const QUIET_MS: u64 = 60_000;

impl World {
    /// Equal vectors, equal contents; closed clocks tell the truth.
    pub(super) fn sample(&mut self) {
        let repairs = self.is_repairing();
        if !repairs {
            self.sample_digests();
        }
        let all: Vec<Vectors> = self.machines.iter().map(Machine::vectors).collect();
        for (machine, own) in self.machines.iter_mut().zip(&all) {
            let Some(running) = &machine.running else { continue };
            let status = running.driver.core().status();
            assert!(repairs || status.diverged == 0, "{} saw a divergence", machine.number);
            self.ledger.check_closed(&status.closed, own, &all);
            if status.waiting > 0 {
                self.coverage.hit("gap waited");
            }
            let before = std::mem::replace(&mut machine.quarantined, status.quarantined);
            if before > 0 && status.quarantined == 0 {
                self.coverage.hit("repaired from a peer");
            }
        }
    }

    /// Whether a copy was made to differ.
    fn is_repairing(&self) -> bool {
        #[cfg(feature = "mutants")]
        return self.divergence.is_some();
        #[cfg(not(feature = "mutants"))]
        false
    }

    fn sample_digests(&self) {
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
                    if engine.vector(shard) == peer.vector(shard) {
                        assert_eq!(
                            ours, theirs,
                            "at {}: {one} and {other} are equal in {shard} and differ",
                            self.time
                        );
                    }
                }
            }
        }
    }

    /// Runs on until every node holds the same.
    pub(super) fn settle(&mut self) {
        self.wait(QUIET_MS);
        // It stays so, and nobody talks for nothing. What expires meanwhile is removed.
        let (before, nodes) = (self.messages, self.machines.len() as u64);
        self.run_until(self.time + 12_000, false);
        self.wait(2_000);
        let each = (self.messages - before) / (nodes * (nodes - 1));
        assert!(each < 24 + 2 * 16, "{each} messages to each peer in 12 quiet s{}", self.state());
    }

    pub(super) fn wait(&mut self, most_ms: u64) {
        let until = self.time + most_ms;
        while !(self.is_settled() && self.clients.iter().all(Client::is_idle)) {
            assert!(self.time < until, "not quiet {most_ms} ms after healing{}", self.state());
            self.run_until(self.time + 500, false);
        }
    }

    fn is_settled(&self) -> bool {
        let mut all = self.machines.iter().map(|machine| {
            let engine = machine.running.as_ref()?.driver.core().engine();
            let digests = engine.shards().map(|shard| Some((shard, engine.digest(shard).0?)));
            Some((machine.vectors(), digests.collect::<Option<Vec<_>>>()?))
        });
        let Some(Some(first)) = all.next() else { return false };
        all.all(|other| other.as_ref() == Some(&first))
    }

    fn state(&self) -> String {
        let mut text = format!(" at {}, {:?}", self.time, self.mood);
        for machine in &self.machines {
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
        for at in 0..self.machines.len() {
            let client = Client::scripted(at, self.time, self.workload.finals());
            self.clients.push(client);
        }
        self.wait(QUIET_MS);
    }

    /// The end: contents against all operations in order.
    pub(super) fn check_end(&mut self) {
        let (end, mut all) = loop {
            let end = self.machines[0].vectors();
            let all = (0..self.machines.len()).map(|at| self.images(at));
            let all: Option<Vec<_>> = all.collect::<Vec<_>>().into_iter().collect();
            self.run_until(self.time + 200, false);
            if let Some(all) = all
                && self.is_settled()
                && end == self.machines[0].vectors()
            {
                break (end, all);
            }
            // Something expired just now, or was found damaged when it was read.
            self.wait(20_000);
        };
        let images = all.remove(0);
        for (at, others) in (1..).zip(&all) {
            for (key, image) in &images {
                let (ours, theirs) = (image.entity(), others[key].entity());
                assert_eq!(ours.sum(), theirs.sum(), "{key} differs at {at}");
                assert_eq!(ours.view(key.kind), theirs.view(key.kind), "{key} at {at}");
            }
        }
        self.check_digest(&images);
        self.check_reference(&end, &images);
        if self.ledger.has_double_attempt(&end) {
            self.coverage.hit("both attempts of a retry were applied");
        }
    }

    /// Every entity as a node has it; none if one is damaged there.
    fn images(&mut self, at: usize) -> Option<BTreeMap<EntityKey, Arc<Image>>> {
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
            images.insert(key, image.ok()?);
        }
        Some(images)
    }

    /// The digests kept up are those that the states have.
    fn check_digest(&self, images: &BTreeMap<EntityKey, Arc<Image>>) {
        let running = self.machines[0].running.as_ref().expect("settled");
        let engine = running.driver.core().engine();
        for shard in engine.shards() {
            let inside = images.iter().filter(|(key, _)| engine.shard_of(key) == shard);
            let hashes = inside.map(|(key, image)| entity_hash(key, image.entity().sum()));
            let anew = hashes.fold(0u128, u128::wrapping_add);
            assert_eq!(engine.digest(shard).0, Some(anew), "the digest of {shard} drifted");
        }
    }

    /// A store that is fed with every operation, in any allowed order, is the same.
    fn check_reference(&self, end: &Vectors, images: &BTreeMap<EntityKey, Arc<Image>>) {
        let options = Options { slots: 3, ..Options::default() };
        let backend = Arc::new(Memory::new());
        let mut engine = Engine::open(backend, options, Origin(1)).expect("an empty store opens");
        let all = self.ledger.history.iter().filter(|(place, _)| covers(end, **place));
        let mut rest: Vec<_> = all.collect();
        while !rest.is_empty() {
            let before = rest.len();
            rest.retain(|((shard, _), (operation, bytes))| {
                if engine.readiness(*shard, operation) == Readiness::Ready {
                    engine.apply(*shard, operation, bytes.clone());
                }
                matches!(engine.readiness(*shard, operation), Readiness::Waits(_))
            });
            assert!(rest.len() < before, "operations wait for others that nobody has: {rest:?}");
        }
        for (key, image) in images {
            let expected = engine.entity(key).expect("sound").clone();
            let (held, wanted) = (image.entity().view(key.kind), expected.view(key.kind));
            assert_eq!(held, wanted, "{key} is not what its operations make");
            assert_eq!(image.entity().sum(), expected.sum(), "{key}: hidden state");
        }
    }
}
