//! Strangers, and peers that break the protocol: refused or closed, counted, and nobody else
//! suffers.

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ApplicationClose, ClientConfig, Connection, ConnectionError, SendStream};

use super::meters::Meters;
use super::*;
use crate::transport::Arrival;

const REFUSED: &str = "atoll_transport_handshakes_refused_total";

/// Connects without our own code: trusts the authority of `trusted`, shows the certificate of
/// `shown`.
async fn raw(
    trusted: &Identity,
    shown: Option<&Identity>,
    address: SocketAddr,
) -> Result<Connection, ConnectionError> {
    let mut roots = rustls::RootCertStore::empty();
    trusted.authorities().unwrap().into_iter().for_each(|ca| roots.add(ca).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain().unwrap(), identity.key().unwrap())
            .unwrap(),
    };
    config.alpn_protocols = vec![b"atoll/1".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client(local()).unwrap();
    endpoint.connect_with(config, address, "atoll").unwrap().await
}

/// A stranger dials, and is dialled: refused both times.
async fn check_stranger(authority: &Authority, stranger: Identity) {
    let (meters, _guard) = Meters::install();
    let mut node = Node::issued(authority, "a");
    let mut stranger_node = Node::start(config(&stranger));
    stranger_node.dial(&node);
    until("its dial refused", || meters.count(REFUSED, "accepted") >= 1).await;
    node.dial(&stranger_node);
    until("our dial refused", || meters.count(REFUSED, "accepted") >= 2).await;

    // One that does not mind who we are, so that it is for us to refuse it.
    let trusted = authority.issue("x").unwrap();
    let address = node.quic.local_address().unwrap();
    let before = meters.count(REFUSED, "accepted");
    for shown in [Some(&stranger), None] {
        if let Ok(connection) = soon("a handshake", raw(&trusted, shown, address)).await {
            let reason = soon("the refusal", connection.closed()).await;
            assert!(matches!(reason, ConnectionError::ConnectionClosed(_)), "{reason}");
        }
    }
    until("both refused", || meters.count(REFUSED, "accepted") >= before + 2).await;
    assert!(node.arrivals.try_recv().is_err() && stranger_node.arrivals.try_recv().is_err());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let authority = Authority::create("reef").unwrap();
    let other = Authority::create("reef").unwrap();
    check_stranger(&authority, other.issue("b").unwrap()).await;
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused() {
    let authority = Authority::create("reef").unwrap();
    let stranger = authority.issue_in("lagoon", "b").unwrap();
    check_stranger(&authority, stranger).await;
}

async fn open(connection: &Connection, bytes: &[u8]) -> SendStream {
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// A member of the cluster breaks the protocol: it is closed and counted under `reason`, and two
/// others go on.
async fn check_breach<F: Future<Output = Vec<SendStream>>>(
    reason: &str,
    breach: impl FnOnce(Connection) -> F,
) {
    let (meters, _guard) = Meters::install();
    let authority = Authority::create("reef").unwrap();
    let pair = connected(Node::issued(&authority, "a"), Node::issued(&authority, "b"));
    let (a, mut b) = pair.await;
    let hostile = authority.issue("h").unwrap();
    let address = b.quic.local_address().unwrap();
    let connection = raw(&hostile, Some(&hostile), address).await.unwrap();
    let streams = breach(connection.clone()).await;

    match soon("the connection is closed", connection.closed()).await {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason: said }) => {
            assert_eq!((error_code, &said[..]), (peers::BREACH, reason.as_bytes()));
        }
        other => panic!("{other}"),
    }
    drop(streams);
    assert_eq!(meters.count("atoll_transport_rejected_total", reason), 1);
    assert_eq!(meters.count("atoll_transport_rejected_total", ""), 1);
    b.expect_connected(hostile.node_id()).await;
    b.expect_disconnected(hostile.node_id()).await;
    check_exchange(&a, &mut b).await;
}

#[tokio::test]
async fn an_unknown_class_is_a_breach() {
    check_breach("unknown_class", async |c| vec![open(&c, &[9]).await]).await;
}

#[tokio::test]
async fn an_oversized_frame_is_a_breach() {
    let length = (4 * MIB as u32 + 1).to_le_bytes();
    let bytes = [&[1][..], &length].concat();
    check_breach("oversized", async |c| vec![open(&c, &bytes).await]).await;
}

#[tokio::test]
async fn garbage_is_a_breach() {
    check_breach("oversized", async |c| vec![open(&c, b"\x02GET / HTTP/1.1\r\n\r\n").await]).await;
}

#[tokio::test]
async fn a_truncated_frame_is_a_breach() {
    let truncated = async |c: Connection| {
        let mut stream = open(&c, &[0, 10, 0, 0, 0, 1, 2, 3]).await;
        stream.finish().unwrap();
        vec![stream]
    };
    check_breach("truncated", truncated).await;
}

#[tokio::test]
async fn a_second_stream_of_a_class_is_a_breach() {
    check_breach("second_stream", async |c| vec![open(&c, &[0]).await, open(&c, &[0]).await]).await;
}

#[tokio::test]
async fn a_reset_stream_is_a_breach() {
    let reset = async |c: Connection| {
        let mut stream = open(&c, &[3, 1, 0, 0]).await;
        // Only once the other side has taken it up is there a stream to reset.
        drop(soon("its answer", c.accept_uni()).await.unwrap());
        let _ = stream.reset(VarInt::from_u32(0));
        vec![stream]
    };
    check_breach("reset", reset).await;
}

#[tokio::test]
async fn a_peer_that_dials_again_ends_its_former_connection_first() {
    let authority = Authority::create("reef").unwrap();
    let mut node = Node::with_room(config(&authority.issue("a").unwrap()), 1);
    let peer = authority.issue("p").unwrap();
    let address = node.quic.local_address().unwrap();
    let former = raw(&peer, Some(&peer), address).await.unwrap();
    let _frames = open(&former, &[1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 2, 1, 0, 0, 0, 3]).await;
    drop(soon("its answer", former.accept_uni()).await.unwrap());
    let latter = raw(&peer, Some(&peer), address).await.unwrap();
    let _frame = open(&latter, &[4, 1, 0, 0, 0, 9]).await;
    // Only now, with both taken up, does the driver look.
    let reason = soon("the former is closed", former.closed()).await;
    assert!(
        matches!(reason, ConnectionError::ApplicationClosed(c) if c.error_code == peers::DUPLICATE)
    );

    node.expect_connected(peer.node_id()).await;
    let mut arrival = node.next().await;
    while let Arrival::Received { class: Class::Control, .. } = arrival {
        arrival = node.next().await;
    }
    assert_eq!(arrival, Arrival::Disconnected { peer: peer.node_id() });
    node.expect_connected(peer.node_id()).await;
    node.expect_frame(peer.node_id(), Class::Bulk, &Bytes::from_static(&[9])).await;
}
