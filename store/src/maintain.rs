//! Housekeeping between steps: checkpoints, eviction, trimming the log. Bounded work a call.
//!
//! Invariants:
//! 1. (R7) The log is trimmed only where a checkpoint holds every operation, and every replica
//!    has it or the hard bound is passed; while an entity is damaged, the bound does not count.
//! 2. Only what is clean and durable is evicted.

use bytes::Bytes;

use crate::committer::{log_key, log_position, unpack};
use crate::dot::Dot;
use crate::engine::Engine;
use crate::log::{Entry, RETIRED};
use crate::mutant::Mutant;
use crate::name::EntityKey;
use crate::operation::Operation;
use crate::record::{self, RecordKind};
use crate::shard::{Dirty, ShardId};

/// Entities looked at for eviction in one call.
const EVICT_SCAN: usize = 512;
/// Log records looked at for trimming in one call.
const TRIM_RECORDS: usize = 256;
/// Bytes appended between looks at the log's head; a quarter of the soft bound if that is less.
const TRIM_EVERY: u64 = 1 << 20;

impl Engine {
    /// Stages what is due. `everywhere` tells whether every replica is known to have a dot.
    pub fn maintain(&mut self, everywhere: impl Fn(ShardId, Dot) -> bool) {
        self.checkpoint_oldest();
        self.evict();
        self.sweep_discarded();
        self.sweep_left();
        if self.is_trim_due() {
            let often = TRIM_EVERY.min(self.options.log_soft_bytes / 4);
            let more = self.trim(everywhere);
            self.trim_at = self.log.appended + if more { 0 } else { often };
        }
    }

    /// Whether the next [`Engine::maintain`] looks at the log's head.
    pub fn is_trim_due(&self) -> bool {
        self.log.appended >= self.trim_at
    }

    /// Shards take turns, so that one call writes one shard.
    fn checkpoint_oldest(&mut self) {
        let unsaved = self.shards.iter().filter_map(|(id, shard)| Some((shard.unsaved?, *id)));
        let Some(((_, appended), id)) = unsaved.min() else { return };
        let crowded = self.hot_bytes > self.options.cache_bytes && self.hot_is_dirty();
        if crowded || self.log.appended - appended > self.options.checkpoint_bytes {
            self.checkpoint(id);
        }
    }

    /// Whether most of what is hot waits for a checkpoint.
    fn hot_is_dirty(&self) -> bool {
        let dirty: usize = self.shards.values().map(|shard| shard.dirty.len()).sum();
        let hot: usize = self.shards.values().map(|shard| shard.hot.len()).sum();
        dirty * 2 > hot
    }

    /// The clock algorithm over all shards: what was not used since the last pass goes.
    fn evict(&mut self) {
        let durable = self.durable_commits();
        let mut looked = 0;
        while self.hot_bytes > self.options.cache_bytes && looked < EVICT_SCAN {
            let (id, after) = self.hand.clone();
            let Some(shard) = self.shards.get_mut(&id) else {
                if !self.next_shard(id) {
                    return;
                }
                looked += 1;
                continue;
            };
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let next = shard.hot.range::<EntityKey, _>((from, std::ops::Bound::Unbounded)).next();
            let Some(key) = next.map(|(key, _)| key.clone()) else {
                self.next_shard(id);
                looked += 1;
                continue;
            };
            looked += 1;
            let hot = shard.hot.get_mut(&key).expect("just found");
            let idle = !std::mem::take(&mut hot.used);
            if idle && hot.dirty == Dirty::Clean && hot.clean_at <= durable {
                self.hot_bytes = self.hot_bytes.saturating_sub(hot.bytes());
                shard.hot.remove(&key);
                self.staged.evicted.push(key.clone());
            }
            self.hand = (id, Some(key));
        }
    }

    fn next_shard(&mut self, id: ShardId) -> bool {
        let after = (std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded);
        let next = self.shards.range(after).next().or(self.shards.iter().next());
        let Some((next, _)) = next else { return false };
        self.hand = (*next, None);
        true
    }

    /// A merge may stand for operations of any origin of its shard, which never were in this log:
    /// none is above what was stamped or closed since.
    fn forget_merges(&mut self, entries: &[(u64, Bytes)]) {
        for (_, entry) in entries {
            let Some(Entry::Merged { shard, .. }) = Entry::decode(entry) else { continue };
            let stamp = self.stamp();
            let vector = self.vector(shard);
            let retired = (vector.covered() > 0).then_some(RETIRED);
            for origin in vector.iter().map(|(origin, _)| origin).chain(retired) {
                let closed = self.closed.get(&origin).copied().unwrap_or_default();
                self.log.trims(origin, stamp.max(closed));
            }
        }
    }

    /// Answers whether there is more to trim at the next step.
    fn trim(&mut self, everywhere: impl Fn(ShardId, Dot) -> bool) -> bool {
        if self.log.bytes <= self.options.log_soft_bytes {
            return false;
        }
        let unsaved = self.shards.values().filter_map(|shard| Some(shard.unsaved?.0)).min();
        let unsaved = unsaved.filter(|_| !Mutant::TrimEarly.is_on());
        let saved = unsaved.unwrap_or(self.log.next());
        let end = log_key(u64::MAX);
        // What was trimmed before may still be on disk, on its way out.
        let start = log_key(self.trim_from);
        let scan = record::scan(&*self.backend, RecordKind::Log, &start, &end, TRIM_RECORDS);
        let Ok(page) = scan else { return false };
        let mut trimmed = 0;
        for window in page.windows(2) {
            let (key, body) = &window[0];
            let next = log_position(&window[1].0).unwrap_or(0);
            if next > saved || self.log.bytes <= self.options.log_soft_bytes {
                break;
            }
            let first = log_position(key).unwrap_or(0);
            let entries = body.as_ref().ok().and_then(|body| unpack(first, body).ok());
            let entries = entries.unwrap_or_default();
            // Of a damaged entity no checkpoint holds what the log does: it is needed for repair.
            let whole = self.shards.values().all(|shard| shard.quarantined.is_empty());
            let forced = whole && self.log.bytes > self.options.log_hard_bytes;
            if !forced && !entries.iter().all(|(_, entry)| has_all(entry, &everywhere)) {
                break;
            }
            let size: usize = entries.iter().map(|(_, entry)| entry.len()).sum();
            let pieces = size.div_ceil(record::BODY_MAX) as u16 + 1;
            record::remove(
                key,
                if size > record::BODY_MAX - 64 { pieces } else { 0 },
                &mut self.staged.batch.writes,
            );
            self.log.forget(&entries);
            self.forget_merges(&entries);
            self.trim_from = next;
            trimmed += 1;
        }
        if trimmed > 0 {
            self.stage_directory();
        }
        trimmed + 1 >= TRIM_RECORDS
    }
}

fn has_all(entry: &[u8], everywhere: impl Fn(ShardId, Dot) -> bool) -> bool {
    match Entry::decode(entry) {
        Some(Entry::Operation { shard, bytes }) => {
            Operation::peek(&bytes).is_ok_and(|(dot, _)| everywhere(shard, dot))
        }
        _ => true,
    }
}
