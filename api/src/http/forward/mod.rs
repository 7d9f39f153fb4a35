//! Requests that another node of the region answers, because it holds the shard.
//!
//! 1. A handler asks the node who holds the entity. If it is this node, nothing here runs.
//! 2. Otherwise the request goes to the first of the holders, over a channel between nodes
//!    (`channel`), with the deadline that its client gave it.
//! 3. There it is served as any other (`serve`), but marked: it is never passed on again.
//! 4. The answer comes back whole; a stream comes back as it is told (`relay`).
//!
//! Invariants:
//! 1. At most one hop: whoever gets a forwarded request and holds no replica says so, 503.
//! 2. A write that may have arrived is not sent again, unless it carries an idempotency key (R10).
//! 3. Another holder is asked where one could not be reached, or refused with 503, which changed
//!    nothing; and for reads and keyed writes where one did not answer.
//! 4. The client's own body is read whole first, within the limits: nothing is sent for a client
//!    that does not finish its request.

mod batch;
mod channel;
mod cursor;
mod list;
mod merge;
mod relay;
mod serve;
mod slots;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use atoll_replication::transport::NodeId;
use atoll_replication::transport::quic::Quic;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::accept::Form;
use super::frames::Frames;
use super::problem::{Code, Problem};
use super::query::TIMEOUT_MS;
use super::request;
use crate::node::Demand;
use channel::{Answered, Channels, Failed, Lane, Until};

pub(super) use batch::batch;
pub(super) use cursor::Places;
pub(super) use list::list;
pub(super) use merge::{Begin, Followed, follow};
pub use serve::{Forwarded, serve_peers};
use slots::Share;
pub(super) use slots::Slots;

/// How long a request may take whose client says nothing of it.
const TIMEOUT: Duration = Duration::from_millis(TIMEOUT_MS);
/// What an answer takes beyond that on its way between two nodes of a region, at most: who holds
/// the shard says itself that others were too late.
const GRACE: Duration = Duration::from_millis(250);
/// How long the one who answers may wait for others, in milliseconds. Only between nodes.
const WAIT: HeaderName = HeaderName::from_static("atoll-wait");
/// A node that did not answer is asked last for so long.
const SUSPECTED: Duration = Duration::from_secs(5);
/// The status that says that nothing was done, and that another node may do it.
const REFUSED: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
/// The slots that a part of a request is about. Only between nodes.
const SLOTS: HeaderName = HeaderName::from_static("atoll-slots");
/// The places of a part's operations in the whole batch. Only between nodes.
const PLACES: HeaderName = HeaderName::from_static("atoll-places");

/// Headers that are not the request's but the connection's, or that only nodes may send.
const DROPPED: [HeaderName; 12] = [
    header::HOST,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    SLOTS,
    PLACES,
    WAIT,
];

/// Carries requests to other nodes. A cheap handle.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    channels: Channels,
    /// Nodes that did not answer, and until when they are asked last.
    suspects: Mutex<BTreeMap<NodeId, Instant>>,
}

/// A request that can be sent more than once.
#[derive(Clone)]
struct Ask {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    deadline: Instant,
    /// It changes something.
    write: bool,
    /// To send it again does no harm.
    repeatable: bool,
}

impl Ask {
    /// What a client asked.
    fn new(parts: &Parts, body: Bytes) -> Result<Ask, Problem> {
        let mut headers = parts.headers.clone();
        DROPPED.iter().for_each(|name| drop(headers.remove(name)));
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://node{path}").parse();
        Ok(Ask {
            method: parts.method.clone(),
            uri: uri.map_err(|_| Problem::bad("the address is not a path"))?,
            headers,
            body,
            deadline: Instant::now() + timeout(parts.uri.query()) + GRACE,
            write: false,
            repeatable: true,
        })
    }

    /// As a write, which may be sent again only with a key.
    fn writing(self, keyed: bool) -> Ask {
        Ask { write: true, repeatable: keyed, ..self }
    }

    /// With a header that only nodes may send.
    fn with(mut self, name: HeaderName, value: &str) -> Result<Ask, Problem> {
        let value = HeaderValue::from_str(value).map_err(|_| Problem::internal())?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// With a body of its own.
    fn with_body(self, body: Vec<u8>) -> Ask {
        Ask { body: body.into(), ..self }
    }

    /// With another deadline.
    fn until(self, deadline: Instant) -> Ask {
        Ask { deadline, ..self }
    }

    fn request(&self, until: Instant) -> Request<Full<Bytes>> {
        let left = until.saturating_duration_since(Instant::now());
        let wait = left.saturating_sub(GRACE).max(left / 2).as_millis() as u64;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(WAIT, HeaderValue::from(wait.max(1)));
        request
    }

    /// What its client is told if nobody answered.
    fn lost(&self) -> Problem {
        Problem::no_answer(self.write, self.repeatable)
    }
}

/// The `timeout` of a query, as far as it can be read.
fn timeout(query: Option<&str>) -> Duration {
    let pairs = query.unwrap_or_default().split('&');
    let text = pairs.filter_map(|pair| pair.strip_prefix("timeout=")).next();
    let given = text.and_then(|text| text.parse().ok()).filter(|ms| (1..=30_000).contains(ms));
    given.map_or(TIMEOUT, Duration::from_millis)
}

/// Whether a request came from another node.
pub(super) fn is_forwarded(parts: &Parts) -> bool {
    parts.extensions.get::<Forwarded>().is_some()
}

/// What only another node may say in a header; of clients it is not heard.
fn said<'a>(parts: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let value = parts.headers.get(name).filter(|_| is_forwarded(parts))?;
    Some(value.to_str().unwrap_or_default())
}

/// What a request demands, within the time that the node has which carried it here.
pub(super) fn within(parts: &Parts, demand: Demand) -> Demand {
    let left = said(parts, &WAIT).and_then(|wait| wait.parse().ok());
    Demand { timeout_ms: left.unwrap_or(demand.timeout_ms).min(demand.timeout_ms), ..demand }
}

/// All slots.
fn whole(app: &App) -> Slots {
    Slots::all(app.node.slots())
}

/// The slots that a request is about: all, unless another node asks for a part.
pub(super) fn part(app: &App, parts: &Parts) -> Result<Slots, Problem> {
    let Some(text) = said(parts, &SLOTS) else { return Ok(whole(app)) };
    let part = Slots::parse(text, app.node.slots());
    part.ok_or_else(|| Problem::bad("Atoll-Slots must be slots of this cluster, as in 0-3,7"))
}

/// The places of a batch's operations in the one that a client sent: those that they have here,
/// unless another node says otherwise.
pub(super) fn places(parts: &Parts, count: usize) -> Result<Vec<usize>, Problem> {
    let Some(text) = said(parts, &PLACES) else { return Ok((0..count).collect()) };
    let places: Option<Vec<usize>> = text.split(',').map(|place| place.parse().ok()).collect();
    places
        .filter(|places| places.len() == count)
        .ok_or_else(|| Problem::bad("Atoll-Places must name a place for each operation"))
}

/// A read of one entity.
pub(super) async fn read(
    app: &App,
    parts: &Parts,
    nodes: Vec<NodeId>,
) -> Result<Response, Problem> {
    let forwarder = forwarder(app, parts)?;
    let ask = Ask::new(parts, Bytes::new())?;
    forwarder.answer(&ask, nodes).await
}

/// A write of one entity.
pub(super) async fn write(
    app: &App,
    parts: &Parts,
    body: Body,
    nodes: Vec<NodeId>,
) -> Result<Response, Problem> {
    let forwarder = forwarder(app, parts)?;
    let keyed = request::idempotency_key(&parts.headers)?.is_some();
    let body = request::body(&parts.headers, body, &app.limits).await?;
    let ask = Ask::new(parts, body)?.writing(keyed);
    forwarder.answer(&ask, nodes).await
}

/// The stream of one entity.
pub(super) async fn stream(
    app: &App,
    parts: &Parts,
    (form, frames): (Form, Frames),
    nodes: Vec<NodeId>,
) -> Result<Response, Problem> {
    let forwarder = forwarder(app, parts)?;
    let ask = Ask::new(parts, Bytes::new())?;
    match forwarder.open(&ask, nodes).await? {
        Ok(answered) => Ok(relay::relay(answered, app, form, frames, parts)),
        Err(refusal) => Ok(refusal),
    }
}

/// What carries a request of a client; a forwarded one is not carried on.
fn forwarder<'a>(app: &'a App, parts: &Parts) -> Result<&'a Forwarder, Problem> {
    let forwarder = app.forwarder.as_ref().filter(|_| !is_forwarded(parts));
    forwarder.ok_or_else(not_here)
}

/// This node is the wrong one, and passes nothing on.
pub(super) fn not_here() -> Problem {
    Problem::new(Code::NotReplica, "this node holds no replica of the shard")
}

impl Forwarder {
    /// Over the connections of a transport.
    pub fn new(quic: Quic) -> Forwarder {
        let (channels, suspects) = (Channels::new(quic), Mutex::default());
        Forwarder(Arc::new(Inner { channels, suspects }))
    }

    /// The answer of the first node that gives one, whole.
    async fn answer(&self, ask: &Ask, nodes: Vec<NodeId>) -> Result<Response, Problem> {
        match self.first(ask, nodes, Lane::Requests).await? {
            Answer::Whole(response) => Ok(response.map(Body::from)),
            Answer::Begun(_) => Err(Problem::internal()),
        }
    }

    /// The beginning of a stream from the first node that gives one; or why there is none.
    async fn open(
        &self,
        ask: &Ask,
        nodes: Vec<NodeId>,
    ) -> Result<Result<Answered, Response>, Problem> {
        match self.first(ask, nodes, Lane::Streams).await? {
            Answer::Begun(answered) => Ok(Ok(answered)),
            Answer::Whole(response) => Ok(Err(response.map(Body::from))),
        }
    }

    /// What one node answers, whole.
    async fn one(&self, ask: &Ask, node: NodeId) -> Result<Response<Bytes>, Failed> {
        let until = Until { sent: ask.deadline, answered: ask.deadline };
        match self.attempt(ask, node, Lane::Requests, until).await? {
            Answer::Whole(response) => Ok(response),
            Answer::Begun(_) => Err(Failed::Lost),
        }
    }

    /// Asks one node after the other, as far as invariants 2 and 3 allow.
    async fn first(&self, ask: &Ask, nodes: Vec<NodeId>, lane: Lane) -> Result<Answer, Problem> {
        let nodes = self.in_order(nodes);
        let (mut refused, mut late, mut lost) = (None, None, false);
        for (at, node) in nodes.iter().enumerate() {
            let left = (nodes.len() - at) as u32;
            let now = Instant::now();
            let share = now + ask.deadline.saturating_duration_since(now) / left;
            let answered = if ask.repeatable { share } else { ask.deadline };
            match self.attempt(ask, *node, lane, Until { sent: share, answered }).await {
                Ok(answer) if answer.is_refusal() => refused = Some(answer),
                // With its share of the time; another may be quicker.
                Ok(answer) if answer.is_late() && ask.repeatable => late = Some(answer),
                Ok(answer) => return Ok(answer),
                Err(Failed::Unsent) => {}
                Err(Failed::Lost) if ask.repeatable => lost = true,
                Err(Failed::Lost) => return Err(ask.lost()),
            }
        }
        match late.or(refused) {
            _ if lost => Err(ask.lost()),
            Some(answer) => Ok(answer),
            None => Err(unreachable()),
        }
    }

    async fn attempt(
        &self,
        ask: &Ask,
        node: NodeId,
        lane: Lane,
        until: Until,
    ) -> Result<Answer, Failed> {
        let answer =
            match self.0.channels.send(node, lane, ask.request(until.answered), until).await {
                Ok(answered) => take(answered, lane, until.answered).await,
                Err(failed) => Err(failed),
            };
        match &answer {
            Ok(_) => drop(self.suspects().remove(&node)),
            Err(failed) => {
                tracing::debug!(%node, ?failed, "a forwarded request got no answer");
                self.suspects().insert(node, Instant::now() + SUSPECTED);
            }
        }
        super::meter::forwarded(match &answer {
            Ok(_) => "answered",
            Err(Failed::Unsent) => "unsent",
            Err(Failed::Lost) => "lost",
        });
        answer
    }

    /// Those who did not answer lately come last.
    fn in_order(&self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        let mut suspects = self.suspects();
        suspects.retain(|_, until| *until > Instant::now());
        nodes.sort_by_key(|node| suspects.contains_key(node));
        nodes
    }

    /// Who did not answer lately.
    fn suspected(&self) -> Vec<NodeId> {
        self.suspects().keys().copied().collect()
    }

    fn suspects(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.0.suspects.lock().expect("no panic under this lock")
    }
}

/// What a node answered.
enum Answer {
    /// All of it.
    Whole(Response<Bytes>),
    /// The beginning of a stream.
    Begun(Answered),
}

impl Answer {
    /// Whether it says that nothing was done, and that another node may do it.
    fn is_refusal(&self) -> bool {
        matches!(self, Answer::Whole(response) if response.status() == REFUSED)
    }

    /// Whether it says that too few others answered in time.
    fn is_late(&self) -> bool {
        matches!(self, Answer::Whole(response) if response.status() == StatusCode::GATEWAY_TIMEOUT)
    }
}

/// Takes a stream as it begins, and everything else to its end.
async fn take(answered: Answered, lane: Lane, deadline: Instant) -> Result<Answer, Failed> {
    if lane == Lane::Streams && answered.response.status() == StatusCode::OK {
        return Ok(Answer::Begun(answered));
    }
    let (parts, body) = answered.response.into_parts();
    match timeout_at(deadline, body.collect()).await {
        Ok(Ok(body)) => Ok(Answer::Whole(Response::from_parts(parts, body.to_bytes()))),
        _ => Err(Failed::Lost),
    }
}

/// Nobody who holds a replica could be asked.
fn unreachable() -> Problem {
    let detail = "no node that holds a replica of the shard can be reached now";
    Problem::new(Code::Unreachable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_is_the_clients() {
        let of = |query| timeout(Some(query)).as_millis();
        assert_eq!(of("ttl=1&timeout=150"), 150);
        assert_eq!(timeout(None), TIMEOUT);
        for bad in ["timeout=", "timeout=0", "timeout=30001", "timeout=x", "a=1"] {
            assert_eq!(of(bad), 2000, "{bad}");
        }
    }

    #[test]
    fn what_only_nodes_may_say_is_not_passed_on() {
        let request = Request::builder()
            .uri("/v1/sets/a/b%2Fc?timeout=5")
            .header("atoll-slots", "0-63")
            .header("atoll-places", "1")
            .header("atoll-wait", "1")
            .header("connection", "close")
            .header("idempotency-key", "k");
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let ask = Ask::new(&parts, Bytes::new()).expect("an ask");
        let names: Vec<_> = ask.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["idempotency-key"]);
        assert_eq!(ask.uri, "http://node/v1/sets/a/b%2Fc?timeout=5");
    }
}
