//! What an owner proposes, as it stands in the log of the shard's group.
//!
//! ```text
//! entry   format u8 · postcard of `Entry`
//! ```
//!
//! Invariants:
//! 1. Decoding never panics, and takes memory in proportion to what it reads.
//! 2. An entry that encodes is within the limits below: who proposes has checked them.
//! 3. Time and chance are in the entry: applying needs neither.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BehaviourHash, Name};
use crate::dot::Millis;

/// The format that is written, and the newest that is read.
const FORMAT: u8 = 1;
/// Most events of one command.
pub const EVENTS_MAX: usize = 1_000;
/// Most bytes of one command's events: types and data.
pub const EVENTS_BYTES_MAX: usize = 1 << 20;
/// Longest type of an event, in bytes.
pub const EVENT_TYPE_MAX: usize = 128;
/// Longest reply, in bytes: a window of 10,000 remembers them.
pub const REPLY_MAX: usize = 64 << 10;
/// Longest state in a snapshot, in bytes.
pub const STATE_MAX: usize = 4 << 20;
/// Longest command id, in bytes.
pub const COMMAND_ID_MAX: usize = 128;

/// An entry of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The proposer's number for it, unique in a term: by it an owner knows its own.
    pub number: u64,
    /// The owner's time when it proposed.
    pub at: Millis,
    /// The entity.
    pub name: Name,
    /// The revision that it was decided on; on another one it changes nothing.
    pub base: u64,
    /// What it does.
    pub body: Body,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Appends the events of one command, possibly none.
    Append(Append),
    /// Keeps the state at the revision `base`.
    Snapshot(StateAt),
    /// Destroys the entity's events, snapshot and remembered commands.
    Erase,
}

/// The effect of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// Names the command in the log that clients read: its idempotency key, where it has one.
    pub command_id: String,
    /// Set where the command counts once.
    pub keyed: Option<Keyed>,
    /// The behaviour that decided; `None` for events appended as they are.
    pub behaviour: Option<BehaviourHash>,
    /// The events.
    pub events: Vec<NewEvent>,
    /// The reply, as canonical bytes.
    pub reply: Bytes,
}

/// What makes a command count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed {
    /// Hash of the idempotency key.
    pub key: [u8; 16],
    /// Hash of the request: the same key with another one is a mistake.
    pub request: [u8; 16],
}

/// An event without its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    /// Its type.
    pub kind: String,
    /// Its data, as canonical bytes.
    pub data: Bytes,
}

/// A state, and what can read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateAt {
    /// The behaviour that made it.
    pub behaviour: BehaviourHash,
    /// The `snapshotVersion` of that behaviour: another one replays from the first event.
    pub version: u32,
    /// The state, as canonical bytes.
    pub state: Bytes,
}

/// An entry cannot be read or must not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A newer release wrote it.
    #[error("entry format {0} is newer than {FORMAT}, the newest this release reads")]
    Newer(u8),
    /// It does not read as an entry.
    #[error("malformed entry")]
    Malformed,
    /// It is beyond a limit; the text names it.
    #[error("{0}")]
    Limit(&'static str),
}

impl Entry {
    /// As it is proposed; refuses what is beyond a limit.
    pub fn encode(&self) -> Result<Bytes, EntryError> {
        self.check()?;
        let out = postcard::to_extend(self, vec![FORMAT]).expect("an entry encodes to memory");
        Ok(out.into())
    }

    /// Reads what [`Entry::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| EntryError::Malformed),
            Some((&newer, _)) if newer > FORMAT => Err(EntryError::Newer(newer)),
            _ => Err(EntryError::Malformed),
        }
    }

    fn check(&self) -> Result<(), EntryError> {
        match &self.body {
            Body::Append(append) => append.check(),
            Body::Snapshot(at) if at.state.len() > STATE_MAX => {
                Err(EntryError::Limit("a state has at most 4 MiB"))
            }
            Body::Snapshot(_) | Body::Erase => Ok(()),
        }
    }
}

impl Append {
    /// Refuses what is beyond a limit.
    pub fn check(&self) -> Result<(), EntryError> {
        let size = |event: &NewEvent| event.kind.len() + event.data.len();
        let kind = |event: &NewEvent| (1..=EVENT_TYPE_MAX).contains(&event.kind.len());
        let rules = [
            (self.events.len() <= EVENTS_MAX, "a command has at most 1,000 events"),
            (
                self.events.iter().map(size).sum::<usize>() <= EVENTS_BYTES_MAX,
                "the events of a command have at most 1 MiB",
            ),
            (self.events.iter().all(kind), "an event's type has 1-128 bytes"),
            (self.reply.len() <= REPLY_MAX, "a reply has at most 64 KiB"),
            (self.command_id.len() <= COMMAND_ID_MAX, "a command id has at most 128 bytes"),
        ];
        let broken = rules.into_iter().find(|(kept, _)| !kept);
        broken.map_or(Ok(()), |(_, rule)| Err(EntryError::Limit(rule)))
    }
}
