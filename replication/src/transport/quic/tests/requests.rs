//! Streams of requests: bytes both ways, ends, cancellations, bounds.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::meters::Meters;
use super::*;

/// A node that takes streams, and one that opens them.
struct Both {
    opener: Node,
    taker: Node,
    incoming: mpsc::Receiver<Incoming>,
}

async fn both(room: usize, request_streams: u32) -> Both {
    let authority = Authority::create("reef").unwrap();
    let mut config = config(&authority.issue("taker").unwrap());
    config.request_streams = request_streams;
    let (sender, arrivals) = mpsc::channel(1000);
    let (_, cluster) = mpsc::channel(1);
    let (requests, incoming) = mpsc::channel(room);
    let inboxes = Inboxes::new(sender).with_requests(requests);
    let taker = Node { quic: Quic::start(config, inboxes).unwrap(), arrivals, cluster };
    let (opener, taker) = connected(Node::issued(&authority, "opener"), taker).await;
    Both { opener, taker, incoming }
}

impl Both {
    async fn open(&self, bytes: &[u8]) -> RequestStream {
        let opened = soon("a stream", self.opener.quic.open(self.taker.id())).await;
        let mut stream = opened.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn take(&mut self) -> RequestStream {
        let (peer, stream) = soon("a stream", self.incoming.recv()).await.unwrap();
        assert_eq!(peer, self.opener.id());
        stream
    }
}

async fn read(stream: &mut RequestStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon("its end", stream.read_to_end(&mut bytes)).await.map(|_| bytes)
}

#[tokio::test]
async fn bytes_go_both_ways_to_their_end() {
    let mut both = both(10, 10).await;
    let large = vec![7; 300_000];
    for answer in [&b""[..], b"short", &large] {
        let mut asking = both.open(b"question").await;
        asking.shutdown().await.unwrap();
        let mut asked = both.take().await;
        assert_eq!(read(&mut asked).await.unwrap(), b"question");
        let answering = async {
            asked.write_all(answer).await.unwrap();
            asked.shutdown().await.unwrap();
            drop(asked);
        };
        let (read, ()) = tokio::join!(read(&mut asking), answering);
        assert_eq!(read.unwrap(), answer);
    }
    assert!(both.taker.quic.open(both.opener.id()).await.is_ok(), "either may open");
    let stranger = both.taker.quic.open(NodeId([0; 16])).await;
    assert_eq!(stranger.err(), Some(OpenError::Disconnected));
}

#[tokio::test]
async fn what_is_dropped_in_the_middle_is_no_end() {
    let mut both = both(10, 10).await;
    drop(both.open(b"half a que").await);
    let mut asked = both.take().await;
    assert!(read(&mut asked).await.is_err());

    let mut asking = both.open(b"question").await;
    let mut asked = both.take().await;
    asked.write_all(b"half an ans").await.unwrap();
    drop(asked);
    assert!(read(&mut asking).await.is_err());
    // It is wanted no more: writing fails too, sooner or later.
    let writing = async { while asking.write_all(&[0; 1000]).await.is_ok() {} };
    soon("writing fails", writing).await;
}

#[tokio::test]
async fn a_lost_connection_ends_its_streams() {
    let mut both = both(10, 10).await;
    let mut asking = both.open(b"question").await;
    let mut asked = both.take().await;
    both.opener.quic.disconnect(both.taker.id());
    assert!(read(&mut asking).await.is_err() && read(&mut asked).await.is_err());
    until("not connected", || both.opener.quic.round_trip(both.taker.id()).is_none()).await;
}

#[tokio::test]
async fn a_peer_has_so_many_streams_and_no_more() {
    let mut both = both(100, 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push((both.open(b"x").await, both.take().await));
    }
    let mut fourth = Box::pin(both.opener.quic.open(both.taker.id()));
    // The others work meanwhile, as often as one likes.
    for _ in 0..10 {
        for (asking, asked) in &mut held {
            asking.write_all(b"more").await.unwrap();
            let mut byte = [0];
            asked.read_exact(&mut byte).await.unwrap();
            let waits = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(fourth.as_mut().poll(cx).is_pending())
            });
            assert!(waits.await, "three are open");
        }
    }
    drop(held.pop());
    assert!(soon("room", fourth).await.is_ok());
}

#[tokio::test]
async fn what_nobody_takes_is_refused_and_frames_go_on() {
    let (meters, _guard) = Meters::install();
    let mut both = both(1, 64).await;
    let waiting = both.open(b"taken later").await;
    until("it waits", || meters.count("atoll_transport_request_streams_total", "accepted") == 1)
        .await;
    let mut refused = both.open(b"refused").await;
    assert!(read(&mut refused).await.is_err());
    // Nobody at all takes what the other side opens.
    let mut unwanted = both.taker.quic.open(both.opener.id()).await.unwrap();
    let _ = unwanted.write_all(b"unwanted").await;
    assert!(read(&mut unwanted).await.is_err());
    assert_eq!(meters.count("atoll_transport_request_streams_total", "refused"), 2);
    drop(both.take().await);
    drop(waiting);
    assert!(both.opener.quic.send(both.taker.id(), Class::Control, numbered(1)));
    both.taker.expect_frame(both.opener.id(), Class::Control, &numbered(1)).await;
}
