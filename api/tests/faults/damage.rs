//! Flipped bits in what lies on the disk of a stopped node.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atoll_store::backend::Backend;
use atoll_store::backend::sled::Sled;
use jepsen::wait::until;
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, Site, Stream, await_equal};

/// Entities in the collection, of which some are damaged.
const ENTITIES: usize = 24;
/// A list goes through the whole collection.
const LIST: &str = "/v1/sets/damage?values=true&limit=100";

#[test]
fn a_damaged_entity_is_never_served_and_is_repaired_from_a_peer() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.two()?;
    let mut expected = fill(&nodes)?;
    nodes[0].stop()?;
    // Another bit in each record, so that head, body and checksum are hit.
    let flipped = flip(&nodes[0], b"e", 3, |length, turn| (turn * 37 + 5) % (length * 8))?;
    ensure!(flipped >= ENTITIES / 4, "only {flipped} records flipped");
    nodes[0].start_alone()?;
    let quarantined = read_all(&nodes[0], &expected)?;
    ensure!(quarantined.len() == flipped, "{quarantined:?}, and {flipped} are damaged");
    let more = json!({"add": ["more"]});
    for path in quarantined {
        let refused = nodes[0].post(&path, &more)?;
        ensure!(refused.status == 503, "{path}: {refused:?}");
        nodes[1].done(&path, &more)?;
        // Its form starts with a quotation mark, which comes before digits.
        let members = expected.get_mut(&path).and_then(Value::as_array_mut);
        members.context("not written")?.insert(0, "more".into());
    }
    nodes[0].kill()?;
    let ports = nodes.each_ref().map(|node| node.port);
    nodes[0].start(&ports)?;
    await_repaired(&nodes[0], |node| Ok(read_all(node, &expected)?.is_empty()))?;
    await_equal(&nodes)
}

#[test]
fn a_list_over_a_damaged_entity_starts_its_repair() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.two()?;
    fill(&nodes)?;
    nodes[0].stop()?;
    flip(&nodes[0], b"e", 6, |length, _| length * 4)?;
    let ports = nodes.each_ref().map(|node| node.port);
    nodes[0].start(&ports)?;
    let whole = nodes[1].get(LIST)?["items"].take();
    await_repaired(&nodes[0], |node| {
        let answer = node.ask(LIST)?;
        match answer.status {
            503 => {
                ensure!(answer.json()?["code"] == "quarantined", "{answer:?}");
                Ok(false)
            }
            status => {
                ensure!(status == 200 && answer.json()?["items"] == whole, "{answer:?}");
                Ok(true)
            }
        }
    })?;
    await_equal(&nodes)
}

#[test]
fn a_damaged_log_is_filled_from_a_peer() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.two()?;
    let expected = fill(&nodes)?;
    // Without a checkpoint, the log is all that there is.
    nodes[0].kill()?;
    let flipped = flip(&nodes[0], b"l", 4, |length, turn| (turn * 37 + 5) % (length * 8))?;
    ensure!(flipped > 2, "only {flipped} records flipped");
    let ports = nodes.each_ref().map(|node| node.port);
    nodes[0].start(&ports)?;
    // A second start meets the damage again, and what was sent meanwhile behind it.
    nodes[0].done("/v1/sets/damage/0", &json!({"add": ["more"]}))?;
    await_equal(&nodes)?;
    nodes[0].kill()?;
    nodes[0].start(&ports)?;
    await_equal(&nodes)?;
    for (path, value) in expected.iter().filter(|(path, _)| !path.ends_with("/0")) {
        let found = nodes[0].get(path)?["value"].take();
        ensure!(found == *value, "{path}: {found}, not {value}");
    }
    Ok(())
}

#[test]
fn a_stream_never_resumes_over_a_damaged_log() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut node = site.node("eu-1")?;
    node.start_alone()?;
    node.done("/v1/counters/damage/0", &json!({"increment": 1}))?;
    let mut stream = Stream::open(&node, "/v1/counters/damage?prefix=")?;
    stream.expect("\"ready\"")?;
    let cursor = stream.cursor().context("no cursor")?.to_owned();
    for number in 1..20 {
        node.done(&format!("/v1/counters/damage/{number}"), &json!({"increment": 1}))?;
    }
    // Checkpoints hold it all, so nothing is missing but in the journal.
    node.stop()?;
    flip(&node, b"l", 7, |length, _| length * 4)?;
    node.start_alone()?;
    let mut stream = Stream::open(&node, &format!("/v1/counters/damage?since={cursor}"))?;
    stream.expect("\"reset\"")?;
    stream.expect("\"ready\"")?;
    (0..20).try_for_each(|number| stream.expect(&format!("counters/damage/{number}\"")))
}

#[test]
fn a_damaged_shard_record_has_a_copy() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.two()?;
    let expected = fill(&nodes)?;
    nodes[0].stop()?;
    ensure!(flip(&nodes[0], b"s", 1, |length, _| length * 4)? > 1, "no shard record");
    nodes[0].start_alone()?;
    ensure!(read_all(&nodes[0], &expected)?.is_empty(), "entities are quarantined");
    nodes[0].kill()?;
    let ports = nodes.each_ref().map(|node| node.port);
    nodes[0].start(&ports)?;
    await_equal(&nodes)
}

/// Writes sets at both nodes; their paths and values.
fn fill(nodes: &[Node]) -> Result<BTreeMap<String, Value>> {
    let mut expected = BTreeMap::new();
    for number in 0..ENTITIES {
        let path = format!("/v1/sets/damage/{number}");
        nodes[number % 2].done(&path, &json!({"add": [number]}))?;
        nodes[(number + 1) % 2].done(&path, &json!({"add": [number + 1000]}))?;
        // In the order of their canonical forms, which is that of bytes.
        let mut members = [number.to_string(), (number + 1000).to_string()];
        members.sort();
        let members: Vec<Value> =
            members.iter().map(|member| serde_json::from_str(member)).collect::<Result<_, _>>()?;
        expected.insert(path, Value::from(members));
    }
    await_equal(nodes)?;
    Ok(expected)
}

/// Flips one bit in every n-th record whose key has a prefix; how many.
fn flip(
    node: &Node,
    prefix: &[u8; 1],
    every: usize,
    bit: impl Fn(usize, usize) -> usize,
) -> Result<usize> {
    let store = Sled::open(&node.data.join("store"), 16 << 20)?;
    let records = store.scan(prefix, &[prefix[0] + 1], 100_000)?;
    let mut flipped = 0;
    for (turn, (key, value)) in records.iter().enumerate().filter(|(n, _)| n % every == every - 1) {
        let mut value = value.to_vec();
        let bit = bit(value.len(), turn);
        value[bit / 8] ^= 1 << (bit % 8);
        store.commit(&[(key.to_vec(), Some(value))])?;
        flipped += 1;
    }
    store.flush()?;
    Ok(flipped)
}

/// Reads everything: each is as expected, or quarantined; which are.
fn read_all(node: &Node, expected: &BTreeMap<String, Value>) -> Result<Vec<String>> {
    let mut quarantined = Vec::new();
    for (path, value) in expected {
        let answer = node.ask(path)?;
        let body = answer.json()?;
        if answer.status == 503 {
            ensure!(body["code"] == "quarantined", "{path}: {body}");
            quarantined.push(path.clone());
        } else {
            ensure!(answer.status == 200 && body["value"] == *value, "{path}: {body}, not {value}");
        }
    }
    Ok(quarantined)
}

fn await_repaired(node: &Node, repaired: impl Fn(&Node) -> Result<bool>) -> Result<()> {
    let done = until(PATIENCE.min(Duration::from_secs(15)), || match repaired(node) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    });
    done.with_context(|| format!("{} is not repaired: {}", node.name, node.log_tail()))?
}
