//! One connection from its handshake to its end.
//!
//! Both sides open one unidirectional stream a class. The dialler does so first; the acceptor
//! takes the connection up at the first of them, and answers with its own. `Connected` is told
//! when the peer is known to have taken it up.
//!
//! Datagrams and requests travel beside these streams; datagrams are told between the same two
//! arrivals.
//!
//! Invariants: `Connected` comes after the previous connection's `Disconnected`, and every frame
//! between this connection's two. A connection is closed before its tasks are dropped, so that a
//! peer never sees a stream end inside a frame.
//!
//! Left out: a hello message; the protocol's version is the ALPN.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Incoming, ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::{Arrival, Class, NodeId};
use super::frames::{self, Decoder};
use super::peers::{CLOSED, DUPLICATE, Link};
use super::{HANDSHAKES, Shared, meters, requests, tls};

/// How long a peer may take to complete a handshake and to open its first stream.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that lived this long, and that this side did not close, was a good one.
const STEADY: Duration = Duration::from_secs(1);

/// The most that is read from a stream at once, bytes.
const READ_BYTES: usize = 64 * 1024;

/// How a dialled connection ended.
pub(super) enum Outcome {
    /// It led back to this node.
    Own,
    /// The pair has a link already.
    Duplicate(NodeId),
    /// It was lost. `answered`: the peer had taken it up; `steady`: and it was good for a while.
    Lost { peer: NodeId, answered: bool, steady: bool },
}

/// Accepts until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let free = shared.handshakes.available_permits();
        if free < HANDSHAKES / 2 && incoming.may_retry() {
            // Cannot fail: it may be retried.
            let _ = incoming.retry();
            continue;
        }
        match Arc::clone(&shared.handshakes).try_acquire_owned() {
            Ok(permit) => shared.spawn(accepted(Arc::clone(&shared), incoming, permit)),
            Err(_) => {
                meters::refused("accepted");
                incoming.refuse();
            }
        }
    }
}

async fn accepted(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let connection = match timeout(PATIENCE, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return refused("accepted", &address.to_string(), &error),
        Err(_) => return,
    };
    let peer = tls::peer(&connection).filter(|peer| *peer != shared.me);
    let Some(peer) = peer else {
        return connection.close(CLOSED, b"no peer");
    };
    let Ok(Ok(first)) = timeout(PATIENCE, connection.accept_uni()).await else {
        return connection.close(CLOSED, b"no stream");
    };
    let link = Link::new(peer, connection, false, shared.config.queue_bytes);
    let Some(session) = Session::begin(&shared, link) else { return };
    drop(permit);
    match session.open().await {
        Ok(streams) => drop(session.run(streams, first).await),
        Err(error) => tracing::debug!(%peer, %error, "lost while connecting"),
    }
}

/// Counts and tells a failed handshake, if the peer or this node refused it.
pub(super) fn refused(side: &'static str, address: &str, error: &ConnectionError) {
    match error {
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch => {
            meters::refused(side);
            tracing::warn!(side, address, %error, "refused a handshake");
        }
        _ => tracing::debug!(side, address, %error, "a handshake failed"),
    }
}

/// Takes up a connection that this node dialled, and runs it to its end.
pub(super) async fn dialled(shared: &Arc<Shared>, connection: Connection) -> Outcome {
    let peer = match tls::peer(&connection) {
        Some(peer) if peer != shared.me => peer,
        _ => {
            connection.close(CLOSED, b"self");
            return Outcome::Own;
        }
    };
    let link = Link::new(peer, connection, true, shared.config.queue_bytes);
    let Some(session) = Session::begin(shared, link) else {
        return Outcome::Duplicate(peer);
    };
    let lost = Outcome::Lost { peer, answered: false, steady: false };
    let connection = &session.link.connection;
    let answer = async { Ok((session.open().await?, connection.accept_uni().await?)) };
    let (streams, first) = match timeout(PATIENCE, answer).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            refused("dialled", &connection.remote_address().to_string(), &error);
            return lost;
        }
        Err(_) => {
            connection.close(CLOSED, b"no answer");
            return lost;
        }
    };
    session.link.set_live();
    let reason = session.run(streams, first).await;
    let ours = matches!(reason, ConnectionError::LocallyClosed);
    Outcome::Lost { peer, answered: true, steady: !ours && session.link.age() >= STEADY }
}

/// The time in which a link is its peer's; its end is the end of this value.
struct Session {
    shared: Arc<Shared>,
    link: Arc<Link>,
    replaced: Option<Arc<Link>>,
}

impl Session {
    /// `None`: the pair has a link that stays; the connection is closed.
    fn begin(shared: &Arc<Shared>, link: Link) -> Option<Self> {
        let link = Arc::new(link);
        match shared.peers.adopt(&link) {
            Ok(replaced) => Some(Self { shared: Arc::clone(shared), link, replaced }),
            Err(()) => {
                link.connection.close(DUPLICATE, b"duplicate");
                None
            }
        }
    }

    /// Opens this side's streams, the most urgent first.
    async fn open(&self) -> Result<Vec<SendStream>, ConnectionError> {
        let mut streams = Vec::new();
        for class in Class::ALL {
            let mut stream = self.link.connection.open_uni().await?;
            // A fresh stream takes both, unless the connection is lost: the next step says so.
            let _ = stream.set_priority(class.priority());
            let _ = stream.write_all(&[class as u8]).await;
            streams.push(stream);
        }
        Ok(streams)
    }

    /// Tells the driver, and carries frames until the connection is lost.
    async fn run(&self, streams: Vec<SendStream>, first: RecvStream) -> ConnectionError {
        if let Some(old) = &self.replaced {
            old.ended().await;
        }
        let (peer, address) = (self.link.peer, self.link.connection.remote_address());
        tracing::info!(%peer, %address, "connected");
        let _counted = meters::Connected::count();
        self.shared.inboxes.tell(Arrival::Connected { peer, address }).await;
        let reason = self.exchange(streams, first).await;
        tracing::info!(%peer, %address, %reason, "disconnected");
        self.shared.inboxes.tell(Arrival::Disconnected { peer }).await;
        reason
    }

    async fn exchange(&self, streams: Vec<SendStream>, first: RecvStream) -> ConnectionError {
        let connection = &self.link.connection;
        let mut writers = JoinSet::new();
        for (class, stream) in Class::ALL.into_iter().zip(streams) {
            writers.spawn(write(Arc::clone(&self.link), class, stream));
        }
        let mut readers = JoinSet::new();
        readers.spawn(read_datagrams(Arc::clone(&self.shared), Arc::clone(&self.link)));
        readers.spawn(requests::accept(Arc::clone(&self.shared), Arc::clone(&self.link)));
        let mut next = Ok(first);
        while let Ok(stream) = next {
            readers.spawn(read(Arc::clone(&self.shared), Arc::clone(&self.link), stream));
            next = connection.accept_uni().await;
        }
        let reason = connection.closed().await;
        if matches!(reason, ConnectionError::ApplicationClosed(_)) {
            // What the peer sent before it closed is here already: hand it over.
            while readers.join_next().await.is_some() {}
        }
        // One that is in the middle of handing over must not do so after `Disconnected`.
        readers.shutdown().await;
        reason
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.link.connection.close(CLOSED, b"ended");
        for class in Class::ALL {
            match self.link.queue(class).clear() {
                0 => {}
                frames => meters::dropped(class, "disconnected", frames),
            }
        }
        self.shared.peers.end(&self.link);
    }
}

/// Writes what queues up, until the queue is closed and everything is acknowledged.
async fn write(link: Arc<Link>, class: Class, mut stream: SendStream) {
    let queue = link.queue(class);
    while let Some(batch) = queue.take().await {
        let frames = batch.frames.len();
        let bytes = batch.frames.iter().map(Bytes::len).sum();
        let mut chunks = frames::encode(batch.frames);
        match stream.write_all_chunks(&mut chunks).await {
            Ok(()) => {
                queue.written(batch.cost);
                meters::sent(class, frames, bytes);
            }
            Err(WriteError::Stopped(_)) => return link.reject("stopped"),
            Err(_) => return,
        }
    }
    if stream.finish().is_ok() && stream.stopped().await.is_ok() {
        link.finished.send_modify(|count| *count += 1);
    }
}

/// Why a stream is read no further.
enum End {
    /// The connection is gone, or the driver.
    Lost,
    Breach(&'static str),
}

/// Hands datagrams over until the connection is lost.
async fn read_datagrams(shared: Arc<Shared>, link: Arc<Link>) {
    while let Ok(bytes) = link.connection.read_datagram().await {
        meters::datagram_received();
        shared.inboxes.datagram(Arrival::Datagram { peer: link.peer, bytes });
    }
}

async fn read(shared: Arc<Shared>, link: Arc<Link>, mut stream: RecvStream) {
    if let Err(End::Breach(why)) = read_frames(&shared, &link, &mut stream).await {
        link.reject(why);
    }
}

/// Hands over every frame of a stream; `Ok`: it ended where it may.
async fn read_frames(shared: &Shared, link: &Link, stream: &mut RecvStream) -> Result<(), End> {
    let first = next(stream, 1).await?.ok_or(End::Breach("truncated"))?;
    let class = first.first().and_then(|byte| Class::from_byte(*byte));
    let class = class.ok_or(End::Breach("unknown_class"))?;
    if !link.open(class) {
        return Err(End::Breach("second_stream"));
    }
    let mut decoder = Decoder::new(shared.config.max_frame_bytes);
    while let Some(bytes) = next(stream, READ_BYTES).await? {
        decoder.push(&bytes);
        while let Some(frame) = decoder.pop().map_err(|_| End::Breach("oversized"))? {
            meters::received(class, frame.len());
            let arrival = Arrival::Received { peer: link.peer, class, frame };
            if !shared.inboxes.frame(class, arrival).await {
                link.connection.close(CLOSED, b"stopped");
                return Err(End::Lost);
            }
        }
    }
    decoder.is_empty().then_some(()).ok_or(End::Breach("truncated"))
}

/// The next bytes of a stream; `None`: its end.
async fn next(stream: &mut RecvStream, limit: usize) -> Result<Option<Bytes>, End> {
    match stream.read_chunk(limit, true).await {
        Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
        Err(ReadError::Reset(_)) => Err(End::Breach("reset")),
        Err(_) => Err(End::Lost),
    }
}
