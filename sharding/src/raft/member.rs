//! One member's part of a group of owners: consensus on a log whose state is kept elsewhere.
//!
//! Like [`Group`](super::Group) for councils, with what owners need beside it: a log that memory
//! does not hold, entries given out as fast as they are taken, reads by index, snapshots that are
//! an index and are fetched apart, and members that do not tick while they sleep.
//!
//! Invariants:
//! 1. Time does not pass here: whoever holds it calls [`Member::tick`], for groups that are awake.
//! 2. What was called for comes out of [`Member::drain`], which must be called in the same step.
//! 3. Entries are given out in order, each once, with no index left out: see [`Member::give`].
//! 4. A message that could make the crate panic is dropped before it gets there.
//!
//! Left out: who may speak (R13), who sleeps, and how a snapshot's state gets there.

mod hear;
mod look;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, EntryType, Message as RaftMessage};
use raft::{ProgressState, RawNode, SnapshotStatus};
use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;
use atoll_store::backend::{Backend, Write};
use atoll_store::record::RecordError;

use super::tail::{self, Roster, Staged, Tail};
use super::wire::{Change, Config, Kind, Message, Snapshot, question};
use super::{Name, draw};

/// Ticks without a word of the leader before a follower asks for votes: this to twice this.
pub const ELECTION_TICKS: usize = 15;
/// Ticks between words of the leader.
const HEARTBEAT_TICKS: usize = 2;
/// Ticks without a question about it after which a snapshot is offered again.
const SNAPSHOT_TICKS: u32 = 20;
/// About the most bytes of entries in one message; one entry may be larger.
const MESSAGE_BYTES: u64 = 64 << 10;
/// Most bytes of entries that are not committed; more are refused.
const UNCOMMITTED_BYTES: u64 = 1 << 20;
/// About the most bytes of committed entries looked at in one go.
const COMMITTED_BYTES: u64 = 1 << 20;
/// Most messages under way to one follower.
const INFLIGHT: usize = 128;
/// Entries that a learner may lack and get a vote: traffic always leaves it a few behind.
const NEARLY: u64 = 128;
/// Ticks between those who ask for votes after they lost their leader.
const TURN_TICKS: usize = 4;
/// Bytes of entries that a sleeping member holds in memory.
const ASLEEP_BYTES: usize = 4 << 10;

/// A committed entry. Those that are no command have no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
    /// The command.
    pub bytes: Bytes,
}

/// What came of the calls since the last [`Member::drain`].
#[derive(Debug, Default)]
pub struct Drained {
    /// To other members, after the writes are durable.
    pub messages: Vec<Message>,
    /// Answered questions, and the indexes to read at.
    pub readable: Vec<(u64, u64)>,
    /// The log begins after this index: the state machine has to take the snapshot's state.
    pub installed: Option<u64>,
    /// The members changed.
    pub enrolled: bool,
}

/// An index at which somebody is to take another's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At {
    /// The last index in the state.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// One member's part of a group.
pub struct Member {
    raw: RawNode<Tail>,
    name: Name,
    /// Election timeouts that ran out here.
    attempts: u64,
    /// The last entry given out.
    given: u64,
    /// Ticks since anything was heard of a snapshot, by who is to take it.
    snapshots: BTreeMap<u64, u32>,
}

impl Member {
    /// A group whose only voter is this member, `me` its node.
    pub fn create(
        disk: Arc<dyn Backend>,
        name: Name,
        me: NodeId,
        writes: &mut Vec<Write>,
    ) -> Member {
        let config = Config { voters: [name.disk].into(), ..Config::default() };
        let peers = BTreeMap::from([(name.disk, me)]);
        let data = Roster { index: 1, config: config.clone(), peers }.encode();
        let mut log = Tail::new(disk, name.group);
        log.begin_after(&Snapshot { index: 1, term: 1, config, data }, writes);
        let mut hard = log.hard().clone();
        (hard.term, hard.commit) = (1, 1);
        log.keep(&hard, writes);
        Member::open(name, log)
    }

    /// A member as the disk has it, whose state machine has applied all up to an index; without
    /// any record, one that waits for the leader. A damaged log is an error: [`Member::forget`]
    /// it, and speak under another disk id.
    pub fn load(disk: Arc<dyn Backend>, name: Name, applied: u64) -> Result<Member, RecordError> {
        Ok(Member::open(name, Tail::load(disk, name.group, applied)?))
    }

    /// The groups of which a disk has something.
    pub fn groups(disk: &dyn Backend) -> Result<Vec<u64>, RecordError> {
        tail::groups(disk)
    }

    /// Deletes a group's records without reading them.
    pub fn forget(
        disk: &dyn Backend,
        group: u64,
        writes: &mut Vec<Write>,
    ) -> Result<(), RecordError> {
        tail::forget(disk, group, writes)
    }

    fn open(name: Name, log: Tail) -> Member {
        let applied = log.state();
        let config = raft::Config {
            id: name.disk,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: INFLIGHT,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            ..raft::Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &silent).expect("a loaded log is sound");
        let snapshots = BTreeMap::new();
        let mut member = Member { raw, name, attempts: 0, given: applied, snapshots };
        member.draw_timeout();
        member
    }

    /// Lets a tick pass.
    pub fn tick(&mut self) {
        if self.last() < self.raw.store().floor() {
            return;
        }
        let asks = !self.leads()
            && self.raw.raft.election_elapsed + 1 >= self.raw.raft.randomized_election_timeout();
        self.attempts += u64::from(asks);
        self.raw.tick();
        self.retry_snapshots();
    }

    /// Takes a message of a member whose start was recognised.
    pub fn receive(&mut self, message: Message) {
        if self.is_plausible(&message) {
            // What the crate refuses is dropped: the sender asks again.
            let _ = self.raw.step(message.into_raft());
        }
    }

    /// Puts a command, which is not empty, into the leader's log. Its index, or `None`: it is not
    /// in the log, and will not be.
    pub fn propose(&mut self, command: Bytes) -> Option<u64> {
        let led = self.leads() && !command.is_empty();
        let taken = led && self.raw.propose(Vec::new(), command.to_vec()).is_ok();
        taken.then(|| self.raw.raft.raft_log.last_index())
    }

    /// Puts a change of members into the leader's log.
    pub fn change(&mut self, change: &Change) {
        if self.leads() {
            // One at a time: what is refused is tried again.
            let _ = self.raw.propose_conf_change(change.encode(), change.to_raft());
        }
    }

    /// Lets another voter lead.
    pub fn transfer(&mut self, disk: u64) {
        if self.leads() {
            self.raw.transfer_leader(disk);
        }
    }

    /// Asks for votes now.
    pub fn campaign(&mut self) {
        let _ = self.raw.campaign();
    }

    /// Asks a majority whether this is still the leader. Questions are numbered by the caller,
    /// each once. False: it is not the leader, or has not committed anything in its term yet.
    pub fn ask(&mut self, question: u64) -> bool {
        let may = self.leads() && self.raw.raft.commit_to_current_term();
        if may {
            self.raw.read_index(question.to_be_bytes().to_vec());
        }
        may
    }

    /// Begins to tick again. A leader tells everyone that it leads.
    pub fn wake(&mut self) {
        self.raw.raft.election_elapsed = 0;
        self.raw.ping();
    }

    /// The leader is gone: asks for votes soon, and grants them. The voters that are left take
    /// turns, in another order in each group, so that they do not stand in each other's way.
    pub fn hasten(&mut self) {
        if self.leads() {
            return;
        }
        let (gone, me) = (self.raw.raft.leader_id, self.name.disk);
        let left: Vec<u64> =
            self.config().voters.iter().copied().filter(|disk| *disk != gone).collect();
        let mine = left.iter().position(|disk| *disk == me).unwrap_or(0);
        let first = usize::try_from(self.name.group).unwrap_or(0) % left.len().max(1);
        let turn = (mine + left.len() - first) % left.len().max(1);
        self.raw.raft.leader_id = 0;
        let wait = (1 + turn * TURN_TICKS).min(ELECTION_TICKS);
        let elapsed = self.raw.raft.randomized_election_timeout().saturating_sub(wait);
        self.raw.raft.election_elapsed = elapsed;
    }

    /// Who sleeps holds no lease: a voter whose log is as good may be voted for.
    pub fn forgo_lease(&mut self, message: &Message) {
        let (Kind::Vote { index, log_term, .. }, false) = (&message.kind, self.leads()) else {
            return;
        };
        let known = self.config().voters.contains(&message.from)
            || self.config().outgoing.contains(&message.from);
        if known && self.raw.raft.raft_log.is_up_to_date(*index, *log_term) {
            self.raw.raft.leader_id = 0;
        }
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
        if self.snapshots.is_empty() {
            self.raw.store().withdraw();
        }
    }

    /// A member is busy taking a snapshot.
    pub fn takes_snapshot(&mut self, disk: u64) {
        if let Some(ticks) = self.snapshots.get_mut(&disk) {
            *ticks = 0;
        }
    }

    /// The state that a member was offered is not to be had any more: it is offered another.
    pub fn withdraw(&mut self, disk: u64) {
        self.raw.store().withdraw();
        if self.snapshots.remove(&disk).is_some() {
            self.raw.report_snapshot(disk, SnapshotStatus::Failure);
        }
    }

    /// Replaces the crate's random timeout, whether or not it has just drawn one.
    fn draw_timeout(&mut self) {
        let name = self.name;
        let parts = [name.chance, name.group, name.disk, self.raw.raft.term, self.attempts];
        let drawn = draw(b"election timeout", &parts) % ELECTION_TICKS as u64;
        let drawn = usize::try_from(drawn).expect("below a few dozen");
        self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + drawn);
    }

    /// Follows nobody of this term any more: its leader has to be elected anew, and asks what is
    /// here.
    pub fn refuse(&mut self) {
        let term = self.term() + 1;
        self.raw.raft.become_follower(term, 0);
    }

    /// The last entry given out: all up to there is committed.
    pub fn reached(&self) -> At {
        let term = self.raw.raft.raft_log.term(self.given).unwrap_or(0);
        At { index: self.given, term }
    }

    /// Whether a log that is committed up to there has all that could be committed of this one.
    pub fn is_behind(&self, at: At) -> bool {
        self.last() <= (at.term, at.index)
    }

    /// Term and index of the last entry.
    fn last(&self) -> (u64, u64) {
        (self.raw.raft.raft_log.last_term(), self.end())
    }

    /// The state that is offered to members that lack the log's beginning.
    pub fn offered(&self) -> Option<At> {
        self.raw.store().offered().map(|(index, term)| At { index, term })
    }

    /// Does what the crate asks for, until it asks for nothing more.
    pub fn drain(&mut self, step: u64, writes: &mut Vec<Write>) -> Drained {
        let mut out = Drained::default();
        self.draw_timeout();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            say(ready.take_messages(), &mut out);
            if !ready.snapshot().is_empty() {
                let snapshot = Snapshot::from_raft(ready.snapshot());
                self.raw.mut_store().begin_after(&snapshot, writes);
                self.given = snapshot.index;
                (out.installed, out.enrolled) = (Some(snapshot.index), true);
            }
            self.enrol(ready.take_committed_entries(), writes, &mut out);
            self.raw.mut_store().append(step, ready.entries(), writes);
            say(ready.take_persisted_messages(), &mut out);
            let answered = ready.take_read_states().into_iter();
            let numbered =
                |state: raft::ReadState| Some((question(&state.request_ctx)?, state.index));
            out.readable.extend(answered.filter_map(numbered));
            let mut light = self.raw.advance(ready);
            say(light.take_messages(), &mut out);
            self.enrol(light.take_committed_entries(), writes, &mut out);
            self.raw.advance_apply();
            self.draw_timeout();
        }
        let hard = self.raw.raft.hard_state();
        self.raw.mut_store().keep(&hard, writes);
        out
    }

    /// Takes the changes of members among committed entries.
    fn enrol(&mut self, entries: Vec<RaftEntry>, writes: &mut Vec<Write>, out: &mut Drained) {
        for entry in entries {
            let known = entry.index <= self.raw.store().roster().index;
            if known || entry.get_entry_type() == EntryType::EntryNormal {
                continue;
            }
            let Some(change) = Change::decode(&entry.context) else { continue };
            // A change that does not fit is refused by every member alike.
            let Ok(state) = self.raw.apply_conf_change(&change.to_raft()) else { continue };
            let mut roster = self.raw.store().roster().clone();
            (roster.index, roster.config) = (entry.index, Config::from_raft(&state));
            if let Change::Learner(id, node) = change {
                roster.peers.insert(id, node);
            }
            let config = &roster.config;
            roster.peers.retain(|id, _| config.contains(*id));
            self.raw.mut_store().enrol(roster, writes);
            out.enrolled = true;
        }
        // A leader that is no member could neither go on nor be told so: the crate forgets its
        // own progress, and panics when it looks for it.
        if out.enrolled && self.leads() && !self.config().contains(self.name.disk) {
            say(std::mem::take(&mut self.raw.raft.msgs), out);
            let term = self.term();
            self.raw.raft.become_follower(term, 0);
        }
    }

    /// The next committed entries, as many as about so many bytes; none if all were given out. An
    /// error: the log cannot be read.
    pub fn give(&mut self, bytes: u64) -> Result<Vec<Entry>, Unreadable> {
        let (from, until) = (self.given + 1, self.committed() + 1);
        if from >= until {
            return Ok(Vec::new());
        }
        let entries = self.raw.store().range(from, until, bytes).ok_or(Unreadable)?;
        self.given += entries.len() as u64;
        Ok(entries.into_iter().map(given).collect())
    }

    /// The state machine has applied all up to an index, and that is durable.
    pub fn applied(&mut self, index: u64) {
        let index = index.min(self.given);
        self.raw.mut_store().applied(index);
    }

    /// Drops the log up to an index, which the state machine has durably applied.
    pub fn compact(&mut self, index: u64, writes: &mut Vec<Write>) {
        self.raw.mut_store().compact(index, writes);
    }

    /// What steps up to this one wrote is durable.
    pub fn flushed(&mut self, step: u64) {
        self.raw.mut_store().flushed(step);
    }

    /// Lets go of memory, as far as the log is durable.
    pub fn shrink(&mut self) {
        self.raw.mut_store().shrink(ASLEEP_BYTES);
        self.raw.raft.maybe_free_inflight_buffers();
    }

    /// How far the state at an index has been taken: the cursor to go on from.
    pub fn staged(&self, at: At) -> Option<Bytes> {
        let staged = self.raw.store().staged()?;
        (staged.index == at.index && staged.term == at.term).then(|| staged.after.clone())
    }

    /// Keeps how far the state at an index has been taken, or that none is.
    pub fn stage(&mut self, staged: Option<(At, Bytes)>, writes: &mut Vec<Write>) {
        let staged = staged.map(|(At { index, term }, after)| Staged { index, term, after });
        self.raw.mut_store().stage(staged, writes);
    }

    /// Deletes the log, of a group that this disk is no member of any more. What it has promised
    /// stays on the disk, and with a member that knows nothing else.
    pub fn leave(mut self, writes: &mut Vec<Write>) -> Member {
        let disk = self.raw.store().disk();
        let none = Tail::new(disk, self.name.group);
        let log = std::mem::replace(self.raw.mut_store(), none);
        Member::open(self.name, log.leave(writes))
    }
}

fn say(messages: Vec<RaftMessage>, out: &mut Drained) {
    out.messages.extend(messages.iter().filter_map(Message::from_raft));
}

fn given(entry: RaftEntry) -> Entry {
    let command = entry.get_entry_type() == EntryType::EntryNormal;
    let bytes = if command { entry.data } else { Bytes::new() };
    Entry { term: entry.term, index: entry.index, bytes }
}

/// The log on disk cannot be read where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a committed entry of the log cannot be read")]
pub struct Unreadable;
