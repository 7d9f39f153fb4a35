//! What clients do, and how it is judged: the same in the simulator and against real processes.
//!
//! A workload draws operations from a seed. Each operation is a short exchange: the workload says
//! what to ask of a node, is shown the answers, and says how the operation ended. Whoever runs it
//! (simulator, real run) knows how to ask; nothing here knows how.
//!
//! Invariants:
//! 1. Unknown is not failed: an operation that wrote and was not answered ends as `:info`.
//! 2. What is written is unique within a run wherever a judge needs to tell writes apart.
//! 3. Chance comes from the generator that is passed in: a run is a function of its seed.

pub mod g_set;
mod keyed;
pub mod levels;
pub mod map;
pub mod multi_entity;
pub mod mv_register;
pub mod or_set;
pub mod pn_counter;
pub mod pubsub;
pub mod register;
#[cfg(test)]
mod replicas;
pub mod session;
#[cfg(test)]
pub(crate) mod testing;

use serde_json::Value;

use crate::checkers::Verdict;
use crate::history::History;
use crate::random::Random;

/// One operation that a client begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// The function: `add`, `read`, ...
    pub f: &'static str,
    /// Its argument.
    pub value: Value,
}

/// How a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// An operation object, or an array of them as one atomic update.
    Post,
    /// Assigns the raw value.
    Put,
    /// Observed remove.
    Delete,
}

/// One request to a node, as in the HTTP contract.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A write of an entity.
    Write {
        /// Kind, collection, id.
        entity: (&'static str, String, String),
        /// How.
        method: Method,
        /// Body; null for a delete.
        body: Value,
        /// `Idempotency-Key`.
        key: Option<String>,
        /// `If-Match`: a version that was read (multi-registers).
        seen: Option<String>,
        /// `Atoll-Session`: the token of the client's last answer.
        session: Option<String>,
    },
    /// A read of an entity.
    Read {
        /// Kind, collection, id.
        entity: (&'static str, String, String),
        /// `Atoll-Session`: the token of the client's last answer.
        session: Option<String>,
    },
    /// A read or a write of an entity, at a level of consistency.
    At(&'static str, Box<Request>),
    /// What a subscriber receives within a while.
    Poll {
        /// Kind and collection.
        collection: (&'static str, String),
        /// Ids start with it.
        prefix: String,
        /// The last cursor that the subscriber was given; none: from a snapshot.
        since: Option<String>,
        /// The subscriber ends its stream, if it has one, and opens another.
        reconnect: bool,
    },
}

impl Request {
    /// A write without a key, a condition or a session.
    pub fn write(entity: (&'static str, String, String), method: Method, body: Value) -> Request {
        Request::Write { entity, method, body, key: None, seen: None, session: None }
    }

    /// Without its level.
    pub(crate) fn bare(&self) -> &Request {
        match self {
            Request::At(_, request) => request,
            request => request,
        }
    }

    /// A read without a session.
    pub fn read(entity: (&'static str, String, String)) -> Request {
        Request::Read { entity, session: None }
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the node that the client is bound to.
    Home,
    /// To any other node, if there is one; drawn by whoever runs it.
    Elsewhere,
}

/// One record of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// `snapshot`, `ready`, `change`, `delete`, `progress`, `reset`, `error`.
    pub event: String,
    /// The id of the entity, if it is about one.
    pub id: Option<String>,
    /// Its value.
    pub value: Value,
    /// The cursor after it.
    pub cursor: String,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done. An absent entity reads as null.
    Done {
        /// The entity's value.
        value: Value,
        /// Its version.
        version: String,
        /// The session token, where the product gives one.
        session: Option<String>,
    },
    /// What a poll received, and the name of the node that sent it.
    Records(String, Vec<Record>),
    /// Refused, with this code: certainly not applied.
    Refused(String),
    /// Nobody knows whether it was applied.
    Lost(String),
}

/// What to do next in an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Ask this.
    Ask(Place, Request),
    /// It ended, with this result.
    Ok(Value),
    /// It certainly took no effect.
    Fail(String),
    /// Nobody knows.
    Info(String),
}

/// A workload of one run.
pub trait Workload: Send {
    /// What this client does next.
    fn next(&mut self, random: &mut Random, process: u64) -> Invocation;

    /// What follows the answers that the operation had so far.
    fn step(&mut self, process: u64, invocation: &Invocation, answers: &[Answer]) -> Step;

    /// What is done at every node once all is healed and quiet: reads that must show everything.
    fn finals(&self) -> Vec<Invocation>;

    /// The judges of its histories, each with its name.
    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)>;
}

/// How a workload is made for a run: clients bound to this many nodes.
type Make = fn(nodes: usize) -> Box<dyn Workload>;

/// All workloads, by name.
pub const ALL: &[(&str, Make)] = &[
    ("g-set", |_| Box::new(g_set::GSet::default())),
    ("map", |_| Box::new(map::Maps::default())),
    ("mv-register", |_| Box::new(mv_register::MvRegister::default())),
    ("or-set", |_| Box::new(or_set::OrSet::default())),
    ("register", |_| Box::new(register::Register::default())),
    ("multi-entity", |_| Box::new(multi_entity::MultiEntity::default())),
    ("pn-counter", |_| Box::new(pn_counter::PnCounter::default())),
    ("pubsub", |_| Box::new(pubsub::PubSub::default())),
    ("session", |_| Box::new(session::Sessions::default())),
    ("levels", |_| Box::new(levels::Levels::default())),
];

/// So many of them, the first ones, a simulated seed chooses from. The levels are told by name:
/// they say something only where regions have councils.
pub const DRAWN: usize = 9;

/// The workload of that name.
pub fn find(name: &str) -> Option<Make> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, make)| *make)
}

/// The end of an operation of one request: a write ends with its own value, a read with what was
/// read.
pub(crate) fn single(request: Request, invocation: &Invocation, answers: &[Answer]) -> Step {
    let reads = matches!(request.bare(), Request::Read { .. });
    match answers.last() {
        None => Step::Ask(Place::Home, request),
        Some(Answer::Done { value, .. }) if reads => Step::Ok(value.clone()),
        Some(Answer::Done { .. } | Answer::Records(..)) => Step::Ok(invocation.value.clone()),
        Some(Answer::Refused(code)) => Step::Fail(code.clone()),
        // A read changes nothing, whatever became of it.
        Some(Answer::Lost(why)) if reads => Step::Fail(why.clone()),
        Some(Answer::Lost(why)) => Step::Info(why.clone()),
    }
}
