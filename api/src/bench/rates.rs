//! Rates of single requests: hot reads, durable writes, one hot key, one large set.

use std::sync::Arc;

use hyper::Method;
use hyper::header::HeaderName;
use serde_json::{Value, json};

use super::Plan;
use super::load::{Connection, Load, Measured, minimal, request};
use super::report::Row;
use super::servers::Server;
use crate::cli::Failure;
use crate::client::Call;

/// Connections that read, and that write.
const READERS: usize = 50;
pub(super) const WRITERS: usize = 256;
/// Connections that add to sets.
const ADDERS: usize = 64;
/// Counters of the write measurement.
pub(super) const KEYS: usize = 10_000;
/// Members of the large set before it is measured.
const MEMBERS: usize = 100_000;
/// Members added while measuring: few, so that the large set keeps its size.
const ADDED: usize = 1000;
/// Members a request while preparing.
const PREPARED: usize = 1000;

/// Reads of one counter.
pub(super) async fn read(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let node = Server::node(plan).await?;
    let path = "/v1/counters/bench/hot";
    node.client()?.call(&Call::post(path, json!({"increment": 42}))).await?;
    let requests = vec![request(Method::GET, path, None)];
    let baseline = Server::baseline(&answer(&node, &requests[0]).await?).await?;
    let load = Load { connections: READERS, length: plan.length / 2, requests: requests.into() };
    let (product, bare) = turns((&load, &node), (&load, &baseline)).await?;
    node.end().await;
    Ok(vec![row("read, 50 connections", &product, Some(("axum, from memory", bare.rate)))])
}

/// Increments of many counters.
pub(super) async fn write(plan: &Plan) -> Result<Vec<Row>, Failure> {
    increments(plan, "write, 256 connections, 10,000 keys", KEYS).await
}

/// Increments of one counter.
pub(super) async fn hot_key(plan: &Plan) -> Result<Vec<Row>, Failure> {
    increments(plan, "write, 256 connections, one key", 1).await
}

async fn increments(plan: &Plan, name: &'static str, keys: usize) -> Result<Vec<Row>, Failure> {
    let node = Server::node(plan).await?;
    let body = json!({"increment": 1});
    let path = |key| format!("/v1/counters/bench/key-{key}");
    let requests: Vec<_> =
        (0..keys).map(|key| request(Method::POST, &path(key), Some(&body))).collect();
    let baseline = Server::baseline(&answer(&node, &requests[0]).await?).await?;
    let load = Load { connections: WRITERS, length: plan.length / 2, requests: requests.into() };
    let (product, bare) = turns((&load, &node), (&load, &baseline)).await?;
    node.end().await;
    Ok(vec![row(name, &product, Some(("axum, append and fdatasync", bare.rate)))])
}

/// Adding to a set of 100,000 members, against adding to small ones.
pub(super) async fn large_set(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let node = Server::node(plan).await?;
    let large = "/v1/sets/bench/large";
    let client = node.client()?;
    for start in (0..MEMBERS).step_by(PREPARED) {
        let members: Vec<String> =
            (start..start + PREPARED).map(|member| format!("member-{member}")).collect();
        client
            .call(
                &Call::post(large, json!({"add": members}))
                    .header(HeaderName::from_static("prefer"), "return=minimal"),
            )
            .await?;
    }
    let add = |member: usize| json!({"add": [format!("added-{}", member % ADDED)]});
    // The answer to an add is the whole set, or, if so preferred, none of it.
    let to = |path: &str, member| minimal(Method::POST, path, Some(&add(member)));
    let one: Vec<_> = (0..ADDED).map(|member| to(large, member)).collect();
    let many: Vec<_> =
        (0..KEYS).map(|key| to(&format!("/v1/sets/bench/small-{key}"), key)).collect();
    let load = |requests: Vec<Vec<u8>>| Load {
        connections: ADDERS,
        length: plan.length / 2,
        requests: Arc::new(requests),
    };
    let (one, many) = (load(one), load(many));
    let (product, small) = turns((&one, &node), (&many, &node)).await?;
    node.end().await;
    Ok(vec![row("add to a set of 100,000", &product, Some(("add to small sets", small.rate)))])
}

/// A B A B.
pub(super) async fn turns(
    (a, at): (&Load, &Server),
    (b, bt): (&Load, &Server),
) -> Result<(Measured, Measured), Failure> {
    let first = (a.run(at.address).await?, b.run(bt.address).await?);
    let second = (a.run(at.address).await?, b.run(bt.address).await?);
    Ok((first.0.and(second.0), first.1.and(second.1)))
}

pub(super) fn row(
    name: &'static str,
    measured: &Measured,
    baseline: Option<(&'static str, f64)>,
) -> Row {
    Row {
        name,
        unit: "requests/s",
        value: measured.rate,
        baseline,
        p50_ms: measured.quantile(0.5),
        p99_ms: measured.quantile(0.99),
    }
}

/// What the product answers, for the baseline to answer the same.
async fn answer(node: &Server, request: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut connection = Connection::open(node.address).await.map_err(Failure::of("node"))?;
    let body = connection.exchange(request).await.map_err(Failure::of("node"))?.to_vec();
    let _: Value = serde_json::from_slice(&body)
        .map_err(|e| Failure::failed(format!("the node's answer is not JSON: {e}")))?;
    Ok(body)
}
