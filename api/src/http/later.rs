//! Routes that the contract names and this version answers with 501 `not-implemented`.
//!
//! One table makes both the routes and their description.

use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Paths};

use super::problem::{Code, Problem};

/// Path, methods and summary.
pub(super) const ROUTES: &[(&str, &str, &str)] = &[
    ("/v1/entities/{type}/{id}/commands", "POST", "Run a command at the owner"),
    ("/v1/entities/{type}/{id}/events", "GET,POST", "Read or append events"),
    ("/v1/behaviours/{type}", "GET,PUT,DELETE", "The behaviour of a type"),
    ("/v1/collections/{kind}/{collection}", "GET,PUT,DELETE", "The policy of a collection"),
    ("/v1/topics/{topic}", "GET,POST", "Publish and subscribe"),
    ("/v1/operations/{id}", "GET", "The fate of a write, region by region"),
    ("/v1/ws", "GET", "A WebSocket for subscriptions and operations"),
];

/// The handlers of a row.
pub(super) fn handlers<S: Clone + Send + Sync + 'static>(methods: &str) -> MethodRouter<S> {
    let filters = methods.split(',').filter_map(|name| {
        let method = name.parse::<Method>().ok()?;
        MethodFilter::try_from(method).ok()
    });
    match filters.reduce(MethodFilter::or) {
        Some(filter) => on(filter, answer),
        None => MethodRouter::new(),
    }
}

async fn answer(uri: Uri) -> Response {
    let detail = "this route of the contract is not implemented yet";
    Problem::new(Code::NotImplemented, detail).at(uri.path()).into_response()
}

/// Adds the rows to a description.
pub(super) fn describe(paths: &mut Paths) {
    for (path, methods, summary) in ROUTES {
        let verbs = methods.split(',').filter_map(|name| match name {
            "GET" => Some(HttpMethod::Get),
            "PUT" => Some(HttpMethod::Put),
            "POST" => Some(HttpMethod::Post),
            "DELETE" => Some(HttpMethod::Delete),
            _ => None,
        });
        let operation = OperationBuilder::new()
            .tag("later")
            .summary(Some(*summary))
            .description(Some("Not implemented yet: 501 `not-implemented`."))
            .build();
        paths.add_path_operation(path, verbs.collect(), operation);
    }
}
