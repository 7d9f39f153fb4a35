//! What voters say to each other and write to disk, in an encoding of our own.
//!
//! The consensus crate's messages are made for an old Protocol Buffers crate that overflows its
//! stack on hostile bytes. So bytes of a peer, and of a disk, are only ever read as these types,
//! by postcard; that crate parses nothing but what this process has just made itself.
//!
//! Invariants:
//! 1. Decoding never panics, and takes memory in proportion to what it reads.
//! 2. What a peer may not say (proposals, local messages, reads) cannot be said: no variant.
//! 3. A change of voters travels as our [`Change`], in an entry's context; its data stay here.
//!
//! Left out: checks against the state of a group, which the group makes before it steps.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry as RaftEntry, EntryType, Message as RaftMessage, MessageType, Snapshot as RaftSnapshot,
};
use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;

/// Terms and indexes are below this; what is above is garbage, and would overflow sums.
const NUMBER_MAX: u64 = 1 << 60;
/// What the crate puts into votes that a leader asked for, so that leases do not hold them up.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// A change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// This disk, of this node, receives the log, and has no vote.
    Learner(u64, NodeId),
    /// This disk is no member any more.
    Remove(u64),
    /// Enters a joint configuration: some learners get a vote, some voters go.
    Joint {
        /// Who gets a vote.
        promote: BTreeSet<u64>,
        /// Who goes.
        remove: BTreeSet<u64>,
    },
    /// Leaves the joint configuration.
    Settle,
}

/// Who is in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// In a joint configuration: who voted before, and still does.
    pub outgoing: BTreeSet<u64>,
    /// Who only receives.
    pub learners: BTreeSet<u64>,
}

impl Config {
    /// Whether votes of two sets are needed at the moment.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Everyone.
    pub fn members(&self) -> impl Iterator<Item = u64> + '_ {
        let outgoing = self.outgoing.difference(&self.voters);
        self.voters.iter().chain(outgoing).chain(&self.learners).copied()
    }

    /// Whether a disk is a member in any way.
    pub fn contains(&self, id: u64) -> bool {
        self.members().any(|member| member == id)
    }

    /// Whether those who did something are a majority, in a joint configuration of both sets.
    pub fn is_majority(&self, did: impl Fn(u64) -> bool) -> bool {
        let most = |set: &BTreeSet<u64>| set.iter().filter(|id| did(**id)).count() * 2 > set.len();
        most(&self.voters) && (self.outgoing.is_empty() || most(&self.outgoing))
    }

    /// Whether a group can have it: someone votes, and nobody who votes only receives.
    fn is_sound(&self) -> bool {
        let voters = |id: &u64| self.voters.contains(id) || self.outgoing.contains(id);
        let ids = || self.members();
        !self.voters.is_empty() && !self.learners.iter().any(voters) && ids().all(|id| id != 0)
    }

    pub(super) fn from_raft(state: &ConfState) -> Config {
        Config {
            voters: state.voters.iter().copied().collect(),
            outgoing: state.voters_outgoing.iter().copied().collect(),
            learners: state.learners.iter().copied().collect(),
        }
    }

    pub(super) fn to_raft(&self) -> ConfState {
        ConfState {
            voters: self.voters.iter().copied().collect(),
            voters_outgoing: self.outgoing.iter().copied().collect(),
            learners: self.learners.iter().copied().collect(),
            ..ConfState::default()
        }
    }
}

/// What a log entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Payload {
    /// Nothing: a leader's first entry.
    Nothing,
    /// A command of the state machine.
    Command(Bytes),
    /// A change of members.
    Change(Change),
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) payload: Payload,
}

/// The state that the log begins after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) config: Config,
    pub(super) data: Bytes,
}

/// What a voter says to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) term: u64,
    pub(super) kind: Kind,
}

impl Message {
    /// The disk that says it.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The disk that it is for.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// The term that it is of.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether it is a leader's word.
    pub fn is_leaders(&self) -> bool {
        matches!(
            self.kind,
            Kind::Append { .. } | Kind::Snapshot(_) | Kind::Heartbeat { .. } | Kind::Ask { .. }
        )
    }

    /// Whether a member that sleeps, and leads or not, has to wake for it.
    pub fn rouses(&self, leads: bool) -> bool {
        match self.kind {
            Kind::HeartbeatAnswer { .. } | Kind::AskAnswer { .. } | Kind::VoteAnswer { .. } => {
                false
            }
            Kind::AppendAnswer { rejected, .. } => leads && rejected.is_some(),
            _ => true,
        }
    }

    /// What it promises: a term, and for an acknowledgement the index up to which.
    pub fn promise(&self) -> Option<(u64, u64)> {
        match self.kind {
            Kind::AppendAnswer { index, rejected: None, .. } => Some((self.term, index)),
            Kind::VoteAnswer { pre: false, rejected: false, .. } => Some((self.term, 0)),
            Kind::Vote { pre: false, .. } => Some((self.term, 0)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Append {
        index: u64,
        log_term: u64,
        commit: u64,
        entries: Vec<Entry>,
    },
    AppendAnswer {
        index: u64,
        commit: u64,
        rejected: Option<(u64, u64)>,
    },
    Vote {
        pre: bool,
        force: bool,
        index: u64,
        log_term: u64,
        commit: (u64, u64),
    },
    VoteAnswer {
        pre: bool,
        rejected: bool,
        commit: (u64, u64),
    },
    Snapshot(Snapshot),
    Heartbeat {
        commit: u64,
    },
    HeartbeatAnswer {
        commit: u64,
    },
    TimeoutNow,
    /// A heartbeat whose answers say that the leader of this term still led when it was asked.
    Ask {
        commit: u64,
        question: u64,
    },
    AskAnswer {
        commit: u64,
        question: u64,
    },
}

/// The question in a heartbeat's context.
pub(super) fn question(context: &[u8]) -> Option<u64> {
    context.try_into().ok().map(u64::from_be_bytes)
}

fn small(numbers: &[u64]) -> bool {
    numbers.iter().all(|number| *number < NUMBER_MAX)
}

impl Message {
    /// Whether it can be what a peer of any group says: numbers in bounds, entries in order.
    pub(super) fn is_sound(&self) -> bool {
        self.term > 0 && self.from != 0 && small(&[self.term]) && self.kind.is_sound(self.term)
    }

    /// As the crate takes it.
    pub(super) fn into_raft(self) -> RaftMessage {
        let mut message = RaftMessage::default();
        (message.from, message.to, message.term) = (self.from, self.to, self.term);
        self.kind.into_raft(&mut message);
        message
    }

    /// What the crate wants to say; `None` for what it says only to itself.
    pub(super) fn from_raft(message: &RaftMessage) -> Option<Message> {
        let kind = Kind::from_raft(message)?;
        Some(Message { from: message.from, to: message.to, term: message.term, kind })
    }
}

impl Kind {
    fn is_sound(&self, term: u64) -> bool {
        match self {
            Kind::Append { index, log_term, commit, entries } => {
                let last = entries.last().map_or(*log_term, |entry| entry.term);
                let mut before = (*index, *log_term);
                let follows = |entry: &Entry| {
                    let (index, term) = std::mem::replace(&mut before, (entry.index, entry.term));
                    entry.index == index + 1 && entry.term >= term.max(1)
                };
                // The crate takes term 0 for that of what lies beyond a log's end.
                let begins = (*index == 0) == (*log_term == 0);
                begins
                    && small(&[*index, *log_term, *commit])
                    && entries.iter().all(follows)
                    && last <= term
            }
            Kind::AppendAnswer { index, commit, rejected } => {
                let (hint, log_term) = rejected.unwrap_or_default();
                small(&[*index, *commit, hint, log_term])
            }
            Kind::Vote { index, log_term, commit: (at, of), .. } => {
                small(&[*index, *log_term, *at, *of])
            }
            Kind::VoteAnswer { commit: (at, of), .. } => small(&[*at, *of]),
            Kind::Snapshot(s) => {
                s.index > 0
                    && small(&[s.index])
                    && (1..=term).contains(&s.term)
                    && s.config.is_sound()
            }
            Kind::Heartbeat { commit }
            | Kind::HeartbeatAnswer { commit }
            | Kind::Ask { commit, .. }
            | Kind::AskAnswer { commit, .. } => small(&[*commit]),
            Kind::TimeoutNow => true,
        }
    }

    fn into_raft(self, message: &mut RaftMessage) {
        message.set_msg_type(self.raft_type());
        match self {
            Kind::Append { index, log_term, commit, entries } => {
                (message.index, message.log_term, message.commit) = (index, log_term, commit);
                let entries: Vec<_> = entries.into_iter().map(Entry::into_raft).collect();
                message.set_entries(entries.into());
            }
            Kind::AppendAnswer { index, commit, rejected } => {
                (message.index, message.commit) = (index, commit);
                if let Some((hint, log_term)) = rejected {
                    (message.reject, message.reject_hint, message.log_term) =
                        (true, hint, log_term);
                }
            }
            Kind::Vote { force, index, log_term, commit, .. } => {
                (message.index, message.log_term) = (index, log_term);
                (message.commit, message.commit_term) = commit;
                if force {
                    message.context = TRANSFER.into();
                }
            }
            Kind::VoteAnswer { rejected, commit, .. } => {
                message.reject = rejected;
                (message.commit, message.commit_term) = commit;
            }
            Kind::Snapshot(snapshot) => message.set_snapshot(snapshot.into_raft()),
            Kind::Heartbeat { commit } | Kind::HeartbeatAnswer { commit } => {
                message.commit = commit;
            }
            Kind::Ask { commit, question } | Kind::AskAnswer { commit, question } => {
                message.commit = commit;
                message.context = question.to_be_bytes().to_vec().into();
            }
            Kind::TimeoutNow => {}
        }
    }

    fn raft_type(&self) -> MessageType {
        match self {
            Kind::Append { .. } => MessageType::MsgAppend,
            Kind::AppendAnswer { .. } => MessageType::MsgAppendResponse,
            Kind::Vote { pre: true, .. } => MessageType::MsgRequestPreVote,
            Kind::Vote { .. } => MessageType::MsgRequestVote,
            Kind::VoteAnswer { pre: true, .. } => MessageType::MsgRequestPreVoteResponse,
            Kind::VoteAnswer { .. } => MessageType::MsgRequestVoteResponse,
            Kind::Snapshot(_) => MessageType::MsgSnapshot,
            Kind::Heartbeat { .. } | Kind::Ask { .. } => MessageType::MsgHeartbeat,
            Kind::HeartbeatAnswer { .. } | Kind::AskAnswer { .. } => {
                MessageType::MsgHeartbeatResponse
            }
            Kind::TimeoutNow => MessageType::MsgTimeoutNow,
        }
    }

    fn from_raft(m: &RaftMessage) -> Option<Kind> {
        let commit = (m.commit, m.commit_term);
        Some(match m.get_msg_type() {
            MessageType::MsgAppend => Kind::Append {
                index: m.index,
                log_term: m.log_term,
                commit: m.commit,
                entries: m.get_entries().iter().map(Entry::from_raft).collect(),
            },
            MessageType::MsgAppendResponse => Kind::AppendAnswer {
                index: m.index,
                commit: m.commit,
                rejected: m.reject.then_some((m.reject_hint, m.log_term)),
            },
            kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => Kind::Vote {
                pre: kind == MessageType::MsgRequestPreVote,
                force: m.context == TRANSFER,
                index: m.index,
                log_term: m.log_term,
                commit,
            },
            MessageType::MsgRequestVoteResponse => {
                Kind::VoteAnswer { pre: false, rejected: m.reject, commit }
            }
            MessageType::MsgRequestPreVoteResponse => {
                Kind::VoteAnswer { pre: true, rejected: m.reject, commit }
            }
            MessageType::MsgSnapshot => Kind::Snapshot(Snapshot::from_raft(m.get_snapshot())),
            MessageType::MsgHeartbeat => match question(&m.context) {
                Some(question) => Kind::Ask { commit: m.commit, question },
                None => Kind::Heartbeat { commit: m.commit },
            },
            MessageType::MsgHeartbeatResponse => match question(&m.context) {
                Some(question) => Kind::AskAnswer { commit: m.commit, question },
                None => Kind::HeartbeatAnswer { commit: m.commit },
            },
            MessageType::MsgTimeoutNow => Kind::TimeoutNow,
            _ => return None,
        })
    }
}

impl Entry {
    pub(super) fn into_raft(self) -> RaftEntry {
        let mut entry = RaftEntry::default();
        (entry.term, entry.index) = (self.term, self.index);
        match self.payload {
            Payload::Nothing => {}
            Payload::Command(bytes) => entry.data = bytes,
            Payload::Change(change) => {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                entry.context = change.encode().into();
            }
        }
        entry
    }

    pub(super) fn from_raft(entry: &RaftEntry) -> Entry {
        let payload = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Payload::Nothing,
            EntryType::EntryNormal => Payload::Command(entry.data.clone()),
            // Every change is proposed with its context, so the default is never taken.
            _ => Payload::Change(Change::decode(&entry.context).unwrap_or(Change::Settle)),
        };
        Entry { term: entry.term, index: entry.index, payload }
    }
}

impl Change {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a change encodes to memory")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Change> {
        postcard::from_bytes(bytes).ok()
    }

    pub(super) fn to_raft(&self) -> ConfChangeV2 {
        let single = |id: u64, kind: ConfChangeType| {
            let change_type = kind;
            ConfChangeSingle { node_id: id, change_type, ..ConfChangeSingle::default() }
        };
        let mut change = ConfChangeV2::default();
        let changes: Vec<ConfChangeSingle> = match self {
            Change::Learner(id, _) => vec![single(*id, ConfChangeType::AddLearnerNode)],
            Change::Remove(id) => vec![single(*id, ConfChangeType::RemoveNode)],
            Change::Joint { promote, remove } => {
                change.set_transition(ConfChangeTransition::Explicit);
                let promote = promote.iter().map(|id| single(*id, ConfChangeType::AddNode));
                let remove = remove.iter().map(|id| single(*id, ConfChangeType::RemoveNode));
                promote.chain(remove).collect()
            }
            Change::Settle => Vec::new(),
        };
        change.set_changes(changes.into());
        change
    }
}

impl Snapshot {
    pub(super) fn into_raft(self) -> RaftSnapshot {
        let mut snapshot = RaftSnapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.index, self.term);
        metadata.set_conf_state(self.config.to_raft());
        snapshot.data = self.data;
        snapshot
    }

    pub(super) fn from_raft(snapshot: &RaftSnapshot) -> Snapshot {
        let metadata = snapshot.get_metadata();
        Snapshot {
            index: metadata.index,
            term: metadata.term,
            config: Config::from_raft(metadata.get_conf_state()),
            data: snapshot.data.clone(),
        }
    }
}
