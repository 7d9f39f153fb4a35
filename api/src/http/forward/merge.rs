//! Streams of collections over several nodes: each tells what is in its slots.
//!
//! | told by a leg | told to the client |
//! |---|---|
//! | snapshot, change, delete | the same, with the cursor of the whole stream |
//! | ready, or the first progress | once all legs have told one |
//! | later progress | progress |
//! | reset | reset, and all legs begin anew: a client may forget everything at a reset |
//! | error, or its loss | error, with a cursor to resume all legs, at any node |
//!
//! Invariants:
//! 1. A stream that begins covers all slots, or it does not begin.
//! 2. A record's cursor, sent back, leads to everything after that record: its own leg's place is
//!    behind it, the others' where they were.
//! 3. A slow client slows every leg; dropping the body ends them all.

use std::collections::BTreeSet;
use std::convert::Infallible;

use atoll_replication::transport::NodeId;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use tokio::time::Interval;

use super::super::App;
use super::super::frames::{Frames, Told};
use super::super::problem::{Code, Problem};
use super::super::stream::{CHUNK_BYTES, LAST_EVENT_ID, heartbeat, subscribe};
use super::channel::{Answered, Failed, Lane, Until};
use super::cursor::Places;
use super::{
    Answer, Ask, REFUSED, SLOTS, Share, Slots, forwarder, not_here, relay, unreachable, whole,
};
use crate::node::{Cursor, Record, Selection, Start};

/// How often what one node would not tell is asked of others.
const ROUNDS: usize = 3;

/// Where a stream begins.
pub(in super::super) enum Begin {
    /// Everywhere alike.
    One(Start),
    /// Each part at its own place.
    Several(Places),
}

/// What is followed, and for whom.
pub(in super::super) struct Followed {
    pub(in super::super) app: App,
    pub(in super::super) parts: Parts,
    pub(in super::super) what: Selection,
    pub(in super::super) frames: Frames,
}

/// What a leg says: its number, and a record with the cursor after it; none if it is lost.
type Said = (usize, Option<(Told, Cursor)>);

/// One node's part of a stream.
struct Leg {
    part: Slots,
    /// After its last record.
    cursor: Cursor,
    /// It has told that it has everything.
    settled: bool,
}

/// Follows everything that is selected, at the nodes that hold it.
pub(in super::super) async fn follow(followed: Followed, begin: Begin) -> Result<Body, Problem> {
    let merged = Merged::open(followed, begin).await?;
    let chunks = stream::unfold(merged, async |mut merged| {
        merged.chunk().await.map(|chunk| (Ok::<_, Infallible>(chunk), merged))
    });
    Ok(Body::from_stream(chunks))
}

struct Merged {
    followed: Followed,
    legs: Vec<Leg>,
    told: SelectAll<BoxStream<'static, Said>>,
    /// A whole snapshot is being told.
    snapshot: bool,
    heartbeat: Interval,
    ended: bool,
}

impl Merged {
    async fn open(followed: Followed, begin: Begin) -> Result<Merged, Problem> {
        let mut merged = Merged {
            followed,
            legs: Vec::new(),
            told: SelectAll::new(),
            snapshot: false,
            heartbeat: heartbeat(),
            ended: false,
        };
        merged.begin(begin).await?;
        Ok(merged)
    }

    /// Opens legs that cover everything.
    async fn begin(&mut self, begin: Begin) -> Result<(), Problem> {
        let whole = whole(&self.followed.app);
        let starts: Vec<(Slots, Start)> = match begin {
            Begin::One(start) => vec![(whole, start)],
            Begin::Several(places) => {
                let places = places.into_parts().into_iter();
                places.map(|(part, cursor)| (part, Start::After(cursor))).collect()
            }
        };
        self.legs.clear();
        self.told = SelectAll::new();
        self.snapshot = starts.iter().any(|(_, start)| matches!(start, Start::Snapshot));
        for (part, start) in starts {
            for (share, told) in self.followed.legs(part, &start).await? {
                let number = self.legs.len();
                let cursor = match &start {
                    Start::After(cursor) => cursor.clone(),
                    Start::Snapshot | Start::Now => Cursor::nowhere(),
                };
                self.legs.push(Leg { part: share.part, cursor, settled: false });
                self.told.push(told.map(move |said| (number, said)).boxed());
            }
        }
        Ok(())
    }

    /// The next bytes for the client; `None` after the `error` record.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() && !self.ended {
            let node = self.followed.app.node.clone();
            tokio::select! {
                biased;
                () = node.draining() => self.end(&mut out, "draining"),
                said = self.told.next() => self.take(&mut out, said).await,
                _ = self.heartbeat.tick() => {
                    out.extend_from_slice(self.followed.frames.heartbeat());
                }
            }
            while out.len() < CHUNK_BYTES && !self.ended {
                let Some(said) = self.told.next().now_or_never() else { break };
                self.take(&mut out, said).await;
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    async fn take(&mut self, out: &mut Vec<u8>, said: Option<Said>) {
        // Legs do not end without saying so.
        let Some((number, Some((told, cursor)))) = said else {
            return self.end(out, "unavailable");
        };
        match told {
            Told::Here(Record::Reset) => return self.reset(out).await,
            Told::Here(Record::Ended(code)) => {
                self.legs[number].cursor = cursor;
                return self.end(out, code);
            }
            _ => {}
        }
        let leg = &mut self.legs[number];
        leg.cursor = cursor;
        if !matches!(told, Told::Here(Record::Ready | Record::Progress)) {
            return self.write(out, &told);
        }
        let first = !std::mem::replace(&mut leg.settled, true);
        if self.legs.iter().all(|leg| leg.settled) {
            let ready = first && std::mem::take(&mut self.snapshot);
            self.write(out, &Told::Here(if ready { Record::Ready } else { Record::Progress }));
        }
    }

    /// Everything anew.
    async fn reset(&mut self, out: &mut Vec<u8>) {
        let now = self.followed.app.node.now();
        let nowhere = Cursor::nowhere();
        self.followed.frames.write(out, &Record::Reset, nowhere.as_str(), now);
        self.legs.iter_mut().for_each(|leg| leg.cursor = nowhere.clone());
        if self.begin(Begin::One(Start::Snapshot)).await.is_err() {
            let code = Record::Ended("unavailable");
            self.followed.frames.write(out, &code, nowhere.as_str(), now);
            self.ended = true;
        }
    }

    fn end(&mut self, out: &mut Vec<u8>, code: &'static str) {
        self.write(out, &Told::Here(Record::Ended(code)));
        self.ended = true;
    }

    fn write(&self, out: &mut Vec<u8>, told: &Told) {
        let places = Places::of(self.legs.iter().map(|leg| (&leg.part, &leg.cursor))).to_string();
        let now = self.followed.app.node.now();
        match told {
            Told::Here(record) => self.followed.frames.write(out, record, &places, now),
            Told::There(carried) => self.followed.frames.carry(out, carried, &places),
        }
    }
}

type Telling = BoxStream<'static, Option<(Told, Cursor)>>;

impl Followed {
    /// Legs that cover a part.
    async fn legs(&self, part: Slots, start: &Start) -> Result<Vec<(Share, Telling)>, Problem> {
        let (mut failed, mut left, mut legs) = (BTreeSet::new(), part, Vec::new());
        for _ in 0..ROUNDS {
            let shares = self.shares(&left, &failed).ok_or_else(unreachable)?;
            let opened = join_all(shares.iter().map(|share| self.leg(share, start))).await;
            let mut again = Vec::new();
            for (share, leg) in shares.into_iter().zip(opened) {
                match leg? {
                    Some(telling) => legs.push((share, telling)),
                    None => {
                        failed.extend(share.node);
                        again.extend_from_slice(share.part.slots());
                    }
                }
            }
            if again.is_empty() {
                return Ok(legs);
            }
            left = again.into_iter().collect();
        }
        Err(unreachable())
    }

    fn shares(&self, part: &Slots, failed: &BTreeSet<NodeId>) -> Option<Vec<Share>> {
        match &self.app.forwarder {
            Some(forwarder) => forwarder.shares(&self.app, part, failed),
            // Alone, it is all here.
            None => {
                let here = self.app.node.serves_all(part.iter());
                here.then(|| vec![Share { node: None, part: part.clone() }])
            }
        }
    }

    /// One leg; `None`: another node may tell it.
    async fn leg(&self, share: &Share, start: &Start) -> Result<Option<Telling>, Problem> {
        let Some(node) = share.node else { return self.here(share, start).await };
        let forwarder = forwarder(&self.app, &self.parts)?;
        let ask = self.ask(share, start)?;
        let until = Until { sent: ask.deadline, answered: ask.deadline };
        match forwarder.attempt(&ask, node, Lane::Streams, until).await {
            Ok(Answer::Begun(answered)) => Ok(Some(told(answered))),
            Ok(Answer::Whole(answer)) if answer.status() == REFUSED => Ok(None),
            Ok(Answer::Whole(answer)) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                let detail = "a node that holds a part of it has as many subscriptions as it may";
                Err(Problem::new(Code::RateLimited, detail))
            }
            Ok(Answer::Whole(answer)) => {
                tracing::warn!(%node, status = %answer.status(), "refused a part of a stream");
                Err(Problem::internal())
            }
            Err(Failed::Unsent | Failed::Lost) => Ok(None),
        }
    }

    async fn here(&self, share: &Share, start: &Start) -> Result<Option<Telling>, Problem> {
        let subscribed = subscribe(&self.app, self.what.clone(), share.part.clone(), start.clone());
        let subscription = match subscribed.await {
            Err(problem) if problem.code == Code::NotReplica => return Ok(None),
            subscribed => subscribed?,
        };
        let telling = stream::unfold(subscription, async |mut subscription| {
            let (record, cursor) = subscription.next().await;
            Some((Some((Told::Here(record), cursor)), subscription))
        });
        Ok(Some(telling.boxed()))
    }

    /// The same stream of another node, of its slots alone.
    fn ask(&self, share: &Share, start: &Start) -> Result<Ask, Problem> {
        let mut parts = self.parts.clone();
        parts.headers.remove(LAST_EVENT_ID);
        parts.headers.insert(header::ACCEPT, HeaderValue::from_static("application/x-ndjson"));
        let kept = |pair: &&str| {
            let name = pair.split('=').next().unwrap_or_default();
            !pair.is_empty() && !["since", "snapshot"].contains(&name)
        };
        let query = parts.uri.query().unwrap_or_default();
        let mut pairs: Vec<String> = query.split('&').filter(kept).map(str::to_owned).collect();
        match start {
            Start::After(cursor) => pairs.push(format!("since={}", cursor.as_str())),
            // Of a collection it is what comes anyway.
            Start::Snapshot if matches!(self.what, Selection::All { .. }) => {
                pairs.push("snapshot=true".to_owned());
            }
            Start::Snapshot | Start::Now => {}
        }
        let uri = format!("{}?{}", parts.uri.path(), pairs.join("&")).parse();
        parts.uri = uri.map_err(|_| not_here())?;
        Ask::new(&parts, Bytes::new())?.with(SLOTS, &share.part.to_string())
    }
}

/// What another node tells, to its loss.
fn told(answered: Answered) -> Telling {
    let lines = relay::lines(answered);
    lines.map(|line| Told::parse(&line)).chain(stream::once(async { None })).boxed()
}
