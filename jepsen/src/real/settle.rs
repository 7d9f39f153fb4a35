//! The end of a run: everything is put right, all is quiet, and nodes are compared.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::members::await_placed;
use super::samples::{self, Digests};
use super::world::World;
use crate::checkers::convergence::FINAL_DIGEST;
use crate::history::Type;
use crate::wait::until;

/// How long nodes may take to hold the same, once all is put right.
const DEADLINE: Duration = Duration::from_secs(60);
/// Clients with this number and above read final digests.
const FIRST_CLIENT: u64 = 2_000_000;

/// Mends all links, and starts what does not run.
pub(crate) fn heal(world: &World) {
    world.links.heal();
    for place in world.members() {
        world.release(place);
        let mut node = world.node(place);
        if !node.is_running()
            && let Err(error) = world.start(place, &mut node)
        {
            world.complain(format!("{} does not start: {error:#}", node.name));
        }
    }
}

/// Waits until every region's shards are where its record says, on all of its members.
pub(crate) fn placed(world: &World) -> Result<()> {
    let members = world.members();
    (0..world.turns.len()).try_for_each(|region| {
        let own = members.iter().copied().filter(|member| world.region_of(*member) == region);
        await_placed(world, &own.collect::<Vec<_>>())
    })
}

/// Waits until all nodes hold the same, and then for a while in which nothing may change.
pub(crate) fn wait(world: &World, quiet: Duration) {
    if world.roams
        && let Err(error) = placed(world)
    {
        world.complain(format!("in the end: {error:#}"));
    }
    let mut last = Vec::new();
    let equal = until(DEADLINE, || {
        let members = world.members().into_iter();
        last = members.map(|place| samples::digests(world, place)).collect();
        let digests: Option<Vec<&Digests>> = last.iter().map(Option::as_ref).collect();
        are_equal(&digests?).then_some(())
    });
    if equal.is_some() {
        world.note("quiet", Value::Null);
    } else {
        let silent = last.iter().filter(|digests| digests.is_none()).count();
        let what = format!("digests differ {DEADLINE:?} after all was put right");
        world.complain(format!("{what}; {silent} nodes gave none that is complete"));
    }
    world.wait_for_all(Instant::now() + quiet);
}

/// Records what every node holds in the end.
pub(crate) fn record(world: &World) {
    for place in world.members() {
        let (client, node) = (FIRST_CLIENT + place as u64, &world.places[place]);
        world.invoke(client, FINAL_DIGEST, Value::Null, &node.name);
        let (kind, value, error) = match samples::digests(world, place) {
            Some(Digests { shards, elsewhere }) => {
                let value = json!({"node": node.name, "shards": shards, "elsewhere": elsewhere});
                (Type::Ok, value, None)
            }
            None => (Type::Fail, Value::Null, Some("incomplete or silent".to_owned())),
        };
        if kind == Type::Fail {
            world.complain(format!("{} gives no complete digest in the end", node.name));
        }
        world.end(client, kind, (FINAL_DIGEST, value), error, &node.name);
    }
}

/// Whether all that serve a shard show the same of it; none, where it is empty.
fn are_equal(all: &[&Digests]) -> bool {
    let shards: BTreeSet<&String> = all.iter().flat_map(|each| each.shards.keys()).collect();
    shards.into_iter().all(|shard| {
        let serve = all.iter().filter(|each| !each.elsewhere.contains(shard));
        let shown: BTreeSet<_> = serve.map(|each| each.digest(shard)).collect();
        shown.len() == 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_serve_a_shard_are_compared() {
        let of = |shards: Value, elsewhere: &[&str]| Digests {
            shards: shards.as_object().cloned().unwrap_or_default(),
            elsewhere: elsewhere.iter().map(|shard| (*shard).to_owned()).collect(),
        };
        let whole = of(json!({"0/1": {"digest": "a"}}), &[]);
        assert!(are_equal(&[&whole, &of(json!({}), &["0/1"])]));
        assert!(!are_equal(&[&whole, &of(json!({}), &[])]), "served, and empty");
        assert!(!are_equal(&[&whole, &of(json!({"0/1": {"digest": "b"}}), &[])]));
    }
}
