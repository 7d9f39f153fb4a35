//! `/v1/{kind}/{collection}`: ids in byte order, page by page.

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::accept::{Form, negotiate};
use super::entities::{READ_LEVELS, json_response};
use super::json::write_string;
use super::problem::Problem;
use super::query::Query;
use super::{App, address, render, stream};
use atoll_store::name::ID_MAX;

const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 100;

/// List a collection
///
/// Ids in byte order, with values if asked. With `Accept: text/event-stream` or
/// `application/x-ndjson`: the current state of all of them, then every change.
#[utoipa::path(
    get, path = "/v1/{kind}/{collection}", tag = "entities",
    params(
        ("kind" = String, Path), ("collection" = String, Path),
        ("prefix" = Option<String>, Query, description = "only ids that start with it"),
        ("limit" = Option<u64>, Query, description = "1-1000, default 100"),
        ("cursor" = Option<String>, Query, description = "from the page before"),
        ("values" = Option<bool>, Query, description = "whether to include values"),
        ("consistency" = Option<String>, Query, description = "one"),
        ("timeout" = Option<u64>, Query, description = "milliseconds, 1-30000"),
        ("since" = Option<String>, Query, description = "streams: the cursor to resume after"),
    ),
    responses((
            status = 200,
            description = "{items: [{id, version, value?}], cursor: string or null}",
            content_type = "application/json",
        )),
)]
pub(super) async fn get(State(app): State<App>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let result = list(&app, &parts).await;
    result.unwrap_or_else(|problem| problem.at(parts.uri.path()).into_response())
}

async fn list(app: &App, parts: &Parts) -> Result<Response, Problem> {
    let (kind, collection) = address::collection(parts.uri.path())?;
    let form = negotiate(&parts.headers)?;
    if form != Form::Json {
        return stream::collection(app, kind, collection, form, parts).await;
    }
    let allowed = ["prefix", "limit", "cursor", "values", "consistency", "timeout"];
    let query = Query::parse(parts.uri.query(), &allowed)?;
    query.check_level(READ_LEVELS)?;
    let prefix = query.text("prefix").unwrap_or_default();
    let limit = query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT) as usize;
    let values = query.flag("values")?;
    let after = query.text("cursor").map(after).transpose()?;
    let page = app.node.list(kind, &collection, prefix, after.as_deref(), limit).await?;
    let now = app.node.now();
    let mut out = Vec::with_capacity(64 + page.items.len() * 96);
    out.extend_from_slice(b"{\"items\":");
    render::write_list(&mut out, b"[]", &page.items, |out, (key, image)| {
        render::write_item(out, key, image, now, values);
    });
    out.extend_from_slice(b",\"cursor\":");
    match page.items.last() {
        Some((key, _)) if page.more => write_string(&mut out, &cursor(key.id.as_str())),
        _ => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(json_response(app, out))
}

fn cursor(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

fn after(cursor: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok().filter(|bytes| bytes.len() <= ID_MAX);
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Problem::bad("cursor must be one that a page of this list gave"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        assert_eq!(after(&cursor("a/é")).expect("valid"), "a/é");
        for bad in ["!", "_w", &cursor(&"x".repeat(257))] {
            assert!(after(bad).is_err(), "{bad}");
        }
    }
}
