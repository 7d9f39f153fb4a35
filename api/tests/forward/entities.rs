//! Reads and writes of entities that another node holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::any;
use serde_json::json;

use crate::common::{problem, until};
use crate::region::{FIRST, Region, SHORT, path_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_for_what_another_holds() {
    let region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    for (slot, owner) in [(0, 0), (1, 1), (2, 2)] {
        let path = path_in(slot);
        for at in 0..3u64 {
            let surface = region.surface(at as usize);
            let answer = surface.post(&path, json!({"increment": 1})).await;
            assert_eq!((answer.status, &answer.json()["value"]), (200, &(at + 1).into()));
            assert!(!answer.header("etag").is_empty() && answer.header("atoll-region") == "eu");
        }
        let direct = region.surface(owner).get(&path).await;
        for at in 0..3 {
            let answer = region.surface(at).get(&path).await;
            assert_eq!((answer.status, &answer.text), (200, &direct.text));
            assert_eq!(answer.header("etag"), direct.header("etag"));
            let known = [("if-none-match", direct.header("etag"))];
            assert_eq!(region.surface(at).ask("GET", &path, &known, "").await.status, 304);
            let head = region.surface(at).ask("HEAD", &path, &[], "").await;
            assert_eq!((head.status, head.text.as_str()), (200, ""));
        }
        let gone = region.surface((owner + 1) % 3).ask("DELETE", &path, &[], "").await;
        assert_eq!((gone.status, &gone.json()["existed"]), (200, &true.into()));
        problem(&region.surface(owner).get(&path).await, 404, "not-found");
        problem(&region.surface((owner + 1) % 3).get(&path).await, 404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_as_if_it_were_local() {
    let region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let path = path_in(7);
    let near = region.surface(0);
    problem(&near.post(&path, json!({"add": 1})).await, 400, "bad-request");
    problem(&near.get(&format!("{path}?nonsense=1")).await, 400, "bad-request");
    problem(&near.ask("PUT", &path, &[], "1").await, 405, "method-not-allowed");
    let large = "1".repeat((1 << 20) + 1);
    problem(&near.ask("POST", &path, &[], &large).await, 413, "too-large");
    let keyed = [("idempotency-key", "k")];
    for replayed in ["", "true"] {
        let answer = near.ask("POST", &path, &keyed, r#"{"increment": 5}"#).await;
        assert_eq!((answer.status, &answer.json()["value"]), (200, &5.into()));
        assert_eq!(answer.header("idempotent-replay"), replayed);
    }
    let other = near.ask("POST", &path, &keyed, r#"{"increment": 6}"#).await;
    problem(&other, 422, "idempotency-key-reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_passed_on_once() {
    let region = Region::start(3).await;
    // Each believes that the next one holds it.
    for at in 0..3 {
        region.place_at(at, |_| vec![(at + 1) % 3]).await;
    }
    let path = path_in(3);
    let spoofed = [("atoll-slots", "0-63"), ("atoll-places", "0")];
    for headers in [&[][..], &spoofed] {
        let read = region.surface(0).ask("GET", &path, headers, "").await;
        problem(&read, 503, "not-a-replica");
        assert_eq!(read.header("retry-after"), "1");
        let write = region.surface(0).ask("POST", &path, headers, r#"{"increment": 1}"#).await;
        problem(&write, 503, "not-a-replica");
    }
    region.place(|_| vec![0, 1, 2]).await;
    for at in 0..3 {
        problem(&region.surface(at).get(&path).await, 404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_cannot_be_reached_or_refuses_is_passed_over() {
    let mut region = Region::start(3).await;
    let path = path_in(9);
    // Node 1 says that it holds nothing; node 2 does.
    region.place_at(0, |_| vec![1, 2]).await;
    region.place_at(1, |_| vec![2]).await;
    region.place_at(2, |_| vec![2]).await;
    let written = region.surface(0).post(&path, json!({"increment": 1})).await;
    assert_eq!((written.status, &written.json()["value"]), (200, &1.into()));

    // Nobody is connected to a node that is gone: nothing is sent, so even a write goes elsewhere.
    region.members[1].peer.kill();
    let gone = region.id(1);
    let near = region.members[0].peer.quic.clone();
    until("its loss is noticed", async || near.open(gone).await.is_err()).await;
    let written = region.surface(0).post(&path, json!({"increment": 1})).await;
    assert_eq!((written.status, &written.json()["value"]), (200, &2.into()));

    region.place_at(0, |_| vec![1]).await;
    problem(&region.surface(0).get(&path).await, 503, "replica-unreachable");
    let write = region.surface(0).post(&path, json!({"increment": 1})).await;
    problem(&write, 503, "replica-unreachable");
    region.place_at(0, |_| vec![]).await;
    problem(&region.surface(0).get(&path).await, 503, "replica-unreachable");
}

/// A region behind a peer that takes every request and answers none; how many it has taken.
async fn behind_a_mute_one(count: usize) -> (Region, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let seen = taken.clone();
    let handler = any(move |_: String| {
        seen.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>()
    });
    (Region::behind(Router::new().fallback(handler), count).await, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_again_only_where_that_does_no_harm() {
    let (region, taken) = behind_a_mute_one(2).await;
    region.place_at(0, |_| vec![FIRST, 1]).await;
    let path = path_in(11);
    let query = format!("{path}?timeout={}", SHORT.as_millis());
    let increment = r#"{"increment": 1}"#;

    // A write without a key: nobody knows, and nobody else is asked.
    let lost = region.surface(0).ask("POST", &query, &[], increment).await;
    let json = lost.json();
    assert_eq!((lost.status, &json["code"]), (504, &"no-answer".into()));
    assert_eq!((&json["outcome"], &json["retryable"]), (&"unknown".into(), &false.into()));
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    problem(&region.surface(1).get(&path).await, 404, "not-found");

    // Whoever did not answer is asked last, at the next request: a plain retry succeeds.
    let again = region.surface(0).ask("POST", &query, &[], increment).await;
    assert_eq!((again.status, &again.json()["value"]), (200, &1.into()));
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_keyed_writes_go_to_another_holder() {
    for (method, body) in [("GET", ""), ("POST", r#"{"increment": 1}"#)] {
        let (region, taken) = behind_a_mute_one(2).await;
        let path = path_in(12);
        region.surface(1).post(&path, json!({"increment": 1})).await;
        region.place_at(0, |_| vec![FIRST, 1]).await;
        let key = [("idempotency-key", "k")];
        let answer = region.surface(0).ask(method, &path, &key, body).await;
        let value = if method == "GET" { 1 } else { 2 };
        assert_eq!((answer.status, &answer.json()["value"]), (200, &value.into()));
        assert_eq!(taken.load(Ordering::SeqCst), 1);

        // With nobody else to ask, a keyed write says that it can be repeated.
        region.place_at(0, |_| vec![FIRST]).await;
        let query = format!("{path}?timeout={}", SHORT.as_millis());
        let json = region.surface(0).ask(method, &query, &key, body).await.json();
        assert_eq!((&json["code"], &json["retryable"]), (&"no-answer".into(), &true.into()));
        let outcome = if method == "GET" { "not-applied" } else { "unknown" };
        assert_eq!(json["outcome"], outcome);
    }
}
