//! One entity at its owner: what waits, what is decided, what is under way.
//!
//! Invariants:
//! 1. `spec` is the entity after everything in `flying`; where that is in doubt there is no new
//!    job until `flying` is empty, and the entity is recovered from what is durable.
//! 2. A key that is under way is on no second request that is.
//! 3. Every request is in exactly one place, and is answered when it leaves the last one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use atoll_store::dot::Millis;
use atoll_store::owned::{self, Append, BehaviourHash, Body, StateAt};

use super::behaviour::Failure;
use super::work::{Ask, Request, Spec, Step};
use super::{Answer, Config, Reply};

/// A proposal that is not applied, and what its request is answered then.
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) request: Option<(Request, Reply)>,
}

/// What a refusal waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// The commit of this proposal.
    Flight(u64),
    /// Word from a majority; not asked for yet where there is no number.
    Round(Option<u64>),
}

struct Held {
    ticket: u64,
    reply: Reply,
    gate: Gate,
    deadline: Millis,
}

/// Tickets with their answers.
pub(super) type Replies = Vec<(u64, Reply)>;

/// One entity.
#[derive(Default)]
pub(super) struct Seat {
    waiting: VecDeque<Request>,
    /// The job, with the tickets of its requests.
    job: Option<(u64, Vec<u64>)>,
    spec: Option<Spec>,
    behaviour: Option<BehaviourHash>,
    doubted: bool,
    flying: VecDeque<Flight>,
    held: Vec<Held>,
    /// Requests whose key is under way.
    followers: BTreeMap<[u8; 16], Vec<Request>>,
    failures: u32,
    paused_until: Millis,
    used: Millis,
}

impl Seat {
    pub(super) fn push(&mut self, request: Request, now: Millis) {
        self.used = now;
        self.waiting.push_back(request);
    }

    /// Requests that are not answered.
    pub(super) fn open(&self) -> usize {
        let under = self.job.as_ref().map_or(0, |(_, under)| under.len());
        let followers: usize = self.followers.values().map(Vec::len).sum();
        self.waiting.len() + under + self.flying.len() + self.held.len() + followers
    }

    pub(super) fn paused_for(&self, now: Millis) -> Option<Millis> {
        self.paused_until.checked_sub(now).filter(|left| *left > 0)
    }

    pub(super) fn job(&self) -> Option<u64> {
        self.job.as_ref().map(|(id, _)| *id)
    }

    /// What it has decided must not be built upon.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Whether it can have a job; drops what is in doubt as soon as nothing is under way.
    pub(super) fn is_free(&mut self, config: &Config) -> bool {
        if self.job.is_some() || self.flying.len() >= config.flying_max {
            return false;
        }
        if self.doubted && self.flying.is_empty() {
            (self.doubted, self.spec) = (false, None);
        }
        !self.doubted && (self.spec.is_some() || self.flying.is_empty())
    }

    /// The next requests to decide; those whose key is under way are put aside.
    pub(super) fn take(&mut self, max: usize) -> Vec<Request> {
        let flying = self.flying.iter().filter_map(|flight| flight.request.as_ref());
        let keys = flying.filter_map(|(request, _)| request.keyed);
        let mut keys: BTreeSet<[u8; 16]> = keys.map(|keyed| keyed.key).collect();
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(request) = self.waiting.pop_front() else { break };
            match request.keyed {
                Some(keyed) if !keys.insert(keyed.key) => {
                    self.followers.entry(keyed.key).or_default().push(request);
                }
                _ => taken.push(request),
            }
        }
        taken
    }

    /// Notes a job; returns what it starts from.
    pub(super) fn begin(
        &mut self,
        id: u64,
        behaviour: Option<BehaviourHash>,
        requests: &[Request],
    ) -> Option<Spec> {
        self.job = Some((id, requests.iter().map(|request| request.ticket).collect()));
        self.behaviour = behaviour;
        self.spec.clone()
    }

    /// Notes the end of a job; a severe failure, and until when it pauses the entity.
    pub(super) fn finish(
        &mut self,
        rest: Vec<Request>,
        spec: Result<Spec, Failure>,
        now: Millis,
        config: &Config,
    ) -> Option<(Failure, Millis)> {
        (self.job, self.used) = (None, now);
        rest.into_iter().rev().for_each(|request| self.waiting.push_front(request));
        match spec {
            Ok(spec) => {
                (self.spec, self.failures) = (Some(spec), 0);
                None
            }
            Err(failure) => {
                self.spec = None;
                let pause = config.pause_ms.checked_shl(self.failures).unwrap_or(Millis::MAX);
                self.failures = (self.failures + 1).min(32);
                self.paused_until = now + pause.min(config.pause_max_ms);
                Some((failure, self.paused_until))
            }
        }
    }

    pub(super) fn fly(&mut self, flight: Flight) {
        self.flying.push_back(flight);
    }

    /// Holds a refusal until what it was decided on is certain.
    pub(super) fn hold(&mut self, request: &Request, reply: Reply) {
        let gate = self.flying.back().map_or(Gate::Round(None), |last| Gate::Flight(last.number));
        let (ticket, deadline) = (request.ticket, request.deadline);
        self.held.push(Held { ticket, reply, gate, deadline });
    }

    /// Whether a refusal waits for a round that nobody has asked for; it waits for this one then.
    pub(super) fn wants_round(&mut self, round: u64) -> bool {
        let unasked = self.held.iter_mut().filter(|held| held.gate == Gate::Round(None));
        unasked.map(|held| held.gate = Gate::Round(Some(round))).count() > 0
    }

    pub(super) fn confirmed(&mut self, round: u64) -> Replies {
        self.release(|gate| matches!(gate, Gate::Round(Some(asked)) if asked <= round), None)
    }

    /// Answers what was held for a gate: with its own reply, or with this one.
    fn release(&mut self, open: impl Fn(Gate) -> bool, instead: Option<Reply>) -> Replies {
        let mut out = Vec::new();
        self.held.retain(|held| {
            if open(held.gate) {
                let reply = instead.clone().unwrap_or_else(|| held.reply.clone());
                out.push((held.ticket, reply));
            }
            !open(held.gate)
        });
        out
    }

    /// A proposal left: applied as it was meant (`Ok`), or answered otherwise.
    pub(super) fn land(&mut self, number: u64, outcome: Result<(), Reply>) -> Replies {
        let Some(place) = self.flying.iter().position(|flight| flight.number == number) else {
            return Vec::new();
        };
        let flight = self.flying.remove(place).expect("it was just found");
        let instead = outcome.as_ref().err().cloned();
        if instead.is_some() {
            self.doubt();
        }
        // A refusal that was decided on something that is not certain is none.
        let refused = instead.as_ref().map(|_| Reply::NoOwner);
        let mut out = self.release(|gate| gate == Gate::Flight(number), refused);
        let Some((request, reply)) = flight.request else { return out };
        let reply = instead.unwrap_or(reply);
        out.extend(self.follow(&request, &reply));
        out.push((request.ticket, reply));
        out
    }

    /// What becomes of the requests that waited for one of the same key: its answer where it
    /// counted, their own turn where it did not.
    pub(super) fn follow(&mut self, first: &Request, reply: &Reply) -> Replies {
        let Some(keyed) = first.keyed else { return Vec::new() };
        let mut out = Vec::new();
        let followers = self.followers.remove(&keyed.key).unwrap_or_default();
        for follower in followers.into_iter().rev() {
            let same = follower.keyed.is_some_and(|own| own.request == keyed.request);
            match reply {
                Reply::Done(answer) if same => {
                    let answer = Answer { replayed: true, ..answer.clone() };
                    out.push((follower.ticket, Reply::Done(answer)));
                }
                Reply::Done(_) => out.push((follower.ticket, Reply::KeyReused)),
                Reply::Unknown if same => out.push((follower.ticket, Reply::Unknown)),
                _ => self.waiting.push_front(follower),
            }
        }
        out
    }

    /// All waiting requests that a type with, or without, a behaviour cannot have.
    pub(super) fn unfit(&mut self, has: bool) -> Vec<Request> {
        let unfit = |request: &Request| match request.ask {
            Ask::Command(_) => !has,
            Ask::Append(_) => has,
            Ask::Erase => false,
        };
        let (out, kept) = self.waiting.drain(..).partition(unfit);
        self.waiting = kept;
        Vec::from_iter::<VecDeque<Request>>(out)
    }

    pub(super) fn drop_waiting(&mut self) -> Vec<u64> {
        let followers = std::mem::take(&mut self.followers).into_values().flatten();
        self.waiting.drain(..).chain(followers).map(|request| request.ticket).collect()
    }

    /// Answers what is past its deadline.
    pub(super) fn expire(&mut self, now: Millis) -> Replies {
        let mut out = Vec::new();
        self.waiting.retain(|request| {
            if request.deadline <= now {
                out.push((request.ticket, Reply::TimedOut));
            }
            request.deadline > now
        });
        for flight in &mut self.flying {
            if let Some((request, _)) = flight.request.take_if(|(r, _)| r.deadline <= now) {
                out.push((request.ticket, Reply::Unknown));
                // Its key may still count: who waits for it does not know more. A new request
                // with that key must find it on disk, so it waits for what is under way.
                let key = request.keyed.map(|keyed| keyed.key);
                let followers = key.and_then(|key| self.followers.remove(&key));
                let followers = followers.unwrap_or_default().into_iter();
                out.extend(followers.map(|request| (request.ticket, Reply::Unknown)));
                self.doubted = true;
            }
        }
        for followers in self.followers.values_mut() {
            followers.retain(|request| {
                if request.deadline <= now {
                    out.push((request.ticket, Reply::Unknown));
                }
                request.deadline > now
            });
        }
        self.held.retain(|held| {
            if held.deadline <= now {
                out.push((held.ticket, Reply::TimedOut));
            }
            held.deadline > now
        });
        out
    }

    /// Everything ends: proposed is unknown, the rest changed nothing.
    pub(super) fn end(self) -> Replies {
        let mut out = Vec::new();
        let mut lost: BTreeMap<[u8; 16], [u8; 16]> = BTreeMap::new();
        for (request, _) in self.flying.into_iter().filter_map(|flight| flight.request) {
            lost.extend(request.keyed.map(|keyed| (keyed.key, keyed.request)));
            out.push((request.ticket, Reply::Unknown));
        }
        for request in self.followers.into_values().flatten() {
            let keyed = request.keyed.expect("who follows has a key");
            let same = lost.get(&keyed.key) == Some(&keyed.request);
            out.push((request.ticket, if same { Reply::Unknown } else { Reply::NoOwner }));
        }
        let under = self.job.into_iter().flat_map(|(_, under)| under);
        out.extend(under.map(|ticket| (ticket, Reply::NoOwner)));
        out.extend(self.waiting.into_iter().map(|request| (request.ticket, Reply::NoOwner)));
        out.extend(self.held.into_iter().map(|held| (held.ticket, Reply::NoOwner)));
        out
    }

    /// The state to keep as a snapshot, with its revision, if so many events followed the last.
    pub(super) fn snapshot(&mut self, every: u64) -> Option<(u64, Body)> {
        let spec = self.spec.as_mut().filter(|_| self.job.is_none() && !self.doubted)?;
        let (behaviour, state) = (self.behaviour?, spec.state.clone()?);
        if spec.shown == 0 || spec.revision - spec.snapshot_at < every {
            return None;
        }
        spec.snapshot_at = spec.revision;
        let at = StateAt { behaviour, version: spec.version, state };
        Some((spec.revision, Body::Snapshot(at)))
    }

    /// When it was last asked, if nothing is asked of it now.
    pub(super) fn idle_since(&self, now: Millis) -> Option<Millis> {
        let idle = self.open() == 0 && self.job.is_none() && self.paused_for(now).is_none();
        idle.then_some(self.used)
    }

    /// Bytes of its state.
    pub(super) fn bytes(&self) -> usize {
        let state = self.spec.as_ref().and_then(|spec| spec.state.as_ref());
        state.map_or(0, bytes::Bytes::len)
    }
}

/// What a client is told of an append, once it is committed.
pub(super) fn answer(base: u64, append: &Append) -> Answer {
    let numbered = (base + 1..).zip(&append.events);
    let events = numbered.map(|(n, e)| (n, e.kind.clone(), e.data.clone())).collect();
    let revision = base + append.events.len() as u64;
    Answer { reply: append.reply.clone(), events, revision, replayed: false }
}

/// What a client is told of a step that proposes nothing.
pub(super) fn refusal(step: Step) -> Reply {
    match step {
        Step::Replay(owned::Answer { reply, events, revision, .. }) => {
            let events = events.into_iter().map(|e| (e.sequence, e.kind, e.data)).collect();
            Reply::Done(Answer { reply, events, revision, replayed: true })
        }
        Step::KeyReused => Reply::KeyReused,
        Step::Rejected(reason) => Reply::Rejected(reason),
        Step::Conflict(revision) => Reply::Conflict(revision),
        Step::Failed(failure) => Reply::Failed(failure),
        Step::Append(..) | Step::Erase(..) => unreachable!("these are proposed"),
    }
}
