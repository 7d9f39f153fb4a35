//! Who is connected: one link a peer, and which of two connections to keep.
//!
//! A dialled connection is *pending* until the acceptor opens its streams, and the acceptor takes
//! it up only when the dialler opens its own. So a dialler that is already linked drops the new
//! connection before the acceptor counts it. What remains are two nodes that dial each other at
//! the same time, and nodes that have lost what the other still holds; [`new_wins`] decides.
//!
//! Left out: more than one connection a pair (a second would not have the first one's order).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendDatagramError, VarInt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::{Class, NodeId};
use super::meters;
use super::queue::Queue;

/// Error code of a connection closed on purpose: the node stops.
pub(super) const CLOSED: VarInt = VarInt::from_u32(0);
/// Error code: the pair has another connection, which stays.
pub(super) const DUPLICATE: VarInt = VarInt::from_u32(1);
/// Error code: the peer broke the protocol.
pub(super) const BREACH: VarInt = VarInt::from_u32(2);

/// A dialled connection that is unanswered for longer is taken for dead when its peer dials.
const UNANSWERED: Duration = Duration::from_secs(1);

/// One connection and what waits to be written to it.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) connection: Connection,
    pub(super) queues: [Queue; Class::ALL.len()],
    /// This node dialled; otherwise the peer did.
    dialled: bool,
    since: Instant,
    /// Both sides have taken it up: frames flow.
    live: AtomicBool,
    /// The classes whose stream the peer has opened.
    opened: [AtomicBool; Class::ALL.len()],
    /// How many of this side's streams are written out, finished and acknowledged.
    pub(super) finished: watch::Sender<usize>,
    /// The last arrival of this connection has been delivered.
    ended: watch::Sender<bool>,
}

impl Link {
    pub(super) fn new(
        peer: NodeId,
        connection: Connection,
        dialled: bool,
        queue_bytes: usize,
    ) -> Self {
        Self {
            peer,
            connection,
            queues: std::array::from_fn(|_| Queue::new(queue_bytes)),
            dialled,
            since: Instant::now(),
            live: AtomicBool::new(!dialled),
            opened: Default::default(),
            finished: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn queue(&self, class: Class) -> &Queue {
        &self.queues[class.index()]
    }

    /// Whether this is the first stream of its class.
    pub(super) fn open(&self, class: Class) -> bool {
        !self.opened[class.index()].swap(true, Ordering::Relaxed)
    }

    /// Sends a datagram past all queues; QUIC drops the oldest that it could not send yet.
    pub(super) fn datagram(&self, bytes: Bytes) -> Result<(), &'static str> {
        self.connection.send_datagram(bytes).map_err(|error| match error {
            SendDatagramError::TooLarge => "oversized",
            _ => "disconnected",
        })
    }

    pub(super) fn set_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) async fn ended(&self) {
        // The sender is a field of `self`: it outlives the wait.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// The peer broke the protocol: closes and counts, once.
    pub(super) fn reject(&self, why: &'static str) {
        if self.connection.close_reason().is_none() {
            tracing::warn!(peer = %self.peer, why, "closed the connection of a peer");
            meters::rejected(why);
            self.connection.close(BREACH, why.as_bytes());
        }
    }

    /// Waits until this many of this side's streams are acknowledged to their end.
    pub(super) async fn finished(&self, count: usize) {
        let _ = self.finished.subscribe().wait_for(|finished| *finished >= count).await;
    }

    fn standing(&self) -> Standing {
        let closed = self.connection.close_reason().is_some();
        let unanswered = !self.is_live();
        let dead = closed || (unanswered && self.age() > UNANSWERED);
        Standing { dialled: self.dialled, unanswered, dead, closed }
    }
}

/// What decides about a link when the same peer connects again.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// This node dialled it.
    dialled: bool,
    /// The peer has not taken it up, as far as is known here.
    unanswered: bool,
    /// It is of no use, or has been unanswered for too long.
    dead: bool,
    closed: bool,
}

/// Whether a new connection replaces the old one. `dialled`: this node dialled the new one;
/// `lower`: this node's id is the lower of the two.
fn new_wins(old: Standing, dialled: bool, lower: bool) -> bool {
    if dialled {
        // The peer does not count the new one yet: dropping it costs nothing.
        return old.closed;
    }
    // The peer dials only when it has no link. If it had taken up the old one, it has lost it;
    // if not, both dialled at the same time, and the lower id's dial stays.
    let at_the_same_time = old.dialled && old.unanswered && !old.dead;
    !(at_the_same_time && lower)
}

/// All links, at most one a peer.
pub(super) struct Peers {
    me: NodeId,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    changes: watch::Sender<()>,
}

impl Peers {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, links: Mutex::default(), changes: watch::Sender::new(()) }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Link>>> {
        self.links.lock().expect("nothing panics while it holds the links")
    }

    /// The link to a peer, if frames flow on it.
    pub(super) fn live(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.links().get(&peer).filter(|link| link.is_live()).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links().values().cloned().collect()
    }

    /// Makes this the peer's link: the one that it replaces, if any, closed. `Err`: the pair has a
    /// link that stays.
    pub(super) fn adopt(&self, link: &Arc<Link>) -> Result<Option<Arc<Link>>, ()> {
        let mut links = self.links();
        let lower = self.me < link.peer;
        let stays = |old: &Arc<Link>| !new_wins(old.standing(), link.dialled, lower);
        if links.get(&link.peer).is_some_and(stays) {
            return Err(());
        }
        let old = links.insert(link.peer, Arc::clone(link));
        drop(links);
        if let Some(old) = &old {
            old.connection.close(DUPLICATE, b"replaced");
        }
        self.changes.send_replace(());
        Ok(old)
    }

    /// Forgets a link, and tells who waits for its end.
    pub(super) fn end(&self, link: &Arc<Link>) {
        let mut links = self.links();
        if links.get(&link.peer).is_some_and(|current| Arc::ptr_eq(current, link)) {
            links.remove(&link.peer);
        }
        drop(links);
        link.ended.send_replace(true);
        self.changes.send_replace(());
    }

    /// Waits until there is no link to this peer, not even a pending one.
    pub(super) async fn absent(&self, peer: NodeId) {
        let absent = |(): &()| !self.links().contains_key(&peer);
        // The sender is a field of `self`: it outlives the wait.
        let _ = self.changes.subscribe().wait_for(absent).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Standing =
        Standing { dialled: true, unanswered: false, dead: false, closed: false };
    const PENDING: Standing = Standing { unanswered: true, ..LIVE };

    #[test]
    fn of_two_simultaneous_dials_both_sides_keep_the_lower_ones() {
        assert!(!new_wins(PENDING, false, true), "the lower node keeps its own");
        assert!(new_wins(PENDING, false, false), "the higher node takes the other's");
    }

    #[test]
    fn a_dialler_drops_what_it_does_not_need() {
        for lower in [false, true] {
            assert!(!new_wins(LIVE, true, lower));
            assert!(!new_wins(PENDING, true, lower));
            assert!(new_wins(Standing { closed: true, dead: true, ..LIVE }, true, lower));
        }
    }

    #[test]
    fn a_peer_that_dials_again_has_lost_the_old_link() {
        for lower in [false, true] {
            assert!(new_wins(LIVE, false, lower));
            assert!(new_wins(Standing { dialled: false, ..LIVE }, false, lower));
            assert!(new_wins(Standing { dead: true, ..PENDING }, false, lower));
        }
    }
}
