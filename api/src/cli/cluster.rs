//! `atoll cluster`: nodes, replicas and lag as one node sees them, and what an operator may do.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Paint, paint, plain, table};
use super::{Common, Failure, Output};
use crate::client::{Call, Client};

/// Between looks at how far a node is with handing off.
const PAUSE: Duration = Duration::from_millis(500);

/// Subcommands of `cluster`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the asked node's view of all nodes, of its region's replicas, and its lag behind other
    /// regions.
    Status,
    /// Print who holds each shard.
    Shards,
    /// Have the asked node hand its replicas off and leave; done when it may be stopped.
    Drain,
    /// Give up a dead node that will not come back: its replicas are recorded elsewhere.
    Forget {
        /// Its id, as `status` prints it, or its name.
        node: String,
    },
    /// Re-form the asked node's council after a majority of it was lost for good.
    Recover,
}

/// Asks and prints.
pub async fn run(common: &Common, command: Command) -> Result<(), Failure> {
    let client = common.client()?;
    let view = common.call(&client, Call::get("/v1/cluster")).await?.body;
    let id = plain(&view["node"]);
    let text = match command {
        Command::Status => {
            let shards = common.call(&client, Call::get("/v1/cluster/shards")).await?.body;
            return print(common, &view, render(&view) + &summary(&shards));
        }
        Command::Shards => {
            let shards = common.call(&client, Call::get("/v1/cluster/shards")).await?.body;
            return print(common, &shards, placed(&shards));
        }
        Command::Drain => {
            let call = Call::post(format!("/v1/cluster/nodes/{id}/drain"), json!({}));
            common.call(&client, call).await?;
            while let Some(left) = held(common, &client, &id).await? {
                eprintln!("{left} replicas are still to be handed off");
                tokio::time::sleep(PAUSE).await;
            }
            "it holds nothing any more: stop it\n"
        }
        Command::Forget { node } => {
            let call = Call::delete(format!("/v1/cluster/nodes/{}", named(&view, &node)?));
            common.call(&client, call).await?;
            "it is given up\n"
        }
        Command::Recover => {
            common.call(&client, Call::post("/v1/cluster/recover", json!({}))).await?;
            "the council is re-formed here; others follow\n"
        }
    };
    print!("{text}");
    Ok(())
}

fn print(common: &Common, body: &Value, text: String) -> Result<(), Failure> {
    match common.output {
        Output::Json => println!("{body}"),
        Output::Table => print!("{text}"),
    }
    Ok(())
}

/// How many replicas a node is recorded for; none if it is not recorded at all.
async fn held(common: &Common, client: &Client, id: &str) -> Result<Option<usize>, Failure> {
    let shards = common.call(client, Call::get("/v1/cluster/shards")).await?.body;
    let all = shards["shards"].as_object().into_iter().flatten();
    let regions = all.flat_map(|(_, shard)| shard["replicas"].as_object()).flatten();
    let replicas = regions.flat_map(|(_, replicas)| replicas.as_array()).flatten();
    let count = replicas.filter(|replica| replica["id"] == *id).count();
    Ok((count > 0).then_some(count))
}

/// The id of a node that was given by its id, the beginning of it, or its name.
fn named(view: &Value, node: &str) -> Result<String, Failure> {
    let all = || view["nodes"].as_array().into_iter().flatten();
    let matches = |known: &&Value| {
        known["name"] == node || known["id"].as_str().is_some_and(|id| id.starts_with(node))
    };
    let found: Vec<&Value> = all().filter(matches).collect();
    match found.as_slice() {
        [one] => Ok(plain(&one["id"])),
        [] => Err(Failure::Usage(format!("no node {node:?}; `atoll cluster status` lists them"))),
        _ => Err(Failure::Usage(format!("{node:?} is more than one node: give the whole id"))),
    }
}

/// How the region's replicas are, in a line.
fn summary(shards: &Value) -> String {
    let (count, moving) =
        (shards["shards"].as_object().map_or(0, |all| all.len()), &shards["moving"]);
    let (region, short) = (plain(&shards["region"]), &shards["under_replicated"]);
    format!("\n{count} shards in {region}: {moving} moving, {short} under-replicated\n")
}

/// One row a shard: its replicas of each region.
fn placed(shards: &Value) -> String {
    let mut rows = vec![["SHARD", "REGION", "REPLICAS"].map(String::from).to_vec()];
    let mut all: Vec<_> = shards["shards"].as_object().into_iter().flatten().collect();
    let slot = |id: &str| id.rsplit('/').next().and_then(|slot| slot.parse::<u16>().ok());
    all.sort_by_key(|(id, _)| slot(id));
    for (id, shard) in all {
        for (region, replicas) in shard["replicas"].as_object().into_iter().flatten() {
            let each = replicas.as_array().into_iter().flatten().map(|replica| {
                match (plain(&replica["name"]), plain(&replica["state"])) {
                    (name, state) if state == "current" => name,
                    (name, state) => format!("{name} ({state})"),
                }
            });
            let each: Vec<String> = each.collect();
            rows.push(vec![id.clone(), region.clone(), each.join(", ")]);
        }
    }
    table(&rows)
}

fn render(view: &Value) -> String {
    let heading = ["NAME", "REGION", "ZONE", "STATE", "RTT", "ADDRESS", "VERSION", "ID"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let mut nodes: Vec<&Value> = view["nodes"].as_array().into_iter().flatten().collect();
    nodes.sort_by_key(|node| (node["region"].to_string(), node["name"].to_string()));
    for node in nodes {
        let cell = |name: &str| match &node[name] {
            Value::Null => "-".to_string(),
            value => plain(value),
        };
        let state = match cell("state").as_str() {
            "up" => paint(Paint::Green, "up"),
            "down" => paint(Paint::Red, "down"),
            other => paint(Paint::Yellow, other),
        };
        let rtt = node["rtt_ms"].as_f64().map_or("-".into(), |ms| format!("{ms:.1} ms"));
        let (name, region, zone) = (cell("name"), cell("region"), cell("zone"));
        let name = if node["id"] == view["node"] { format!("{name} *") } else { name };
        let id: String = cell("id").chars().take(8).collect();
        rows.push(vec![name, region, zone, state, rtt, cell("address"), cell("version"), id]);
    }
    let mut text = table(&rows);
    if let Some(lag) = view["lag"].as_object().filter(|lag| !lag.is_empty()) {
        let mut rows = vec![["BEHIND", "BY", "OPERATIONS"].map(String::from).to_vec()];
        for (region, lag) in lag {
            let ms = format!("{} ms", lag["ms"]);
            rows.push(vec![region.clone(), ms, lag["operations"].to_string()]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_a_node() {
        let view = json!({"node": "aa", "region": "eu", "writes": 1,
            "nodes": [{"id": "aa", "name": "eu-1", "region": "eu", "zone": "a", "state": "up",
                "address": "127.0.0.1:7401", "version": "0.1.0", "rtt_ms": null}],
            "lag": {"us": {"ms": 120, "operations": 3}}});
        let expected = "\
NAME    REGION  ZONE  STATE  RTT  ADDRESS         VERSION  ID
eu-1 *  eu      a     up     -    127.0.0.1:7401  0.1.0    aa

BEHIND  BY      OPERATIONS
us      120 ms  3
";
        assert_eq!(render(&view), expected);
    }

    #[test]
    fn one_row_a_shard_and_region() {
        let replica = |name: &str, state: &str| json!({"id": "aa", "name": name, "state": state});
        let eu = [replica("eu-1", "current"), replica("eu-4", "joining")];
        let shards = json!({"region": "eu", "moving": 1, "under_replicated": 0, "shards": {
            "0/10": {"replicas": {"us": [replica("us-1", "current")]}},
            "0/9": {"replicas": {"eu": eu}},
        }});
        let expected = "\
SHARD  REGION  REPLICAS
0/9    eu      eu-1, eu-4 (joining)
0/10   us      us-1
";
        assert_eq!(placed(&shards), expected);
        assert_eq!(summary(&shards), "\n2 shards in eu: 1 moving, 0 under-replicated\n");
    }

    #[test]
    fn a_node_is_named_by_id_or_name() {
        let view =
            json!({"nodes": [{"id": "aab1", "name": "eu-1"}, {"id": "aac2", "name": "eu-2"}]});
        assert_eq!(named(&view, "eu-2").ok().as_deref(), Some("aac2"));
        assert_eq!(named(&view, "aab").ok().as_deref(), Some("aab1"));
        assert!(named(&view, "aa").is_err() && named(&view, "eu-3").is_err());
    }
}
