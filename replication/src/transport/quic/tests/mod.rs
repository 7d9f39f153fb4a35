//! Real endpoints on loopback: what they need, and how well-behaved nodes get on.
//!
//! Nothing here waits for time to pass: every wait is for a condition, and fails at [`DEADLINE`].

mod cluster;
mod dialling;
mod hostile;
mod meters;
mod nodes;
mod relay;
mod requests;

use std::collections::BTreeMap;
use std::future::Future;

use tokio::sync::mpsc;

use super::*;
use crate::transport::Arrival;
use crate::transport::certificates::Authority;

/// Far more than anything here takes; only a failure waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits for something that announces itself in no other way.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            ticks.tick().await;
        }
    };
    soon(what, poll).await;
}

/// A node with its arrivals.
struct Node {
    quic: Quic,
    arrivals: mpsc::Receiver<Arrival>,
    /// What is for the core of the cluster.
    cluster: mpsc::Receiver<Arrival>,
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn config(identity: &Identity) -> Config {
    Config::new(local(), identity.clone())
}

impl Node {
    fn start(config: Config) -> Self {
        Self::with_room(config, 1000)
    }

    /// With room for so many arrivals for replication.
    fn with_room(config: Config, room: usize) -> Self {
        Self::with_rooms(config, room, 1000)
    }

    fn with_rooms(config: Config, room: usize, cluster_room: usize) -> Self {
        let (sender, arrivals) = mpsc::channel(room);
        let (cluster_sender, cluster) = mpsc::channel(cluster_room);
        let inboxes = Inboxes::new(sender).with_cluster(cluster_sender);
        Self { quic: Quic::start(config, inboxes).unwrap(), arrivals, cluster }
    }

    fn issued(authority: &Authority, name: &str) -> Self {
        Self::start(config(&authority.issue(name).unwrap()))
    }

    fn id(&self) -> NodeId {
        self.quic.node_id()
    }

    fn address(&self) -> String {
        self.quic.local_address().unwrap().to_string()
    }

    fn dial(&self, other: &Self) {
        self.quic.add_peer(other.address());
    }

    async fn next(&mut self) -> Arrival {
        soon("an arrival", self.arrivals.recv()).await.expect("the transport runs")
    }

    /// The next for the core of the cluster.
    async fn next_cluster(&mut self) -> Arrival {
        soon("an arrival", self.cluster.recv()).await.expect("the transport runs")
    }

    async fn expect_connected(&mut self, other: NodeId) {
        match self.next().await {
            Arrival::Connected { peer, .. } => assert_eq!(peer, other),
            arrival => panic!("{arrival:?}"),
        }
    }

    async fn expect_disconnected(&mut self, other: NodeId) {
        assert_eq!(self.next().await, Arrival::Disconnected { peer: other });
    }

    async fn expect_frame(&mut self, other: NodeId, class: Class, frame: &Bytes) {
        let frame = frame.clone();
        assert_eq!(self.next().await, Arrival::Received { peer: other, class, frame });
    }
}

/// Both nodes, connected, the first having dialled.
async fn connected(mut a: Node, mut b: Node) -> (Node, Node) {
    a.dial(&b);
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
    (a, b)
}

async fn pair() -> (Node, Node) {
    let authority = Authority::create("reef").unwrap();
    connected(Node::issued(&authority, "a"), Node::issued(&authority, "b")).await
}

fn numbered(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

/// The next for the core of the cluster that is not about connections.
async fn cluster_frame(node: &mut Node) -> Arrival {
    loop {
        match node.next_cluster().await {
            Arrival::Connected { .. } | Arrival::Disconnected { .. } => {}
            arrival => return arrival,
        }
    }
}

/// Sends on every class from one to the other, and checks that it all arrives.
async fn check_exchange(from: &Node, to: &mut Node) {
    let frames = [Bytes::new(), Bytes::from("small"), Bytes::from(vec![7; 300_000])];
    let mut expected = BTreeMap::new();
    for class in Class::ALL {
        for frame in &frames {
            assert!(from.quic.send(to.id(), class, frame.clone()));
        }
        expected.insert(class, frames.to_vec());
    }
    let mut received: BTreeMap<Class, Vec<Bytes>> = BTreeMap::new();
    for count in 0..Class::ALL.len() * frames.len() {
        let arrival = if count < frames.len() { cluster_frame(to).await } else { to.next().await };
        match arrival {
            Arrival::Received { peer, class, frame } if peer == from.id() => {
                received.entry(class).or_default().push(frame);
            }
            arrival => panic!("{arrival:?}"),
        }
    }
    assert_eq!(received, expected);
}
