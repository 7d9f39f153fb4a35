//! The end of a run: everything is put right, all is quiet, and nodes are compared.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::samples;
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
    for place in 0..world.places.len() {
        world.release(place);
        let mut node = world.node(place);
        if !node.is_running()
            && let Err(error) = world.start(place, &mut node)
        {
            world.complain(format!("{} does not start: {error:#}", node.name));
        }
    }
}

/// Waits until all nodes hold the same, and then for a while in which nothing may change.
pub(crate) fn wait(world: &World, quiet: Duration) {
    let mut last = Vec::new();
    let equal = until(DEADLINE, || {
        last = (0..world.places.len()).map(|place| samples::digests(world, place)).collect();
        let digest = |shards: &Map<String, Value>| -> Map<String, Value> {
            shards.iter().map(|(shard, state)| (shard.clone(), state["digest"].clone())).collect()
        };
        let digests: Option<Vec<_>> = last.iter().map(|s| s.as_ref().map(digest)).collect();
        let digests = digests?;
        digests.iter().all(|d| *d == digests[0]).then_some(())
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
    for (place, node) in world.places.iter().enumerate() {
        let client = FIRST_CLIENT + place as u64;
        world.invoke(client, FINAL_DIGEST, Value::Null, &node.name);
        let (kind, value, error) = match samples::digests(world, place) {
            Some(shards) => (Type::Ok, json!({"node": node.name, "shards": shards}), None),
            None => (Type::Fail, Value::Null, Some("incomplete or silent".to_owned())),
        };
        if kind == Type::Fail {
            world.complain(format!("{} gives no complete digest in the end", node.name));
        }
        world.end(client, kind, (FINAL_DIGEST, value), error, &node.name);
    }
}
