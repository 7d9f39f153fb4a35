//! QUIC between nodes: one endpoint a node, mutual TLS, one connection a pair.
//!
//! How a frame travels:
//!
//! 1. [`Quic::send`] (the [`Transport`]) puts it into the queue of its peer and class (`queue`).
//! 2. A writer task a class takes all that has queued up and writes it at once (`connection`),
//!    with a length before each frame (`frames`), on that class's own stream.
//! 3. QUIC sends streams by priority. The peer's reader task cuts frames out and awaits room in
//!    the arrivals channel: a slow driver stops the reader, then, by flow control, the writer,
//!    until the sender's queue is full and `send` says `false`.
//!
//! Requests and their answers have streams of their own (`requests`), which the layers above fill.
//!
//! A datagram goes before all streams ([`Quic::datagram`]); what QUIC could not send soon, and what
//! the receiver has no room for, is dropped.
//!
//! Invariants, beyond those of the seam:
//!
//! 1. Only this directory names quinn and rustls.
//! 2. A peer costs at most a queue a class, the send window, and the connection's receive window.
//! 3. A peer that breaks the protocol loses its connection, is counted, and affects no other.
//! 4. An address is dialled until it is removed or answers as this node itself; once it has
//!    answered as a peer, it is dialled at least every second while that peer is not connected
//!    (`dial`).
//!
//! Left out: reload of certificates and bounded age of connections, gateways. A name
//! that resolves to several nodes is dialled in turn, but stays with one of them while connected.

mod connection;
mod dial;
mod frames;
mod inboxes;
mod meters;
mod peers;
mod queue;
mod requests;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, IdleTimeout, TransportConfig, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::certificates::{CertificateError, Identity};
use super::{Class, DATAGRAM_BYTES, NodeId, Transport};
pub use inboxes::Inboxes;
use peers::{CLOSED, Peers};
pub use requests::{Incoming, OpenError, RequestStream};

/// Handshakes of others under way at once; beyond half of them a caller must first prove its
/// address, beyond all of them it is refused.
const HANDSHAKES: usize = 128;

/// How long `close` waits for queued frames to be acknowledged.
const FLUSH: Duration = Duration::from_secs(1);

/// How long `close` waits for peers to acknowledge the end of connections.
const FAREWELL: Duration = Duration::from_secs(1);

/// Datagrams that wait, in each direction of a connection: more are too old to be of use.
const DATAGRAMS_BYTES: usize = 64 * 1024;

const MIB: usize = 1024 * 1024;

/// What a node's transport is told. Byte counts are per peer, times per connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, UDP; port 0: any free one. `[::]` takes IPv4 too.
    pub listen: SocketAddr,
    /// Certificate, key and authority.
    pub identity: Identity,
    /// Whom to dial, as `host:port`; resolved anew at each attempt. May name this node itself.
    pub peers: Vec<String>,
    /// The most that waits in each queue, bytes, 64 more a frame. Default 8 MiB: a second of
    /// traffic at 64 Mbit/s, after which sync is cheaper than a longer queue.
    pub queue_bytes: usize,
    /// The largest frame, bytes. Default 4 MiB: many chunks of state, few to a stream's window.
    /// At most `queue_bytes` less 64, and the same on all nodes.
    pub max_frame_bytes: usize,
    /// A quiet connection is probed this often, ms. Default 2000: two losses in a row do not
    /// reach the idle timeout.
    pub keep_alive_ms: u64,
    /// A connection is given up after this long without a packet, ms. Default 6000: detection in
    /// seconds, three keep-alives.
    pub idle_timeout_ms: u64,
    /// What a peer may send before the driver takes it, bytes, all classes together. Default
    /// 16 MiB: QUIC's own default is unbounded.
    pub connection_window_bytes: u32,
    /// The same for each class. Default 8 MiB: 640 Mbit/s at 100 ms; half the connection's, so
    /// that one class alone cannot take it all.
    pub stream_window_bytes: u32,
    /// What QUIC holds until it is acknowledged, bytes. Default 32 MiB: four streams' windows, so
    /// that a stuck class leaves room for the others.
    pub send_window_bytes: u64,
    /// First pause between dials, ms; doubles, and is shortened by up to half at random.
    /// Default 100.
    pub dial_min_ms: u64,
    /// Longest pause between dials of an address that never answered, ms. Default 5000.
    pub dial_max_ms: u64,
    /// Longest pause for one that did, ms. Default 1000: after a partition heals, nodes should be
    /// connected within about a second.
    pub dial_max_known_ms: u64,
    /// Streams that a peer may have open at once, beside those of its classes. Default 64: each
    /// carries many requests.
    pub request_streams: u32,
}

impl Config {
    /// Defaults, and nobody to dial.
    pub fn new(listen: SocketAddr, identity: Identity) -> Self {
        Self {
            listen,
            identity,
            peers: Vec::new(),
            queue_bytes: 8 * MIB,
            max_frame_bytes: 4 * MIB,
            keep_alive_ms: 2000,
            idle_timeout_ms: 6000,
            connection_window_bytes: 16 * 1024 * 1024,
            stream_window_bytes: 8 * 1024 * 1024,
            send_window_bytes: 32 * 1024 * 1024,
            dial_min_ms: 100,
            dial_max_ms: 5000,
            dial_max_known_ms: 1000,
            request_streams: 64,
        }
    }

    fn transport(&self) -> Result<TransportConfig, Error> {
        if self.max_frame_bytes.saturating_add(64) > self.queue_bytes {
            return Err(Error::Config("max_frame_bytes does not fit into queue_bytes"));
        }
        if u32::try_from(self.max_frame_bytes).is_err() {
            return Err(Error::Config("max_frame_bytes is 4 GiB or more"));
        }
        let idle = IdleTimeout::try_from(Duration::from_millis(self.idle_timeout_ms))
            .map_err(|_| Error::Config("idle_timeout_ms is too long"))?;
        let classes = VarInt::from_u32(Class::ALL.len() as u32);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(classes)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.request_streams))
            .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES))
            .datagram_send_buffer_size(DATAGRAMS_BYTES)
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(Duration::from_millis(self.keep_alive_ms)))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .send_window(self.send_window_bytes)
            // A lost first packet is repeated after three times this: soon after a heal.
            .initial_rtt(Duration::from_millis(100));
        Ok(transport)
    }
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Change the named setting.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// Check the identity's PEM texts.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The identity's parts were read but cannot be used together.
    #[error("TLS: {0}")]
    Tls(String),
    /// Another process listens there, or the address is not this machine's.
    #[error("listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing new is sent or dialled; what is queued still goes.
    Closing,
    Closed,
}

/// What all tasks of one transport share.
struct Shared {
    me: NodeId,
    config: Config,
    endpoint: Endpoint,
    peers: Peers,
    inboxes: Inboxes,
    phase: watch::Sender<Phase>,
    handshakes: Arc<Semaphore>,
    /// What is dialled; dropping a sender ends it.
    dialled: Mutex<BTreeMap<String, watch::Sender<()>>>,
}

impl Shared {
    /// Runs until it is done or the transport is closed.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut phase = self.phase.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Closed) => {}
                () = work => {}
            }
        });
    }

    fn is_open(&self) -> bool {
        *self.phase.borrow() == Phase::Open && !self.inboxes.is_closed()
    }

    fn stop(&self) {
        self.endpoint.close(CLOSED, b"stopped");
        self.phase.send_replace(Phase::Closed);
    }
}

/// Stops everything when the last handle goes.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A running transport: a cheap handle. It stops with [`Quic::close`] or with the last handle.
#[derive(Clone)]
pub struct Quic(Arc<Owner>);

impl Quic {
    /// Listens, dials the configured peers, and delivers to `inboxes`. Must be called in a tokio
    /// runtime.
    pub fn start(config: Config, inboxes: Inboxes) -> Result<Self, Error> {
        let transport = Arc::new(config.transport()?);
        let (mut client, mut server) = tls::configure(&config.identity)?;
        client.transport_config(Arc::clone(&transport));
        server.transport_config(transport).max_incoming(2 * HANDSHAKES);
        let listen = |source| Error::Listen { address: config.listen, source };
        let socket = UdpSocket::bind(config.listen).map_err(listen)?;
        let endpoint = tls::endpoint(&config.identity)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let mut endpoint =
            Endpoint::new(endpoint, Some(server), socket, runtime).map_err(listen)?;
        endpoint.set_default_client_config(client);
        let me = config.identity.node_id();
        let peers = config.peers.clone();
        let shared = Arc::new(Shared {
            me,
            config,
            endpoint,
            peers: Peers::new(me),
            inboxes,
            phase: watch::Sender::new(Phase::Open),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            dialled: Mutex::default(),
        });
        shared.spawn(connection::accept(Arc::clone(&shared)));
        let quic = Self(Arc::new(Owner(shared)));
        peers.into_iter().for_each(|address| quic.add_peer(address));
        Ok(quic)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.shared().me
    }

    /// Where it listens. Fails only if the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.shared().endpoint.local_addr()
    }

    /// Dials one more `host:port` from now on; nothing happens if it is dialled already.
    pub fn add_peer(&self, address: impl Into<String>) {
        let (shared, address) = (self.shared(), address.into());
        let mut dialled = shared.dialled.lock().expect("nothing panics while it holds the map");
        if !dialled.contains_key(&address) {
            let (kept, removed) = watch::channel(());
            dialled.insert(address.clone(), kept);
            shared.spawn(dial::keep_connected(Arc::clone(shared), address, removed));
        }
    }

    /// Dials an address no more. A connection stays, whoever dialled it.
    pub fn remove_peer(&self, address: &str) {
        let mut dialled =
            self.shared().dialled.lock().expect("nothing panics while it holds the map");
        dialled.remove(address);
    }

    /// Opens a stream to a connected node, once that node allows another. It learns of it with the
    /// first bytes.
    pub async fn open(&self, peer: NodeId) -> Result<RequestStream, OpenError> {
        let link = self.shared().peers.live(peer).ok_or(OpenError::Disconnected)?;
        RequestStream::open(&link).await
    }

    /// Closes the connection to a node. Whoever dials it goes on doing so.
    pub fn disconnect(&self, peer: NodeId) {
        if let Some(link) = self.shared().peers.live(peer) {
            link.connection.close(CLOSED, b"disconnected");
        }
    }

    /// Ends all connections and stops listening. Frames accepted before are sent first, for at
    /// most a second; none is accepted any more, and arrivals stop.
    pub async fn close(&self) {
        let shared = self.shared();
        shared.phase.send_replace(Phase::Closing);
        shared.endpoint.set_server_config(None);
        let links = shared.peers.all();
        links.iter().flat_map(|link| &link.queues).for_each(queue::Queue::close);
        let flush = async {
            for link in links.iter().filter(|link| link.is_live()) {
                let all = Class::ALL.len();
                tokio::select! {
                    _ = link.connection.closed() => {}
                    () = link.finished(all) => {}
                }
            }
        };
        if timeout(FLUSH, flush).await.is_err() {
            tracing::info!("closed before all frames were acknowledged");
        }
        shared.stop();
        if timeout(FAREWELL, shared.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("closed before all peers acknowledged it");
        }
    }
}

impl Transport for Quic {
    fn send(&self, to: NodeId, class: Class, frame: Bytes) -> bool {
        let shared = self.shared();
        let why = if frame.len() > shared.config.max_frame_bytes {
            "oversized"
        } else {
            match shared.peers.live(to) {
                None => "disconnected",
                Some(link) if !link.queue(class).push(frame) => "full",
                Some(_) => return true,
            }
        };
        meters::dropped(class, why, 1);
        false
    }

    fn datagram(&self, to: NodeId, bytes: Bytes) -> bool {
        let sent = match self.shared().peers.live(to) {
            _ if bytes.len() > DATAGRAM_BYTES => Err("oversized"),
            None => Err("disconnected"),
            Some(link) => link.datagram(bytes),
        };
        match sent {
            Ok(()) => meters::datagram_sent(),
            Err(why) => meters::datagram_dropped(why),
        }
        sent.is_ok()
    }

    fn received(&self, peer: NodeId) -> Option<u64> {
        let link = self.shared().peers.live(peer)?;
        Some(link.connection.stats().udp_rx.datagrams)
    }

    fn reject(&self, peer: NodeId, why: &'static str) {
        if let Some(link) = self.shared().peers.live(peer) {
            link.reject(why);
        }
    }

    fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        self.shared().peers.live(peer).map(|link| link.connection.rtt())
    }
}
