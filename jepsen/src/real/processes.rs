//! Faults of processes: killed, stopped, with a clock that is wrong.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fault::Fault;
use super::node::Node;
use super::world::World;
use crate::random::Random;

/// Names the file that shifts a node's clock, for a node that is run to be tested.
pub(crate) const CLOCK: &str = "ATOLL_TEST_CLOCK";
/// By how much clocks jump, milliseconds; as much back.
const JUMPS_MS: [i64; 6] = [20, 200, 1_000, 5_000, 60_000, 3_600_000];

/// `kill -9` of one node, and a restart.
pub(crate) fn kill(world: &World, length: Duration, random: &mut Random) -> Result<()> {
    let Some((place, mut node)) = world.any_node(random) else { return Ok(()) };
    let details = world.details(&[place]);
    world.fault("kill", "begin", details.clone());
    node.kill()?;
    world.wait_for_fault(Instant::now() + length);
    world.start(place, &mut node)?;
    world.fault("kill", "end", details);
    Ok(())
}

/// `kill -9` of all nodes at once, and restarts.
pub(crate) fn kill_all(world: &World, length: Duration) -> Result<()> {
    let all: Vec<usize> = (0..world.places.len()).collect();
    let mut nodes: Vec<_> = all.iter().map(|place| world.node(*place)).collect();
    let mut details = world.details(&all);
    details["kind"] = Fault::KillAll.name().into();
    world.fault("kill", "begin", details.clone());
    nodes.iter_mut().try_for_each(|node| node.kill())?;
    world.wait_for_fault(Instant::now() + length);
    for (place, node) in nodes.iter_mut().enumerate() {
        node.spawn(&world.links.seeds(place))?;
    }
    nodes.iter_mut().try_for_each(|node| node.await_ready())?;
    world.fault("kill", "end", details);
    Ok(())
}

/// A process that stands still, its connections open.
pub(crate) fn pause(world: &World, length: Duration, random: &mut Random) -> Result<()> {
    let Some((place, node)) = world.any_node(random) else { return Ok(()) };
    let details = world.details(&[place]);
    world.fault("pause", "begin", details.clone());
    node.pause()?;
    world.wait_for_fault(Instant::now() + length);
    node.resume()?;
    world.fault("pause", "end", details);
    Ok(())
}

/// A clock that jumps, and jumps back; several may be wrong at once.
pub(crate) fn clock(world: &World, length: Duration, random: &mut Random) -> Result<()> {
    let place = random.below(world.places.len());
    let file = {
        let node = world.node(place);
        clock_file(&node)
    };
    let sign = if random.one_in(2) { -1 } else { 1 };
    let jump = *random.pick(&JUMPS_MS) * sign;
    let mut details = world.details(&[place]);
    details["ms"] = jump.into();
    world.fault(Fault::Clock.function(), "begin", details.clone());
    set_clock(&file, jump)?;
    world.wait_for_fault(Instant::now() + length);
    set_clock(&file, 0)?;
    world.fault(Fault::Clock.function(), "end", details);
    Ok(())
}

/// Gives a node a clock that can be shifted.
pub(crate) fn shift_clock(node: &mut Node) -> Result<()> {
    let file = clock_file(node);
    set_clock(&file, 0)?;
    node.options.push((CLOCK.into(), file.display().to_string()));
    Ok(())
}

fn clock_file(node: &Node) -> PathBuf {
    node.home.join("clock")
}

/// Replaced whole, so that nobody reads half a number.
fn set_clock(file: &Path, ms: i64) -> Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, ms.to_string())?;
    std::fs::rename(&next, file).with_context(|| file.display().to_string())
}
