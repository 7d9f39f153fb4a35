//! Nodes of one cluster: exchange, back-pressure, restarts, duplicates, self.

use super::meters::Meters;
use super::*;
use crate::transport::Arrival;

#[tokio::test]
async fn two_nodes_exchange_frames_of_all_classes() {
    let (meters, _guard) = Meters::install();
    let (mut a, mut b) = pair().await;
    check_exchange(&a, &mut b).await;
    check_exchange(&b, &mut a).await;
    assert!(a.quic.round_trip(b.id()).is_some() && b.quic.round_trip(a.id()).is_some());
    assert_eq!(a.quic.round_trip(NodeId([0; 16])), None);
    assert_eq!(meters.count("atoll_transport_frames_received_total", ""), 30);
    until("all counted", || meters.count("atoll_transport_frames_sent_total", "bulk") == 6).await;
}

#[tokio::test]
async fn three_nodes_each_told_of_all_form_a_mesh() {
    let authority = Authority::create("reef").unwrap();
    let mut nodes: Vec<Node> =
        ["a", "b", "c"].iter().map(|name| Node::issued(&authority, name)).collect();
    let addresses: Vec<String> = nodes.iter().map(Node::address).collect();
    for node in &nodes {
        addresses.iter().for_each(|address| node.quic.add_peer(address.clone()));
    }
    let open = |node: &Node| node.quic.shared().endpoint.open_connections();
    let live = |node: &Node, to: &Node| node.quic.round_trip(to.id()).is_some();
    until("one connection a pair", || {
        let all = |node: &Node| nodes.iter().filter(|to| live(node, to)).count() == 2;
        nodes.iter().all(|node| open(node) == 2 && all(node))
    })
    .await;
    for node in &mut nodes {
        while let Ok(arrival) = node.arrivals.try_recv() {
            assert!(!matches!(arrival, Arrival::Received { .. }));
        }
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
        let to_id = nodes[to].id();
        assert!(nodes[from].quic.send(to_id, Class::Control, numbered(from)));
        let (from_id, frame) = (nodes[from].id(), numbered(from));
        loop {
            match nodes[to].next().await {
                Arrival::Received { peer, frame: got, .. } => {
                    assert_eq!((peer, got), (from_id, frame));
                    break;
                }
                // Of simultaneous dials, told late.
                Arrival::Connected { .. } | Arrival::Disconnected { .. } => {}
                arrival => panic!("{arrival:?}"),
            }
        }
    }
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_keep_one_connection() {
    let authority = Authority::create("reef").unwrap();
    for _ in 0..10 {
        let (mut a, mut b) = (Node::issued(&authority, "a"), Node::issued(&authority, "b"));
        a.dial(&b);
        b.dial(&a);
        let single = |node: &Node, to: &Node| {
            let open = node.quic.shared().endpoint.open_connections();
            open == 1 && node.quic.round_trip(to.id()).is_some()
        };
        until("one connection", || single(&a, &b) && single(&b, &a)).await;
        a.quic.shared().stop();
        soon("the other notices", b.quic.shared().peers.absent(a.id())).await;
        for node in [&mut a, &mut b] {
            let mut connected = false;
            while let Ok(arrival) = node.arrivals.try_recv() {
                let now = matches!(arrival, Arrival::Connected { .. });
                assert_ne!(connected, now, "one ends before the next begins");
                connected = now;
            }
        }
    }
}

#[tokio::test]
async fn a_node_stops_dialling_itself() {
    let authority = Authority::create("reef").unwrap();
    let mut node = Node::issued(&authority, "a");
    let (_kept, removed) = watch::channel(());
    let dial = dial::keep_connected(Arc::clone(node.quic.shared()), node.address(), removed);
    soon("the dialling ends", dial).await;
    assert!(node.arrivals.try_recv().is_err());
    until("no connection", || node.quic.shared().endpoint.open_connections() == 0).await;
}

#[tokio::test]
async fn what_is_not_connected_or_too_large_is_dropped() {
    let (meters, _guard) = Meters::install();
    let (a, b) = pair().await;
    let too_large = Bytes::from(vec![0; 4 * MIB + 1]);
    assert!(!a.quic.send(b.id(), Class::Bulk, too_large));
    assert!(!a.quic.send(NodeId([0; 16]), Class::Bulk, Bytes::new()));
    for reason in ["oversized", "disconnected"] {
        assert_eq!(meters.count("atoll_transport_frames_dropped_total", reason), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_slow_driver_fills_the_queue_and_loses_nothing_accepted() {
    const WINDOW: u32 = 64 * 1024;
    let (meters, _guard) = Meters::install();
    let authority = Authority::create("reef").unwrap();
    let small = |name| {
        let mut config = config(&authority.issue(name).unwrap());
        config.queue_bytes = WINDOW as usize;
        config.max_frame_bytes = 16 * 1024;
        config.connection_window_bytes = 2 * WINDOW;
        config.stream_window_bytes = WINDOW;
        config.send_window_bytes = WINDOW.into();
        config
    };
    let a = Node::start(small("a"));
    let b = Node::with_room(small("b"), 1);
    let (a, mut b) = connected(a, b).await;
    let frame = |number: usize| Bytes::from(format!("{number:01000}"));
    // The receiver takes nothing: refused over and over, the queue is full for good.
    let (mut accepted, mut refused) = (0, 0);
    until("the queue stays full", || {
        while a.quic.send(b.id(), Class::Operations, frame(accepted)) {
            (accepted, refused) = (accepted + 1, 0);
        }
        refused += 1;
        refused == 200
    })
    .await;
    // Queue, send window, stream window, the reader's and the writer's buffers.
    assert!(accepted * 1000 <= 5 * WINDOW as usize + 128 * 1024, "{accepted}");
    assert!(meters.count("atoll_transport_frames_dropped_total", "full") >= 200);
    for number in 0..accepted {
        b.expect_frame(a.id(), Class::Operations, &frame(number)).await;
    }
    until("room again", || a.quic.send(b.id(), Class::Operations, Bytes::new())).await;
}

#[tokio::test]
async fn closing_sends_what_was_accepted() {
    let authority = Authority::create("reef").unwrap();
    // The receiver takes nothing before the sender is gone.
    let b = Node::with_room(config(&authority.issue("b").unwrap()), 1);
    let (a, mut b) = connected(Node::issued(&authority, "a"), b).await;
    for number in 0..500 {
        assert!(a.quic.send(b.id(), Class::Commands, numbered(number)));
    }
    a.quic.close().await;
    assert!(!a.quic.send(b.id(), Class::Commands, Bytes::new()));
    for number in 0..500 {
        b.expect_frame(a.id(), Class::Commands, &numbered(number)).await;
    }
    b.expect_disconnected(a.id()).await;
}

/// Starts at an address that another node has just left.
async fn start_again(mut config: Config, address: &str) -> Node {
    config.listen = address.parse().unwrap();
    until("the port is free", || UdpSocket::bind(address).is_ok()).await;
    Node::start(config)
}

#[tokio::test]
async fn a_peer_that_restarts_is_connected_again() {
    let authority = Authority::create("reef").unwrap();
    let identity = authority.issue("b").unwrap();
    let a = Node::issued(&authority, "a");
    let (mut a, b) = connected(a, Node::start(config(&identity))).await;
    let address = b.address();
    b.quic.close().await;
    drop(b);
    a.expect_disconnected(identity.node_id()).await;

    let mut b = start_again(config(&identity), &address).await;
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
    check_exchange(&b, &mut a).await;
}

#[tokio::test]
async fn a_peer_that_crashed_resets_its_former_connections() {
    let authority = Authority::create("reef").unwrap();
    let identity = authority.issue("b").unwrap();
    let patient = |identity: &Identity| {
        let mut config = config(identity);
        // Far beyond the deadline: only a reset can be what is noticed.
        config.idle_timeout_ms = 10 * 60 * 1000;
        config.keep_alive_ms = 200;
        config
    };
    let life =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let b = life.block_on_start(patient(&identity));
    let (mut a, b) = connected(Node::start(patient(&authority.issue("a").unwrap())), b).await;
    let address = b.address();
    life.shutdown_background();
    drop(b);

    let mut b = start_again(patient(&identity), &address).await;
    a.expect_disconnected(b.id()).await;
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
}

trait StartOn {
    fn block_on_start(&self, config: Config) -> Node;
}

impl StartOn for tokio::runtime::Runtime {
    fn block_on_start(&self, config: Config) -> Node {
        let _inside = self.enter();
        Node::start(config)
    }
}

#[tokio::test]
async fn a_rejected_peer_is_closed_counted_and_dialled_again() {
    let (meters, _guard) = Meters::install();
    let (mut a, mut b) = pair().await;
    a.quic.reject(b.id(), "nonsense");
    assert_eq!(meters.count("atoll_transport_rejected_total", "nonsense"), 1);
    a.expect_disconnected(b.id()).await;
    b.expect_disconnected(a.id()).await;
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
    a.quic.reject(NodeId([0; 16]), "nonsense");
    assert_eq!(meters.count("atoll_transport_rejected_total", ""), 1);
}

#[tokio::test]
async fn impossible_settings_are_refused() {
    let identity = Authority::create("reef").unwrap().issue("a").unwrap();
    let (sender, _arrivals) = mpsc::channel(1);
    let mut small = config(&identity);
    small.queue_bytes = small.max_frame_bytes;
    assert!(matches!(Quic::start(small, sender.clone().into()), Err(Error::Config(_))));
    let taken = UdpSocket::bind(local()).unwrap();
    let mut config = config(&identity);
    config.listen = taken.local_addr().unwrap();
    assert!(matches!(Quic::start(config, sender.into()), Err(Error::Listen { .. })));
}
