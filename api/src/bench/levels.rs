//! What a majority of three costs against one disk: the same writes at both levels, in turns.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Plan;
use super::load::{Load, request};
use super::rates::{KEYS, WRITERS, row, turns};
use super::report::Row;
use super::servers::Server;
use crate::cli::Failure;
use crate::client::{Call, Client};

/// Nodes of the region: each holds all shards.
const NODES: usize = 3;
/// How long the region may take to place its shards on all of them.
const PLACED: Duration = Duration::from_secs(60);
/// Between two looks at that.
const PAUSE: Duration = Duration::from_millis(100);

/// Increments of many counters at `local_quorum`, against the same at `one`.
pub(super) async fn measure(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let nodes = Server::nodes(plan, &["local"; NODES]).await?;
    for node in &nodes {
        placed(&node.client()?).await?;
    }
    let body = json!({"increment": 1});
    let load = |level: &str| {
        let path = |key| format!("/v1/counters/bench/key-{key}?consistency={level}");
        let requests: Vec<_> =
            (0..KEYS).map(|key| request(Method::POST, &path(key), Some(&body))).collect();
        Load { connections: WRITERS, length: plan.length / 2, requests: requests.into() }
    };
    let (quorum, one) = (load("local_quorum"), load("one"));
    let (product, single) = turns((&quorum, &nodes[0]), (&one, &nodes[0])).await?;
    for node in nodes {
        node.end().await;
    }
    let name = "write at local_quorum, three nodes";
    Ok(vec![row(name, &product, Some(("the same at one", single.rate)))])
}

/// Waits until every shard has a replica on every node.
async fn placed(client: &Client) -> Result<(), Failure> {
    let until = Instant::now() + PLACED;
    loop {
        let view = client.call(&Call::get("/v1/cluster/shards")).await?.body;
        let shards = view["shards"].as_object();
        let whole = |shard: &serde_json::Value| {
            shard["replicas"]["local"].as_array().is_some_and(|all| all.len() == NODES)
        };
        let all = shards.is_some_and(|shards| !shards.is_empty() && shards.values().all(whole));
        if all && view["moving"] == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Failure::failed("the shards are not placed on all nodes in time"));
        }
        sleep(PAUSE).await;
    }
}
