//! Opening a store: shard records, then the log from where each shard's checkpoint ends (R7).
//!
//! Invariants:
//! 1. After it, the state is that of every durable log entry, in order.
//! 2. Operations behind a damaged log record are not applied: their shard's vector stops before
//!    the gap, and peers send them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::checkpoint::{self, LoadError, ShardRecord};
use crate::collect::Sweep;
use crate::committer::{log_key, log_position, unpack};
use crate::dot::{Dot, Hlc, Origin};
use crate::engine::{Changed, Engine, Options, Quarantined, Readiness, Staged, StoreError};
use crate::log::{Entry, Log};
use crate::operation::Operation;
use crate::record::{self, Damage, Damaged, RecordError, RecordKind};
use crate::retire::{Roll, Settled};
use crate::shard::{Shard, ShardId};

const DIRECTORY_KEY: &[u8] = b"m";
const CLOSED_KEY: &[u8] = b"mc";
const DISCARDED_KEY: &[u8] = b"md";

/// Starts remembered: a cursor of an older one is foreign.
const STARTS_KEPT: usize = 64;
/// An origin that no start ever has: it stands for all.
const NOBODY: Origin = Origin(0);
/// Facts about origins read at a start.
const FACTS_KEPT: usize = 100_000;

/// What concerns the whole directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Directory {
    pub(crate) slots: u16,
    pub(crate) starts: Vec<(Origin, u64)>,
    pub(crate) trimmed: BTreeMap<Origin, Hlc>,
}

impl Engine {
    /// Opens a store for a new start, whose origin was just drawn.
    ///
    /// The start is staged: commit what [`Engine::take`] gives before anything else.
    pub fn open(
        backend: Arc<dyn Backend>,
        options: Options,
        origin: Origin,
    ) -> Result<Engine, StoreError> {
        let directory = read_directory(&*backend)?.unwrap_or_default();
        if directory.slots != 0 && directory.slots != options.slots {
            return Err(StoreError::Slots { found: directory.slots, asked: options.slots });
        }
        let mut engine = Engine {
            shards: read_shards(&*backend)?,
            log: Log::new(directory.trimmed),
            backend,
            options,
            staged: Staged::default(),
            commits: 0,
            durable: Arc::new(AtomicU64::new(0)),
            hot_bytes: 0,
            hand: (ShardId { placement: 0, slot: 0 }, None),
            expiries: BTreeSet::new(),
            starts: directory.starts,
            trim_at: 0,
            trim_from: 0,
            forget_before: Hlc::default(),
            sweep: Sweep::default(),
            facts: Vec::new(),
            closed: BTreeMap::new(),
            discarded: BTreeMap::new(),
            sweeping: BTreeSet::new(),
            swept_at: 0,
            roll: Roll::default(),
            settled: Settled::default(),
        };
        engine.read_roll()?;
        engine.expiries =
            checkpoint::indexed(&*engine.backend).map_err(index_error)?.into_iter().collect();
        engine.facts = read_facts(&*engine.backend)?;
        engine.closed = read_closed(&*engine.backend)?;
        engine.discarded = read_discarded(&*engine.backend)?;
        engine.find_unswept()?;
        engine.replay_log()?;
        engine.cover_replayed();
        engine.show_replayed();
        engine.starts.push((origin, engine.log.next()));
        let excess = engine.starts.len().saturating_sub(STARTS_KEPT);
        engine.starts.drain(..excess);
        engine.stage_directory();
        Ok(engine)
    }

    pub(crate) fn stage_directory(&mut self) {
        let directory = Directory {
            slots: self.options.slots,
            starts: self.starts.clone(),
            trimmed: self.log.trimmed.clone(),
        };
        let body = postcard::to_stdvec(&directory).expect("a directory record encodes to memory");
        let batch = &mut self.staged.batch.writes;
        record::encode(RecordKind::Meta, DIRECTORY_KEY, &body, batch, 0);
    }

    pub(crate) fn stage_closed(&mut self) {
        let body = postcard::to_stdvec(&self.closed).expect("clocks encode to memory");
        record::encode(RecordKind::Meta, CLOSED_KEY, &body, &mut self.staged.batch.writes, 0);
    }

    pub(crate) fn stage_discarded(&mut self) {
        let body = postcard::to_stdvec(&self.discarded).expect("positions encode to memory");
        record::encode(RecordKind::Meta, DISCARDED_KEY, &body, &mut self.staged.batch.writes, 0);
    }

    fn replay_log(&mut self) -> Result<(), StoreError> {
        let end = log_key(u64::MAX);
        let mut from = log_key(0);
        let backend = self.backend.clone();
        loop {
            let page = record::scan(&*backend, RecordKind::Log, &from, &end, 64)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = [last, &[0][..]].concat();
            for (key, body) in page {
                let Some(first) = log_position(&key) else { continue };
                let entries = body.and_then(|body| unpack(first, &body));
                match entries {
                    Ok(entries) => entries.iter().for_each(|(at, entry)| self.redo(*at, entry)),
                    Err(damaged) => tracing::error!(%damaged, "log record lost; peers are asked"),
                }
                self.log.set_next(self.log.next().max(first + 1));
            }
        }
    }

    /// What was replayed is on disk only as log: readers need its image.
    fn show_replayed(&mut self) {
        let position = self.log.next().saturating_sub(1);
        let replayed = self.shards.values().flat_map(|shard| shard.dirty.iter().cloned());
        for key in replayed.collect::<Vec<_>>() {
            if let Ok(image) = self.image(&key) {
                self.staged.changes.push(Changed { position, key, image, origin: None });
            }
        }
    }

    fn redo(&mut self, position: u64, bytes: &bytes::Bytes) {
        self.log.bytes += bytes.len() as u64;
        self.log.appended += bytes.len() as u64;
        self.log.set_next(position + 1);
        let Some(Entry::Operation { shard, bytes }) = Entry::decode(bytes) else { return };
        if position < self.taken_at(shard) || !self.is_swept(shard) {
            return;
        }
        let Ok(operation) = Operation::decode(&bytes) else { return };
        if operation.folded().is_some() {
            // It was ready where what was retired by then was covered.
            self.cover(shard);
        }
        match self.readiness(shard, &operation) {
            Readiness::Seen => self.log.index(shard, operation.dot, position),
            Readiness::Ready => {
                self.log.index(shard, operation.dot, position);
                self.replay(shard, &operation, position, false);
            }
            Readiness::Waits(_) if self.was_ready(shard, &operation) => {
                self.log.index(shard, operation.dot, position);
                self.replay(shard, &operation, position, false);
            }
            Readiness::Waits(_) => {
                tracing::warn!(%shard, dot = ?operation.dot, "behind a damaged log record");
            }
        }
    }

    /// Whether this node wrote an operation on entities ahead of the vector: what it names, their
    /// own contexts cover (R3).
    fn was_ready(&mut self, id: ShardId, operation: &Operation) -> bool {
        let vector = self.vector(id);
        let Dot { origin, sequence } = operation.dot;
        sequence == vector.sequence(origin) + 1
            && operation.parts.iter().all(|part| match self.entity_in(id, &part.key) {
                Ok(entity) => {
                    let context = entity.context(&vector).into_owned();
                    part.effect.named().all(|dot| context.covers(dot))
                        && part.effect.folded().is_none_or(|at| self.roll.is_covered(&context, at))
                }
                // Unknown state (R8): it is skipped, and taken from this log again on repair.
                Err(Quarantined) => true,
            })
    }
}

/// A damaged fact is told again by the peers.
fn read_facts(backend: &dyn Backend) -> Result<Vec<bytes::Bytes>, StoreError> {
    let facts = record::scan(backend, RecordKind::Fact, b"o", b"p", FACTS_KEPT)?;
    Ok(facts.into_iter().filter_map(|(_, body)| body.ok()).collect())
}

/// Lost clocks are closed again by the peers' next words.
fn read_closed(backend: &dyn Backend) -> Result<BTreeMap<Origin, Hlc>, StoreError> {
    match record::read(backend, CLOSED_KEY, RecordKind::Meta) {
        Ok(found) => {
            Ok(found.and_then(|(body, _)| postcard::from_bytes(&body).ok()).unwrap_or_default())
        }
        Err(RecordError::Damaged(_)) => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

/// Lost positions: entries of a shard given up are replayed like others, in their order, and the
/// copy is given up again.
fn read_discarded(backend: &dyn Backend) -> Result<BTreeMap<ShardId, u64>, StoreError> {
    match record::read(backend, DISCARDED_KEY, RecordKind::Meta) {
        Ok(found) => {
            Ok(found.and_then(|(body, _)| postcard::from_bytes(&body).ok()).unwrap_or_default())
        }
        Err(RecordError::Damaged(_)) => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

fn index_error(error: LoadError) -> StoreError {
    match error {
        LoadError::Record(error) => StoreError::Record(error),
        LoadError::Sum(key) => StoreError::Backend(crate::backend::BackendError::Engine(key)),
    }
}

/// The highest stamp of each origin that was trimmed from the log, as of what is on the disk: a
/// trim is written in one commit with it.
pub(crate) fn read_trimmed(backend: &dyn Backend) -> Result<BTreeMap<Origin, Hlc>, StoreError> {
    Ok(read_directory(backend)?.unwrap_or_default().trimmed)
}

fn read_directory(backend: &dyn Backend) -> Result<Option<Directory>, StoreError> {
    let key = bytes::Bytes::from_static(DIRECTORY_KEY);
    let malformed = |_| RecordError::Damaged(Damaged { key, why: Damage::Body });
    let read = record::read(backend, DIRECTORY_KEY, RecordKind::Meta).and_then(|found| {
        found.map(|(body, _)| postcard::from_bytes(&body).map_err(malformed)).transpose()
    });
    match read {
        Ok(directory) => Ok(directory),
        // Starts and trims are lost: cursors of earlier starts become foreign, and since nobody
        // knows what was trimmed, no clocks are above it.
        Err(RecordError::Damaged(damaged)) => {
            tracing::error!(%damaged, "directory record lost");
            let trimmed = BTreeMap::from([(NOBODY, Hlc(u64::MAX))]);
            Ok(Some(Directory { trimmed, ..Directory::default() }))
        }
        Err(error) => Err(error.into()),
    }
}

/// A shard's record lies twice. Without any, its entities are of no known moment: to replay the
/// log over them would count twice, so the store does not open.
fn read_shards(backend: &dyn Backend) -> Result<BTreeMap<ShardId, Shard>, StoreError> {
    let mut shards = BTreeMap::new();
    let mut from = b"s".to_vec();
    loop {
        let page = record::scan(backend, RecordKind::Shard, &from, b"t", 256)?;
        let Some((last, _)) = page.last() else { return Ok(shards) };
        from = [last, &[0][..]].concat();
        for (key, body) in page {
            let id = key.get(1..).and_then(|id| id.try_into().ok()).map(ShardId::from_bytes);
            let Some(id) = id else { continue };
            let body = match body {
                Ok(body) => body,
                Err(damaged) => {
                    tracing::error!(shard = %id, %damaged, "shard record lost; reading its copy");
                    let twin = checkpoint::shard_twin_key(id);
                    let found = record::read(backend, &twin, RecordKind::Shard)?;
                    found.ok_or(RecordError::Damaged(damaged))?.0
                }
            };
            let malformed = |_| Damaged { key: key.clone(), why: Damage::Body };
            let record: ShardRecord =
                postcard::from_bytes(&body).map_err(malformed).map_err(RecordError::Damaged)?;
            let ShardRecord { vector, digest, present, stamp, beyond } = record;
            let recorded = (digest, present);
            let recorded_cover = vector.covered();
            let known =
                Shard { vector, digest, present, recorded, stamp, beyond, ..Shard::default() };
            let mut shard = Shard { recorded_cover, ..known };
            shard.read_damaged(backend, id)?;
            shards.insert(id, shard);
        }
    }
}
