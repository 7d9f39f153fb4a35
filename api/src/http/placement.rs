//! Where shards are, and what an operator may do to nodes.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use atoll_replication::placement::{RegionPlacement, Replicas};
use atoll_replication::transport::NodeId;
use atoll_sharding::council::CouncilError;
use atoll_sharding::driver::Handle;

use super::entities::json_response;
use super::problem::{Code, Problem};
use super::{App, address};
use crate::node::ShardsView;

/// Replicas of every shard, as recorded
#[utoipa::path(
    get, path = "/v1/cluster/shards", tag = "cluster",
    responses((
            status = 200,
            description = "{node, region, records, moving, under_replicated, shards: \
                {\"placement/slot\": {replicas, owner, term, here, entities}}}",
            content_type = "application/json",
        )),
)]
pub(super) async fn shards(State(app): State<App>, uri: Uri) -> Response {
    match app.node.shards().await {
        Ok(view) => json_response(&app, shards_json(&view).to_string()),
        Err(error) => Problem::from(error).at(uri.path()).into_response(),
    }
}

/// The shard of an entity, and who holds it
#[utoipa::path(
    get, path = "/v1/cluster/locate/{kind}/{collection}/{id}", tag = "cluster",
    params(
        ("kind" = String, Path, description = "the kind"),
        ("collection" = String, Path, description = "the collection"),
        ("id" = String, Path, description = "the id, percent-encoded"),
    ),
    responses((
            status = 200,
            description = "{shard, replicas, owner, here}",
            content_type = "application/json",
        )),
)]
pub(super) async fn locate(State(app): State<App>, uri: Uri) -> Response {
    let path = uri.path().replacen("/v1/cluster/locate/", "/v1/", 1);
    match address::entity(&path) {
        Err(problem) => problem.at(uri.path()).into_response(),
        Ok(key) => {
            let (slot, placement, here) = app.node.locate(&key);
            let json = json!({
                "shard": format!("0/{slot}"),
                "replicas": replicas_json(placement.regions(), slot),
                "owner": Value::Null,
                "here": here,
            });
            json_response(&app, json.to_string())
        }
    }
}

/// Hand everything off, and leave
///
/// Asked of the node itself; it answers at once, and leaves as its replicas are moved:
/// `/v1/cluster` shows it as `leaving`, and it is no longer listed when it may be stopped.
#[utoipa::path(
    post, path = "/v1/cluster/nodes/{id}/drain", tag = "cluster",
    params(("id" = String, Path, description = "the node's id")),
    responses((status = 202, description = "{node, state}", content_type = "application/json")),
)]
pub(super) async fn drain(
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let handle = cluster(&app).map_err(|problem| problem.at(uri.path()))?.clone();
    if id != app.node.id() {
        let detail = format!(
            "a node is drained by itself: send this to node {id}, or stop its process; this is {}",
            app.node.id()
        );
        return Err(Problem::bad(detail).at(uri.path()));
    }
    app.node.retire();
    tokio::spawn(async move { handle.leave().await });
    let mut response = json_response(&app, json!({"node": id, "state": "leaving"}).to_string());
    *response.status_mut() = axum::http::StatusCode::ACCEPTED;
    Ok(response)
}

/// Forget a dead node
///
/// Its replicas are recorded elsewhere. What only it knew is lost: it comes back as a new node.
#[utoipa::path(
    delete, path = "/v1/cluster/nodes/{id}", tag = "cluster",
    params(("id" = String, Path, description = "the node's id")),
    responses((status = 200, description = "{node, state}", content_type = "application/json")),
)]
pub(super) async fn forget(
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    forget_node(&app, &id).await.map_err(|problem| problem.at(uri.path()))
}

async fn forget_node(app: &App, id: &str) -> Result<Response, Problem> {
    let node: NodeId = id.parse().map_err(|_| {
        Problem::bad(format!("{id:?} is no node id: 32 hexadecimal digits, see /v1/cluster"))
    })?;
    let done = cluster(app)?.evict(node).await.map_err(|ended| draining(&ended))?;
    done.map_err(|error| refused(&error))?;
    Ok(json_response(app, json!({"node": id, "state": "gone"}).to_string()))
}

/// Re-form a council that lost its majority
///
/// For an operator, on one surviving node of the region: decisions that only the lost nodes knew
/// are lost. The council goes on under a higher epoch, which everyone else follows.
#[utoipa::path(
    post, path = "/v1/cluster/recover", tag = "cluster",
    responses((status = 200, description = "{region, epoch}", content_type = "application/json")),
)]
pub(super) async fn recover(State(app): State<App>, uri: Uri) -> Result<Response, Problem> {
    re_form(&app).await.map_err(|problem| problem.at(uri.path()))
}

async fn re_form(app: &App) -> Result<Response, Problem> {
    let chance = getrandom::u64().map_err(|_| Problem::internal())?;
    let done = cluster(app)?.recover(chance).await.map_err(|ended| draining(&ended))?;
    done.map_err(|error| refused(&error))?;
    let epoch = cluster(app)?.view().council.identity.map(|identity| identity.epoch);
    Ok(json_response(app, json!({"region": app.node.region(), "epoch": epoch}).to_string()))
}

fn cluster(app: &App) -> Result<&Handle, Problem> {
    app.node.membership().ok_or_else(|| Problem::new(Code::NotReady, "the node is starting"))
}

fn draining(ended: &atoll_sharding::driver::Ended) -> Problem {
    Problem::new(Code::Draining, ended.to_string())
}

fn refused(error: &CouncilError) -> Problem {
    let code = match error {
        CouncilError::Unknown(_) => Code::NotFound,
        CouncilError::Record(_) => Code::Internal,
        _ => Code::BadRequest,
    };
    Problem::new(code, error.to_string())
}

fn shards_json(view: &ShardsView) -> Value {
    let records = view.placement.regions().map(|record| {
        let (epoch, number) = (record.version.epoch, record.version.number);
        (record.region.clone(), json!({"epoch": epoch, "number": number, "factor": record.factor}))
    });
    let shards = view.shards.iter().map(|shard| {
        let json = json!({
            "replicas": replicas_json(view.placement.regions(), shard.slot),
            "owner": Value::Null,
            "term": Value::Null,
            "here": shard.here,
            "entities": shard.entities,
        });
        (format!("0/{}", shard.slot), json)
    });
    json!({
        "node": view.node,
        "region": view.region,
        "records": records.collect::<serde_json::Map<_, _>>(),
        "moving": view.moving,
        "under_replicated": view.under_replicated,
        "shards": shards.collect::<serde_json::Map<_, _>>(),
    })
}

/// By region, who holds a slot, and how.
fn replicas_json<'a>(regions: impl Iterator<Item = &'a RegionPlacement>, slot: u16) -> Value {
    let region = |record: &RegionPlacement| {
        let set = record.slots.get(usize::from(slot))?;
        let each = set.all().map(|node| {
            let name = record.nodes.get(&node).map(|seat| seat.name.clone());
            json!({"id": node.to_string(), "name": name, "state": state_of(set, node)})
        });
        Some((record.region.clone(), Value::Array(each.collect())))
    };
    let replicas: BTreeMap<String, Value> = regions.filter_map(region).collect();
    json!(replicas)
}

fn state_of(set: &Replicas, node: NodeId) -> &'static str {
    let stays = set.next.as_ref().is_none_or(|next| next.contains(&node));
    match (set.counts(node), stays) {
        (true, true) => "current",
        (true, false) => "leaving",
        (false, _) => "joining",
    }
}
