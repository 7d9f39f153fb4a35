//! The seam between groups and what is above them: what they are told, and what they tell.
//!
//! Left out: what commands mean.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use atoll_replication::transport::NodeId;
use atoll_store::backend::Write;
use atoll_store::shard::ShardId;

use super::message::Chunk;
use super::plan::Seats;
use crate::raft::Entry;
use crate::raft::starts::Disk;

/// Names a proposal or a read, by whoever made it.
pub type Ticket = u64;

/// What groups are told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: see [`super::Groups::deadline`].
    Tick,
    /// A node's frame, of either lane.
    Received(NodeId, Bytes),
    /// Put this command into the group's log. Answered by [`News::Committed`] with the ticket,
    /// [`News::Lost`] or [`News::Refused`].
    Propose {
        /// The group.
        group: ShardId,
        /// For the answer.
        ticket: Ticket,
        /// Not empty.
        command: Bytes,
    },
    /// At which index may be read what is linearizable now? Answered by [`News::Readable`] or
    /// [`News::Refused`].
    Read {
        /// The group.
        group: ShardId,
        /// For the answer.
        ticket: Ticket,
    },
    /// Let another node own this group.
    Transfer {
        /// The group.
        group: ShardId,
        /// The node.
        node: NodeId,
    },
    /// Let others own all groups, from now on: this node is about to leave.
    HandOver,
    /// A group's owner does not answer: see that it has one.
    Wake(ShardId),
    /// Who should be in each group: see [`super::seats`].
    Placed(BTreeMap<ShardId, Seats>),
    /// The nodes that membership takes for being there, in all regions.
    Live(BTreeSet<NodeId>),
    /// The state machine has durably applied all up to an index.
    Applied {
        /// The group.
        group: ShardId,
        /// The index.
        index: u64,
    },
    /// The log may be dropped up to an index, which was durably applied.
    Compact {
        /// The group.
        group: ShardId,
        /// The index.
        index: u64,
    },
    /// The writes of all steps up to this one are durable.
    Flushed(u64),
    /// This disk has another id: see [`Effects::stale`].
    Disk(Disk),
}

/// What the state machines of this node's groups are told, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Apply this entry, if it is the next one after what was applied. Any other is of before a
    /// state that was taken meanwhile, or of a group that was left meanwhile, and is skipped.
    Committed {
        /// The group.
        group: ShardId,
        /// The entry.
        entry: Entry,
        /// What it was proposed under, if that was here.
        ticket: Option<Ticket>,
    },
    /// This node owns the group: it leads, and all that was ever committed was given out.
    Owner {
        /// The group.
        group: ShardId,
        /// The term, which no other owner has.
        term: u64,
    },
    /// Another node owns the group, or none.
    NotOwner {
        /// The group.
        group: ShardId,
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// What is read once this index was applied is linearizable.
    Readable {
        /// The group.
        group: ShardId,
        /// What was asked.
        ticket: Ticket,
        /// The index.
        index: u64,
    },
    /// The command is not in the log, and will not be; the read was not answered. Ask the owner.
    Refused {
        /// The group.
        group: ShardId,
        /// What was asked.
        ticket: Ticket,
    },
    /// The command may be in the log or not.
    Lost {
        /// The group.
        group: ShardId,
        /// What was asked.
        ticket: Ticket,
    },
    /// The group's state is that of another member, which had applied all up to an index:
    /// [`State::install`] was called in this step.
    Installed {
        /// The group.
        group: ShardId,
        /// The index.
        index: u64,
    },
    /// This node is no member of the group any more: [`State::leave`] was called in this step.
    Left {
        /// The group.
        group: ShardId,
    },
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// The number of this step, for [`Event::Flushed`].
    pub step: u64,
    /// Commit these durably, in one batch;
    pub writes: Vec<Write>,
    /// then send these, in order while a connection lasts,
    pub sends: Vec<(NodeId, Bytes)>,
    /// and these, which are large and less urgent,
    pub bulk: Vec<(NodeId, Bytes)>,
    /// and tell these.
    pub news: Vec<News>,
    /// This disk is an older copy, or damaged: whoever keeps its starts gives up its id, makes
    /// that durable, and tells the new one. Nothing is said until then.
    pub stale: Option<&'static str>,
}

/// The state of this node's groups, as their snapshots are made of it.
///
/// A state is sent as chunks of records, each after a cursor that the one before named. What is
/// written here goes into the batch of the step.
pub trait State {
    /// Records after a cursor (the first ones after an empty one), as a chunk of bounded size;
    /// `None` if that state is not to be had any more. They are as after `index`; or later, where
    /// applying the entries since `index` to them once more changes nothing.
    fn chunk(&self, group: ShardId, index: u64, after: &[u8]) -> Option<Chunk>;

    /// Keeps another member's records beside the state, after those already there. False: they do
    /// not read.
    fn stage(&mut self, group: ShardId, records: &[u8], writes: &mut Vec<Write>) -> bool;

    /// Forgets what was staged.
    fn discard(&mut self, group: ShardId, writes: &mut Vec<Write>);

    /// Makes what was staged the state, after an index.
    fn install(&mut self, group: ShardId, index: u64, writes: &mut Vec<Write>);

    /// Deletes the state: this node is no member of the group any more.
    fn leave(&mut self, group: ShardId, writes: &mut Vec<Write>);
}

/// How much of logs is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries that are dropped at a time, at least. Default 256.
    pub trim: u64,
    /// Entries that are kept for members that lack them; who lacks more takes the state. Default
    /// 4096.
    pub keep: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { trim: 256, keep: 4096 }
    }
}

/// This node.
#[derive(Clone)]
pub struct Options {
    /// Its id.
    pub node: NodeId,
    /// Its disk, and this start of it.
    pub disk: Disk,
    /// 64 random bits drawn at this start; the origin will do.
    pub chance: u64,
    /// How much of logs is kept.
    pub limits: Limits,
}

/// What is to be seen of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The term.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
    /// Whether this node does.
    pub leads: bool,
    /// Whether this node owns it: see [`News::Owner`].
    pub owns: bool,
    /// The last index known to be committed, the last of the log, and that before its first.
    pub committed: u64,
    /// The last index of the log.
    pub end: u64,
    /// The index that the log begins after.
    pub base: u64,
    /// Bytes of the log in memory.
    pub bytes: usize,
    /// Whether it sleeps here.
    pub asleep: bool,
    /// Whether this start may speak in it.
    pub cleared: bool,
    /// Disks that vote.
    pub voters: BTreeSet<u64>,
    /// Disks that only receive.
    pub learners: BTreeSet<u64>,
    /// Whether votes of two sets are needed at the moment.
    pub is_joint: bool,
}
