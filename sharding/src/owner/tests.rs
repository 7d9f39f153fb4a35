//! An owner by itself, with a store, a worker and a group that do what they are told.

mod model;

use std::sync::Arc;

use atoll_store::backend::Backend;
use atoll_store::backend::memory::Memory;
use atoll_store::owned::{Copy, Keyed, NewEvent, summary};

use super::behaviour::{Behaviour, Behaviours, Command, Decision, Refusal};
use super::*;

const SHARD: ShardId = ShardId { placement: 0, slot: 3 };
const HASH: BehaviourHash = [1; 32];
const OTHER: BehaviourHash = [2; 32];

/// A sum in decimal. `add` and `twice` add to it; events carry `who amount`.
struct Sums(u32);

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

impl Behaviour for Sums {
    fn snapshot_version(&mut self) -> Result<u32, Failure> {
        Ok(self.0)
    }

    fn initial(&mut self) -> Result<Bytes, Failure> {
        Ok("0".into())
    }

    fn decide(&mut self, state: &Bytes, command: &Command) -> Result<Decision, Refusal> {
        let added = |count| {
            let event = NewEvent { kind: "added".into(), data: command.data.clone() };
            let events = vec![event; count];
            Ok(Decision { events, reply: state.clone() })
        };
        match &command.kind[..] {
            "add" => added(1),
            "twice" => added(2),
            "nothing" => added(0),
            "reject" => Err(Refusal::Rejected(String::from_utf8_lossy(state).into())),
            "error" => Err(Refusal::Failed(Failure::Error("an error".into()))),
            "loop" => Err(Refusal::Failed(Failure::Budget)),
            _ => panic!("no such command"),
        }
    }

    fn evolve(&mut self, state: &Bytes, event: &NewEvent, _: bool) -> Result<Bytes, Failure> {
        let amount = event.data.rsplit(|byte| *byte == b' ').next().unwrap();
        Ok((number(state) + number(amount)).to_string().into())
    }
}

/// Two versions of it, under two hashes.
struct Both(Sums, Sums);

impl Behaviours for Both {
    fn find(&mut self, hash: &BehaviourHash) -> Option<&mut dyn Behaviour> {
        match *hash {
            HASH => Some(&mut self.0),
            OTHER => Some(&mut self.1),
            _ => None,
        }
    }
}

fn behaviours() -> Both {
    Both(Sums(1), Sums(2))
}

fn name(id: &str) -> Name {
    Name::parse("sums", id).unwrap()
}

fn keyed(key: &str, request: &str) -> Keyed {
    let hash = |text: &str| *blake3::hash(text.as_bytes()).as_bytes().first_chunk().unwrap();
    Keyed { key: hash(key), request: hash(request) }
}

/// One node that owns the shard, with a group of one whose commits are told when asked for.
struct Node {
    memory: Memory,
    copy: Copy,
    owner: Owner,
    now: Millis,
    term: u64,
    ticket: u64,
    proposals: Vec<(u64, Bytes)>,
    jobs: Vec<Job>,
    rounds: Vec<u64>,
    replies: BTreeMap<u64, Reply>,
    failing: usize,
}

impl Node {
    fn new(config: Config) -> Node {
        let memory = Memory::new();
        let copy = Copy::open(Arc::new(memory.clone()), SHARD).unwrap();
        let mut node = Node {
            memory,
            copy,
            owner: Owner::new(config, SHARD, 0),
            now: 1_000,
            term: 1,
            ticket: 0,
            proposals: Vec::new(),
            jobs: Vec::new(),
            rounds: Vec::new(),
            replies: BTreeMap::new(),
            failing: 0,
        };
        node.step(Event::Behaviour(name("x").collection, Some(HASH)));
        node.step(Event::Leads(1));
        node
    }

    fn step(&mut self, event: Event) {
        let effects = self.owner.step(self.now, event);
        self.proposals.extend(effects.proposals);
        self.jobs.extend(effects.jobs);
        self.rounds.extend(effects.confirm);
        self.failing += effects.failing.len();
        for (ticket, reply) in effects.replies {
            assert_eq!(self.replies.insert(ticket, reply), None, "answered twice");
        }
    }

    fn request(&mut self, id: &str, kind: &str) -> Request {
        self.ticket += 1;
        let data = Bytes::from(format!("{} 1", self.ticket));
        Request {
            ticket: self.ticket,
            name: name(id),
            ask: Ask::Command(Command { kind: kind.into(), data }),
            command_id: self.ticket.to_string(),
            keyed: None,
            expected: None,
            deadline: self.now + 10_000,
        }
    }

    /// Asks, and has workers do what there is to do.
    fn ask(&mut self, id: &str, kind: &str) -> u64 {
        let request = self.request(id, kind);
        self.send(request)
    }

    fn send(&mut self, request: Request) -> u64 {
        let ticket = request.ticket;
        self.step(Event::Request(request));
        self.work();
        ticket
    }

    fn work(&mut self) {
        while !self.jobs.is_empty() {
            let job = self.jobs.remove(0);
            let done = work::run(&self.memory, &mut behaviours(), job);
            self.step(Event::Done(done));
        }
    }

    /// Commits what was proposed, in order.
    fn commit(&mut self) {
        while !self.proposals.is_empty() {
            let (_, bytes) = self.proposals.remove(0);
            let index = self.copy.position().index + 1;
            let applied = self.copy.apply(index, self.term, &bytes).unwrap();
            self.memory.commit(&applied.writes).unwrap();
            self.copy.settle(applied.step);
            self.step(Event::Applied(applied));
            self.work();
        }
    }

    fn reply(&self, ticket: u64) -> Option<&Reply> {
        self.replies.get(&ticket)
    }

    fn revision(&self, ticket: u64) -> u64 {
        match self.reply(ticket) {
            Some(Reply::Done(answer)) => answer.revision,
            other => panic!("{ticket}: {other:?}"),
        }
    }
}

#[test]
fn a_hot_entity_pipelines_and_is_answered_after_commit() {
    let mut node = Node::new(Config::default());
    let tickets: Vec<u64> = (0..100).map(|_| node.ask("a", "add")).collect();
    assert_eq!((node.proposals.len(), node.replies.len()), (101, 0), "and one snapshot");
    node.commit();
    for (ticket, revision) in tickets.iter().zip(1..) {
        assert_eq!(node.revision(*ticket), revision);
    }
    assert_eq!(node.owner.open(), 0);
}

#[test]
fn requests_that_wait_for_a_worker_share_a_job() {
    let mut node = Node::new(Config::default());
    for _ in 0..20 {
        let request = node.request("a", "add");
        node.step(Event::Request(request));
    }
    assert_eq!(node.jobs.len(), 1);
    assert_eq!(node.jobs[0].requests.len(), 1);
    let job = node.jobs.remove(0);
    let done = work::run(&node.memory, &mut behaviours(), job);
    node.step(Event::Done(done));
    assert_eq!(node.jobs[0].requests.len(), Config::default().job_max);
}

#[test]
fn a_refusal_waits_for_what_it_was_decided_on() {
    let mut node = Node::new(Config::default());
    let add = node.ask("a", "add");
    let rejected = node.ask("a", "reject");
    assert!(node.replies.is_empty() && node.rounds.is_empty());
    node.commit();
    assert_eq!(node.revision(add), 1);
    assert_eq!(node.reply(rejected), Some(&Reply::Rejected("1".into())));
    // With nothing under way it waits for word from a majority.
    let mut request = node.request("a", "add");
    request.expected = Some(7);
    let conflict = node.send(request);
    assert_eq!((node.reply(conflict), node.rounds.len()), (None, 1));
    node.step(Event::Confirmed(node.rounds[0] - 1));
    assert_eq!(node.reply(conflict), None);
    node.step(Event::Confirmed(node.rounds[0]));
    assert_eq!(node.reply(conflict), Some(&Reply::Conflict(1)));
}

#[test]
fn a_lost_term_tells_what_was_proposed_from_what_was_not() {
    let mut node = Node::new(Config::default());
    let proposed = node.ask("a", "add");
    let rejected = node.ask("a", "reject");
    let request = node.request("a", "add");
    let working = request.ticket;
    node.step(Event::Request(request));
    let request = node.request("a", "add");
    let waiting = request.ticket;
    node.step(Event::Request(request));
    node.step(Event::Lost);
    assert_eq!(node.reply(proposed), Some(&Reply::Unknown));
    for ticket in [rejected, working, waiting] {
        assert_eq!(node.reply(ticket), Some(&Reply::NoOwner));
    }
    // What the worker decided for the old term is dropped.
    node.proposals.clear();
    node.work();
    let late = node.ask("a", "add");
    assert_eq!((node.reply(late), node.proposals.len()), (Some(&Reply::NoOwner), 0));
    assert_eq!(node.owner.open(), 0);
}

#[test]
fn a_key_counts_once_whether_its_first_is_under_way_or_committed() {
    let mut node = Node::new(Config::default());
    let send = |node: &mut Node, key: &str, body: &str| {
        let mut request = node.request("a", "add");
        request.keyed = Some(keyed(key, body));
        node.send(request)
    };
    let first = send(&mut node, "k", "body");
    let again = send(&mut node, "k", "body");
    let reused = send(&mut node, "k", "other");
    assert_eq!(node.proposals.len(), 1);
    node.commit();
    let late = send(&mut node, "k", "body");
    let late_reused = send(&mut node, "k", "other");
    assert_eq!(node.revision(first), 1);
    for ticket in [again, late] {
        let Some(Reply::Done(answer)) = node.reply(ticket) else { panic!("no answer") };
        assert_eq!((answer.revision, answer.replayed, &answer.reply[..]), (1, true, &b"0"[..]));
        assert_eq!(answer.events[0].2, format!("{first} 1"));
    }
    assert_eq!(node.reply(reused), Some(&Reply::KeyReused));
    assert_eq!(node.reply(late_reused), Some(&Reply::KeyReused));
}

#[test]
fn a_proposal_that_never_entered_the_log_is_not_built_upon() {
    let mut node = Node::new(Config::default());
    let lost = node.ask("a", "add");
    let later = node.ask("a", "add");
    let other = node.ask("b", "add");
    let (number, _) = node.proposals.remove(0);
    node.step(Event::Refused(number));
    assert_eq!(node.reply(lost), Some(&Reply::NoOwner));
    node.commit();
    assert_eq!(node.reply(later), Some(&Reply::NoOwner), "decided on what never was");
    assert_eq!(node.revision(other), 1);
    let fresh = node.ask("a", "add");
    node.commit();
    assert_eq!(node.revision(fresh), 1);
}

#[test]
fn queues_are_bounded() {
    let config = Config { entity_max: 10, total_max: 15, ..Config::default() };
    let mut node = Node::new(config);
    let mut tickets = Vec::new();
    for id in ["a", "b"] {
        for _ in 0..12 {
            let request = node.request(id, "add");
            tickets.push(request.ticket);
            node.step(Event::Request(request));
        }
    }
    let refused = |t: &&u64| node.reply(**t) == Some(&Reply::Overloaded);
    let refused: Vec<u64> = tickets.iter().filter(refused).copied().collect();
    assert_eq!(refused, [11, 12, 18, 19, 20, 21, 22, 23, 24]);
    node.work();
    node.commit();
    assert_eq!(node.owner.open(), 0);
}

#[test]
fn a_failing_entity_pauses_alone_and_longer_each_time() {
    let mut node = Node::new(Config::default());
    for (round, kind) in [(0, "loop"), (1, "panic"), (2, "loop")] {
        let failed = node.ask("a", kind);
        assert!(matches!(node.reply(failed), Some(Reply::Failed(f)) if f.is_severe()));
        let paused = node.ask("a", "add");
        assert_eq!(node.reply(paused), Some(&Reply::Failing(100 << round)));
        node.ask("b", "add");
        node.now += 100 << round;
    }
    assert_eq!((node.failing, node.proposals.len()), (3, 3));
    let well = node.ask("a", "add");
    node.commit();
    assert_eq!(node.revision(well), 1);
    // An error of one command is nobody else's business.
    let error = node.ask("a", "error");
    node.step(Event::Confirmed(u64::MAX));
    assert_eq!(node.reply(error), Some(&Reply::Failed(Failure::Error("an error".into()))));
    let well = node.ask("a", "add");
    node.commit();
    assert_eq!(node.revision(well), 2);
}

#[test]
fn deadlines_tell_what_is_known() {
    let mut node = Node::new(Config::default());
    let proposed = node.ask("a", "add");
    let held = node.ask("a", "reject");
    let request = node.request("a", "add");
    node.step(Event::Request(request));
    let request = node.request("a", "add");
    let waiting = request.ticket;
    node.step(Event::Request(request));
    node.now += 10_000;
    node.step(Event::Tick);
    assert_eq!(node.reply(proposed), Some(&Reply::Unknown));
    assert_eq!(node.reply(held), Some(&Reply::TimedOut));
    assert_eq!(node.reply(waiting), Some(&Reply::TimedOut));
}

#[test]
fn idle_entities_are_let_go_with_a_snapshot() {
    let mut node = Node::new(Config::default());
    for id in ["a", "b", "c"] {
        node.ask(id, "add");
    }
    node.commit();
    assert_eq!(node.owner.seats(), 3);
    node.now += 60_000;
    node.step(Event::Tick);
    assert_eq!(node.proposals.len(), 3);
    node.commit();
    node.step(Event::Tick);
    assert_eq!(node.owner.seats(), 0);
    assert_eq!(summary(&node.memory, SHARD, &name("a")).unwrap().unwrap().snapshot, Some((1, 1)));
    let next = node.ask("a", "add");
    node.commit();
    assert_eq!(node.revision(next), 2);
}

#[test]
fn a_full_cache_lets_the_oldest_go() {
    let mut node = Node::new(Config { cache_bytes: 5, snapshot_every: 1, ..Config::default() });
    for id in 0..9 {
        node.now += 1;
        node.ask(&format!("e{id}"), "add");
    }
    node.commit();
    node.step(Event::Tick);
    assert_eq!(node.owner.seats(), 5);
}

#[test]
fn a_new_behaviour_recovers_from_what_it_can_read() {
    let mut node = Node::new(Config { snapshot_every: 2, ..Config::default() });
    node.ask("a", "twice");
    let under_way = node.ask("a", "add");
    node.step(Event::Behaviour(name("a").collection, Some(OTHER)));
    let after = node.ask("a", "add");
    assert_eq!(node.reply(after), None, "waits for what the old one has under way");
    node.commit();
    assert_eq!((node.revision(under_way), node.revision(after)), (3, 4));
    let Some(Reply::Done(answer)) = node.reply(after) else { panic!("no answer") };
    assert_eq!(answer.reply, "3");
    let found = summary(&node.memory, SHARD, &name("a")).unwrap().unwrap();
    assert_eq!((found.behaviour, found.snapshot), (Some(OTHER), Some((4, 2))));
}

#[test]
fn types_without_a_behaviour_take_events_as_they_are() {
    let mut node = Node::new(Config::default());
    let mut request = node.request("a", "add");
    request.name = Name::parse("plain", "a").unwrap();
    let refused = node.send(request.clone());
    assert_eq!(node.reply(refused), Some(&Reply::NoBehaviour));
    let event = NewEvent { kind: "happened".into(), data: "{}".into() };
    request.ask = Ask::Append(vec![event.clone(), event]);
    request.expected = Some(0);
    request.ticket = 1_000;
    let first = node.send(request.clone());
    request.ticket = 1_001;
    let second = node.send(request.clone());
    node.commit();
    assert_eq!(node.revision(first), 2);
    assert_eq!(node.reply(second), Some(&Reply::Conflict(2)));
    (request.ticket, request.name) = (1_002, name("a"));
    let refused = node.send(request);
    assert_eq!(node.reply(refused), Some(&Reply::HasBehaviour));
}

#[test]
fn an_erased_entity_begins_anew_after_its_last_revision() {
    let mut node = Node::new(Config::default());
    node.ask("a", "twice");
    let mut request = node.request("a", "add");
    request.ask = Ask::Erase;
    let erased = node.send(request.clone());
    request = node.request("a", "add");
    request.expected = Some(0);
    let fresh = node.send(request);
    node.commit();
    assert_eq!(node.reply(erased), Some(&Reply::Erased(true, 2)));
    assert_eq!(node.revision(fresh), 3);
    let Some(Reply::Done(answer)) = node.reply(fresh) else { panic!("no answer") };
    assert_eq!(answer.reply, "0");
}
