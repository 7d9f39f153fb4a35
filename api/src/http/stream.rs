//! Subscriptions over HTTP: one entity, a collection or prefix, or everything.
//!
//! Invariants:
//! 1. The body pulls from the node's journal: a slow client delays itself alone, and dropping the
//!    body drops the subscription.
//! 2. Whatever is ready goes out as one chunk; nothing waits for a timer.
//! 3. A stream ends after its `error` record, and only then.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::accept::{Form, negotiate};
use super::entities::json_response;
use super::frames::{Frames, subject};
use super::problem::{Code, Problem};
use super::query::Query;
use super::{App, address};
use crate::node::{Cursor, Node, ReadError, Record, Selection, Start, Subscription};
use atoll_store::name::{Collection, EntityKey, Kind};

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A chunk is sent once it has this many bytes, even if more is ready.
const CHUNK_BYTES: usize = 32 << 10;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Follow everything
///
/// All changes that this region holds, as `text/event-stream` or `application/x-ndjson`: from now
/// on, or after a cursor, or everything first. Records: `snapshot`, `ready`, `change`, `delete`,
/// `progress`, `reset`, `error`; each carries a CloudEvent. The first `progress` after a resume
/// says that everything that was there by then has been told.
#[utoipa::path(
    get, path = "/v1/changes", tag = "streams",
    params(
        ("kinds" = Option<String>, Query, description = "only these kinds, separated by commas"),
        ("collections" = Option<String>, Query,
            description = "only these collections, separated by commas"),
        ("since" = Option<String>, Query, description = "the cursor to resume after"),
        ("snapshot" = Option<bool>, Query, description = "current states first"),
        ("Last-Event-ID" = Option<String>, Header, description = "the cursor to resume after"),
    ),
    responses((
            status = 200,
            description = "a stream of records",
            content_type = "text/event-stream",
        )),
)]
pub(super) async fn changes(State(app): State<App>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let result = all(&app, &parts).await;
    result.unwrap_or_else(|problem| problem.at(parts.uri.path()).into_response())
}

async fn all(app: &App, parts: &Parts) -> Result<Response, Problem> {
    let form = negotiate(&parts.headers)?;
    let allowed = ["kinds", "collections", "since", "snapshot", "wait", "limit"];
    let query = Query::parse(parts.uri.query(), &allowed)?;
    if form == Form::Json || query.text("wait").is_some() || query.text("limit").is_some() {
        let detail = "the long poll is not implemented yet; ask for a stream with \
                      Accept: text/event-stream or application/x-ndjson";
        return Err(Problem::new(Code::NotImplemented, detail));
    }
    let kinds = query.list("kinds").map(address::kind).collect::<Result<_, _>>()?;
    let parsed = query.list("collections").map(Collection::parse);
    let collections = parsed.collect::<Result<_, _>>()?;
    let otherwise = if query.flag("snapshot")? { Start::Snapshot } else { Start::Now };
    let start = start(parts, &query, otherwise)?;
    let frames = Frames::new(form, "changes", String::new(), &app.source);
    open(app, Selection::All { kinds, collections }, start, frames).await
}

/// The stream of one entity.
pub(super) async fn entity(
    app: &App,
    key: EntityKey,
    form: Form,
    parts: &Parts,
) -> Result<Response, Problem> {
    let query = Query::parse(parts.uri.query(), &["since"])?;
    let start = start(parts, &query, Start::Snapshot)?;
    let frames = Frames::new(form, key.kind.as_str(), subject(&key), &app.source);
    open(app, Selection::Entity(key), start, frames).await
}

/// The stream of a collection, or of the ids in it that start with `?prefix=`.
pub(super) async fn collection(
    app: &App,
    kind: Kind,
    collection: Collection,
    form: Form,
    parts: &Parts,
) -> Result<Response, Problem> {
    let query = Query::parse(parts.uri.query(), &["prefix", "since"])?;
    let start = start(parts, &query, Start::Snapshot)?;
    let subject = format!("{kind}/{}", collection.as_str());
    let frames = Frames::new(form, kind.as_str(), subject, &app.source);
    let prefix = query.text("prefix").unwrap_or_default().to_owned();
    open(app, Selection::Prefix { kind, collection, prefix }, start, frames).await
}

/// `Last-Event-ID` is newer than `since`: a browser that reconnects sends both.
fn start(parts: &Parts, query: &Query<'_>, otherwise: Start) -> Result<Start, Problem> {
    let header = parts.headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
    let (name, text) = match header {
        Some(value) => ("Last-Event-ID", Some(value.to_str().unwrap_or_default())),
        None => ("since", query.text("since")),
    };
    let Some(text) = text else { return Ok(otherwise) };
    let cursor = Cursor::parse(text);
    cursor.map(Start::After).ok_or_else(|| {
        Problem::bad(format!("{name} must be a cursor that a stream of this cluster gave"))
    })
}

async fn open(
    app: &App,
    selection: Selection,
    start: Start,
    frames: Frames,
) -> Result<Response, Problem> {
    let subscription = match app.node.subscribe(selection, start).await {
        Ok(subscription) => subscription,
        Err(ReadError::Overloaded) => {
            let detail = "this node has as many subscriptions as it may";
            return Err(Problem::new(Code::RateLimited, detail));
        }
        Err(error) => return Err(error.into()),
    };
    let media = frames.media();
    let live = Live::new(subscription, frames, app.node.clone());
    let chunks = stream::unfold(live, async |mut live| {
        live.chunk().await.map(|chunk| (Ok::<_, Infallible>(chunk), live))
    });
    let mut response = json_response(app, Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would hold back records.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// A running stream.
struct Live {
    subscription: Subscription,
    frames: Frames,
    node: Node,
    heartbeat: Interval,
    ended: bool,
}

impl Live {
    fn new(subscription: Subscription, frames: Frames, node: Node) -> Live {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Live { subscription, frames, node, heartbeat, ended: false }
    }

    /// The next bytes for the client; `None` after the `error` record.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() && !self.ended {
            tokio::select! {
                biased;
                (record, cursor) = self.subscription.next() => self.take(&mut out, record, cursor),
                _ = self.heartbeat.tick() => out.extend_from_slice(self.frames.heartbeat()),
            }
            while out.len() < CHUNK_BYTES && !self.ended {
                let Some((record, cursor)) = self.subscription.next().now_or_never() else { break };
                self.take(&mut out, record, cursor);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn take(&mut self, out: &mut Vec<u8>, record: Record, cursor: Cursor) {
        self.ended = matches!(record, Record::Ended(_));
        self.frames.write(out, &record, &cursor, self.node.now());
    }
}
