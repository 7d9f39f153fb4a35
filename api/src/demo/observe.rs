//! What the nodes say about themselves, gathered once a second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::layout::Place;
use crate::cli::check::Holding;
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
    let holding = timeout(PATIENCE, Holding::ask(client)).await.ok().and_then(Result::ok);
    let lag = view["lag"].as_object().into_iter().flatten();
    let ms = |value: &Value| value["ms"].as_u64().unwrap_or(0);
    Seen {
        writes: view["writes"].as_u64().unwrap_or(0),
        lag: lag.map(|(region, value)| (region.clone(), ms(value))).collect(),
        holding,
    }
}

/// Whether all hold the same; false if one did not tell, or there is none.
pub(super) fn equal(seen: &[Seen]) -> bool {
    let shards = |seen: &Seen| seen.holding.as_ref().map(|holding| holding.shards.clone());
    !seen.is_empty()
        && seen.iter().all(|node| node.holding.is_some())
        && seen.windows(2).all(|pair| shards(&pair[0]) == shards(&pair[1]))
}
