//! What a client may ask of an entity, and what it reads: values without JSON.
//!
//! Values are opaque bytes in canonical form (RFC 8785); whoever parses JSON makes them.
//! Invariant: two values are equal exactly if their bytes are.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::dot::{Dot, Millis};
use crate::name::EntityKey;

/// A JSON value in canonical form.
pub type Value = Bytes;

/// One change of an entity, as asked by a client; several make one atomic update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds `plus` and subtracts `minus`.
    Count {
        /// How much to add.
        plus: u128,
        /// How much to subtract.
        minus: u128,
    },
    /// Assigns a register or a multi-register.
    Set(Value),
    /// Assigns a multi-register, superseding exactly these dots.
    SetSeen(Value, Vec<Dot>),
    /// Enables or disables a flag.
    Enable(bool),
    /// Removes, then adds members of a set.
    Members {
        /// Members to add.
        add: Vec<Value>,
        /// Members to remove, as observed.
        remove: Vec<Value>,
    },
    /// Removes, then updates fields of a map.
    Fields {
        /// Fields to update, each with commands of its type.
        update: Vec<(String, FieldCommand)>,
        /// Fields to remove, as observed.
        remove: Vec<String>,
    },
    /// Observed remove of the whole entity.
    Delete,
}

impl Command {
    /// Dots that it names as seen by its client, wherever that was.
    pub fn names(&self) -> &[Dot] {
        match self {
            Command::SetSeen(_, seen) => seen,
            _ => &[],
        }
    }
}

/// One change of a map's field; it also says the field's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldCommand {
    /// A counter field: add and subtract.
    Count {
        /// How much to add.
        plus: u128,
        /// How much to subtract.
        minus: u128,
    },
    /// A register field.
    Set(Value),
    /// A flag field.
    Enable(bool),
    /// A set field: remove, then add.
    Members {
        /// Members to add.
        add: Vec<Value>,
        /// Members to remove, as observed.
        remove: Vec<Value>,
    },
}

impl FieldCommand {
    /// The type of field that it is for.
    pub fn field_type(&self) -> FieldType {
        match self {
            FieldCommand::Count { .. } => FieldType::Counter,
            FieldCommand::Set(_) => FieldType::Register,
            FieldCommand::Enable(_) => FieldType::Flag,
            FieldCommand::Members { .. } => FieldType::Set,
        }
    }
}

/// The type of a map's field. The order is that of the names: reads show the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FieldType {
    /// A PN-counter.
    Counter,
    /// An enable-wins flag.
    Flag,
    /// A last-writer-wins register.
    Register,
    /// An observed-remove set.
    Set,
}

impl FieldType {
    /// The type's name, as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldType::Counter => "counter",
            FieldType::Flag => "flag",
            FieldType::Register => "register",
            FieldType::Set => "set",
        }
    }
}

/// What a read shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// A counter's sum, exact within i128 and held at its bounds beyond.
    Counter(i128),
    /// A register's winning value.
    Register(Value),
    /// All concurrent values, distinct, in byte order, with the dots that hold them.
    MultiRegister(Vec<Value>, Vec<Dot>),
    /// A flag.
    Flag(bool),
    /// Members in byte order.
    Set(Vec<Value>),
    /// Fields by name.
    Map(BTreeMap<String, FieldView>),
}

/// One field of a map: what it shows, and other types it was concurrently created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldView {
    /// The field's type: the lowest name of those present.
    pub shown: FieldType,
    /// Its value; never a map or a multi-register.
    pub view: View,
    /// Other types that the field has too, for a client to resolve by removing the field.
    pub conflicts: Vec<FieldType>,
}

/// Key and request of a safe retry (R10): two hashes, so that a reused key is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestHash {
    /// Hash of the client's key.
    pub key: u128,
    /// Hash of what was asked.
    pub request: u64,
}

/// A request to change one entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entity.
    pub key: EntityKey,
    /// What to do, in order, as one atomic update; at least one.
    pub commands: Vec<Command>,
    /// For a safe retry.
    pub hash: Option<RequestHash>,
    /// Time to live from now, in milliseconds.
    pub ttl_ms: Option<Millis>,
}

/// Why a change was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A map's field has another type.
    #[error("field {field:?} is a {actual}, not a {asked}; remove it first to change its type")]
    KindConflict {
        /// The field.
        field: String,
        /// Its type.
        actual: &'static str,
        /// The type that the request implied.
        asked: &'static str,
    },
    /// A configured limit would be passed.
    #[error("{what} would pass the limit of {limit}")]
    TooLarge {
        /// What would grow too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Too many live idempotency keys on one entity: wait until some expire.
    #[error("the entity holds {limit} live idempotency keys; retry later")]
    TooManyKeys {
        /// The limit.
        limit: u64,
    },
    /// The key was used for another request.
    #[error("this Idempotency-Key was used with another request; use a new key")]
    KeyReused,
    /// The counter would leave the range of i128.
    #[error("the counter would leave the range of a signed 128-bit integer")]
    Overflow,
    /// The command is not one of this kind: the edge should have refused it.
    #[error("this operation does not apply to {0}")]
    WrongKind(&'static str),
    /// The write names what was seen at another node, and has not come here yet: retry, or read
    /// again.
    #[error("the write names a version that this node has not seen whole; retry, or read again")]
    Behind,
    /// This node holds no replica of the shard: ask one that does.
    #[error("this node holds no replica of the entity's shard")]
    Elsewhere,
    /// The stored state is damaged and no peer has repaired it yet (R8).
    #[error("the stored state is damaged and waits for repair from a peer")]
    Quarantined,
    /// This node's clock runs ahead of its peers' (R5).
    #[error("this node's clock runs {ahead_ms} ms ahead of its peers; fix the clock")]
    ClockSkew {
        /// By how much.
        ahead_ms: u64,
    },
    /// The disk is nearly full: free space, then retry.
    #[error("the disk has {free} bytes left, below the reserve of {reserve}")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes kept free.
        reserve: u64,
    },
}
