//! A partition between real nodes: a relay of datagrams that can be cut.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket as Socket;

use super::*;

/// Passes datagrams between one dialler and one target, while whole.
struct Relay {
    address: SocketAddr,
    whole: Arc<AtomicBool>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let front = Socket::bind(local()).await.unwrap();
        let back = Socket::bind(local()).await.unwrap();
        let relay =
            Self { address: front.local_addr().unwrap(), whole: Arc::new(AtomicBool::new(true)) };
        tokio::spawn(pass(front, back, target, Arc::clone(&relay.whole)));
        relay
    }

    fn set_whole(&self, whole: bool) {
        self.whole.store(whole, Ordering::Relaxed);
    }
}

async fn pass(front: Socket, back: Socket, target: SocketAddr, whole: Arc<AtomicBool>) {
    let mut dialler = None;
    let (mut forth, mut from_target) = (vec![0; 65536], vec![0; 65536]);
    loop {
        let (datagram, socket, to) = tokio::select! {
            received = front.recv_from(&mut forth) => {
                let (length, from) = received.unwrap();
                dialler = Some(from);
                (&forth[..length], &back, Some(target))
            }
            received = back.recv_from(&mut from_target) => {
                let (length, _) = received.unwrap();
                (&from_target[..length], &front, dialler)
            }
        };
        if let Some(to) = to.filter(|_| whole.load(Ordering::Relaxed)) {
            socket.send_to(datagram, to).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_healed_partition_is_connected_again() {
    let authority = Authority::create("reef").unwrap();
    let impatient = |name| {
        let mut config = config(&authority.issue(name).unwrap());
        config.keep_alive_ms = 200;
        config.idle_timeout_ms = 1000;
        Node::start(config)
    };
    let (mut a, mut b) = (impatient("a"), impatient("b"));
    let relay = Relay::start(b.quic.local_address().unwrap()).await;
    a.quic.add_peer(relay.address.to_string());
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
    check_exchange(&a, &mut b).await;

    relay.set_whole(false);
    a.expect_disconnected(b.id()).await;
    b.expect_disconnected(a.id()).await;
    assert!(!a.quic.send(b.id(), Class::Control, Bytes::new()));

    relay.set_whole(true);
    a.expect_connected(b.id()).await;
    b.expect_connected(a.id()).await;
    check_exchange(&b, &mut a).await;
}
