//! The log of a group of owners: its end in memory, all of it on disk, its state elsewhere.
//!
//! ```text
//! q group h          hard state: term u64 · vote u64 · commit u64 · floor: term, index
//! q group s          where the log begins: index, term of the entry before its first
//! q group c          members: the index that they were applied at, who, the nodes of disks
//! q group i          state that is being taken: index, term, how far
//! q group e index    entry
//! ```
//!
//! Group and index are eight bytes, big-endian; bodies are postcard, in records of kind `Raft`.
//!
//! Invariants:
//! 1. Entries follow the beginning without a gap. Those from some index on are in memory too.
//! 2. An entry leaves memory only once it is durable: see [`Tail::flushed`].
//! 3. A change in memory comes with the writes that make it durable.
//! 4. A damaged or gapped log is unknown, not shorter: it does not load.
//! 5. The floor is how far the log went when this disk left the group; it outlives the log, as
//!    term and vote do. Who lags behind it gets no vote here: with the log, it would not either.
//!
//! Left out: the state. A snapshot here is an index, a term and the members.

mod storage;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, HardState};
use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;
use atoll_store::backend::{Backend, Write};
use atoll_store::record::{self, Damage, Damaged, RecordError, RecordKind};

use super::log::{decode, encode, pieces};
use super::wire::{Config, Entry, Snapshot};

/// Entries read from disk at a time.
const PAGE: usize = 64;
/// Bytes of durable entries that stay in memory: what followers are sent in normal times.
const KEPT_BYTES: usize = 256 << 10;
/// What an entry takes beside its bytes.
const ENTRY_BYTES: usize = 96;

/// Who is in a group, since which index, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roster {
    pub(super) index: u64,
    pub(super) config: Config,
    pub(super) peers: BTreeMap<u64, NodeId>,
}

impl Roster {
    pub(super) fn encode(&self) -> Bytes {
        encode(self).into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Roster> {
        postcard::from_bytes(bytes).ok()
    }
}

pub(super) struct Tail {
    group: u64,
    disk: Arc<dyn Backend>,
    /// Index and term of what is before the first entry.
    base: (u64, u64),
    /// The last entries, each with the number of its pieces on disk.
    entries: VecDeque<(RaftEntry, u16)>,
    bytes: usize,
    end: u64,
    /// Up to where the log is known to be durable, and what is on its way there: by step.
    durable: u64,
    underway: VecDeque<(u64, u64)>,
    hard: HardState,
    /// Term and index.
    floor: (u64, u64),
    roster: Roster,
    /// How far the state machine is, and the snapshot that is being taken from it.
    state: u64,
    offered: Cell<Option<(u64, u64)>>,
    /// The snapshot that is being taken from another, and how far that has come.
    staged: Option<Staged>,
}

/// How far another's state has been taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    pub(super) index: u64,
    pub(super) term: u64,
    /// The cursor after what is staged.
    pub(super) after: Bytes,
}

fn key(group: u64, tag: u8) -> Vec<u8> {
    [&b"q"[..], &group.to_be_bytes(), &[tag]].concat()
}

fn entry_key(group: u64, index: u64) -> Vec<u8> {
    [key(group, b'e'), index.to_be_bytes().to_vec()].concat()
}

fn cost(entry: &RaftEntry) -> usize {
    entry.data.len() + entry.context.len() + ENTRY_BYTES
}

/// The groups of which a disk has something.
pub(super) fn groups(disk: &dyn Backend) -> Result<Vec<u64>, RecordError> {
    let (mut found, mut from) = (Vec::new(), key(0, 0));
    while let Some((at, _)) = disk.scan(&from, b"r", 1)?.pop() {
        let number = at.get(1..9).and_then(|bytes| bytes.try_into().ok());
        let Some(group) = number.map(u64::from_be_bytes) else { break };
        found.push(group);
        let Some(next) = group.checked_add(1) else { break };
        from = key(next, 0);
    }
    Ok(found)
}

impl Tail {
    /// An empty log.
    pub(super) fn new(disk: Arc<dyn Backend>, group: u64) -> Tail {
        Tail {
            group,
            disk,
            base: (0, 0),
            entries: VecDeque::new(),
            bytes: 0,
            end: 0,
            durable: 0,
            underway: VecDeque::new(),
            hard: HardState::default(),
            floor: (0, 0),
            roster: Roster::default(),
            state: 0,
            offered: Cell::new(None),
            staged: None,
        }
    }

    /// The log on disk, of a state machine that has applied all up to an index.
    pub(super) fn load(
        disk: Arc<dyn Backend>,
        group: u64,
        state: u64,
    ) -> Result<Tail, RecordError> {
        let mut log = Tail::new(disk.clone(), group);
        let read = |tag| {
            let at = key(group, tag);
            Ok::<_, RecordError>(record::read(&*disk, &at, RecordKind::Raft)?.map(|(b, _)| (at, b)))
        };
        if let Some((at, body)) = read(b's')? {
            log.base = decode(&at, &body)?;
        }
        if let Some((at, body)) = read(b'c')? {
            log.roster = decode(&at, &body)?;
        }
        if let Some((at, body)) = read(b'i')? {
            log.staged = Some(decode(&at, &body)?);
        }
        log.end = log.base.0;
        log.load_entries()?;
        log.durable = log.end;
        if let Some((at, body)) = read(b'h')? {
            let hard;
            (hard, log.floor) = decode(&at, &body)?;
            (log.hard.term, log.hard.vote, log.hard.commit) = hard;
        }
        // A log begins at 1, before which there is nothing to apply; without one there is nothing.
        log.state = match log.base.0 {
            0 => 0,
            1 => state.max(1),
            _ => state,
        };
        let (commit, at) = (log.hard.commit, key(group, b'h'));
        let sound = log.base.0 <= log.state && log.state <= commit && commit <= log.end;
        match sound {
            true => Ok(log),
            false => Err(Damaged { key: at.into(), why: Damage::Body }.into()),
        }
    }

    fn load_entries(&mut self) -> Result<(), RecordError> {
        let (mut from, until) = (entry_key(self.group, self.base.0 + 1), key(self.group, b'f'));
        loop {
            let page = record::scan(&*self.disk, RecordKind::Raft, &from, &until, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = [last, &[0][..]].concat();
            for (at, body) in page {
                let body = body?;
                let entry: Entry = decode(&at, &body)?;
                if entry.index != self.end + 1 {
                    return Err(Damaged { key: at, why: Damage::Body }.into());
                }
                self.push(entry.into_raft(), pieces(body.len()));
                self.durable = self.end;
            }
            self.shrink(KEPT_BYTES);
        }
    }

    fn push(&mut self, entry: RaftEntry, pieces: u16) {
        (self.end, self.bytes) = (entry.index, self.bytes + cost(&entry));
        self.entries.push_back((entry, pieces));
    }

    /// Lets go of the oldest entries in memory that are durable.
    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some((entry, _)) = self.entries.front()
            && entry.index <= self.durable
        {
            self.bytes -= cost(entry);
            self.entries.pop_front();
        }
    }

    /// What steps up to this one wrote is durable.
    pub(super) fn flushed(&mut self, step: u64) {
        while let Some((of, end)) = self.underway.front().copied()
            && of <= step
        {
            self.durable = self.durable.max(end);
            self.underway.pop_front();
        }
        self.shrink(KEPT_BYTES);
    }

    /// Where it is read from.
    pub(super) fn disk(&self) -> Arc<dyn Backend> {
        self.disk.clone()
    }

    pub(super) fn hard(&self) -> &HardState {
        &self.hard
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(super) fn base(&self) -> u64 {
        self.base.0
    }

    /// Term and index of the end of the log that this disk had when it left the group.
    pub(super) fn floor(&self) -> (u64, u64) {
        self.floor
    }

    /// How far the state machine is.
    pub(super) fn state(&self) -> u64 {
        self.state
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first index in memory, or the one after the last.
    fn held(&self) -> u64 {
        self.entries.front().map_or(self.end + 1, |(entry, _)| entry.index)
    }

    fn place(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.held())?).ok()
    }

    fn read_one(&self, index: u64) -> Option<RaftEntry> {
        let at = entry_key(self.group, index);
        let (body, _) = record::read(&*self.disk, &at, RecordKind::Raft).ok()??;
        let entry: Entry = decode(&at, &body).ok()?;
        (entry.index == index).then(|| entry.into_raft())
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.end {
            return None;
        }
        match self.place(index) {
            Some(place) => self.entries.get(place).map(|(entry, _)| entry.term),
            None => self.read_one(index).map(|entry| entry.term),
        }
    }

    /// Entries from an index up to before another, at least one if there is one, and no more than
    /// about so many bytes. `None`: not in the log, or not to be read.
    pub(super) fn range(&self, from: u64, until: u64, bytes: u64) -> Option<Vec<RaftEntry>> {
        if from <= self.base.0 || until > self.end + 1 {
            return None;
        }
        let (mut found, mut sum) = (Vec::new(), 0u64);
        for index in from..until {
            let entry = match self.place(index) {
                Some(place) => self.entries.get(place)?.0.clone(),
                None => self.read_one(index)?,
            };
            sum += cost(&entry) as u64;
            if !found.is_empty() && sum > bytes {
                break;
            }
            found.push(entry);
        }
        Some(found)
    }

    /// Deletes what is on disk between two keys.
    fn erase(&self, from: &[u8], until: &[u8], writes: &mut Vec<Write>) {
        let mut from = from.to_vec();
        // What cannot be read is left behind: it is before the log's beginning, or overwritten.
        while let Ok(page) = self.disk.scan(&from, until, PAGE)
            && let Some((last, _)) = page.last()
        {
            from = [last, &[0][..]].concat();
            writes.extend(page.into_iter().map(|(key, _)| (key.to_vec(), None)));
        }
    }

    /// Deletes entries from an index up to before another.
    fn delete(&mut self, from: u64, until: u64, writes: &mut Vec<Write>) {
        let (held, end) = (self.held(), self.end);
        if from < held {
            let last = entry_key(self.group, until.min(held));
            self.erase(&entry_key(self.group, from), &last, writes);
        }
        let kept = |entry: &RaftEntry| entry.index < from || entry.index >= until;
        for (gone, pieces) in self.entries.iter().filter(|(entry, _)| !kept(entry)) {
            record::remove(&entry_key(self.group, gone.index), *pieces, writes);
        }
        self.entries.retain(|(entry, _)| kept(entry));
        self.bytes = self.entries.iter().map(|(entry, _)| cost(entry)).sum();
        if until > end && from <= end {
            self.end = from - 1;
            self.durable = self.durable.min(self.end);
            self.underway.iter_mut().for_each(|(_, end)| *end = (*end).min(from - 1));
        }
    }

    /// Appends entries, in place of those that they contradict.
    pub(super) fn append(&mut self, step: u64, entries: &[RaftEntry], writes: &mut Vec<Write>) {
        let Some(first) = entries.first() else { return };
        if first.index <= self.end {
            self.delete(first.index, u64::MAX, writes);
        }
        for entry in entries {
            let body = encode(&Entry::from_raft(entry));
            let at = entry_key(self.group, entry.index);
            let pieces = record::encode(RecordKind::Raft, &at, &body, writes, 0);
            self.push(entry.clone(), pieces);
        }
        self.underway.push_back((step, self.end));
    }

    /// Keeps term, vote and commit index, if they changed.
    pub(super) fn keep(&mut self, hard: &HardState, writes: &mut Vec<Write>) {
        if *hard != self.hard {
            self.hard = hard.clone();
            self.put_hard(writes);
        }
    }

    fn put_hard(&self, writes: &mut Vec<Write>) {
        let hard = (self.hard.term, self.hard.vote, self.hard.commit);
        let body = encode(&(hard, self.floor));
        record::encode(RecordKind::Raft, &key(self.group, b'h'), &body, writes, 0);
    }

    /// Keeps who is in the group.
    pub(super) fn enrol(&mut self, roster: Roster, writes: &mut Vec<Write>) {
        self.roster = roster;
        let body = encode(&self.roster);
        record::encode(RecordKind::Raft, &key(self.group, b'c'), &body, writes, 0);
    }

    fn put_base(&self, writes: &mut Vec<Write>) {
        let body = encode(&self.base);
        record::encode(RecordKind::Raft, &key(self.group, b's'), &body, writes, 0);
    }

    /// The state machine has applied all up to an index.
    pub(super) fn applied(&mut self, index: u64) {
        self.state = self.state.max(index);
    }

    /// Begins after an index that the state machine has durably applied.
    pub(super) fn compact(&mut self, index: u64, writes: &mut Vec<Write>) {
        let index = index.min(self.state).min(self.end);
        let Some(term) = self.term_at(index).filter(|_| index > self.base.0) else { return };
        self.delete(self.base.0 + 1, index + 1, writes);
        self.base = (index, term);
        self.put_base(writes);
    }

    /// Begins anew after a snapshot that the state machine has taken.
    pub(super) fn begin_after(&mut self, snapshot: &Snapshot, writes: &mut Vec<Write>) {
        self.delete(self.base.0 + 1, u64::MAX, writes);
        self.base = (snapshot.index, snapshot.term);
        (self.end, self.state) = (snapshot.index, snapshot.index);
        self.durable = self.durable.min(self.end);
        self.underway.clear();
        self.offered.set(None);
        self.stage(None, writes);
        self.put_base(writes);
        if let Some(roster) = Roster::decode(&snapshot.data) {
            self.enrol(roster, writes);
        }
    }

    /// How far another's state has been taken.
    pub(super) fn staged(&self) -> Option<&Staged> {
        self.staged.as_ref()
    }

    /// Keeps how far another's state has been taken.
    pub(super) fn stage(&mut self, staged: Option<Staged>, writes: &mut Vec<Write>) {
        let at = key(self.group, b'i');
        match &staged {
            Some(staged) => {
                record::encode(RecordKind::Raft, &at, &encode(staged), writes, 0);
            }
            None if self.staged.is_some() => writes.push((at, None)),
            None => {}
        }
        self.staged = staged;
    }

    /// Deletes the log, but for what the disk has promised.
    pub(super) fn leave(mut self, writes: &mut Vec<Write>) -> Tail {
        let end = (self.term_at(self.end).unwrap_or(self.hard.term), self.end);
        let floor = self.floor.max(end);
        self.delete(self.base.0 + 1, u64::MAX, writes);
        self.stage(None, writes);
        writes.push((key(self.group, b's'), None));
        writes.push((key(self.group, b'c'), None));
        let mut left = Tail::new(self.disk, self.group);
        (left.hard, left.floor) = (self.hard, floor);
        left.hard.commit = 0;
        left.put_hard(writes);
        left
    }

    /// The snapshot that somebody is being sent.
    pub(super) fn offered(&self) -> Option<(u64, u64)> {
        self.offered.get().filter(|(index, _)| *index >= self.base.0)
    }

    /// Nobody is being sent a snapshot any more.
    pub(super) fn withdraw(&self) {
        self.offered.set(None);
    }
}

/// Deletes all records of a group, unread.
pub(super) fn forget(
    disk: &dyn Backend,
    group: u64,
    writes: &mut Vec<Write>,
) -> Result<(), RecordError> {
    // It may still be on its way to the disk.
    writes.push((key(group, b'h'), None));
    let (mut from, until) = (key(group, 0), key(group, u8::MAX));
    loop {
        let page = disk.scan(&from, &until, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = [last, &[0][..]].concat();
        writes.extend(page.into_iter().map(|(key, _)| (key.to_vec(), None)));
    }
}
