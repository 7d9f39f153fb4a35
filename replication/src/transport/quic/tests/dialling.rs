//! Addresses that come, go, lead to one node twice, or to nobody.

use super::*;

fn handshakes(node: &Node) -> u64 {
    node.quic.shared().endpoint.stats().outgoing_handshakes
}

/// How many diallers run: each holds the transport's shared part once.
fn diallers(node: &Node, idle: usize) -> usize {
    Arc::strong_count(node.quic.shared()) - idle
}

#[tokio::test]
async fn a_second_address_of_a_connected_node_is_idle() {
    let (a, mut b) = pair().await;
    let second = format!("localhost:{}", b.quic.local_address().unwrap().port());
    a.quic.add_peer(second.clone());
    until("it was tried", || handshakes(&a) == 2).await;
    let open = |node: &Node| node.quic.shared().endpoint.open_connections();
    until("and dropped", || open(&a) == 1 && open(&b) == 1).await;
    for _ in 0..20 {
        check_exchange(&a, &mut b).await;
    }
    assert_eq!(handshakes(&a), 2, "not tried again");

    // The address that made the connection goes; the idle one makes the next.
    a.quic.remove_peer(&b.address());
    a.quic.disconnect(b.id());
    b.expect_disconnected(a.id()).await;
    b.expect_connected(a.id()).await;
}

#[tokio::test]
async fn a_removed_address_keeps_its_connection_and_is_not_dialled_again() {
    let (mut a, mut b) = pair().await;
    a.quic.remove_peer(&b.address());
    check_exchange(&a, &mut b).await;
    check_exchange(&b, &mut a).await;
    a.quic.disconnect(b.id());
    a.expect_disconnected(b.id()).await;
    b.expect_disconnected(a.id()).await;
    assert!(!a.quic.send(b.id(), Class::Control, Bytes::new()));
    assert!(a.quic.shared().dialled.lock().unwrap().is_empty());
    // Only the tasks of the transport itself are left.
    let alone = Node::start(config(&Authority::create("reef").unwrap().issue("c").unwrap()));
    let idle = Arc::strong_count(alone.quic.shared());
    until("no dialler runs", || diallers(&a, idle) == 0).await;
    assert_eq!(handshakes(&a), 1);
}

#[tokio::test]
async fn addresses_that_lead_to_nobody_leave_nothing_behind() {
    let node = Node::start(config(&Authority::create("reef").unwrap().issue("a").unwrap()));
    let idle = Arc::strong_count(node.quic.shared());
    // A socket that never answers, a port that nobody has, a name that means nothing.
    let mute = UdpSocket::bind(local()).unwrap();
    let addresses =
        [mute.local_addr().unwrap().to_string(), "127.0.0.1:1".into(), "nowhere.invalid:1".into()];
    for address in &addresses {
        node.quic.add_peer(address.clone());
        node.quic.add_peer(address.clone());
    }
    until("all are dialled", || diallers(&node, idle) == addresses.len()).await;
    until("two handshakes", || handshakes(&node) >= 2).await;
    addresses.iter().for_each(|address| node.quic.remove_peer(address));
    until("no dialler runs", || diallers(&node, idle) == 0).await;
    node.quic.remove_peer("never:1");
}

#[tokio::test]
async fn an_address_that_comes_back_is_dialled_again() {
    let (mut a, mut b) = pair().await;
    a.quic.remove_peer(&b.address());
    a.quic.disconnect(b.id());
    b.expect_disconnected(a.id()).await;
    a.expect_disconnected(b.id()).await;
    a.dial(&b);
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
    check_exchange(&a, &mut b).await;
}
