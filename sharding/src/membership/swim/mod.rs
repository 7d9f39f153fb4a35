//! Who answers in this region: SWIM (Das, Gupta and Motivala, "SWIM: Scalable Weakly-consistent
//! Infection-style Process Group Membership Protocol", 2002) by the `foca` crate, with timers,
//! chance and datagrams as values.
//!
//! Invariants:
//! 1. Any byte from a node is a sign of life: a probe of it counts as answered, and a suspicion of
//!    it is refuted on its behalf, for the whole region.
//! 2. A lost connection alone condemns nobody: others are asked to look, and only silence after
//!    that makes a suspect.
//! 3. A node speaks for itself only: a datagram names its sender, or is dropped.
//! 4. What arrives adds no more nodes than the bound.
//!
//! Left out: what nodes are and where; only lives are known here. The crate's own ways to join
//! (announce, feed): lives come with facts, over streams.

mod codec;
mod runtime;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use foca::{Foca, Header, Message, NoCustomBroadcast, State, Timer};

use atoll_replication::transport::{DATAGRAM_BYTES, NodeId};
use atoll_store::dot::Millis;

use super::Timing;
use super::member::Verdict;
use super::random::Random;
pub(super) use codec::Id;
use codec::{Codec, Datagram};
use runtime::{Outbox, config};

/// How many are asked to look when a node does not answer. A dead node is not answered for, and a
/// live one is missed only if all of them fail.
const HELPERS: usize = 3;
/// Waiting for those asked to look.
const CHECK_MS: Millis = 300;

/// What the region believes about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) incarnation: u64,
    pub(super) verdict: Verdict,
    pub(super) suspicion: u16,
    /// Since when, here.
    since: Millis,
}

/// A node whose connection was lost.
#[derive(Clone, Copy, Debug)]
struct Check {
    due: Millis,
    /// The suspicion that was raised, once nobody saw the node.
    raised: Option<u16>,
}

/// The failure detector of one region, as one node runs it.
pub(super) struct Swim {
    foca: Foca<Id, Codec, Random, NoCustomBroadcast>,
    outbox: Outbox,
    suspect_ms: Millis,
    nodes_max: usize,
    heard: BTreeMap<NodeId, Millis>,
    checks: BTreeMap<NodeId, Check>,
    views: BTreeMap<NodeId, View>,
    changed: BTreeSet<NodeId>,
    /// Whom this node itself began to suspect.
    raised: BTreeSet<NodeId>,
}

fn state(verdict: Verdict) -> State {
    match verdict {
        Verdict::Alive => State::Alive,
        Verdict::Suspect => State::Suspect,
        Verdict::Down => State::Down,
    }
}

fn verdict(state: State) -> Verdict {
    match state {
        State::Alive => Verdict::Alive,
        State::Suspect => Verdict::Suspect,
        State::Down => Verdict::Down,
    }
}

impl Swim {
    pub(super) fn new(own: Id, timing: &Timing, nodes_max: usize, random: Random) -> Self {
        Self {
            foca: Foca::new(own, config(timing), random, Codec),
            outbox: Outbox::default(),
            suspect_ms: timing.suspect_ms,
            nodes_max,
            heard: BTreeMap::new(),
            checks: BTreeMap::new(),
            views: BTreeMap::new(),
            changed: BTreeSet::new(),
            raised: BTreeSet::new(),
        }
    }

    /// The own life; another one after this node was taken for dead.
    pub(super) fn own(&self) -> Id {
        *self.foca.identity()
    }

    /// What is believed about a node.
    pub(super) fn view(&self, node: NodeId) -> Option<View> {
        self.views.get(&node).copied()
    }

    /// Nodes of which something else is believed than before.
    pub(super) fn changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    /// Whom this node began to suspect, and still does.
    pub(super) fn raised(&mut self) -> BTreeSet<NodeId> {
        let mut raised = std::mem::take(&mut self.raised);
        raised.retain(|node| self.verdict(*node) == Some(Verdict::Suspect));
        raised
    }

    fn verdict(&self, node: NodeId) -> Option<Verdict> {
        self.views.get(&node).map(|view| view.verdict)
    }

    /// Datagrams to send.
    pub(super) fn datagrams(&mut self) -> Vec<(NodeId, Bytes)> {
        std::mem::take(&mut self.outbox.datagrams)
    }

    /// When [`Swim::due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Millis> {
        let timer = self.outbox.timers.first_key_value().map(|((at, _), _)| *at);
        let check = self.checks.values().map(|check| check.due).min();
        [timer, check].into_iter().flatten().min()
    }

    /// Time passed.
    pub(super) fn due(&mut self, now: Millis) {
        while let Some(first) = self.outbox.timers.first_entry() {
            if first.key().0 > now {
                break;
            }
            let timer = first.remove();
            match &timer {
                Timer::ProbeRandomMember(_) => self.judge_probe(now),
                Timer::ChangeSuspectToDown { member_id, incarnation, .. }
                    if !self.is_suspect(*member_id, *incarnation) =>
                {
                    continue;
                }
                _ => {}
            }
            self.run(now, |foca, outbox| foca.handle_timer(timer, outbox));
        }
        self.run_checks(now);
    }

    /// A probe is over, and the next begins.
    fn judge_probe(&mut self, now: Millis) {
        let Some((probed, probe, at)) = self.outbox.probed.take() else { return };
        // Whoever was heard from since has answered it.
        if self.heard.get(&probed.node).is_some_and(|heard| *heard >= at) {
            self.answer(now, probed, probe);
        } else if self.verdict(probed.node) == Some(Verdict::Alive) {
            // If this makes it a suspect, it is this node's doing.
            self.raised.insert(probed.node);
        }
    }

    /// Whether a suspicion still stands. The crate tells a node that it is dead whenever its time
    /// to refute is over, even if it did refute; so it is asked only if it did not.
    fn is_suspect(&self, id: Id, suspicion: u16) -> bool {
        let standing = |view: &View| {
            (view.incarnation, view.suspicion) == (id.incarnation, suspicion)
                && view.verdict == Verdict::Suspect
        };
        self.views.get(&id.node).is_some_and(standing)
    }

    /// Something is known about a life of another node.
    pub(super) fn learn(&mut self, now: Millis, id: Id, verdict: Verdict, suspicion: u16) {
        let known = self.views.get(&id.node);
        let dead_stranger = verdict == Verdict::Down && known.is_none();
        if dead_stranger || known.is_none() && self.views.len() >= self.nodes_max {
            return;
        }
        let update = foca::Member::new(id, suspicion, state(verdict));
        self.run(now, |foca, outbox| foca.apply_many(std::iter::once(update), true, outbox));
    }

    /// Others say this of the own life: a suspicion is refuted, a death begins another life.
    pub(super) fn accused(&mut self, now: Millis, verdict: Verdict, suspicion: u16) {
        let update = foca::Member::new(self.own(), suspicion, state(verdict));
        self.run(now, |foca, outbox| foca.apply_many(std::iter::once(update), true, outbox));
    }

    /// Continues under this incarnation: an earlier life of this node is remembered with a number
    /// that is not lower.
    pub(super) fn rise(&mut self, now: Millis, incarnation: u64) {
        let own = Id { incarnation, ..self.own() };
        if own != self.own() {
            self.run(now, |foca, outbox| foca.change_identity(own, outbox));
        }
    }

    /// Tells the region that this life ends now.
    pub(super) fn leave(&mut self, now: Millis) {
        self.run(now, |foca, outbox| foca.leave_cluster(outbox));
    }

    /// Something came from a node, or was seen to come by another.
    pub(super) fn heard(&mut self, now: Millis, node: NodeId) {
        let Some(view) = self.views.get(&node).copied() else { return };
        self.heard.insert(node, now);
        self.checks.remove(&node);
        let higher = view.suspicion.checked_add(1);
        if let (Verdict::Suspect, Some(higher)) = (view.verdict, higher)
            && view.since < now
        {
            let id = Id { node, incarnation: view.incarnation };
            self.learn(now, id, Verdict::Alive, higher);
        }
    }

    /// A connected peer's datagram; the error says why it was dropped.
    pub(super) fn datagram(
        &mut self,
        now: Millis,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<(), &'static str> {
        if bytes.len() > DATAGRAM_BYTES {
            return Err("a membership datagram is too long");
        }
        let read = Datagram::decode(bytes).map_err(|_| "a damaged membership datagram")?;
        if read.header.src.node != from {
            return Err("a membership datagram in another node's name");
        }
        let strangers = read.about.iter().filter(|node| !self.views.contains_key(node)).count();
        let sender = usize::from(!self.views.contains_key(&from));
        if strangers + sender > 0 && self.views.len() + strangers + sender > self.nodes_max {
            return Err("a membership datagram names more nodes than are kept");
        }
        self.heard(now, from);
        if let Message::ForwardedAck { origin, .. } = read.header.message {
            self.heard(now, origin.node);
        }
        self.run(now, |foca, outbox| foca.handle_data(bytes, outbox));
        Ok(())
    }

    /// A node's connection was lost: asks these to look at once.
    pub(super) fn check(&mut self, now: Millis, node: NodeId, helpers: &[NodeId]) {
        let Some(view) = self.views.get(&node).copied() else { return };
        if view.verdict == Verdict::Down || helpers.is_empty() {
            return;
        }
        let target = Id { node, incarnation: view.incarnation };
        for helper in helpers.iter().take(HELPERS).filter(|helper| **helper != node) {
            let Some(known) = self.views.get(helper) else { continue };
            let dst = Id { node: *helper, incarnation: known.incarnation };
            self.send_raw(dst, Message::PingReq { target, probe_number: 0 });
        }
        self.checks.insert(node, Check { due: now + CHECK_MS, raised: None });
    }

    fn run_checks(&mut self, now: Millis) {
        let due = self.checks.iter().filter(|(_, check)| check.due <= now);
        let due: Vec<(NodeId, Check)> = due.map(|(node, check)| (*node, *check)).collect();
        for (node, check) in due {
            self.checks.remove(&node);
            let Some(view) = self.views.get(&node).copied() else { continue };
            let id = Id { node, incarnation: view.incarnation };
            match (check.raised, view.verdict) {
                (None, Verdict::Alive | Verdict::Suspect) => {
                    self.learn(now, id, Verdict::Suspect, view.suspicion);
                    self.raised.insert(node);
                    let (due, raised) = (now + self.suspect_ms, Some(view.suspicion));
                    self.checks.insert(node, Check { due, raised });
                }
                (Some(raised), Verdict::Suspect) if raised == view.suspicion => {
                    self.learn(now, id, Verdict::Down, view.suspicion);
                }
                _ => {}
            }
        }
    }

    /// Answers a probe on a node's behalf.
    fn answer(&mut self, now: Millis, src: Id, probe: u8) {
        let message = Message::Ack(probe);
        let header = Header { src, src_incarnation: 0, dst: self.own(), message };
        let answer = Datagram::encode(&header);
        self.run(now, |foca, outbox| foca.handle_data(&answer, outbox));
    }

    /// Asks a connected node whether it is there; whatever it answers is a sign of life.
    pub(super) fn look(&mut self, node: NodeId) {
        let Some(view) = self.views.get(&node) else { return };
        let dst = Id { node, incarnation: view.incarnation };
        self.send_raw(dst, Message::Ping(0));
    }

    /// Sends a message that the crate does not know of.
    fn send_raw(&mut self, dst: Id, message: Message<Id>) {
        // Suspicion 0 claims nothing about the own life.
        let header = Header { src: self.own(), src_incarnation: 0, dst, message };
        self.outbox.datagrams.push((dst.node, Datagram::encode(&header).into()));
    }

    /// A suspicion of a node that is known.
    pub(super) fn suspect(&mut self, now: Millis, node: NodeId, suspicion: u16) {
        if let Some(view) = self.views.get(&node) {
            let id = Id { node, incarnation: view.incarnation };
            self.learn(now, id, Verdict::Suspect, suspicion);
        }
    }

    fn run<F>(&mut self, now: Millis, call: F)
    where
        F: FnOnce(
            &mut Foca<Id, Codec, Random, NoCustomBroadcast>,
            &mut Outbox,
        ) -> Result<(), foca::Error>,
    {
        self.outbox.now = now;
        let own = self.own();
        if let Err(error) = call(&mut self.foca, &mut self.outbox) {
            tracing::debug!(%error, "swim");
        }
        if self.own() != own {
            // A new life begins without probes, until something is applied.
            let nothing = std::iter::empty();
            if let Err(error) = self.foca.apply_many(nothing, false, &mut self.outbox) {
                tracing::debug!(%error, "swim");
            }
        }
        self.compare(now);
    }

    /// Notes what is believed now and was not before.
    fn compare(&mut self, now: Millis) {
        let mut count = 0;
        let own = self.own().node;
        for member in self.foca.iter_membership_state().filter(|member| member.id().node != own) {
            count += 1;
            let (id, suspicion) = (member.id(), member.incarnation());
            let verdict = verdict(member.state());
            let believed = (id.incarnation, verdict, suspicion);
            let before = self.views.get(&id.node);
            if before.is_some_and(|v| (v.incarnation, v.verdict, v.suspicion) == believed) {
                continue;
            }
            let view = View { incarnation: id.incarnation, verdict, suspicion, since: now };
            self.views.insert(id.node, view);
            self.changed.insert(id.node);
        }
        if self.views.len() > count {
            let known: BTreeSet<NodeId> =
                self.foca.iter_membership_state().map(|member| member.id().node).collect();
            self.views.retain(|node, _| known.contains(node));
            self.heard.retain(|node, _| known.contains(node));
        }
    }
}
