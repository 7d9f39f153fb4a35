//! `/v1/{kind}/{collection}/{id}`: read, change, assign, delete.
//!
//! A hot read does: split the path, ask the node's image, share its rendered bytes. It awaits
//! nothing, renders nothing and takes no lock of ours.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::accept::{Form, negotiate};
use super::change::{Terms, Verb, answer, body_depth, change, check_method};
use super::problem::{Code, Problem};
use super::query::Query;
use super::{App, address, forward, json, render, request, stream, version};
use crate::node::{Demand, Holders, Level, WriteError};

const REGION: HeaderName = HeaderName::from_static("atoll-region");
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const REPLAY: HeaderName = HeaderName::from_static("idempotent-replay");

/// Read an entity
///
/// The value in this region, with its version as `ETag`. With `Accept: text/event-stream` or
/// `application/x-ndjson`: its current state, then every change of it (`since` resumes).
#[utoipa::path(
    get, path = "/v1/{kind}/{collection}/{id}", tag = "entities",
    params(
        ("kind" = String, Path,
            description = "counters, registers, multi-registers, flags, sets or maps"),
        ("collection" = String, Path, description = "1-64 of [a-z0-9._-]"),
        ("id" = String, Path, description = "1-256 bytes of UTF-8, percent-encoded"),
        ("consistency" = Option<String>, Query,
            description = "how many recorded replicas are asked, and have what is shown before \
                it is answered: one (default), local_quorum, quorum, each_quorum, all"),
        ("timeout" = Option<u64>, Query,
            description = "milliseconds to wait for them, 1-30000, default 2000"),
        ("state" = Option<bool>, Query,
            description = "with the CRDT itself, in base64, as exports carry it"),
        ("since" = Option<String>, Query, description = "streams: the cursor to resume after"),
        ("If-None-Match" = Option<String>, Header,
            description = "answers 304 if the version is the same"),
        ("Last-Event-ID" = Option<String>, Header,
            description = "streams: the cursor to resume after"),
    ),
    responses(
        (status = 200,
            description = "{kind, collection, id, value, version, conflicts?}",
            content_type = "application/json"),
        (status = 304, description = "the version is the same"),
    ),
)]
pub(super) async fn get(State(app): State<App>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let result = read(&app, &parts).await;
    result.unwrap_or_else(|problem| problem.at(parts.uri.path()).into_response())
}

/// Change an entity
///
/// One operation, or an array of them as one atomic update. `counters`: `{"increment": n}`,
/// `{"decrement": n}`. `registers`, `multi-registers`: `{"set": value}`. `flags`:
/// `{"enable": true}`, `{"disable": true}`. `sets`: `{"add": [..], "remove": [..]}`. `maps`:
/// `{"update": {field: operation}, "remove": [field]}`.
#[utoipa::path(
    post, path = "/v1/{kind}/{collection}/{id}", tag = "entities",
    params(
        ("kind" = String, Path), ("collection" = String, Path), ("id" = String, Path),
        ("consistency" = Option<String>, Query,
            description = "how many recorded replicas have it on their disks before it is \
                answered: one, local_quorum (default), quorum, each_quorum, all"),
        ("timeout" = Option<u64>, Query,
            description = "milliseconds to wait for them, 1-30000, default 2000"),
        ("ttl" = Option<u64>, Query, description = "seconds until the entity expires"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1-128 visible ASCII; makes the write safe to repeat"),
        ("Prefer" = Option<String>, Header,
            description = "return=minimal: the answer has no value"),
        ("If-Match" = Option<String>, Header,
            description = "multi-registers: the version that the write supersedes"),
    ),
    request_body(
        content_type = "application/json",
        description = "an operation, or an array of them",
    ),
    responses((
            status = 200,
            description = "{kind, collection, id, value, version}, after the change",
            content_type = "application/json",
        )),
)]
pub(super) async fn post(State(app): State<App>, request: Request) -> Response {
    write(&app, Verb::Post, request).await
}

/// Assign a register, multi-register or flag
#[utoipa::path(
    put, path = "/v1/{kind}/{collection}/{id}", tag = "entities",
    params(
        ("kind" = String, Path, description = "registers, multi-registers or flags"),
        ("collection" = String, Path), ("id" = String, Path),
        ("consistency" = Option<String>, Query,
            description = "how many recorded replicas have it on their disks before it is \
                answered: one, local_quorum (default), quorum, each_quorum, all"),
        ("timeout" = Option<u64>, Query,
            description = "milliseconds to wait for them, 1-30000, default 2000"),
        ("ttl" = Option<u64>, Query, description = "seconds until the entity expires"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1-128 visible ASCII; makes the write safe to repeat"),
        ("Prefer" = Option<String>, Header,
            description = "return=minimal: the answer has no value"),
        ("If-Match" = Option<String>, Header,
            description = "multi-registers: the version that the write supersedes"),
    ),
    request_body(content_type = "application/json", description = "the raw value"),
    responses((
            status = 200,
            description = "{kind, collection, id, value, version}, after the change",
            content_type = "application/json",
        )),
)]
pub(super) async fn put(State(app): State<App>, request: Request) -> Response {
    write(&app, Verb::Put, request).await
}

/// Delete an entity
///
/// An observed remove: what this replica has not seen survives.
#[utoipa::path(
    delete, path = "/v1/{kind}/{collection}/{id}", tag = "entities",
    params(
        ("kind" = String, Path), ("collection" = String, Path), ("id" = String, Path),
        ("consistency" = Option<String>, Query,
            description = "how many recorded replicas have it on their disks before it is \
                answered: one, local_quorum (default), quorum, each_quorum, all"),
        ("timeout" = Option<u64>, Query,
            description = "milliseconds to wait for them, 1-30000, default 2000"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1-128 visible ASCII; makes the write safe to repeat"),
        ("Prefer" = Option<String>, Header,
            description = "return=minimal: the answer has no value"),
    ),
    responses((
            status = 200,
            description = "{kind, collection, id, value: null, existed, version}",
            content_type = "application/json",
        )),
)]
pub(super) async fn delete(State(app): State<App>, request: Request) -> Response {
    write(&app, Verb::Delete, request).await
}

async fn read(app: &App, parts: &Parts) -> Result<Response, Problem> {
    let key = address::entity(parts.uri.path())?;
    let form = negotiate(&parts.headers)?;
    if form != Form::Json {
        return stream::entity(app, key, form, parts).await;
    }
    if let Holders::Elsewhere(nodes) = app.node.holders(&key) {
        return forward::read(app, parts, nodes).await;
    }
    let (mut with_state, mut demand) = (false, Demand::default());
    if let Some(raw) = parts.uri.query() {
        let query = Query::parse(Some(raw), &["consistency", "timeout", "state"])?;
        demand = forward::within(parts, query.demand(Level::One)?);
        with_state = query.flag("state")?;
    }
    let image = match app.node.peek(&key).filter(|_| demand.level == Level::One) {
        Some(image) => image,
        None => app.node.read_at(&key, demand).await?,
    };
    let now = app.node.now();
    if image.is_absent(now) {
        return Err(Problem::new(Code::NotFound, format!("there is no {key}")));
    }
    let body = match with_state {
        true => render::with_state(&key, &image, now),
        false => render::entity(&key, &image, now),
    };
    let mut response = success(app, body.clone());
    if let Some(known) = parts.headers.get(header::IF_NONE_MATCH) {
        let etag = render::etag(&body);
        let known = known.to_str().unwrap_or_default();
        if version::matches(known, std::str::from_utf8(&etag).unwrap_or_default()) {
            *response.body_mut() = Body::empty();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
    }
    Ok(response)
}

async fn write(app: &App, verb: Verb, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let result = apply(app, verb, &parts, body).await;
    result.unwrap_or_else(|problem| problem.at(parts.uri.path()).into_response())
}

async fn apply(app: &App, verb: Verb, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let key = address::entity(parts.uri.path())?;
    check_method(key.kind, verb)?;
    request::check_answer(&parts.headers)?;
    if let Holders::Elsewhere(nodes) = app.node.holders(&key) {
        return forward::write(app, parts, body, nodes).await;
    }
    let (terms, demand) = terms(verb, parts)?;
    let change = if verb == Verb::Delete {
        change(key.clone(), verb, &json::Json::Null, &terms, &app.limits)?
    } else {
        request::check_json(&parts.headers)?;
        let bytes = request::body(&parts.headers, body, &app.limits).await?;
        let body = json::parse(&bytes, body_depth(&app.limits))?;
        change(key.clone(), verb, &body, &terms, &app.limits)?
    };
    let keyed = change.hash.is_some();
    let mut answers = app.node.write(vec![change], demand).await;
    let written = answers.pop().unwrap_or(Err(WriteError::Unknown));
    let written = written.map_err(|error| Problem::from(error).repeatable(keyed))?;
    let minimal = request::prefers_minimal(&parts.headers);
    let mut response = success(app, answer(app, &key, verb, &written, minimal));
    if minimal {
        response.headers_mut().insert(APPLIED, HeaderValue::from_static("return=minimal"));
    }
    if written.replayed {
        response.headers_mut().insert(REPLAY, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn terms(verb: Verb, parts: &Parts) -> Result<(Terms<'_>, Demand), Problem> {
    let mut terms = Terms {
        if_match: if_match(&parts.headers)?,
        key: request::idempotency_key(&parts.headers)?,
        ttl_ms: None,
    };
    let allowed: &[&str] = match verb {
        Verb::Delete => &["consistency", "timeout"],
        Verb::Post | Verb::Put => &["consistency", "timeout", "ttl"],
    };
    let query = Query::parse(parts.uri.query(), allowed)?;
    let demand = forward::within(parts, query.demand(Level::LocalQuorum)?);
    terms.ttl_ms = query.ttl_ms()?;
    Ok((terms, demand))
}

fn if_match(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Problem::bad("If-Match must be visible ASCII"))
}

/// A success with the headers of the contract; the body ends with its version.
pub(super) fn success(app: &App, body: Bytes) -> Response {
    let etag = HeaderValue::from_maybe_shared(render::etag(&body));
    let mut response = json_response(app, body);
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// A JSON body from this region.
pub(super) fn json_response(app: &App, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REGION, app.region.clone());
    response
}
