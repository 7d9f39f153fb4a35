//! `/v1/{kind}/{collection}`: ids in byte order, page by page.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use super::accept::{Form, negotiate};
use super::entities::json_response;
use super::forward::Slots;
use super::json::write_string;
use super::problem::Problem;
use super::query::Query;
use super::{App, address, forward, render, stream};
use atoll_store::entity::Image;
use atoll_store::name::{Collection, EntityKey, ID_MAX, Kind};

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
    let part = forward::part(app, parts)?;
    let allowed = ["prefix", "limit", "cursor", "values", "consistency", "timeout"];
    let query = Query::parse(parts.uri.query(), &allowed)?;
    query.check_one()?;
    let asked = Asked {
        kind,
        collection,
        prefix: query.text("prefix").unwrap_or_default(),
        after: query.text("cursor").map(after).transpose()?,
        limit: query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT) as usize,
        values: query.flag("values")?,
    };
    let found = match app.node.serves_all(part.iter()) {
        true => here(app, &asked, &part).await?,
        false => forward::list(app, parts, &asked).await?,
    };
    Ok(json_response(app, page(&found)))
}

/// What a list is asked for.
pub(super) struct Asked<'a> {
    kind: Kind,
    collection: Collection,
    prefix: &'a str,
    after: Option<String>,
    pub(super) limit: usize,
    values: bool,
}

/// An entity in a list.
pub(super) struct Item {
    pub(super) id: String,
    /// As a page shows it.
    pub(super) json: Bytes,
}

/// What a list found.
pub(super) struct Found {
    /// In byte order of ids.
    pub(super) items: Vec<Item>,
    /// There is more behind the last of them.
    pub(super) more: bool,
}

/// What this node lists of some slots.
pub(super) async fn here(app: &App, asked: &Asked<'_>, part: &Slots) -> Result<Found, Problem> {
    let Asked { kind, collection, prefix, after, limit, values } = asked;
    let after = after.as_deref();
    let found = app.node.list_part(*kind, collection, prefix, after, *limit, part.slots()).await?;
    let now = app.node.now();
    let item = |(key, image): &(EntityKey, Arc<Image>)| {
        let mut json = Vec::with_capacity(96);
        render::write_item(&mut json, key, image, now, *values);
        Item { id: key.id.as_str().to_owned(), json: json.into() }
    };
    Ok(Found { items: found.items.iter().map(item).collect(), more: found.more })
}

/// A page as clients see it.
fn page(found: &Found) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(64 + found.items.iter().map(|i| i.json.len() + 1).sum::<usize>());
    out.extend_from_slice(b"{\"items\":");
    render::write_list(&mut out, b"[]", &found.items, |out, item| {
        out.extend_from_slice(&item.json);
    });
    out.extend_from_slice(b",\"cursor\":");
    match found.items.last() {
        Some(item) if found.more => write_string(&mut out, &cursor(&item.id)),
        _ => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
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
