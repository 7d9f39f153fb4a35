//! Who is told what arrives.
//!
//! | arrival | to |
//! |---|---|
//! | connected, disconnected | both cores |
//! | frames of class `Cluster`, datagrams | the core of the cluster, if there is one |
//! | all other frames | the core of replication |
//! | streams of requests | whoever serves them, if anyone does |
//!
//! Invariants: a full inbox slows the stream whose frame has no room, and no other; a datagram or
//! a request without room is dropped and counted. A connection begins and ends once both cores have
//! been told.

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::super::{Arrival, Class, NodeId};
use super::meters;
use super::requests::{Incoming, RequestStream};

/// Where arrivals go. Their receivers bound them; a full one slows the peers down.
#[derive(Clone, Debug)]
pub struct Inboxes {
    replication: Sender<Arrival>,
    cluster: Option<Sender<Arrival>>,
    requests: Option<Sender<Incoming>>,
}

impl Inboxes {
    /// For the core of replication alone: what is for the cluster's is dropped.
    pub fn new(replication: Sender<Arrival>) -> Self {
        Self { replication, cluster: None, requests: None }
    }

    /// Delivers what is for the core of the cluster.
    pub fn with_cluster(mut self, cluster: Sender<Arrival>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Delivers the streams that peers open; without it, and above its bound, they are refused.
    pub fn with_requests(mut self, requests: Sender<Incoming>) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Whether the core of replication is gone: then the transport is of no use.
    pub(super) fn is_closed(&self) -> bool {
        self.replication.is_closed()
    }

    /// Tells both, once both have room.
    pub(super) async fn tell(&self, arrival: Arrival) {
        // A core that is gone is noticed by the readers.
        let cluster = async {
            if let Some(cluster) = &self.cluster {
                let _ = cluster.send(arrival.clone()).await;
            }
        };
        let _ = tokio::join!(self.replication.send(arrival.clone()), cluster);
    }

    /// Hands a frame over. `false`: the core of replication is gone.
    pub(super) async fn frame(&self, class: Class, arrival: Arrival) -> bool {
        match (class, &self.cluster) {
            (Class::Cluster, None) => !self.is_closed(),
            (Class::Cluster, Some(cluster)) => {
                // A core of the cluster that is gone wants nothing any more.
                let _ = cluster.send(arrival).await;
                !self.is_closed()
            }
            _ => self.replication.send(arrival).await.is_ok(),
        }
    }

    /// Hands a datagram over, if there is room.
    pub(super) fn datagram(&self, arrival: Arrival) {
        let Some(cluster) = &self.cluster else { return };
        if let Err(TrySendError::Full(_)) = cluster.try_send(arrival) {
            meters::datagram_dropped("unread");
        }
    }
}

impl Inboxes {
    /// Hands a stream over, if there is room.
    pub(super) fn request(&self, peer: NodeId, stream: RequestStream) -> bool {
        self.requests.as_ref().is_some_and(|to| to.try_send((peer, stream)).is_ok())
    }
}

impl From<Sender<Arrival>> for Inboxes {
    fn from(replication: Sender<Arrival>) -> Self {
        Self::new(replication)
    }
}
