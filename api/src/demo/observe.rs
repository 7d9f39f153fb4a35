//! What the nodes say about themselves, gathered once a second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::layout::Place;
use crate::cli::check::{Holding, differing};
use crate::client::{Call, Client};

/// How long an answer is waited for: less than the time between two questions.
const PATIENCE: Duration = Duration::from_millis(900);

/// One node's answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Writes it accepted since its start.
    pub(super) writes: u64,
    /// Milliseconds behind each region.
    pub(super) lag: BTreeMap<String, u64>,
    /// The nodes of its region, as it sees them.
    pub(super) members: String,
    /// How its region's replicas are.
    pub(super) replicas: String,
    /// Digests by shard; `None` if it did not tell in time.
    pub(super) holding: Option<Holding>,
}

/// Clients with kept connections, by address.
#[derive(Default)]
pub(super) struct Observer(BTreeMap<String, Client>);

impl Observer {
    /// Asks nodes at once; what a node does not answer in time stays empty.
    pub(super) async fn ask(&mut self, places: &[Place]) -> Vec<Seen> {
        let mut clients = Vec::new();
        for place in places {
            let url = place.url();
            let client = match self.0.get(&url) {
                Some(client) => client.clone(),
                None => Client::new(&url).expect("a place has a good address"),
            };
            self.0.insert(url, client.clone());
            clients.push(client);
        }
        futures_util::future::join_all(clients.iter().map(ask)).await
    }
}

async fn ask(client: &Client) -> Seen {
    let cluster = Call::get("/v1/cluster");
    let view = timeout(PATIENCE, client.call(&cluster)).await;
    let view = view.ok().and_then(Result::ok).map(|answer| answer.body).unwrap_or_default();
    let shards = timeout(PATIENCE, client.call(&Call::get("/v1/cluster/shards"))).await;
    let shards = shards.ok().and_then(Result::ok).map(|answer| answer.body);
    let holding = timeout(PATIENCE, Holding::ask(client)).await.ok().and_then(Result::ok);
    let lag = view["lag"].as_object().into_iter().flatten();
    let ms = |value: &Value| value["ms"].as_u64().unwrap_or(0);
    Seen {
        writes: view["writes"].as_u64().unwrap_or(0),
        members: members(&view),
        replicas: shards.as_ref().map(replicas).unwrap_or_default(),
        lag: lag.map(|(region, value)| (region.clone(), ms(value))).collect(),
        holding,
    }
}

/// Whether all hold the same; false if one did not tell, or there is none.
pub(super) fn equal<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> bool {
    let holdings: Option<Vec<Holding>> =
        seen.into_iter().map(|node| node.holding.clone()).collect();
    holdings.is_some_and(|held| !held.is_empty() && differing(&held).is_empty())
}

/// `3 up, 1 down`: the nodes of its own region, as a node sees them.
fn members(view: &Value) -> String {
    let nodes = view["nodes"].as_array().into_iter().flatten();
    let near = nodes.filter(|node| node["region"] == view["region"]);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in near.filter_map(|node| node["state"].as_str()) {
        *counts.entry(state).or_default() += 1;
    }
    let order = ["up", "joining", "leaving", "suspect", "down"];
    let told = order.iter().filter_map(|state| Some(format!("{} {state}", counts.get(state)?)));
    told.collect::<Vec<_>>().join(", ")
}

/// `full`, or what is being done about it.
fn replicas(shards: &Value) -> String {
    let count = |name: &str| shards[name].as_u64().unwrap_or(0);
    match (count("under_replicated"), count("moving")) {
        (0, 0) => "full".into(),
        (0, moving) => format!("{moving} moving"),
        (short, 0) => format!("{short} short"),
        (short, moving) => format!("{short} short, {moving} moving"),
    }
}
