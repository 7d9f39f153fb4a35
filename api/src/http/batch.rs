//! `POST /v1/batch`: many changes, one durable group commit, one answer each.
//!
//! Invariants:
//! 1. The body is parsed once; every answer is written into one buffer.
//! 2. Results are in the order of operations; a bad operation spoils no other.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

use super::change::{Terms, Verb, answer, body_depth, change};
use super::entities::json_response;
use super::json::{Json, Member, parse};
use super::limits::Limits;
use super::problem::{Code, Problem};
use super::query::Query;
use super::{App, address, forward, render, request};
use crate::node::{Holders, Level, WriteError};
use atoll_store::command::Change;
use atoll_store::name::EntityKey;
use bytes::Bytes;

/// Change many entities
///
/// `{"operations": [{"method", "path", "body"}]}`, up to 1000; one group commit, not atomic. Query
/// parameters apply to all, an `Idempotency-Key` to each as `<key>/<index>`.
#[utoipa::path(
    post, path = "/v1/batch", tag = "entities",
    params(
        ("consistency" = Option<String>, Query,
            description = "of each: one, local_quorum (default), quorum, each_quorum, all"),
        ("timeout" = Option<u64>, Query,
            description = "milliseconds to wait for replicas, 1-30000, default 2000"),
        ("ttl" = Option<u64>, Query, description = "seconds until the entities expire"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "makes the batch safe to repeat"),
        ("Prefer" = Option<String>, Header,
            description = "return=minimal: answers have no values"),
    ),
    request_body(
        content_type = "application/json",
        description = "{operations: [{method, path, body}]}",
    ),
    responses((
            status = 200,
            description = "{results: [{status, body}]}, in the same order",
            content_type = "application/json",
        )),
)]
pub(super) async fn post(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let result = batch(&app, &parts, body).await;
    result.unwrap_or_else(|problem| problem.at(parts.uri.path()).into_response())
}

/// What becomes of an operation.
enum Slot {
    /// It is malformed, or held elsewhere and not to be passed on.
    Bad(Box<Problem>),
    /// It is written here.
    Here(EntityKey, Verb),
    /// Another node writes it.
    Away,
}

/// What was asked: an operation's entity and method with its change, or what is wrong with it.
type Planned = Result<(Verb, Change), Box<Problem>>;

async fn batch(app: &App, parts: &Parts, body: Body) -> Result<Response, Problem> {
    request::check_answer(&parts.headers)?;
    request::check_json(&parts.headers)?;
    let key = request::idempotency_key(&parts.headers)?;
    let query = Query::parse(parts.uri.query(), &["consistency", "timeout", "ttl"])?;
    let demand = forward::within(parts, query.demand(Level::LocalQuorum)?);
    let bytes = request::body(&parts.headers, body, &app.limits).await?;
    let places = |count| forward::places(parts, count);
    let planned = plan(&bytes, key, query.ttl_ms()?, &app.limits, places)?;
    let Routed { slots, changes, away } = route(app, planned, forward::is_forwarded(parts));
    let here = async {
        match changes.is_empty() {
            true => Vec::new(),
            false => app.node.write(changes, demand).await,
        }
    };
    let elsewhere = forward::batch(app, parts, &bytes, away, key.is_some());
    let (answers, elsewhere) = tokio::join!(here, elsewhere);
    let (mut answers, elsewhere) = (answers.into_iter(), elsewhere?);
    let minimal = request::prefers_minimal(&parts.headers);
    let mut out = Vec::with_capacity(32 + slots.len() * 160);
    out.extend_from_slice(b"{\"results\":");
    let slots = slots.into_iter().enumerate();
    render::write_list(&mut out, b"[]", slots, |out, (place, slot)| {
        let outcome = match slot {
            Slot::Away => return write_away(out, elsewhere.get(&place)),
            Slot::Bad(problem) => Err(*problem),
            Slot::Here(entity, verb) => {
                let written = answers.next().unwrap_or(Err(WriteError::Unknown));
                let written = written.map_err(|e| Problem::from(e).repeatable(key.is_some()));
                written.map(|written| answer(app, &entity, verb, &written, minimal))
            }
        };
        match outcome {
            Ok(body) => {
                out.extend_from_slice(b"{\"status\":200,\"body\":");
                out.extend_from_slice(&body);
                out.push(b'}');
            }
            Err(problem) => problem.write_result(out),
        }
    });
    out.push(b'}');
    Ok(json_response(app, out))
}

/// The result that another node gave.
fn write_away(out: &mut Vec<u8>, result: Option<&Bytes>) {
    match result {
        Some(json) => out.extend_from_slice(json),
        None => Problem::internal().write_result(out),
    }
}

/// Who does what of a batch.
struct Routed {
    slots: Vec<Slot>,
    /// Of the slots here, in their order.
    changes: Vec<Change>,
    /// Places and entities of those away.
    away: Vec<(usize, EntityKey)>,
}

fn route(app: &App, planned: Vec<Planned>, forwarded: bool) -> Routed {
    let (mut changes, mut away) = (Vec::with_capacity(planned.len()), Vec::new());
    let slot = |(place, planned): (usize, Planned)| match planned {
        Err(problem) => Slot::Bad(problem),
        Ok((verb, change)) if app.node.holders(&change.key) == Holders::Here => {
            let slot = Slot::Here(change.key.clone(), verb);
            changes.push(change);
            slot
        }
        Ok(_) if forwarded => Slot::Bad(Box::new(forward::not_here())),
        Ok((_, change)) => {
            away.push((place, change.key));
            Slot::Away
        }
    };
    let slots = planned.into_iter().enumerate().map(slot).collect();
    Routed { slots, changes, away }
}

/// What each operation asks; `places` are those in the batch that a client sent.
fn plan(
    bytes: &[u8],
    key: Option<&str>,
    ttl_ms: Option<u64>,
    limits: &Limits,
    places: impl FnOnce(usize) -> Result<Vec<usize>, Problem>,
) -> Result<Vec<Planned>, Problem> {
    let body = parse(bytes, body_depth(limits))?;
    let items = items(&body)?;
    if items.len() > limits.batch_operations {
        let limit = limits.batch_operations;
        return Err(Problem::too_large(format!("a batch has at most {limit} operations")));
    }
    let planned = items.iter().zip(places(items.len())?).map(|(item, index)| {
        let key = key.map(|key| format!("{key}/{index}"));
        let terms = Terms { ttl_ms, if_match: None, key: key.as_deref() };
        let asked = operation(item).and_then(|(verb, path, body)| {
            let place = |problem: Problem| problem.at(path);
            let entity = address::entity(path).map_err(place)?;
            Ok((verb, change(entity, verb, body, &terms, limits).map_err(place)?))
        });
        asked.map_err(|problem| Box::new(problem.inside(&format!("operations[{index}]"))))
    });
    Ok(planned.collect())
}

fn items<'a, 'b>(body: &'a Json<'b>) -> Result<&'a [Json<'b>], Problem> {
    let Json::Object(members) = body else {
        return Err(Problem::bad("expected an object with operations"));
    };
    let mut operations = None;
    for (name, json) in members {
        match (name.as_ref(), json) {
            ("operations", Json::Array(items)) => operations = Some(items.as_slice()),
            ("operations", _) => return Err(Problem::bad("operations: expected an array")),
            ("atomic", Json::Bool(false)) => {}
            ("atomic", Json::Bool(true)) => {
                let detail = "atomic batches are not implemented yet; \
                              an array of operations on one entity is atomic";
                return Err(Problem::new(Code::NotImplemented, detail));
            }
            ("atomic", _) => return Err(Problem::bad("atomic: expected true or false")),
            _ => return Err(unknown(name, "operations, atomic")),
        }
    }
    operations.ok_or_else(|| Problem::bad("operations: expected an array, got nothing"))
}

fn operation<'a, 'b>(item: &'a Json<'b>) -> Result<(Verb, &'a str, &'a Json<'b>), Problem> {
    let Json::Object(members) = item else {
        return Err(Problem::bad("expected an object with method, path and body"));
    };
    if let Some((name, _)) =
        members.iter().find(|(name, _)| !["method", "path", "body"].contains(&name.as_ref()))
    {
        return Err(unknown(name, "method, path, body"));
    }
    let verb = text(members, "method")?;
    let Some(verb) = Verb::parse(verb) else {
        return Err(Problem::bad("method: expected POST, PUT or DELETE"));
    };
    let path = text(members, "path")?;
    if path.contains(['?', '#']) {
        let detail = "path: expected no query; parameters of the batch apply to all operations";
        return Err(Problem::bad(detail));
    }
    match member(members, "body") {
        Some(body) if verb != Verb::Delete => Ok((verb, path, body)),
        None if verb != Verb::Delete => Err(Problem::bad("body: expected a value, got nothing")),
        _ => Ok((verb, path, &Json::Null)),
    }
}

fn member<'a, 'b>(members: &'a [Member<'b>], name: &str) -> Option<&'a Json<'b>> {
    members.iter().find(|(known, _)| known == name).map(|(_, json)| json)
}

fn text<'a>(members: &'a [Member<'_>], name: &str) -> Result<&'a str, Problem> {
    match member(members, name) {
        Some(Json::String(text)) => Ok(text),
        _ => Err(Problem::bad(format!("{name}: expected a string"))),
    }
}

fn unknown(name: &str, allowed: &str) -> Problem {
    let name: String = name.chars().take(80).collect();
    Problem::bad(format!("unknown member {name:?}; allowed here: {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str) -> Result<Vec<Planned>, Problem> {
        let places = |count| Ok((0..count).collect());
        plan(body.as_bytes(), Some("k"), Some(1000), &Limits::default(), places)
    }

    #[test]
    fn a_bad_operation_spoils_no_other() {
        let body = r#"{"operations": [
            {"method": "POST", "path": "/v1/counters/a/b%2Fc", "body": {"increment": 1}},
            {"method": "PATCH", "path": "/v1/counters/a/b", "body": 1},
            {"method": "POST", "path": "/v1/widgets/a/b", "body": 1},
            {"method": "POST", "path": "/v1/sets/a/b?ttl=1", "body": {"add": [1]}},
            {"method": "DELETE", "path": "/v1/sets/a/b"},
            {"method": "PUT", "path": "/v1/flags/a/b", "body": true, "x": 1}]}"#;
        let planned = ask(body).expect("a batch");
        let codes: Vec<_> = planned.iter().map(|p| p.as_ref().err().map(|p| p.code)).collect();
        let changes: Vec<&Change> = planned.iter().flatten().map(|(_, change)| change).collect();
        let bad = Some(Code::BadRequest);
        assert_eq!(codes, [None, bad, Some(Code::UnknownKind), bad, None, bad]);
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].key.id.as_str(), "b/c");
        assert!(changes.iter().all(|c| c.hash.is_some() && c.ttl_ms == Some(1000)));
        assert_ne!(changes[0].hash, changes[1].hash);
    }

    #[test]
    fn a_malformed_batch_is_refused_whole() {
        let code = |body: &str| ask(body).err().map(|problem| problem.code);
        for bad in ["[]", "{}", r#"{"operations": 1}"#, r#"{"operations": [], "x": 1}"#, "{"] {
            assert_eq!(code(bad), Some(Code::BadRequest), "{bad}");
        }
        assert_eq!(code(r#"{"operations": [], "atomic": true}"#), Some(Code::NotImplemented));
        assert_eq!(code(r#"{"operations": [], "atomic": false}"#), None);
        let many = format!(r#"{{"operations": [{}]}}"#, vec!["1"; 1001].join(","));
        assert_eq!(code(&many), Some(Code::TooLarge));
    }
}
