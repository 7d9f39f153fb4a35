//! A network in memory for tests and the simulator: a function of its seed and of what it is told.
//!
//! No runtime, no clock, no random source: time is a number of milliseconds that the caller passes
//! and that must not go back; chance is drawn from a generator seeded once. A caller joins nodes,
//! sends, and at [`Network::next_at`] calls [`Network::deliver`]. Every pair of nodes is connected;
//! or, in a [`Network::dialled`] one, every pair of which at least one dials the other.
//!
//! Invariants:
//!
//! 1. The same seed and the same calls give the same arrivals in the same order.
//! 2. For each ordered pair of nodes the arrivals read `Connected (Received | Datagram)*
//!    Disconnected`, and again from the start; what is sent in one connection never arrives in the
//!    next.
//! 3. Without loss, duplication, reordering and cuts, frames of one link and class arrive in the
//!    order sent, each once.
//!
//! It is harsher than QUIC on purpose: within a connection a frame may be lost, doubled or
//! overtaken, as overflowing queues and reconnections do to the real one. What is sent into a cut
//! is lost at once, though QUIC would retransmit after a short one.
//!
//! Left out: bandwidth, bounded queues, priorities between classes, certificates, and QUIC's own
//! packets: a peer that sends nothing gives no sign of life here.

mod random;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::{Arrival, Class, DATAGRAM_BYTES, NodeId};
use random::Random;

/// How one direction between two nodes behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Least one-way delay, ms. Default 1: a region's.
    pub delay_min_ms: u64,
    /// Greatest one-way delay of a frame that is not reordered, ms; uniform. Default 1.
    pub delay_max_ms: u64,
    /// Probability that a frame is lost, 0 to 1. Default 0.
    pub loss: f64,
    /// Probability that a frame arrives twice, 0 to 1. Default 0.
    pub duplication: f64,
    /// Probability that a frame waits longer and may be overtaken, 0 to 1. Default 0.
    pub reordering: f64,
}

impl Default for Link {
    fn default() -> Self {
        Self { delay_min_ms: 1, delay_max_ms: 1, loss: 0.0, duplication: 0.0, reordering: 0.0 }
    }
}

/// How fast nodes notice; ranges are inclusive, ms, uniform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From a cut or a crash to `Disconnected`. Default 4000 to 6000: QUIC's idle timeout.
    pub detection_ms: (u64, u64),
    /// From the end of a cut, or a start, to `Connected`. Default 10 to 1000: the dial's back-off.
    pub reconnection_ms: (u64, u64),
}

impl Default for Timing {
    fn default() -> Self {
        Self { detection_ms: (4000, 6000), reconnection_ms: (10, 1000) }
    }
}

/// An ordered pair: what the first sees of, or sends to, the second.
type Direction = (NodeId, NodeId);

/// A stream of one class in a direction, or none: its datagrams.
type Lane = (NodeId, NodeId, Option<Class>);

enum Event {
    Frame {
        from: NodeId,
        to: NodeId,
        /// None: a datagram.
        class: Option<Class>,
        frame: Bytes,
        epoch: u64,
    },
    /// `node` notices that `peer` is unreachable, unless the pair changed since.
    Detect { node: NodeId, peer: NodeId, change: u64 },
    /// Both connect anew, unless the pair changed since.
    Connect { a: NodeId, b: NodeId, change: u64 },
}

/// The network: nodes, the links between them, and what is under way.
pub struct Network {
    random: Random,
    timing: Timing,
    link: Link,
    links: BTreeMap<Direction, Link>,
    nodes: BTreeSet<NodeId>,
    /// Who dials whom; none: everyone dials everyone.
    dials: Option<BTreeSet<Direction>>,
    cut: BTreeSet<Direction>,
    /// Who is told to be connected to whom, and in which connection.
    connected: BTreeMap<Direction, u64>,
    /// Raised at each cut, heal, crash or start of a pair: outdates what was scheduled before.
    changes: BTreeMap<Direction, u64>,
    /// When the latest frame that keeps its place arrives.
    latest: BTreeMap<(NodeId, NodeId, Class), u64>,
    /// How much each has received from whom, in the connection that it is in.
    received: BTreeMap<Direction, u64>,
    events: BTreeMap<(u64, u64), Event>,
    /// Breaks ties between events of one millisecond; also numbers connections and changes.
    counter: u64,
}

impl Network {
    /// An empty network with default links and timing.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            timing: Timing::default(),
            link: Link::default(),
            links: BTreeMap::new(),
            nodes: BTreeSet::new(),
            dials: None,
            cut: BTreeSet::new(),
            connected: BTreeMap::new(),
            changes: BTreeMap::new(),
            latest: BTreeMap::new(),
            received: BTreeMap::new(),
            events: BTreeMap::new(),
            counter: 0,
        }
    }

    /// An empty network in which nodes connect to those that they dial.
    pub fn dialled(seed: u64) -> Self {
        Self { dials: Some(BTreeSet::new()), ..Self::new(seed) }
    }

    /// Replaces the timing of what happens from now on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Replaces the behaviour of every link that has none of its own.
    pub fn set_default_link(&mut self, link: Link) {
        self.link = link;
    }

    /// Replaces the behaviour of one direction.
    pub fn set_link(&mut self, from: NodeId, to: NodeId, link: Link) {
        self.links.insert((from, to), link);
    }

    /// A node starts; it connects to every other that it can reach. A node that runs is restarted.
    pub fn join(&mut self, now: u64, node: NodeId) {
        self.leave(now, node);
        self.nodes.insert(node);
        for peer in self.others(node) {
            self.schedule_connect(now, node, peer);
        }
    }

    /// A node crashes: it hears nothing more, frames to it are lost, its peers notice in time.
    /// Frames that it sent before still arrive.
    pub fn leave(&mut self, now: u64, node: NodeId) {
        if !self.nodes.remove(&node) {
            return;
        }
        if let Some(dials) = &mut self.dials {
            dials.retain(|(from, _)| *from != node);
        }
        for peer in self.others(node) {
            self.connected.remove(&(node, peer));
            self.schedule_detection(now, node, peer);
        }
    }

    /// A node keeps another connected from now on, as long as it runs. The other need not be there.
    pub fn dial(&mut self, now: u64, from: NodeId, to: NodeId) {
        let Some(dials) = self.dials.as_mut().filter(|_| from != to) else { return };
        if dials.insert((from, to)) && !self.is_connected(from, to) {
            self.schedule_connect(now, from, to);
        }
    }

    /// A node does not dial another any more. A connection stays as long as it lasts.
    pub fn forget(&mut self, from: NodeId, to: NodeId) {
        if let Some(dials) = &mut self.dials {
            dials.remove(&(from, to));
        }
    }

    /// A node closes a connection. Whoever dials makes another one.
    pub fn close(&mut self, now: u64, node: NodeId, peer: NodeId) {
        if self.connected.contains_key(&(node, peer)) {
            let change = self.changed(node, peer);
            let (a, b) = pair(node, peer);
            for (node, peer) in [(a, b), (b, a)] {
                self.schedule(now + 1, Event::Detect { node, peer, change });
            }
            if self.reachable(a, b) {
                let (min, max) = self.timing.reconnection_ms;
                let at = now + 1 + self.random.between(min, max);
                self.schedule(at, Event::Connect { a, b, change });
            }
        }
    }

    /// Whether each of a pair takes the other for connected.
    pub fn is_connected(&self, a: NodeId, b: NodeId) -> bool {
        [(a, b), (b, a)].iter().all(|side| self.connected.contains_key(side))
    }

    /// Sends a frame. `false`: dropped, because the sender is not connected to the receiver.
    pub fn send(&mut self, now: u64, from: NodeId, to: NodeId, class: Class, frame: Bytes) -> bool {
        self.carry(now, (from, to, Some(class)), frame)
    }

    /// Sends a datagram: lost, doubled and delayed as frames are, and never in order. `false`:
    /// dropped, because the sender is not connected to the receiver, or it is too long.
    pub fn datagram(&mut self, now: u64, from: NodeId, to: NodeId, bytes: Bytes) -> bool {
        bytes.len() <= DATAGRAM_BYTES && self.carry(now, (from, to, None), bytes)
    }

    /// How many frames and datagrams have come from a connected peer since it connected.
    pub fn received(&self, node: NodeId, peer: NodeId) -> Option<u64> {
        let connected = self.connected.contains_key(&(node, peer));
        connected.then(|| self.received.get(&(node, peer)).copied().unwrap_or(0))
    }

    fn carry(&mut self, now: u64, lane: Lane, frame: Bytes) -> bool {
        let (from, to, class) = lane;
        let Some(&epoch) = self.connected.get(&(from, to)) else {
            return false;
        };
        let link = self.links.get(&(from, to)).copied().unwrap_or(self.link);
        if self.cut.contains(&(from, to)) || self.random.chance(link.loss) {
            return true;
        }
        let copies = 1 + usize::from(self.random.chance(link.duplication));
        for _ in 0..copies {
            let at = self.arrival_at(now, &link, lane);
            let frame = frame.clone();
            self.schedule(at, Event::Frame { from, to, class, frame, epoch });
        }
        true
    }

    /// The peer broke the protocol: both ends lose the connection, and connect again.
    pub fn reject(&mut self, now: u64, node: NodeId, peer: NodeId) {
        if self.connected.contains_key(&(node, peer)) {
            self.schedule_connect(now, node, peer);
        }
    }

    /// Nothing sent by `from` reaches `to` any more. A connection needs both directions, so both
    /// notice after the detection time.
    pub fn cut(&mut self, now: u64, from: NodeId, to: NodeId) {
        if from != to && self.cut.insert((from, to)) {
            self.schedule_detection(now, from, to);
        }
    }

    /// Cuts both directions between every node of `left` and every node of `right`.
    pub fn partition(&mut self, now: u64, left: &[NodeId], right: &[NodeId]) {
        for &a in left {
            for &b in right {
                self.cut(now, a, b);
                self.cut(now, b, a);
            }
        }
    }

    /// Undoes a cut. Once both directions are whole, a pair that noticed connects again; one that
    /// did not goes on as if nothing happened, less the frames that were lost.
    pub fn heal(&mut self, now: u64, from: NodeId, to: NodeId) {
        if self.cut.remove(&(from, to)) && self.is_whole(from, to) {
            if self.is_connected(from, to) {
                self.changed(from, to);
            } else {
                self.schedule_connect(now, from, to);
            }
        }
    }

    /// Undoes all cuts.
    pub fn heal_all(&mut self, now: u64) {
        for (from, to) in self.cut.clone() {
            self.heal(now, from, to);
        }
    }

    /// When something happens next; `None`: never, unless more is sent.
    pub fn next_at(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Everything that happens up to and including `now`, in order: who receives what.
    pub fn deliver(&mut self, now: u64) -> Vec<(NodeId, Arrival)> {
        let mut arrivals = Vec::new();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let event = entry.remove();
            self.happen(event, &mut arrivals);
        }
        arrivals
    }

    fn happen(&mut self, event: Event, arrivals: &mut Vec<(NodeId, Arrival)>) {
        match event {
            Event::Frame { from, to, class, frame, epoch } => {
                let whole = !self.cut.contains(&(from, to));
                if whole && self.connected.get(&(to, from)) == Some(&epoch) {
                    *self.received.entry((to, from)).or_default() += 1;
                    arrivals.push((to, arrived(from, class, frame)));
                }
            }
            Event::Detect { node, peer, change } => {
                if self.changes.get(&pair(node, peer)) == Some(&change) {
                    self.disconnect(node, peer, arrivals);
                }
            }
            Event::Connect { a, b, change } => {
                if self.changes.get(&pair(a, b)) == Some(&change) && self.reachable(a, b) {
                    self.connect(a, b, arrivals);
                }
            }
        }
    }

    fn connect(&mut self, a: NodeId, b: NodeId, arrivals: &mut Vec<(NodeId, Arrival)>) {
        self.disconnect(a, b, arrivals);
        self.disconnect(b, a, arrivals);
        let epoch = self.count();
        for (node, peer) in [(a, b), (b, a)] {
            self.connected.insert((node, peer), epoch);
            self.latest.retain(|&(from, to, _), _| (from, to) != (node, peer));
            self.received.remove(&(node, peer));
            arrivals.push((node, Arrival::Connected { peer, address: address_of(peer) }));
        }
    }

    fn disconnect(&mut self, node: NodeId, peer: NodeId, arrivals: &mut Vec<(NodeId, Arrival)>) {
        if self.connected.remove(&(node, peer)).is_some() {
            arrivals.push((node, Arrival::Disconnected { peer }));
        }
    }

    fn arrival_at(&mut self, now: u64, link: &Link, lane: Lane) -> u64 {
        let delay = self.random.between(link.delay_min_ms, link.delay_max_ms);
        if self.random.chance(link.reordering) {
            return now + delay + self.random.between(1, link.delay_max_ms.max(1) * 4);
        }
        let (from, to, Some(class)) = lane else { return now + delay };
        let latest = self.latest.entry((from, to, class)).or_insert(0);
        *latest = (*latest).max(now + delay);
        *latest
    }

    fn schedule_detection(&mut self, now: u64, a: NodeId, b: NodeId) {
        let change = self.changed(a, b);
        let (a, b) = pair(a, b);
        let (min, max) = self.timing.detection_ms;
        for (node, peer) in [(a, b), (b, a)] {
            let at = now + self.random.between(min, max);
            self.schedule(at, Event::Detect { node, peer, change });
        }
    }

    fn schedule_connect(&mut self, now: u64, a: NodeId, b: NodeId) {
        if self.reachable(a, b) {
            let change = self.changed(a, b);
            let (a, b) = pair(a, b);
            let (min, max) = self.timing.reconnection_ms;
            let at = now + self.random.between(min, max);
            self.schedule(at, Event::Connect { a, b, change });
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        let sequence = self.count();
        self.events.insert((at, sequence), event);
    }

    fn changed(&mut self, a: NodeId, b: NodeId) -> u64 {
        let change = self.count();
        self.changes.insert(pair(a, b), change);
        change
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn is_whole(&self, a: NodeId, b: NodeId) -> bool {
        let up = self.nodes.contains(&a) && self.nodes.contains(&b);
        up && !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    fn reachable(&self, a: NodeId, b: NodeId) -> bool {
        let dialled =
            |dials: &BTreeSet<Direction>| dials.contains(&(a, b)) || dials.contains(&(b, a));
        self.dials.as_ref().is_none_or(dialled) && self.is_whole(a, b)
    }

    fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.nodes.iter().copied().filter(|other| *other != node).collect()
    }
}

fn arrived(peer: NodeId, class: Option<Class>, frame: Bytes) -> Arrival {
    match class {
        Some(class) => Arrival::Received { peer, class, frame },
        None => Arrival::Datagram { peer, bytes: frame },
    }
}

/// A pair without direction, as a key.
fn pair(a: NodeId, b: NodeId) -> Direction {
    (a.min(b), a.max(b))
}

/// Made up, the same for the same node.
fn address_of(node: NodeId) -> SocketAddr {
    let [a, b, c, ..] = node.0;
    (Ipv4Addr::new(10, a, b, c), 7400).into()
}
