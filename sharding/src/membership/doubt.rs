//! A suspicion is told to everyone connected, who look at once: so that a node that is badly
//! connected itself does not have its peers taken for dead.
//!
//! SWIM asks three others, at random, and spreads what it suspects at random; a node that few can
//! reach, or that reaches few, may miss those few. Streams miss nobody.
//!
//! Invariants:
//! 1. Who raises a suspicion tells all connected peers of its region, the suspect too.
//! 2. Who is told looks, if it is connected to the suspect, and tells the accuser once it knows
//!    better: at once, or when the suspicion is refuted.
//! 3. Another region that still suspects a node is told better by a number above its own: who
//!    knows better may have started since, and count from 0.

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::Membership;
use super::member::{Record, Verdict};
use super::message::Message;
use super::swim::Id;

impl Membership {
    /// Tells of the suspicions that this node raised.
    pub(super) fn accuse(&mut self) {
        for node in self.swim.raised() {
            let Some(view) = self.swim.view(node) else { continue };
            let (incarnation, suspicion) = (view.incarnation, view.suspicion);
            let near = self.near_peers();
            self.send(&near, &Message::Accused { node, incarnation, suspicion });
        }
    }

    /// A peer suspects a node.
    pub(super) fn accused(
        &mut self,
        now: Millis,
        peer: NodeId,
        (node, incarnation, suspicion): (NodeId, u64, u16),
    ) {
        if node == self.table.own().node {
            return self.answer_for_own(now, peer, incarnation, suspicion);
        }
        let Some(view) = self.swim.view(node) else { return };
        let refuted = view.verdict == Verdict::Alive && view.suspicion > suspicion;
        if view.incarnation > incarnation || view.incarnation == incarnation && refuted {
            let known = self.table.telling(node).into_iter().collect();
            return self.send(&[peer], &Message::News(known));
        }
        if view.incarnation < incarnation || view.verdict == Verdict::Down {
            return;
        }
        if !self.table.is_near(peer) {
            return self.clear_abroad(now, peer, node, suspicion);
        }
        self.swim.suspect(now, node, suspicion);
        self.accusers.entry(node).or_default().insert(peer);
        if self.peers.contains_key(&node) {
            self.swim.look(node);
        }
    }

    /// A peer of another region takes a node of this one for a suspect, by old news.
    fn clear_abroad(&mut self, now: Millis, peer: NodeId, node: NodeId, suspicion: u16) {
        let Some(view) = self.swim.view(node).filter(|view| view.verdict == Verdict::Alive) else {
            return;
        };
        let id = Id { node, incarnation: view.incarnation };
        self.swim.learn(now, id, Verdict::Alive, suspicion.saturating_add(1));
        if let Some(view) = self.swim.view(node) {
            self.table.judge(now, node, &view);
        }
        let known = self.table.telling(node).into_iter().collect();
        self.send(&[peer], &Message::News(known));
    }

    fn answer_for_own(&mut self, now: Millis, peer: NodeId, incarnation: u64, suspicion: u16) {
        let own = self.table.own().clone();
        if incarnation > own.incarnation {
            return;
        }
        let mut answer = own;
        if incarnation == answer.incarnation {
            self.swim.accused(now, Verdict::Suspect, suspicion);
            answer.suspicion = suspicion.saturating_add(1);
        }
        self.send(&[peer], &Message::News(vec![answer]));
    }

    /// Something else is believed about a node: tells those who accused it.
    pub(super) fn acquit(&mut self, node: NodeId, verdict: Verdict) {
        if verdict == Verdict::Suspect {
            return;
        }
        let accusers: Vec<NodeId> = self.accusers.remove(&node).into_iter().flatten().collect();
        let record: Option<Record> = self.table.telling(node);
        if verdict == Verdict::Alive && !accusers.is_empty() {
            self.send(&accusers, &Message::News(record.into_iter().collect()));
        }
    }
}
