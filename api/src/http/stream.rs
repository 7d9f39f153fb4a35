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
use super::forward::Slots;
use super::forward::{Begin, Followed, Places};
use super::frames::{Frames, subject};
use super::problem::{Code, Problem};
use super::query::Query;
use super::{App, address, forward};
use crate::node::{Cursor, Holders, Node, ReadError, Record, Selection, Start, Subscription};
use atoll_store::name::{Collection, EntityKey, Kind};

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A chunk is sent once it has this many bytes, even if more is ready.
pub(super) const CHUNK_BYTES: usize = 32 << 10;
/// Where a client that reconnects wants to resume.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Follow everything
///
/// All changes that this region holds, as `text/event-stream` or `application/x-ndjson`: from now
/// on, or after a cursor, or everything first. Records: `snapshot`, `ready`, `change`, `delete`,
/// `progress`, `reset`, `error`; each carries a CloudEvent. The first `progress` after a resume
/// says that everything that was there by then has been told. After a `reset` everything follows
/// anew. An `error` is the last record; its `code` is `draining`, `moved`, `overloaded`,
/// `quarantined` or `unavailable`, and its `resume` a cursor that any node takes.
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
    let begin = begin(app, parts, &query, otherwise)?;
    let frames = Frames::new(form, "changes", String::new(), &app.source);
    shared(app, parts, Selection::All { kinds, collections }, begin, frames).await
}

/// The stream of one entity.
pub(super) async fn entity(
    app: &App,
    key: EntityKey,
    form: Form,
    parts: &Parts,
) -> Result<Response, Problem> {
    let query = Query::parse(parts.uri.query(), &["since"])?;
    let start = match begin(app, parts, &query, Start::Snapshot)? {
        Begin::One(start) => start,
        Begin::Several(places) => {
            let cursor = places.at(app.node.slot(&key)).cloned();
            Start::After(cursor.unwrap_or_else(Cursor::nowhere))
        }
    };
    let frames = Frames::new(form, key.kind.as_str(), subject(&key), &app.source);
    if let Holders::Elsewhere(nodes) = app.node.holders(&key) {
        return forward::stream(app, parts, (form, frames), nodes).await;
    }
    let part = [app.node.slot(&key)].into_iter().collect();
    open(app, Selection::Entity(key), part, start, frames).await
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
    let begin = begin(app, parts, &query, Start::Snapshot)?;
    let subject = format!("{kind}/{}", collection.as_str());
    let frames = Frames::new(form, kind.as_str(), subject, &app.source);
    let prefix = query.text("prefix").unwrap_or_default().to_owned();
    shared(app, parts, Selection::Prefix { kind, collection, prefix }, begin, frames).await
}

/// A stream of what several nodes may hold.
async fn shared(
    app: &App,
    parts: &Parts,
    what: Selection,
    begin: Begin,
    frames: Frames,
) -> Result<Response, Problem> {
    let part = forward::part(app, parts)?;
    let held = app.node.serves_all(part.iter());
    match begin {
        Begin::One(start) if held => open(app, what, part, start, frames).await,
        _ if forward::is_forwarded(parts) => Err(forward::not_here()),
        begin => {
            let (media, app) = (frames.media(), app.clone());
            let parts = parts.clone();
            let followed = Followed { app: app.clone(), parts, what, frames };
            Ok(response(&app, media, forward::follow(followed, begin).await?))
        }
    }
}

/// `Last-Event-ID` is newer than `since`: a browser that reconnects sends both.
fn begin(app: &App, parts: &Parts, query: &Query<'_>, otherwise: Start) -> Result<Begin, Problem> {
    let header = parts.headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
    let (name, text) = match header {
        Some(value) => ("Last-Event-ID", Some(value.to_str().unwrap_or_default())),
        None => ("since", query.text("since")),
    };
    let Some(text) = text else { return Ok(Begin::One(otherwise)) };
    let one = || Cursor::parse(text).map(|cursor| Begin::One(Start::After(cursor)));
    let several = || Places::parse(text, app.node.slots()).map(Begin::Several);
    one().or_else(several).ok_or_else(|| {
        Problem::bad(format!("{name} must be a cursor that a stream of this cluster gave"))
    })
}

/// Starts a subscription.
pub(super) async fn subscribe(
    app: &App,
    what: Selection,
    part: Slots,
    start: Start,
) -> Result<Subscription, Problem> {
    match app.node.subscribe_part(what, part.slots(), start).await {
        Ok(subscription) => Ok(subscription),
        Err(ReadError::Overloaded) => {
            let detail = "this node has as many subscriptions as it may";
            Err(Problem::new(Code::RateLimited, detail))
        }
        Err(error) => Err(error.into()),
    }
}

async fn open(
    app: &App,
    selection: Selection,
    part: Slots,
    start: Start,
    frames: Frames,
) -> Result<Response, Problem> {
    let subscription = subscribe(app, selection, part, start).await?;
    let media = frames.media();
    let live = Live::new(subscription, frames, app.node.clone());
    let chunks = stream::unfold(live, async |mut live| {
        live.chunk().await.map(|chunk| (Ok::<_, Infallible>(chunk), live))
    });
    Ok(response(app, media, Body::from_stream(chunks)))
}

fn response(app: &App, media: &'static str, body: Body) -> Response {
    let mut response = json_response(app, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would hold back records.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The ticks of heartbeats.
pub(super) fn heartbeat() -> Interval {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat
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
        Live { subscription, frames, node, heartbeat: heartbeat(), ended: false }
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
        self.frames.write(out, &record, cursor.as_str(), self.node.now());
    }
}
