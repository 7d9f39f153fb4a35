//! What a cluster still holds of what is long gone, after thousands of replaced pods, or of
//! entities that were created and deleted (R9).

use atoll_replication::core::Bounds;
use atoll_replication::transport::memory::{Link, Network};
use atoll_sharding::council::Settings;
use atoll_store::command::{Change, Command, RequestHash};
use atoll_store::engine::Options;
use atoll_store::name::{EntityKey, Kind};
use futures_util::FutureExt;

use super::cluster::Councils;
use super::mood::Mood;
use super::world::World;
use crate::random::Random;
use crate::workloads::g_set::GSet;

/// Few slots: what is counted is counted for each of them.
const SETTINGS: Settings = Settings { factor: 2, slots: 4 };
/// Looks during a run.
const LOOKS: u64 = 50;
/// Between two replaced pods: as long as it takes to give one up, and a little more.
const EVERY_MS: u64 = 30_000;
/// Until the last ones are retired.
const REST_MS: u64 = 120_000;
/// Creates and deletes in one go, and how long there is rest after them: 100,000 a day, so that
/// idempotency keys are forgotten meanwhile.
const GO: u64 = 1_000;
const PAUSE_MS: u64 = 864_000;
/// A log that is trimmed many times.
const LOG_BYTES: u64 = 64 << 10;

/// What a node held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wear {
    /// Pods replaced, or entities created and deleted, so far.
    pub done: u64,
    /// Bytes on its disk.
    pub disk: u64,
    /// Records of entities on it, and of what is to be collected.
    pub records: u64,
    /// Entries of its version vectors.
    pub vectors: u64,
    /// Origins that it knows of and that are not retired.
    pub origins: u64,
    /// Items in a counter that every pod counts in.
    pub items: u64,
    /// Origins on its roll.
    pub retired: u64,
}

/// Replaces pods of two regions of three, one after the other, each by one that writes a little.
pub fn replacements(count: u64) -> Vec<Wear> {
    let councils = Some(Councils::calm(SETTINGS));
    let mut world = calm(Network::dialled(1), councils);
    for region in ["eu", "us"] {
        (0..3).for_each(|_| world.add(region));
    }
    world.run_until(REST_MS, false);
    let mut looks = Vec::new();
    for number in 0..count {
        if number % (count / LOOKS).max(1) == 0 {
            looks.push(world.measure(number));
        }
        // From one region to the other, so that each has time to choose another voter.
        let at = [0, 3, 1, 4, 2, 5][number as usize % 6];
        world.run_until(world.time + EVERY_MS, false);
        world.write(at, &shared(Kind::Counters), Command::Count { plus: 1, minus: 0 }, None);
        world.write(at, &shared(Kind::Sets), member(number % 7), None);
        world.run_until(world.time + 200, false);
        world.replace_pod(at);
    }
    world.run_until(world.time + REST_MS, false);
    looks.push(world.measure(count));
    looks
}

/// Creates and deletes entities at three nodes, half of them under idempotency keys.
pub fn cycles(count: u64) -> Vec<Wear> {
    let mut world = calm(Network::new(1), None);
    ["eu", "us", "ap"].into_iter().for_each(|region| world.add(region));
    world.run_until(REST_MS, false);
    let mut looks = Vec::new();
    for number in 0..count {
        if number % (count / LOOKS).max(1) == 0 {
            looks.push(world.measure(number));
        }
        let (at, kind) = ((number % 3) as usize, [Kind::Counters, Kind::Sets][number as usize % 2]);
        let key = EntityKey::parse(kind, "c", &format!("e{number}")).expect("a valid name");
        let made = match kind {
            Kind::Counters => Command::Count { plus: 1, minus: 0 },
            _ => member(number),
        };
        let hash = (number % 4 > 1).then_some(u128::from(number) << 1);
        world.write(at, &key, made, hash);
        world.write(at, &key, Command::Delete, hash.map(|hash| hash | 1));
        if number % 20 == 19 {
            world.run_until(world.time + 10, false);
        }
        if number % GO == GO - 1 {
            world.run_until(world.time + PAUSE_MS, false);
        }
    }
    world.run_until(world.time + 2 * 100 * PAUSE_MS, false);
    looks.push(world.measure(count));
    looks
}

fn calm(network: Network, councils: Option<Councils>) -> World {
    let mood = Mood { fault_ms: 1, think_ms: 1, ..Mood::default() };
    let workload = Box::new(GSet::default());
    let random = Random::new(1);
    let mut world = World::empty(random, mood, network, Bounds::default(), councils, workload);
    world.network.set_default_link(Link { delay_max_ms: 10, ..Link::default() });
    world.small = Some(Options {
        cache_bytes: 256 << 10,
        log_soft_bytes: LOG_BYTES,
        checkpoint_bytes: LOG_BYTES / 4,
        ..Options::default()
    });
    // Nothing is looked at meanwhile.
    (world.next_sample, world.next_record) = (u64::MAX, u64::MAX);
    world
}

/// An entity that every pod writes to.
fn shared(kind: Kind) -> EntityKey {
    EntityKey::parse(kind, "c", "shared").expect("a valid name")
}

fn member(number: u64) -> Command {
    Command::Members { add: vec![number.to_string().into()], remove: Vec::new() }
}

impl World {
    fn write(&mut self, at: usize, key: &EntityKey, command: Command, hash: Option<u128>) {
        let at = self.holder(at, key).unwrap_or(at);
        let Some(running) = &self.machines[at].running else { return };
        let hash = hash.map(|key| RequestHash { key, request: 1 });
        let change = Change { key: key.clone(), commands: vec![command], hash, ttl_ms: None };
        let node = running.node.clone();
        let _ =
            Box::pin(async move { node.write(vec![change], atoll::node::Demand::default()).await })
                .now_or_never();
    }

    /// The most that any node holds.
    fn measure(&self, done: u64) -> Wear {
        let mut most = Wear { done, ..Wear::default() };
        for machine in &self.machines {
            let Some(running) = &machine.running else { continue };
            let core = running.driver.core();
            let engine = core.engine();
            let (disk, records) = machine.memory.holds();
            let count = |kind: u8| records.get(&kind).copied().unwrap_or(0);
            let vectors = engine.shards().map(|shard| engine.vector(shard).iter().count() as u64);
            let key = shared(Kind::Counters);
            let shared = engine.images().find(|(held, _)| *held == key);
            let items = shared.map_or(0, |(_, image)| image.entity().weight() as u64);
            most.disk = most.disk.max(disk);
            most.records = most.records.max(count(b'e') + count(b'p') + count(b'g') + count(b'x'));
            most.vectors = most.vectors.max(vectors.sum());
            most.origins = most.origins.max(core.status().regions.len() as u64);
            most.items = most.items.max(items);
            most.retired = most.retired.max(u64::from(engine.roll().0));
        }
        most
    }
}
