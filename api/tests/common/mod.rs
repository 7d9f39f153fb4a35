//! A node's HTTP surface on a port of its own, and what tests ask of it.
#![allow(dead_code)] // Each test file uses a part.

use std::time::Duration;

use atoll::http::{Limits, Options, router, serve_with};
use atoll::node::{Node, testing};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// A node's surface on a port of its own.
pub(crate) struct Surface {
    pub(crate) base: String,
    node: Node,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    data: TempDir,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Surface {
    /// A new node.
    pub(crate) async fn start() -> Surface {
        let (node, data) = testing::single();
        Surface::over(node, data, Options::default()).await
    }

    /// The node that an earlier one's data make.
    pub(crate) async fn start_on(data: TempDir) -> Surface {
        let mut node = None;
        until("the directory is free", async || {
            node = testing::try_open(&data).ok();
            node.is_some()
        })
        .await;
        Surface::over(node.expect("opened"), data, Options::default()).await
    }

    /// A node of the caller's.
    pub(crate) async fn over(node: Node, data: TempDir, options: Options) -> Surface {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(node.clone(), options);
        let draining = node.clone();
        let served = tokio::spawn(async move {
            let limits = Limits { drain_ms: 10_000, ..Limits::default() };
            let shutdown = async {
                drop(stopped.await);
                draining.drain();
            };
            serve_with(listener, router, &limits, shutdown).await
        });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Surface { base, node, client, stop, served, data }
    }

    /// Stops as the program does; the data stay.
    pub(crate) async fn stop(self) -> TempDir {
        let Surface { node, client, stop, served, data, .. } = self;
        drop((client, stop));
        served.await.expect("no panic").expect("no error");
        node.stop().await;
        data
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let answer = tokio::time::timeout(DEADLINE, self.client.request(request)).await;
        answer.expect("an answer in time").expect("an answer")
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.ask_bytes(method, path, headers, body.as_bytes()).await
    }

    pub(crate) async fn ask_bytes(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let response = self.send(method, path, headers, Bytes::copy_from_slice(body)).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, &[], &body.to_string()).await
    }
}

/// Asserts a problem with all its members.
pub(crate) fn problem(answer: &Answer, status: u16, code: &str) -> String {
    let json = answer.json();
    assert_eq!((answer.status, &json["code"]), (status, &code.into()), "{json}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(json["type"], format!("https://atoll.dev/problems/{code}"));
    assert_eq!(json["status"], status);
    assert_eq!(json["outcome"], "not-applied");
    assert_eq!(json["retryable"], answer.headers.contains_key("retry-after"));
    assert!(json["title"].is_string() && json["instance"].is_string());
    json["detail"].as_str().expect("a detail").to_owned()
}

/// The records of a JSON-lines stream, heartbeats left out.
pub(crate) struct Lines {
    body: Incoming,
    buffer: String,
}

impl Lines {
    pub(crate) async fn open(surface: &Surface, path: &str, headers: &[(&str, &str)]) -> Lines {
        let mut all = vec![("accept", "application/x-ndjson")];
        all.extend_from_slice(headers);
        let response = surface.send("GET", path, &all, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Lines { body: response.into_body(), buffer: String::new() }
    }

    /// Resumes after a cursor.
    pub(crate) async fn after(surface: &Surface, path: &str, cursor: &str) -> Lines {
        Lines::open(surface, path, &[("last-event-id", cursor)]).await
    }

    /// The next record that is not `progress`; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.buffer.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.buffer = rest;
                let record: Value = match line.as_str() {
                    "" => continue,
                    line => serde_json::from_str(line).expect("a record"),
                };
                if record["event"] != "progress" {
                    return Some(record);
                }
                continue;
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await;
            let data = frame.expect("a record in time")?.expect("a frame").into_data();
            self.buffer.push_str(std::str::from_utf8(&data.unwrap_or_default()).expect("UTF-8"));
        }
    }

    /// The next record and its name.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        let record = self.next().await.expect("a record");
        (record["event"].as_str().expect("a name").to_owned(), record)
    }

    /// Asserts the next record's name; answers the record.
    pub(crate) async fn expect(&mut self, event: &str) -> Value {
        let (name, record) = self.event().await;
        assert_eq!(name, event, "{record}");
        record
    }
}

/// A record's cursor.
pub(crate) fn cursor(record: &Value) -> String {
    record["cursor"].as_str().expect("a cursor").to_owned()
}
