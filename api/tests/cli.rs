//! The binary against a small server of our own: what it sends, prints and returns.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::process::Command;

/// Method, path with query, body of each request.
type Seen = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A change feed: a snapshot of one entity, a change, the end of the snapshot.
fn records() -> String {
    let counter = json!({"kind": "counters", "collection": "likes", "id": "a/b", "value": 7,
        "version": "v1", "origin_region": "eu"});
    let set = json!({"kind": "sets", "collection": "tags", "id": "late", "value": [],
        "version": "v3"});
    let record = |event: &str, cursor: &str, data: Value| {
        format!("{}\n", json!({"event": event, "cursor": cursor, "data": data}))
    };
    [
        record("snapshot", "c1", json!({"data": counter})),
        record("change", "c2", json!({"data": set})),
        record("ready", "c3", Value::Null),
        record("progress", "c4", Value::Null),
    ]
    .concat()
}

async fn answer(State((seen, digest)): State<(Seen, String)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a small body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.to_string();
    seen.lock().expect("free").push((parts.method.to_string(), path.clone(), body.clone()));
    if path.ends_with("/absent") {
        let problem = json!({"code": "not-found", "detail": "no such entity", "status": 404});
        return (StatusCode::NOT_FOUND, problem.to_string()).into_response();
    }
    if path.ends_with("/refused") {
        let problem = json!({"code": "disk-full", "detail": "no room", "outcome": "not-applied"});
        return (StatusCode::INSUFFICIENT_STORAGE, problem.to_string()).into_response();
    }
    if path == "/readyz" && digest == "bb" {
        let problem = json!({"code": "not-ready", "detail": "behind us", "status": 503});
        return (StatusCode::SERVICE_UNAVAILABLE, problem.to_string()).into_response();
    }
    if path.ends_with("/commands") {
        return (StatusCode::NOT_IMPLEMENTED, "{\"code\":\"not-implemented\"}").into_response();
    }
    if path.starts_with("/v1/changes") {
        return records().into_response();
    }
    if path.starts_with("/v1/cluster/digest") {
        return json!({"shards": {"0/1": digest}}).to_string().into_response();
    }
    if path == "/v1/batch" {
        let operations = body["operations"].as_array().expect("operations").clone();
        let status = |o: &Value| if o["path"] == "/v1/flags/f/bad" { 413 } else { 200 };
        let results: Vec<_> =
            operations.iter().map(|o| json!({"status": status(o), "body": {}})).collect();
        return json!({"results": results}).to_string().into_response();
    }
    if path.ends_with("?state=true") {
        return exported().to_string().into_response();
    }
    json!({"value": 7, "version": "v"}).to_string().into_response()
}

/// What the server says of the one entity that it holds.
fn exported() -> Value {
    json!({"kind": "counters", "collection": "likes", "id": "a/b", "value": 7, "version": "v1",
        "state": "c3RhdGU="})
}

struct Server {
    url: String,
    seen: Seen,
}

struct Done {
    code: i32,
    out: String,
    err: String,
}

async fn server(digest: &str) -> Server {
    let seen = Seen::default();
    let router = Router::new().fallback(answer).with_state((seen.clone(), digest.to_string()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Server { url, seen }
}

async fn atoll(url: &str, arguments: &[&str]) -> Done {
    let done = Command::new(env!("CARGO_BIN_EXE_atoll"))
        .args(arguments)
        .env("ATOLL_URL", url)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Done {
        code: done.status.code().expect("not killed"),
        out: text(done.stdout),
        err: text(done.stderr),
    }
}

impl Server {
    /// Runs a command, and expects its exit code, what it printed, and the last request.
    async fn check(&self, arguments: &[&str], code: i32, out: &str, last: (&str, &str, Value)) {
        let done = atoll(&self.url, arguments).await;
        assert_eq!((done.code, done.out.as_str()), (code, out), "{arguments:?}: {}", done.err);
        let (method, path, body) = self.seen.lock().expect("free").pop().expect("a request");
        assert_eq!((method.as_str(), path.as_str(), body), last, "{arguments:?}");
    }
}

#[tokio::test]
async fn one_request_a_command() {
    let server = server("aa").await;
    let post = |path, body| ("POST", path, body);
    let likes = "/v1/counters/likes/a%2Fb";
    server.check(&["get", "counters/likes/a/b"], 0, "7\n", ("GET", likes, json!(null))).await;
    let get = ["get", "counters/likes/absent"];
    server.check(&get, 4, "", ("GET", "/v1/counters/likes/absent", json!(null))).await;
    let incr = ["incr", "counters/likes/a/b", "-3", "--consistency", "one"];
    let one = "/v1/counters/likes/a%2Fb?consistency=one";
    server.check(&incr, 0, "7\n", post(one, json!({"decrement": 3}))).await;
    let refused = ["incr", "counters/likes/refused"];
    let path = "/v1/counters/likes/refused";
    server.check(&refused, 1, "", post(path, json!({"increment": 1}))).await;
    let add = ["add", "sets/tags/x", "a", "1", "--output", "json"];
    let all = "{\"value\":7,\"version\":\"v\"}\n";
    server.check(&add, 0, all, post("/v1/sets/tags/x", json!({"add": ["a", 1]}))).await;
    let set = ["set", "maps/posts/1", "title=A", "likes=+1"];
    let update = json!({"update": {"title": {"set": "A"}, "likes": {"increment": 1}}});
    server.check(&set, 0, "7\n", post("/v1/maps/posts/1", update)).await;
    let command = ["command", "entities/orders/o-1", "add-item"];
    let body = json!({"type": "add-item", "data": {}});
    server.check(&command, 1, "", post("/v1/entities/orders/o-1/commands", body)).await;
}

#[tokio::test]
async fn failures_have_their_codes() {
    let (same, other) = (server("aa").await, server("bb").await);
    let code = async |url: &str, arguments: &[&str]| atoll(url, arguments).await.code;
    assert_eq!(code(&same.url, &["incr", "sets/a/b"]).await, 2);
    assert_eq!(code(&same.url, &["get", "nothing"]).await, 2);
    assert_eq!(code("https://a", &["get", "counters/a/b"]).await, 2);
    assert_eq!(code("http://127.0.0.1:1", &["get", "counters/a/b"]).await, 3);
    assert_eq!(code(&same.url, &["demo", "status", "--base-port", "1"]).await, 3);
    let health = [&same.url, &other.url, "http://127.0.0.1:1"];
    for (url, ready, live) in [(health[0], 0, 0), (health[1], 1, 0), (health[2], 3, 3)] {
        assert_eq!(code(url, &["health"]).await, ready, "{url}");
        assert_eq!(code(url, &["health", "--live"]).await, live, "{url}");
    }
    let equal = ["check", "--url", &same.url, "--url", &same.url];
    assert_eq!(code(&same.url, &equal).await, 0);
    let urls = format!("{},{}", same.url, other.url);
    let done = atoll(&same.url, &["check", "--urls", &urls, "--timeout", "0"]).await;
    assert_eq!(done.code, 5, "{}", done.err);
    assert!(done.out.contains("0/1"), "{}", done.out);
    let done = atoll(&same.url, &["incr", "counters/a/refused", "--trace"]).await;
    assert!(done.err.contains("curl -sS -X POST"), "{}", done.err);
    assert!(done.err.contains("507 disk-full: no room (outcome: not-applied)"), "{}", done.err);
}

#[tokio::test]
async fn export_import_and_watch() {
    let server = server("aa").await;
    let done = atoll(&server.url, &["export"]).await;
    let record = exported();
    assert_eq!((done.code, done.out.as_str()), (0, format!("{record}\n").as_str()), "{}", done.err);

    let file = tempfile::NamedTempFile::new().expect("a file");
    let bad = json!({"kind": "flags", "collection": "f", "id": "bad", "value": true});
    let keep = json!({"kind": "counters", "collection": "likes", "id": "a/b",
        "operation": {"decrement": 2}});
    std::fs::write(file.path(), format!("{record}\n\n{bad}\n{keep}\n")).expect("written");
    let path = file.path().display().to_string();
    server.seen.lock().expect("free").clear();
    let done = atoll(&server.url, &["import", &path, "--batch", "2", "--output", "json"]).await;
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("line 3: {}"), "{}", done.err);
    let result: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!((&result["applied"], &result["refused"]), (&json!(2), &json!(1)));
    let likes = |body| json!({"method": "POST", "path": "/v1/counters/likes/a%2Fb", "body": body});
    let flag = json!({"method": "POST", "path": "/v1/flags/f/bad", "body": {"enable": true}});
    let batches: Vec<Value> =
        server.seen.lock().expect("free").iter().map(|(_, _, b)| b["operations"].clone()).collect();
    // The second batch touches an entity of the first, so it came after it.
    let expected =
        [json!([likes(json!({"increment": 7})), flag]), json!([likes(json!({"decrement": 2}))])];
    assert_eq!(batches, expected);

    let done = atoll(&server.url, &["watch", "--count", "3"]).await;
    let expected = "snapshot counters/likes/a/b  7  from eu\nchange   sets/tags/late  []\nready\n";
    assert_eq!((done.code, done.out.as_str()), (0, expected), "{}", done.err);
}

#[tokio::test]
async fn configurations_are_checked() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[store]\ncache_mbs = 1\n").expect("written");
    let path = file.path().display().to_string();
    let done = atoll("", &["config", "check", "--config", &path]).await;
    assert_eq!((done.code, done.out.as_str()), (2, ""));
    assert!(done.err.contains("did you mean `store.cache_mb`?"), "{}", done.err);
    std::fs::write(file.path(), "[store]\ncache_mb = 1\n").expect("written");
    let done = atoll("", &["config", "check", "--config", &path]).await;
    assert!(done.code == 0 && done.out.contains("cache_mb = 1"), "{}{}", done.out, done.err);
}
