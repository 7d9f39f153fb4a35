//! A real etcd, started by each test; without the program they say so and do nothing.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atoll_sharding::discovery::Method;
use atoll_sharding::discovery::etcd::Etcd;
use atoll_sharding::discovery::formation::{Formation, FormationError, Place};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;

/// The program, and its own directory.
struct Server {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound")
}

/// Waits for a condition.
async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let met = timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    met.await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

impl Server {
    /// A new etcd, once it answers; `None` where the program is not installed.
    async fn start() -> Option<Server> {
        let directory = tempfile::tempdir().expect("a directory");
        let (address, peers) = (free(), free());
        let (clients, peers) = (format!("http://{address}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(directory.path());
        command.args(["--name", "test", "--initial-cluster", &format!("test={peers}")]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = process else {
            println!("skipped: no program `etcd` (Debian: etcd-server)");
            return None;
        };
        let server = Server { process, address, _directory: directory };
        let etcd = server.etcd();
        let place = || Place::etcd(etcd.clone(), "probe");
        until("etcd answers", || async { Formation::new(place(), claim(1)).claim().await.is_ok() })
            .await;
        Some(server)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn etcd(&self) -> Etcd {
        client(&[self.url()])
    }

    /// Asks it by hand, so that what is checked does not check itself.
    async fn ask(&self, path: &str, body: Value) -> Value {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.expect("etcd listens");
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        serde_json::from_str(body).expect("JSON")
    }

    async fn put(&self, key: &str, value: &str) {
        self.ask("/v3/kv/put", json!({ "key": encoded(key), "value": encoded(value) })).await;
    }

    async fn delete(&self, key: &str) {
        self.ask("/v3/kv/deleterange", json!({ "key": encoded(key) })).await;
    }

    /// The keys below the prefix, with their values.
    async fn below(&self, prefix: &str) -> Vec<(String, String)> {
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let range = json!({ "key": encoded(prefix), "range_end": encoded(&end) });
        let answer = self.ask("/v3/kv/range", range).await;
        let stored = answer["kvs"].as_array().cloned().unwrap_or_default();
        stored.iter().map(|one| (decoded(&one["key"]), decoded(&one["value"]))).collect()
    }

    /// Forgets all history.
    async fn compact(&self) {
        let answer = self.ask("/v3/kv/range", json!({ "key": encoded("/") })).await;
        let revision = answer["header"]["revision"].clone();
        self.ask("/v3/kv/compaction", json!({ "revision": revision, "physical": true })).await;
    }
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

fn decoded(value: &Value) -> String {
    let bytes = STANDARD.decode(value.as_str().expect("text")).expect("Base64");
    String::from_utf8(bytes).expect("text")
}

fn client(urls: &[String]) -> Etcd {
    let etcd = Etcd::new(urls, "/atoll", None).expect("good URLs");
    etcd.with_lease(Duration::from_secs(3))
}

/// A relay to a server, which can be turned off, or to another server: then its connections are
/// cut.
struct Link {
    address: SocketAddr,
    target: Arc<watch::Sender<Option<SocketAddr>>>,
}

impl Link {
    async fn to(server: &Server) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let target = Arc::new(watch::Sender::new(Some(server.address)));
        let targets = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let mut target = targets.subscribe();
                let Some(server) = *target.borrow_and_update() else { continue };
                tokio::spawn(async move {
                    let Ok(mut outer) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = target.changed() => {}
                        _ = copy_bidirectional(&mut inner, &mut outer) => {}
                    }
                });
            }
        });
        Link { address, target }
    }

    fn etcd(&self) -> Etcd {
        client(&[format!("http://{}", self.address)])
    }

    fn cut(&self) {
        self.target.send_replace(None);
    }

    fn mend(&self, server: &Server) {
        self.target.send_replace(Some(server.address));
    }
}

const NODES: &str = "/atoll/nodes/";

#[tokio::test]
async fn nodes_find_each_other_and_lose_who_is_gone() {
    let Some(server) = Server::start().await else { return };
    let watching = |node: u8| {
        let me = registration(node, &format!("host-{node}:7401"));
        Watching::start(Method::Etcd(server.etcd()), me)
    };
    let (mut a, mut b) = (watching(1), watching(2));
    a.sees(&["host-2:7401"]).await;
    b.sees(&["host-1:7401"]).await;
    let mut c = watching(3);
    a.sees(&["host-2:7401", "host-3:7401"]).await;
    c.sees(&["host-1:7401", "host-2:7401"]).await;
    drop(b);
    a.sees(&["host-3:7401"]).await;
    c.sees(&["host-1:7401"]).await;
    let stored = server.below(NODES).await;
    let entry = json!({ "address": "host-1:7401", "name": "eu-1", "region": "eu" });
    assert_eq!(stored[0].0, format!("{NODES}{}", NodeId([1; 16])));
    assert_eq!(serde_json::from_str::<Value>(&stored[0].1).expect("JSON"), entry);
}

#[tokio::test]
async fn a_lost_lease_is_replaced() {
    let Some(server) = Server::start().await else { return };
    let me = registration(1, "host-1:7401");
    let _watching = Watching::start(Method::Etcd(server.etcd()), me);
    let listed = || async { server.below(NODES).await.len() == 1 };
    until("registered", listed).await;
    let leases = server.ask("/v3/lease/leases", json!({})).await;
    let lease = leases["leases"][0]["ID"].clone();
    server.ask("/v3/lease/revoke", json!({ "ID": lease })).await;
    assert_eq!(server.below(NODES).await, [], "the key went with its lease");
    until("registered anew", listed).await;
}

#[tokio::test]
async fn what_changed_during_a_cut_is_seen_after_it() {
    let Some(server) = Server::start().await else { return };
    let link = Link::to(&server).await;
    let me = registration(1, "host-1:7401");
    let mut watching = Watching::start(Method::Etcd(link.etcd()), me);
    let entry = |host: &str| json!({ "address": host }).to_string();
    server.put("/atoll/nodes/a", &entry("a:1")).await;
    server.put("/atoll/nodes/b", &entry("b:1")).await;
    server.put("/atoll/nodes/c", "no registration").await;
    server.put("/atoll/others/d", &entry("d:1")).await;
    watching.sees(&["a:1", "b:1"]).await;

    link.cut();
    server.delete("/atoll/nodes/a").await;
    assert_eq!(watching.now(), ["a:1", "b:1"], "nothing is given up for a cut");
    link.mend(&server);
    watching.sees(&["b:1"]).await;

    // What a watch would resume from is compacted: the list is read again.
    link.cut();
    server.delete("/atoll/nodes/b").await;
    server.put("/atoll/nodes/a", &entry("a:2")).await;
    server.compact().await;
    link.mend(&server);
    watching.sees(&["a:2"]).await;
}

#[tokio::test]
async fn an_etcd_that_was_set_up_anew_is_listed_anew() {
    let Some(server) = Server::start().await else { return };
    let Some(younger) = Server::start().await else { return };
    let link = Link::to(&server).await;
    let me = registration(1, "host-1:7401");
    let mut watching = Watching::start(Method::Etcd(link.etcd()), me);
    for host in ["a:1", "a:2", "a:3", "a:4", "a:5", "a:6", "a:7", "a:8", "a:9"] {
        server.put("/atoll/nodes/a", &json!({ "address": host }).to_string()).await;
    }
    watching.sees(&["a:9"]).await;
    link.cut();
    younger.put("/atoll/nodes/b", r#"{"address":"b:1"}"#).await;
    link.mend(&younger);
    watching.sees(&["b:1"]).await;
}

#[tokio::test]
async fn another_endpoint_is_asked_when_one_is_dead() {
    let Some(server) = Server::start().await else { return };
    server.put("/atoll/nodes/a", r#"{"address":"a:1"}"#).await;
    let dead = format!("http://{}", free());
    let etcd = client(&[dead.clone(), server.url()]);
    let mut watching = Watching::start(Method::Etcd(etcd), registration(1, "host-1:7401"));
    watching.sees(&["a:1"]).await;
    let place = Place::etcd(client(&[dead]), "eu");
    let error = Formation::new(place, claim(1)).claim().await.expect_err("nobody answers");
    assert!(matches!(error, FormationError::Failure(_)), "{error}");
}

#[tokio::test]
async fn a_region_is_formed_once() {
    let Some(server) = Server::start().await else { return };
    let etcd = server.etcd();
    let formed = one_of_many_forms(|| Place::etcd(etcd.clone(), "eu")).await;
    let stored = server.below("/atoll/regions/eu").await;
    let record = formed.record.expect("confirmed");
    let stored: Value = serde_json::from_str(&stored[0].1).expect("JSON");
    assert_eq!(stored["council"], format!("{:016x}", record.council));
    assert_eq!((&stored["cluster"], &stored["formed"]), (&json!("reef"), &json!(true)));
    an_abandoned_record_is_taken_over(|| Place::etcd(etcd.clone(), "us")).await;
    a_founder_and_who_takes_over_are_not_both_confirmed(|region| Place::etcd(etcd.clone(), region))
        .await;
}

#[tokio::test]
async fn a_region_of_another_cluster_is_refused() {
    let Some(server) = Server::start().await else { return };
    let place = || Place::etcd(server.etcd(), "eu");
    Formation::new(place(), claim(1)).claim().await.expect("the first");
    let stranger = Claim { cluster: "sand".into(), ..claim(2) };
    let error = Formation::new(place(), stranger).claim().await.expect_err("refused").to_string();
    let start = "the certificate's cluster is sand, but region eu has reef (etcd key \
                 /atoll/regions/eu): give this node a certificate of cluster reef";
    assert!(error.starts_with(start), "{error}");
}
