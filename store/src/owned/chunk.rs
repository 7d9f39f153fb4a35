//! A whole copy for another replica: records in bounded chunks, all of one index.
//!
//! While a transfer is under way its sender goes on applying. Whatever that overwrites in the part
//! that is not sent yet is kept in memory as it was, so that the receiver gets the copy as of the
//! index at which the transfer began. What is kept is bounded; beyond it the transfer ends, and
//! begins anew.
//!
//! Invariants:
//! 1. All chunks of a transfer are of one index; installed, they are the sender's copy, byte for
//!    byte, at that index.
//! 2. A chunk is asked for by the key that the last one ended with, and can be asked for again
//!    until a later one was.
//! 3. (R8) A record that is damaged is neither sent nor taken.
//! 4. From the first chunk until the last was committed nothing is read from the receiving copy;
//!    a restart goes on where the last committed chunk ended.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::apply::Copy;
use super::view::View;
use super::{OwnedError, Position, keys};
use crate::backend::{Backend, Write};
use crate::record::{self, RecordError};

/// Transfers under way at a time; the oldest ends where there would be one more.
const OUTGOING_MAX: usize = 4;
/// Bytes kept as they were, for one transfer.
const BEFORE_MAX: usize = 64 << 20;
/// Records fetched at a time.
const PAGE: usize = 256;

/// Keys and records as they lie on disk.
type Records = Vec<(Bytes, Bytes)>;

/// A transfer as its sender keeps it.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: u64,
    position: Position,
    /// Up to here the receiver has it.
    after: Vec<u8>,
    /// What was overwritten beyond, as it was.
    before: BTreeMap<Vec<u8>, Option<Bytes>>,
    bytes: usize,
}

/// Records of a copy, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where the sender's copy was when the transfer began.
    pub position: Position,
    /// The range starts after this key; empty: at the beginning.
    pub after: Vec<u8>,
    /// The range ends with this key; `None`: with the copy.
    pub last: Option<Vec<u8>>,
    /// The records in it, as they lie on disk.
    pub records: Vec<(Bytes, Bytes)>,
}

/// What is left of installing a chunk.
#[derive(Debug)]
pub struct Progress {
    /// To be committed.
    pub writes: Vec<Write>,
    /// Then to be passed to [`Copy::settle`].
    pub step: u64,
    /// Ask for the chunk after this key; `None`: the copy is complete.
    pub next: Option<Vec<u8>>,
}

/// A snapshot of which some chunks were installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installing {
    /// Its index.
    pub index: u64,
    /// The key that the last chunk ended with.
    pub last: Vec<u8>,
}

/// A chunk was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It does not follow the last one, or is of another transfer: ask for this one, from its
    /// beginning if the key is empty.
    #[error("the chunk does not follow the last one")]
    Order(Vec<u8>),
    /// It is of an index that this copy has passed.
    #[error("the snapshot is older than this copy")]
    Old,
    /// Its records are not a copy's, or damaged: take it from another replica.
    #[error("the chunk is malformed")]
    Malformed,
    /// The copy could not be read.
    #[error(transparent)]
    Owned(#[from] OwnedError),
}

impl Copy {
    /// Begins a transfer of the copy as it is now.
    pub fn begin_transfer(&mut self) -> Result<u64, OwnedError> {
        if self.position.installing.is_some() {
            return Err(OwnedError::Installing);
        }
        if self.outgoing.len() == OUTGOING_MAX {
            self.outgoing.remove(0);
        }
        let id = self.outgoing.last().map_or(1, |out| out.id + 1);
        let (position, before) = (self.position.clone(), BTreeMap::new());
        self.outgoing.push(Outgoing { id, position, after: Vec::new(), before, bytes: 0 });
        Ok(id)
    }

    /// Ends a transfer, done or not.
    pub fn end_transfer(&mut self, id: u64) {
        self.outgoing.retain(|out| out.id != id);
    }

    /// The chunk of a transfer after a key, of about `budget` bytes; `None`: the transfer ended.
    pub fn chunk(
        &mut self,
        id: u64,
        after: &[u8],
        budget: usize,
    ) -> Result<Option<Chunk>, OwnedError> {
        let view = View { backend: &*self.backend, staged: &self.staged };
        let start = keys::tagged(self.shard, keys::COPY + 1);
        let until = keys::tagged(self.shard, u8::MAX);
        let Some(out) = self.outgoing.iter_mut().find(|out| out.id == id) else {
            return Ok(None);
        };
        if after < &out.after[..] {
            return Ok(None);
        }
        out.pass(after);
        let mut from = [after, &[0]].concat().max(start);
        let (mut records, mut size) = (Vec::new(), 0);
        loop {
            let (page, last) = out.page(&view, &from, &until)?;
            for (key, value) in page {
                record::check(&key, &value)?;
                size += key.len() + value.len();
                records.push((key, value));
                if size >= budget {
                    let last = records.last().map(|(key, _): &(Bytes, Bytes)| key.to_vec());
                    let (position, after) = (out.position.clone(), after.to_vec());
                    return Ok(Some(Chunk { position, after, last, records }));
                }
            }
            match last {
                Some(last) => from = [&last[..], &[0]].concat(),
                None => break,
            }
        }
        let (position, after) = (out.position.clone(), after.to_vec());
        Ok(Some(Chunk { position, after, last: None, records }))
    }

    /// Keeps what these writes overwrite, for transfers that have not sent it.
    pub(super) fn save_before(&mut self, writes: &[Write]) -> Result<(), OwnedError> {
        let view = View { backend: &*self.backend, staged: &self.staged };
        for out in &mut self.outgoing {
            for (key, _) in writes {
                if *key > out.after && !out.before.contains_key(key) {
                    let value = view.get(key).map_err(RecordError::from)?;
                    out.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                    out.before.insert(key.clone(), value);
                }
            }
        }
        self.outgoing.retain(|out| out.bytes <= BEFORE_MAX);
        Ok(())
    }

    /// Takes in the next chunk of another replica's copy, in place of what is here.
    pub fn install(&mut self, chunk: &Chunk) -> Result<Progress, InstallError> {
        self.check_chunk(chunk)?;
        let from = [&chunk.after[..], &[0]].concat();
        let from = from.max(keys::tagged(self.shard, keys::COPY + 1));
        let until = match &chunk.last {
            Some(last) => [&last[..], &[0]].concat(),
            None => keys::tagged(self.shard, u8::MAX),
        };
        let mut draft = self.draft();
        draft.drop_range(from, &until)?;
        let copied = chunk.records.iter().map(|(key, value)| (key.to_vec(), Some(value.to_vec())));
        draft.writes.extend(copied);
        draft.position = match &chunk.last {
            Some(last) => {
                let installing = Installing { index: chunk.position.index, last: last.clone() };
                Position { installing: Some(installing), ..draft.position }
            }
            None => chunk.position.clone(),
        };
        let (writes, position) = draft.finish();
        self.outgoing.clear();
        let step = self.stage(&writes, position)?;
        Ok(Progress { writes, step, next: chunk.last.clone() })
    }

    fn check_chunk(&self, chunk: &Chunk) -> Result<(), InstallError> {
        let index = chunk.position.index;
        match &self.position.installing {
            _ if chunk.after.is_empty() && index < self.position.index => {
                return Err(InstallError::Old);
            }
            _ if chunk.after.is_empty() => {}
            Some(now) if (now.index, &now.last) == (index, &chunk.after) => {}
            Some(now) if now.index == index => return Err(InstallError::Order(now.last.clone())),
            _ => return Err(InstallError::Order(Vec::new())),
        }
        let start = keys::tagged(self.shard, keys::COPY + 1);
        let end = chunk.last.clone().unwrap_or(keys::tagged(self.shard, u8::MAX));
        let mut before = &chunk.after[..];
        let mut sound = chunk.position.installing.is_none() && end > chunk.after;
        for (key, value) in &chunk.records {
            sound &= key[..] > *before && key[..] >= start[..] && key[..] <= end[..];
            sound &= record::check(key, value).is_ok();
            before = key;
        }
        if sound { Ok(()) } else { Err(InstallError::Malformed) }
    }
}

impl super::apply::Draft<'_> {
    /// Deletes all records in a range.
    fn drop_range(&mut self, mut from: Vec<u8>, until: &[u8]) -> Result<(), OwnedError> {
        loop {
            let page = self.view.scan(&from, until, PAGE).map_err(RecordError::from)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = [&last[..], &[0]].concat();
            self.writes.extend(page.into_iter().map(|(key, _)| (key.to_vec(), None)));
        }
    }
}

impl Outgoing {
    /// The receiver has everything up to this key.
    fn pass(&mut self, after: &[u8]) {
        self.after = after.to_vec();
        let beyond = (Bound::Excluded(after.to_vec()), Bound::Unbounded);
        self.before = self.before.range(beyond).map(|(k, v)| (k.clone(), v.clone())).collect();
        let size = |(key, value): (&Vec<u8>, &Option<Bytes>)| {
            key.len() + value.as_ref().map_or(0, Bytes::len)
        };
        self.bytes = self.before.iter().map(size).sum();
    }

    /// Records as they were from a key on, and the last key looked at, if there may be more.
    fn page(
        &self,
        view: &View<'_>,
        from: &[u8],
        until: &[u8],
    ) -> Result<(Records, Option<Bytes>), OwnedError> {
        let found = view.scan(from, until, PAGE).map_err(RecordError::from)?;
        let last = found.last().filter(|_| found.len() == PAGE).map(|(key, _)| key.clone());
        let end = last.as_ref().map_or(Bound::Excluded(until), |key| Bound::Included(&key[..]));
        let mut page: BTreeMap<Bytes, Bytes> = found.into_iter().collect();
        for (key, value) in self.before.range::<[u8], _>((Bound::Included(from), end)) {
            match value {
                Some(value) => page.insert(Bytes::copy_from_slice(key), value.clone()),
                None => page.remove(&key[..]),
            };
        }
        Ok((page.into_iter().collect(), last))
    }
}
