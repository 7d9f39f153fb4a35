//! What replicas say to each other: closed, bounded, encoded with postcard.
//!
//! Invariant: garbage decodes to an error, never to a panic; every message fits one frame.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use atoll_store::dot::{Dot, Hlc, Millis, Origin, VersionVector};
use atoll_store::name::EntityKey;
use atoll_store::operation::Path;
use atoll_store::retire::Retirement;
use atoll_store::shard::ShardId;
use atoll_store::transfer::{Chunk, State};

use crate::placement::{RegionPlacement, Version};
use crate::transport::{Class, NodeId};

/// Who an origin is: a start of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The origin.
    pub origin: Origin,
    /// The node that drew it.
    pub node: NodeId,
    /// The node's region.
    pub region: String,
}

/// The first word on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's name, for people.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Where it receives.
    pub address: String,
    /// The version of its program.
    pub version: String,
    /// The origin of its current start.
    pub origin: Origin,
    /// Hash slots of a placement: all nodes must agree.
    pub slots: u16,
    /// Every origin that it knows.
    pub facts: Vec<Fact>,
}

/// A shard as its sender has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    /// Which.
    pub shard: ShardId,
    /// What was seen.
    pub vector: VersionVector,
    /// The content at that vector; none while nothing compares to it.
    pub digest: Option<u128>,
}

/// What changed at a node since it last said so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    /// Dense from 0 on a connection.
    pub number: u64,
    /// It names every shard: the first does, and one now and then.
    pub whole: bool,
    /// How many origins the sender's roll of retired ones holds, and the sum over them.
    pub roll: (u32, u64),
    /// Everything that the sender stamped up to here is covered by its vectors: of this message
    /// and, if none was lost, those before it; and by what it `issued`.
    pub closed: Hlc,
    /// Everything that any node stamped up to here had been applied by the sender.
    pub applied: Hlc,
    /// The record of the receiver's region by which the shards were chosen.
    pub record: Version,
    /// The sender's last sequences in shards that it gave up, where its vectors do not tell them:
    /// those that changed.
    pub issued: Vec<(ShardId, u64)>,
    /// Shards that changed.
    pub shards: Vec<ShardState>,
}

/// What a replica has of some origins in a shard, durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The shard.
    pub shard: ShardId,
    /// The epoch of the set of which the sender is a replica that counts (R12): what was asked by
    /// an older record, it does not count for. None: it is none.
    pub standing: Option<u64>,
    /// Sequences by origin.
    pub sequences: Vec<(Origin, u64)>,
}

/// One operation's place: where to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The shard.
    pub shard: ShardId,
    /// The first operation wanted, and all after it.
    pub from: Dot,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who I am.
    Hello(Box<Hello>),
    /// Who are you? The answer to a first word that was lost.
    Who,
    /// Operations, in the order of each origin.
    Operations {
        /// Pass them on inside the region.
        relay: bool,
        /// They answer a request.
        answer: bool,
        /// Encoded operations by shard.
        batches: Vec<(ShardId, Vec<Bytes>)>,
    },
    /// These are durable here.
    Acknowledge(Vec<Seen>),
    /// Acknowledge this to me, once you have it from whoever has it.
    Await {
        /// The shard.
        shard: ShardId,
        /// The operation.
        dot: Dot,
    },
    /// What do you have of a shard? Tell me now, and again once you have all of this.
    Ask {
        /// Names the read.
        number: u64,
        /// The shard.
        shard: ShardId,
        /// The sum over the sender's roll.
        roll: u64,
        /// What the sender has.
        vector: VersionVector,
    },
    /// This, durably.
    Told {
        /// As asked.
        number: u64,
        /// The epoch of the set of which the sender is a replica that counts.
        standing: u64,
        /// The sum over the sender's roll.
        roll: u64,
        /// What it has.
        vector: VersionVector,
    },
    /// What changed here since the last such word.
    Vectors(Box<Vectors>),
    /// Retired origins: yours are others.
    Roll(Vec<Retirement>),
    /// Send these.
    Request(Vec<Want>),
    /// The request for these is answered: after the operations, on their stream.
    Answered(Vec<Want>),
    /// A request met a trimmed log: ask for the state of this shard.
    Trimmed(ShardId),
    /// A copy was given up that alone had these: write them again.
    Unknown {
        /// The shard.
        shard: ShardId,
        /// Encoded operations, in order, beyond the ends of their retired origins.
        operations: Vec<Bytes>,
    },
    /// They are written again, durably.
    Rewritten {
        /// The shard.
        shard: ShardId,
        /// Their old names.
        dots: Vec<Dot>,
    },
    /// The newest record that I know of each region.
    Records(Vec<(String, Version)>),
    /// The same of regions where you know an older one.
    NewerRecords(Vec<(String, Version)>),
    /// Send your records of these regions.
    RecordsRequest(Vec<String>),
    /// A region's recorded placement.
    Record(Box<RegionPlacement>),
    /// I am to hold a shard: what do you have of it, now that you know the move of this epoch?
    Follow {
        /// The shard.
        shard: ShardId,
        /// Of its set in this region.
        epoch: u64,
    },
    /// I know of the move, and have this.
    Followed {
        /// The shard.
        shard: ShardId,
        /// As asked.
        epoch: u64,
        /// The sum over the sender's roll.
        roll: u64,
        /// What the sender had then, durably.
        vector: VersionVector,
    },
    /// Send the next chunk of a shard's state.
    StateRequest {
        /// The shard.
        shard: ShardId,
        /// Names the transfer; higher for each of one receiver.
        transfer: u64,
        /// Which chunk; 0 starts the transfer.
        number: u32,
    },
    /// A chunk of a shard's state.
    StateChunk {
        /// The shard.
        shard: ShardId,
        /// As asked.
        transfer: u64,
        /// As asked.
        number: u32,
        /// The sum over the sender's roll.
        roll: u64,
        /// The chunk.
        chunk: Box<Chunk>,
    },
    /// What is your clock?
    Ping {
        /// The sender's clock.
        sent: Millis,
    },
    /// My clock, in answer.
    Pong {
        /// As in the ping.
        sent: Millis,
        /// The sender's clock.
        clock: Millis,
    },
    /// Equal vectors, unequal digests: the sums of a range of entities, to find what differs.
    Sums {
        /// The shard.
        shard: ShardId,
        /// The sum over the sender's roll.
        roll: u64,
        /// At this vector.
        vector: VersionVector,
        /// The range starts after it.
        after: Option<EntityKey>,
        /// Entities and their sums, all there are in the range.
        sums: Vec<(EntityKey, u128)>,
        /// The range does not end with the shard.
        more: bool,
    },
    /// One entity at an equal vector, with removes that the sender's log names.
    Repair {
        /// The shard.
        shard: ShardId,
        /// The sum over the sender's roll.
        roll: u64,
        /// At this vector.
        vector: VersionVector,
        /// The whole entity.
        state: State,
        /// Payloads that a logged operation removed.
        removed: Vec<(Path, Dot)>,
    },
    /// Mine is damaged: send yours.
    EntityRequest {
        /// The shard.
        shard: ShardId,
        /// The entity.
        key: EntityKey,
    },
    /// One entity.
    EntityReply {
        /// The shard.
        shard: ShardId,
        /// The sum over the sender's roll.
        roll: u64,
        /// The vector of the read.
        vector: VersionVector,
        /// The whole entity.
        state: State,
    },
}

/// A frame that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message")]
pub struct Malformed;

impl Message {
    /// The frame.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a message encodes to memory").into()
    }

    /// Reads a frame.
    pub fn decode(frame: &[u8]) -> Result<Message, Malformed> {
        match postcard::take_from_bytes(frame) {
            Ok((message, [])) => Ok(message),
            _ => Err(Malformed),
        }
    }

    /// The stream that it travels on.
    pub fn class(&self) -> Class {
        match self {
            // What is asked comes after the operations that it names.
            Message::Operations { answer: false, .. }
            | Message::Acknowledge(_)
            | Message::Await { .. }
            | Message::Ask { .. }
            | Message::Told { .. } => Class::Operations,
            Message::Operations { .. }
            | Message::Answered(_)
            | Message::StateChunk { .. }
            | Message::Sums { .. }
            | Message::Repair { .. }
            | Message::EntityReply { .. } => Class::Bulk,
            _ => Class::Control,
        }
    }
}
