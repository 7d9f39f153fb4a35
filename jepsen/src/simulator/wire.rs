//! Between a node and the network: what it sent, and what arrives at it.

use std::collections::BTreeMap;

use atoll_replication::core::message::Message;
use atoll_replication::transport::{Arrival, Class, NodeId};
use atoll_store::dot::Origin;
use atoll_store::operation::Operation;
use bytes::Bytes;

use super::machine::{Machine, Running, Sent, covers};
use super::world::World;

/// What all nodes have sent of a kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// What all nodes have sent, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic(pub(super) BTreeMap<&'static str, Sum>);

impl Traffic {
    fn count(&mut self, kind: &'static str, bytes: usize) {
        let sum = self.0.entry(kind).or_default();
        sum.packets += 1;
        sum.bytes += bytes as u64;
    }
}

/// What a frame of the cluster's core is of: its first byte tells for which half.
fn half(frame: &[u8]) -> &'static str {
    if frame.first() == Some(&0) { "membership" } else { "council" }
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Vectors(_) => "vectors",
        Message::Ping { .. } | Message::Pong { .. } => "pings",
        Message::Records(_) | Message::Record(_) => "records",
        _ => "other",
    }
}

impl World {
    pub(super) fn arrive(&mut self, to: NodeId, arrival: Arrival) {
        let found = self.machines.iter_mut().find(|machine| machine.id() == to);
        let Some(machine) = found else { return };
        let Some(running) = &mut machine.running else { return };
        running.outbox.count(&arrival);
        if let Some(side) = &mut running.side {
            side.arrive(&arrival);
        }
        match &arrival {
            Arrival::Received { class: Class::Cluster, .. } | Arrival::Datagram { .. } => return,
            Arrival::Received { frame, .. } if has_known(machine, frame) => {
                self.coverage.hit("duplicate operation ignored");
            }
            _ => {}
        }
        machine.arrivals.push(arrival);
    }

    /// What a node has sent by now: only what was released, unless it does what it must not.
    pub(super) fn send_sent(&mut self, at: usize) {
        let machine = &self.machines[at];
        let Some(Running { outbox, origin, .. }) = &machine.running else { return };
        let (time, from, origin, sent) = (self.time, machine.id(), *origin, outbox.take());
        for sent in sent {
            match sent {
                Sent::Frame(to, Class::Cluster, frame) => {
                    self.trace.update(&time.to_le_bytes()).update(&from.0).update(&to.0);
                    self.trace.update(&frame);
                    self.traffic.count(half(&frame), frame.len());
                    self.network.send(time, from, to, Class::Cluster, frame);
                }
                Sent::Frame(to, class, frame) => self.send(from, origin, to, class, frame),
                Sent::Datagram(to, bytes) => {
                    self.traffic.count("membership", bytes.len());
                    self.network.datagram(time, from, to, bytes);
                }
                Sent::Dial(address) => {
                    if let Some(to) = self.named(&address) {
                        self.network.dial(time, from, to);
                    }
                }
                Sent::Forget(address) => {
                    if let Some(to) = self.named(&address) {
                        self.network.forget(from, to);
                    }
                }
                Sent::Disconnect(peer) => self.network.close(time, from, peer),
            }
        }
    }

    fn send(&mut self, from: NodeId, origin: Origin, to: NodeId, class: Class, frame: Bytes) {
        self.trace.update(&self.time.to_le_bytes()).update(&from.0).update(&to.0).update(&frame);
        self.messages += 1;
        let message = Message::decode(&frame).expect("a core sends messages");
        self.traffic.count(kind(&message), frame.len());
        self.check_sent(from, to, &message);
        match message {
            Message::Trimmed(_) => self.coverage.hit("trimmed"),
            Message::Request(_) => self.coverage.hit("range asked for"),
            Message::StateChunk { chunk, .. } => {
                self.coverage.hit("state transferred");
                if chunk.after.is_some() {
                    self.coverage.hit("state in several chunks");
                }
            }
            Message::Operations { relay: false, answer: false, batches } => {
                let mut all = batches.iter().flat_map(|(_, operations)| operations);
                let author = |bytes| Operation::peek(bytes).ok().map(|(dot, _)| dot.origin);
                if all.any(|bytes| author(bytes) != Some(origin)) {
                    self.coverage.hit("passed on inside a region");
                }
            }
            _ => {}
        }
        self.network.send(self.time, from, to, class, frame);
    }

    /// The machine at an address.
    fn named(&self, address: &str) -> Option<NodeId> {
        let found = self.machines.iter().find(|machine| machine.address() == address);
        found.map(Machine::id)
    }
}

/// Whether a frame holds an operation that was applied before.
fn has_known(machine: &Machine, frame: &Bytes) -> bool {
    let Ok(Message::Operations { batches, .. }) = Message::decode(frame) else { return false };
    let mut places = batches.iter().flat_map(|(shard, operations)| {
        operations.iter().filter_map(|bytes| Some((*shard, Operation::peek(bytes).ok()?.0)))
    });
    places.any(|place| covers(&machine.durable, place))
}
