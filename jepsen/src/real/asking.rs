//! A workload's requests as HTTP, and what came back as its answers.
//!
//! Invariants:
//! 1. Unknown is not refused: only what surely changed nothing is [`Answer::Refused`].
//! 2. A subscriber has one stream at most; what it received before a break is handed out first.
//!
//! Left out: the levels of lists and streams, which are served at `one`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::http::{Client, Error, Opened, Response, Stream};
use crate::workloads::{Answer, Method, Record, Request};

/// How long an answer may take before it counts as lost.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a poll waits for its first record.
const POLL: Duration = Duration::from_millis(300);
/// How long it waits for each further one.
const MORE: Duration = Duration::from_millis(20);
/// The header of session tokens.
const SESSION: &str = "atoll-session";
/// The header that says which node answered.
const SERVED: &str = "atoll-node";
/// Refusals of what was asked for, which any node would give.
const DESERVED: [&str; 2] = ["counter-overflow", "kind-conflict"];
/// How a stream ends that is cut off.
pub(crate) const NO_WORD: &str = "without a word";
/// What stands for itself in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One client's connections to the nodes.
pub(crate) struct Asker {
    nodes: Vec<(String, SocketAddr, Client)>,
    subscription: Option<Subscription>,
    /// Who answered last, as the answer says: another node of the region may hold the shard.
    served: Option<String>,
    /// How the stream ended, if it ended in the last request: a code, or [`NO_WORD`].
    end: Option<String>,
}

/// An open stream: of which node, of what, and why it can bring nothing more.
struct Subscription {
    node: usize,
    path: String,
    stream: Stream,
    ended: Option<Answer>,
}

impl Asker {
    pub(crate) fn new<'a>(nodes: impl Iterator<Item = (&'a str, SocketAddr)>) -> Asker {
        let node = |(name, address): (&str, SocketAddr)| {
            (name.to_owned(), address, Client::new(address, ANSWER))
        };
        Asker { nodes: nodes.map(node).collect(), subscription: None, served: None, end: None }
    }

    /// Asks a node.
    pub(crate) fn ask(&mut self, node: usize, request: &Request) -> Answer {
        (self.served, self.end) = (None, None);
        let level = if let Request::At(level, _) = request { level } else { "one" };
        match request.bare() {
            Request::At(..) => Answer::Refused("two levels".into()),
            Request::Read { entity, session } => {
                self.read(node, &at(entity, level), session.as_deref())
            }
            Request::Write { entity, .. } => self.write(node, request.bare(), &at(entity, level)),
            Request::Poll { collection, prefix, since, reconnect } => {
                let path = format!("/v1/{}/{}?prefix={}", collection.0, collection.1, code(prefix));
                self.poll(node, path, since.as_deref(), *reconnect)
            }
        }
    }

    /// Who answered the last request, if it was answered by one.
    pub(crate) fn served(&self) -> Option<&str> {
        self.served.as_deref()
    }

    /// How the stream ended, if it ended in the last request.
    pub(crate) fn stream_end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    fn read(&mut self, node: usize, path: &str, session: Option<&str>) -> Answer {
        let headers: Vec<_> = session.map(|token| (SESSION, token)).into_iter().collect();
        match self.send(node, "GET", path, &headers, b"") {
            Ok(response) if is_absent(&response) => done(&response),
            other => answer(other),
        }
    }

    fn write(&mut self, node: usize, request: &Request, path: &str) -> Answer {
        let Request::Write { method, body, key, seen, session, .. } = request else {
            return Answer::Refused("no write".into());
        };
        let verb = match method {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        };
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.as_deref().map(|key| ("idempotency-key", key)));
        let quoted = seen.as_deref().map(|seen| format!("\"{}\"", seen.trim_matches('"')));
        headers.extend(session.as_deref().map(|token| (SESSION, token)));
        headers.extend(quoted.as_deref().map(|seen| ("if-match", seen)));
        let body = if verb == "DELETE" { String::new() } else { body.to_string() };
        answer(self.send(node, verb, path, &headers, body.as_bytes()))
    }

    fn send(
        &mut self,
        node: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Error> {
        let response = self.nodes[node].2.send(method, path, headers, body)?;
        self.served = response.header(SERVED).map(str::to_owned);
        Ok(response)
    }

    fn poll(&mut self, node: usize, path: String, since: Option<&str>, reconnect: bool) -> Answer {
        let goes_on = |open: &Subscription| !reconnect && (open.node, &open.path) == (node, &path);
        let open = match self.subscription.take().filter(goes_on) {
            Some(open) => open,
            None => match subscribe(self.nodes[node].1, &path, since) {
                Ok(stream) => Subscription { node, path, stream, ended: None },
                Err(answer) => return answer,
            },
        };
        self.collect(open)
    }

    /// What has come, waiting for the first of it.
    fn collect(&mut self, mut open: Subscription) -> Answer {
        if let Some(answer) = open.ended {
            return answer;
        }
        let name = self.nodes[open.node].0.clone();
        let mut records: Vec<Record> = Vec::new();
        loop {
            let patience = if records.is_empty() { POLL } else { MORE };
            let ended = match open.stream.line(Instant::now() + patience) {
                Ok(None) => break,
                Ok(Some(line)) => match record(&line) {
                    Some(record) => {
                        self.end = end(&line).or(self.end.take());
                        records.push(record);
                        continue;
                    }
                    None => Answer::Lost(format!("a record that is none: {line}")),
                },
                // It said that it ends; the next poll opens another.
                Err(_) if records.last().is_some_and(|last| last.event == "error") => {
                    return Answer::Records(name, records);
                }
                Err(Error::Lost(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    Answer::Lost("stream ended without a word".into())
                }
                Err(error) => Answer::Lost(error.to_string()),
            };
            self.end = Some(NO_WORD.into());
            if records.is_empty() {
                return ended;
            }
            open.ended = Some(ended);
            break;
        }
        let said = records.last().is_some_and(|last| last.event == "error");
        self.subscription = (!said).then_some(open);
        Answer::Records(name, records)
    }
}

/// Why a node did not answer what it should have, in a word; `None` if it did.
pub(crate) fn failure(answer: &Answer) -> Option<&str> {
    match answer {
        // What is no code says why it could not be reached.
        Answer::Refused(code) if code.contains(' ') => Some("unreachable"),
        Answer::Refused(code) => Some(code.as_str()).filter(|code| !DESERVED.contains(code)),
        Answer::Lost(_) => Some("no answer"),
        Answer::Done { .. } | Answer::Records(..) => None,
    }
}

/// Whether it may be asked again after this answer: nothing was done, or it is done once only.
pub(crate) fn is_repeatable(request: &Request, answer: &Answer) -> bool {
    let is_plain = matches!(request.bare(), Request::Write { key: None, .. });
    !(is_plain && matches!(answer, Answer::Lost(_)))
}

/// Opens a subscription as NDJSON.
pub(crate) fn subscribe(
    address: SocketAddr,
    path: &str,
    since: Option<&str>,
) -> Result<Stream, Answer> {
    let mut headers = vec![("accept", "application/x-ndjson")];
    headers.extend(since.map(|cursor| ("last-event-id", cursor)));
    match Stream::open(address, path, &headers, ANSWER) {
        Ok(Opened::Stream(stream)) => Ok(stream),
        Ok(Opened::Refused(response)) => Err(answer(Ok(response))),
        Err(error) => Err(answer(Err(error))),
    }
}

/// A line of a stream.
pub(crate) fn record(line: &str) -> Option<Record> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entity = &line["data"]["data"];
    Some(Record {
        event: text(&line["event"])?,
        id: text(&entity["id"]),
        value: entity["value"].clone(),
        cursor: text(&line["cursor"])?,
    })
}

/// The code of a line that ends a stream.
fn end(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let code = || line["data"]["data"]["code"].as_str().map(str::to_owned);
    (line["event"] == "error").then(code).flatten()
}

/// What an answer says of the operation's fate.
fn answer(result: Result<Response, Error>) -> Answer {
    let response = match result {
        Ok(response) if response.status == 200 => return done(&response),
        Ok(response) => response,
        Err(error @ Error::Unreachable(..)) => return Answer::Refused(error.to_string()),
        Err(error) => return Answer::Lost(error.to_string()),
    };
    let problem = response.json().unwrap_or_default();
    let code = problem["code"].as_str().map_or_else(|| response.status.to_string(), str::to_owned);
    match (problem["outcome"].as_str(), response.status) {
        // Fewer replicas have it than were asked for.
        (Some("applied"), 504) => Answer::Lost(code),
        (Some("applied"), _) => done(&response),
        (Some("not-applied"), _) => Answer::Refused(code),
        (None, 400..500 | 503) => Answer::Refused(code),
        _ => Answer::Lost(code),
    }
}

fn is_absent(response: &Response) -> bool {
    let code = |body: Value| body["code"] == "not-found";
    response.status == 404 && response.json().is_ok_and(code)
}

fn done(response: &Response) -> Answer {
    let Ok(mut body) = response.json() else {
        return Answer::Lost("the answer is no JSON".into());
    };
    Answer::Done {
        version: body["version"].as_str().unwrap_or_default().into(),
        value: body["value"].take(),
        session: response.header(SESSION).map(str::to_owned),
    }
}

/// The path of an entity, at a level.
fn at(entity: &(&'static str, String, String), level: &str) -> String {
    format!("{}?consistency={level}", path(entity))
}

fn path((kind, collection, id): &(&'static str, String, String)) -> String {
    format!("/v1/{kind}/{collection}/{}", code(id))
}

fn code(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(status: u16, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        answer(Ok(Response { status, headers: Vec::new(), body }))
    }

    #[test]
    fn only_what_surely_changed_nothing_is_refused() {
        let refused = |code: &str| Answer::Refused(code.into());
        let lost = |code: &str| Answer::Lost(code.into());
        let problem = |outcome: &str| json!({"code": "c", "outcome": outcome});
        assert_eq!(said(503, &problem("not-applied")), refused("c"));
        assert_eq!(said(500, &problem("unknown")), lost("c"));
        assert_eq!(said(503, &problem("unknown")), lost("c"));
        assert_eq!(said(504, &problem("applied")), lost("c"));
        assert!(matches!(said(503, &problem("applied")), Answer::Done { .. }));
        assert_eq!(said(429, &json!({})), refused("429"));
        assert_eq!(said(502, &json!({})), lost("502"));
        let io = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let address = ([127, 0, 0, 1], 1).into();
        assert!(matches!(answer(Err(Error::Unreachable(address, io()))), Answer::Refused(_)));
        assert!(matches!(answer(Err(Error::Lost(io()))), Answer::Lost(_)));
    }

    #[test]
    fn only_what_surely_is_done_once_is_asked_elsewhere() {
        let entity = || ("sets", "c".to_owned(), "i".to_owned());
        let write = Request::write(entity(), Method::Put, json!(1));
        let mut keyed = write.clone();
        let Request::Write { key, .. } = &mut keyed else { panic!("no write") };
        *key = Some("k".into());
        let lost = Answer::Lost("no-answer".into());
        let refused = Answer::Refused("draining".into());
        let repeatable = |answer: &Answer| {
            [&Request::read(entity()), &write, &keyed].map(|one| is_repeatable(one, answer))
        };
        assert_eq!(repeatable(&lost), [true, false, true]);
        assert_eq!(repeatable(&refused), [true; 3]);
    }

    #[test]
    fn what_is_owed_is_an_answer_or_a_refusal_of_the_request() {
        let refused = |code: &str| Answer::Refused(code.into());
        assert_eq!(failure(&refused("draining")), Some("draining"));
        assert_eq!(failure(&refused("cannot be reached")), Some("unreachable"));
        assert_eq!(failure(&refused("kind-conflict")), None);
        assert_eq!(failure(&Answer::Lost("timed out".into())), Some("no answer"));
        assert_eq!(failure(&Answer::Records("eu-1".into(), Vec::new())), None);
    }

    #[test]
    fn a_stream_ends_with_a_code() {
        let line = |event: &str| json!({"event": event, "data": {"data": {"code": "draining"}}});
        assert_eq!(end(&line("error").to_string()), Some("draining".into()));
        assert_eq!(end(&line("change").to_string()), None);
    }

    #[test]
    fn an_absent_entity_is_no_other_404() {
        let response = |code: &str| Response {
            status: 404,
            headers: Vec::new(),
            body: json!({"code": code}).to_string().into_bytes(),
        };
        assert!(is_absent(&response("not-found")));
        assert!(!is_absent(&response("unknown-kind")));
    }

    #[test]
    fn a_record_is_of_an_entity_or_of_the_stream() {
        let line =
            json!({"event": "change", "cursor": "c", "data": {"data": {"id": "i", "value": 7}}});
        let whole = Record {
            event: "change".into(),
            id: Some("i".into()),
            value: json!(7),
            cursor: "c".into(),
        };
        assert_eq!(record(&line.to_string()), Some(whole));
        let ready = record(r#"{"event": "ready", "cursor": "d", "data": {}}"#).unwrap();
        assert_eq!((ready.id, ready.value), (None, Value::Null));
        assert_eq!(record("{"), None);
        assert_eq!(path(&("sets", "c".into(), "a/b é".into())), "/v1/sets/c/a%2Fb%20%C3%A9");
    }
}
