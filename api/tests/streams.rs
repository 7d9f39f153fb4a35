//! Subscriptions over real connections: what begins, resumes and ends them.

mod common;

use common::{Lines, Surface, cursor, problem, until};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_entity_is_ready_alone_and_every_end_is_a_delete() {
    let surface = Surface::start().await;
    let path = "/v1/sets/a/b";
    let mut lines = Lines::open(&surface, path, &[]).await;
    lines.expect("ready").await;
    surface.post(path, json!({"add": [1]})).await;
    assert_eq!(lines.expect("change").await["data"]["data"]["value"], json!([1]));
    surface.ask("DELETE", path, &[], "").await;
    assert_eq!(lines.expect("delete").await["data"]["data"]["value"], Value::Null);
    surface.post(&format!("{path}?ttl=1"), json!({"add": [2]})).await;
    assert_eq!(lines.expect("change").await["data"]["data"]["value"], json!([2]));
    assert_eq!(lines.expect("delete").await["data"]["data"]["value"], Value::Null);
    problem(&surface.get(path).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_a_cloud_event_in_both_forms() {
    let surface = Surface::start().await;
    let path = "/v1/registers/a/x%20y";
    let written = surface.ask("PUT", path, &[], "{\"n\": 1}").await.json();
    let record = Lines::open(&surface, path, &[]).await.expect("snapshot").await;
    let keys = |json: &Value| {
        json.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(",")
    };
    assert_eq!(keys(&record), "cursor,data,event");
    let event = &record["data"];
    assert_eq!(keys(event), "data,datacontenttype,id,source,specversion,subject,time,type");
    assert_eq!(event["type"], "dev.atoll.registers.snapshot");
    assert_eq!(event["subject"], "registers/a/x%20y");
    let source = format!("/regions/eu/nodes/{}", "01".repeat(16));
    assert_eq!((&event["source"], &event["id"]), (&source.into(), &record["cursor"]));
    let data = &event["data"];
    assert_eq!(keys(data), "collection,id,kind,origin_region,value,version");
    assert_eq!((&data["value"], &data["version"]), (&json!({"n": 1}), &written["version"]));

    let answer = surface.send("GET", path, &[("accept", "text/event-stream")], "").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-cache");
    let mut body = answer.into_body();
    let frame = http_body_util::BodyExt::frame(&mut body).await.expect("a frame").expect("bytes");
    let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8");
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    let fields: Vec<_> = events[0].lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(fields[0], ("event", "snapshot"));
    assert_eq!((fields[1].0, fields[2].0, fields.len()), ("id", "data", 3));
    let event: Value = serde_json::from_str(fields[2].1).expect("JSON");
    assert_eq!((&event["id"], &event["data"]["id"]), (&fields[1].1.into(), &"x y".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_cursor_is_refused() {
    let surface = Surface::start().await;
    let mut lines = Lines::open(&surface, "/v1/sets/a/b", &[]).await;
    let good = cursor(&lines.expect("ready").await);
    let cut = &good[..good.len() - 1];
    for bad in ["!", "AAAA", "AAAAAAAAAAAA", "null", cut, &"A".repeat(3000)] {
        for path in ["/v1/sets/a/b", "/v1/sets/a", "/v1/changes"] {
            let accept = ("accept", "application/x-ndjson");
            let header = surface.ask("GET", path, &[accept, ("last-event-id", bad)], "").await;
            assert!(problem(&header, 400, "bad-request").contains("Last-Event-ID"));
            let query = surface.ask("GET", &format!("{path}?since={bad}"), &[accept], "").await;
            assert!(problem(&query, 400, "bad-request").contains("since"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_from_before_ready_leads_to_all_of_it() {
    let surface = Surface::start().await;
    for id in ["1", "2", "3"] {
        surface.post(&format!("/v1/counters/a/{id}"), json!({"increment": 1})).await;
    }
    let mut lines = Lines::open(&surface, "/v1/counters/a", &[]).await;
    let early = cursor(&lines.expect("snapshot").await);
    let mut again = Lines::after(&surface, "/v1/counters/a", &early).await;
    again.expect("reset").await;
    for id in ["1", "2", "3"] {
        assert_eq!(again.expect("snapshot").await["data"]["data"]["id"], id);
    }
    again.expect("ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_says_where_to_resume_and_its_next_start_does() {
    let surface = Surface::start().await;
    let path = "/v1/counters/a/b";
    surface.post(path, json!({"increment": 1})).await;
    let mut lines = Lines::open(&surface, path, &[]).await;
    lines.expect("snapshot").await;
    lines.expect("ready").await;
    let (data, last) = tokio::join!(surface.stop(), async {
        let error = lines.expect("error").await;
        assert_eq!(lines.next().await, None);
        error
    });
    assert_eq!(last["data"]["data"]["code"], "draining");
    let resume = last["data"]["data"]["resume"].as_str().expect("a cursor").to_owned();
    assert_eq!(cursor(&last), resume);

    let surface = Surface::start_on(data).await;
    surface.post("/v1/counters/a/other", json!({"increment": 1})).await;
    surface.post(path, json!({"increment": 1})).await;
    let mut lines = Lines::after(&surface, path, &resume).await;
    assert_eq!(lines.expect("change").await["data"]["data"]["value"], 2);
    surface.post(path, json!({"increment": 1})).await;
    assert_eq!(lines.expect("change").await["data"]["data"]["value"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_elsewhere_skips_nothing() {
    const BATCHES: u64 = 100;
    let surface = Surface::start().await;
    let path = "/v1/counters/quiet/b";
    let mut lines = Lines::open(&surface, path, &[]).await;
    lines.expect("ready").await;
    let mut all = Lines::open(&surface, "/v1/changes?collections=quiet", &[]).await;
    let one = json!({"method": "POST", "path": "/v1/counters/loud/x", "body": {"increment": 1}});
    let burst = json!({"operations": vec![one; 1000]});
    for batch in 1..=BATCHES {
        let json = surface.post("/v1/batch", burst.clone()).await.json();
        assert_eq!(json["results"][999]["body"]["value"], batch * 1000);
    }
    surface.post(path, json!({"increment": 7})).await;
    for stream in [&mut lines, &mut all] {
        let record = stream.expect("change").await;
        assert_eq!(record["data"]["data"]["value"], 7);
        assert_eq!(record["data"]["data"]["origin_region"], "eu");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_subscription() {
    let surface = Surface::start().await;
    let accept = [("accept", "application/x-ndjson")];
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(Lines::open(&surface, "/v1/sets/a/b", &[]).await);
    }
    let refused = surface.ask("GET", "/v1/sets/a/b", &accept, "").await;
    problem(&refused, 429, "rate-limited");
    drop(open);
    let admitted = async || surface.send("GET", "/v1/sets/a/b", &accept, "").await.status() == 200;
    until("there is room for a subscription", admitted).await;
}
