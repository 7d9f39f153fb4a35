//! Requests at and beyond the edges of the contract: each gets its problem, and changes nothing.

mod common;

use common::{Surface, problem};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bodies_change_nothing() {
    let surface = Surface::start().await;
    let path = "/v1/counters/a/b";
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], u16, &str); 16] = [
        (b"", 400, "line 1"),
        (b"null", 400, "an object"),
        (b"[]", 400, "empty array"),
        (b"{}", 400, "increment, decrement"),
        (b"{\"increment\":1", 400, "line 1"),
        (b"{\"increment\":1}x", 400, "after the value"),
        (b"{\"increment\":1,\"increment\":2}", 400, "duplicate"),
        (b"{\"increment\":1,\"decrement\":2}", 400, "exactly one"),
        (b"{\"increment\":1.5}", 400, "integer"),
        (b"{\"increment\":1e400}", 400, "range"),
        (b"{\"increment\":170141183460469231731687303715884105728}", 400, "i128"),
        (b"{\"increment\":\"\xff\"}", 400, "UTF-8"),
        (b"{\"\\ud800\":1}", 400, "surrogate"),
        (b"\xef\xbb\xbf{\"increment\":1}", 400, "a value"),
        (b"{\"add\":1}", 400, "unknown operation"),
        (deep.as_bytes(), 413, "nesting"),
    ];
    for (body, status, names) in cases {
        let answer = surface.ask_bytes("POST", path, &[], body).await;
        let code = if status == 413 { "too-large" } else { "bad-request" };
        let detail = problem(&answer, status, code);
        assert!(detail.contains(names), "{detail}");
    }
    problem(&surface.get(path).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_stop_at_the_bounds_of_i128() {
    let surface = Surface::start().await;
    let path = "/v1/counters/a/b";
    let max = i128::MAX.to_string();
    let full = surface.post(path, json!({"increment": max})).await.json();
    assert_eq!(full["value"], max);
    for more in [json!({"increment": 1}), json!([{"decrement": 1}, {"increment": 2}])] {
        problem(&surface.post(path, more).await, 422, "counter-overflow");
    }
    assert_eq!(surface.get(path).await.json(), full);
    let less = surface.post(path, json!({"decrement": "5"})).await.json();
    assert_eq!(less["value"], (i128::MAX - 5).to_string());
    let large = "{\"increment\": 123456789012345678901234567890}";
    let large = surface.ask("POST", "/v1/counters/a/c", &[], large).await.json();
    assert_eq!(large["value"], "123456789012345678901234567890");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_changes_no_member_makes_the_entity() {
    let surface = Surface::start().await;
    let cases = [
        ("sets", json!({}), json!([])),
        ("sets", json!({"add": [], "remove": [1]}), json!([])),
        ("maps", json!({}), json!({})),
        ("counters", json!({"increment": 0}), json!(0)),
        ("flags", json!({"disable": true}), json!(false)),
    ];
    for (index, (kind, operation, value)) in cases.into_iter().enumerate() {
        let path = format!("/v1/{kind}/a/{index}");
        let written = surface.post(&path, operation).await.json();
        assert_eq!(written["value"], value, "{written}");
        assert_eq!(surface.get(&path).await.json(), written);
    }
    surface.post("/v1/sets/a/0", json!({"add": [1]})).await;
    let kept = surface.post("/v1/sets/a/0", json!({})).await.json();
    assert_eq!(kept["value"], json!([1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_taken_to_the_letter() {
    let surface = Surface::start().await;
    for id in ["%00", "..", "%2E", "%2F", "%F0%9F%98%80", "a%0Ab", "%25", &"x".repeat(256)] {
        let path = format!("/v1/flags/a/{id}");
        let written = surface.ask("PUT", &path, &[], "true").await;
        assert_eq!((written.status, written.json()), (200, surface.get(&path).await.json()));
    }
    let cases = [
        ("GET", "/v1/flags/a/", 400, "bad-request"),
        ("GET", "/v1/flags//b", 400, "bad-request"),
        ("GET", "/v1/flags/", 400, "bad-request"),
        ("POST", "/v1/flags/a/", 400, "bad-request"),
        ("GET", "/v1/flags/a/%C3", 400, "bad-request"),
        ("GET", "/v1/flags/a%2Fb/c", 400, "bad-request"),
        ("GET", "/v1/flags/a/b/", 404, "unknown-route"),
        ("GET", "/v1/flags", 404, "unknown-route"),
        ("GET", "/", 404, "unknown-route"),
        ("POST", "/v1/widgets/a", 404, "unknown-kind"),
        ("OPTIONS", "/v1/widgets/a/b", 404, "unknown-kind"),
        ("OPTIONS", "/v1/flags/a/b", 405, "method-not-allowed"),
        ("TRACE", "/v1/flags/a", 405, "method-not-allowed"),
        ("DELETE", "/v1/batch", 405, "method-not-allowed"),
    ];
    for (method, path, status, code) in cases {
        let answer = surface.ask(method, path, &[], "").await;
        problem(&answer, status, code);
        assert!(status != 405 || !answer.header("allow").is_empty(), "{method} {path}");
    }
    let head = surface.ask("HEAD", "/v1/flags/a/..", &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert!(!head.header("etag").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_answered_and_nothing_is_truncated() {
    let surface = Surface::start().await;
    let long = json!("x".repeat(70_000));
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let cases = [
        ("POST", "/v1/sets/a/b", json!({"add": [long]}).to_string()),
        ("POST", "/v1/maps/a/b", json!({"update": {"f": {"add": [long]}}}).to_string()),
        ("POST", "/v1/maps/a/b", json!({"update": {"x".repeat(257): {"set": 1}}}).to_string()),
        ("POST", "/v1/multi-registers/a/b", json!({"set": long}).to_string()),
        ("PUT", "/v1/multi-registers/a/b", long.to_string()),
        ("PUT", "/v1/registers/a/b", deep(65)),
        ("POST", "/v1/sets/a/b", format!("{{\"add\": [{}]}}", deep(65))),
        ("POST", "/v1/counters/a/b", json!(vec![json!({"increment": 1}); 1001]).to_string()),
    ];
    for (method, path, body) in cases {
        problem(&surface.ask(method, path, &[], &body).await, 413, "too-large");
        problem(&surface.get(path).await, 404, "not-found");
    }
    assert_eq!(surface.ask("PUT", "/v1/registers/a/b", &[], &deep(64)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_negotiates_like_every_write() {
    let surface = Surface::start().await;
    for accept in ["text/html", "text/event-stream", ""] {
        let one = json!({"method": "PUT", "path": "/v1/flags/a/b", "body": true});
        let body = json!({"operations": [one]}).to_string();
        let answer = surface.ask("POST", "/v1/batch", &[("accept", accept)], &body).await;
        problem(&answer, 406, "not-acceptable");
    }
    problem(&surface.get("/v1/flags/a/b").await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_far_too_much_still_reads_its_answer() {
    let surface = Surface::start().await;
    let address = surface.base.strip_prefix("http://").expect("a base");
    let size = 10 << 20;
    let announced = format!("content-length: {size}\r\n\r\n").into_bytes();
    let mut chunked = b"transfer-encoding: chunked\r\n\r\n".to_vec();
    chunked.extend_from_slice(format!("{size:x}\r\n").as_bytes());
    for framing in [announced, chunked] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let head = b"POST /v1/counters/a/b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
        stream.write_all(head).await.expect("sent");
        stream.write_all(&framing).await.expect("sent");
        stream.write_all(&vec![b' '; size]).await.expect("all of it is taken");
        stream.write_all(b"\r\n0\r\n\r\n").await.ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer, not a reset");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}
