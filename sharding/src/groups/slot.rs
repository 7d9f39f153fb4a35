//! One group on this node: its member, and who waits for what.
//!
//! Invariants:
//! 1. Each proposal and each question is answered once: committed or lost, readable or refused.
//! 2. Entries are given out while the state machine keeps up, within [`WINDOW`] of them and
//!    [`WINDOW_BYTES`]; the rest waits in the log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use atoll_replication::transport::NodeId;
use atoll_store::shard::ShardId;

use super::message::Roll;
use super::sleep::Rest;
use super::{News, Ticket};
use crate::raft::starts::Clearance;
use crate::raft::{At, Entry, Member, Message, Unreadable};

/// Entries that may be with the state machine.
const WINDOW: usize = 1024;
/// Bytes of entries that may be with the state machine.
const WINDOW_BYTES: usize = 1 << 20;
/// About the most bytes of entries read at a time.
const GIVE_BYTES: u64 = 128 << 10;

/// The number of a shard's group, on disk and on the wire.
pub(super) fn number(group: ShardId) -> u64 {
    u64::from(group.placement) << 16 | u64::from(group.slot)
}

/// The shard of a group's number.
pub(super) fn shard(number: u64) -> Option<ShardId> {
    let placement = u32::try_from(number >> 16).ok()?;
    Some(ShardId { placement, slot: number as u16 })
}

/// A state that is being taken from the leader.
pub(super) struct Taking {
    pub(super) at: At,
    /// The leader's message, which the consensus gets once the state is here.
    pub(super) message: Message,
    pub(super) from: NodeId,
    /// The cursor after what is here.
    pub(super) after: Bytes,
    /// Ticks since anything of it came.
    pub(super) idle: u32,
}

/// What the owner's side was told last of who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Owner(u64),
    Other(Option<NodeId>),
}

pub(super) struct Slot {
    pub(super) shard: ShardId,
    pub(super) member: Member,
    pub(super) clearance: Clearance,
    /// What the log had promised when this start began.
    pub(super) woke: (u64, u64),
    /// Nodes of disks, as other members told.
    pub(super) addresses: BTreeMap<u64, NodeId>,
    pub(super) rest: Rest,
    pub(super) taking: Option<Taking>,
    /// The record does not name this disk: it asks whether it is still in the group.
    pub(super) astray: bool,
    /// By index: the term and ticket of what was proposed here.
    proposals: BTreeMap<u64, (u64, Ticket)>,
    /// Reads that were not asked about yet, and those that were, by question.
    pub(super) reads: Vec<Ticket>,
    asked: BTreeMap<u64, Vec<Ticket>>,
    /// The term that proposals and questions are of.
    led: u64,
    role: Role,
    /// Index and bytes of entries that are with the state machine.
    window: VecDeque<(u64, usize)>,
    window_bytes: usize,
    /// How far the log may be dropped.
    pub(super) compactable: u64,
}

impl Slot {
    pub(super) fn new(shard: ShardId, member: Member, clearance: Clearance) -> Slot {
        Slot {
            shard,
            woke: member.promised(),
            member,
            clearance,
            addresses: BTreeMap::new(),
            rest: Rest::default(),
            taking: None,
            astray: false,
            proposals: BTreeMap::new(),
            reads: Vec::new(),
            asked: BTreeMap::new(),
            led: 0,
            role: Role::Other(None),
            window: VecDeque::new(),
            window_bytes: 0,
            compactable: 0,
        }
    }

    /// Whether this disk knows nothing of the group, and has nobody to greet: there is nothing to
    /// do until a member says something.
    pub(super) fn is_blank(&self) -> bool {
        let greets = !self.clearance.is_cleared() && !self.addresses.is_empty();
        self.member.config().voters.is_empty() && self.taking.is_none() && !greets
    }

    /// Whether somebody here waits for an answer of the group.
    pub(super) fn is_busy(&self) -> bool {
        !(self.proposals.is_empty() && self.reads.is_empty() && self.asked.is_empty())
    }

    pub(super) fn roll(&self) -> Option<Roll> {
        let member = &self.member;
        (!member.config().voters.is_empty()).then(|| Roll {
            group: number(self.shard),
            index: member.config_index(),
            until: member.reached(),
            config: member.config().clone(),
            peers: member.peers().clone(),
        })
    }

    pub(super) fn propose(&mut self, ticket: Ticket, command: Bytes, news: &mut Vec<News>) {
        self.led = self.member.term();
        match self.member.propose(command) {
            Some(index) => drop(self.proposals.insert(index, (self.led, ticket))),
            None => news.push(News::Refused { group: self.shard, ticket }),
        }
    }

    /// Asks for all reads that wait, with one question.
    pub(super) fn ask(&mut self, question: u64, news: &mut Vec<News>) {
        let group = self.shard;
        if !self.member.leads() {
            let refused = |ticket| News::Refused { group, ticket };
            news.extend(std::mem::take(&mut self.reads).into_iter().map(refused));
        } else if !self.reads.is_empty() && self.member.ask(question) {
            self.led = self.member.term();
            self.asked.insert(question, std::mem::take(&mut self.reads));
        }
    }

    pub(super) fn readable(&mut self, question: u64, index: u64, news: &mut Vec<News>) {
        let tickets = self.asked.remove(&question).unwrap_or_default();
        let group = self.shard;
        news.extend(tickets.into_iter().map(|ticket| News::Readable { group, ticket, index }));
    }

    /// Gives out committed entries, as far as the state machine keeps up.
    pub(super) fn give(&mut self, news: &mut Vec<News>) -> Result<(), Unreadable> {
        while self.window.len() < WINDOW && self.window_bytes < WINDOW_BYTES {
            let entries = self.member.give(GIVE_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                self.window.push_back((entry.index, entry.bytes.len()));
                self.window_bytes += entry.bytes.len();
                let ticket = self.ticket(&entry);
                news.push(News::Committed { group: self.shard, entry, ticket });
            }
        }
        Ok(())
    }

    fn ticket(&mut self, entry: &Entry) -> Option<Ticket> {
        let (term, ticket) = self.proposals.remove(&entry.index)?;
        (term == entry.term).then_some(ticket)
    }

    /// The state machine has durably applied all up to an index.
    pub(super) fn applied(&mut self, index: u64) {
        while let Some((at, bytes)) = self.window.front().copied()
            && at <= index
        {
            self.window.pop_front();
            self.window_bytes -= bytes;
        }
        self.member.applied(index);
    }

    /// The state machine has another state.
    pub(super) fn restart(&mut self) {
        self.window.clear();
        self.window_bytes = 0;
        self.compactable = 0;
    }

    /// Tells who leads, if that changed; and answers those whose leader this is no longer.
    pub(super) fn tell(&mut self, node: Option<NodeId>, news: &mut Vec<News>) {
        let group = self.shard;
        if !self.member.leads() || self.member.term() != self.led {
            let lost = |(_, (_, ticket))| News::Lost { group, ticket };
            news.extend(std::mem::take(&mut self.proposals).into_iter().map(lost));
            let asked = std::mem::take(&mut self.asked).into_values().flatten();
            news.extend(asked.map(|ticket| News::Refused { group, ticket }));
        }
        let term = self.member.term();
        let role = match self.member.owns() {
            true => Role::Owner(term),
            // Who leads and does not own yet will, or will hear of another.
            false if self.member.leads() && matches!(self.role, Role::Other(_)) => return,
            false if self.member.leads() => Role::Other(None),
            false => Role::Other(node),
        };
        if role != self.role {
            self.role = role;
            news.push(match role {
                Role::Owner(term) => News::Owner { group, term },
                Role::Other(leader) => News::NotOwner { group, leader },
            });
        }
    }
}
