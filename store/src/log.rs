//! The log: one ordered record of changes for all shards; at once write-ahead log, operation log
//! and journal.
//!
//! Invariants:
//! 1. Positions are dense; an entry is durable before anything later is.
//! 2. The index finds every retained operation by (shard, origin, sequence).
//! 3. What was trimmed is known by the highest stamp of each origin.
//!
//! Left out: packing entries into records, which the committer does.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, BackendError};
use crate::committer::{log_key, log_position, unpack};
use crate::dot::{Dot, Hlc, Origin};
use crate::engine::StoreError;
use crate::name::EntityKey;
use crate::operation::Operation;
use crate::record::{self, RecordKind};
use crate::recover::read_trimmed;
use crate::shard::ShardId;

/// Bytes of recent entries kept in memory for peers and subscribers. Default 16 MiB: some seconds
/// of a busy node.
const RECENT_BYTES: usize = 16 << 20;

/// Stands for every origin that was retired, where stamps of what was trimmed are kept.
pub const RETIRED: Origin = Origin(u64::MAX);

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// An operation, as its author encoded it.
    Operation {
        /// Its shard.
        shard: ShardId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Entities that changed by a merge of states.
    Merged {
        /// Their shard.
        shard: ShardId,
        /// Which.
        keys: Vec<EntityKey>,
    },
}

impl Entry {
    pub(crate) fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("an entry encodes to memory").into()
    }

    /// Reads an entry; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Whether operations above the clocks may be gone from the log: read after the log, it tells
/// whether what was read is whole. `clock` tells up to where all of an origin was seen.
pub fn is_trimmed(
    backend: &dyn Backend,
    clock: impl Fn(Origin) -> Hlc,
) -> Result<bool, StoreError> {
    let trimmed = read_trimmed(backend)?;
    Ok(trimmed.iter().any(|(origin, stamp)| *stamp > clock(*origin)))
}

/// Reads the entries from `from` on, up to `limit` records' worth, out of the backend.
///
/// The first record may start before `from`: what is before is left out.
pub fn read(
    backend: &dyn Backend,
    from: u64,
    limit: usize,
) -> Result<Vec<(u64, Bytes)>, BackendError> {
    let end = log_key(u64::MAX);
    let first = backend.last(b"l", &log_key(from.saturating_add(1)))?;
    // The last record at or before `from` may be a piece of it: go back to its head.
    let start = match first {
        Some((key, _)) if key.len() >= 9 => key[..9].to_vec(),
        _ => log_key(from),
    };
    let items = match record::scan(backend, RecordKind::Log, &start, &end, limit) {
        Ok(items) => items,
        Err(record::RecordError::Backend(error)) => return Err(error),
        Err(_) => return Ok(Vec::new()),
    };
    let mut entries = Vec::new();
    for (key, body) in items {
        let (Some(first), Ok(body)) = (log_position(&key), body) else { continue };
        let Ok(unpacked) = unpack(first, &body) else { continue };
        // A damaged record is a gap, which the next read starts behind: nobody reads over it.
        if entries.last().is_some_and(|(last, _)| last + 1 != first) {
            break;
        }
        entries.extend(unpacked.into_iter().filter(|(position, _)| *position >= from));
    }
    Ok(entries)
}

/// Where the operations of one origin in one shard are: dense from `first`.
#[derive(Debug, Default)]
struct Run {
    first: u64,
    positions: VecDeque<u64>,
}

impl Run {
    fn holds(&self, sequence: u64) -> bool {
        sequence >= self.first && sequence - self.first < self.positions.len() as u64
    }
}

/// Operations asked for are no longer in the log: state must be merged instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed;

/// The log's index and tail.
#[derive(Debug)]
pub(crate) struct Log {
    next: u64,
    index: BTreeMap<(ShardId, Origin), Run>,
    recent: VecDeque<(u64, Bytes)>,
    recent_bytes: usize,
    /// Bytes retained, about.
    pub(crate) bytes: u64,
    /// Bytes ever appended by this start, for pacing checkpoints.
    pub(crate) appended: u64,
    pub(crate) trimmed: BTreeMap<Origin, Hlc>,
}

impl Log {
    pub(crate) fn new(trimmed: BTreeMap<Origin, Hlc>) -> Log {
        Log {
            next: 1,
            index: BTreeMap::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            bytes: 0,
            appended: 0,
            trimmed,
        }
    }

    /// The position of the next entry.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn set_next(&mut self, next: u64) {
        self.next = next;
    }

    /// Appends an entry; answers its position and bytes.
    pub(crate) fn append(&mut self, entry: &Entry) -> (u64, Bytes) {
        let (position, bytes) = (self.next, entry.encode());
        self.next += 1;
        self.bytes += bytes.len() as u64;
        self.appended += bytes.len() as u64;
        self.recent_bytes += bytes.len();
        self.recent.push_back((position, bytes.clone()));
        while self.recent_bytes > RECENT_BYTES {
            let Some((_, old)) = self.recent.pop_front() else { break };
            self.recent_bytes -= old.len();
        }
        (position, bytes)
    }

    /// Indexes an operation at a position.
    pub(crate) fn index(&mut self, shard: ShardId, dot: Dot, position: u64) {
        let run = self.index.entry((shard, dot.origin)).or_default();
        if run.positions.is_empty() || run.first + run.positions.len() as u64 != dot.sequence {
            run.positions.clear();
            run.first = dot.sequence;
        }
        run.positions.push_back(position);
    }

    /// Operations of several origins, each from a sequence on, up to about `budget` bytes. They
    /// come in the order of the log, so that each comes after all that it names.
    pub(crate) fn operations(
        &self,
        backend: &dyn Backend,
        shard: ShardId,
        wanted: &[(Origin, u64)],
        budget: usize,
    ) -> Result<Vec<Bytes>, Trimmed> {
        let mut runs = Vec::with_capacity(wanted.len());
        for (origin, from) in wanted {
            let run = self.index.get(&(shard, *origin)).ok_or(Trimmed)?;
            let skip = from.checked_sub(run.first).ok_or(Trimmed)?;
            runs.push(run.positions.iter().skip(skip as usize));
        }
        let mut next: BTreeMap<u64, usize> = BTreeMap::new();
        for (which, run) in runs.iter_mut().enumerate() {
            next.extend(run.next().map(|position| (*position, which)));
        }
        let mut page: Vec<(u64, Bytes)> = Vec::new();
        let (mut found, mut size) = (Vec::new(), 0);
        while let Some((position, which)) = next.pop_first().filter(|_| size < budget) {
            next.extend(runs[which].next().map(|position| (*position, which)));
            let entry = match self.recent(position) {
                Some(entry) => entry,
                None => self.read(backend, position, &mut page)?,
            };
            let Some(Entry::Operation { bytes, .. }) = Entry::decode(&entry) else {
                return Err(Trimmed);
            };
            size += bytes.len();
            found.push(bytes);
        }
        Ok(found)
    }

    /// Whether the log holds the operations of `origin` from `from` on.
    pub(crate) fn holds(&self, shard: ShardId, origin: Origin, from: u64) -> bool {
        self.index.get(&(shard, origin)).is_some_and(|run| run.holds(from))
    }

    /// Forgets the index of a shard's operations: what the log still has of them is of a copy that
    /// was given up.
    pub(crate) fn discard(&mut self, shard: ShardId) {
        self.index.retain(|(id, _), _| *id != shard);
    }

    fn recent(&self, position: u64) -> Option<Bytes> {
        let (first, _) = self.recent.front()?;
        let place = position.checked_sub(*first)?;
        self.recent.get(place as usize).map(|(_, bytes)| bytes.clone())
    }

    fn read(
        &self,
        backend: &dyn Backend,
        position: u64,
        page: &mut Vec<(u64, Bytes)>,
    ) -> Result<Bytes, Trimmed> {
        let find = |page: &[(u64, Bytes)]| {
            let place = page.binary_search_by_key(&position, |(at, _)| *at).ok()?;
            Some(page[place].1.clone())
        };
        if let Some(entry) = find(page) {
            return Ok(entry);
        }
        *page = read(backend, position, 1).map_err(|_| Trimmed)?;
        find(page).ok_or(Trimmed)
    }

    /// Operations of an origin up to a stamp may not be in this log.
    pub(crate) fn trims(&mut self, origin: Origin, stamp: Hlc) {
        let highest = self.trimmed.entry(origin).or_default();
        *highest = (*highest).max(stamp);
    }

    /// An origin was retired: nobody closes its clock any more.
    pub(crate) fn retire(&mut self, origin: Origin) {
        if let Some(stamp) = self.trimmed.remove(&origin) {
            self.trims(RETIRED, stamp);
        }
    }

    /// Forgets the entries of one record that is being trimmed.
    pub(crate) fn forget(&mut self, entries: &[(u64, Bytes)]) {
        for (position, bytes) in entries {
            self.bytes = self.bytes.saturating_sub(bytes.len() as u64);
            let Some(Entry::Operation { shard, bytes }) = Entry::decode(bytes) else { continue };
            let Ok((dot, stamp)) = Operation::peek(&bytes) else { continue };
            self.trims(dot.origin, stamp);
            if let Some(run) = self.index.get_mut(&(shard, dot.origin))
                && run.positions.front() == Some(position)
            {
                run.positions.pop_front();
                run.first += 1;
                if run.positions.is_empty() {
                    self.index.remove(&(shard, dot.origin));
                }
            }
        }
    }
}
