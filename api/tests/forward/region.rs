//! Nodes that hold what is recorded for them, and peers that answer as the test wants.
//!
//! The nodes do not replicate: what one of them holds, no other has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atoll::http::forward::{Forwarder, serve_peers};
use atoll::http::{Limits, Options, router};
use atoll::node::{Node, testing};
use atoll_replication::placement::{RegionPlacement, Replicas, Version};
use atoll_replication::transport::certificates::{Authority, Identity};
use atoll_replication::transport::quic::{Config, Inboxes, Quic};
use atoll_replication::transport::{NodeId, Transport};
use atoll_sharding::driver::Local;
use atoll_store::name::{EntityKey, Kind};
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::common::{Surface, until};

/// Slots of a new store.
pub(crate) const SLOTS: u16 = 64;

/// A peer on the network: what it serves runs on threads of its own, and dies with them.
pub(crate) struct Peer {
    pub(crate) quic: Quic,
    life: Option<Runtime>,
}

impl Peer {
    /// A peer that answers what others carry to it with these routes.
    pub(crate) fn start(identity: Identity, router: Router) -> Peer {
        let life = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let life = life.expect("a runtime");
        let mut config = Config::new("127.0.0.1:0".parse().expect("an address"), identity);
        config.keep_alive_ms = 200;
        config.idle_timeout_ms = 1_000;
        let inside = life.enter();
        let (sender, mut arrivals) = mpsc::channel(100);
        let (requests, incoming) = mpsc::channel(16);
        let inboxes = Inboxes::new(sender).with_requests(requests);
        let quic = Quic::start(config, inboxes).expect("started");
        life.spawn(async move { while arrivals.recv().await.is_some() {} });
        let limits = Limits::default();
        life.spawn(async move {
            serve_peers(incoming, router, &limits, std::future::pending()).await;
        });
        drop(inside);
        Peer { quic, life: Some(life) }
    }

    /// A member of a cluster that is no node.
    pub(crate) fn stranger(region: &Region, router: Router) -> Peer {
        Peer::start(region.authority.issue("stranger").expect("a good name"), router)
    }

    pub(crate) fn id(&self) -> NodeId {
        self.quic.node_id()
    }

    /// As `kill -9`: nobody is told.
    pub(crate) fn kill(&mut self) {
        self.life.take().expect("alive").shutdown_background();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(life) = self.life.take() {
            life.shutdown_background();
        }
    }
}

/// A node with its HTTP surface, and its place on the network.
pub(crate) struct Member {
    pub(crate) surface: Surface,
    pub(crate) node: Node,
    pub(crate) peer: Peer,
}

/// Members that know each other, in the order of their ids: in which they are asked, too.
pub(crate) struct Region {
    pub(crate) authority: Authority,
    pub(crate) members: Vec<Member>,
    /// A peer that is asked before all of them, if there is one: it counts as number [`FIRST`].
    pub(crate) first: Option<Peer>,
    records: AtomicU64,
}

/// The number of the peer that is asked before all others.
pub(crate) const FIRST: usize = usize::MAX;

impl Region {
    /// Several nodes, each of which holds everything until it is told otherwise.
    pub(crate) async fn start(count: usize) -> Region {
        Region::with(count, None).await
    }

    /// As `start`, with a peer that is asked before all others, and answers by these routes.
    pub(crate) async fn behind(first: Router, count: usize) -> Region {
        Region::with(count, Some(first)).await
    }

    async fn with(count: usize, first: Option<Router>) -> Region {
        let authority = Authority::create("reef").expect("a good name");
        let issue = |number| authority.issue(&format!("eu-{number}")).expect("a good name");
        let mut identities: Vec<Identity> =
            (0..count + usize::from(first.is_some())).map(issue).collect();
        identities.sort_by_key(Identity::node_id);
        let mut identities = identities.into_iter();
        let first = first
            .map(|router| Peer::start(identities.next().expect("one more than nodes"), router));
        let mut members: Vec<Member> = Vec::new();
        for identity in identities {
            members.push(member(identity).await);
        }
        let region = Region { authority, members, first, records: AtomicU64::new(0) };
        let peers = region.members.iter().map(|member| &member.peer).chain(&region.first);
        connect(&peers.collect::<Vec<_>>()).await;
        region
    }

    pub(crate) fn surface(&self, at: usize) -> &Surface {
        &self.members[at].surface
    }

    /// Records for every node who holds which slot, by number.
    pub(crate) async fn place(&self, holders: impl Fn(u16) -> Vec<usize>) {
        for at in 0..self.members.len() {
            self.place_at(at, &holders).await;
        }
    }

    /// Records it for one node, which tells it to no other.
    pub(crate) async fn place_at(&self, at: usize, holders: impl Fn(u16) -> Vec<usize>) {
        let number = self.records.fetch_add(1, Ordering::SeqCst) + 1;
        let version = Version { epoch: 1, number };
        let replicas = |slot| {
            let current = holders(slot).into_iter().map(|at| self.id(at)).collect();
            Replicas { epoch: number, current, next: None, struck: 0 }
        };
        let record = RegionPlacement {
            region: "eu".to_owned(),
            council: 1,
            version,
            factor: 3,
            slots: (0..SLOTS).map(replicas).collect(),
            ..RegionPlacement::default()
        };
        let node = &self.members[at].node;
        assert!(Local::place(node, record), "the core takes records");
        let known = async || node.record().is_some_and(|record| record.version == version);
        until("the record is known", known).await;
    }

    pub(crate) fn id(&self, at: usize) -> NodeId {
        match &self.first {
            Some(first) if at == FIRST => first.id(),
            _ => self.members[at].peer.id(),
        }
    }
}

async fn member(identity: Identity) -> Member {
    let data = tempfile::tempdir().expect("a directory");
    let node = testing::open_as(&data, identity.node_id()).expect("a node starts");
    // Its routes need the peer's connections, and the peer its routes.
    let cell = Arc::new(OnceLock::<Router>::new());
    let late = cell.clone();
    let serve = move |request: Request| {
        let router = late.get().expect("set before anyone is connected").clone();
        async move { pass(router, request).await }
    };
    let peer = Peer::start(identity, Router::new().fallback(serve));
    let forwarder = Some(Forwarder::new(peer.quic.clone()));
    let options = Options { forwarder, ..Options::default() };
    assert!(cell.set(router(node.clone(), options.clone())).is_ok(), "set once");
    Member { surface: Surface::over(node.clone(), data, options).await, node, peer }
}

/// Passes a request to a router.
async fn pass(router: Router, request: Request) -> Response {
    let service = TowerToHyperService::new(router);
    match service.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Connects each to each other.
pub(crate) async fn connect(peers: &[&Peer]) {
    for (at, one) in peers.iter().enumerate() {
        for other in &peers[at + 1..] {
            let address = other.quic.local_address().expect("bound").to_string();
            one.quic.add_peer(address);
            let linked = |one: &Peer, other: &Peer| one.quic.round_trip(other.id()).is_some();
            until("connected", async || linked(one, other) && linked(other, one)).await;
        }
    }
}

/// The path of the first of the counters `n-0`, `n-1`, .. whose slot is this one.
pub(crate) fn path_in(slot: u16) -> String {
    (0..)
        .map(|number| format!("n-{number}"))
        .find(|id| {
            let key = EntityKey::parse(Kind::Counters, "c", id).expect("a name");
            key.slot(SLOTS) == slot
        })
        .map(|id| format!("/v1/counters/c/{id}"))
        .expect("slots are hit sooner or later")
}

/// Time that a request may take in a test where it is to run out.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
