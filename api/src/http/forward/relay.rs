//! Streams of records from other nodes.
//!
//! Invariants:
//! 1. Records are passed on whole and as they come; a slow client slows the other node's stream,
//!    and dropping the body ends it.
//! 2. A stream whose node is lost ends with an `error` record of this node's, and the cursor of the
//!    last record that was passed on.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::super::App;
use super::super::accept::Form;
use super::super::frames::Frames;
use super::super::query::Query;
use super::super::stream::LAST_EVENT_ID;
use super::channel::Answered;
use crate::node::{Cursor, Node, Record};

/// Passes a stream on to a client.
pub(super) fn relay(
    answered: Answered,
    app: &App,
    form: Form,
    frames: Frames,
    parts: &Parts,
) -> Response {
    let (mut head, body) = answered.response.into_parts();
    head.headers.remove(header::DATE);
    let relay = Relay {
        records: Records::new(body, form, answered.permit),
        cursor: asked(&parts.headers, parts.uri.query()),
        frames,
        node: app.node.clone(),
        ended: false,
    };
    let chunks = stream::unfold(relay, async |mut relay| {
        relay.chunk().await.map(|chunk| (Ok::<_, Infallible>(chunk), relay))
    });
    Response::from_parts(head, Body::from_stream(chunks))
}

/// Where the client asked to resume, for a stream that is lost before its first record.
fn asked(headers: &HeaderMap, query: Option<&str>) -> String {
    let header = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let query = Query::parse(query, &["since"]).unwrap_or_default();
    let text = header.filter(|text| !text.is_empty()).or(query.text("since"));
    text.map_or_else(|| Cursor::nowhere().as_str().to_owned(), str::to_owned)
}

struct Relay {
    records: Records,
    /// After the last record that was passed on.
    cursor: String,
    frames: Frames,
    node: Node,
    ended: bool,
}

impl Relay {
    /// The next bytes for the client; `None` after an `error` record.
    async fn chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let code = tokio::select! {
            biased;
            () = self.node.draining() => "draining",
            whole = self.records.next() => match whole {
                Some(whole) => return Some(self.note(whole)),
                None => "unavailable",
            },
        };
        self.ended = true;
        let mut out = Vec::new();
        self.frames.write(&mut out, &Record::Ended(code), &self.cursor, self.node.now());
        Some(out.into())
    }

    fn note(&mut self, whole: Bytes) -> Bytes {
        if let Some((event, cursor)) = last_record(self.records.form, &whole) {
            self.ended = event == "error";
            self.cursor = cursor;
        }
        whole
    }
}

/// Cuts what arrives into whole records.
struct Records {
    body: Incoming,
    form: Form,
    buffer: BytesMut,
    _permit: OwnedSemaphorePermit,
}

impl Records {
    fn new(body: Incoming, form: Form, permit: OwnedSemaphorePermit) -> Records {
        Records { body, form, buffer: BytesMut::new(), _permit: permit }
    }

    /// What has arrived since, up to the end of a record; `None` at the end of the stream, however
    /// it came. Cancel-safe.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let data = self.body.frame().await?.ok()?.into_data().ok()?;
            // Only what is new, and the byte before it, can hold the end of a record.
            let from = self.buffer.len().saturating_sub(1);
            self.buffer.extend_from_slice(&data);
            if let Some(end) = end_of_records(self.form, &self.buffer, from) {
                return Some(self.buffer.split_to(end).freeze());
            }
        }
    }
}

/// Behind the last whole record; none of those before `from` are looked at.
fn end_of_records(form: Form, bytes: &[u8], from: usize) -> Option<usize> {
    let mark: &[u8] = if form == Form::Events { b"\n\n" } else { b"\n" };
    let at = bytes[from..].windows(mark.len()).rposition(|window| window == mark)?;
    Some(from + at + mark.len())
}

/// Name and cursor of the last record, if there is one besides heartbeats.
fn last_record(form: Form, whole: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(whole).ok()?;
    if form == Form::Events {
        let mut lines = text.lines().rev();
        let id = lines.find_map(|line| line.strip_prefix("id: "))?;
        // In each frame the name comes before the cursor.
        let event = lines.find_map(|line| line.strip_prefix("event: "))?;
        return Some((event.to_owned(), id.to_owned()));
    }
    let line = text.lines().rev().find(|line| !line.is_empty())?;
    let rest = line.strip_prefix("{\"event\":\"")?;
    let (event, rest) = rest.split_once("\",\"cursor\":\"")?;
    let (cursor, _) = rest.split_once('"')?;
    Some((event.to_owned(), cursor.to_owned()))
}

/// The records of a stream of JSON lines, one by one, heartbeats left out.
pub(super) fn lines(answered: Answered) -> impl Stream<Item = Bytes> + Send {
    let body = answered.response.into_body();
    let records = Records::new(body, Form::Lines, answered.permit);
    stream::unfold((records, Bytes::new()), async |(mut records, mut whole)| {
        loop {
            match whole.iter().position(|byte| *byte == b'\n') {
                Some(0) => drop(whole.split_to(1)),
                Some(end) => return Some((whole.split_to(end + 1), (records, whole))),
                None => whole = records.next().await?,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form, records: &[Record]) -> Vec<u8> {
        let frames = Frames::new(form, "sets", "sets/a".into(), "/regions/eu/nodes/n");
        let mut out = Vec::new();
        for record in records {
            out.extend_from_slice(frames.heartbeat());
            frames.write(&mut out, record, Cursor::nowhere().as_str(), 0);
        }
        out
    }

    #[test]
    fn the_last_record_is_found_behind_heartbeats_and_halves() {
        for form in [Form::Events, Form::Lines] {
            let records = [Record::Ready, Record::Progress, Record::Ended("draining")];
            let mut seen = Vec::new();
            for count in 1..=records.len() {
                let whole = written(form, &records[..count]);
                let end = end_of_records(form, &whole, 0);
                assert_eq!(end, Some(whole.len()));
                let (event, cursor) = last_record(form, &whole).expect("a record");
                assert_eq!(cursor, Cursor::nowhere().as_str());
                seen.push(event);
                let half = &whole[..whole.len() - 1];
                let shorter = end_of_records(form, half, 0).expect("the heartbeat");
                assert!(shorter < half.len());
            }
            assert_eq!(seen, ["ready", "progress", "error"]);
            let frames = Frames::new(form, "sets", String::new(), "");
            assert_eq!(last_record(form, frames.heartbeat()), None);
        }
    }
}
