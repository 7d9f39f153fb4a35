//! One change of replicated entities, stamped with its dot: what is logged and shipped.
//!
//! Invariants:
//! 1. (R6) One operation is one log record with one dot; its effects hold at most one payload
//!    per (entity, path).
//! 2. (R2) Every dot that an operation names was seen by its author: a copy applies it only when
//!    its own vector covers those dots.
//! 3. Encoded once, by its author; every other node logs and ships the same bytes.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{FieldType, RequestHash, Value};
use crate::dot::{Dot, Hlc, Millis, Origin};
use crate::name::EntityKey;

/// A place in an entity that holds payloads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Path {
    /// The map's field, or none for the entity itself.
    pub field: Option<Field>,
    /// What it holds.
    pub leaf: Leaf,
}

/// A map's field of one type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub kind: FieldType,
}

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Leaf {
    /// The bare existence of the entity or field.
    Presence,
    /// When the entity expires (R11).
    Expiry,
    /// A register's or multi-register's value.
    Value,
    /// A flag that is enabled.
    Enabled,
    /// A counter: epochs, and keyed increments that live as dots of their own (R10).
    Count,
    /// A member of a set.
    Member(Value),
}

/// What lives at (path, dot).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing but its name.
    Unit,
    /// A value and the stamp that orders it (R5).
    Value {
        /// The stamp.
        stamp: Hlc,
        /// The value.
        value: Value,
    },
    /// A keyed increment.
    Count {
        /// Added.
        plus: u128,
        /// Subtracted.
        minus: u128,
    },
    /// Expires then.
    Until(Millis),
}

/// Running totals of one origin up to one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The last sequence counted; 0 for none.
    pub last: u64,
    /// Sum of increments.
    pub plus: u128,
    /// Sum of decrements.
    pub minus: u128,
}

/// Stands for the origins of folded epochs where a close names them (R9): no start has it.
///
/// Its key's `first` is the clock that they were folded at.
pub const FOLDED: Origin = Origin(0);

/// Names an epoch of a counter (R4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochKey {
    /// The counter.
    pub path: Path,
    /// Whose increments.
    pub origin: Origin,
    /// The sequence that opened it.
    pub first: u64,
}

/// What an operation does to one entity. Everything named was seen by the author.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// A whole delete: per origin the highest dot seen in the entity.
    pub deletes: Option<Vec<Dot>>,
    /// Payloads removed: (path, dots).
    pub removes: Vec<(Path, Vec<Dot>)>,
    /// Epochs closed, up to the totals seen (R4).
    pub closes: Vec<(EpochKey, Tally)>,
    /// Payloads added under the operation's dot.
    pub adds: Vec<(Path, Payload)>,
    /// Increments: (counter, the author's epoch, plus, minus).
    pub counts: Vec<(Path, u64, u128, u128)>,
}

impl Effect {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Effect::default()
    }

    /// Whether it removes a payload.
    pub fn removes_dot(&self, path: &Path, dot: Dot) -> bool {
        let covers = |seen: &Dot| seen.origin == dot.origin && seen.sequence >= dot.sequence;
        let deleted = self.deletes.iter().flatten().any(covers);
        deleted || self.removes.iter().any(|(at, dots)| at == path && dots.contains(&dot))
    }

    /// The dots that a copy must have seen before it applies this.
    pub(crate) fn named(&self) -> impl Iterator<Item = Dot> + '_ {
        let deletes = self.deletes.iter().flatten().copied();
        let removes = self.removes.iter().flat_map(|(_, dots)| dots.iter().copied());
        let closes = self.closes.iter().filter(|(epoch, _)| epoch.origin != FOLDED);
        let closes =
            closes.map(|(epoch, tally)| Dot { origin: epoch.origin, sequence: tally.last });
        deletes.chain(removes).chain(closes)
    }

    /// The highest clock at which epochs that it closes were folded, if there are any.
    pub(crate) fn folded(&self) -> Option<Hlc> {
        let folded = self.closes.iter().filter(|(epoch, _)| epoch.origin == FOLDED);
        folded.map(|(epoch, _)| Hlc(epoch.first)).max()
    }
}

/// An operation's part on one entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The entity.
    pub key: EntityKey,
    /// For a safe retry (R10).
    pub hash: Option<RequestHash>,
    /// What it does.
    pub effect: Effect,
}

/// One change, stamped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its name.
    pub dot: Dot,
    /// When, by its author's hybrid clock.
    pub stamp: Hlc,
    /// Its parts; all of one shard.
    pub parts: Vec<Part>,
}

/// Bytes that are no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an operation")]
pub struct Malformed;

impl Operation {
    /// The bytes that are logged and shipped.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("an operation encodes to memory").into()
    }

    /// Reads what [`Operation::encode`] wrote; never panics on anything else.
    pub fn decode(bytes: &[u8]) -> Result<Operation, Malformed> {
        let (operation, rest): (Operation, _) =
            postcard::take_from_bytes(bytes).map_err(|_| Malformed)?;
        // Far beyond any real count or clock: room to go on counting.
        let bounded = operation.dot.sequence < 1 << 62 && operation.stamp.0 < 1 << 63;
        let counted = operation.dot.sequence > 0 && operation.dot.origin != FOLDED && bounded;
        let sound = rest.is_empty() && counted && !operation.parts.is_empty();
        if sound { Ok(operation) } else { Err(Malformed) }
    }

    /// The dot and stamp at the head of an operation's bytes.
    pub fn peek(bytes: &[u8]) -> Result<(Dot, Hlc), Malformed> {
        postcard::take_from_bytes(bytes).map(|(head, _)| head).map_err(|_| Malformed)
    }

    /// Whether it counts into an epoch: what must not happen twice.
    pub(crate) fn counts(&self) -> bool {
        self.parts.iter().any(|part| !part.effect.counts.is_empty())
    }

    /// The dots that a copy must have seen before it applies this (R2).
    pub fn named(&self) -> impl Iterator<Item = Dot> + '_ {
        self.parts.iter().flat_map(|part| part.effect.named())
    }

    /// The clock up to which a copy must have seen all of retired origins before it applies this
    /// (R9), if it closes what was folded.
    pub(crate) fn folded(&self) -> Option<Hlc> {
        self.parts.iter().filter_map(|part| part.effect.folded()).max()
    }
}
