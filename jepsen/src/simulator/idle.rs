//! What the nodes of a large cluster say while nothing happens.

use std::collections::BTreeMap;

use atoll_replication::core::Bounds;
use atoll_replication::transport::memory::{Link, Network};
use atoll_sharding::council::Settings;
use futures_util::FutureExt;

use super::cluster::Councils;
use super::mood::Mood;
use super::noise;
use super::wire::{Sum, Traffic};
use super::world::World;
use crate::random::Random;
use crate::workloads::g_set::GSet;

/// Names of regions.
const REGIONS: [&str; 8] = ["eu", "us", "ap", "sa", "af", "me", "in", "oz"];
/// What a new cluster sets if nobody says otherwise.
const SETTINGS: Settings = Settings { factor: 3, slots: 64 };
/// Writes before it is idle: so that vectors name many origins.
const WRITES: usize = 2_000;
/// Within this time all is where it is to be.
const PLACED_MS: u64 = 900_000;
/// For how long it is listened.
const LISTEN_MS: u64 = 60_000;
/// What every datagram or frame costs beside itself: headers of QUIC, UDP and IP, and the other
/// end's acknowledgement of it, as if each was a packet of its own.
const PACKET_BYTES: u64 = 100;

/// What was heard.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Nodes.
    pub nodes: u64,
    /// What a node sends in a second, by kind: datagrams and frames, and bytes with what packets
    /// cost.
    pub kinds: BTreeMap<&'static str, (f64, f64)>,
    /// The sum of these.
    pub bytes_sent: f64,
    /// What is not as it should be, if anything is not.
    pub unsettled: Option<String>,
}

/// Listens to a cluster of some regions, of some nodes each, after a few writes.
pub fn idle(regions: usize, nodes: usize) -> Idle {
    let mood = Mood { fault_ms: 1, think_ms: 1, ..Mood::default() };
    let councils = Some(Councils::calm(SETTINGS));
    let (random, network) = (Random::new(1), Network::dialled(1));
    let workload = Box::new(GSet::default());
    let mut world = World::empty(random, mood, network, Bounds::default(), councils, workload);
    world.network.set_default_link(Link { delay_max_ms: 40, ..Link::default() });
    // Nothing is looked at meanwhile.
    (world.next_sample, world.next_record) = (u64::MAX, u64::MAX);
    for region in REGIONS.into_iter().take(regions) {
        (0..nodes).for_each(|_| world.add(region));
    }
    place(&mut world);
    for _ in 0..WRITES {
        let at = world.random.below(world.machines.len());
        let change = noise::change(&mut world.random, false);
        let at = world.holder(at, &change.key).unwrap_or(at);
        if let Some(running) = &world.machines[at].running {
            let node = running.node.clone();
            let _ =
                Box::pin(
                    async move { node.write(vec![change], atoll::node::Demand::default()).await },
                )
                .now_or_never();
        }
        world.run_until(world.time + 5, false);
    }
    place(&mut world);
    let unsettled = world.unsettled();
    world.traffic = Traffic::default();
    world.run_until(world.time + LISTEN_MS, false);
    let each = (regions * nodes) as f64 * LISTEN_MS as f64 / 1_000.0;
    let kind = |(kind, sum): (&&'static str, &Sum)| {
        let bytes = sum.bytes + sum.packets * PACKET_BYTES;
        (*kind, (sum.packets as f64 / each, bytes as f64 / each))
    };
    let kinds: BTreeMap<&str, (f64, f64)> = world.traffic.0.iter().map(kind).collect();
    let bytes_sent = kinds.values().map(|(_, bytes)| bytes).sum();
    Idle { nodes: (regions * nodes) as u64, kinds, bytes_sent, unsettled }
}

/// Waits until all is where it is to be, and said.
fn place(world: &mut World) {
    let until = world.time + PLACED_MS;
    while world.unsettled().is_some() && world.time < until {
        world.run_until(world.time + 5_000, false);
    }
    world.run_until(world.time + 30_000, false);
}
