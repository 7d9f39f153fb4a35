//! Health, metrics, and this node's view of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use super::entities::json_response;
use super::problem::{Code, Problem};
use super::query::Query;
use super::{App, address};
use crate::node::{ClusterView, NodeView, ShardDigest};
use atoll_store::name::Collection;

/// Is the process alive?
#[utoipa::path(
    get, path = "/livez", tag = "health",
    responses((status = 200, description = "the event loop turns")),
)]
pub(super) async fn livez(State(app): State<App>, uri: Uri) -> Response {
    match app.node.is_live() {
        true => json_response(&app, "{\"live\":true}"),
        false => {
            Problem::new(Code::NotLive, "the node's loop has not turned lately; restart the node")
                .at(uri.path())
                .into_response()
        }
    }
}

/// May the node get requests?
///
/// 503 with `reasons` until it has recovered and joined, and while it drains.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, description = "recovered and joined")),
)]
pub(super) async fn readyz(State(app): State<App>, uri: Uri) -> Response {
    let reasons = app.node.not_ready();
    if reasons.is_empty() {
        return json_response(&app, "{\"ready\":true}");
    }
    let problem = Problem::new(Code::NotReady, reasons.join("; "));
    problem.with("reasons", &reasons).at(uri.path()).into_response()
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Prometheus text",
        content_type = "text/plain")),
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    app.node.measure();
    let text = app.metrics.as_ref().map(|handle| handle.render()).unwrap_or_default();
    let media = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

/// This node's view of the cluster
#[utoipa::path(
    get, path = "/v1/cluster", tag = "cluster",
    responses((
            status = 200,
            description = "{node, region, regions, nodes, round_trips, lag, writes}",
            content_type = "application/json",
        )),
)]
pub(super) async fn view(State(app): State<App>, uri: Uri) -> Response {
    match Query::parse(uri.query(), &[]) {
        Ok(_) => json_response(&app, view_json(&app.node.cluster()).to_string()),
        Err(problem) => problem.at(uri.path()).into_response(),
    }
}

/// Content digests, to compare nodes
#[utoipa::path(
    get, path = "/v1/cluster/digest", tag = "cluster",
    params(
        ("kind" = Option<String>, Query, description = "only shards that hold this kind"),
        ("collection" = Option<String>, Query, description = "only this collection; needs kind"),
        ("verbose" = Option<bool>, Query, description = "adds vectors, retired origins, counts"),
    ),
    responses((
            status = 200,
            description = "{node, region, shards: {\"placement/slot\": hex}, elsewhere: [shards \
                that other nodes serve]}",
            content_type = "application/json",
        )),
)]
pub(super) async fn digest(State(app): State<App>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let result = digests(&app, &parts.uri).await;
    result.unwrap_or_else(|problem| problem.at(parts.uri.path()).into_response())
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "description",
    responses((status = 200, description = "OpenAPI 3.1",
        content_type = "application/json")),
)]
pub(super) async fn openapi(State(app): State<App>) -> Response {
    json_response(&app, app.openapi.clone())
}

/// This description, to read
#[utoipa::path(
    get, path = "/docs", tag = "description",
    responses((status = 200, description = "a page",
        content_type = "text/html")),
)]
pub(super) async fn docs() -> Html<&'static str> {
    Html(include_str!("docs.html"))
}

async fn digests(app: &App, uri: &Uri) -> Result<Response, Problem> {
    let query = Query::parse(uri.query(), &["kind", "collection", "verbose"])?;
    let kind = query.text("kind").map(address::kind).transpose()?;
    let collection = query.text("collection").map(Collection::parse).transpose()?;
    let verbose = query.flag("verbose")?;
    let only = match (kind, collection) {
        (None, None) => None,
        (None, Some(_)) => return Err(Problem::bad("query parameter collection needs kind")),
        (Some(kind), collection) => Some((kind, collection)),
    };
    let digests = app.node.digests(only).await?;
    let mut json = digests_json(app.node.id(), app.node.region(), &digests, verbose);
    json["elsewhere"] = json!(app.node.elsewhere());
    Ok(json_response(app, json.to_string()))
}

fn view_json(view: &ClusterView) -> Value {
    let regions: BTreeSet<_> = view.nodes.iter().map(|node| node.region.as_str()).collect();
    let mut round_trips = BTreeMap::<&str, f64>::new();
    for node in &view.nodes {
        if let Some(rtt) = node.rtt_ms.filter(|rtt| rtt.is_finite()) {
            let best = round_trips.entry(&node.region).or_insert(rtt);
            *best = best.min(rtt);
        }
    }
    let lag = view
        .lag
        .iter()
        .map(|(region, lag)| (region.clone(), json!({"ms": lag.ms, "operations": lag.operations})));
    json!({
        "node": view.node,
        "region": view.region,
        "regions": regions,
        "nodes": view.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "round_trips": round_trips,
        "lag": lag.collect::<serde_json::Map<_, _>>(),
        "writes": view.writes,
    })
}

fn node_json(node: &NodeView) -> Value {
    json!({
        "id": node.id, "name": node.name, "region": node.region, "zone": node.zone,
        "address": node.address, "state": node.state, "version": node.version,
        "incarnation": node.incarnation, "rtt_ms": node.rtt_ms,
    })
}

fn digests_json(node: &str, region: &str, digests: &[ShardDigest], verbose: bool) -> Value {
    let by_shard = |value: fn(&ShardDigest) -> Value| {
        let shards = digests.iter().map(|digest| (digest.shard.clone(), value(digest)));
        Value::Object(shards.collect())
    };
    let mut json = json!({
        "node": node,
        "region": region,
        "shards": by_shard(|digest| digest.digest.clone().into()),
    });
    if verbose {
        json["vectors"] = by_shard(|digest| json!(digest.vector));
        json["retired"] = by_shard(|digest| format!("{:016x}", digest.retired).into());
        json["entities"] = by_shard(|digest| digest.entities.into());
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Lag;

    #[test]
    fn a_view_names_regions_and_lag() {
        let node = |region: &str, rtt_ms| NodeView {
            id: "ab".into(),
            name: "n".into(),
            region: region.into(),
            zone: "z".into(),
            address: "127.0.0.1:1".into(),
            state: "up",
            version: "0.1.0".into(),
            incarnation: "cd".into(),
            rtt_ms,
        };
        let view = ClusterView {
            node: "ab".into(),
            region: "eu".into(),
            nodes: vec![node("us", Some(81.0)), node("us", Some(80.0)), node("eu", None)],
            lag: [("us".to_string(), Lag { ms: 120, operations: 3 })].into(),
            writes: 1,
        };
        let json = view_json(&view);
        assert_eq!(json["regions"], json!(["eu", "us"]));
        assert_eq!(json["round_trips"], json!({"us": 80.0}));
        assert_eq!(json["lag"], json!({"us": {"ms": 120, "operations": 3}}));
        assert_eq!(json["nodes"][2]["rtt_ms"], Value::Null);
    }

    #[test]
    fn a_digest_is_verbose_only_if_asked() {
        let digest = ShardDigest {
            shard: "default/3".into(),
            digest: "ff".into(),
            entities: 2,
            vector: [("ab".to_string(), 7)].into(),
            retired: 0xcd,
        };
        let json = digests_json("n", "eu", std::slice::from_ref(&digest), false);
        let plain = json!({"node": "n", "region": "eu", "shards": {"default/3": "ff"}});
        assert_eq!(json, plain);
        let json = digests_json("n", "eu", &[digest], true);
        assert_eq!(json["vectors"], json!({"default/3": {"ab": 7}}));
        assert_eq!(json["retired"], json!({"default/3": "00000000000000cd"}));
        assert_eq!(json["entities"], json!({"default/3": 2}));
    }
}
