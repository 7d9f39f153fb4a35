//! What must hold: at every sample, and once all is healed and quiet.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_store::backend::memory::Memory;
use atoll_store::command::View;
use atoll_store::dot::Origin;
use atoll_store::engine::{Engine, Options, Readiness};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::shard::entity_hash;

use crate::ledger::{Vectors, all_keys, covers, keyed_key, sum_key, unique_keys};
use crate::world::World;

/// After healing, all must be quiet within this time.
const QUIET_MS: u64 = 60_000;

impl World {
    /// Equal vectors, equal contents.
    pub fn sample(&mut self) {
        let running: Vec<_> = self
            .machines
            .iter()
            .filter_map(|machine| Some((machine.number, machine.node.as_ref()?.core.engine())))
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
    pub fn settle(&mut self) {
        self.wait(QUIET_MS);
        // It stays so, and nobody talks for nothing. What expires meanwhile is removed.
        let (before, nodes) = (self.messages, self.machines.len() as u64);
        self.run_until(self.time + 12_000, false);
        self.wait(2_000);
        let each = (self.messages - before) / (nodes * (nodes - 1));
        assert!(each < 24 + 2 * 16, "{each} messages to each peer in 12 quiet s{}", self.state());
    }

    fn wait(&mut self, most_ms: u64) {
        let until = self.time + most_ms;
        while !self.is_settled() {
            assert!(self.time < until, "not quiet {most_ms} ms after healing{}", self.state());
            self.run_until(self.time + 500, false);
        }
    }

    fn is_settled(&self) -> bool {
        let mut all = self.machines.iter().map(|machine| {
            let engine = machine.node.as_ref()?.core.engine();
            let digests = engine.shards().map(|shard| Some((shard, engine.digest(shard).0?)));
            Some((machine.vectors(), digests.collect::<Option<Vec<_>>>()?))
        });
        let Some(Some(first)) = all.next() else { return false };
        all.all(|other| other.as_ref() == Some(&first))
    }

    fn state(&self) -> String {
        let mut text = format!(" at {}, {:?}", self.time, self.mood);
        for machine in &self.machines {
            let Some(node) = &machine.node else {
                text += &format!("\n{} is down", machine.number);
                continue;
            };
            let engine = node.core.engine();
            for shard in engine.shards() {
                let digest = engine.digest(shard).0.map(|digest| digest as u32);
                let vector = engine.vector(shard);
                text += &format!("\n{} {shard} {digest:?} {vector:?}", machine.number);
            }
            let (damaged, peers) = (engine.quarantined(), &machine.connected);
            text += &format!(" damaged {damaged:?}, connected to {peers:?}");
        }
        text
    }

    /// The end: contents against what clients were told, and against all operations in order.
    pub fn check_end(&mut self) {
        let (end, mut all) = loop {
            let end = self.machines[0].vectors();
            let all = (0..self.machines.len()).map(|at| self.images(at));
            let all: Option<Vec<_>> = all.collect::<Vec<_>>().into_iter().collect();
            if let Some(all) = all
                && self.is_settled()
                && end == self.machines[0].vectors()
            {
                break (end, all);
            }
            // Something expired just now, or was found damaged when it was read.
            self.wait(20_000);
        };
        self.ledger.check_nothing_lost(&end);
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
        let view = |key: &EntityKey| images[key].entity().view(key.kind);
        for key in unique_keys() {
            let expected = self.ledger.expected_members(&key, &end);
            let shown = match view(&key) {
                Some(View::Set(members)) => members,
                _ => Vec::new(),
            };
            assert_eq!(shown, expected, "members of {key}");
        }
        let count = |key: &EntityKey| match view(key) {
            Some(View::Counter(sum)) => sum,
            _ => 0,
        };
        assert_eq!(count(&sum_key()), self.ledger.expected_sum(&end), "sum of increments");
        assert_eq!(count(&keyed_key()), self.ledger.expected_keyed(&end), "sum of requests");
        let twice = |places: &std::collections::BTreeSet<_>| {
            places.iter().filter(|place| covers(&end, **place)).count() > 1
        };
        if self.ledger.attempts.values().any(twice) {
            self.coverage.hit("both attempts of a retry were applied");
        }
    }

    /// Every entity as a node has it; none if one is damaged there.
    fn images(&mut self, at: usize) -> Option<BTreeMap<EntityKey, Arc<Image>>> {
        let machine = &mut self.machines[at];
        let now = machine.wall(self.time);
        let node = machine.node.as_mut().expect("settled");
        let image = |key: EntityKey| Some((key.clone(), node.image(now, &key)?));
        let images = all_keys().into_iter().map(image).collect();
        let stepped = node.step(now, Vec::new());
        self.ledger.note(machine.origin, &stepped);
        machine.pending.push(machine.vectors());
        images
    }

    /// The digests kept up are those that the states have.
    fn check_digest(&self, images: &BTreeMap<EntityKey, Arc<Image>>) {
        let engine = self.machines[0].node.as_ref().expect("settled").core.engine();
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
