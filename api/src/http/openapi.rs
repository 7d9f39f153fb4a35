//! `/openapi.json`: what the handlers say of themselves, and the problems that all can answer.

use std::fmt::Write as _;

use utoipa::openapi::{
    ContentBuilder, Info, OpenApi, OpenApiBuilder, PathItem, RefOr, ResponseBuilder,
    path::Operation,
};

use super::later;
use super::problem::Code;

/// The description before the handlers add their routes.
pub(super) fn base() -> OpenApi {
    let mut info = Info::new("Atoll", env!("CARGO_PKG_VERSION"));
    info.description = Some(introduction());
    OpenApiBuilder::new().info(info).build()
}

/// The finished description: later routes, and problems at every operation.
pub(super) fn finish(mut api: OpenApi) -> Vec<u8> {
    later::describe(&mut api.paths);
    for item in api.paths.paths.values_mut() {
        for operation in operations(item) {
            add_problems(operation);
        }
    }
    serde_json::to_vec(&api).unwrap_or_default()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn add_problems(operation: &mut Operation) {
    let response = ResponseBuilder::new()
        .description(format!("A problem (RFC 9457). Codes:\n\n{}", codes()))
        .content("application/problem+json", ContentBuilder::new().build())
        .build();
    operation.responses.responses.insert("default".into(), RefOr::T(response));
}

fn introduction() -> String {
    format!(
        "A geo-replicated store of CRDTs. An entity is kind/collection/id. Every error is a problem \
         (RFC 9457) with type, title, status, detail, instance, code, outcome (applied, \
         not-applied or unknown) and retryable; what is retryable carries Retry-After.\n\n\
         Codes:\n\n{}",
        codes()
    )
}

fn codes() -> String {
    Code::ALL.iter().fold(String::new(), |mut text, code| {
        let _ = writeln!(text, "- {} `{}`: {}", code.status(), code.as_str(), code.title());
        text
    })
}
