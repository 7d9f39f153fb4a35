//! Subscriptions to collections that no node holds alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::{Lines, cursor, problem, until};
use crate::region::{Region, path_in};

const PATH: &str = "/v1/counters/c";

/// Reads until every entity was told with its value; answers the last record's cursor.
async fn reach(lines: &mut Lines, wanted: &BTreeMap<String, u64>) -> String {
    let mut told = BTreeMap::new();
    loop {
        let (name, record) = lines.event().await;
        assert!(["snapshot", "change", "delete"].contains(&name.as_str()), "{record}");
        let data = &record["data"]["data"];
        let id = data["id"].as_str().expect("an id").to_owned();
        told.insert(id, data["value"].as_u64().unwrap_or_default());
        if told.iter().filter(|(id, value)| wanted.get(*id) == Some(value)).count() == wanted.len()
        {
            return cursor(&record);
        }
    }
}

fn id_in(slot: u16) -> String {
    path_in(slot).rsplit('/').next().expect("an id").to_owned()
}

/// Raises the counters of the first slots to a value; what they are then.
async fn raise(region: &Region, slots: u16, value: u64) -> BTreeMap<String, u64> {
    let mut values = BTreeMap::new();
    for slot in 0..slots {
        let near = region.surface(usize::from(slot) % region.members.len());
        let answer = near.post(&path_in(slot), json!({"increment": 1})).await;
        assert_eq!(answer.json()["value"], value, "{}", answer.text);
        values.insert(id_in(slot), value);
    }
    values
}

/// Reads a snapshot to its `ready`; what it held.
async fn snapshot(lines: &mut Lines) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    loop {
        match lines.event().await {
            (name, _) if name == "ready" => return held,
            (_, record) => {
                let data = &record["data"]["data"];
                let id = data["id"].as_str().unwrap_or_else(|| panic!("{record}"));
                held.insert(id.to_owned(), data["value"].as_u64().expect("a count"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_followed_wherever_it_is() {
    let region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    let first = raise(&region, 12, 1).await;
    for at in 0..3 {
        let mut lines = Lines::open(region.surface(at), PATH, &[]).await;
        assert_eq!(snapshot(&mut lines).await, first);
    }
    let mut lines = Lines::open(region.surface(0), PATH, &[]).await;
    let mut everything = Lines::open(region.surface(1), "/v1/changes", &[]).await;
    let mut all = Lines::open(region.surface(2), "/v1/changes?snapshot=true", &[]).await;
    snapshot(&mut lines).await;
    assert_eq!(snapshot(&mut all).await, first);
    let second = raise(&region, 12, 2).await;
    let mut middle = String::new();
    for stream in [&mut lines, &mut all, &mut everything] {
        middle = reach(stream, &second).await;
    }
    assert!(middle.contains(';'), "{middle}");

    // It resumes at every node, and at one that holds everything by now.
    let third = raise(&region, 12, 3).await;
    for at in 0..3 {
        let mut resumed = Lines::after(region.surface(at), "/v1/changes", &middle).await;
        reach(&mut resumed, &third).await;
    }
    let by_query = format!("{PATH}?since={middle}");
    reach(&mut Lines::open(region.surface(0), &by_query, &[]).await, &third).await;
    let cut = &middle[..middle.len() - 1];
    let accept = ("accept", "application/x-ndjson");
    let bad = region.surface(0).ask("GET", PATH, &[accept, ("last-event-id", cut)], "").await;
    assert!(problem(&bad, 400, "bad-request").contains("Last-Event-ID"));
    // Of one entity, its part of the cursor counts.
    let mut one = Lines::after(region.surface(0), &path_in(4), &middle).await;
    reach(&mut one, &BTreeMap::from([(id_in(4), 3)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_those_of_their_node_but_for_the_cursor() {
    let region = Region::start(2).await;
    region.place(|slot| vec![usize::from(slot) % 2]).await;
    let mut lines = Lines::open(region.surface(0), PATH, &[]).await;
    let accept = [("accept", "text/event-stream")];
    let events = region.surface(0).send("GET", PATH, &accept, "").await;
    let mut direct = Lines::open(region.surface(1), &path_in(1), &[]).await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    lines.expect("ready").await;
    direct.expect("ready").await;
    region.surface(0).post(&path_in(1), json!({"increment": 1})).await;
    let (mut carried, mut told) = (lines.expect("change").await, direct.expect("change").await);
    assert_eq!(carried["cursor"], carried["data"]["id"]);
    for record in [&mut carried, &mut told] {
        record["cursor"] = Value::Null;
        record["data"]["id"] = Value::Null;
        record["data"]["time"] = Value::Null;
    }
    assert_eq!(carried, told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_moved_part_ends_the_stream_and_it_resumes_without_a_gap() {
    let mut region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    let mut lines = Lines::open(region.surface(0), PATH, &[]).await;
    let mut local = Lines::open(region.surface(2), PATH, &[]).await;
    snapshot(&mut lines).await;
    snapshot(&mut local).await;
    let first = raise(&region, 9, 1).await;
    reach(&mut lines, &first).await;
    reach(&mut local, &first).await;

    // Slots of node 1 move to node 0, with what they held.
    region.place(|slot| vec![[0, 0, 2][usize::from(slot) % 3]]).await;
    for stream in [&mut lines, &mut local] {
        let error = stream.expect("error").await;
        assert_eq!(error["data"]["data"]["code"], "moved");
        assert_eq!(stream.next().await, None);
        let resume = cursor(&error);
        assert_eq!(error["data"]["data"]["resume"], resume.as_str());
        let mut resumed = Lines::after(region.surface(1), PATH, &resume).await;
        region.surface(1).post(&path_in(0), json!({"increment": 1})).await;
        resumed.expect("change").await;
    }

    let mut lines = Lines::open(region.surface(0), PATH, &[]).await;
    snapshot(&mut lines).await;
    region.members[2].peer.kill();
    let error = loop {
        match lines.event().await {
            (name, record) if name == "error" => break record,
            (name, record) => assert_eq!(name, "change", "{record}"),
        }
    };
    assert_eq!(error["data"]["data"]["code"], "unavailable");
    assert_eq!(lines.next().await, None);
    // Nobody else holds them: there is no stream of the rest.
    let accept = [("accept", "application/x-ndjson")];
    let refused = async || region.surface(0).send("GET", PATH, &accept, "").await.status() == 503;
    until("the loss is noticed", refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_one_part_begins_everything_anew() {
    let region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    let first = raise(&region, 9, 1).await;
    let mut lines = Lines::open(region.surface(0), PATH, &[]).await;
    let early = cursor(&lines.expect("snapshot").await);
    let mut again = Lines::after(region.surface(1), PATH, &early).await;
    again.expect("reset").await;
    assert_eq!(snapshot(&mut again).await, first);

    // One part's place is lost, the others' are not.
    while lines.event().await.0 != "ready" {}
    raise(&region, 9, 2).await;
    let second = raise(&region, 9, 3).await;
    let late = reach(&mut lines, &second).await;
    let nowhere = early.split(':').next_back().expect("a cursor").to_owned();
    let mut parts: Vec<String> = late.split(';').map(str::to_owned).collect();
    let (slots, _) = parts[1].split_once(':').expect("a part");
    parts[1] = format!("{slots}:{nowhere}");
    let mut again = Lines::after(region.surface(2), PATH, &parts.join(";")).await;
    loop {
        let (name, record) = again.event().await;
        match name.as_str() {
            "reset" => break,
            name => assert_eq!(name, "change", "{record}"),
        }
    }
    assert_eq!(snapshot(&mut again).await, second);
    let third = raise(&region, 9, 4).await;
    reach(&mut again, &third).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_the_parts_everywhere() {
    let region = Region::start(2).await;
    region.place(|slot| vec![usize::from(slot) % 2]).await;
    let accept = [("accept", "application/x-ndjson")];
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(Lines::open(region.surface(0), PATH, &[]).await);
    }
    for at in 0..2 {
        let answer = region.surface(at).ask("GET", PATH, &accept, "").await;
        problem(&answer, 429, "rate-limited");
    }
    drop(open);
    for at in 0..2 {
        let admitted =
            async || region.surface(at).send("GET", PATH, &accept, "").await.status() == 200;
        until("there is room for a subscription", admitted).await;
    }
}
