//! Subscriptions to an entity that another node holds.

use atoll_replication::transport::Transport;
use serde_json::json;

use crate::common::{Lines, cursor, until};
use crate::region::{Region, path_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_passed_on_as_it_is_told() {
    let region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let path = path_in(5);
    let mut near = Lines::open(region.surface(0), &path, &[]).await;
    let mut far = Lines::open(region.surface(1), &path, &[]).await;
    near.expect("ready").await;
    far.expect("ready").await;
    let mut last = String::new();
    for value in 1..=20 {
        region.surface(0).post(&path, json!({"increment": 1})).await;
        let record = near.expect("change").await;
        assert_eq!(record["data"]["data"]["value"], value);
        assert_eq!(far.expect("change").await["data"]["data"]["value"], value);
        last = cursor(&record);
    }
    // Its cursors are those of the node that holds it, and resume there and here.
    region.surface(1).post(&path, json!({"increment": 1})).await;
    for at in 0..2 {
        let mut resumed = Lines::after(region.surface(at), &path, &last).await;
        let mut value = resumed.expect("change").await["data"]["data"]["value"].clone();
        if value == 20 {
            value = resumed.expect("change").await["data"]["data"]["value"].clone();
        }
        assert_eq!(value, 21);
    }
    let events = [("accept", "text/event-stream")];
    let answer = region.surface(0).send("GET", &path, &events, "").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-cache");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_node_dies_says_where_to_resume() {
    let mut region = Region::start(3).await;
    region.place(|_| vec![1]).await;
    let path = path_in(5);
    region.surface(0).post(&path, json!({"increment": 1})).await;
    let mut lines = Lines::open(region.surface(0), &path, &[]).await;
    lines.expect("snapshot").await;
    let ready = cursor(&lines.expect("ready").await);
    region.members[1].peer.kill();
    let error = loop {
        // The write may be told once more: it was answered before the journal had it.
        match lines.event().await {
            (name, record) if name == "error" => break record,
            (name, record) => assert_eq!(name, "change", "{record}"),
        }
    };
    assert_eq!(error["data"]["data"]["code"], "unavailable");
    let resume = cursor(&error);
    assert_eq!(error["data"]["data"]["resume"], resume.as_str());
    assert_eq!(lines.next().await, None);
    assert!(resume == ready || !resume.is_empty());

    // Another holder takes over: the cursor is a foreign one there.
    region.place(|_| vec![2]).await;
    let mut resumed = Lines::after(region.surface(0), &path, &resume).await;
    region.surface(0).post(&path, json!({"increment": 7})).await;
    loop {
        let (name, record) = resumed.event().await;
        assert_ne!(name, "error", "{record}");
        if record["data"]["data"]["value"] == 7 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_the_stream_at_its_node() {
    let region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let path = path_in(5);
    let accept = [("accept", "application/x-ndjson")];
    let mut open = Vec::new();
    // As many as node 1 takes.
    for _ in 0..100 {
        open.push(Lines::open(region.surface(0), &path, &[]).await);
    }
    assert_eq!(region.surface(0).send("GET", &path, &accept, "").await.status(), 429);
    drop(open);
    let admitted = async || region.surface(0).send("GET", &path, &accept, "").await.status() == 200;
    until("there is room for a subscription", admitted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_ends_what_it_passes_on() {
    let mut region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let path = path_in(5);
    let mut lines = Lines::open(region.surface(0), &path, &[]).await;
    let ready = cursor(&lines.expect("ready").await);
    let member = region.members.remove(0);
    let ((), error) = tokio::join!(async { drop(member.surface.stop().await) }, async {
        let error = lines.expect("error").await;
        assert_eq!(lines.next().await, None);
        error
    });
    assert_eq!(error["data"]["data"]["code"], "draining");
    assert_eq!(cursor(&error), ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_what_moves_away_ends_and_resumes_where_it_went() {
    let region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let path = path_in(5);
    let mut direct = Lines::open(region.surface(1), &path, &[]).await;
    let mut carried = Lines::open(region.surface(0), &path, &[]).await;
    direct.expect("ready").await;
    carried.expect("ready").await;
    region.place(|_| vec![0]).await;
    for lines in [&mut direct, &mut carried] {
        let error = lines.expect("error").await;
        assert_eq!(error["data"]["data"]["code"], "moved");
        assert_eq!(lines.next().await, None);
        for at in 0..2 {
            let mut resumed = Lines::after(region.surface(at), &path, &cursor(&error)).await;
            region.surface(1).post(&path, json!({"increment": 1})).await;
            resumed.expect("change").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_subscribers_hold_up_nobody() {
    let region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let (slow, quick) = ("/v1/registers/c/large", path_in(5));
    // Many times what a stream has room for, and none of it is read.
    let value = serde_json::to_string(&"x".repeat(60_000)).expect("JSON");
    let mut unread = Vec::new();
    for _ in 0..50 {
        let accept = [("accept", "application/x-ndjson")];
        unread.push(region.surface(0).send("GET", slow, &accept, "").await);
    }
    let mut lines = Lines::open(region.surface(0), &quick, &[]).await;
    lines.expect("ready").await;
    for count in 1..=100 {
        let put = region.surface(0).ask("PUT", slow, &[], &value).await;
        assert_eq!(put.status, 200, "{}", put.text);
        region.surface(0).post(&quick, json!({"increment": 1})).await;
        assert_eq!(lines.expect("change").await["data"]["data"]["value"], count);
    }
    let (near, far) = (&region.members[0].peer.quic, &region.members[1].peer.quic);
    assert!(near.round_trip(far.node_id()).is_some());
}
