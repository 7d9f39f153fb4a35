//! How what is known spreads: to everyone in the region as it changes, by relays to other regions,
//! and by comparing hashes, which repairs whatever was lost.
//!
//! Invariants:
//! 1. A region's members are told of by that region: what outsiders say about the own region is
//!    dropped, so that no stale word comes back from a region that was cut off.
//! 2. News goes on only where its taker is the first of its region to have it: from the node
//!    itself to its region, and from other regions to the own one.
//! 3. A node that hears itself called dead, or hears of a later life of its own than this one,
//!    rises to a higher incarnation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

use super::member::{INCARNATION_MAX, Record, State, Verdict};
use super::message::Message;
use super::swim::Id;
use super::table::Taken;
use super::{Membership, REVIEW_MS};

impl Membership {
    /// The first words to a peer.
    pub(super) fn greet(&mut self, peer: NodeId) {
        let own = Message::News(vec![self.table.own().clone()]);
        self.send(&[peer], &own);
        let regions = self.table.digests().into_iter().collect();
        self.send(&[peer], &Message::Digests { answer: false, regions });
    }

    /// Sends a message to those of them that are connected.
    pub(super) fn send(&mut self, to: &[NodeId], message: &Message) {
        if !to.is_empty() {
            self.send_frame(to, &message.encode());
        }
    }

    fn send_frame(&mut self, to: &[NodeId], frame: &Bytes) {
        let connected = to.iter().filter(|node| self.peers.contains_key(node));
        self.out.frames.extend(connected.map(|node| (*node, frame.clone())));
    }

    /// A connected peer's frame.
    pub(super) fn frame(&mut self, now: Millis, peer: NodeId, frame: &[u8]) {
        let message = match Message::decode(frame) {
            Ok(message) => message,
            Err(why) => return self.out.reject.push((peer, why)),
        };
        match message {
            Message::News(records) => self.learn_all(now, peer, records),
            Message::Whole { region, records } => self.learn_region(now, peer, &region, records),
            Message::Digests { answer, regions } => self.compare(peer, answer, regions),
            Message::Accused { node, incarnation, suspicion } => {
                self.accused(now, peer, (node, incarnation, suspicion));
            }
            Message::Spare => self.offered(peer),
        }
        // Who it is may be known by now.
        self.heard(now, peer);
    }

    fn learn_all(&mut self, now: Millis, peer: NodeId, records: Vec<Record>) {
        let mut onward = Vec::new();
        for record in records {
            let node = record.node;
            if self.learn(now, peer, record) {
                onward.extend(self.table.telling(node));
            }
        }
        self.pass_on(peer, onward);
    }

    fn learn_region(&mut self, now: Millis, peer: NodeId, region: &str, records: Vec<Record>) {
        let listed: BTreeSet<NodeId> = records.iter().map(|record| record.node).collect();
        self.learn_all(now, peer, records);
        let first_hand =
            self.table.record(peer).is_some_and(|record| record.facts.region == region);
        if first_hand && !self.table.is_near(peer) {
            let gone = self.table.listed(now, region, &listed);
            let onward = gone.iter().filter_map(|node| self.table.telling(*node)).collect();
            self.pass_on(peer, onward);
        }
    }

    /// To the rest of the own region.
    fn pass_on(&mut self, from: NodeId, records: Vec<Record>) {
        if !records.is_empty() {
            let mut near = self.near_peers();
            near.retain(|node| *node != from);
            self.send(&near, &Message::News(records));
        }
    }

    /// Takes a record. Answers whether it is to be passed on in the region.
    fn learn(&mut self, now: Millis, peer: NodeId, record: Record) -> bool {
        let (node, first_hand) = (record.node, record.node == peer);
        if node == self.table.own().node {
            self.told_of_own(now, &record);
            return false;
        }
        let near = record.facts.region == self.table.own().facts.region;
        if near && !first_hand && !self.table.is_near(peer) {
            return false;
        }
        let id = Id { node, incarnation: record.incarnation };
        let (verdict, suspicion) = (record.verdict, record.suspicion);
        let taken = self.table.take(now, record);
        if near && taken != Taken::Refused {
            self.swim.learn(now, id, verdict, suspicion);
            if let Some(view) = self.swim.view(node) {
                self.table.judge(now, node, &view);
            }
        }
        if first_hand && verdict != Verdict::Down {
            self.tell_of_death(id);
        }
        if !near && verdict == Verdict::Alive {
            self.question(peer, id, suspicion);
        }
        let outsider = !near && !self.table.is_near(peer);
        taken == Taken::News && (near && first_hand || outsider)
    }

    /// A node of another region is told alive by it and remembered as a suspect, with a number
    /// that is not lower: asks for a higher one.
    fn question(&mut self, peer: NodeId, id: Id, suspicion: u16) {
        let Some(known) = self.table.record(id.node) else { return };
        let Record { incarnation, suspicion: remembered, .. } = *known;
        let at_home = self.table.record(peer).map(|record| &record.facts.region);
        let stands = known.verdict == Verdict::Suspect && remembered >= suspicion;
        if stands && incarnation == id.incarnation && at_home == Some(&known.facts.region) {
            let (node, suspicion) = (id.node, remembered);
            self.send(&[peer], &Message::Accused { node, incarnation, suspicion });
        }
    }

    /// A node that lives and is taken for dead here, or remembered with a later life, is told so.
    fn tell_of_death(&mut self, id: Id) {
        let Some(known) = self.table.record(id.node) else { return };
        if known.is_down() || known.incarnation > id.incarnation {
            let told = Message::News(vec![known.clone()]);
            self.send(&[id.node], &told);
        }
    }

    /// What others think that this node is.
    fn told_of_own(&mut self, now: Millis, told: &Record) {
        let own = self.table.own();
        let another = told.revision > own.revision
            || told.revision == own.revision && (told.life, &told.facts) != (own.life, &own.facts);
        if told.incarnation < own.incarnation {
            return;
        }
        if told.incarnation > own.incarnation || another {
            let higher = told.incarnation + 1;
            if higher < INCARNATION_MAX {
                self.swim.rise(now, higher);
            }
        } else if told.verdict != Verdict::Alive {
            self.swim.accused(now, told.verdict, told.suspicion);
        }
    }

    /// A peer's hashes against the own ones.
    fn compare(&mut self, peer: NodeId, answer: bool, theirs: Vec<(String, u64)>) {
        let theirs: BTreeMap<String, u64> = theirs.into_iter().collect();
        let mine = self.table.digests();
        let mut regions: BTreeSet<&String> = theirs.keys().collect();
        if !answer {
            regions.extend(mine.keys());
        }
        let hash = |of: &BTreeMap<String, u64>, region| of.get(region).copied().unwrap_or(0);
        regions.retain(|region| hash(&mine, *region) != hash(&theirs, *region));
        let home = self.table.record(peer).map(|record| record.facts.region.clone());
        let near = self.table.is_near(peer);
        for region in &regions {
            let records = self.table.region(region);
            let theirs_alone = !near && home.as_ref() == Some(*region);
            if records.is_empty() || theirs_alone {
                continue;
            }
            for frame in Message::whole(region, records) {
                self.send_frame(&[peer], &frame);
            }
        }
        if !answer && !regions.is_empty() {
            let regions = regions.iter().map(|region| ((*region).clone(), hash(&mine, *region)));
            let message = Message::Digests { answer: true, regions: regions.collect() };
            self.send(&[peer], &message);
        }
    }

    /// Connected peers of the own region.
    pub(super) fn near_peers(&self) -> Vec<NodeId> {
        self.peers.keys().filter(|node| self.table.is_near(**node)).copied().collect()
    }

    /// Connected peers of a region: its relays, or whoever there is.
    fn peers_of(&self, region: &str) -> Vec<NodeId> {
        let relays = self.relays_of(region).into_iter();
        let relays: Vec<NodeId> = relays.filter(|node| self.peers.contains_key(node)).collect();
        if !relays.is_empty() {
            return relays;
        }
        let of = |node: &&NodeId| {
            self.table.record(**node).is_some_and(|record| record.facts.region == region)
        };
        self.peers.keys().filter(of).copied().take(1).collect()
    }

    /// Compares with one node of the region and, as a relay, with one of each other region.
    pub(super) fn exchange(&mut self, now: Millis) {
        let every = self.timing.exchange_ms;
        let due = *self.exchange_at.get_or_insert_with(|| now + self.random.below(every));
        if due > now {
            return;
        }
        // Nodes that started together do not stay in step.
        self.exchange_at = Some(now + every * 3 / 4 + self.random.below(every / 2));
        let mut groups = vec![self.near_peers()];
        if self.is_relay() {
            groups.extend(self.far_regions().iter().map(|region| self.peers_of(region)));
        }
        let with: Vec<NodeId> = groups.iter().filter_map(|group| self.random.pick(group)).collect();
        let regions = self.table.digests().into_iter().collect();
        self.send(&with, &Message::Digests { answer: false, regions });
    }

    /// What time alone changes.
    pub(super) fn review(&mut self, now: Millis) {
        self.exchange(now);
        if self.review_at.is_some_and(|due| due > now) {
            return;
        }
        self.review_at = Some(now + REVIEW_MS);
        let gone = self.table.forget(now);
        self.out.changes.extend(gone);
        self.look_around(now);
        self.take_turns(now);
        self.offer_spares(now);
        self.dialling.stale = true;
    }

    /// Shows and tells what changed, and dials accordingly.
    pub(super) fn settle(&mut self, now: Millis) {
        for node in self.swim.changed() {
            if let Some(view) = self.swim.view(node) {
                self.table.judge(now, node, &view);
                self.acquit(node, view.verdict);
            }
        }
        self.accuse();
        let incarnation = self.swim.own().incarnation;
        if incarnation != self.table.own().incarnation {
            self.table.change_own(|own| own.incarnation = incarnation);
        }
        let (changes, records) = self.table.changes(now);
        if !records.is_empty() {
            self.tell(&records);
            self.dialling.stale = true;
        }
        self.redial();
        let left = changes.iter().filter(|member| member.state == State::Gone);
        let left = left.map(|member| member.node).filter(|node| self.peers.contains_key(node));
        self.out.disconnect.extend(left);
        self.out.changes.extend(changes);
        let datagrams = self.swim.datagrams().into_iter();
        let connected = datagrams.filter(|(node, _)| self.peers.contains_key(node));
        self.out.datagrams.extend(connected);
    }

    /// Tells the region what this node says of itself and, as a relay, others what the region
    /// says of its nodes.
    fn tell(&mut self, changed: &[NodeId]) {
        let own = self.table.own().node;
        if changed.contains(&own) {
            let near = self.near_peers();
            let news = Message::News(vec![self.table.own().clone()]);
            self.send(&near, &news);
        }
        if !self.is_relay() {
            return;
        }
        let near = changed.iter().filter(|node| self.table.is_near(**node));
        let news: Vec<Record> = near.filter_map(|node| self.table.telling(*node)).collect();
        if !news.is_empty() {
            let regions = self.far_regions();
            let far: Vec<NodeId> =
                regions.iter().flat_map(|region| self.peers_of(region)).collect();
            self.send(&far, &Message::News(news));
        }
    }

    /// The last word.
    pub(super) fn tell_everyone_of_own(&mut self) {
        let all: Vec<NodeId> = self.peers.keys().copied().collect();
        let news = Message::News(vec![self.table.own().clone()]);
        self.send(&all, &news);
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::{Facts, Life};
    use super::super::{Config, Event, Timing};
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn record(number: u8, region: &str) -> Record {
        let facts = Facts {
            name: format!("n{number}"),
            region: region.to_owned(),
            zone: String::new(),
            address: format!("n{number}:7401"),
            roles: BTreeSet::new(),
            version: String::new(),
            disk: 0,
            start: 0,
            reaches: BTreeSet::new(),
        };
        Record {
            node: node(number),
            incarnation: 7,
            revision: 1,
            life: Life::Up,
            facts,
            verdict: Verdict::Alive,
            suspicion: 0,
        }
    }

    /// Node 1 of region eu, connected to these.
    fn connected(peers: &[Record]) -> Membership {
        let config = Config {
            node: node(1),
            name: "n1".into(),
            region: "eu".into(),
            zone: String::new(),
            address: "n1:7401".into(),
            roles: BTreeSet::new(),
            version: String::new(),
            disk: 0,
            start: 0,
            incarnation: 7,
            seed: 1,
            seeds: BTreeSet::new(),
            relays: 2,
            members_max: 100,
            timing: Timing::default(),
        };
        let mut core = Membership::new(config).unwrap();
        for peer in peers {
            core.step(10, Event::Connected(peer.node));
            core.step(10, Event::Frame(peer.node, Message::News(vec![peer.clone()]).encode()));
        }
        core
    }

    fn told(core: &mut Membership, by: u8, message: &Message) -> Vec<(NodeId, State)> {
        let effects = core.step(20, Event::Frame(node(by), message.encode()));
        effects.changes.iter().map(|member| (member.node, member.state)).collect()
    }

    #[test]
    fn outsiders_are_not_believed_about_the_own_region() {
        let mut core = connected(&[record(2, "us"), record(3, "eu")]);
        let stranger = record(4, "eu");
        let mut dead = record(3, "eu");
        dead.verdict = Verdict::Down;
        let news = Message::News(vec![stranger, dead]);
        assert_eq!(told(&mut core, 2, &news), []);
        assert_eq!(
            told(&mut core, 3, &Message::News(vec![record(4, "eu")])),
            [(node(4), State::Up)]
        );
    }

    #[test]
    fn a_region_is_believed_about_its_own() {
        let mut core = connected(&[record(2, "us"), record(5, "us")]);
        let mut dead = record(5, "us");
        dead.verdict = Verdict::Down;
        assert_eq!(told(&mut core, 2, &Message::News(vec![dead])), [(node(5), State::Down)]);
        assert_eq!(told(&mut core, 2, &Message::News(vec![record(5, "us")])), []);
        let mut reborn = record(5, "us");
        reborn.incarnation += 1;
        assert_eq!(told(&mut core, 2, &Message::News(vec![reborn])), [(node(5), State::Up)]);
    }

    /// What a core sends to a node after a message of it.
    fn answered(core: &mut Membership, by: u8, message: &Message) -> Vec<Message> {
        let effects = core.step(30, Event::Frame(node(by), message.encode()));
        let to = effects.frames.iter().filter(|(to, _)| *to == node(by));
        to.map(|(_, frame)| Message::decode(frame).unwrap()).collect()
    }

    #[test]
    fn a_region_that_forgot_how_often_it_suspected_a_node_still_clears_it_elsewhere() {
        let mut abroad = connected(&[record(2, "us"), record(5, "us")]);
        let mut suspect = record(5, "us");
        (suspect.verdict, suspect.suspicion) = (Verdict::Suspect, 3);
        assert_eq!(
            told(&mut abroad, 2, &Message::News(vec![suspect])),
            [(node(5), State::Suspect)]
        );
        let forgot = Message::News(vec![record(5, "us")]);
        let question = Message::Accused { node: node(5), incarnation: 7, suspicion: 3 };
        assert_eq!(answered(&mut abroad, 2, &forgot), [question]);

        let mut home = connected(&[record(2, "us"), record(3, "eu"), record(5, "eu")]);
        let question = Message::Accused { node: node(5), incarnation: 7, suspicion: 3 };
        let answers = answered(&mut home, 2, &question);
        let [Message::News(records)] = answers.as_slice() else { panic!("{answers:?}") };
        assert_eq!((records[0].verdict, records[0].suspicion), (Verdict::Alive, 4));
        assert_eq!(home.member(node(5)).unwrap().state, State::Up, "no suspicion from outside");

        let mut cleared = record(5, "us");
        cleared.suspicion = records[0].suspicion;
        assert_eq!(told(&mut abroad, 2, &Message::News(vec![cleared])), [(node(5), State::Up)]);
        assert_eq!(answered(&mut abroad, 2, &Message::News(vec![record(5, "us")])), []);
    }

    #[test]
    fn news_of_a_death_of_a_stranger_is_no_news() {
        let mut core = connected(&[record(2, "us")]);
        let mut dead = record(5, "us");
        dead.verdict = Verdict::Down;
        assert_eq!(told(&mut core, 2, &Message::News(vec![dead])), []);
        assert_eq!(core.members().count(), 2);
    }

    #[test]
    fn a_node_that_hears_that_it_is_dead_goes_on_under_a_higher_incarnation() {
        let mut core = connected(&[record(2, "eu"), record(3, "eu")]);
        let mut dead = core.table.own().clone();
        dead.verdict = Verdict::Down;
        let effects = core.step(20, Event::Frame(node(2), Message::News(vec![dead]).encode()));
        assert_eq!(core.member(node(1)).unwrap().incarnation, 8);
        let told: BTreeSet<NodeId> = effects.frames.iter().map(|(to, _)| *to).collect();
        assert_eq!(told, BTreeSet::from([node(2), node(3)]), "and says so");
    }

    #[test]
    fn lists_too_long_for_a_frame_travel_in_parts() {
        let long = |number: u16| {
            let mut record = record(1, "eu");
            record.node.0[..2].copy_from_slice(&number.to_be_bytes());
            record.facts.address = "a".repeat(255);
            record.facts.roles = (0..16).map(|role| format!("{role:0>255}")).collect();
            record.facts.reaches = (0..64).map(|region| format!("{region:0>255}")).collect();
            record
        };
        let records: Vec<Record> = (0..100).map(long).collect();
        let frames = Message::whole("eu", records.clone());
        let mut read = Vec::new();
        for frame in &frames {
            match Message::decode(frame).unwrap() {
                Message::News(records) => read.extend(records),
                other => panic!("{other:?} claims to be whole"),
            }
        }
        assert_eq!(read, records);
        let short = Message::whole("eu", records[..2].to_vec());
        assert!(matches!(Message::decode(&short[0]), Ok(Message::Whole { .. })));
    }
}
