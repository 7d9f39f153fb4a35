//! Owned entities on disk: what a committed entry of a shard's log does to a replica's copy.
//!
//! An owned entity is a dense list of events. One node at a time decides what is appended; a
//! group of voters agrees on the order; every replica applies the same entries, here, and holds
//! the same records, byte for byte. What a state is made of is not known here: events, replies
//! and states are opaque bytes.
//!
//! Invariants:
//! 1. Applying is a function of the copy and the entry: no clock, no chance, no order of hashes.
//! 2. What an entry does and the index that it had are in one batch; an index is applied once.
//! 3. Sequences of an entity are dense from 1 and never used twice, not even after it was erased.
//! 4. An entry that was decided on another revision than it meets, or whose idempotency key is
//!    remembered, changes nothing, on every replica alike.
//! 5. Nothing is held in memory for an entity: a copy costs what its uncommitted writes cost.
//! 6. Recovering an entity reads its head, its snapshot and what follows.
//!
//! Left out: deciding, which is the owner's; agreeing, which is the group's; secondary indexes.

mod apply;
mod chunk;
mod entry;
mod erase;
mod keys;
mod read;
mod view;
mod window;

use serde::{Deserialize, Serialize};

use crate::dot::Millis;
use crate::name::{Collection, EntityId, NameError};
use crate::record::RecordError;

pub use apply::{Applied, Copy, Void};
pub use chunk::{Chunk, InstallError, Installing, Progress};
pub use entry::{
    Append, Body, COMMAND_ID_MAX, EVENT_TYPE_MAX, EVENTS_BYTES_MAX, EVENTS_MAX, Entry, EntryError,
    Keyed, NewEvent, REPLY_MAX, STATE_MAX, StateAt,
};
pub use read::{Answer, Event, Recovered, Summary, answer, events, position, recover, summary};
pub use window::{WINDOW_COMMANDS, WINDOW_MS};

/// The kind's byte in the hash of names: after the replicated kinds, documents among them.
const KIND: u8 = 7;

/// The name of an owned entity: its type and its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The type, which is a collection's name.
    pub collection: Collection,
    /// The id.
    pub id: EntityId,
}

impl Name {
    /// Parses the two parts.
    pub fn parse(collection: &str, id: &str) -> Result<Name, NameError> {
        Ok(Name { collection: Collection::parse(collection)?, id: EntityId::parse(id)? })
    }

    /// The hash slot of the entity among `slots`.
    pub fn slot(&self, slots: u16) -> u16 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[KIND]).update(self.collection.as_str().as_bytes());
        hasher.update(&[0]).update(self.id.as_str().as_bytes());
        let hash = hasher.finalize();
        let head = hash.as_bytes().first_chunk::<8>().expect("a hash has 32 bytes");
        (u64::from_be_bytes(*head) % u64::from(slots)) as u16
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entities/{}/{}", self.collection.as_str(), self.id.as_str())
    }
}

/// The hash of a behaviour's source.
pub type BehaviourHash = [u8; 32];

/// Where a copy is: what its record says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last index applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The highest time in an applied entry: time in the log never goes back.
    pub clock: Millis,
    /// Entities that exist.
    pub entities: u64,
    /// Events appended since the beginning, erased ones among them.
    pub events: u64,
    /// A snapshot is being installed: how far it got. Until then nothing may be read.
    pub installing: Option<Installing>,
}

/// A copy could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// A record is damaged or cannot be read: the copy must be replaced by a snapshot (R8).
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The entry cannot be read: a newer release wrote it. This replica must stop here.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A snapshot is being installed: ask another replica.
    #[error("a snapshot is being installed")]
    Installing,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
