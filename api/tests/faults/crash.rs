//! `kill -9` under load, and a disk that is gone.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::load::{self, Load};
use crate::node::{Node, Site, await_equal};

/// How many more writes each writer has acknowledged when the node is killed, round by round.
const MOMENTS: [usize; 4] = [3, 58, 17, 101];

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
    let mut nodes = [site.node("eu-1")?, site.node("us-1")?];
    for node in &mut nodes {
        let small = ["LOG_MB", "LOG_MAX_MB", "CHECKPOINT_MB"];
        node.options.extend(small.map(|key| (format!("ATOLL__STORE__{key}"), "1".to_owned())));
    }
    crate::node::start_all(&mut nodes)?;
    let ports = nodes.each_ref().map(|node| node.port);
    for number in 0..120 {
        write_large(&nodes[number % 2], number)?;
    }
    await_equal(&nodes)?;
    nodes[0].kill()?;
    std::fs::remove_dir_all(&nodes[0].data)?;
    nodes[0].start(&ports)?;
    await_equal(&nodes)?;
    for number in 0..120 {
        let value = nodes[0].get(&format!("/v1/sets/large/{number}"))?;
        ensure!(value["value"] == json!([large(number)]), "{number} is not what was written");
    }
    Ok(())
}

fn large(number: usize) -> String {
    format!("{number}-").repeat(12_000)
}

fn write_large(node: &Node, number: usize) -> Result<()> {
    node.done(&format!("/v1/sets/large/{number}"), &json!({"add": [large(number)]}))?;
    Ok(())
}
