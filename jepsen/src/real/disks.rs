//! Faults of disks: older copies, flipped bits, short files, empty and full disks, lost power.
//!
//! Invariants:
//! 1. A disk is lost only while [`COPIES`] other nodes have all that its node had, and its
//!    clients wait; one disk at a time, until its node has come back. Where that cannot be
//!    reached, the fault is not made.
//! 2. A node that refuses to start on a damaged disk gets an empty one, as its operator would
//!    give it; that is said where the fault ends.

use std::path::Path;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::disk::{self, Disk};
use super::excuse::{Loss, contains};
use super::fault::Fault;
use super::node::{Node, copy};
use super::samples;
use super::world::{World, lock};
use crate::random::Random;
use crate::wait::until;

/// Other nodes that must have everything before a disk is lost, if there are so many.
const COPIES: usize = 2;
/// How long they may take.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A node that is held, with its place.
type Held<'a> = (usize, MutexGuard<'a, Node>);

/// A disk that is put back to an older copy.
pub(crate) fn restore(world: &World, length: Duration, random: &mut Random) -> Result<()> {
    let Some((place, mut node)) = world.any_node(random) else { return Ok(()) };
    let details = world.details(&[place]);
    let old = node.home.join("old");
    world.fault("restart", "begin", details.clone());
    node.stop()?;
    remove(&old)?;
    copy(&node.data, &old)?;
    world.start(place, &mut node)?;
    world.fault("restart", "end", details);
    drop(node);
    if !world.wait_for_fault(Instant::now() + length) {
        return Ok(());
    }
    let _one = lock(&world.disks);
    let mut node = world.node(place);
    let put_back = |node: &mut Node, _: &mut Random| {
        disk::empty(&node.data)?;
        copy(&old, &node.data)?;
        Ok(Value::Null)
    };
    lose(world, Fault::Restore, place, &mut node, Duration::ZERO, random, put_back)
}

/// Damage while a node is stopped, or an empty disk.
pub(crate) fn damage(
    world: &World,
    fault: Fault,
    length: Duration,
    random: &mut Random,
) -> Result<()> {
    let _one = lock(&world.disks);
    let Some((place, mut node)) = world.any_node(random) else { return Ok(()) };
    let act = |node: &mut Node, random: &mut Random| match fault {
        Fault::Corrupt => disk::flip(&node.data, random),
        Fault::Truncate => disk::cut_short(&node.data, random),
        _ => disk::empty(&node.data).map(|()| Value::Null),
    };
    lose(world, fault, place, &mut node, length, random, act)
}

/// Ends a node when others have what it has, changes its disk, and starts it again.
fn lose(
    world: &World,
    fault: Fault,
    place: usize,
    node: &mut Node,
    length: Duration,
    random: &mut Random,
    act: impl FnOnce(&mut Node, &mut Random) -> Result<Value>,
) -> Result<()> {
    world.hold(place);
    let lost = match is_covered(world, place) {
        true => end_and_change(world, fault, place, node, length, random, act),
        false => {
            world.say(&format!("{} of {} not made: it alone has writes", fault.name(), node.name));
            Ok(())
        }
    };
    world.release(place);
    lost
}

fn end_and_change(
    world: &World,
    fault: Fault,
    place: usize,
    node: &mut Node,
    length: Duration,
    random: &mut Random,
    act: impl FnOnce(&mut Node, &mut Random) -> Result<Value>,
) -> Result<()> {
    let mut details = world.details(&[place]);
    world.fault(fault.function(), "begin", details.clone());
    if random.one_in(2) {
        node.kill()?
    } else {
        node.stop()?
    }
    lock(&world.losses).push(Loss { node: place, at: world.now() });
    details["what"] = act(node, random)?;
    world.wait_for_fault(Instant::now() + length);
    if let Err(error) = world.start(place, node) {
        let damaged = matches!(fault, Fault::Corrupt | Fault::Truncate);
        anyhow::ensure!(damaged, "{error:#}");
        world.say(&format!("{} refuses: {error:#}", node.name));
        details["refused"] = true.into();
        if node.is_running() {
            node.kill()?;
        }
        disk::empty(&node.data)?;
        world.start(place, node)?;
    }
    world.fault(fault.function(), "end", details);
    Ok(())
}

/// Waits until others have what a node has.
fn is_covered(world: &World, place: usize) -> bool {
    let wanted = COPIES.min(world.places.len() - 1);
    let covered = || {
        let own = samples::take(world, place)?;
        let others = (0..world.places.len()).filter(|other| *other != place);
        let have = others.filter_map(|other| samples::take(world, other));
        let count = have.filter(|s| s.complete && contains(&s.vectors, &own.vectors)).count();
        (count >= wanted).then_some(())
    };
    until(CATCH_UP, covered).is_some()
}

/// Disks that stop at once, and then have lost what was not flushed: one, or all together, since
/// what one has lost it may have from another again.
pub(crate) fn power(world: &World, length: Duration, random: &mut Random) -> Result<()> {
    if random.one_in(2) {
        let nodes = (0..world.places.len()).map(|place| (place, world.node(place))).collect();
        return lose_power(world, length, nodes);
    }
    match world.any_node(random) {
        Some(one) => lose_power(world, length, vec![one]),
        None => Ok(()),
    }
}

fn lose_power(world: &World, length: Duration, mut nodes: Vec<Held<'_>>) -> Result<()> {
    let places: Vec<usize> = nodes.iter().map(|(place, _)| *place).collect();
    let details = world.details(&places);
    world.fault("power", "begin", details.clone());
    let disk = |node: &Node| Disk::of(&node.home, &node.data);
    nodes.iter().try_for_each(|(_, node)| disk(node).shut_down())?;
    for (_, node) in &mut nodes {
        // It may have ended by itself, since nothing that it writes is kept any more.
        if node.is_running() {
            node.kill()?;
        }
        disk(node).unmount()?;
    }
    world.wait_for_fault(Instant::now() + length);
    for (place, node) in &mut nodes {
        disk(node).mount()?;
        node.spawn(&world.links.seeds(*place))?;
    }
    nodes.iter_mut().try_for_each(|(_, node)| node.await_ready())?;
    world.fault("power", "end", details);
    Ok(())
}

/// A disk without room, to the reserve or to the last byte.
pub(crate) fn fill(world: &World, length: Duration, random: &mut Random) -> Result<()> {
    let Some((place, mut node)) = world.any_node(random) else { return Ok(()) };
    let mut details = world.details(&[place]);
    let left = *random.pick(&[0, 1 << 20, 32 << 20]);
    details["left"] = left.into();
    let filler = node.data.join("filler");
    world.fault("full-disk", "begin", details.clone());
    disk::fill(&filler, left)?;
    world.wait_for_fault(Instant::now() + length);
    std::fs::remove_file(&filler).with_context(|| filler.display().to_string())?;
    if !node.is_running() {
        // A write that the disk refused is one whose fate is unknown: the process ends (R1).
        details["ended"] = true.into();
        world.start(place, &mut node)?;
    }
    world.fault("full-disk", "end", details);
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match path.exists() {
        true => std::fs::remove_dir_all(path).with_context(|| path.display().to_string()),
        false => Ok(()),
    }
}
