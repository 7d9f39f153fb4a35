//! Requests of a workload to a simulated node: through the HTTP surface's own reading of bodies
//! and writing of values, without sockets.

use std::pin::Pin;
use std::sync::Arc;

use atoll::http::change::{Terms, Verb, change};
use atoll::http::json;
use atoll::http::limits::Limits;
use atoll::http::problem::{Code, Problem};
use atoll::http::render;
use atoll::node::{Changed, Node, Record as NodeRecord};
use atoll::node::{Demand, Level};
use atoll::node::{ReadError, WriteError, Written};
use atoll_store::command::Change;
use atoll_store::entity::Image;
use atoll_store::name::{EntityKey, Kind};
use futures_util::FutureExt;
use serde_json::Value;

use crate::workloads::{Answer, Method, Record, Request};

/// How long a request waits for its level.
const TIMEOUT_MS: u64 = 2_000;

type Future<T> = Pin<Box<dyn std::future::Future<Output = T>>>;

/// What an answer to a write tells beside the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrote {
    /// An earlier try had done it.
    pub(super) replayed: bool,
}

/// A request on its way.
pub(super) enum Pending {
    /// A write.
    Write(EntityKey, Future<Vec<Result<Written, WriteError>>>),
    /// A read.
    Read(EntityKey, Future<Result<Arc<Image>, ReadError>>),
    /// Answered without asking the node.
    Done(Answer),
}

/// The name of an entity; workloads use valid ones.
pub(super) fn key((kind, collection, id): &(&str, String, String)) -> EntityKey {
    let kind = Kind::parse(kind).expect("a workload names kinds");
    EntityKey::parse(kind, collection, id).expect("a workload names entities")
}

/// Asks a node. Polls are the client's own.
pub(super) fn ask(node: &Node, request: &Request) -> Pending {
    let node = node.clone();
    let level = match request {
        Request::At(level, _) => Level::parse(level).expect("a workload names levels"),
        _ => Level::One,
    };
    let demand = Demand { level, timeout_ms: TIMEOUT_MS };
    match request.bare() {
        Request::At(..) => unreachable!("it has one level"),
        Request::Read { entity, .. } => {
            let key = key(entity);
            let wanted = key.clone();
            Pending::Read(key, Box::pin(async move { node.read_at(&wanted, demand).await }))
        }
        Request::Write { entity, .. } => match parse(request.bare()) {
            Ok(change) => {
                let write = async move { node.write(vec![change], demand).await };
                Pending::Write(key(entity), Box::pin(write))
            }
            Err(problem) => Pending::Done(refused(&problem)),
        },
        Request::Poll { .. } => unreachable!("a poll is no single request"),
    }
}

/// One change, as noise: its answer matters to nobody.
pub(super) fn write(node: &Node, change: Change) -> Pending {
    let (node, key) = (node.clone(), change.key.clone());
    Pending::Write(key, Box::pin(async move { node.write(vec![change], Demand::default()).await }))
}

impl Pending {
    /// The answer, if it has come.
    pub(super) fn poll(&mut self, now: u64) -> Option<(Answer, Option<Wrote>)> {
        match self {
            Pending::Done(answer) => Some((answer.clone(), None)),
            Pending::Read(key, read) => {
                let image = read.now_or_never()?;
                let answer = image.map(|image| done(key, &image, now));
                Some((answer.unwrap_or_else(|error| refused(&Problem::from(error))), None))
            }
            Pending::Write(key, write) => match write.now_or_never()?.pop() {
                Some(Ok(written)) => {
                    let wrote = Wrote { replayed: written.replayed };
                    Some((done(key, &written.image, now), Some(wrote)))
                }
                Some(Err(error)) => Some((refused(&Problem::from(error)), None)),
                None => unreachable!("one change, one answer"),
            },
        }
    }
}

fn parse(request: &Request) -> Result<Change, Problem> {
    let Request::Write { entity, method, body, key: idempotency, seen, .. } = request else {
        unreachable!("only writes are parsed")
    };
    let limits = Limits::default();
    let verb = match method {
        Method::Post => Verb::Post,
        Method::Put => Verb::Put,
        Method::Delete => Verb::Delete,
    };
    let body = body.to_string();
    let body = json::parse(body.as_bytes(), limits.json_depth + 8)?;
    let if_match = seen.as_ref().map(|version| format!("\"{version}\""));
    let terms = Terms { ttl_ms: None, if_match: if_match.as_deref(), key: idempotency.as_deref() };
    change(key(entity), verb, &body, &terms, &limits)
}

fn refused(problem: &Problem) -> Answer {
    match problem.code {
        // A write that was late was applied.
        Code::OutcomeUnknown | Code::Internal | Code::ConsistencyTimeout => {
            Answer::Lost(problem.code.as_str().into())
        }
        code => Answer::Refused(code.as_str().into()),
    }
}

fn done(key: &EntityKey, image: &Image, now: u64) -> Answer {
    let view = image.view(key.kind, now);
    let version = render::version_of(key.kind, image.version(), view.as_ref());
    Answer::Done { value: value_of(key, image, now), version, session: None }
}

/// The value of an entity as clients see it; null if it is absent.
pub(super) fn value_of(key: &EntityKey, image: &Image, now: u64) -> Value {
    let Some(view) = image.view(key.kind, now) else { return Value::Null };
    let mut out = Vec::new();
    render::write_view(&mut out, &view);
    serde_json::from_slice(&out).expect("values are written as JSON")
}

/// A stream's record as workloads see it.
pub(super) fn record(record: &NodeRecord, cursor: String, now: u64) -> Record {
    let of = |event: &str, changed: &Changed| Record {
        event: event.into(),
        id: Some(changed.key.id.as_str().into()),
        value: value_of(&changed.key, &changed.image, now),
        cursor: cursor.clone(),
    };
    let bare = |event: &str, value: Value| Record {
        event: event.into(),
        id: None,
        value,
        cursor: cursor.clone(),
    };
    match record {
        NodeRecord::Snapshot(changed) => of("snapshot", changed),
        NodeRecord::Changed(changed) if changed.image.is_absent(now) => of("delete", changed),
        NodeRecord::Changed(changed) => of("change", changed),
        NodeRecord::Ready => bare("ready", Value::Null),
        NodeRecord::Progress => bare("progress", Value::Null),
        NodeRecord::Reset => bare("reset", Value::Null),
        NodeRecord::Ended(code) => bare("error", (*code).into()),
    }
}
