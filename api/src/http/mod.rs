//! The HTTP surface: version 1 of the contract over a [`Node`].
//!
//! A request goes: `serve` (connection) -> axum's router -> a handler here -> [`Node`] -> JSON
//! bytes. Handlers read the raw path themselves, so that `%2F` stays part of an id.
//!
//! Invariants:
//! 1. Only this module knows JSON shapes; a node sees canonical values and typed commands.
//! 2. No handler panics on input: whatever is malformed is a problem with a code.
//! 3. Every route is in `/openapi.json`: the router and the description come from one place.
//!
//! Left out, and answered with 501: documents, owned entities, topics, WebSockets, policies.

pub mod accept;
pub mod address;
mod batch;
pub mod change;
mod cluster;
mod entities;
pub mod forward;
mod frames;
pub mod json;
mod later;
pub mod limits;
mod list;
mod meter;
mod openapi;
pub mod operations;
mod placement;
pub mod problem;
pub mod query;
pub mod render;
pub mod request;
mod schemas;
mod serve;
mod stream;
pub mod version;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use limits::Limits;
pub use serve::{serve, serve_with};

use crate::node::Node;
use forward::Forwarder;
use problem::{Code, Problem};

/// What the surface needs besides a node.
#[derive(Clone, Default)]
pub struct Options {
    /// What a request may weigh.
    pub limits: Limits,
    /// What `/metrics` shows; nothing without it.
    pub metrics: Option<PrometheusHandle>,
    /// Carries requests to nodes that hold what this one does not; without it they are refused.
    pub forwarder: Option<Forwarder>,
}

/// Which node answered: one that holds the shard, where the one that was asked does not.
const NODE: HeaderName = HeaderName::from_static("atoll-node");

/// What handlers share; a cheap clone.
#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    node: Node,
    limits: Limits,
    metrics: Option<PrometheusHandle>,
    forwarder: Option<Forwarder>,
    openapi: Bytes,
    /// The region, as a header.
    region: HeaderValue,
    /// The `source` of CloudEvents.
    source: String,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The routes over a node.
pub fn router(node: Node, options: Options) -> Router {
    let (routes, openapi) = described();
    let region = HeaderValue::from_str(node.region());
    let source = format!("/regions/{}/nodes/{}", node.region(), node.id());
    let name = HeaderValue::from_str(node.name()).unwrap_or(HeaderValue::from_static(""));
    let routes = routes.layer(map_response_with_state(name, named));
    routes.with_state(App(Arc::new(Shared {
        node,
        limits: options.limits,
        metrics: options.metrics,
        forwarder: options.forwarder,
        openapi: openapi.into(),
        region: region.unwrap_or(HeaderValue::from_static("")),
        source,
    })))
}

/// Says who answered; what another node answered says so already.
async fn named(State(name): State<HeaderValue>, mut response: Response) -> Response {
    response.headers_mut().entry(NODE).or_insert(name);
    response
}

/// The routes and their description.
fn described() -> (Router<App>, Vec<u8>) {
    let documented = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(entities::get, entities::post, entities::put, entities::delete))
        .routes(routes!(list::get))
        .routes(routes!(batch::post))
        .routes(routes!(stream::changes))
        .routes(routes!(cluster::view))
        .routes(routes!(cluster::digest))
        .routes(routes!(placement::shards))
        .routes(routes!(placement::locate))
        .routes(routes!(placement::drain))
        .routes(routes!(placement::forget))
        .routes(routes!(placement::recover))
        .routes(routes!(cluster::livez))
        .routes(routes!(cluster::readyz))
        .routes(routes!(cluster::metrics))
        .routes(routes!(cluster::openapi))
        .routes(routes!(cluster::docs));
    let (mut router, api) = documented.split_for_parts();
    for (path, methods, _) in later::ROUTES {
        router = router.route(path, later::handlers(methods));
    }
    (router.fallback(no_route).method_not_allowed_fallback(no_method), openapi::finish(api))
}

/// A path without a route. That of an entity or a collection without a name is malformed.
async fn no_route(uri: Uri) -> Response {
    let path = uri.path();
    let malformed = |problem: &Problem| problem.code == Code::BadRequest;
    let unnamed = address::entity(path).err().filter(malformed);
    let unnamed = unnamed.or_else(|| address::collection(path).err().filter(malformed));
    let detail = "there is no such route; see /openapi.json";
    let problem = unnamed.unwrap_or_else(|| Problem::new(Code::UnknownRoute, detail));
    problem.at(path).into_response()
}

/// A method that no kind has; where this adds no `Allow`, the router does.
async fn no_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let unserved =
        |problem: &Problem| matches!(problem.code, Code::UnknownKind | Code::NotImplemented);
    let problem = match (address::entity(path), address::collection(path).err()) {
        (Ok(key), _) => Problem::method(method.as_str(), change::methods(key.kind)),
        (Err(problem), _) | (_, Some(problem)) if unserved(&problem) => problem,
        _ => {
            let detail = format!("this route does not have {method}; see Allow");
            Problem::new(Code::MethodNotAllowed, detail)
        }
    };
    problem.at(path).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> serde_json::Value {
        serde_json::from_slice(&described().1).expect("a description is JSON")
    }

    #[test]
    fn the_description_has_every_route() {
        let api = description();
        assert!(api["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
        let methods = |path: &str| {
            let item = api["paths"][path].as_object().cloned().unwrap_or_default();
            item.keys().cloned().collect::<Vec<_>>().join(",")
        };
        assert_eq!(methods("/v1/{kind}/{collection}/{id}"), "delete,get,post,put");
        assert_eq!(methods("/v1/{kind}/{collection}"), "get");
        assert_eq!(methods("/v1/batch"), "post");
        for path in ["/v1/changes", "/v1/cluster", "/v1/cluster/digest", "/livez", "/readyz"] {
            assert_eq!(methods(path), "get");
        }
        for (path, names, _) in later::ROUTES {
            let mut names: Vec<_> = names.to_lowercase().split(',').map(str::to_owned).collect();
            names.sort();
            assert_eq!(methods(path), names.join(","));
        }
    }

    #[test]
    fn every_operation_tells_every_code() {
        let api = description();
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in api["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
                let text = operation["responses"]["default"]["description"].as_str();
                let text = text.unwrap_or_else(|| panic!("{method} {path} has no problems"));
                assert!(Code::ALL.iter().all(|code| text.contains(code.as_str())), "{path}");
            }
        }
    }
}
