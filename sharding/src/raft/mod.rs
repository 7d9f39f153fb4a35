//! Consensus: one group of voters and learners that agree on a log of commands, as a pure core.
//!
//! [`Group`] wraps TiKV's `raft` crate, and is the only thing that names it. It knows nothing of
//! what commands mean, so councils and owners use the same. [`starts`] is rule R13.
//!
//! Invariants:
//! 1. (R1) Effects are durable first, then said: `writes` are committed and flushed, and only
//!    then `sends` leave and `applied` is shown. A group takes its own writes for done as soon as
//!    it gave them, so effects leave in the order of the steps, and a driver whose commit fails
//!    ends the process.
//! 2. Time and chance are arguments: the crate's one random number, an election timeout, is
//!    replaced before it is ever used, by one drawn from a seed, the term and the attempt.
//! 3. A message that could make the crate panic is dropped before it gets there.
//! 4. Ticks that were missed are not made up: a process that stood still does not campaign
//!    before it has read what arrived meanwhile.
//!
//! Left out: reads by index, and groups that sleep: councils need neither. Owners have groups by
//! the dozen, whose members are [`Member`]s, over a log that memory does not hold.

mod log;
mod member;
#[cfg(test)]
pub(crate) mod nonsense;
pub mod starts;
mod tail;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod wire;

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, EntryType, Message as RaftMessage};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;
use atoll_store::backend::{Backend, Write};
use atoll_store::dot::Millis;
use atoll_store::record::RecordError;

use log::Log;
pub use member::{At, Drained, ELECTION_TICKS as OWNER_TICKS, Entry, Member, Unreadable};
pub use wire::{Change, Config, Message};
use wire::{Kind, Snapshot};

/// The unit of a group's time.
pub const TICK_MS: Millis = 100;
/// Ticks without a word of the leader before a follower asks for votes: this to twice this.
const ELECTION_TICKS: usize = 10;
/// Ticks between words of the leader.
const HEARTBEAT_TICKS: usize = 2;
/// Ticks after which a snapshot that nobody acknowledged is sent again.
const SNAPSHOT_TICKS: u32 = 10;
/// Most bytes of entries in one message; one entry may be larger.
const MESSAGE_BYTES: u64 = 64 << 10;
/// Disks whose nodes are remembered from what they said; far more than members.
const ROUTES_MAX: usize = 256;
/// Most messages under way to one follower.
const INFLIGHT: usize = 64;

/// What a group is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: see [`Group::deadline`].
    Tick,
    /// A message of this node's disk, whose start was recognised.
    Received(NodeId, Message),
    /// The leader wants this command in the log; who does not lead drops it. Never empty.
    Propose(Bytes),
    /// The leader wants this change of members.
    Change(Change),
    /// The leader wants this voter to lead.
    Transfer(u64),
    /// Ask for votes now.
    Campaign,
}

/// What the log says, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A command.
    Command(Bytes),
    /// The members changed: see [`Group::config`].
    Members,
    /// The state machine's state is now this.
    State(Bytes),
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Commit these durably;
    pub writes: Vec<Write>,
    /// then send these,
    pub sends: Vec<(NodeId, Message)>,
    /// and apply these.
    pub applied: Vec<Applied>,
}

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The nodes of disks.
    peers: BTreeMap<u64, NodeId>,
    state: Bytes,
}

impl Kept {
    fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a snapshot encodes to memory").into()
    }

    fn decode(bytes: &[u8]) -> Option<Kept> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Names a group and a member of it.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// The group; different groups on one disk have different ones.
    pub group: u64,
    /// This member: its disk id. Not 0.
    pub disk: u64,
    /// Drawn for this start.
    pub chance: u64,
}

/// One member's part of a group.
pub struct Group {
    raw: RawNode<Log>,
    name: Name,
    /// Election timeouts that ran out here.
    attempts: u64,
    ticked: Option<Millis>,
    /// The nodes of members' disks, as recorded.
    peers: BTreeMap<u64, NodeId>,
    /// The nodes that disks were heard from: where they are now.
    routes: BTreeMap<u64, NodeId>,
    config: Config,
    /// Ticks since a snapshot was sent, by who has not acknowledged it.
    snapshots: BTreeMap<u64, u32>,
    accepts: fn(&[u8]) -> bool,
}

impl Group {
    /// A group whose only voter is this member, `me` its node, with the state it starts from.
    pub fn create(
        name: Name,
        me: NodeId,
        state: Bytes,
        accepts: fn(&[u8]) -> bool,
        writes: &mut Vec<Write>,
    ) -> Group {
        let config = Config { voters: [name.disk].into(), ..Config::default() };
        let peers = BTreeMap::from([(name.disk, me)]);
        let data = Kept { peers, state }.encode();
        let mut log = Log::new(name.group);
        log.begin_after(Snapshot { index: 1, term: 1, config, data }, writes);
        let mut hard = log.hard().clone();
        (hard.term, hard.commit) = (1, 1);
        log.keep(&hard, writes);
        Group::open(name, log, accepts).0
    }

    /// A member of a group that others have formed, as the disk has it; without any record, one
    /// that waits for the leader. Also gives what the log says: the state, and what follows.
    ///
    /// `accepts` says whether bytes are a state of the state machine. A damaged log is an error:
    /// [`Group::forget`] it, and speak under another disk id.
    pub fn load(
        backend: &dyn Backend,
        name: Name,
        accepts: fn(&[u8]) -> bool,
    ) -> Result<(Group, Vec<Applied>), RecordError> {
        Ok(Group::open(name, Log::load(backend, name.group)?, accepts))
    }

    /// A member that knows nothing yet.
    pub fn join(name: Name, accepts: fn(&[u8]) -> bool) -> Group {
        Group::open(name, Log::new(name.group), accepts).0
    }

    /// Deletes a group's records without reading them.
    pub fn forget(
        backend: &dyn Backend,
        group: u64,
        writes: &mut Vec<Write>,
    ) -> Result<(), RecordError> {
        log::remove_damaged(backend, group, writes)
    }

    fn open(name: Name, log: Log, accepts: fn(&[u8]) -> bool) -> (Group, Vec<Applied>) {
        let config = raft::Config {
            id: name.disk,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: log.snapshot().index,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: INFLIGHT,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let snapshot = log.snapshot().clone();
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &silent).expect("a loaded log is sound");
        let mut group = Group {
            raw,
            name,
            attempts: 0,
            ticked: None,
            peers: BTreeMap::new(),
            routes: BTreeMap::new(),
            config: snapshot.config.clone(),
            snapshots: BTreeMap::new(),
            accepts,
        };
        let mut out = Effects::default();
        group.restore(&snapshot, &mut out.applied);
        group.draw_timeout();
        group.drain(&mut out);
        (group, out.applied)
    }

    /// Takes an event.
    pub fn step(&mut self, now: Millis, event: Event) -> Effects {
        let mut out = Effects::default();
        // What the crate refuses is dropped: whoever asked sees that nothing came of it.
        let _ = match event {
            Event::Tick => {
                self.tick(now);
                Ok(())
            }
            Event::Received(node, message) if self.is_plausible(&message) => {
                self.set_address(message.from, node);
                self.raw.step(message.into_raft())
            }
            Event::Received(..) => Ok(()),
            Event::Propose(command) => self.raw.propose(Vec::new(), command.to_vec()),
            Event::Change(change) => {
                self.raw.propose_conf_change(change.encode(), change.to_raft())
            }
            Event::Transfer(id) => {
                self.raw.transfer_leader(id);
                Ok(())
            }
            Event::Campaign => self.raw.campaign(),
        };
        self.draw_timeout();
        self.drain(&mut out);
        out
    }

    /// When it wants to be told the time.
    pub fn deadline(&self) -> Millis {
        self.ticked.map_or(0, |ticked| ticked + TICK_MS)
    }

    fn tick(&mut self, now: Millis) {
        let due = self.ticked.is_none_or(|ticked| now >= ticked + TICK_MS || now < ticked);
        if !due {
            return;
        }
        self.ticked = Some(now);
        let asks = self.raw.raft.state != StateRole::Leader
            && self.raw.raft.election_elapsed + 1 >= self.raw.raft.randomized_election_timeout();
        self.attempts += u64::from(asks);
        self.raw.tick();
        self.retry_snapshots();
    }

    /// A lost snapshot would be waited for forever: the crate asks to be told.
    fn retry_snapshots(&mut self) {
        let progress = self.raw.raft.prs().iter();
        let sent = progress.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let ticks = |id: &u64| self.snapshots.get(id).map_or(0, |ticks| ticks + 1);
        self.snapshots = sent.map(|(id, _)| (*id, ticks(id))).collect();
        let late = self.snapshots.iter().filter(|(_, ticks)| **ticks > SNAPSHOT_TICKS);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.snapshots.remove(&id);
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    /// Replaces the crate's random timeout, whether or not it has just drawn one.
    fn draw_timeout(&mut self) {
        let parts = [self.name.chance, self.name.disk, self.raw.raft.term, self.attempts];
        let drawn = draw(b"election timeout", &parts) % ELECTION_TICKS as u64;
        let drawn = usize::try_from(drawn).expect("below ten");
        self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + drawn);
    }

    /// Whether a message makes sense in this state; what does not may make the crate panic.
    fn is_plausible(&self, message: &Message) -> bool {
        if message.to != self.name.disk || message.from == self.name.disk || !message.is_sound() {
            return false;
        }
        let end = self.raw.raft.raft_log.last_index();
        match &message.kind {
            Kind::Heartbeat { commit } | Kind::Ask { commit, .. } => {
                message.term < self.term() || *commit <= end
            }
            Kind::AppendAnswer { index, rejected: None, .. } => *index <= end,
            Kind::Snapshot(snapshot) => {
                snapshot.config.contains(self.name.disk)
                    && Kept::decode(&snapshot.data).is_some_and(|kept| (self.accepts)(&kept.state))
            }
            _ => true,
        }
    }

    /// Whether a leader believes that this log is longer than it is: something it had
    /// acknowledged is gone, so it must not speak under this id again.
    pub fn is_contradicted_by(&self, message: &Message) -> bool {
        let end = self.raw.raft.raft_log.last_index();
        let commit = match &message.kind {
            Kind::Heartbeat { commit } | Kind::Ask { commit, .. } => *commit,
            _ => return false,
        };
        message.to == self.name.disk
            && message.is_sound()
            && message.term >= self.term()
            && commit > end
    }

    /// Does what the crate asks for, until it asks for nothing more.
    fn drain(&mut self, out: &mut Effects) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.send(ready.take_messages(), out);
            if !ready.snapshot().is_empty() {
                let snapshot = Snapshot::from_raft(ready.snapshot());
                self.raw.mut_store().begin_after(snapshot.clone(), &mut out.writes);
                self.restore(&snapshot, &mut out.applied);
            }
            self.apply(ready.take_committed_entries(), out);
            self.raw.mut_store().append(ready.entries(), &mut out.writes);
            self.send(ready.take_persisted_messages(), out);
            let mut light = self.raw.advance(ready);
            self.send(light.take_messages(), out);
            self.apply(light.take_committed_entries(), out);
            self.raw.advance_apply();
            self.draw_timeout();
        }
        let hard = self.raw.raft.hard_state();
        self.raw.mut_store().keep(&hard, &mut out.writes);
    }

    fn send(&self, messages: Vec<RaftMessage>, out: &mut Effects) {
        for message in &messages {
            let to = self.routes.get(&message.to).or(self.peers.get(&message.to));
            if let (Some(node), Some(message)) = (to, Message::from_raft(message)) {
                out.sends.push((*node, message));
            }
        }
    }

    fn restore(&mut self, snapshot: &Snapshot, applied: &mut Vec<Applied>) {
        self.config = snapshot.config.clone();
        if let Some(kept) = Kept::decode(&snapshot.data) {
            self.peers = kept.peers;
            applied.push(Applied::State(kept.state));
        }
    }

    fn apply(&mut self, entries: Vec<RaftEntry>, out: &mut Effects) {
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryNormal {
                if !entry.data.is_empty() {
                    out.applied.push(Applied::Command(entry.data));
                }
                continue;
            }
            let Some(change) = Change::decode(&entry.context) else { continue };
            // A change that does not fit is refused by every member alike.
            let Ok(state) = self.raw.apply_conf_change(&change.to_raft()) else { continue };
            self.config = Config::from_raft(&state);
            if let Change::Learner(id, node) = change {
                self.peers.insert(id, node);
            }
            let config = &self.config;
            self.peers.retain(|id, _| config.contains(*id));
            out.applied.push(Applied::Members);
        }
        // A leader that is no member could neither go on nor be told so: the crate forgets its
        // own progress, and panics when it looks for it.
        if self.leads() && !self.config.contains(self.name.disk) {
            let messages = std::mem::take(&mut self.raw.raft.msgs);
            self.send(messages, out);
            let term = self.term();
            self.raw.raft.become_follower(term, 0);
        }
    }

    /// Keeps the state machine's state, which is that after all that was applied, and drops the
    /// log before it.
    pub fn compact(&mut self, state: Bytes, writes: &mut Vec<Write>) {
        let index = self.raw.raft.raft_log.applied();
        let Ok(term) = self.raw.raft.raft_log.term(index) else { return };
        let data = Kept { peers: self.peers.clone(), state }.encode();
        let snapshot = Snapshot { index, term, config: self.config.clone(), data };
        self.raw.mut_store().begin_after(snapshot, writes);
    }

    /// Whether somebody waits for a newer snapshot: [`Group::compact`].
    pub fn wants_snapshot(&self) -> bool {
        self.raw.store().wants_snapshot()
    }

    /// Entries after the snapshot.
    pub fn entries_kept(&self) -> usize {
        self.raw.store().len()
    }

    /// Commands in the log that are not known to be committed, in order.
    pub fn uncommitted(&self) -> Vec<Bytes> {
        let applied = self.raw.raft.raft_log.applied();
        let tail = self.raw.store().entries().filter(|entry| entry.index > applied);
        let commands = tail.filter(|entry| entry.get_entry_type() == EntryType::EntryNormal);
        commands.map(|entry| entry.data.clone()).filter(|data| !data.is_empty()).collect()
    }

    /// Ends it, and deletes it from the disk.
    pub fn remove(mut self, writes: &mut Vec<Write>) {
        let log = std::mem::replace(self.raw.mut_store(), Log::new(self.name.group));
        log.remove(writes);
    }

    /// A disk's node is this, whatever was recorded.
    pub fn set_address(&mut self, disk: u64, node: NodeId) {
        if self.routes.len() > ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(disk, node);
    }

    /// The member that this is.
    pub fn name(&self) -> Name {
        self.name
    }

    /// The nodes of members' disks.
    pub fn peers(&self) -> &BTreeMap<u64, NodeId> {
        &self.peers
    }

    /// Who is in it, as far as was applied here.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The last index applied.
    pub fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied()
    }

    /// Term and last index of its log: what it has promised, at least.
    pub fn promised(&self) -> (u64, u64) {
        (self.term(), self.raw.raft.raft_log.last_index())
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Who leads, if that is known.
    pub fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether this member leads, and all of its log is applied: what is decided now is decided
    /// from the state that it will be applied to.
    pub fn is_settled(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.leads()
            && log.applied() == log.last_index()
            && self.raw.raft.apply_to_current_term()
            && self.raw.raft.lead_transferee.is_none()
    }

    /// Whether the leader knows that a member has all of its log.
    pub fn has_all(&self, id: u64) -> bool {
        let end = self.raw.raft.raft_log.last_index();
        self.raw.raft.prs().get(id).is_some_and(|progress| progress.matched == end)
    }
}

/// Chance from a seed: the same for the same purpose and parts.
pub(crate) fn draw(purpose: &[u8], parts: &[u64]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("atoll raft chance 1");
    hasher.update(purpose);
    parts.iter().for_each(|part| {
        hasher.update(&part.to_be_bytes());
    });
    let mut head = [0; 8];
    hasher.finalize_xof().fill(&mut head);
    u64::from_be_bytes(head)
}
