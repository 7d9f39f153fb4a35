//! The cluster core beside each node: membership, the region's council, and who dials whom.
//!
//! Invariants:
//! 1. A region forms once, by its first machine; every other one waits to be admitted.
//! 2. A core is turned by the clock of its machine, and commits to the disk of its node.
//! 3. Nobody else leads in a term in which a node was seen to lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll::node::Node;
use atoll_replication::placement::Version;
use atoll_replication::transport::{Arrival, Class, NodeId};
use atoll_sharding::core::{Cluster, REPLICA, View};
use atoll_sharding::council::{Council, Identity, Limits, Options, Roles, Settings};
use atoll_sharding::driver::{Driver, Handle, Parts};
use atoll_sharding::membership::{Config, Membership, Timing};
use futures_util::FutureExt;

use super::machine::Outbox;
use super::world::World;
use crate::random::Random;

/// How patient councils are: less than real ones, so that more happens.
const LIMITS: Limits = Limits { replace_after_ms: 3_000, forget_after_ms: 20_000, moves: 4 };
/// A core that nothing came for is turned after this, as its thread would do.
const TURN_MS: u64 = 100;
/// A region whose council nobody has led for so long is re-formed by an operator.
const LEADERLESS_MS: u64 = 15_000;
/// Zones of a region.
const ZONES: [&str; 3] = ["a", "b", "c"];

/// What a world knows of its councils.
pub(super) struct Councils {
    settings: Settings,
    /// Nodes are told of pods that come and go; else of those that were there at their start.
    discovers: bool,
    zones: usize,
    /// Regions that were formed.
    formed: BTreeSet<&'static str>,
    /// Who leads a council in which term.
    leaders: BTreeMap<(Identity, u64), NodeId>,
    /// Since when no node leads a region.
    leaderless: BTreeMap<&'static str, u64>,
    /// Nodes that an operator gives up, and when.
    pub(super) evictions: Vec<(u64, NodeId)>,
}

/// The cluster core of a running node.
pub(super) struct Side {
    driver: Driver,
    pub(super) handle: Handle,
    arrivals: Vec<Arrival>,
    /// When it is turned, though nothing came.
    pub(super) due: u64,
    seen: Arc<View>,
}

impl Councils {
    pub(super) fn new(random: &mut Random) -> Councils {
        let settings =
            Settings { factor: random.between(2, 3) as u16, slots: random.between(4, 8) as u16 };
        Councils {
            settings,
            discovers: random.one_in(2),
            zones: 1 + random.below(ZONES.len()),
            formed: BTreeSet::new(),
            leaders: BTreeMap::new(),
            leaderless: BTreeMap::new(),
            evictions: Vec::new(),
        }
    }

    /// Of a world in which little is left to chance.
    pub(super) fn calm(settings: Settings) -> Councils {
        let councils = Councils::new(&mut Random::new(1));
        Councils { settings, discovers: false, zones: ZONES.len(), ..councils }
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    /// The zone of a machine.
    pub(super) fn zone(&self, number: u32) -> &'static str {
        ZONES[number as usize % self.zones]
    }
}

impl World {
    /// The core beside a node that starts; none in a world without councils.
    pub(super) fn join_cluster(
        &mut self,
        at: usize,
        node: &Node,
        outbox: &Arc<Outbox>,
        start: u64,
    ) -> Option<Side> {
        let (seed, id) = (self.random.bits(), self.random.bits());
        let seeds = self.seeds(at);
        let councils = self.councils.as_mut()?;
        let machine = &self.machines[at];
        let (region, name) = (machine.region.to_owned(), machine.name());
        let zone = councils.zone(machine.number).to_owned();
        let now = machine.wall(self.time);
        let options = Options {
            region: region.clone(),
            node: machine.id(),
            name: name.clone(),
            zone: zone.clone(),
            roles: Roles::ALL,
            start,
            limits: LIMITS,
        };
        let council = Council::open(&*node.disk(), options).expect("memory can be read");
        let config = Config {
            node: machine.id(),
            name,
            region: region.clone(),
            zone,
            address: machine.address(),
            roles: [REPLICA.to_owned()].into(),
            version: "1".into(),
            disk: council.disk(),
            start,
            incarnation: now,
            seed,
            seeds: seeds.clone(),
            relays: 2,
            members_max: 4_096,
            timing: Timing::default(),
        };
        let membership = Membership::new(config).expect("a machine can be described");
        let mut cluster = Cluster::new(region, membership, council, now);
        if councils.formed.insert(machine.region) {
            cluster.form(id, councils.settings).expect("the first machine's disk is empty");
        }
        let (driver, handle) = Driver::new(Parts {
            node: machine.id(),
            cluster,
            backend: node.disk(),
            transport: outbox.clone(),
            dialer: outbox.clone(),
            local: Arc::new(node.clone()),
            clock: machine.wall.clone(),
        });
        node.join(handle.clone());
        let seen = handle.view();
        Some(Side { driver, handle, arrivals: Vec::new(), due: self.time, seen })
    }

    /// Addresses that a node knows from the beginning: of its region, and one of each other.
    fn seeds(&self, at: usize) -> BTreeSet<String> {
        let own = &self.machines[at];
        let mut first: BTreeMap<&str, u32> = BTreeMap::new();
        let mut seeds = BTreeSet::new();
        for machine in self.machines.iter().filter(|machine| !machine.gone) {
            let is_first = first.insert(machine.region, machine.number).is_none();
            if (machine.region == own.region || is_first) && machine.number != own.number {
                seeds.insert(machine.address());
            }
        }
        seeds
    }

    /// Machines came or went: who looks for others finds that out.
    pub(super) fn tell_discovered(&self) {
        if !self.councils.as_ref().is_some_and(|councils| councils.discovers) {
            return;
        }
        for at in 0..self.machines.len() {
            if let Some(side) = self.side(at) {
                // A full queue is that node's misfortune: it is told the next time.
                let _ = side.handle.discovered(self.seeds(at)).now_or_never();
            }
        }
    }

    pub(super) fn side(&self, at: usize) -> Option<&Side> {
        self.machines[at].running.as_ref()?.side.as_ref()
    }

    /// One turn of the core beside a node, if there is anything to do.
    pub(super) fn turn_cluster(&mut self, at: usize, asked: bool) {
        let (time, machine) = (self.time, &mut self.machines[at]);
        let up = machine.is_up(time);
        let Some(running) = machine.running.as_mut().filter(|_| up) else { return };
        let Some(side) = &mut running.side else { return };
        if side.due > time && side.arrivals.is_empty() && !asked {
            return;
        }
        let _inside = tracing::info_span!("cluster", time, node = machine.number).entered();
        if side.driver.turn(std::mem::take(&mut side.arrivals)).is_err() {
            self.coverage.hit("disk full");
            return self.crash_for(at, 1_500);
        }
        side.due = time + side.driver.wait_ms().clamp(1, TURN_MS);
        let view = side.handle.view();
        let changed = !Arc::ptr_eq(&view, &side.seen);
        side.seen = view;
        self.events += 1;
        self.send_sent(at);
        if changed {
            self.check_leader(at);
        }
    }

    /// Who leads does so alone in its term.
    fn check_leader(&mut self, at: usize) {
        let (id, Some(side), Some(councils)) =
            (self.machines[at].id(), side_of(&self.machines[at]), &mut self.councils)
        else {
            return;
        };
        let council = &side.seen.council;
        let Some(identity) = council.identity.filter(|_| council.leader == Some(id)) else {
            return;
        };
        let leader = *councils.leaders.entry((identity, council.term)).or_insert(id);
        if leader != id {
            let what = format!("{identity:?}, term {}: {leader} and {id}", council.term);
            self.ledger.complain(format!("two leaders of a council in one term: {what}"));
        }
    }

    /// The core beside a node that is stopped tells the others.
    pub(super) fn say_goodbye(&mut self, at: usize) {
        if let Some(handle) = self.side(at).map(|side| side.handle.clone()) {
            let _ = Box::pin(async move { handle.stop().await }).now_or_never();
            self.turn_cluster(at, true);
        }
    }

    /// What a real operator does once all is healed: re-forms a council that nobody leads.
    pub(super) fn operate(&mut self) {
        let regions: BTreeSet<&'static str> =
            self.machines.iter().filter(|m| !m.gone).map(|machine| machine.region).collect();
        for region in regions {
            let led = self.here(region).any(|at| self.leads(at));
            let (time, Some(councils)) = (self.time, self.councils.as_mut()) else { return };
            if led {
                councils.leaderless.remove(region);
                continue;
            }
            let since = *councils.leaderless.entry(region).or_insert(time);
            if time - since < LEADERLESS_MS {
                continue;
            }
            councils.leaderless.insert(region, time);
            self.recover(region);
        }
    }

    /// Running machines of a region.
    pub(super) fn here(&self, region: &'static str) -> impl Iterator<Item = usize> + '_ {
        let all = self.machines.iter().enumerate();
        all.filter(move |(_, machine)| machine.region == region && machine.is_up(self.time))
            .map(|(at, _)| at)
    }

    /// Whether a node's council has no other voter, as far as it knows.
    pub(super) fn votes_alone(&self, at: usize) -> bool {
        let id = self.machines[at].id();
        self.side(at).is_some_and(|side| side.seen.council.voters == [id])
    }

    /// The version of its region's record that a node knows.
    pub(super) fn record_of(&self, at: usize) -> Option<Version> {
        let running = self.machines[at].running.as_ref()?;
        let status = running.driver.core().status();
        status.placement.region(self.machines[at].region).map(|record| record.version)
    }

    fn leads(&self, at: usize) -> bool {
        let id = self.machines[at].id();
        self.side(at).is_some_and(|side| side.seen.council.leader == Some(id))
    }

    fn recover(&mut self, region: &'static str) {
        let Some(at) = self.here(region).max_by_key(|at| self.record_of(*at)) else { return };
        let chance = self.random.bits();
        if let Some(side) = self.side(at) {
            let handle = side.handle.clone();
            let mut asked = Box::pin(async move { handle.recover(chance).await });
            let _ = (&mut asked).now_or_never();
            self.turn_cluster(at, true);
            if let Some(Ok(Ok(()))) = asked.now_or_never() {
                self.coverage.hit("council re-formed");
                self.record_re_formed(region);
            }
        }
    }
}

impl Side {
    /// What concerns the core: datagrams, frames of the cluster, and news of connections.
    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        let theirs = matches!(arrival, Arrival::Received { class, .. } if *class != Class::Cluster);
        if !theirs {
            self.arrivals.push(arrival.clone());
        }
    }
}

fn side_of(machine: &super::machine::Machine) -> Option<&Side> {
    machine.running.as_ref()?.side.as_ref()
}
