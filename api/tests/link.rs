//! The demo's links under real QUIC: distance, bulk, a cut, and its mending.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll::demo::shaper::Proxy;
use atoll_replication::transport::certificates::Authority;
use atoll_replication::transport::quic::{Config, Quic};
use atoll_replication::transport::{Arrival, Class, Transport};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

const ONE_WAY: Duration = Duration::from_millis(40);

struct Node {
    quic: Quic,
    arrivals: mpsc::Receiver<Arrival>,
}

impl Node {
    fn start(authority: &Authority, name: &str, peers: Vec<String>) -> Node {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config::new(listen, authority.issue(name).expect("a good name"));
        config.peers = peers;
        config.keep_alive_ms = 200;
        config.idle_timeout_ms = 1000;
        let (sender, arrivals) = mpsc::channel(100);
        Node { quic: Quic::start(config, sender.into()).expect("started"), arrivals }
    }

    async fn until(&mut self, wanted: impl Fn(&Arrival) -> bool) -> Arrival {
        let waiting = async {
            loop {
                let arrival = self.arrivals.recv().await.expect("the transport runs");
                if wanted(&arrival) {
                    return arrival;
                }
            }
        };
        timeout(Duration::from_secs(60), waiting).await.expect("in time")
    }

    async fn connected(&mut self) {
        self.until(|arrival| matches!(arrival, Arrival::Connected { .. })).await;
    }
}

#[tokio::test]
async fn quic_over_a_link_with_distance() {
    let authority = Authority::create("demo").expect("a good name");
    let mut target = Node::start(&authority, "us-1", Vec::new());
    let cut = Arc::new(AtomicBool::new(false));
    let address = target.quic.local_address().expect("bound");
    let link = Proxy::open(address, ONE_WAY, cut.clone()).expect("open");
    let mut dialler = Node::start(&authority, "eu-1", vec![link.address().to_string()]);
    dialler.connected().await;
    target.connected().await;
    let peer = target.quic.node_id();
    assert!(dialler.quic.round_trip(peer).expect("connected") >= ONE_WAY * 2);

    let chunk = Bytes::from(vec![7; 1 << 20]);
    let start = std::time::Instant::now();
    for _ in 0..7 {
        assert!(dialler.quic.send(peer, Class::Bulk, chunk.clone()));
    }
    for _ in 0..7 {
        target.until(|arrival| matches!(arrival, Arrival::Received { .. })).await;
    }
    println!("7 MiB over {ONE_WAY:?}: {:?}", start.elapsed());

    cut.store(true, Ordering::Relaxed);
    dialler.until(|arrival| matches!(arrival, Arrival::Disconnected { .. })).await;
    target.until(|arrival| matches!(arrival, Arrival::Disconnected { .. })).await;
    cut.store(false, Ordering::Relaxed);
    dialler.connected().await;
    target.connected().await;
}
