//! The part of an owner that takes time: reading an entity, and running its behaviour. A worker
//! does it beside the core, one job at a time for an entity.
//!
//! Invariants:
//! 1. A job is a function of what is durable and of what it was given.
//! 2. An event that its behaviour cannot evolve is not decided: it would poison the entity.
//! 3. A panic of a behaviour is a failure of its command.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_store::backend::Backend;
use atoll_store::dot::Millis;
use atoll_store::owned::{self, Append, BehaviourHash, Keyed, Name, NewEvent};
use atoll_store::shard::ShardId;
use bytes::Bytes;

use super::behaviour::{Behaviour, Behaviours, Command, Decision, Failure, Refusal};

/// Events read at a time beyond the first page.
const PAGE: usize = 1_000;

/// What is asked of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Run a command.
    Command(Command),
    /// Append events as they are, to a type without a behaviour.
    Append(Vec<NewEvent>),
    /// Destroy it.
    Erase,
}

/// A request of a client to an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// By which it is answered.
    pub ticket: u64,
    /// The entity.
    pub name: Name,
    /// What is asked.
    pub ask: Ask,
    /// Names the command in the log.
    pub command_id: String,
    /// Set where it has an idempotency key.
    pub keyed: Option<Keyed>,
    /// The revision that the client expects, 0 for none.
    pub expected: Option<u64>,
    /// When the client stops waiting.
    pub deadline: Millis,
}

/// An entity as it will be once everything proposed is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The sequence of its last event.
    pub revision: u64,
    /// The same, but 0 where it does not exist.
    pub shown: u64,
    /// Its state; `None` for a type without a behaviour.
    pub state: Option<Bytes>,
    /// The revision of its snapshot.
    pub snapshot_at: u64,
    /// The version of snapshots that its behaviour writes.
    pub version: u32,
}

/// What a worker is to do for an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// The shard.
    pub shard: ShardId,
    /// The entity.
    pub name: Name,
    /// The behaviour of its type.
    pub behaviour: Option<BehaviourHash>,
    /// The entity, if the owner has it; else it is recovered first.
    pub from: Option<Spec>,
    /// What to decide, in order.
    pub requests: Vec<Request>,
    /// The owner's time.
    pub now: Millis,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To be proposed, on this revision.
    Append(u64, Box<Append>),
    /// To be proposed, on this revision; whether there was something.
    Erase(u64, bool),
    /// It counted before.
    Replay(owned::Answer),
    /// Its key came with another request before.
    KeyReused,
    /// The behaviour refuses it.
    Rejected(String),
    /// The entity has this revision, not the expected one.
    Conflict(u64),
    /// The behaviour failed.
    Failed(Failure),
}

impl Step {
    /// Whether it holds whatever becomes of what was proposed before.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Step::Replay(_) | Step::KeyReused => true,
            Step::Failed(failure) => failure.is_severe(),
            Step::Append(..) | Step::Erase(..) | Step::Rejected(_) | Step::Conflict(_) => false,
        }
    }
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The job.
    pub id: u64,
    /// The entity.
    pub name: Name,
    /// The requests with what came of them, up to a severe failure.
    pub steps: Vec<(Request, Step)>,
    /// The requests after a severe failure.
    pub rest: Vec<Request>,
    /// The entity after all steps, or why it could not be recovered or went on.
    pub spec: Result<Spec, Failure>,
}

/// Does a job.
pub fn run(backend: &dyn Backend, behaviours: &mut dyn Behaviours, job: Job) -> Done {
    let Job { id, shard, name, behaviour, from, requests, now } = job;
    let mut done =
        Done { id, name, steps: Vec::new(), rest: Vec::new(), spec: Err(Failure::Missing) };
    let mut behaviour = match behaviour.map(|hash| (hash, behaviours.find(&hash))) {
        None => None,
        Some((hash, Some(found))) => Some((hash, found)),
        Some((_, None)) => {
            done.rest = requests;
            return done;
        }
    };
    let desk = Desk { backend, shard, now };
    let recovered = match from {
        Some(spec) => Ok(spec),
        None => match &mut behaviour {
            Some((_, found)) => replay(backend, shard, &done.name, &mut **found),
            None => desk.bare(&done.name),
        },
    };
    let mut spec = match recovered {
        Ok(spec) => spec,
        Err(failure) => {
            (done.spec, done.rest) = (Err(failure), requests);
            return done;
        }
    };
    let mut requests = requests.into_iter();
    for request in requests.by_ref() {
        let with: With<'_> = match &mut behaviour {
            Some((hash, found)) => Some((*hash, &mut **found)),
            None => None,
        };
        let step = desk.answer(&mut spec, with, &request);
        let step = step.unwrap_or_else(|refused| refused);
        let severe = match &step {
            Step::Failed(failure) if failure.is_severe() => Some(failure.clone()),
            _ => None,
        };
        done.steps.push((request, step));
        if let Some(failure) = severe {
            (done.spec, done.rest) = (Err(failure), requests.collect());
            return done;
        }
    }
    done.spec = Ok(spec);
    done
}

/// What a job works with.
struct Desk<'a> {
    backend: &'a dyn Backend,
    shard: ShardId,
    now: Millis,
}

type With<'a> = Option<(BehaviourHash, &'a mut dyn Behaviour)>;

impl Desk<'_> {
    /// An entity of a type without a behaviour.
    fn bare(&self, name: &Name) -> Result<Spec, Failure> {
        let found = owned::summary(self.backend, self.shard, name).map_err(records)?;
        let found = found.unwrap_or_default();
        let (revision, shown) = (found.revision, found.shown());
        Ok(Spec { revision, shown, state: None, snapshot_at: revision, version: 0 })
    }

    /// What comes of a request; what refuses it is an error.
    fn answer(&self, spec: &mut Spec, with: With<'_>, request: &Request) -> Result<Step, Step> {
        self.look_up(request)?;
        if request.expected.is_some_and(|expected| expected != spec.shown) {
            return Err(Step::Conflict(spec.shown));
        }
        let base = spec.revision;
        match (&request.ask, with) {
            (Ask::Erase, with) => {
                let existed = spec.shown != 0;
                if let Some((_, behaviour)) = with {
                    let initial = guarded(|| behaviour.initial()).map_err(Step::Failed)?;
                    spec.state = Some(initial);
                }
                (spec.shown, spec.snapshot_at) = (0, base);
                Ok(Step::Erase(base, existed))
            }
            (Ask::Append(events), _) => {
                let decision = Decision { events: events.clone(), reply: Bytes::new() };
                let append = append(request, None, decision)?;
                (spec.revision, spec.snapshot_at) = (base + count(&append), base + count(&append));
                spec.shown = if count(&append) > 0 { spec.revision } else { spec.shown };
                Ok(Step::Append(base, Box::new(append)))
            }
            (Ask::Command(command), Some((hash, behaviour))) => {
                let append = decide(spec, hash, behaviour, request, command)?;
                spec.revision += count(&append);
                spec.shown = if count(&append) > 0 { spec.revision } else { spec.shown };
                Ok(Step::Append(base, Box::new(append)))
            }
            (Ask::Command(_), None) => Err(Step::Failed(Failure::Missing)),
        }
    }

    /// Refuses what counted before.
    fn look_up(&self, request: &Request) -> Result<(), Step> {
        let Some(keyed) = request.keyed else { return Ok(()) };
        let (name, now) = (&request.name, self.now);
        match owned::answer(self.backend, self.shard, name, &keyed.key, now) {
            Ok(None) => Ok(()),
            Ok(Some(answer)) if answer.request != keyed.request => Err(Step::KeyReused),
            Ok(Some(answer)) => Err(Step::Replay(answer)),
            Err(error) => Err(Step::Failed(records(error))),
        }
    }
}

fn decide(
    spec: &mut Spec,
    hash: BehaviourHash,
    behaviour: &mut dyn Behaviour,
    request: &Request,
    command: &Command,
) -> Result<Append, Step> {
    let mut state = spec.state.clone().unwrap_or_default();
    let decided = catch_unwind(AssertUnwindSafe(|| behaviour.decide(&state, command)));
    let decision = match decided {
        Ok(Ok(decision)) => decision,
        Ok(Err(Refusal::Rejected(reason))) => return Err(Step::Rejected(reason)),
        Ok(Err(Refusal::Failed(failure))) => return Err(Step::Failed(failure)),
        Err(_) => return Err(Step::Failed(Failure::Panicked)),
    };
    let append = append(request, Some(hash), decision)?;
    for event in &append.events {
        state = guarded(|| behaviour.evolve(&state, event, false)).map_err(Step::Failed)?;
    }
    if state.len() > owned::STATE_MAX {
        return Err(Step::Failed(Failure::Limit("a state has at most 4 MiB")));
    }
    spec.state = Some(state);
    Ok(append)
}

fn append(
    request: &Request,
    behaviour: Option<BehaviourHash>,
    decision: Decision,
) -> Result<Append, Step> {
    let Decision { events, reply } = decision;
    let command_id = request.command_id.clone();
    let append = Append { command_id, keyed: request.keyed, behaviour, events, reply };
    match append.check() {
        Ok(()) => Ok(append),
        Err(owned::EntryError::Limit(rule)) => Err(Step::Failed(Failure::Limit(rule))),
        Err(error) => Err(Step::Failed(Failure::Error(error.to_string()))),
    }
}

fn count(append: &Append) -> u64 {
    append.events.len() as u64
}

fn records(error: owned::OwnedError) -> Failure {
    Failure::Records(error.to_string())
}

fn guarded<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Failure::Panicked))
}

/// An entity from its records: the snapshot, if the behaviour reads it, and what follows. Owners
/// and followers use the same.
pub fn replay(
    backend: &dyn Backend,
    shard: ShardId,
    name: &Name,
    behaviour: &mut dyn Behaviour,
) -> Result<Spec, Failure> {
    let version = guarded(|| behaviour.snapshot_version())?;
    let found = owned::recover(backend, shard, name, version).map_err(records)?;
    let (summary, shown) = (found.summary.clone(), found.summary.shown());
    let (mut at, mut state) = match found.snapshot {
        Some((at, snapshot)) => (at, snapshot.state),
        None => (summary.erased, guarded(|| behaviour.initial())?),
    };
    let snapshot_at = at;
    let mut events = found.events;
    while !events.is_empty() {
        for event in events {
            at = event.sequence;
            let event = NewEvent { kind: event.kind, data: event.data };
            state = guarded(|| behaviour.evolve(&state, &event, true))?;
        }
        events = match at < summary.revision {
            true => owned::events(backend, shard, name, at + 1, PAGE).map_err(records)?,
            false => Vec::new(),
        };
    }
    Ok(Spec { revision: summary.revision, shown, state: Some(state), snapshot_at, version })
}
