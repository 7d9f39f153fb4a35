//! Consistency levels over HTTP: nodes that replicate over QUIC, and peers that say nothing.
//!
//! Who replicates what is told to the nodes as a council would record it.

mod common;

use std::sync::Arc;

use atoll::http::forward::{Forwarder, serve_peers};
use atoll::http::{Limits, Options, router};
use atoll::node::{Node, Settings, testing};
use atoll_replication::driver::SystemClock;
use atoll_replication::placement::{RegionPlacement, Replicas, Version};
use atoll_replication::transport::certificates::{Authority, Identity};
use atoll_replication::transport::quic::{Config, Inboxes, Quic};
use atoll_replication::transport::{NodeId, Transport};
use atoll_sharding::driver::Local;
use common::{Answer, Surface, problem, until};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// Slots of a new store.
const SLOTS: u16 = 64;

/// One end of connections: a node's, or of a peer that takes everything and says nothing.
struct Peer {
    quic: Quic,
    life: Option<Runtime>,
}

impl Peer {
    /// As `kill -9`.
    fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            life.shutdown_background();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Member {
    surface: Surface,
    node: Node,
    peer: Peer,
}

/// A runtime of a peer's own: it dies with it.
fn life() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn config(identity: Identity) -> Config {
    let mut config = Config::new("127.0.0.1:0".parse().expect("an address"), identity);
    config.keep_alive_ms = 200;
    config.idle_timeout_ms = 1_000;
    config
}

async fn member(authority: &Authority, name: &str) -> Member {
    let data = tempfile::tempdir().expect("a directory");
    let (region, _) = name.split_once('-').expect("region-number");
    let identity = authority.issue(name).expect("a good name");
    let (id, life) = (identity.node_id(), life());
    let (sender, arrivals) = mpsc::channel(1_000);
    let (requests, incoming) = mpsc::channel(16);
    let inside = life.enter();
    let inboxes = Inboxes::new(sender).with_requests(requests);
    let quic = Quic::start(config(identity), inboxes).expect("started");
    drop(inside);
    let settings = Settings { name: name.to_owned(), ..testing::settings(data.path(), region) };
    let fail = |error| panic!("commit failed: {error}");
    let clock = Arc::new(SystemClock);
    let node = Node::start(settings, id, Arc::new(quic.clone()), arrivals, clock, fail);
    let node = node.expect("a node starts");
    let forwarder = Some(Forwarder::new(quic.clone()));
    let options = Options { forwarder, ..Options::default() };
    let routes = router(node.clone(), options.clone());
    life.spawn(async move {
        serve_peers(incoming, routes, &Limits::default(), std::future::pending()).await;
    });
    let peer = Peer { quic, life: Some(life) };
    Member { surface: Surface::over(node.clone(), data, options).await, node, peer }
}

/// A peer that is connected, and no more.
fn mute(authority: &Authority, name: &str) -> Peer {
    let life = life();
    let (sender, mut arrivals) = mpsc::channel(100);
    let inside = life.enter();
    let identity = authority.issue(name).expect("a good name");
    let quic = Quic::start(config(identity), Inboxes::new(sender)).expect("started");
    drop(inside);
    life.spawn(async move { while arrivals.recv().await.is_some() {} });
    Peer { quic, life: Some(life) }
}

async fn connect(peers: &[&Peer]) {
    for (at, one) in peers.iter().enumerate() {
        for other in &peers[at + 1..] {
            let address = other.quic.local_address().expect("bound").to_string();
            one.quic.add_peer(address);
            let linked =
                |one: &Peer, other: &Peer| one.quic.round_trip(other.quic.node_id()).is_some();
            until("connected", async || linked(one, other) && linked(other, one)).await;
        }
    }
}

/// Records for these nodes that a region's shards are all on `replicas`.
async fn place(nodes: &[&Member], region: &str, replicas: &[NodeId]) {
    let set =
        Replicas { epoch: 1, current: replicas.iter().copied().collect(), next: None, struck: 0 };
    let record = RegionPlacement {
        region: region.to_owned(),
        council: 1,
        version: Version { epoch: 1, number: 1 },
        factor: 3,
        slots: vec![set; usize::from(SLOTS)],
        ..RegionPlacement::default()
    };
    for member in nodes {
        assert!(Local::place(&member.node, record.clone()), "the core takes records");
    }
    let known = async || {
        let paths = nodes.iter().map(|member| member.surface.get("/v1/cluster/locate/sets/a/b"));
        let mut each = Vec::new();
        for path in paths {
            each.push(path.await.json()["replicas"][region].as_array().map(Vec::len));
        }
        each.iter().all(|known| *known == Some(replicas.len()))
    };
    until("the record is known", known).await;
}

fn id(member: &Member) -> NodeId {
    member.peer.quic.node_id()
}

async fn increment(surface: &Surface, query: &str) -> Answer {
    let path = format!("/v1/counters/c/n?{query}");
    surface.post(&path, json!({"increment": 1})).await
}

fn value(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["value"].clone()
}

/// Asserts that a write was applied and not acknowledged by enough.
fn late(answer: &Answer, acknowledged: &Value) {
    let json = answer.json();
    assert_eq!((answer.status, &json["code"]), (504, &"consistency-timeout".into()), "{json}");
    assert_eq!((&json["outcome"], &json["acknowledged"]), (&"applied".into(), acknowledged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_is_met_at_any_node() {
    let authority = Authority::create("reef").expect("a good name");
    let mut members = Vec::new();
    for name in ["eu-1", "eu-2", "eu-3", "us-1"] {
        members.push(member(&authority, name).await);
    }
    let peers: Vec<&Peer> = members.iter().map(|member| &member.peer).collect();
    connect(&peers).await;
    let all: Vec<&Member> = members.iter().collect();
    // Node 3 holds nothing: it asks the others.
    place(&all, "eu", &[id(all[0]), id(all[1])]).await;
    place(&all, "us", &[id(all[3])]).await;
    let mut count = 0;
    for level in ["one", "local_quorum", "quorum", "each_quorum", "all"] {
        for member in &members {
            let query = format!("consistency={level}&timeout=30000");
            let written = increment(&member.surface, &query).await;
            count += 1;
            assert_eq!(written.status, 200, "{level}: {}", written.text);
            // Regions count apart at the weaker levels.
            if !["one", "local_quorum"].contains(&level) {
                let path = format!("/v1/counters/c/n?{query}");
                for other in &members {
                    assert_eq!(value(&other.surface.get(&path).await), count, "{level}");
                }
            }
        }
        // What was acknowledged at the weaker levels is on its way.
        let query = "consistency=all&timeout=30000";
        let path = format!("/v1/counters/c/n?{query}");
        assert_eq!(value(&members[0].surface.get(&path).await), count);
    }
    let gone = "/v1/counters/c/n?consistency=quorum&timeout=30000";
    let deleted = members[2].surface.ask("DELETE", gone, &[], "").await;
    assert_eq!((deleted.status, &deleted.json()["existed"]), (200, &true.into()));
    problem(&members[0].surface.get(gone).await, 404, "not-found");
    let operation = json!({"method": "POST", "path": "/v1/counters/c/n", "body": {"increment": 2}});
    let batch = json!({"operations": [operation.clone(), operation]});
    let done = members[2].surface.post("/v1/batch?consistency=all&timeout=30000", batch).await;
    let results = done.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["body"]["value"]), (&200.into(), &4.into()));
    let seen = members[3].surface.get("/v1/counters/c/n").await;
    assert_eq!(value(&seen), 4, "all have it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_that_is_not_met_says_so() {
    let authority = Authority::create("reef").expect("a good name");
    let mut members = Vec::new();
    for name in ["eu-1", "eu-2", "eu-4"] {
        members.push(member(&authority, name).await);
    }
    let mut silent = mute(&authority, "eu-3");
    let peers = members.iter().map(|member| &member.peer).chain([&silent]);
    connect(&peers.collect::<Vec<_>>()).await;
    let all: Vec<&Member> = members.iter().collect();
    place(&all, "eu", &[id(all[0]), id(all[1]), silent.quic.node_id()]).await;

    // Two of three answer, whoever is asked; the third is there, and says nothing.
    for (before, member) in members.iter().enumerate() {
        let answer = increment(&member.surface, "timeout=30000").await;
        assert_eq!(value(&answer), before + 1);
    }
    late(&increment(&members[0].surface, "consistency=all&timeout=200").await, &json!({"eu": 2}));
    let passed_on = increment(&members[2].surface, "consistency=all&timeout=200").await;
    late(&passed_on, &json!({"eu": 2}));
    assert_eq!(passed_on.json()["retryable"], false, "it could count twice");
    let key = [("idempotency-key", "k")];
    let path = "/v1/counters/c/n?consistency=all&timeout=200";
    let keyed = members[0].surface.ask("POST", path, &key, r#"{"increment": 1}"#).await;
    late(&keyed, &json!({"eu": 2}));
    assert_eq!((&keyed.json()["retryable"], keyed.header("retry-after")), (&true.into(), "1"));
    let read = members[0].surface.get(path).await;
    let json = read.json();
    assert_eq!((read.status, &json["code"]), (504, &"consistency-timeout".into()));
    assert_eq!((&json["outcome"], &json["acknowledged"]["eu"]), (&"not-applied".into(), &2.into()));
    let shown = members[0].surface.get("/v1/counters/c/n?consistency=local_quorum").await;
    assert_eq!(value(&shown), 6, "what was late was applied, each once");
    let operation = json!({"method": "POST", "path": "/v1/counters/c/n", "body": {"increment": 1}});
    let batch = json!({"operations": [operation]});
    let done = members[2].surface.post("/v1/batch?consistency=all&timeout=200", batch).await;
    let result = &done.json()["results"][0];
    assert_eq!((&result["status"], &result["body"]["outcome"]), (&504.into(), &"applied".into()));

    // Now too few are left: nothing is applied.
    silent.kill();
    members[1].peer.kill();
    let near = members[0].peer.quic.clone();
    for gone in [silent.quic.node_id(), id(&members[1])] {
        until("its loss is noticed", async || near.round_trip(gone).is_none()).await;
    }
    for query in ["timeout=30000", "consistency=all"] {
        let refused = async || increment(&members[0].surface, query).await;
        let known = async || refused().await.status == 503;
        until("the core has heard of it", known).await;
        let refused = refused().await;
        problem(&refused, 503, "not-enough-replicas");
        let json = refused.json();
        let counts = (&json["reachable"]["eu"], &json["recorded"]["eu"]);
        assert_eq!(counts, (&1.into(), &3.into()));
    }
    let path = "/v1/counters/c/n?consistency=local_quorum";
    problem(&members[0].surface.get(path).await, 503, "not-enough-replicas");
    let before = value(&members[0].surface.get("/v1/counters/c/n").await);
    increment(&members[0].surface, "").await;
    assert_eq!(value(&members[0].surface.get("/v1/counters/c/n").await), before);
    assert!(increment(&members[0].surface, "consistency=one").await.status == 200);
}
