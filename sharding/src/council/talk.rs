//! Between councils of a region: who belongs to which, whose start is recognised, and reports.
//!
//! Invariants:
//! 1. (R13) A message of the group is read only from a start that was recognised here, by a node
//!    whose own start was recognised by a majority.
//! 2. Who finds its disk stale gives up its id, and joins again as empty.
//! 3. Every question is asked again until it is answered or without object: nothing here relies
//!    on a frame that arrives.

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::message::{self, Identity, Message, Report, Roll};
use super::{Council, Trouble, accepts};
use crate::raft::starts::Hello;
use crate::raft::{Event as GroupEvent, Group, Message as GroupMessage};

/// Between greetings of a node that has not answered.
const GREET_MS: Millis = 500;
/// Between attempts to report the same.
pub(super) const REPORT_MS: Millis = 1_000;

impl Council {
    pub(super) fn send(&mut self, to: NodeId, message: &Message) {
        if let Some(identity) = self.identity.filter(|_| to != self.options.node) {
            self.out.sends.push((to, message::encode(identity, message)));
        }
    }

    pub(super) fn send_raft(&mut self, to: NodeId, message: GroupMessage) {
        let nonce = self.starts.nonce();
        self.send(to, &Message::Raft { nonce, message });
    }

    pub(super) fn receive(&mut self, now: Millis, from: NodeId, frame: &[u8]) {
        let Some((theirs, message)) = message::decode(frame) else { return };
        if !self.meet(from, theirs, &message) {
            return;
        }
        match message {
            Message::Hello(hello) => self.greeted_by(now, from, &hello),
            Message::Answer { nonce, by, stale, roll } if nonce == self.starts.nonce() => {
                self.answered(by, stale, roll);
            }
            Message::Answer { .. } | Message::Refused => {}
            Message::Who => self.hello(now, from, 0),
            Message::Raft { nonce, message } => self.hear(now, from, nonce, message),
            Message::Notice { leader, voters } => self.notice = Some((leader, voters)),
            Message::Report { report, forwarded } => self.pass_on(report, forwarded),
        }
    }

    /// Whether the sender is of the same group. One of a newer epoch is joined.
    fn meet(&mut self, from: NodeId, theirs: Identity, message: &Message) -> bool {
        let Some(mine) = self.identity else {
            self.adopt(theirs);
            return true;
        };
        if mine == theirs {
            return true;
        }
        let same = mine.council == theirs.council;
        if same && theirs.epoch > mine.epoch {
            self.adopt(theirs);
            return true;
        }
        if !same {
            let (mine, theirs) = (mine.council, theirs.council);
            self.alarm(Trouble::OtherCouncil { mine, theirs, node: from });
        } else if theirs.epoch == mine.epoch {
            self.alarm(Trouble::ReformedTwice { epoch: mine.epoch, node: from });
        }
        if *message != Message::Refused {
            self.send(from, &Message::Refused);
        }
        false
    }

    /// Joins a council's group, as a member that knows nothing yet.
    fn adopt(&mut self, identity: Identity) {
        self.abandon();
        let group = Group::join(self.name(identity), accepts);
        self.enter(identity, group);
    }

    /// Gives up this disk's id, and everything that was promised under it.
    pub(super) fn start_over(&mut self, why: &'static str) {
        self.alarm(Trouble::GaveUpDisk { why });
        self.starts.renew(&mut self.out.writes);
        if let Some(identity) = self.identity {
            self.adopt(identity);
        }
    }

    /// Another node's start.
    fn greeted_by(&mut self, now: Millis, from: NodeId, hello: &Hello) {
        let Some(nonce) = hello.nonce() else { return };
        // A second disk with this one's id is a copy of it, or this one is.
        let copy = hello.disk == self.starts.disk();
        let known = !copy && self.starts.recognise(from, hello, &mut self.out.writes);
        let by = self.starts.disk();
        let roll = self.roll();
        self.send(from, &Message::Answer { nonce, by, stale: !known, roll });
        if !known {
            return;
        }
        let (seats, group) = (self.state.as_ref().map(|state| &state.seats), &mut self.group);
        if let Some(group) = group {
            group.set_address(hello.disk, from);
            let config = group.config();
            let seated = |disk| seats.is_some_and(|s| s.values().any(|seat| seat.disk == disk));
            let in_use = |disk| config.contains(disk) || seated(disk);
            self.starts.prune(in_use, &mut self.out.writes);
        }
        if !self.clearance.has_answered(hello.disk) {
            self.hello(now, from, GREET_MS);
        }
    }

    fn roll(&self) -> Option<Roll> {
        let group = self.group.as_ref()?;
        let (index, config) = (group.applied(), group.config().clone());
        (!config.voters.is_empty()).then(|| Roll { index, config, peers: group.peers().clone() })
    }

    fn answered(&mut self, by: u64, stale: bool, roll: Option<Roll>) {
        if stale {
            return self.start_over("a peer has seen a later start, or a later promise");
        }
        self.clearance.answer(by);
        if let Some(roll) = roll {
            self.clearance.learn(roll.index, &roll.config);
            self.addresses.extend(roll.peers);
        }
    }

    /// Tells a node of this start, unless it was told less than `pause` ago.
    fn hello(&mut self, now: Millis, to: NodeId, pause: Millis) {
        if self.greeted.get(&to).is_some_and(|at| now < at.saturating_add(pause) && now >= *at) {
            return;
        }
        self.greeted.insert(to, now);
        let woke = self.group.as_ref().map(|group| (group.name().group, self.woke));
        let hello = self.starts.hello(woke.into_iter().collect());
        self.send(to, &Message::Hello(hello));
    }

    /// Tells members of the group of this start, until each has recognised it.
    pub(super) fn greet(&mut self, now: Millis) {
        let Some(group) = &self.group else { return };
        let me = self.starts.disk();
        let peers = group.peers().iter().chain(&self.addresses);
        let silent = peers.filter(|(id, _)| **id != me && !self.clearance.has_answered(**id));
        for node in silent.map(|(_, node)| *node).collect::<Vec<_>>() {
            self.hello(now, node, GREET_MS);
        }
    }

    /// Looks whether this start may speak.
    pub(super) fn awake(&mut self, now: Millis) {
        let Some(group) = &mut self.group else { return };
        if !group.config().voters.is_empty() {
            self.clearance.learn(group.applied(), group.config());
        }
        let me = self.starts.disk();
        if self.clearance.is_cleared() || !self.clearance.check(now, me) {
            return;
        }
        // Who votes alone need not wait for anyone.
        let config = group.config();
        if !config.is_joint() && config.voters.iter().eq([&me]) {
            let effects = group.step(now, GroupEvent::Campaign);
            self.absorb(effects);
        }
    }

    fn hear(&mut self, now: Millis, from: NodeId, nonce: u64, message: GroupMessage) {
        if !self.starts.knows(from, message.from(), nonce) {
            return self.send(from, &Message::Who);
        }
        if !self.clearance.is_cleared() {
            return self.hello(now, from, GREET_MS);
        }
        let Some(group) = &mut self.group else { return };
        if group.is_contradicted_by(&message) {
            return self.start_over("the leader knows of a longer log");
        }
        if let Some(promise) = message.promise() {
            self.starts.notice(message.from(), group.name().group, promise);
        }
        let effects = group.step(now, GroupEvent::Received(from, message));
        self.absorb(effects);
    }

    /// Has something to report, until the record shows it.
    pub(super) fn report(&mut self, report: Report) {
        self.pending.entry(report).or_insert(0);
    }

    fn pass_on(&mut self, report: Report, forwarded: bool) {
        let view = self.view();
        if self.leads() {
            self.take_report(report);
        } else if let Some(leader) = view.leader.filter(|_| !forwarded) {
            self.send(leader, &Message::Report { report, forwarded: true });
        }
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Ending { node, start, serial, ending } => {
                self.gather(node, start, serial, ending);
            }
            report => drop(self.inbox.insert(report)),
        }
    }

    /// Whom to report to: the leader, or whoever may know it.
    pub(super) fn hearers(&self) -> Vec<NodeId> {
        let view = self.view();
        view.leader.map_or(view.voters, |leader| vec![leader])
    }

    /// Reports what is pending and due.
    pub(super) fn speak_up(&mut self, now: Millis) {
        self.tell_endings(now);
        if self.pending.is_empty() {
            return;
        }
        let record = self.record();
        self.pending.retain(|report, _| {
            record.as_ref().is_none_or(|record| !message::is_done(report, record))
        });
        let due: Vec<Report> = (self.pending.iter())
            .filter(|(_, next)| now >= **next)
            .map(|(report, _)| report.clone())
            .collect();
        let to = self.hearers();
        for report in due {
            self.pending.insert(report.clone(), now + REPORT_MS);
            if self.leads() {
                self.take_report(report);
                continue;
            }
            let message = Message::Report { report, forwarded: false };
            to.iter().for_each(|node| self.send(*node, &message));
        }
    }
}
