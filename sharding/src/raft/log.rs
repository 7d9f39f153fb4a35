//! A group's log: all of it in memory between snapshots, and the writes that put it on disk.
//!
//! ```text
//! r group h          hard state: term u64 · vote u64 · commit u64
//! r group s          snapshot: index, term, members, state
//! r group e index    entry
//! ```
//!
//! Group and index are eight bytes, big-endian; bodies are postcard, in records of kind `Raft`.
//!
//! Invariants:
//! 1. Entries follow the snapshot without a gap, in memory and on disk.
//! 2. A change in memory comes with the writes that make it durable; who holds this log says
//!    nothing that depends on it before they are.
//! 3. A damaged or gapped log is unknown, not shorter: it does not load, and its owner must not
//!    speak under that disk id again.
//!
//! Left out: logs that outgrow memory. A group's owner takes a snapshot every few entries.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{Entry as RaftEntry, HardState, Snapshot as RaftSnapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use atoll_store::backend::{Backend, Write};
use atoll_store::record::{self, BODY_MAX, Damage, Damaged, RecordError, RecordKind};

use super::wire::{Entry, Snapshot};

/// Entries read from disk at a time.
const PAGE: usize = 256;

pub(super) struct Log {
    group: u64,
    snapshot: Snapshot,
    snapshot_pieces: u16,
    /// Each with the number of its pieces on disk.
    entries: VecDeque<(RaftEntry, u16)>,
    hard: HardState,
    /// Somebody needs a newer snapshot than there is.
    wanted: Cell<bool>,
}

fn key(group: u64, tag: u8) -> Vec<u8> {
    [&b"r"[..], &group.to_be_bytes(), &[tag]].concat()
}

fn entry_key(group: u64, index: u64) -> Vec<u8> {
    [key(group, b'e'), index.to_be_bytes().to_vec()].concat()
}

pub(super) fn pieces(length: usize) -> u16 {
    match length <= BODY_MAX {
        true => 0,
        false => u16::try_from(length.div_ceil(BODY_MAX)).expect("an entry is far below 2 GiB"),
    }
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a record of a log encodes to memory")
}

pub(super) fn decode<T: DeserializeOwned>(key: &[u8], body: &[u8]) -> Result<T, Damaged> {
    let damaged = |_| Damaged { key: key.to_vec().into(), why: Damage::Body };
    postcard::from_bytes(body).map_err(damaged)
}

impl Log {
    /// An empty log.
    pub(super) fn new(group: u64) -> Log {
        Log {
            group,
            snapshot: Snapshot::default(),
            snapshot_pieces: 0,
            entries: VecDeque::new(),
            hard: HardState::default(),
            wanted: Cell::new(false),
        }
    }

    /// The log on disk; an empty one if there is none.
    pub(super) fn load(backend: &dyn Backend, group: u64) -> Result<Log, RecordError> {
        let mut log = Log::new(group);
        let at = key(group, b's');
        if let Some((body, pieces)) = record::read(backend, &at, RecordKind::Raft)? {
            log.snapshot = decode(&at, &body)?;
            log.snapshot_pieces = pieces;
        }
        let mut from = entry_key(group, 0);
        loop {
            let page = record::scan(backend, RecordKind::Raft, &from, &key(group, b'f'), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            from = [last, &[0][..]].concat();
            for (at, body) in page {
                let body = body?;
                let entry: Entry = decode(&at, &body)?;
                if entry.index != log.end() + 1 {
                    return Err(Damaged { key: at, why: Damage::Body }.into());
                }
                log.entries.push_back((entry.into_raft(), pieces(body.len())));
            }
        }
        let at = key(group, b'h');
        if let Some((body, _)) = record::read(backend, &at, RecordKind::Raft)? {
            let (term, vote, commit) = decode(&at, &body)?;
            (log.hard.term, log.hard.vote, log.hard.commit) = (term, vote, commit);
        }
        let commit = log.hard.commit;
        if commit < log.snapshot.index || commit > log.end() {
            return Err(Damaged { key: at.into(), why: Damage::Body }.into());
        }
        Ok(log)
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn hard(&self) -> &HardState {
        &self.hard
    }

    /// Entries kept after the snapshot.
    pub(super) fn entries(&self) -> impl Iterator<Item = &RaftEntry> {
        self.entries.iter().map(|(entry, _)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether somebody needed a newer snapshot since the last one.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.wanted.get()
    }

    /// The last index.
    pub(super) fn end(&self) -> u64 {
        self.snapshot.index + self.entries.len() as u64
    }

    fn place(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.snapshot.index + 1)?).ok()
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        self.entries.get(self.place(index)?).map(|(entry, _)| entry.term)
    }

    /// Appends entries, in place of those that they contradict.
    pub(super) fn append(&mut self, entries: &[RaftEntry], writes: &mut Vec<Write>) {
        let Some(place) = entries.first().and_then(|first| self.place(first.index)) else { return };
        for (gone, pieces) in self.entries.drain(place.min(self.entries.len())..) {
            record::remove(&entry_key(self.group, gone.index), pieces, writes);
        }
        for entry in entries {
            let body = encode(&Entry::from_raft(entry));
            let at = entry_key(self.group, entry.index);
            let pieces = record::encode(RecordKind::Raft, &at, &body, writes, 0);
            self.entries.push_back((entry.clone(), pieces));
        }
    }

    /// Keeps term, vote and commit index, if they changed.
    pub(super) fn keep(&mut self, hard: &HardState, writes: &mut Vec<Write>) {
        if *hard != self.hard {
            self.hard = hard.clone();
            let body = encode(&(hard.term, hard.vote, hard.commit));
            record::encode(RecordKind::Raft, &key(self.group, b'h'), &body, writes, 0);
        }
    }

    /// Begins anew after a snapshot; entries that it covers, and those it contradicts, go.
    pub(super) fn begin_after(&mut self, snapshot: Snapshot, writes: &mut Vec<Write>) {
        let same = self.term_at(snapshot.index) == Some(snapshot.term);
        let covered = self.place(snapshot.index + 1).filter(|_| same);
        let gone = covered.unwrap_or(self.entries.len()).min(self.entries.len());
        for (entry, pieces) in self.entries.drain(..gone) {
            record::remove(&entry_key(self.group, entry.index), pieces, writes);
        }
        let (at, body) = (key(self.group, b's'), encode(&snapshot));
        let before = self.snapshot_pieces;
        self.snapshot_pieces = record::encode(RecordKind::Raft, &at, &body, writes, before);
        self.snapshot = snapshot;
        self.wanted.set(false);
    }

    /// Deletes all of it from the disk.
    pub(super) fn remove(self, writes: &mut Vec<Write>) {
        for (entry, pieces) in &self.entries {
            record::remove(&entry_key(self.group, entry.index), *pieces, writes);
        }
        record::remove(&key(self.group, b's'), self.snapshot_pieces, writes);
        record::remove(&key(self.group, b'h'), 0, writes);
    }
}

/// Deletes a group's log that could not be loaded.
pub(super) fn remove_damaged(
    backend: &dyn Backend,
    group: u64,
    writes: &mut Vec<Write>,
) -> Result<(), RecordError> {
    let (mut from, until) = (key(group, 0), key(group, u8::MAX));
    loop {
        let page = backend.scan(&from, &until, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = [last, &[0][..]].concat();
        writes.extend(page.into_iter().map(|(key, _)| (key.to_vec(), None)));
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.snapshot.config.to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<RaftEntry>> {
        let compacted = Error::Store(StorageError::Compacted);
        let from = self.place(low).ok_or(compacted)?;
        let count = usize::try_from(high - low).expect("a range within memory");
        let range = self.entries.iter().skip(from).take(count);
        let mut entries: Vec<_> = range.map(|(entry, _)| entry.clone()).collect();
        if entries.len() < count {
            return Err(Error::Store(StorageError::Unavailable));
        }
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = match index < self.snapshot.index {
            true => StorageError::Compacted,
            false => StorageError::Unavailable,
        };
        self.term_at(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.end())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<RaftSnapshot> {
        // Who is not named in it would refuse it.
        if self.snapshot.index >= request_index && self.snapshot.config.contains(to) {
            return Ok(self.snapshot.clone().into_raft());
        }
        self.wanted.set(true);
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
