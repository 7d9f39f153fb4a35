//! A disk that was put back to an older copy.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::node::{Node, Site, await_equal, copy};

#[test]
fn a_restored_disk_takes_back_what_its_node_acknowledged() -> Result<()> {
    restore(false)
}

#[test]
fn a_restored_disk_takes_it_back_from_the_one_peer_it_reaches() -> Result<()> {
    restore(true)
}

fn restore(partitioned: bool) -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.three()?;
    let ports = nodes.each_ref().map(|node| node.port);
    write(&nodes[0], 0..40)?;
    await_equal(&nodes)?;
    nodes[0].stop()?;
    let old = nodes[0].data.with_extension("old");
    copy(&nodes[0].data, &old)?;
    nodes[0].start(&ports)?;
    write(&nodes[0], 40..80)?;
    write(&nodes[1], 80..90)?;
    await_equal(&nodes)?;
    let before = vectors(&nodes[1])?;
    nodes[0].kill()?;
    // Peers go on meanwhile; the third is perhaps cut off from the restored one.
    write(&nodes[2], 90..100)?;
    let (near, far) =
        if partitioned { (&ports[..2], &ports[1..]) } else { (&ports[..], &ports[..]) };
    if partitioned {
        await_equal(&nodes[1..])?;
        nodes[2].kill()?;
        nodes[2].start(far)?;
    }
    std::fs::remove_dir_all(&nodes[0].data)?;
    copy(&old, &nodes[0].data)?;
    nodes[0].start(near)?;
    // What the living hold of its earlier starts is back before it calls itself ready.
    check(&nodes[0], 0..80)?;
    write(&nodes[0], 100..140)?;
    await_equal(&nodes)?;
    nodes.iter().try_for_each(|node| check(node, 0..140))?;
    no_dot_twice(&before, &nodes)
}

/// Dots that were in the vectors before are of origins that stand still; new ones are of others.
fn no_dot_twice(before: &Vectors, nodes: &[Node]) -> Result<()> {
    let origin = nodes[0].origin()?;
    for node in nodes {
        let after = vectors(node)?;
        let mut fresh = 0;
        for (shard, vector) in &after {
            let was = before.get(shard);
            ensure!(was.is_none_or(|was| !was.contains_key(&origin)), "{origin} was there before");
            fresh += vector.get(&origin).copied().unwrap_or(0);
            for (old, sequence) in was.into_iter().flatten() {
                let now = vector.get(old).copied().unwrap_or(0);
                // The two peers still run, or ran on for a while.
                let own = is_of(nodes, old)?;
                ensure!(own || now == *sequence, "{shard}: {old} went from {sequence} to {now}");
            }
        }
        ensure!(fresh == 40, "{} operations of the new origin, not 40", fresh);
    }
    Ok(())
}

fn is_of(nodes: &[Node], origin: &str) -> Result<bool> {
    let origins: Result<Vec<String>> = nodes[1..].iter().map(Node::origin).collect();
    Ok(origins?.iter().any(|own| own == origin))
}

type Vectors = BTreeMap<String, BTreeMap<String, u64>>;

fn vectors(node: &Node) -> Result<Vectors> {
    let mut digest = node.get("/v1/cluster/digest?verbose=true")?;
    serde_json::from_value(digest["vectors"].take()).context("vectors")
}

fn write(node: &Node, numbers: std::ops::Range<u64>) -> Result<()> {
    for number in numbers {
        let path = format!("/v1/sets/restored/{}", number % 8);
        node.done(&path, &json!({"add": [number]}))?;
    }
    Ok(())
}

fn check(node: &Node, numbers: std::ops::Range<u64>) -> Result<()> {
    let mut found: Vec<Value> = Vec::new();
    for id in 0..8 {
        let body = node.get(&format!("/v1/sets/restored/{id}"))?;
        found.extend(body["value"].as_array().context("no set")?.iter().cloned());
    }
    for number in numbers {
        ensure!(found.contains(&Value::from(number)), "{} lost {number}", node.name);
    }
    Ok(())
}
