//! Samples of what nodes hold, and a look at whether they live.
//!
//! Invariant: a shard whose copy is known to be damaged is left out of what judges compare, and
//! keeps the sample from counting as a safe copy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::excuse::{Sample, Vectors};
use super::world::{World, lock};
use crate::http::Client;

/// From one sample of a node to the next.
const EVERY: Duration = Duration::from_millis(500);
/// How long a sample may take; a paused node gives none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Digits of a digest; an incomplete copy says so in words instead.
const DIGITS: usize = 32;

/// What a node says that it holds: the sample, and what judges read of it.
struct Taken {
    sample: Sample,
    digests: Digests,
    entities: u64,
}

/// What a node shows of the shards that it serves, and which ones others do.
pub(crate) struct Digests {
    pub(crate) shards: Map<String, Value>,
    pub(crate) elsewhere: BTreeSet<String>,
}

impl Digests {
    /// Of one shard, if it has entities.
    pub(crate) fn digest(&self, shard: &str) -> Option<&str> {
        self.shards.get(shard)?["digest"].as_str()
    }
}

/// Samples a node until all is over, and says if its process ended by itself.
pub(crate) fn run(world: &World, place: usize) {
    let mut due = Instant::now();
    loop {
        due = (due + EVERY).max(Instant::now());
        if !world.wait_for_all(due) {
            return;
        }
        revive(world, place);
        if !world.is_member(place) {
            continue;
        }
        let Some(taken) = ask(world, place) else { continue };
        let name = &world.places[place].name;
        let mut value = json!({"node": name, "shards": taken.digests.shards});
        value["metadata"][name] = metadata(&taken);
        world.note("sample", value);
        lock(&world.samples).push(taken.sample);
    }
}

/// A sample taken now; `None` if the node does not answer.
pub(crate) fn take(world: &World, place: usize) -> Option<Sample> {
    ask(world, place).map(|taken| taken.sample)
}

/// The digests that a node answers, if all are whole; `None` as long as they are not.
pub(crate) fn digests(world: &World, place: usize) -> Option<Digests> {
    ask(world, place).filter(|taken| taken.sample.complete).map(|taken| taken.digests)
}

fn ask(world: &World, place: usize) -> Option<Taken> {
    let asked = world.now();
    let mut client = Client::new(world.places[place].address, PATIENCE);
    let answer = client.fetch("/v1/cluster/digest?verbose=true").ok()?;
    let body = answer.json().ok().filter(|_| answer.status == 200)?;
    read(place, asked, world.now(), &body)
}

fn read(node: usize, asked: u64, answered: u64, body: &Value) -> Option<Taken> {
    let vectors: Vectors = serde_json::from_value(body["vectors"].clone()).ok()?;
    let mut shards = Map::new();
    let mut complete = true;
    for (shard, digest) in body["shards"].as_object()? {
        match digest.as_str().is_some_and(|text| text.len() == DIGITS) {
            true => {
                let (vector, retired) = (&body["vectors"][shard], &body["retired"][shard]);
                let state = json!({"digest": digest, "vector": vector, "retired": retired});
                shards.insert(shard.clone(), state);
            }
            false => complete = false,
        }
    }
    let entities = body["entities"].as_object()?.values().filter_map(Value::as_u64).sum();
    let sample = Sample { node, asked, answered, vectors, complete };
    let elsewhere = body["elsewhere"].as_array().into_iter().flatten();
    let elsewhere = elsewhere.filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Taken { sample, digests: Digests { shards, elsewhere }, entities })
}

/// How large the node's bookkeeping is, as far as it says.
fn metadata(taken: &Taken) -> Value {
    let vectors = taken.sample.vectors.values();
    let origins: BTreeSet<&String> = vectors.flat_map(|vector| vector.keys()).collect();
    json!({"origins": origins.len(), "entities": taken.entities})
}

/// Starts a node again whose process ended though nobody ended it.
fn revive(world: &World, place: usize) {
    let Some(mut node) = world.free_node(place) else { return };
    if !world.is_member(place) || node.is_running() || world.is_all_over() {
        return;
    }
    world.complain(format!("{} ended by itself: {}", node.name, node.log_tail()));
    if let Err(error) = world.start(place, &mut node) {
        world.complain(format!("{} does not start again: {error:#}", node.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_shard_is_left_out_and_makes_the_sample_incomplete() {
        let digest = "0".repeat(DIGITS);
        let body = json!({
            "shards": {"0/1": digest, "0/2": "incomplete on eu-1"},
            "vectors": {"0/1": {"a": 3}, "0/2": {"a": 4}},
            "retired": {"0/1": "b", "0/2": "b"},
            "entities": {"0/1": 1, "0/2": 2},
        });
        let taken = read(0, 1, 2, &body).unwrap();
        assert_eq!(
            Value::from(taken.digests.shards),
            json!({"0/1": {"digest": digest, "vector": {"a": 3}, "retired": "b"}})
        );
        assert!(!taken.sample.complete && taken.sample.vectors.len() == 2);
        assert_eq!(taken.entities, 3);
        assert!(read(0, 1, 2, &json!({"shards": {}})).is_none());
    }
}
