//! Makes faults: one thread for each kind, each by its own schedule.
//!
//! Invariants:
//! 1. Every fault is recorded when it begins and when it is over; what could not be made is said
//!    in the nemesis log, and not recorded as made.
//! 2. A kind of which none could be made is tried again until one is, or faults are over.
//! 3. A fault that is under way when faults are over is ended at once, and put right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use atoll::demo::shaper::Sky;
use serde_json::{Value, json};

use super::fault::Fault;
use super::links::Layer;
use super::schedule::Act;
use super::shapes::{self, Pairs};
use super::world::World;
use super::{disks, members, processes};
use crate::random::Random;
use crate::wait::until;

/// How long a run goes on after its time for a kind of fault that it has not made yet.
const EACH: Duration = Duration::from_secs(30);
/// Pause before a fault is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// Nothing passes.
const CUT: Sky =
    Sky { cut: true, delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0, twice: 0 };
/// A long way through bad weather.
const SLOW: Sky = Sky {
    cut: false,
    delay: Duration::from_millis(100),
    jitter: Duration::from_millis(20),
    loss: 50,
    twice: 50,
};

/// Makes the faults of one kind until they are over.
pub(crate) fn run(world: &World, fault: Fault, acts: &[Act]) {
    for act in acts {
        if !world.wait_for_fault(world.at(act.at)) {
            return;
        }
        attempt(world, fault, act);
    }
    while let Some(last) = acts.last()
        && !world.has_made(fault.name())
        && world.wait_for_fault(Instant::now() + AGAIN)
    {
        attempt(world, fault, last);
    }
}

/// Waits until each of these kinds was made, if that does not take too long.
pub(crate) fn await_each(world: &World, faults: &[Fault]) {
    let each = || faults.iter().all(|fault| world.has_made(fault.name())).then_some(());
    // What is missing then is said by the verdict.
    until(EACH, each);
}

fn attempt(world: &World, fault: Fault, act: &Act) {
    let mut random = Random::new(act.seed);
    if let Err(error) = make(world, fault, act.length, &mut random) {
        world.complain(format!("{}: {error:#}", fault.name()));
    }
}

fn make(world: &World, fault: Fault, length: Duration, random: &mut Random) -> Result<()> {
    let nodes = world.places.len();
    match fault {
        Fault::PartitionHalves => {
            let side = shapes::half(nodes, random);
            apart(world, fault, length, &side, shapes::between(&side, nodes));
        }
        Fault::PartitionRegion => {
            let region = &random.pick(&world.places).region;
            let side = (0..nodes).filter(|n| world.places[*n].region == *region).collect();
            apart(world, fault, length, &side, shapes::between(&side, nodes));
        }
        Fault::PartitionRing => {
            apart(world, fault, length, &BTreeSet::new(), shapes::ring(nodes, random));
        }
        Fault::OneWay => {
            let side = shapes::half(nodes, random);
            apart(world, fault, length, &side, shapes::out_of(&side, nodes));
        }
        Fault::Flap => flap(world, length, random),
        Fault::Slow => {
            let layer = shapes::all(nodes).into_iter().map(|pair| (pair, SLOW)).collect();
            let details = json!({"delay_ms": 100, "loss": 0.05, "twice": 0.05});
            under(world, fault, length, layer, details);
        }
        Fault::Kill => return processes::kill(world, length, random),
        Fault::KillAll => return processes::kill_all(world, length),
        Fault::Pause => return processes::pause(world, length, random),
        Fault::Clock => return processes::clock(world, length, random),
        Fault::Restore => return disks::restore(world, length, random),
        Fault::Corrupt | Fault::Truncate | Fault::Replace => {
            return disks::damage(world, fault, length, random);
        }
        Fault::Power => return disks::power(world, length, random),
        Fault::FullDisk => return disks::fill(world, length, random),
        Fault::Join | Fault::Leave | Fault::ReplaceNode => {
            return members::change(world, fault, random);
        }
        Fault::Rolling => return members::rolling(world, random),
    }
    Ok(())
}

/// Cuts pairs of nodes for a while.
fn apart(world: &World, fault: Fault, length: Duration, side: &BTreeSet<usize>, pairs: Pairs) {
    let details = match side.is_empty() {
        true => json!({"cut": named(world, &pairs)}),
        false => sides(world, side),
    };
    under(world, fault, length, cut(pairs), details);
}

/// Lays a layer over the links for a while.
fn under(world: &World, fault: Fault, length: Duration, layer: Layer, mut details: Value) {
    details["kind"] = fault.name().into();
    world.fault(fault.function(), "begin", details.clone());
    world.links.lay(fault as usize, layer);
    world.wait_for_fault(Instant::now() + length);
    world.links.lift(fault as usize);
    world.fault(fault.function(), "end", details);
}

/// A cut between halves that comes and goes.
fn flap(world: &World, length: Duration, random: &mut Random) {
    let (fault, nodes) = (Fault::Flap, world.places.len());
    let side = shapes::half(nodes, random);
    let details = sides(world, &side);
    let end = Instant::now() + length;
    world.fault(fault.function(), "begin", details.clone());
    let mut is_cut = false;
    loop {
        is_cut = !is_cut;
        let layer = if is_cut { cut(shapes::between(&side, nodes)) } else { Layer::new() };
        world.links.lay(fault as usize, layer);
        let turn = Instant::now() + Duration::from_millis(random.between(100, 1_500));
        if !world.wait_for_fault(turn.min(end)) || turn >= end {
            break;
        }
    }
    world.links.lift(fault as usize);
    world.fault(fault.function(), "end", details);
}

fn cut(pairs: Pairs) -> Layer {
    pairs.into_iter().map(|pair| (pair, CUT)).collect()
}

/// The two sides of a cut, by names.
fn sides(world: &World, side: &BTreeSet<usize>) -> Value {
    let (one, other): (Vec<usize>, Vec<usize>) =
        (0..world.places.len()).partition(|node| side.contains(node));
    json!({"sides": [world.names(&one), world.names(&other)]})
}

/// Who does not hear whom.
fn named(world: &World, pairs: &Pairs) -> BTreeMap<String, Vec<String>> {
    let mut cuts = BTreeMap::<String, Vec<String>>::new();
    for (from, to) in pairs {
        let name = |place: usize| world.places[place].name.clone();
        cuts.entry(name(*from)).or_default().push(name(*to));
    }
    cuts
}
