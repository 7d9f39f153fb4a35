//! The owner of a shard: decides what is appended to its entities, one command at a time for each
//! entity, many entities side by side.
//!
//! A request is decided by a worker against the entity as it will be once everything proposed is
//! committed. So the next one need not wait for a commit: a hot entity pipelines. A request is
//! answered when its entry was committed and is durable here.
//!
//! ```text
//! request -> waiting -> job (worker: recover, look up the key, decide, evolve) -> proposed
//!         -> committed by the group -> applied by the store -> durable -> answer
//! ```
//!
//! Invariants:
//! 1. An entity has one job at a time; its entries are proposed in the order of decisions.
//! 2. What was decided in a term is proposed in that term or not at all: with its end all
//!    speculation is dropped. A request that was not proposed then is `NoOwner`, and nothing
//!    changed; one that was is `Unknown`.
//! 3. Nothing is answered from speculation: an answer waits for the commit of its own entry, a
//!    refusal for the commit of what it was decided on, or, where nothing is under way, for word
//!    from a majority that this is still the owner.
//! 4. Of requests with one key at most one is under way; the others wait for it.
//! 5. Queues are bounded, for each entity and in all.
//! 6. A severe failure of a behaviour stops its entity for a while that doubles; no other entity.
//!
//! The driver's part: it starts (`Leads`) when all that earlier terms left is applied, passes
//! what was applied once it is durable, proposes in order, and does jobs on worker threads.
//!
//! Left out: reads. A linearizable one asks the group for a read index, and then [`work::replay`]s
//! what is durable; others only do the latter.

pub mod behaviour;
mod entity;
mod settle;
pub mod work;

use std::collections::BTreeMap;

use atoll_store::dot::Millis;
use atoll_store::name::Collection;
use atoll_store::owned::{Applied, BehaviourHash, Body, Entry, Name};
use atoll_store::shard::ShardId;
use bytes::Bytes;

use behaviour::Failure;
use entity::{Flight, Seat};
use work::{Ask, Done, Job, Request, Step};

/// How an owner works.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Events between two snapshots of an entity. Default 100.
    pub snapshot_every: u64,
    /// Requests of one entity that wait or are under way; one more is `Overloaded`. Default 512.
    pub entity_max: usize,
    /// The same, in all. Default 20,000.
    pub total_max: usize,
    /// Requests that one job decides. Default 16: a job ends in milliseconds.
    pub job_max: usize,
    /// Entries of one entity that are proposed and not applied. Default 256.
    pub flying_max: usize,
    /// Bytes of states kept for entities that nobody asks at the moment. Default 64 MiB.
    pub cache_bytes: usize,
    /// How long an entity that nobody asks is kept, in milliseconds. Default 60,000.
    pub idle_ms: Millis,
    /// The first pause after a severe failure, in milliseconds; it doubles. Default 100.
    pub pause_ms: Millis,
    /// The longest pause. Default 30,000.
    pub pause_max_ms: Millis,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            snapshot_every: 100,
            entity_max: 512,
            total_max: 20_000,
            job_max: 16,
            flying_max: 256,
            cache_bytes: 64 << 20,
            idle_ms: 60_000,
            pause_ms: 100,
            pause_max_ms: 30_000,
        }
    }
}

/// What happens to an owner.
#[derive(Clone, Debug)]
pub enum Event {
    /// This node leads the shard's group in this term, and has applied all of earlier terms.
    Leads(u64),
    /// It does not lead any more.
    Lost,
    /// A type's behaviour, from now on; `None`: it has none.
    Behaviour(Collection, Option<BehaviourHash>),
    /// A client's request.
    Request(Request),
    /// A worker has done a job.
    Done(Done),
    /// An entry was committed and applied, and is durable here.
    Applied(Applied),
    /// What was proposed under this number never entered the log.
    Refused(u64),
    /// Nobody knows what becomes of what was proposed under this number.
    Astray(u64),
    /// A majority said, after it was asked for by this round, that this node still leads.
    Confirmed(u64),
    /// Time passes.
    Tick,
}

/// What an owner wants done.
#[derive(Debug, Default)]
pub struct Effects {
    /// Entries to propose, in this order, each with its number.
    pub proposals: Vec<(u64, Bytes)>,
    /// Jobs for workers.
    pub jobs: Vec<Job>,
    /// Ask a majority whether this node still leads.
    pub confirm: Option<u64>,
    /// Answers, by ticket.
    pub replies: Vec<(u64, Reply)>,
    /// Entities that failed severely, how, and until when they are left alone.
    pub failing: Vec<(Name, Failure, Millis)>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is committed.
    Done(Answer),
    /// The entity is erased; whether there was one, and its last revision.
    Erased(bool, u64),
    /// The behaviour refuses it, with its reason.
    Rejected(String),
    /// The entity has this revision.
    Conflict(u64),
    /// The key came with another request before.
    KeyReused,
    /// This node does not own the shard, or not any more. Nothing changed.
    NoOwner,
    /// Whether it is committed is not known: repeat it with the same key.
    Unknown,
    /// It was not decided in time. Nothing changed.
    TimedOut,
    /// A queue is full. Nothing changed.
    Overloaded,
    /// The entity failed, and is left alone for so many milliseconds. Nothing changed.
    Failing(Millis),
    /// The behaviour failed. Nothing changed.
    Failed(Failure),
    /// The type has no behaviour: it knows no commands.
    NoBehaviour,
    /// The type has a behaviour: events are not appended as they are.
    HasBehaviour,
}

/// The answer of a command that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The reply, as canonical bytes; empty for appended events.
    pub reply: Bytes,
    /// Its events: sequence, type, data.
    pub events: Vec<(u64, String, Bytes)>,
    /// The revision after it.
    pub revision: u64,
    /// It counted before, and is answered again.
    pub replayed: bool,
}

/// The owner of a shard.
pub struct Owner {
    config: Config,
    shard: ShardId,
    term: Option<u64>,
    behaviours: BTreeMap<Collection, BehaviourHash>,
    seats: BTreeMap<Name, Seat>,
    /// The entity of every proposal that is not applied.
    flying: BTreeMap<u64, Name>,
    /// Requests that are not answered.
    open: usize,
    /// Who waits for which round of confirmation.
    asked: BTreeMap<u64, Name>,
    /// Numbers of proposals, jobs and rounds; never used twice.
    next: u64,
    now: Millis,
    out: Effects,
}

impl Owner {
    /// An owner-to-be; numbers of its proposals start from `first`, which is one that no earlier
    /// start of this node used in a term that may still be this node's.
    pub fn new(config: Config, shard: ShardId, first: u64) -> Owner {
        Owner {
            config,
            shard,
            term: None,
            behaviours: BTreeMap::new(),
            seats: BTreeMap::new(),
            flying: BTreeMap::new(),
            open: 0,
            asked: BTreeMap::new(),
            next: first,
            now: 0,
            out: Effects::default(),
        }
    }

    /// Takes in what happened.
    pub fn step(&mut self, now: Millis, event: Event) -> Effects {
        self.now = self.now.max(now);
        match event {
            Event::Leads(term) => {
                self.lose();
                self.term = Some(term);
            }
            Event::Lost => self.lose(),
            Event::Behaviour(collection, hash) => self.change(collection, hash),
            Event::Request(request) => self.request(request),
            Event::Done(done) => self.done(done),
            Event::Applied(applied) => self.applied(&applied),
            Event::Refused(number) => self.gone(number, Reply::NoOwner),
            Event::Astray(number) => self.gone(number, Reply::Unknown),
            Event::Confirmed(round) => self.confirmed(round),
            Event::Tick => self.tick(),
        }
        std::mem::take(&mut self.out)
    }

    /// The term in which it owns the shard.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// Entities in memory.
    pub fn seats(&self) -> usize {
        self.seats.len()
    }

    /// Requests that are not answered.
    pub fn open(&self) -> usize {
        self.open
    }

    fn reply(&mut self, ticket: u64, reply: Reply) {
        self.open -= 1;
        self.out.replies.push((ticket, reply));
    }

    /// Drops all speculation, and answers everybody.
    fn lose(&mut self) {
        self.term = None;
        self.flying.clear();
        self.asked.clear();
        for (_, seat) in std::mem::take(&mut self.seats) {
            for (ticket, reply) in seat.end() {
                self.reply(ticket, reply);
            }
        }
    }

    fn request(&mut self, request: Request) {
        self.open += 1;
        let has = self.behaviours.contains_key(&request.name.collection);
        let refusal = match (&request.ask, has) {
            _ if self.term.is_none() => Some(Reply::NoOwner),
            (Ask::Command(_), false) => Some(Reply::NoBehaviour),
            (Ask::Append(_), true) => Some(Reply::HasBehaviour),
            _ if self.open > self.config.total_max => Some(Reply::Overloaded),
            _ => None,
        };
        let name = request.name.clone();
        let seat = self.seats.get(&name);
        let paused = seat.and_then(|seat| seat.paused_for(self.now)).map(Reply::Failing);
        let full = seat.is_some_and(|seat| seat.open() >= self.config.entity_max);
        let refusal = refusal.or(paused).or(full.then_some(Reply::Overloaded));
        match refusal {
            Some(refusal) => self.reply(request.ticket, refusal),
            None => {
                self.seats.entry(name.clone()).or_default().push(request, self.now);
                self.pump(&name);
            }
        }
    }

    /// Gives an entity's next requests to a worker, if it can have a job.
    fn pump(&mut self, name: &Name) {
        let (config, now) = (self.config, self.now);
        let Some(seat) = self.seats.get_mut(name) else { return };
        if !seat.is_free(&config) {
            return;
        }
        let requests = seat.take(config.job_max);
        if requests.is_empty() {
            return;
        }
        self.next += 1;
        let id = self.next;
        let behaviour = self.behaviours.get(&name.collection).copied();
        let from = seat.begin(id, behaviour, &requests);
        let (shard, name) = (self.shard, name.clone());
        self.out.jobs.push(Job { id, shard, name, behaviour, from, requests, now });
    }

    /// A type's behaviour changes: its entities are recovered by the new one, each once what it
    /// has under way is applied.
    fn change(&mut self, collection: Collection, hash: Option<BehaviourHash>) {
        match hash {
            Some(hash) => self.behaviours.insert(collection.clone(), hash),
            None => self.behaviours.remove(&collection),
        };
        let names: Vec<Name> = self.seats.keys().cloned().collect();
        for name in names.into_iter().filter(|name| name.collection == collection) {
            let Some(seat) = self.seats.get_mut(&name) else { continue };
            seat.doubt();
            for request in seat.unfit(hash.is_some()) {
                let refusal = match request.ask {
                    Ask::Append(_) => Reply::HasBehaviour,
                    _ => Reply::NoBehaviour,
                };
                self.reply(request.ticket, refusal);
            }
            self.pump(&name);
        }
    }

    fn done(&mut self, done: Done) {
        let Done { id, name, steps, rest, spec } = done;
        // A job of a term that is over: its requests are answered.
        let Some(seat) = self.seats.get_mut(&name).filter(|seat| seat.job() == Some(id)) else {
            return;
        };
        // Decided on what is in doubt now: to be decided again.
        let (again, steps): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|(_, step)| seat.is_doubted() && !step.is_certain());
        let rest = again.into_iter().map(|(request, _)| request).chain(rest).collect();
        let severe = seat.finish(rest, spec, self.now, &self.config);
        for (request, step) in steps {
            self.settle_step(&name, request, step);
        }
        if let Some((failure, until)) = severe {
            let pause = Reply::Failing(until.saturating_sub(self.now));
            let seat = self.seats.get_mut(&name).expect("it was just there");
            for ticket in seat.drop_waiting() {
                self.reply(ticket, pause.clone());
            }
            self.out.failing.push((name.clone(), failure, until));
        }
        self.snapshot(&name, self.config.snapshot_every);
        self.ask_round(&name);
        self.pump(&name);
    }

    fn settle_step(&mut self, name: &Name, request: Request, step: Step) {
        let (body, reply, base) = match step {
            Step::Append(base, append) => {
                let answer = entity::answer(base, &append);
                (Body::Append(*append), Reply::Done(answer), base)
            }
            Step::Erase(base, existed) => (Body::Erase, Reply::Erased(existed, base), base),
            other => {
                let at_once = other.is_certain();
                return self.refuse(name, request, entity::refusal(other), at_once);
            }
        };
        self.propose(name, base, body, Some((request, reply)));
    }

    /// Proposes an entry of an entity, after all that were proposed before.
    fn propose(&mut self, name: &Name, base: u64, body: Body, request: Option<(Request, Reply)>) {
        self.next += 1;
        let number = self.next;
        let entry = Entry { number, at: self.now, name: name.clone(), base, body };
        let seat = self.seats.get_mut(name).expect("who proposes has a seat");
        match entry.encode() {
            Ok(bytes) => {
                seat.fly(Flight { number, request });
                self.flying.insert(number, name.clone());
                self.out.proposals.push((number, bytes));
            }
            // Workers check limits; what passed them and does not encode must not be built upon.
            Err(error) => {
                seat.doubt();
                if let Some((request, _)) = request {
                    let failure = Failure::Error(error.to_string());
                    self.reply(request.ticket, Reply::Failed(failure));
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
