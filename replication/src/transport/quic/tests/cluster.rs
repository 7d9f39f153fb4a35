//! What is for the core of the cluster: its frames, datagrams, and signs of life.

use super::meters::Meters;
use super::*;

/// The datagrams that a node is handed, from one peer, as far as they have come.
fn datagrams(node: &mut Node, from: NodeId) -> Vec<Bytes> {
    let mut all = Vec::new();
    while let Ok(arrival) = node.cluster.try_recv() {
        match arrival {
            Arrival::Datagram { peer, bytes } if peer == from => all.push(bytes),
            Arrival::Connected { .. } => {}
            arrival => panic!("{arrival:?}"),
        }
    }
    all
}

#[tokio::test]
async fn both_cores_are_told_of_connections_and_each_gets_what_is_its_own() {
    let (a, mut b) = pair().await;
    assert!(a.quic.send(b.id(), Class::Cluster, numbered(1)));
    assert!(a.quic.send(b.id(), Class::Control, numbered(2)));
    assert!(matches!(b.next_cluster().await, Arrival::Connected { peer, .. } if peer == a.id()));
    let arrival = Arrival::Received { peer: a.id(), class: Class::Cluster, frame: numbered(1) };
    assert_eq!(b.next_cluster().await, arrival);
    b.expect_frame(a.id(), Class::Control, &numbered(2)).await;
    a.quic.close().await;
    assert_eq!(b.next_cluster().await, Arrival::Disconnected { peer: a.id() });
    b.expect_disconnected(a.id()).await;
}

#[tokio::test]
async fn datagrams_come_whole_and_too_long_ones_are_refused() {
    let (meters, _guard) = Meters::install();
    let (a, mut b) = pair().await;
    let longest = Bytes::from(vec![7; DATAGRAM_BYTES]);
    let mut got = Vec::new();
    // Any of them may be lost: sent until each length has come.
    until("both lengths", || {
        assert!(a.quic.datagram(b.id(), longest.clone()) && a.quic.datagram(b.id(), Bytes::new()));
        got.extend(datagrams(&mut b, a.id()));
        got.contains(&longest) && got.contains(&Bytes::new())
    })
    .await;
    assert!(got.iter().all(|bytes| bytes.is_empty() || *bytes == longest));
    assert!(!a.quic.datagram(b.id(), Bytes::from(vec![0; DATAGRAM_BYTES + 1])));
    assert!(!a.quic.datagram(NodeId([0; 16]), Bytes::new()));
    for reason in ["oversized", "disconnected"] {
        assert_eq!(meters.count("atoll_transport_datagrams_dropped_total", reason), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_datagram_passes_streams_that_are_stuck() {
    const WINDOW: u32 = 64 * 1024;
    let authority = Authority::create("reef").unwrap();
    let mut small = config(&authority.issue("b").unwrap());
    small.connection_window_bytes = WINDOW;
    small.stream_window_bytes = WINDOW;
    let b = Node::with_room(small, 1);
    let (a, mut b) = connected(Node::issued(&authority, "a"), b).await;
    // More than the receiver, who takes nothing, has room for.
    while a.quic.send(b.id(), Class::Bulk, Bytes::from(vec![0; 64 * 1024])) {}
    let before = b.quic.received(a.id()).expect("connected");
    until("a datagram", || {
        a.quic.datagram(b.id(), numbered(1));
        datagrams(&mut b, a.id()).contains(&numbered(1))
    })
    .await;
    assert!(b.quic.received(a.id()).expect("connected") > before, "a sign of life");
    assert_eq!(b.quic.received(NodeId([0; 16])), None);
}

#[tokio::test]
async fn a_full_inbox_of_the_cluster_drops_datagrams_and_holds_up_nothing_else() {
    let (meters, _guard) = Meters::install();
    let authority = Authority::create("reef").unwrap();
    let b = Node::with_rooms(config(&authority.issue("b").unwrap()), 1000, 1);
    let (a, mut b) = connected(Node::issued(&authority, "a"), b).await;
    // Its room is taken by `Connected`.
    assert!(a.quic.send(b.id(), Class::Cluster, numbered(1)));
    until("a datagram is dropped", || {
        a.quic.datagram(b.id(), numbered(2));
        meters.count("atoll_transport_datagrams_dropped_total", "unread") > 0
    })
    .await;
    for class in [Class::Control, Class::Operations, Class::Commands, Class::Bulk] {
        assert!(a.quic.send(b.id(), class, numbered(3)));
        b.expect_frame(a.id(), class, &numbered(3)).await;
    }
    assert!(matches!(b.next_cluster().await, Arrival::Connected { .. }));
    let arrival = Arrival::Received { peer: a.id(), class: Class::Cluster, frame: numbered(1) };
    assert_eq!(cluster_stream_frame(&mut b).await, arrival);
}

/// The next frame for the core of the cluster; datagrams may come before it.
async fn cluster_stream_frame(node: &mut Node) -> Arrival {
    loop {
        match node.next_cluster().await {
            Arrival::Datagram { .. } => {}
            arrival => return arrival,
        }
    }
}
