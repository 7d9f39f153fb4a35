//! What decides for an entity and makes its state: three pure functions behind one trait.
//!
//! Invariants:
//! 1. State, command and event are canonical bytes; nothing else goes in, nothing else comes out.
//! 2. The same bytes give the same result, on every node and at every time.

use atoll_store::owned::{BehaviourHash, NewEvent};
use bytes::Bytes;

/// A command as a behaviour sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its type.
    pub kind: String,
    /// Its data, as canonical bytes.
    pub data: Bytes,
}

/// What a behaviour decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub events: Vec<NewEvent>,
    /// What the client is told, as canonical bytes.
    pub reply: Bytes,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The behaviour refuses the command, with its reason.
    Rejected(String),
    /// The behaviour failed.
    Failed(Failure),
}

/// How a behaviour failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It threw something else than a rejection, or returned what it must not.
    #[error("{0}")]
    Error(String),
    /// It took more than its budget of instructions.
    #[error("the instruction budget is used up")]
    Budget,
    /// It took more memory than it may.
    #[error("the memory bound is reached")]
    Memory,
    /// It called itself too deeply.
    #[error("the call stack is used up")]
    Stack,
    /// It panicked.
    #[error("the behaviour panicked")]
    Panicked,
    /// What it made is beyond a limit of entries; the text names it.
    #[error("{0}")]
    Limit(&'static str),
    /// This node has no behaviour of that hash yet.
    #[error("this node does not have the behaviour yet")]
    Missing,
    /// The entity's records could not be read.
    #[error("the entity's records could not be read: {0}")]
    Records(String),
}

impl Failure {
    /// Whether the entity is to be left alone for a while: more of the same would take as long.
    pub fn is_severe(&self) -> bool {
        !matches!(self, Failure::Error(_) | Failure::Limit(_))
    }
}

/// A behaviour. It may keep caches of its own; they must not show.
pub trait Behaviour {
    /// The version of snapshots that it reads and writes.
    fn snapshot_version(&mut self) -> Result<u32, Failure>;

    /// The state of an entity without events.
    fn initial(&mut self) -> Result<Bytes, Failure>;

    /// Decides on a command.
    fn decide(&mut self, state: &Bytes, command: &Command) -> Result<Decision, Refusal>;

    /// The state after an event. An event that is `logged` was accepted before: it gets twice the
    /// limits, so that what one node accepted no other refuses.
    fn evolve(&mut self, state: &Bytes, event: &NewEvent, logged: bool) -> Result<Bytes, Failure>;
}

/// The behaviours of a worker.
pub trait Behaviours {
    /// The behaviour of that hash, if this node has it.
    fn find(&mut self, hash: &BehaviourHash) -> Option<&mut dyn Behaviour>;
}
