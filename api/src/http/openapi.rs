//! `/openapi.json`: what the handlers say of themselves, and the problems that all can answer.

use std::fmt::Write as _;

use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::{
    ContentBuilder, Info, ObjectBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr, Required,
    ResponseBuilder, Type,
};

use super::problem::Code;
use super::{later, schemas};

/// The description before the handlers add their routes.
pub(super) fn base() -> OpenApi {
    let mut info = Info::new("Atoll", env!("CARGO_PKG_VERSION"));
    info.description = Some(introduction());
    OpenApiBuilder::new().info(info).build()
}

/// The finished description: later routes, and at every operation a unique id, the parameters
/// of its path, and problems.
pub(super) fn finish(mut api: OpenApi) -> Vec<u8> {
    later::describe(&mut api.paths);
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(method, path));
            add_path_parameters(operation, path);
            add_problems(operation);
        }
    }
    let mut api = serde_json::to_value(&api).unwrap_or_default();
    schemas::add(&mut api);
    serde_json::to_vec(&api).unwrap_or_default()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [("get", get), ("put", put), ("post", post), ("delete", delete), ("patch", patch)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `get` and `/v1/cluster/digest` make `get_cluster_digest`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty() && *word != "v1");
    words.fold(method.to_owned(), |id, word| id + "_" + word)
}

fn add_path_parameters(operation: &mut Operation, path: &str) {
    let parameters = operation.parameters.get_or_insert_default();
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        if parameters.iter().any(|known| matches!(known, RefOr::T(known) if known.name == name)) {
            continue;
        }
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(text))
            .build();
        parameters.push(RefOr::T(parameter));
    }
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
        "A geo-replicated store of CRDTs. An entity is kind/collection/id. Every error is a \
         problem (RFC 9457) with type, title, status, detail, instance, code, outcome (applied, \
         not-applied or unknown) and retryable; what is retryable carries Retry-After. Every \
         answer names the node that gave it in Atoll-Node: another one of the region, where the \
         one that was asked does not hold what it was asked for.\n\n\
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
