//! Behaviours in Rust, for those who embed these crates: three functions over types of their own.
//!
//! Invariant: what a function sees went through JSON, as it does on the other nodes: a state that
//! JSON does not carry whole is not carried here either.

use atoll_store::owned::{NewEvent, STATE_MAX};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json;
use crate::owner::behaviour::{Behaviour, Command, Decision, Failure, Refusal};

/// The behaviour refuses a command, for this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection(pub String);

/// What a decision is made of: the events, each with its type and data, and the reply.
pub type Decided = (Vec<(&'static str, Value)>, Value);

/// A behaviour written in Rust: pure functions of their arguments, without clock or chance.
pub trait Pure: Send {
    /// The state of an entity.
    type State: Serialize + DeserializeOwned;

    /// Raise it when `State` cannot be read from older snapshots; those are replayed then.
    const SNAPSHOT_VERSION: u32 = 1;

    /// The state of an entity without events.
    fn initial(&self) -> Self::State;

    /// Decides on a command by its type and data.
    fn decide(&self, state: &Self::State, kind: &str, data: &Value) -> Result<Decided, Rejection>;

    /// The state after an event, by its type and data.
    fn evolve(&self, state: Self::State, kind: &str, data: &Value) -> Self::State;
}

/// Makes a [`Pure`] one into what owners run.
pub struct Native<P>(pub P);

fn failed(error: impl ToString) -> Failure {
    Failure::Error(error.to_string())
}

fn canonical(value: &impl Serialize) -> Result<Bytes, Failure> {
    let value = serde_json::to_value(value).map_err(failed)?;
    json::bytes(&value).map_err(failed)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(failed)
}

impl<P: Pure> Behaviour for Native<P> {
    fn snapshot_version(&mut self) -> Result<u32, Failure> {
        Ok(P::SNAPSHOT_VERSION)
    }

    fn initial(&mut self) -> Result<Bytes, Failure> {
        canonical(&self.0.initial())
    }

    fn decide(&mut self, state: &Bytes, command: &Command) -> Result<Decision, Refusal> {
        let state: P::State = read(state).map_err(Refusal::Failed)?;
        let data: Value = read(&command.data).map_err(Refusal::Failed)?;
        let decided = self.0.decide(&state, &command.kind, &data);
        let (events, reply) = decided.map_err(|Rejection(why)| Refusal::Rejected(why))?;
        let event = |(kind, data): (&str, Value)| {
            Ok(NewEvent { kind: kind.to_string(), data: canonical(&data)? })
        };
        let events: Result<Vec<NewEvent>, Failure> = events.into_iter().map(event).collect();
        let reply = canonical(&reply).map_err(Refusal::Failed)?;
        Ok(Decision { events: events.map_err(Refusal::Failed)?, reply })
    }

    fn evolve(&mut self, state: &Bytes, event: &NewEvent, _: bool) -> Result<Bytes, Failure> {
        let data: Value = read(&event.data)?;
        let state = canonical(&self.0.evolve(read(state)?, &event.kind, &data))?;
        match state.len() > STATE_MAX {
            true => Err(Failure::Limit("a state has at most 4 MiB")),
            false => Ok(state),
        }
    }
}
