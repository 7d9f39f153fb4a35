//! A cluster in one thread under a seed: nodes with disks that lose power, a network that loses,
//! delays, duplicates and reorders, a membership that sees who is reachable, a record of who
//! should be in each group, and the judge of what groups say.
//!
//! What is judged, always: one owner a term; what is committed at an index is the same everywhere
//! and for ever; each state machine applies it in order, once; and what is read is not older than
//! what was acknowledged when it was asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use atoll_replication::transport::NodeId;
use atoll_store::backend::Backend;
use atoll_store::backend::memory::{Memory, Snapshot};
use atoll_store::dot::Millis;
use atoll_store::shard::ShardId;

use super::golden;
use super::machine::Machine;
use crate::groups::{Effects, Event, Groups, Limits, News, Options, Seats, Ticket, View};
use crate::raft::starts::Starts;

/// Time between looks at the world; messages take as long, or some times that.
pub(super) const STEP_MS: Millis = 10;
/// How long membership takes to see that a node is gone.
pub(super) const DETECT_MS: Millis = 2_000;
const GOSSIP_MS: Millis = 100;

pub(super) struct Random(u64);

impl Random {
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
    pub(super) disk: Memory,
    starts: Option<Starts>,
    pub(super) groups: Option<Groups>,
    pub(super) machine: Machine,
    /// Steps whose writes are on their way to the disk.
    pub(super) queue: VecDeque<Effects>,
    /// It stands still until then.
    pub(super) paused: Millis,
    told: BTreeMap<ShardId, Seats>,
    live: BTreeSet<NodeId>,
    /// Times that it gave up its disk's id.
    pub(super) gave_up: usize,
}

/// Who should be in a group.
#[derive(Clone, Default)]
pub(super) struct Seating {
    pub(super) voters: BTreeSet<usize>,
    pub(super) learners: BTreeSet<usize>,
}

#[derive(Default)]
pub(super) struct Judge {
    /// What is committed, by group and index.
    pub(super) log: BTreeMap<(ShardId, u64), (u64, Bytes)>,
    owners: BTreeMap<(ShardId, u64), usize>,
    /// The last index acknowledged to whoever proposed it.
    acked: BTreeMap<ShardId, u64>,
    pub(super) acks: usize,
    pub(super) lost: usize,
    pub(super) reads: usize,
    pub(super) installs: usize,
    pub(super) left: usize,
    pub(super) owned: usize,
    asked: BTreeMap<Ticket, u64>,
}

pub(super) struct World {
    pub(super) now: Millis,
    pub(super) random: Random,
    pub(super) places: Vec<Place>,
    pub(super) groups: Vec<ShardId>,
    pub(super) seating: BTreeMap<ShardId, Seating>,
    pub(super) loss: u64,
    pub(super) doubled: u64,
    pub(super) slow: u64,
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) limits: Limits,
    pub(super) network: BTreeMap<(Millis, u64), (usize, usize, Bytes)>,
    pub(super) sent: u64,
    unseen: BTreeMap<(usize, usize), Millis>,
    tickets: Ticket,
    pub(super) judge: Judge,
    /// Bytes that each command has more.
    pub(super) padding: usize,
    /// Membership sees nothing new.
    pub(super) blind: bool,
    /// Whether what is said counts.
    pub(super) judged: bool,
    /// What happened, for golden scripts.
    pub(super) trace: Option<Vec<String>>,
}

pub(super) fn id(place: usize) -> NodeId {
    NodeId([place as u8 + 1; 16])
}

pub(super) fn place_of(node: NodeId) -> usize {
    usize::from(node.0[0]) - 1
}

impl World {
    /// Nodes and groups; the first node has formed the groups, and is their only voter.
    pub(super) fn new(seed: u64, nodes: usize, groups: u16) -> World {
        let groups: Vec<ShardId> = (0..groups).map(|slot| ShardId { placement: 0, slot }).collect();
        let first = Seating { voters: [0].into(), ..Seating::default() };
        let mut world = World {
            now: 1_000,
            random: Random(seed),
            places: Vec::new(),
            seating: groups.iter().map(|group| (*group, first.clone())).collect(),
            groups,
            loss: 0,
            doubled: 0,
            slow: 0,
            cut: BTreeSet::new(),
            limits: Limits { trim: 8, keep: 64 },
            network: BTreeMap::new(),
            sent: 0,
            unseen: BTreeMap::new(),
            tickets: 0,
            judge: Judge::default(),
            padding: 0,
            blind: false,
            judged: true,
            trace: None,
        };
        (0..nodes).for_each(|_| world.add());
        let shards = world.groups.clone();
        world.places[0].groups.as_mut().unwrap().form(shards);
        world.step(0, vec![Event::Tick]);
        world.flush(0);
        world
    }

    /// Groups whose voters are the first nodes, and whose learners the others, at rest.
    pub(super) fn formed(seed: u64, voters: usize, learners: usize, groups: u16) -> World {
        let mut world = World::new(seed, voters + learners, groups);
        for seating in world.seating.values_mut() {
            seating.voters = (0..voters).collect();
            seating.learners = (voters..voters + learners).collect();
        }
        world.settle();
        world
    }

    pub(super) fn add(&mut self) {
        self.places.push(Place {
            disk: Memory::new(),
            starts: None,
            groups: None,
            machine: Machine::default(),
            queue: VecDeque::new(),
            paused: 0,
            told: BTreeMap::new(),
            live: BTreeSet::new(),
            gave_up: 0,
        });
        self.start(self.places.len() - 1);
    }

    pub(super) fn start(&mut self, place: usize) {
        let (chance, limits) = (self.random.next(), self.limits);
        let at = &mut self.places[place];
        let mut writes = Vec::new();
        let starts = Starts::open(&at.disk, chance, &mut writes).unwrap();
        at.disk.commit(&writes).unwrap();
        at.disk.flush().unwrap();
        at.machine = Machine::open(&at.disk);
        let options = Options { node: id(place), disk: starts.own(), chance, limits };
        let (disk, machine) = (Arc::new(at.disk.clone()), &at.machine);
        let groups = Groups::open(disk, options, |group| machine.applied(group)).unwrap();
        (at.groups, at.starts) = (Some(groups), Some(starts));
        (at.told, at.live) = (BTreeMap::new(), BTreeSet::new());
        at.paused = 0;
    }

    pub(super) fn is_up(&self, place: usize) -> bool {
        self.places[place].groups.is_some()
    }

    pub(super) fn up(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.is_up(*place)).collect()
    }

    /// Power is lost: some of the steps on their way to the disk are there, the later ones not.
    pub(super) fn crash(&mut self, place: usize) {
        let keep = self.random.below(self.places[place].queue.len() as u64 + 1) as usize;
        let at = &mut self.places[place];
        at.groups = None;
        for effects in at.queue.drain(..).take(keep) {
            at.disk.commit(&effects.writes).unwrap();
        }
        let keep = self.random.below(keep as u64 + 1) as usize;
        self.places[place].disk.crash_keeping(keep);
        self.network.retain(|_, (from, to, _)| *from != place && *to != place);
    }

    /// A copy of a disk, as power lost now would leave it.
    pub(super) fn copy(&self, place: usize) -> Snapshot {
        self.places[place].disk.snapshot()
    }

    pub(super) fn disk_id(&self, place: usize) -> u64 {
        self.places[place].starts.as_ref().map_or(0, Starts::disk)
    }

    pub(super) fn view(&self, place: usize, group: ShardId) -> Option<View> {
        self.places[place].groups.as_ref()?.view(group)
    }

    pub(super) fn owner(&self, group: ShardId) -> Option<usize> {
        let owned = |place: &usize| self.view(*place, group).filter(|view| view.owns);
        let owners = self.up().into_iter().filter_map(|place| Some((owned(&place)?.term, place)));
        owners.max().map(|(_, place)| place)
    }

    /// Gives a node events; what it wants is on its way to its disk.
    pub(super) fn step(&mut self, place: usize, events: Vec<Event>) {
        let now = self.now;
        let Place { groups, machine, queue, .. } = &mut self.places[place];
        let Some(groups) = groups else { return };
        queue.push_back(groups.step(now, events, machine));
    }

    /// The disk is done with all that is on its way to it; what waited for that is said.
    pub(super) fn flush(&mut self, place: usize) {
        while self.is_up(place)
            && let Some(effects) = self.places[place].queue.pop_front()
        {
            let mut events = vec![Event::Flushed(effects.step)];
            let at = &self.places[place];
            at.disk.commit(&effects.writes).unwrap();
            at.disk.flush().unwrap();
            let frames = effects.sends.into_iter().chain(effects.bulk);
            frames.for_each(|(to, frame)| self.send(place, place_of(to), frame));
            for news in effects.news {
                self.hear(place, news, &mut events);
            }
            if effects.stale.is_some() {
                events.push(self.renew(place));
            }
            let silent = matches!(events[..], [Event::Flushed(_)]);
            match (silent, &mut self.places[place]) {
                (true, Place { groups: Some(groups), machine, .. }) => {
                    let none = groups.step(self.now, events, machine);
                    self.places[place].queue.push_back(none);
                    // A step that was only told of a flush says nothing new for ever.
                    if self.is_spent(place) {
                        self.places[place].queue.clear();
                    }
                }
                _ => self.step(place, events),
            }
        }
    }

    fn is_spent(&self, place: usize) -> bool {
        let empty = |e: &Effects| {
            e.writes.is_empty()
                && e.sends.is_empty()
                && e.bulk.is_empty()
                && e.news.is_empty()
                && e.stale.is_none()
        };
        self.places[place].queue.iter().all(empty)
    }

    fn renew(&mut self, place: usize) -> Event {
        let at = &mut self.places[place];
        at.gave_up += 1;
        let (starts, mut writes) = (at.starts.as_mut().unwrap(), Vec::new());
        starts.renew(&mut writes);
        at.disk.commit(&writes).unwrap();
        at.disk.flush().unwrap();
        Event::Disk(starts.own())
    }

    fn send(&mut self, from: usize, to: usize, frame: Bytes) {
        self.sent += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:6} {from} -> {to}: {}", self.now, golden::said(&frame)));
        }
        if self.cut.contains(&(from, to)) || self.random.percent(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.random.percent(self.doubled));
        for _ in 0..copies {
            let slow = match self.random.percent(self.slow) {
                true => self.random.below(40),
                false => 0,
            };
            let at = self.now + STEP_MS * (1 + slow);
            let order = self.sent << 8 | self.network.len() as u64 & 0xff;
            self.network.insert((at, order), (from, to, frame.clone()));
        }
    }

    /// What a node's state machines are told.
    fn hear(&mut self, place: usize, news: News, events: &mut Vec<Event>) {
        if !self.judged {
            return;
        }
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:6} node {place}: {}", self.now, golden::told(&news)));
        }
        match news {
            News::Committed { group, entry, ticket } => {
                let known = self.judge.log.entry((group, entry.index));
                let said = (entry.term, entry.bytes.clone());
                let known = known.or_insert_with(|| said.clone());
                assert_eq!(*known, said, "another entry is committed in {group} {}", entry.index);
                if ticket.is_some() {
                    let acked = self.judge.acked.entry(group).or_default();
                    *acked = entry.index.max(*acked);
                    self.judge.acks += 1;
                }
                let at = &mut self.places[place];
                let writes = at.machine.apply(group, &entry);
                at.disk.commit(&writes).unwrap();
                at.disk.flush().unwrap();
                events.push(Event::Applied { group, index: entry.index });
                events.push(Event::Compact { group, index: entry.index });
            }
            News::Owner { group, term } => {
                self.judge.owned += 1;
                let owner = *self.judge.owners.entry((group, term)).or_insert(place);
                assert_eq!(owner, place, "two owners of {group} in term {term}");
            }
            News::Readable { ticket, index, group } => {
                let acked = self.judge.asked.remove(&ticket).expect("it was asked for");
                assert!(index >= acked, "a read of {group} at {index}, {acked} was acknowledged");
                self.judge.reads += 1;
            }
            News::Refused { ticket, .. } => drop(self.judge.asked.remove(&ticket)),
            News::Lost { .. } => self.judge.lost += 1,
            News::Installed { group, .. } => {
                self.judge.installs += 1;
                *self.places[place].machine.switched.get_mut(&group).unwrap() -= 1;
            }
            News::Left { group } => {
                self.judge.left += 1;
                *self.places[place].machine.switched.get_mut(&group).unwrap() -= 1;
            }
            News::NotOwner { .. } => {}
        }
    }

    /// Proposes something at a node.
    pub(super) fn propose(&mut self, place: usize, group: ShardId) {
        self.tickets += 1;
        let command = Bytes::from(format!("{:1$}", self.tickets, self.padding));
        self.step(place, vec![Event::Propose { group, ticket: self.tickets, command }]);
    }

    /// Asks a node for an index to read at.
    pub(super) fn read(&mut self, place: usize, group: ShardId) {
        if self.is_up(place) {
            self.tickets += 1;
            let acked = self.judge.acked.get(&group).copied().unwrap_or(0);
            self.judge.asked.insert(self.tickets, acked);
            self.step(place, vec![Event::Read { group, ticket: self.tickets }]);
        }
    }

    /// Lets some time pass.
    pub(super) fn run(&mut self, time: Millis) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP_MS;
            self.deliver();
            if self.now.is_multiple_of(GOSSIP_MS) {
                self.gossip();
            }
            for place in self.up() {
                if self.places[place].paused > self.now {
                    continue;
                }
                let due = self.places[place].groups.as_ref().unwrap().deadline();
                if due.is_some_and(|due| due <= self.now) {
                    self.step(place, vec![Event::Tick]);
                }
                // A disk is done at once, or takes a while.
                if self.random.percent(80) {
                    self.flush(place);
                }
            }
        }
    }

    fn deliver(&mut self) {
        let mut late = Vec::new();
        while let Some(entry) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
            let ((_, order), (from, to, frame)) = entry.remove_entry();
            if self.is_up(to) && self.places[to].paused > self.now {
                late.push(((self.now + STEP_MS, order), (from, to, frame)));
            } else if self.is_up(to) && !self.cut.contains(&(from, to)) {
                self.step(to, vec![Event::Received(id(from), frame)]);
            }
        }
        self.network.extend(late);
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.is_up(from) && self.is_up(to) && !self.cut.contains(&(from, to))
    }

    /// Membership and the record, as each node sees them.
    fn gossip(&mut self) {
        let seats: BTreeMap<ShardId, Seats> =
            self.seating.iter().map(|(group, seating)| (*group, self.seats(seating))).collect();
        for place in self.up() {
            let mut live = BTreeSet::new();
            for other in 0..self.places.len() {
                let seen = self.reaches(other, place);
                let since = self.unseen.entry((place, other)).or_insert(self.now);
                if seen {
                    *since = self.now;
                }
                if self.now - *since < DETECT_MS {
                    live.insert(id(other));
                }
            }
            if self.blind {
                live = (0..self.places.len()).map(id).collect();
            }
            let at = &mut self.places[place];
            let mut events = Vec::new();
            if at.live != live {
                at.live = live.clone();
                events.push(Event::Live(live));
            }
            if at.told != seats && self.random.percent(60) {
                self.places[place].told = seats.clone();
                events.push(Event::Placed(seats.clone()));
            }
            if !events.is_empty() {
                self.step(place, events);
            }
        }
    }

    pub(super) fn seats(&self, seating: &Seating) -> Seats {
        let of = |places: &BTreeSet<usize>| {
            let disks = places.iter().map(|place| (self.disk_id(*place), id(*place)));
            disks.filter(|(disk, _)| *disk != 0).collect()
        };
        Seats { voters: of(&seating.voters), learners: of(&seating.learners) }
    }
}
