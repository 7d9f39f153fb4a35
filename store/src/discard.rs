//! Giving up a shard's copy that is no longer held here.
//!
//! ```text
//! discard ── one commit: no shard record, the log counts for it from here on
//!    │
//! sweep ──── its entity records go, a bounded number a step; until then it is not taken again
//! ```
//!
//! Invariants:
//! 1. A shard without a record has no entity records but those that a sweep has not reached yet,
//!    so an interrupted sweep is found at the next start without a note of its own.
//! 2. Log entries before the discard are never replayed into a shard taken again.
//! 3. The journal before the discard is of another copy: who resumes from there starts anew.
//!
//! Left out: whether it may go, which is replication's to know.

use crate::backend::{Backend, BackendError};
use crate::checkpoint::{
    damaged_key, drop_expiry, entity_key, piece_prefix, shard_key, shard_twin_key,
};
use crate::collect::left_prefix;
use crate::engine::{Engine, StoreError};
use crate::record;
use crate::shard::ShardId;

/// Records removed in one step: a commit of some hundred kilobytes.
const SWEEP_RECORDS: usize = 1_024;

impl Engine {
    /// Gives up the copy of a shard: the next commit makes it so. Its records are swept by
    /// [`Engine::maintain`], and it is taken again only when [`Engine::is_swept`].
    pub fn discard(&mut self, id: ShardId) {
        let Some(shard) = self.shards.remove(&id) else { return };
        for (key, hot) in &shard.hot {
            self.hot_bytes = self.hot_bytes.saturating_sub(hot.bytes());
            self.staged.evicted.push(key.clone());
        }
        self.staged.changes.retain(|changed| !shard.hot.contains_key(&changed.key));
        self.discarded.insert(id, self.log.next());
        self.log.discard(id);
        let batch = &mut self.staged.batch.writes;
        record::remove(&shard_key(id), 0, batch);
        record::remove(&shard_twin_key(id), 0, batch);
        record::remove(&damaged_key(id), shard.damaged_parts.unwrap_or(0), batch);
        self.drop_expiries(id);
        self.sweeping.insert(id);
        self.swept_at = self.commits + 1;
        self.stage_discarded();
    }

    /// Whether nothing of an earlier copy is left on the disk.
    pub fn is_swept(&self, id: ShardId) -> bool {
        !self.sweeping.contains(&id)
    }

    /// Where the copy of a shard that is held now began: the journal before it is of another one.
    pub fn taken_at(&self, id: ShardId) -> u64 {
        self.discarded.get(&id).copied().unwrap_or(0)
    }

    /// The slots of shards that were discarded before, and where copies held now begin.
    pub fn discarded(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.discarded.iter().map(|(id, position)| (id.slot, *position))
    }

    fn drop_expiries(&mut self, id: ShardId) {
        let slots = self.options.slots;
        let gone = self.expiries.iter().filter(|(_, key)| key.slot(slots) == id.slot);
        for (at, key) in gone.cloned().collect::<Vec<_>>() {
            drop_expiry(at, &key, &mut self.staged.batch.writes);
            self.expiries.remove(&(at, key));
        }
    }

    /// Removes records of discarded shards, a bounded number: the next ones when these are gone.
    pub(crate) fn sweep_discarded(&mut self) {
        let Some(id) = self.sweeping.first().copied() else { return };
        if self.swept_at > self.durable_commits() {
            return;
        }
        self.swept_at = self.commits + 1;
        match left_of(&*self.backend, id, SWEEP_RECORDS) {
            Ok(left) if left.is_empty() => drop(self.sweeping.remove(&id)),
            Ok(left) => self.staged.batch.writes.extend(left.into_iter().map(|key| (key, None))),
            Err(error) => tracing::warn!(shard = %id, %error, "sweeping goes on later"),
        }
    }

    /// Finds the sweeps that the last run did not end.
    pub(crate) fn find_unswept(&mut self) -> Result<(), StoreError> {
        for slot in 0..self.options.slots {
            let id = ShardId { placement: 0, slot };
            if !self.shards.contains_key(&id) && !left_of(&*self.backend, id, 1)?.is_empty() {
                self.sweeping.insert(id);
            }
        }
        Ok(())
    }
}

/// Keys of records on the disk that belong to a shard's entities.
fn left_of(backend: &dyn Backend, id: ShardId, limit: usize) -> Result<Vec<Vec<u8>>, BackendError> {
    for start in [entity_key(id, &[]), piece_prefix(id), left_prefix(id)] {
        let end = [&start[..], &[0xFF]].concat();
        let page = backend.scan(&start, &end, limit)?;
        if !page.is_empty() {
            return Ok(page.into_iter().map(|(key, _)| key.to_vec()).collect());
        }
    }
    Ok(Vec::new())
}
