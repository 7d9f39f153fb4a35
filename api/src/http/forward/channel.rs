//! Channels to other nodes: HTTP/2 over a stream of the transport.
//!
//! Invariants:
//! 1. A slow reader of one answer holds up no other, nor what the nodes replicate: each answer has
//!    a window of its own, and whatever arrives is taken from the transport at once.
//! 2. A channel carries a bounded number of requests; above it they wait, for as long as they may.
//!    Streams, which stay, have another channel than requests, which do not.
//! 3. Whoever gives up a request, or drops its answer, cancels it at the other node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atoll_replication::transport::NodeId;
use atoll_replication::transport::quic::Quic;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What runs over a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Answers that end.
    Requests,
    /// Subscriptions.
    Streams,
}

impl Lane {
    /// Requests of one channel at a time; more wait.
    fn room(self) -> usize {
        match self {
            Lane::Requests => 1_024,
            Lane::Streams => 4_096,
        }
    }

    /// Bytes of one answer that wait for its reader.
    fn window(self) -> u32 {
        match self {
            Lane::Requests => 256 << 10,
            // Small: many are open, and some of their readers are slow.
            Lane::Streams => 16 << 10,
        }
    }
}

/// The most that a peer may open on one channel: the most that any lane does.
pub(super) const REQUESTS: u32 = 4_096;

/// How long a request may wait to be sent, and how long for its answer.
#[derive(Clone, Copy)]
pub(super) struct Until {
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The request did not leave this node.
    Unsent,
    /// It did, or may have.
    Lost,
}

/// The head of an answer, and its place in the channel for as long as it is read.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) permit: OwnedSemaphorePermit,
}

type Sender = SendRequest<Full<Bytes>>;

struct Channel {
    lane: Lane,
    room: Arc<Semaphore>,
    /// Held while a channel is opened, so that there is one.
    sender: tokio::sync::Mutex<Option<Sender>>,
}

/// Channels to all other nodes, opened when they are needed.
pub(super) struct Channels {
    quic: Quic,
    open: Mutex<BTreeMap<(NodeId, Lane), Arc<Channel>>>,
}

impl Channels {
    pub(super) fn new(quic: Quic) -> Channels {
        Channels { quic, open: Mutex::default() }
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        node: NodeId,
        lane: Lane,
        mut request: Request<Full<Bytes>>,
        until: Until,
    ) -> Result<Answered, Failed> {
        let channel = self.channel(node, lane);
        let permit = timeout_at(until.sent, channel.room.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| Failed::Unsent)?.expect("never closed");
        // Twice: the other node may close a channel at the moment when this one uses it.
        for _ in 0..2 {
            let sender = timeout_at(until.sent, channel.sender(&self.quic, node)).await;
            let mut sender = sender.map_err(|_| Failed::Unsent)??;
            match timeout_at(until.answered, sender.try_send_request(request)).await {
                Ok(Ok(response)) => return Ok(Answered { response, permit }),
                Ok(Err(mut error)) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failed::Lost),
                },
                Err(_) => return Err(Failed::Lost),
            }
        }
        Err(Failed::Unsent)
    }

    fn channel(&self, node: NodeId, lane: Lane) -> Arc<Channel> {
        let mut open = self.open.lock().expect("no panic under this lock");
        if let Some(channel) = open.get(&(node, lane)) {
            return channel.clone();
        }
        // Nodes come and go: what nobody uses and nothing carries is forgotten.
        open.retain(|_, channel| Arc::strong_count(channel) > 1 || channel.is_open());
        let channel = Arc::new(Channel {
            lane,
            room: Arc::new(Semaphore::new(lane.room())),
            sender: tokio::sync::Mutex::new(None),
        });
        open.insert((node, lane), channel.clone());
        channel
    }
}

impl Channel {
    fn is_open(&self) -> bool {
        // One that is being opened is in use.
        let sender = self.sender.try_lock();
        sender.is_ok_and(|sender| sender.as_ref().is_some_and(|sender| !sender.is_closed()))
    }

    /// The way in, opened if it is not open.
    async fn sender(&self, quic: &Quic, node: NodeId) -> Result<Sender, Failed> {
        let mut sender = self.sender.lock().await;
        if let Some(sender) = sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        *sender = None;
        let stream = quic.open(node).await.map_err(|_| Failed::Unsent)?;
        let window = self.lane.window();
        let handshake = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            // All windows together: the channel's own never holds up an answer.
            .initial_connection_window_size(window.saturating_mul(self.lane.room() as u32))
            .handshake(TokioIo::new(stream))
            .await;
        let (opened, connection) = handshake.map_err(|_| Failed::Unsent)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%node, %error, "a channel to another node failed");
            }
        });
        *sender = Some(opened.clone());
        Ok(opened)
    }
}
