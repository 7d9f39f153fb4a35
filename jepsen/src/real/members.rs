//! Faults that change who is there: nodes join, leave, are replaced, and restart in turn.
//!
//! Each region has places that no node is at: spares. Who joins starts at one with an empty disk
//! and a new key; who leaves or dies for good makes its place one.
//!
//! Invariants:
//! 1. One change at a time in a region, and none begins before the last one's replicas are where
//!    they belong: no shard ever lacks two of its replicas.
//! 2. A disk is destroyed without being handed off only by `replace-node`, which is a loss; who
//!    leaves has handed off everything, and nothing of it is excused.
//! 3. A place counts as a member from when its node is ready until its process has ended.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::disk;
use super::excuse::Loss;
use super::fault::Fault;
use super::node::Node;
use super::world::{World, lock};
use crate::http::Client;
use crate::random::Random;
use crate::wait::until;

/// Replicas of a shard in a region, as the product has it if nobody says otherwise.
const FACTOR: usize = 3;
/// How long replicas may take to where they belong.
const PLACED: Duration = Duration::from_secs(90);
/// How long a node may take to say what it has recorded.
const ANSWER: Duration = Duration::from_secs(2);
/// Pause before another region is tried.
const AGAIN: Duration = Duration::from_millis(50);

/// Settings of nodes that come and go.
pub(crate) fn settings(faults: &[Fault]) -> Vec<(String, String)> {
    // Who is to come back must not leave: it is told to leave before it is stopped.
    let leaves = !faults.contains(&Fault::Rolling);
    let of = |key: &str, value: &str| (format!("ATOLL__CLUSTER__{key}"), value.to_owned());
    let mut all = vec![
        // A run is short: many replicas at a time.
        of("MOVES", "16"),
        of("DRAIN_S", "25"),
        of("LEAVE_ON_STOP", if leaves { "true" } else { "false" }),
    ];
    if faults.iter().any(|fault| fault.changes_members()) {
        all.push(of("REPLACE_AFTER_S", "3"));
    }
    all
}

/// Makes a change in a region that has none under way.
pub(crate) fn change(world: &World, fault: Fault, random: &mut Random) -> Result<()> {
    let Some(mut turn) = Turn::any(world, random) else { return Ok(()) };
    let changed = match fault {
        Fault::Join => turn.with_a_spare().and_then(|()| turn.join()),
        Fault::Leave => turn.with_one_more().and_then(|()| turn.leave()),
        Fault::ReplaceNode => turn.with_a_spare().and_then(|()| turn.replace()),
        _ => bail!("{} is no change of members", fault.name()),
    };
    turn.end(changed)
}

/// Stops and starts every node, one after the other: the next as soon as the last is ready. What
/// was begun is finished, for half of a cluster proves little.
pub(crate) fn rolling(world: &World, random: &mut Random) -> Result<()> {
    for region in 0..world.turns.len() {
        let failed = lock(&world.turns[region]);
        if *failed {
            continue;
        }
        let mut turn = Turn { world, region, random: &mut *random, failed };
        let restarted = turn.members().into_iter().try_for_each(|place| turn.restart(place));
        let placed = restarted.and_then(|()| turn.placed());
        turn.end(placed)?;
    }
    Ok(())
}

/// A region whose members are this one's to change.
struct Turn<'a> {
    world: &'a World,
    region: usize,
    random: &'a mut Random,
    failed: MutexGuard<'a, bool>,
}

impl<'a> Turn<'a> {
    /// A region where nothing is under way, as soon as there is one.
    fn any(world: &'a World, random: &'a mut Random) -> Option<Turn<'a>> {
        let mut order: Vec<usize> = (0..world.turns.len()).collect();
        random.shuffle(&mut order);
        loop {
            for region in &order {
                let turn = match world.turns[*region].try_lock() {
                    Ok(turn) => turn,
                    Err(TryLockError::Poisoned(error)) => error.into_inner(),
                    Err(TryLockError::WouldBlock) => continue,
                };
                if !*turn {
                    return Some(Turn { world, region: *region, random, failed: turn });
                }
            }
            if !world.wait_for_fault(Instant::now() + AGAIN) {
                return None;
            }
        }
    }

    /// What went wrong half-way is left as it is: another change might destroy what it needs.
    fn end(&mut self, changed: Result<()>) -> Result<()> {
        *self.failed |= changed.is_err();
        changed
    }

    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let world = self.world;
        (0..world.places.len()).filter(move |place| world.region_of(*place) == self.region)
    }

    fn members(&self) -> Vec<usize> {
        self.places().filter(|place| self.world.is_member(*place)).collect()
    }

    fn spare(&self) -> Option<usize> {
        self.places().find(|place| !self.world.is_member(*place))
    }

    fn with_a_spare(&mut self) -> Result<()> {
        match self.spare() {
            Some(_) => Ok(()),
            None => self.leave(),
        }
    }

    fn with_one_more(&mut self) -> Result<()> {
        match self.members().len() > FACTOR {
            true => Ok(()),
            false => self.join(),
        }
    }

    fn join(&mut self) -> Result<()> {
        let place = self.spare().context("no spare place")?;
        let details = self.world.details(&[place]);
        self.world.fault("join", "begin", details.clone());
        self.enlist(place)?;
        self.placed()?;
        self.world.fault("join", "end", details);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let members = self.members();
        let place = *self.random.pick(&members);
        let details = self.world.details(&[place]);
        self.world.fault("leave", "begin", details.clone());
        let mut node = self.world.node(place);
        if self.world.leaves_on_stop {
            node.terminate()?;
        } else {
            drain(&node)?;
            self.gone(&node)?;
            node.terminate()?;
        }
        let status = node.await_end()?;
        ensure!(status.success(), "{} left with {status}: {}", node.name, node.log_tail());
        self.world.set_member(place, false);
        disk::empty(&node.data)?;
        drop(node);
        // It ended because it had handed off, not because time was up.
        let other = self.members()[0];
        let held = until(PLACED, || recorded(self.world, other).ok()).context("nobody says")?.0;
        let name = &self.world.places[place].name;
        ensure!(!held.contains(name), "{name} ended, and still holds replicas");
        self.placed()?;
        self.world.fault("leave", "end", details);
        Ok(())
    }

    fn replace(&mut self) -> Result<()> {
        let spare = self.spare().context("no spare place")?;
        let members = self.members();
        let place = *self.random.pick(&members);
        let details = self.world.details(&[place, spare]);
        self.world.fault("replace-node", "begin", details.clone());
        let mut node = self.world.node(place);
        node.kill()?;
        lock(&self.world.losses).push(Loss { node: place, at: self.world.now() });
        self.world.set_member(place, false);
        disk::empty(&node.data)?;
        drop(node);
        self.enlist(spare)?;
        self.placed()?;
        self.world.fault("replace-node", "end", details);
        Ok(())
    }

    fn restart(&self, place: usize) -> Result<()> {
        let details = self.world.details(&[place]);
        self.world.fault("rolling", "begin", details.clone());
        let mut node = self.world.node(place);
        node.stop()?;
        self.world.start(place, &mut node)?;
        self.world.fault("rolling", "end", details);
        Ok(())
    }

    /// Starts a node at a place with an empty disk, under a new key.
    fn enlist(&self, place: usize) -> Result<()> {
        let mut node = self.world.node(place);
        self.world.site.renew(&mut node)?;
        node.spawn(&self.world.links.seeds(place))?;
        // It is ready when it has its replicas.
        node.await_ready_for(PLACED)?;
        self.world.set_member(place, true);
        Ok(())
    }

    /// Waits until others do not list a node that leaves.
    fn gone(&self, node: &Node) -> Result<()> {
        let other = self.members().into_iter().find(|m| self.world.places[*m].name != node.name);
        let other = other.context("nobody else is there")?;
        let gone = until(PLACED, || {
            let held = recorded(self.world, other).ok()?.0;
            (!held.contains(&node.name)).then_some(())
        });
        gone.with_context(|| format!("{} does not hand off", node.name))
    }

    fn placed(&self) -> Result<()> {
        await_placed(self.world, &self.members())
    }
}

/// Waits until every node of a region says that its members, and they alone, hold its shards,
/// with nothing short or on its way.
pub(crate) fn await_placed(world: &World, members: &[usize]) -> Result<()> {
    let names: BTreeSet<String> = members.iter().map(|m| world.places[*m].name.clone()).collect();
    let mut last = Vec::new();
    let placed = until(PLACED, || {
        last = members.iter().map(|member| recorded(world, *member)).collect();
        let whole = |said: &Result<(BTreeSet<String>, bool)>| {
            said.as_ref().is_ok_and(|(held, whole)| *whole && *held == names)
        };
        last.iter().all(whole).then_some(())
    });
    placed.with_context(|| format!("not placed on {names:?} after {PLACED:?}: {last:?}"))
}

/// Who holds shards of a node's region by its record, and whether nothing is short or moves.
fn recorded(world: &World, at: usize) -> Result<(BTreeSet<String>, bool)> {
    let mut client = Client::new(world.places[at].address, ANSWER);
    let answer = client.fetch("/v1/cluster/shards")?;
    ensure!(answer.status == 200, "{} answers {}", world.places[at].name, answer.status);
    Ok(read(&answer.json()?, &world.places[at].region))
}

fn read(said: &Value, region: &str) -> (BTreeSet<String>, bool) {
    let mut held = BTreeSet::new();
    let mut whole = said["moving"] == 0 && said["under_replicated"] == 0;
    for (_, shard) in said["shards"].as_object().into_iter().flatten() {
        let replicas = shard["replicas"][region].as_array().map_or(&[][..], |all| all);
        whole &= replicas.len() == FACTOR;
        held.extend(replicas.iter().map(|r| r["name"].as_str().unwrap_or("?").to_owned()));
    }
    (held, whole)
}

/// Tells a node to hand everything off.
fn drain(node: &Node) -> Result<()> {
    let id = node.get("/v1/cluster")?["node"].as_str().context("no id")?.to_owned();
    let answer = node.post(&format!("/v1/cluster/nodes/{id}/drain"), &json!({}))?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 202, "{} does not drain: {} {text}", node.name, answer.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_when_every_shard_has_its_replicas() {
        let of = |names: &[&str], moving: u64| {
            let replicas: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            let shard = json!({"replicas": {"eu": replicas, "us": [{"name": "us-1"}]}});
            let shards = json!({"0/0": shard});
            read(&json!({"moving": moving, "under_replicated": 0, "shards": shards}), "eu")
        };
        let names = ["eu-1", "eu-2", "eu-4"];
        assert_eq!(of(&names, 0), (names.map(str::to_owned).into(), true));
        assert!(!of(&names, 1).1 && !of(&names[..2], 0).1);
    }
}
