//! Random schedules under a seed: requests, retries, workers, commits, lost terms, owners that do
//! not know it yet, crashes, refused proposals, snapshots, time. Judged by the log alone.
//!
//! The group is a list: what a leader proposed is committed in order, until another leads; of what
//! is not committed then a prefix survives.
//!
//! What is checked: replicas end byte for byte equal; every key counts at most once; revisions are
//! dense; an answer is in the log as it was given; what "changed nothing" is not in the log; a
//! refusal was true at a moment between its request and its answer.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use atoll_store::owned::{Entry, position};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

struct Member {
    memory: Memory,
    copy: Copy,
    owner: Owner,
    jobs: VecDeque<Job>,
    rounds: Vec<u64>,
}

struct World {
    random: Random,
    now: Millis,
    members: Vec<Member>,
    /// Who leads, in which term.
    leader: usize,
    term: u64,
    /// Committed: term and entry.
    log: Vec<(u64, Bytes)>,
    /// Proposed in this term, not committed.
    pending: VecDeque<(u64, Bytes)>,
    /// Each with the length of the log and the member that it was sent to.
    requests: BTreeMap<u64, (Request, usize, usize)>,
    replies: BTreeMap<u64, (Reply, usize)>,
}

impl World {
    fn new(seed: u64) -> World {
        let member = || {
            let memory = Memory::new();
            let copy = Copy::open(Arc::new(memory.clone()), SHARD).unwrap();
            let (jobs, rounds) = (VecDeque::new(), Vec::new());
            Member { memory, copy, owner: fresh_owner(0), jobs, rounds }
        };
        let members = vec![member(), member(), member()];
        let mut world = World {
            random: Random(seed),
            now: 1_000,
            members,
            leader: 0,
            term: 0,
            log: Vec::new(),
            pending: VecDeque::new(),
            requests: BTreeMap::new(),
            replies: BTreeMap::new(),
        };
        world.elect(0);
        world
    }

    fn step(&mut self, at: usize, event: Event) {
        let effects = self.members[at].owner.step(self.now, event);
        self.members[at].jobs.extend(effects.jobs);
        self.members[at].rounds.extend(effects.confirm);
        for (ticket, reply) in effects.replies {
            let before = self.replies.insert(ticket, (reply, self.log.len()));
            assert!(before.is_none(), "{ticket} was answered twice");
        }
        // What one proposes that leads no more goes nowhere.
        let leads = at == self.leader && self.members[at].owner.term() == Some(self.term);
        self.pending.extend(effects.proposals.into_iter().filter(|_| leads));
    }

    fn request(&mut self) {
        let ticket = self.requests.len() as u64 + 1;
        let again = self.random.below(4) == 0 && !self.requests.is_empty();
        let old = self.random.below(ticket.max(2) - 1) + 1;
        let mut request = match self.requests.get(&old) {
            Some((request, ..)) if again && request.keyed.is_some() => request.clone(),
            _ => self.draw(ticket),
        };
        request.ticket = ticket;
        request.deadline = self.now + 2_000;
        if again && self.random.below(8) == 0 {
            request.keyed = request.keyed.map(|k| Keyed { request: [9; 16], ..k });
        }
        let at = match self.random.below(5) {
            0 => self.random.below(3) as usize,
            _ => self.leader,
        };
        self.requests.insert(ticket, (request.clone(), self.log.len(), at));
        self.step(at, Event::Request(request));
    }

    fn draw(&mut self, ticket: u64) -> Request {
        let id = ["a", "b", "erased"][self.random.below(3) as usize];
        let kinds = ["add", "add", "add", "twice", "nothing", "reject", "error", "loop"];
        let kind = kinds[self.random.below(8) as usize];
        let data = Bytes::from(format!("{ticket} {}", self.random.below(9)));
        let erase = id == "erased" && self.random.below(4) == 0;
        let command = Command { kind: kind.into(), data };
        let key = (id != "erased" && self.random.below(2) == 0).then(|| format!("k{ticket}"));
        Request {
            ticket,
            name: name(id),
            ask: if erase { Ask::Erase } else { Ask::Command(command) },
            command_id: key.clone().unwrap_or(format!("t{ticket}")),
            keyed: key.map(|key| keyed(&key, &key)),
            expected: (self.random.below(6) == 0).then(|| self.random.below(5)),
            deadline: 0,
        }
    }

    fn commit(&mut self) {
        if let Some((_, bytes)) = self.pending.pop_front() {
            self.log.push((self.term, bytes));
        }
    }

    /// A replica applies the next entry; sometimes it is not durable yet when power fails.
    fn apply(&mut self, at: usize) -> bool {
        let member = &mut self.members[at];
        let index = member.copy.position().index as usize;
        let Some((term, bytes)) = self.log.get(index) else { return false };
        let applied = member.copy.apply(index as u64 + 1, *term, bytes).unwrap();
        member.memory.commit(&applied.writes).unwrap();
        member.memory.flush().unwrap();
        member.copy.settle(applied.step);
        self.step(at, Event::Applied(applied));
        true
    }

    /// Another term. The old leader may learn of it later; who leads has applied everything.
    fn elect(&mut self, to: usize) {
        let survive = self.random.below(self.pending.len() as u64 + 1);
        (0..survive).for_each(|_| self.commit());
        self.pending.clear();
        self.term += 1;
        self.leader = to;
        while self.apply(to) {}
        self.step(to, Event::Behaviour(name("x").collection, Some(HASH)));
        self.step(to, Event::Leads(self.term));
    }

    fn crash(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.memory.crash();
        member.copy = Copy::open(Arc::new(member.memory.clone()), SHARD).unwrap();
        member.owner = fresh_owner(self.now << 20);
        (member.jobs, member.rounds) = (VecDeque::new(), Vec::new());
        // Its clients are told nothing, so they know nothing.
        let sent = self.requests.iter().filter(|(_, (_, _, to))| *to == at);
        let told = sent.map(|(ticket, _)| (*ticket, (Reply::Unknown, self.log.len())));
        for (ticket, reply) in told.collect::<Vec<_>>() {
            self.replies.entry(ticket).or_insert(reply);
        }
        if at == self.leader {
            let to = self.random.below(3) as usize;
            self.elect(to);
        }
    }

    fn work(&mut self, at: usize) {
        let Some(job) = self.members[at].jobs.pop_front() else { return };
        let done = work::run(&self.members[at].memory, &mut behaviours(), job);
        self.step(at, Event::Done(done));
    }

    fn random_step(&mut self) {
        let at = self.random.below(3) as usize;
        match self.random.below(40) {
            0..12 => self.request(),
            12..20 => self.work(self.leader),
            20..22 => self.work(at),
            22..28 => self.commit(),
            28..35 => drop(self.apply(if at == 1 { self.leader } else { at })),
            35 => {
                self.now += self.random.below(700);
                self.step(at, Event::Tick);
            }
            36 => {
                // Only who really leads is confirmed.
                let leads = self.members[self.leader].owner.term() == Some(self.term);
                if let Some(round) = self.members[self.leader].rounds.pop().filter(|_| leads) {
                    self.step(self.leader, Event::Confirmed(round));
                }
            }
            37 if self.random.below(4) == 0 => {
                self.elect(at);
            }
            38 if at != self.leader => self.step(at, Event::Lost),
            39 if self.random.below(4) == 0 => self.crash(at),
            _ => self.refuse(),
        }
    }

    /// A proposal that is not taken into the log.
    fn refuse(&mut self) {
        if self.random.below(3) == 0
            && let Some((number, _)) = self.pending.pop_back()
        {
            self.step(self.leader, Event::Refused(number));
        }
    }

    /// Everything quiet: all applied everywhere, everybody answered.
    fn settle(&mut self) {
        for at in 0..3 {
            while !self.members[at].jobs.is_empty() {
                self.work(at);
            }
        }
        while !self.pending.is_empty() {
            self.commit();
        }
        for at in 0..3 {
            while self.apply(at) {}
            self.step(at, Event::Lost);
        }
    }
}

fn fresh_owner(first: u64) -> Owner {
    let config = Config {
        snapshot_every: 5,
        job_max: 3,
        idle_ms: 1_500,
        pause_ms: 1,
        pause_max_ms: 50,
        ..Config::default()
    };
    Owner::new(config, SHARD, first)
}

/// What the log says, by the plainest reading.
#[derive(Default)]
struct Truth {
    /// Per entity: events as (sequence, ticket) in the order of the log, erased ones too.
    events: BTreeMap<String, Vec<(u64, u64)>>,
    keys: BTreeSet<String>,
    /// Per entity: its shown revision and its sum, by place in the log.
    shown: BTreeMap<String, Vec<(usize, u64, u64)>>,
}

fn truth(log: &[(u64, Bytes)]) -> Truth {
    let mut truth = Truth::default();
    let mut revisions: BTreeMap<String, u64> = BTreeMap::new();
    for (place, (_, bytes)) in log.iter().enumerate() {
        let entry = Entry::decode(bytes).unwrap();
        let id = entry.name.id.as_str().to_string();
        let revision = revisions.entry(id.clone()).or_default();
        let shown = truth.shown.entry(id.clone()).or_default();
        let sum = shown.last().map_or(0, |(_, _, sum)| *sum);
        if entry.base != *revision {
            continue;
        }
        match entry.body {
            Body::Append(append) => {
                if append.keyed.is_some() && !truth.keys.insert(append.command_id.clone()) {
                    continue;
                }
                let mut sum = sum;
                for event in &append.events {
                    *revision += 1;
                    let text = std::str::from_utf8(&event.data).unwrap();
                    let (ticket, amount) = text.split_once(' ').unwrap();
                    sum += number(amount.as_bytes());
                    let events = truth.events.entry(id.clone()).or_default();
                    events.push((*revision, ticket.parse().unwrap()));
                }
                if !append.events.is_empty() {
                    shown.push((place + 1, *revision, sum));
                }
            }
            Body::Snapshot(at) => assert_eq!(number(&at.state), sum, "a wrong snapshot of {id}"),
            Body::Erase => shown.push((place + 1, 0, 0)),
        }
    }
    truth
}

impl Truth {
    /// Revisions and sums of an entity while the log grew from one length to another.
    fn during(&self, id: &str, from: usize, until: usize) -> Vec<(u64, u64)> {
        let shown = self.shown.get(id).cloned().unwrap_or_default();
        let before = shown.iter().rev().find(|(place, ..)| *place <= from);
        let before = before.map_or((0, 0), |(_, revision, sum)| (*revision, *sum));
        let within = shown.iter().filter(|(place, ..)| *place > from && *place <= until);
        [before].into_iter().chain(within.map(|(_, r, s)| (*r, *s))).collect()
    }

    fn of(&self, id: &str, ticket: u64) -> Vec<u64> {
        let events = self.events.get(id).into_iter().flatten();
        events.filter(|(_, of)| *of == ticket).map(|(sequence, _)| *sequence).collect()
    }
}

fn check(world: &World) -> [usize; 3] {
    let truth = truth(&world.log);
    for (id, events) in &truth.events {
        let dense = events.iter().zip(1..).all(|((sequence, _), n)| *sequence == n);
        assert!(dense, "{id}: {events:?}");
    }
    let mut seen = [0; 3];
    for (ticket, (request, from, _)) in &world.requests {
        let (reply, until) = &world.replies[ticket];
        let id = request.name.id.as_str();
        let during = truth.during(id, *from, *until);
        let what = format!("{ticket} {request:?} {reply:?}");
        match reply {
            Reply::Done(answer) => {
                seen[0] += 1;
                for (sequence, _, data) in &answer.events {
                    let author = std::str::from_utf8(data).unwrap().split_once(' ').unwrap().0;
                    let author: u64 = author.parse().unwrap();
                    assert!(truth.of(id, author).contains(sequence), "{what}");
                    assert!(answer.replayed || author == original(request), "{what}");
                }
                assert!(request.keyed.is_none() || truth.keys.contains(&request.command_id));
            }
            Reply::Rejected(sum) => {
                let sum = number(sum.as_bytes());
                assert!(during.iter().any(|(_, s)| *s == sum), "{what} {during:?}");
            }
            Reply::Conflict(revision) => {
                assert!(during.iter().any(|(r, _)| r == revision), "{what} {during:?}");
            }
            Reply::Unknown => seen[1] += 1,
            Reply::Erased(..) => {}
            _ => seen[2] += 1,
        }
        let nothing = !matches!(reply, Reply::Done(_) | Reply::Unknown | Reply::Erased(..));
        if nothing && request.keyed.is_none() {
            assert!(truth.of(id, *ticket).is_empty(), "{what}");
        }
    }
    seen
}

/// The ticket in a request's data: of its first attempt.
fn original(request: &Request) -> u64 {
    let Ask::Command(command) = &request.ask else { return 0 };
    let text = std::str::from_utf8(&command.data).unwrap();
    text.split_once(' ').unwrap().0.parse().unwrap()
}

fn run(seed: u64) -> [usize; 3] {
    let mut world = World::new(seed);
    for _ in 0..600 {
        world.random_step();
    }
    world.settle();
    let raw = |at: usize| world.members[at].memory.scan(b"", b"\xFF", usize::MAX).unwrap();
    for at in 1..3 {
        let index = position(&world.members[at].memory, SHARD).unwrap().index;
        assert_eq!(index, world.log.len() as u64);
        assert!(raw(at) == raw(0), "seed {seed}: replicas differ");
    }
    check(&world)
}

#[test]
fn random_schedules_keep_every_promise() {
    let mut seen = [0; 3];
    for seed in 0..150 {
        let found = run(seed);
        (0..3).for_each(|i| seen[i] += found[i]);
    }
    let [done, unknown, other] = seen;
    assert!(done > 2_000 && unknown > 200 && other > 200, "dull schedules: {seen:?}");
}
