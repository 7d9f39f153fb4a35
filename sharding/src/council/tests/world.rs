//! A region in one thread under a seed: nodes with disks that lose power, a network that loses
//! and delays, a membership that sees who is reachable, and the judge of what councils publish.
//!
//! What is judged, always: one leader a term; records of one version are equal everywhere; nobody
//! is current who has not caught up; no live replica goes without a newcomer (R12). `origins`
//! judges how origins end (R9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use atoll_replication::placement::{RegionPlacement, Version};
use atoll_replication::transport::NodeId;
use atoll_store::backend::Backend;
use atoll_store::backend::memory::{Memory, Snapshot};
use atoll_store::dot::Millis;

use super::origins::Origins;
use crate::council::{
    Council, Effects, Event, Identity, Limits, Liveness, Member, Options, Roles, Settings,
};

/// Time between looks at the world; messages take as long, or some times that.
const STEP_MS: Millis = 20;
/// How long membership takes to see that a node is gone.
const DETECT_MS: Millis = 2_000;
const GOSSIP_MS: Millis = 200;

pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        // SplitMix64, public domain, by Sebastiano Vigna.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

pub(super) struct Place {
    pub(super) id: NodeId,
    pub(super) disk: Memory,
    pub(super) council: Option<Council>,
    options: Options,
    leaving: bool,
    published: Version,
    /// What it was told and published last.
    pub(super) record: Option<Arc<RegionPlacement>>,
    /// Slots and epochs that it reported.
    reported: BTreeSet<(u16, u64)>,
    members: Vec<Member>,
}

pub(super) struct World {
    pub(super) now: Millis,
    pub(super) random: Random,
    pub(super) places: Vec<Place>,
    pub(super) loss: u64,
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) limits: Limits,
    network: BTreeMap<(Millis, u64), (usize, usize, Bytes)>,
    sent: u64,
    arrival: BTreeMap<(usize, usize), Millis>,
    unseen: BTreeMap<(usize, usize), Millis>,
    leaders: BTreeMap<(Identity, u64), usize>,
    pub(super) records: BTreeMap<Version, Arc<RegionPlacement>>,
    /// Who really has a slot's data.
    data: BTreeMap<u16, BTreeSet<NodeId>>,
    /// Whether sets may shrink: nodes leave, or are given up.
    pub(super) may_shrink: bool,
    /// Most replicas that were on their way at a time.
    pub(super) most_moving: usize,
    pub(super) moved: BTreeSet<(u16, NodeId)>,
    pub(super) origins: Origins,
}

pub(super) fn id(place: usize) -> NodeId {
    let mut random = Random::new(place as u64);
    NodeId((u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes())
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            now: 1_000,
            random: Random::new(seed),
            places: Vec::new(),
            loss: 0,
            cut: BTreeSet::new(),
            limits: Limits::default(),
            network: BTreeMap::new(),
            sent: 0,
            arrival: BTreeMap::new(),
            unseen: BTreeMap::new(),
            leaders: BTreeMap::new(),
            records: BTreeMap::new(),
            data: BTreeMap::new(),
            may_shrink: false,
            most_moving: 0,
            moved: BTreeSet::new(),
            origins: Origins::default(),
        }
    }

    /// A region that the first of some nodes has formed, and all have joined.
    pub(super) fn formed(seed: u64, nodes: usize, slots: u16) -> World {
        let mut world = World::new(seed);
        world.add(nodes, 3);
        world.form(0, slots);
        world.settle();
        world
    }

    pub(super) fn add(&mut self, count: usize, zones: usize) {
        for _ in 0..count {
            let place = self.places.len();
            let options = Options {
                region: "eu".into(),
                node: id(place),
                name: format!("node-{place}"),
                zone: format!("zone-{}", place % zones),
                roles: Roles::ALL,
                start: 0,
                limits: self.limits,
            };
            self.places.push(Place {
                id: id(place),
                disk: Memory::new(),
                council: None,
                options,
                leaving: false,
                published: Version::default(),
                record: None,
                reported: BTreeSet::new(),
                members: Vec::new(),
            });
            self.start(place);
        }
    }

    pub(super) fn start(&mut self, place: usize) {
        let start = self.random.next();
        let at = &mut self.places[place];
        at.options.start = start;
        at.options.limits = self.limits;
        at.leaving = false;
        at.published = Version::default();
        at.reported.clear();
        at.members.clear();
        at.council = Some(Council::open(&at.disk, at.options.clone()).unwrap());
    }

    pub(super) fn form(&mut self, place: usize, slots: u16) {
        let settings = Settings { factor: 3, slots };
        let council = self.random.next();
        self.places[place].council.as_mut().unwrap().form(council, settings).unwrap();
        let node = id(place);
        self.data = (0..slots).map(|slot| (slot, [node].into())).collect();
        self.step(place, Event::Tick);
    }

    pub(super) fn is_up(&self, place: usize) -> bool {
        self.places[place].council.is_some()
    }

    pub(super) fn up(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.is_up(*place)).collect()
    }

    /// Power is lost: at once, or with a step's writes committed and not flushed.
    pub(super) fn crash(&mut self, place: usize) {
        let (now, keep) = (self.now, self.random.below(2) as usize);
        let at = &mut self.places[place];
        if let Some(mut council) = at.council.take() {
            let effects = council.step(now + 10 * STEP_MS, Event::Tick);
            at.disk.commit(&effects.writes).unwrap();
            at.disk.crash_keeping(keep);
        }
        self.network.retain(|_, (from, to, _)| *from != place && *to != place);
    }

    pub(super) fn leave(&mut self, place: usize) {
        self.places[place].leaving = true;
        self.step(place, Event::Leave);
    }

    /// Something to record, whatever else happens.
    pub(super) fn rename(&mut self, place: usize) {
        let name = format!("node-{place}-{}", self.now);
        self.places[place].options.name = name;
    }

    /// A copy of a disk, as power lost now would leave it.
    pub(super) fn copy(&self, place: usize) -> Snapshot {
        self.places[place].disk.snapshot()
    }

    pub(super) fn council(&self, place: usize) -> &Council {
        self.places[place].council.as_ref().unwrap()
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |place: &usize| self.council(*place).leads();
        let term = |place: &usize| self.council(*place).view().term;
        self.up().into_iter().filter(leads).max_by_key(term)
    }

    /// Gives a node an event, and does what it asks for.
    pub(super) fn step(&mut self, place: usize, event: Event) {
        let now = self.now;
        let Some(council) = &mut self.places[place].council else { return };
        let effects = council.step(now, event);
        self.perform(place, effects);
    }

    fn perform(&mut self, place: usize, effects: Effects) {
        let at = &self.places[place];
        if !effects.writes.is_empty() {
            at.disk.commit(&effects.writes).unwrap();
            at.disk.flush().unwrap();
        }
        for (to, frame) in effects.sends {
            let to = self.places.iter().position(|other| other.id == to).unwrap();
            let lost = self.loss > 0 && self.random.percent(self.loss);
            if !lost && !self.cut.contains(&(place, to)) {
                let delay = STEP_MS * (1 + self.random.below(3));
                let last = self.arrival.entry((place, to)).or_default();
                *last = (*last).max(self.now + delay);
                self.sent += 1;
                self.network.insert((*last, self.sent), (place, to, frame));
            }
        }
        if let Some(record) = effects.record {
            self.judge(place, record);
        }
        self.judge_leader(place);
    }

    fn judge_leader(&mut self, place: usize) {
        let council = self.council(place);
        if council.leads() {
            let view = council.view();
            let identity = view.identity.unwrap();
            let leader = *self.leaders.entry((identity, view.term)).or_insert(place);
            assert_eq!(leader, place, "two leaders in term {} of {identity:?}", view.term);
            self.most_moving = self.most_moving.max(view.moving);
        }
    }

    fn judge(&mut self, place: usize, record: RegionPlacement) {
        let at = &mut self.places[place];
        assert!(record.version > at.published, "published in order");
        at.published = record.version;
        let record = Arc::new(record);
        at.record = Some(record.clone());
        if let Some((_, last)) = self.records.last_key_value().filter(|(v, _)| **v < record.version)
        {
            self.origins.judge(last, &record);
        }
        let known = self.records.entry(record.version).or_insert_with(|| record.clone());
        assert_eq!(*known, record, "two records of one version");
        if let Some((_, before)) = self.records.range(..record.version).next_back() {
            self.judge_change(before, &record);
        }
        let new = |node: &NodeId, slot: &u16| (*slot, *node);
        for (slot, replicas) in (0..).zip(&record.slots) {
            let joins = replicas.next.iter().flatten();
            let joins = joins.filter(|node| !replicas.current.contains(*node));
            self.moved.extend(joins.map(|node| new(node, &slot)));
        }
    }

    fn judge_change(&self, before: &RegionPlacement, after: &RegionPlacement) {
        let alive = |set: &BTreeSet<NodeId>| {
            let up = |node: &&NodeId| self.up().iter().any(|place| id(*place) == **node);
            set.iter().filter(up).count()
        };
        for (slot, (old, new)) in (0..).zip(before.slots.iter().zip(&after.slots)) {
            if old == new {
                continue;
            }
            assert!(!new.current.is_empty(), "r12: slot {slot} lost its last replica");
            let caught = &self.data[&slot];
            assert!(new.current.is_subset(caught), "r12: current before it caught up");
            assert!(new.epoch > old.epoch, "a set changed, and its epoch did not");
            let least = alive(&old.current).min(usize::from(after.factor));
            let enough = alive(&new.current) >= least;
            assert!(enough || self.may_shrink, "slot {slot} less replicated: {old:?} {new:?}");
        }
    }

    /// Lets some time pass.
    pub(super) fn run(&mut self, time: Millis) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP_MS;
            self.deliver();
            if self.now.is_multiple_of(GOSSIP_MS) {
                self.observe();
                self.gossip();
                self.replicate();
                self.play_endings();
            }
            for place in self.up() {
                if self.council(place).deadline(self.now) <= self.now {
                    self.step(place, Event::Tick);
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
            let (from, to, frame) = entry.remove();
            if self.is_up(to) && !self.cut.contains(&(from, to)) {
                self.step(to, Event::Received(id(from), frame));
            }
        }
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.is_up(from) && self.is_up(to) && !self.cut.contains(&(from, to))
    }

    /// Membership, as each node sees it.
    fn observe(&mut self) {
        let count = self.places.len();
        for place in self.up() {
            let mut members = Vec::new();
            for other in 0..count {
                let seen = self.reaches(other, place);
                let since = self.unseen.entry((place, other)).or_insert(self.now);
                if seen {
                    *since = self.now;
                }
                let at = &self.places[other];
                let liveness = match self.now - *since {
                    0 if at.leaving => Liveness::Leaving,
                    0 => Liveness::Up,
                    away if away < DETECT_MS => Liveness::Suspect,
                    _ => Liveness::Down,
                };
                let disk = at.council.as_ref().map(Council::disk);
                let last = self.places[place].members.iter().find(|m| m.node == at.id);
                let disk = disk.or(last.map(|member| member.disk));
                members.extend(disk.map(|disk| Member {
                    node: at.id,
                    name: at.options.name.clone(),
                    zone: at.options.zone.clone(),
                    roles: at.options.roles,
                    disk,
                    start: at.options.start,
                    liveness,
                }));
            }
            if members != self.places[place].members {
                self.places[place].members = members.clone();
                self.step(place, Event::Members(members));
            }
        }
    }

    /// Peers tell each other the newest record.
    fn gossip(&mut self) {
        for place in self.up() {
            let known = self.places[place].record.as_ref().map(|record| record.version);
            let told = (0..self.places.len()).filter(|other| self.reaches(*other, place));
            let told = told.filter_map(|other| self.places[other].record.clone());
            let newest = told.max_by_key(|record| record.version);
            if let Some(record) = newest.filter(|record| Some(record.version) > known) {
                self.places[place].record = Some(record.clone());
                self.step(place, Event::Recorded((*record).clone()));
            }
        }
    }

    /// Whoever is to join a slot's set copies it from replicas that have it: as many of them as
    /// every majority shares a member with.
    fn replicate(&mut self) {
        for place in self.up() {
            let node = id(place);
            let Some(record) = self.places[place].record.clone() else { continue };
            let moving = (0..).zip(&record.slots).filter(|(_, slot)| slot.next.is_some());
            for (slot, replicas) in moving {
                let joins = replicas.receives(node) && !replicas.counts(node);
                let source = |from: &usize| {
                    replicas.counts(id(*from)) && self.data[&slot].contains(&id(*from))
                };
                let known = self.places[place].reported.contains(&(slot, replicas.epoch));
                let enough = replicas.current.len().div_ceil(2);
                let heard = self.up().iter().filter(|from| source(from)).count() >= enough;
                if joins && !known && heard && self.random.percent(50) {
                    self.data.get_mut(&slot).unwrap().insert(node);
                    self.places[place].reported.insert((slot, replicas.epoch));
                    self.step(place, Event::CaughtUp { slot, epoch: replicas.epoch });
                }
            }
        }
    }

    pub(super) fn newest(&self) -> &RegionPlacement {
        self.records.last_key_value().expect("a record was published").1
    }

    /// Runs until nothing is decided any more, everybody knows it, and no move is left.
    pub(super) fn settle(&mut self) {
        let end = self.now + 400_000;
        let mut quiet = (0, Version::default());
        while self.now < end {
            self.run(1_000);
            let version = self.newest().version;
            let rest = self.leader().is_some()
                && self.ends_rest()
                && self.newest().slots.iter().all(|slot| slot.next.is_none())
                && self.up().iter().all(|place| self.knows(*place, version));
            quiet = match rest && version == quiet.1 {
                true => (quiet.0 + 1, version),
                false => (0, version),
            };
            if quiet.0 > 5 {
                return;
            }
        }
        let views: Vec<_> = self.up().iter().map(|at| self.council(*at).view()).collect();
        panic!("no rest: {quiet:?} {views:#?} {:#?}", self.newest());
    }

    fn knows(&self, place: usize, version: Version) -> bool {
        self.places[place].record.as_ref().is_some_and(|record| record.version == version)
    }

    /// Replicas by node, of nodes that are up.
    pub(super) fn loads(&self) -> Vec<usize> {
        let load = |place: usize| {
            let slots = self.newest().slots.iter();
            slots.filter(|slot| slot.current.contains(&id(place))).count()
        };
        self.up().into_iter().map(load).collect()
    }

    /// At rest, what placement promises: the factor, and loads that differ by one at most.
    pub(super) fn check_rest(&self) {
        let loads = self.loads();
        let (slots, up) = (self.newest().slots.len(), self.up().len());
        let total = slots * up.min(3);
        assert_eq!(loads.iter().sum::<usize>(), total, "{loads:?}");
        assert!(loads.iter().all(|load| *load <= total.div_ceil(up)), "{loads:?}");
    }

    pub(super) fn voters(&self) -> Vec<NodeId> {
        let leader = self.leader().expect("somebody leads");
        self.council(leader).view().voters
    }
}
