//! `atoll cluster status`: the nodes and how far behind each region is, as one node sees it.

use clap::Subcommand;
use serde_json::Value;

use super::output::{Paint, paint, plain, table};
use super::{Common, Failure, Output};
use crate::client::Call;

/// Subcommands of `cluster`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the asked node's view of all nodes, and its lag behind other regions.
    Status,
}

/// Asks and prints.
pub async fn run(common: &Common, command: Command) -> Result<(), Failure> {
    let Command::Status = command;
    let client = common.client()?;
    let view = common.call(&client, Call::get("/v1/cluster")).await?.body;
    match common.output {
        Output::Json => println!("{view}"),
        Output::Table => print!("{}", render(&view)),
    }
    Ok(())
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
    use serde_json::json;

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
}
