//! The HTTP surface over one running node, through real connections.

mod common;

use std::time::Duration;

use common::{Lines, Surface, problem, until};
use hyper::header;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_written_and_read() {
    let surface = Surface::start().await;
    let cases = [
        ("counters", json!({"increment": 5}), json!(5)),
        ("registers", json!({"set": {"b": 1, "a": [1.5]}}), json!({"a": [1.5], "b": 1})),
        ("multi-registers", json!({"set": "x"}), json!(["x"])),
        ("flags", json!({"enable": true}), json!(true)),
        ("sets", json!({"add": ["b", "a", 1]}), json!(["a", "b", 1])),
        (
            "maps",
            json!({"update": {"n": {"increment": 2}, "t": {"add": ["x"]}, "r": {"set": null}}}),
            json!({"n": 2, "t": ["x"], "r": null}),
        ),
    ];
    for (kind, operation, value) in cases {
        let path = format!("/v1/{kind}/things/a%2Fb%20c");
        problem(&surface.get(&path).await, 404, "not-found");
        let written = surface.post(&path, operation).await;
        let json = written.json();
        assert_eq!(written.status, 200, "{json}");
        assert_eq!((&json["kind"], &json["id"]), (&kind.into(), &"a/b c".into()));
        assert_eq!((&json["collection"], &json["value"]), (&"things".into(), &value));
        let read = surface.get(&path).await;
        assert_eq!(read.json(), json);
        assert_eq!(read.header("etag"), format!("\"{}\"", json["version"].as_str().expect("text")));
        assert!(!read.header("atoll-region").is_empty());
        assert_eq!(read.header("atoll-node"), format!("{}-1", read.header("atoll-region")));
        let same = surface.ask("GET", &path, &[("if-none-match", read.header("etag"))], "").await;
        assert_eq!((same.status, same.text.as_str()), (304, ""));
        let gone = surface.ask("DELETE", &path, &[], "").await.json();
        assert_eq!((&gone["value"], &gone["existed"]), (&Value::Null, &true.into()));
        problem(&surface.get(&path).await, 404, "not-found");
        let again = surface.ask("DELETE", &path, &[], "").await.json();
        assert_eq!(again["existed"], false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_problem_of_every_route_says_what_became_of_it() {
    let surface = Surface::start().await;
    let api = surface.get("/openapi.json").await.json();
    let names = [("{kind}", "sets"), ("{collection}", "c"), ("{id}", "nobody"), ("{type}", "t")];
    let mut problems = 0;
    for path in api["paths"].as_object().expect("paths").keys() {
        let path = names.iter().fold(path.clone(), |path, (name, is)| path.replace(name, is));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = surface.ask(method, &format!("{path}?nonsense=1"), &[], "{").await;
            if answer.status < 400 {
                continue;
            }
            problems += 1;
            let json = answer.json();
            let (code, outcome) = (&json["code"], &json["outcome"]);
            assert!(code.is_string() && json["status"] == answer.status, "{method} {path}: {json}");
            assert_eq!(outcome, "not-applied", "{method} {path}: {json}");
            let retryable = answer.headers.contains_key("retry-after");
            assert_eq!(json["retryable"], retryable, "{method} {path}: {json}");
        }
    }
    assert!(problems > 60, "routes have problems: {problems}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_named_problems() {
    let surface = Surface::start().await;
    let cases = [
        ("GET", "/v1/widgets/a/b", "", 404, "unknown-kind"),
        ("PATCH", "/v1/widgets/a/b", "", 404, "unknown-kind"),
        ("GET", "/nowhere", "", 404, "unknown-route"),
        ("GET", "/v1/cluster/nowhere", "", 404, "unknown-route"),
        ("GET", "/v1/documents/a/b", "", 501, "not-implemented"),
        ("PATCH", "/v1/documents/a/b", "{}", 501, "not-implemented"),
        ("POST", "/v1/entities/a/b/commands", "{}", 501, "not-implemented"),
        ("GET", "/v1/ws", "", 501, "not-implemented"),
        ("GET", "/v1/changes?wait=30", "", 501, "not-implemented"),
        ("PATCH", "/v1/counters/a/b", "{}", 405, "method-not-allowed"),
        ("PUT", "/v1/counters/a/b", "1", 405, "method-not-allowed"),
        ("POST", "/livez", "", 405, "method-not-allowed"),
        ("GET", "/v1/counters/A/b", "", 400, "bad-request"),
        ("GET", "/v1/counters/a/%zz", "", 400, "bad-request"),
        ("GET", "/v1/counters/a/b?consistency=most", "", 400, "bad-request"),
        ("GET", "/v1/counters/a?consistency=all", "", 501, "not-implemented"),
        ("GET", "/v1/counters/a/b?timeout=30001", "", 400, "bad-request"),
        ("GET", "/v1/counters/a/b?ttl=1", "", 400, "bad-request"),
        ("GET", "/v1/counters/a?limit=1001", "", 400, "bad-request"),
        ("POST", "/v1/counters/a/b", "{\"increment\": 1.5}", 400, "bad-request"),
        ("POST", "/v1/counters/a/b", "{\"increment\": 1", 400, "bad-request"),
        ("POST", "/v1/counters/a/b?ttl=0", "{\"increment\": 1}", 400, "bad-request"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = surface.ask(method, path, &[], body).await;
        problem(&answer, status, code);
        assert!(status != 405 || answer.headers.contains_key(header::ALLOW), "{method} {path}");
    }
    let path = "/v1/counters/a/b";
    let patch = surface.ask("PATCH", path, &[], "{}").await;
    assert_eq!(patch.header("allow"), "GET, HEAD, POST, DELETE");
    let accept = surface.ask("GET", path, &[("accept", "text/html")], "").await;
    problem(&accept, 406, "not-acceptable");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    problem(&surface.ask("POST", path, &form, "{}").await, 415, "unsupported-media-type");
    let large = surface.ask("POST", path, &[], &" ".repeat((1 << 20) + 1)).await;
    problem(&large, 413, "too-large");
    let cas = surface.ask("POST", path, &[("if-match", "\"x\"")], r#"{"increment": 1}"#).await;
    assert!(problem(&cas, 400, "no-compare-and-set").contains("entities"));
    let key = surface.ask("POST", path, &[("idempotency-key", "a b")], "{}").await;
    problem(&key, 400, "bad-request");
    problem(&surface.get(path).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_counts_once() {
    let surface = Surface::start().await;
    let (path, key) = ("/v1/counters/a/b", [("idempotency-key", "k-1")]);
    let first = surface.ask("POST", path, &key, r#"{"increment": 5}"#).await;
    assert_eq!((first.status, first.header("idempotent-replay")), (200, ""));
    let again = surface.ask("POST", path, &key, r#"{ "increment":5.0 }"#).await;
    assert_eq!((again.status, again.header("idempotent-replay")), (200, "true"));
    assert_eq!(again.json()["value"], 5);
    let other = surface.ask("POST", path, &key, r#"{"increment": 6}"#).await;
    problem(&other, 422, "idempotency-key-reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_multi_register_is_superseded_by_what_was_seen() {
    let surface = Surface::start().await;
    let path = "/v1/multi-registers/a/b";
    let first = surface.ask("PUT", path, &[], "1").await;
    let seen = first.header("etag").to_owned();
    let one = [("if-match", seen.as_str())];
    assert_eq!(surface.ask("PUT", path, &one, "2").await.json()["value"], json!([2]));
    assert_eq!(surface.ask("PUT", path, &one, "3").await.json()["value"], json!([2, 3]));
    assert_eq!(surface.ask("PUT", path, &[], "4").await.json()["value"], json!([4]));
    problem(&surface.ask("PUT", path, &[("if-match", "*")], "5").await, 400, "bad-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_go_page_by_page() {
    let surface = Surface::start().await;
    for id in ["a1", "a2", "a3", "b1", "é"] {
        surface
            .post(&format!("/v1/sets/c/{}", id.replace('é', "%C3%A9")), json!({"add": [id]}))
            .await;
    }
    let page = surface.get("/v1/sets/c?prefix=a&limit=2&values=true").await.json();
    assert_eq!(page["items"][1]["id"], "a2");
    assert_eq!(page["items"][1]["value"], json!(["a2"]));
    let cursor = page["cursor"].as_str().expect("there is more");
    let last = surface.get(&format!("/v1/sets/c?prefix=a&limit=2&cursor={cursor}")).await.json();
    assert_eq!(last["items"].as_array().map(Vec::len), Some(1));
    assert_eq!((&last["items"][0]["id"], &last["cursor"]), (&"a3".into(), &Value::Null));
    assert!(last["items"][0].get("value").is_none());
    let all = surface.get("/v1/sets/c").await.json();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(5));
    let none = surface.get("/v1/sets/nothing").await.json();
    assert_eq!(none, json!({"items": [], "cursor": null}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_answers_each_operation() {
    let surface = Surface::start().await;
    let body = json!({"operations": [
        {"method": "POST", "path": "/v1/counters/a/b", "body": {"increment": 1}},
        {"method": "POST", "path": "/v1/counters/a/b", "body": {"increment": "x"}},
        {"method": "POST", "path": "/v1/counters/a/b", "body": {"increment": 2}},
        {"method": "PUT", "path": "/v1/flags/a/b", "body": true},
        {"method": "DELETE", "path": "/v1/flags/a/b"}]});
    let json = surface.post("/v1/batch", body).await.json();
    let results = json["results"].as_array().expect("results");
    let statuses: Vec<_> = results.iter().map(|r| r["status"].as_u64().unwrap_or(0)).collect();
    assert_eq!(statuses, [200, 400, 200, 200, 200]);
    assert_eq!(results[0]["body"]["value"], 1);
    assert_eq!(results[1]["body"]["code"], "bad-request");
    assert_eq!(results[2]["body"]["value"], 3);
    assert_eq!(results[4]["body"]["existed"], true);
    let key = [("idempotency-key", "b")];
    let one = json!({"method": "POST", "path": "/v1/counters/a/c", "body": {"increment": 1}});
    let body = json!({"operations": [one]}).to_string();
    for _ in 0..2 {
        let json = surface.ask("POST", "/v1/batch", &key, &body).await.json();
        assert_eq!(json["results"][0]["body"]["value"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_starts_with_the_state_and_resumes() {
    let surface = Surface::start().await;
    let path = "/v1/counters/a/x%2Fy";
    let mut absent = Lines::open(&surface, path, &[]).await;
    assert_eq!(absent.event().await.0, "ready");
    surface.post(path, json!({"increment": 1})).await;
    let (event, record) = absent.event().await;
    assert_eq!(event, "change");
    let cloud = &record["data"];
    assert_eq!(
        (&cloud["specversion"], &cloud["subject"]),
        (&"1.0".into(), &"counters/a/x%2Fy".into())
    );
    assert_eq!(
        (&cloud["type"], &cloud["id"]),
        (&"dev.atoll.counters.change".into(), &record["cursor"])
    );
    assert_eq!((&cloud["data"]["value"], &cloud["data"]["id"]), (&1.into(), &"x/y".into()));
    assert!(cloud["data"]["origin_region"].is_string());
    let cursor = record["cursor"].as_str().expect("a cursor").to_owned();
    drop(absent);

    surface.post(path, json!({"increment": 1})).await;
    surface.post("/v1/counters/a/other", json!({"increment": 1})).await;
    let mut resumed = Lines::open(&surface, path, &[("last-event-id", &cursor)]).await;
    let (event, record) = resumed.event().await;
    assert_eq!((event.as_str(), &record["data"]["data"]["value"]), ("change", &2.into()));
    surface.ask("DELETE", path, &[], "").await;
    let (event, record) = resumed.event().await;
    assert_eq!((event.as_str(), &record["data"]["data"]["value"]), ("delete", &Value::Null));

    let mut prefix = Lines::open(&surface, "/v1/counters/a?prefix=o", &[]).await;
    assert_eq!(prefix.event().await.0, "snapshot");
    assert_eq!(prefix.event().await.0, "ready");
    let mut all = Lines::open(&surface, "/v1/changes?kinds=counters&snapshot=true", &[]).await;
    assert_eq!(all.event().await.0, "snapshot");
    let answer = surface.send("GET", path, &[("accept", "text/event-stream")], "").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_views_answer() {
    let surface = Surface::start().await;
    until("the node is ready", async || surface.get("/readyz").await.status == 200).await;
    for path in ["/livez", "/readyz", "/metrics", "/docs", "/v1/cluster"] {
        assert_eq!(surface.get(path).await.status, 200, "{path}");
    }
    surface.post("/v1/counters/a/b", json!({"increment": 1})).await;
    let digest = surface.get("/v1/cluster/digest?kind=counters&collection=a").await.json();
    assert_eq!(digest["shards"].as_object().map(|shards| shards.len()), Some(1));
    problem(&surface.get("/v1/cluster/digest?collection=a").await, 400, "bad-request");
    let api = surface.get("/openapi.json").await.json();
    assert!(api["paths"]["/v1/batch"]["post"].is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_closes_idle_connections() {
    let surface = Surface::start().await;
    assert_eq!(surface.get("/livez").await.status, 200);
    let stopped = tokio::time::timeout(Duration::from_secs(10), surface.stop()).await;
    stopped.expect("stops in time");
}
