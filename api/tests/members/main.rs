//! Regions of several real nodes: they find each other, place replicas, replace who dies, and hand
//! off what a leaving node held. Any node of the region is asked for anything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use jepsen::real::node::{Node, PATIENCE, Program, Site};
use jepsen::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Entities of a test: some in every shard.
const ENTITIES: usize = 300;

/// A region of nodes, the first of which forms it.
struct Region {
    site: Site,
    nodes: Vec<Node>,
    options: Vec<(String, String)>,
    _directory: TempDir,
}

impl Region {
    /// So many nodes, ready, each with these settings.
    fn start(count: usize, options: &[(&str, &str)]) -> Result<Region> {
        let directory = tempfile::tempdir()?;
        let program = Program::at(env!("CARGO_BIN_EXE_atoll"));
        let site = Site::new(directory.path(), program, "members");
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let (options, nodes) = (options.collect(), Vec::new());
        let mut region = Region { site, nodes, options, _directory: directory };
        (0..count).try_for_each(|_| region.add().map(drop))?;
        Ok(region)
    }

    /// One node more, ready. It knows the others; they learn of it.
    fn add(&mut self) -> Result<&Node> {
        let mut node = self.site.node(&format!("eu-{}", self.nodes.len() + 1))?;
        node.options.clone_from(&self.options);
        let ports: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        node.start(&ports)?;
        self.nodes.push(node);
        self.nodes.last().context("it was just added")
    }

    /// Asks every node in turn for one increment of each entity.
    fn increment_all(&self, nodes: &[usize]) -> Result<()> {
        for (entity, node) in (0..ENTITIES).zip(nodes.iter().cycle()) {
            self.nodes[*node].done(&path(entity), &json!({"increment": 1}))?;
        }
        Ok(())
    }

    /// Every node shows every entity with this value, whoever holds it.
    fn expect_all(&self, nodes: &[usize], value: u64) -> Result<()> {
        for node in nodes.iter().map(|node| &self.nodes[*node]) {
            for entity in 0..ENTITIES {
                let shown = node.get(&path(entity))?;
                ensure!(shown["value"] == value, "{} shows {shown}", node.name);
            }
        }
        Ok(())
    }

    /// Every answer names who gave it: the node that was asked where it holds the shard, else one
    /// that does.
    fn expect_named(&self, at: usize) -> Result<()> {
        let node = &self.nodes[at];
        for entity in 0..ENTITIES {
            let path = path(entity);
            let place = node.get(&path.replacen("/v1/", "/v1/cluster/locate/", 1))?;
            let answer = node.ask(&path)?;
            let served = answer.header("atoll-node").context("nobody is named")?;
            let replicas = place["replicas"]["eu"].as_array().context("no replicas")?;
            let holds = replicas.iter().any(|replica| replica["name"] == *served);
            ensure!(holds && (place["here"] == false || served == node.name), "{served}: {place}");
        }
        Ok(())
    }

    /// Waits until a node says that nothing is short or on its way, and that exactly these hold
    /// replicas.
    fn await_placed(&self, at: usize, holders: &[&str]) -> Result<BTreeMap<String, usize>> {
        let wanted: BTreeSet<&str> = holders.iter().copied().collect();
        let mut last = Value::Null;
        let placed = until(PATIENCE, || {
            last = self.nodes[at].get("/v1/cluster/shards").ok()?;
            let loads = loads(&last);
            let settled = last["moving"] == 0 && last["under_replicated"] == 0;
            let held: BTreeSet<&str> = loads.keys().map(String::as_str).collect();
            // Between two moves nothing is on its way, either: at rest loads differ by one at most.
            let level = loads.values().max()? - loads.values().min()? <= 1;
            (settled && level && held == wanted).then_some(loads)
        });
        placed.with_context(|| format!("not placed on {holders:?}: {:?}", loads(&last)))
    }

    /// Waits until a node sees another in a state.
    fn await_state(&self, at: usize, name: &str, state: Option<&str>) -> Result<()> {
        let mut last = Value::Null;
        let seen = until(PATIENCE, || {
            last = self.nodes[at].get("/v1/cluster").ok()?;
            let nodes = last["nodes"].as_array()?;
            let node = nodes.iter().find(|node| node["name"] == name);
            (node.and_then(|node| node["state"].as_str()) == state).then_some(())
        });
        seen.with_context(|| format!("{name} is not {state:?} in {last}"))
    }
}

fn path(entity: usize) -> String {
    format!("/v1/counters/c/entity-{entity}")
}

/// Replicas by node, joining ones too.
fn loads(shards: &Value) -> BTreeMap<String, usize> {
    let mut loads = BTreeMap::new();
    let all = shards["shards"].as_object().into_iter().flatten();
    for replica in all.flat_map(|(_, shard)| shard["replicas"]["eu"].as_array()).flatten() {
        *loads.entry(replica["name"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    loads
}

#[test]
fn a_killed_node_is_replaced_and_comes_back_as_a_newcomer() -> Result<()> {
    let mut region = Region::start(4, &[("ATOLL__CLUSTER__REPLACE_AFTER_S", "2")])?;
    let loads = region.await_placed(0, &["eu-1", "eu-2", "eu-3", "eu-4"])?;
    ensure!(loads.values().all(|load| *load == 48), "64 shards, 3 replicas, 4 nodes: {loads:?}");
    region.increment_all(&[0, 1, 2, 3])?;
    region.expect_all(&[0, 1, 2, 3], 1)?;
    region.expect_named(3)?;
    region.nodes[1].kill()?;
    region.await_state(0, "eu-2", Some("down"))?;
    region.await_placed(2, &["eu-1", "eu-3", "eu-4"])?;
    region.increment_all(&[0, 2, 3])?;
    region.expect_all(&[0, 2, 3], 2)?;
    let ports: Vec<u16> = region.nodes.iter().map(|node| node.port).collect();
    region.nodes[1].start(&ports)?;
    region.await_state(0, "eu-2", Some("up"))?;
    let loads = region.await_placed(3, &["eu-1", "eu-2", "eu-3", "eu-4"])?;
    ensure!(loads.values().all(|load| *load == 48), "level again: {loads:?}");
    region.expect_all(&[0, 1, 2, 3], 2)
}

#[test]
fn a_node_that_leaves_hands_everything_off_first() -> Result<()> {
    let options = [("ATOLL__CLUSTER__LEAVE_ON_STOP", "true"), ("ATOLL__CLUSTER__DRAIN_S", "20")];
    let mut region = Region::start(4, &options)?;
    region.await_placed(0, &["eu-1", "eu-2", "eu-3", "eu-4"])?;
    region.increment_all(&[0, 1, 2, 3])?;
    // The one that formed the region is not needed any more.
    region.nodes[0].terminate()?;
    let status = region.nodes[0].await_end()?;
    ensure!(status.success(), "{status}: {}", region.nodes[0].log_tail());
    let shards = region.nodes[1].get("/v1/cluster/shards")?;
    ensure!(!loads(&shards).contains_key("eu-1"), "it ended before it had handed off: {shards}");
    region.expect_all(&[1, 2, 3], 1)?;
    region.await_state(2, "eu-1", None)?;
    region.add()?;
    region.await_placed(1, &["eu-2", "eu-3", "eu-4", "eu-5"])?;
    region.increment_all(&[1, 2, 3, 4])?;
    region.expect_all(&[1, 2, 3, 4], 2)
}
