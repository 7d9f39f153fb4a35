//! `kill -9` under load, and a disk that is gone.

use anyhow::{Context, Result, ensure};
use jepsen::wait::until;
use serde_json::json;

use crate::damage::flip;
use crate::load::{self, Load};
use crate::node::{Node, PATIENCE, Site, await_equal, is_digest, start_all};

/// How many more writes each writer has acknowledged when the node is killed, round by round.
const MOMENTS: [usize; 4] = [3, 58, 17, 101];
/// Large entities written: several times what a short log holds.
const LARGE: usize = 120;

#[test]
fn what_was_acknowledged_survives_kill_9_alone_and_everywhere() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.three()?;
    let ports = nodes.each_ref().map(|node| node.port);
    let load = Load::of(&nodes, 2);
    load.during(|| {
        let [victim, ..] = &mut nodes;
        for more in MOMENTS {
            load.advance(&victim.name, more)?;
            // Taken before the kill: what a writer hears later counts at the end.
            let ledgers = load.ledgers(&victim.name);
            victim.kill()?;
            victim.start_alone()?;
            ensure!(victim.peers_up()? == 0, "{} has help", victim.name);
            for (writer, ledger) in ledgers {
                load::check(victim, &writer, &ledger)?;
            }
            victim.kill()?;
            victim.start(&ports)?;
        }
        load.advance(&victim.name, 10)
    })?;
    await_equal(&nodes)?;
    nodes.iter().try_for_each(|node| load.check(node))
}

#[test]
fn an_empty_disk_under_the_same_certificate_gets_everything() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = site.three()?;
    let ports = nodes.each_ref().map(|node| node.port);
    let load = Load::of(&nodes, 1);
    load.during(|| {
        let [victim, ..] = &mut nodes;
        load.advance(&victim.name, 50)?;
        Ok(())
    })?;
    await_equal(&nodes)?;
    let before = nodes[0].origin()?;
    nodes[0].kill()?;
    std::fs::remove_dir_all(&nodes[0].data)?;
    nodes[0].start(&ports)?;
    ensure!(nodes[0].origin()? != before, "an origin was used twice");
    await_equal(&nodes)?;
    nodes[0].done("/v1/counters/load/after", &json!({"increment": 1}))?;
    await_equal(&nodes)?;
    nodes.iter().try_for_each(|node| load.check(node))
}

#[test]
fn an_empty_disk_is_filled_by_state_where_the_log_is_gone() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = [small(&site, "eu-1")?, small(&site, "us-1")?];
    start_all(&mut nodes)?;
    let ports = nodes.each_ref().map(|node| node.port);
    write_large(&nodes)?;
    nodes[0].kill()?;
    std::fs::remove_dir_all(&nodes[0].data)?;
    nodes[0].start(&ports)?;
    await_equal(&nodes)?;
    check_large(&nodes[0])
}

#[test]
fn a_transfer_that_a_damaged_peer_cannot_end_is_taken_up_by_another() -> Result<()> {
    let site = Site::new("atoll")?;
    let mut nodes = [small(&site, "eu-1")?, small(&site, "us-1")?, small(&site, "ap-1")?];
    start_all(&mut nodes)?;
    let ports = nodes.each_ref().map(|node| node.port);
    write_large(&nodes)?;
    nodes.iter_mut().try_for_each(Node::stop)?;
    std::fs::remove_dir_all(&nodes[0].data)?;
    flip(&nodes[1], b"e", 10, |length, _| length * 4)?;
    nodes[0].spawn(&ports)?;
    nodes[1].start(&ports)?;
    // It met the damage when the empty node asked for its state, and cannot answer.
    let met = until(PATIENCE, || {
        let digest = nodes[1].get("/v1/cluster/digest").ok()?;
        digest["shards"].as_object()?.values().any(|d| !is_digest(d)).then_some(())
    });
    met.context("nobody asked for what is damaged")?;
    nodes[2].start(&ports)?;
    await_equal(&nodes)?;
    nodes.iter().try_for_each(check_large)
}

/// A node that keeps only a short log.
fn small(site: &Site, name: &str) -> Result<Node> {
    let mut node = site.node(name)?;
    let keys = ["LOG_MB", "LOG_MAX_MB", "CHECKPOINT_MB"];
    node.options.extend(keys.map(|key| (format!("ATOLL__STORE__{key}"), "1".to_owned())));
    Ok(node)
}

fn large(number: usize) -> String {
    format!("{number}-").repeat(12_000)
}

/// More than the log holds.
fn write_large(nodes: &[Node]) -> Result<()> {
    for number in 0..LARGE {
        let path = format!("/v1/sets/large/{number}");
        nodes[number % nodes.len()].done(&path, &json!({"add": [large(number)]}))?;
    }
    await_equal(nodes)
}

/// Everything is as written; what was never read since its damage is repaired on the way.
fn check_large(node: &Node) -> Result<()> {
    for number in 0..LARGE {
        let path = format!("/v1/sets/large/{number}");
        let read = || node.ask(&path).ok().filter(|answer| answer.status != 503);
        let answer = until(PATIENCE, read).with_context(|| format!("{path} is not repaired"))?;
        ensure!(answer.json()?["value"] == json!([large(number)]), "{path} is not as written");
    }
    Ok(())
}
