//! Real runs: processes of the product over real QUIC and HTTP, under real faults.
//!
//! How a run goes:
//!
//! 1. `plan` says what; [`run`] starts the nodes ([`node`]), each with links of its own to all
//!    others (`links`), and waits until they have met.
//! 2. Clients work (`clients`), faults are made (`nemesis`, by `schedule`), probes are written
//!    and watched (`probes`), nodes are sampled (`samples`); all write one history.
//! 3. When the time is over, every fault is put right and `healed` is recorded; after a quiet
//!    time all nodes must say the same (`settle`).
//! 4. Every client reads what must show everything. What was not promised is excused (`excuse`);
//!    the judges see the rest.
//!
//! Invariants:
//! 1. What is judged is the history, by judges that know nothing of how it was made.
//! 2. A fault that cannot be made here is refused before the run.
//! 3. No node outlives the run, and no disk stays mounted.
//!
//! Left out: a run is not repeatable to the letter; its seed gives the same operations and faults
//! at the same times, not the same interleaving. That is the simulator's.

mod asking;
mod clients;
mod disk;
mod disks;
mod excuse;
mod fault;
mod links;
mod members;
mod nemesis;
pub mod node;
mod outcome;
mod probes;
mod processes;
mod samples;
mod schedule;
mod settle;
mod shapes;
mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use fault::{Fault, Machine};
pub use outcome::Outcome;

use crate::random::Random;
use crate::workloads;
use clients::{Client, Shared};
use disk::Disk;
use links::Links;
use node::{Node, Program, Site};
use world::World;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workload's name.
    pub workload: String,
    /// Which faults to make.
    pub faults: Vec<Fault>,
    /// Over how many regions the nodes are dealt out.
    pub regions: usize,
    /// How many nodes.
    pub nodes: usize,
    /// How long clients work and faults are made.
    pub time_limit: Duration,
    /// Operations a second, of all clients.
    pub rate: f64,
    /// How many clients.
    pub concurrency: usize,
    /// What everything is drawn from.
    pub seed: u64,
    /// How long all is quiet before nodes are compared.
    pub quiet: Duration,
    /// Where the run leaves what it has to show.
    pub directory: PathBuf,
    /// How the product is run.
    pub program: Program,
    /// Further environment of the nodes: a deliberate bug, say.
    pub options: Vec<(String, String)>,
}

impl Plan {
    /// Names of all places: of the nodes, and then, if members change, of one spare a region.
    fn places(&self) -> Vec<String> {
        let changes = self.faults.iter().any(|fault| fault.changes_members());
        names(self.regions, self.nodes + if changes { self.regions } else { 0 })
    }
}

/// Whether this machine lets a run mount disks.
pub fn can_mount() -> bool {
    disk::can_mount()
}

/// The names of a run's nodes: dealt out over the regions.
pub fn names(regions: usize, nodes: usize) -> Vec<String> {
    let region = |n: usize| match n {
        0 => "eu".to_owned(),
        1 => "us".to_owned(),
        2 => "ap".to_owned(),
        n => format!("r{}", n + 1),
    };
    (0..nodes).map(|n| format!("{}-{}", region(n % regions), n / regions + 1)).collect()
}

/// Runs it, and judges what happened.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let make = workloads::find(&plan.workload).context("no such workload")?;
    std::fs::create_dir_all(&plan.directory)?;
    let directory = plan.directory.canonicalize()?;
    let homes = directory.join("nodes");
    if homes.exists() {
        disk::unmount_below(&homes)?;
        std::fs::remove_dir_all(&homes).context("an earlier run's nodes")?;
    }
    let mut random = Random::new(plan.seed);
    let mut mounted = Mounted::default();
    std::fs::create_dir_all(&homes)?;
    let site = Site::new(&homes, plan.program.clone(), "jepsen");
    let mut nodes = prepare(plan, &site, &mut mounted)?;
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let links = Links::open(&ports, &mut random)?;
    for (place, node) in nodes.iter_mut().enumerate() {
        node.options.push(links.translations(place));
    }
    let world = World::new(site, nodes, links, &plan.faults, &directory)?;
    (plan.nodes..world.places.len()).for_each(|spare| world.set_member(spare, false));
    start(&world)?;
    world.note("formed", serde_json::Value::Null);
    let shared = Shared::new(make(plan.nodes), Random::new(random.bits()));
    act(plan, &world, &shared, &mut random);
    let outcome = outcome::judge(plan, &world, world::lock(&shared).workload());
    stop(&world);
    drop(mounted);
    let outcome = outcome.write(plan, &directory)?;
    if outcome.is_good() {
        clear(&homes)?;
    }
    Ok(outcome)
}

/// Makes homes, certificates and disks.
fn prepare(plan: &Plan, site: &Site, mounted: &mut Mounted) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for name in plan.places() {
        let mut node = site.node(&name)?;
        node.options.clone_from(&plan.options);
        if plan.faults.iter().any(|fault| fault.roams()) {
            node.options.extend(members::settings(&plan.faults));
        }
        std::fs::create_dir_all(&node.data)?;
        if plan.faults.iter().any(|fault| fault.mounts()) {
            let disk = Disk::of(&node.home, &node.data);
            disk.create()?;
            mounted.0.push(disk);
        }
        if plan.faults.contains(&Fault::Clock) {
            processes::shift_clock(&mut node)?;
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// Starts all nodes, and waits until each has met all others.
fn start(world: &World) -> Result<()> {
    let places = world.members();
    for place in &places {
        world.node(*place).spawn(&world.links.seeds(*place))?;
    }
    places.iter().try_for_each(|place| world.node(*place).await_ready())?;
    places.iter().try_for_each(|place| world.node(*place).await_peers(places.len() - 1))?;
    match world.roams {
        true => settle::placed(world),
        false => Ok(()),
    }
}

/// The run itself, up to the final reads.
fn act(plan: &Plan, world: &World, shared: &std::sync::Mutex<Shared>, random: &mut Random) {
    std::thread::scope(|scope| {
        for place in 0..world.places.len() {
            scope.spawn(move || samples::run(world, place));
            scope.spawn(move || probes::write(world, place));
            scope.spawn(move || probes::watch(world, place));
        }
        let nemesis = |fault: &Fault| {
            let fault = *fault;
            let acts = schedule::draw(fault, plan.faults.len(), plan.time_limit, plan.seed);
            scope.spawn(move || nemesis::run(world, fault, &acts))
        };
        let nemeses: Vec<_> = plan.faults.iter().map(nemesis).collect();
        let rate = plan.rate / plan.concurrency as f64;
        let clients: Vec<_> = (0..plan.concurrency as u64)
            .map(|number| {
                let mut client = Client::new(world, shared, number, random.bits());
                scope.spawn(move || {
                    client.run(rate);
                    client
                })
            })
            .collect();
        world.wait_for_all(Instant::now() + plan.time_limit);
        nemesis::await_each(world, &plan.faults);
        world.end_faults();
        nemeses.into_iter().for_each(|nemesis| drop(nemesis.join()));
        settle::heal(world);
        world.end_clients();
        let mut clients: Vec<_> = clients.into_iter().flat_map(|client| client.join()).collect();
        // Every node is read, by one client of its own.
        clients.truncate(world.places.len());
        for number in plan.concurrency as u64..world.places.len() as u64 {
            clients.push(Client::new(world, shared, number, random.bits()));
        }
        world.note("healed", serde_json::Value::Null);
        settle::wait(world, plan.quiet);
        std::thread::scope(|finals| {
            for client in clients {
                finals.spawn(move || client.finish());
            }
        });
        settle::record(world);
        world.end_all();
    });
}

fn stop(world: &World) {
    for place in 0..world.places.len() {
        let mut node = world.node(place);
        if node.is_running()
            && let Err(error) = node.stop()
        {
            world.complain(format!("{} does not stop: {error:#}", node.name));
        }
    }
}

/// Removes what nodes stored; what they printed stays.
fn clear(homes: &Path) -> Result<()> {
    for home in std::fs::read_dir(homes)? {
        for name in ["data", "old"] {
            let path = home.as_ref().map(|home| home.path().join(name)).ok();
            if let Some(path) = path.filter(|path| path.exists()) {
                std::fs::remove_dir_all(path)?;
            }
        }
    }
    Ok(())
}

/// Disks that are mounted: unmounted when the run is over, however it ends.
#[derive(Default)]
struct Mounted(Vec<Disk>);

impl Drop for Mounted {
    fn drop(&mut self) {
        for disk in &self.0 {
            if let Err(error) = disk.remove() {
                eprintln!("jepsen: {error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn nodes_are_dealt_out_over_the_regions() {
        assert_eq!(names(3, 5), ["eu-1", "us-1", "ap-1", "eu-2", "us-2"]);
        assert_eq!(names(1, 2), ["eu-1", "eu-2"]);
        assert_eq!(names(4, 4)[3], "r4-1");
    }
}
