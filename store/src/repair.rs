//! Repair of single entities: what differs at equal vectors, and what is damaged (R8).
//!
//! Invariants:
//! 1. A damaged entity is unknown, not absent: it is replaced whole, from a peer's copy and what
//!    this log holds beyond it, or not at all.
//! 2. Where both checksums hold, a dot survives unless a logged remove names it.
//!
//! Left out: whom to ask, and when; pieces that a damaged head named stay on disk, unread, until
//! their numbers are used again.

use std::sync::Arc;

use crate::checkpoint::{entity_key, summary};
use crate::dot::{Dot, Origin, VersionVector};
use crate::engine::{Engine, Quarantined};
use crate::entity::Entity;
use crate::log::{Entry, Trimmed};
use crate::name::EntityKey;
use crate::operation::{Operation, Path};
use crate::record::{self, RecordKind};
use crate::shard::ShardId;
use crate::transfer::PAGE;

/// Records that a damaged head may have had beyond the first; all are overwritten.
const DAMAGED_PARTS: u16 = 64;

impl Engine {
    /// (key, sum) of up to `limit` present entities after `after`: to find what differs. What is
    /// met damaged is quarantined, and so replaced before the shard is compared again.
    pub fn sums(
        &mut self,
        id: ShardId,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<(Vec<(EntityKey, u128)>, bool), Quarantined> {
        let keys = self.keys_after(id, after, limit)?;
        let more = keys.len() == limit;
        let mut sums = Vec::with_capacity(keys.len());
        for key in keys {
            let hot = self.shards.get(&id).and_then(|shard| shard.hot.get(&key));
            let sum = match hot {
                Some(hot) => hot.entity.sum(),
                None => {
                    let Some(sum) = self.sum_on_disk(id, &key) else {
                        self.shards.entry(id).or_default().quarantined.insert(key);
                        return Err(Quarantined);
                    };
                    sum
                }
            };
            sums.push((key, sum));
        }
        Ok((sums, more))
    }

    /// Of `names`, those that a logged operation removed from the entity (R8). Reads the log.
    pub fn removed_by_log(&self, key: &EntityKey, names: &[(Path, Dot)]) -> Vec<(Path, Dot)> {
        let mut removed = Vec::new();
        let mut from = 1;
        while let Ok(page) = crate::log::read(&*self.backend, from, 64) {
            let Some((last, _)) = page.last() else { break };
            from = last + 1;
            for (_, entry) in &page {
                let Some(Entry::Operation { bytes, .. }) = Entry::decode(entry) else { continue };
                let Ok(operation) = Operation::decode(&bytes) else { continue };
                for part in operation.parts.iter().filter(|part| part.key == *key) {
                    let named =
                        names.iter().filter(|(path, dot)| part.effect.removes_dot(path, *dot));
                    removed.extend(named.cloned());
                }
            }
        }
        removed
    }

    /// Repairs one entity from a peer's copy at an equal vector (R8); answers whether it changed.
    pub fn repair(
        &mut self,
        id: ShardId,
        key: &EntityKey,
        other: &Entity,
        removed: &[(Path, Dot)],
    ) -> Result<bool, Quarantined> {
        let changed = self.alter(id, key, |entity| entity.repair(other, removed))?;
        if changed {
            self.show_merged(id, vec![key.clone()]);
        }
        Ok(changed)
    }

    /// Replaces a damaged entity by a peer's copy at `vector`, with what this log holds beyond it.
    ///
    /// `Trimmed`: the peer lacks operations that this log no longer holds; ask again later.
    pub fn replace(
        &mut self,
        id: ShardId,
        key: &EntityKey,
        mut entity: Entity,
        vector: &VersionVector,
    ) -> Result<(), Trimmed> {
        if !self.shards.get(&id).is_some_and(|shard| shard.quarantined.contains(key)) {
            return Ok(());
        }
        let context = entity.context(vector).into_owned();
        entity.set_ahead(Some(Arc::new(context.clone())));
        for operation in self.logged_after(id, key, &context)? {
            for part in &operation.parts {
                entity.apply(&operation, part);
            }
        }
        let own = self.vector(id);
        entity.advance(&own, &context);
        self.recount(id);
        self.shards.entry(id).or_default().quarantined.remove(key);
        let mut hot = crate::shard::Hot::absent();
        hot.head_parts = Some(DAMAGED_PARTS);
        hot.indexed = self.expiries.iter().find(|(_, of)| of == key).map(|(at, _)| *at);
        self.watch_expiry(key, hot.indexed, entity.expires_at());
        hot.entity = entity;
        hot.mark(None);
        let shard = self.shards.entry(id).or_default();
        shard.note_ahead(key, hot.entity.ahead().map(|context| &**context));
        self.hot_bytes += hot.bytes();
        shard.account(key, 0, hot.entity.sum());
        shard.hot.insert(key.clone(), hot);
        shard.dirty.insert(key.clone());
        self.show_merged(id, vec![key.clone()]);
        tracing::info!(entity = %key, "repaired from a peer");
        Ok(())
    }
}

impl Engine {
    /// What this log holds on one entity beyond `context`, in the order of the log: causes before
    /// their effects.
    fn logged_after(
        &self,
        id: ShardId,
        key: &EntityKey,
        context: &VersionVector,
    ) -> Result<Vec<Operation>, Trimmed> {
        let own = self.vector(id);
        let beyond =
            own.iter().map(|(origin, _)| (origin, context.sequence(origin).saturating_add(1)));
        let wanted: Vec<(Origin, u64)> = beyond.collect();
        let mut operations = Vec::new();
        for bytes in self.operations_of(id, &wanted, usize::MAX)? {
            let mut operation = Operation::decode(&bytes).map_err(|_| Trimmed)?;
            operation.parts.retain(|part| part.key == *key);
            operations.push(operation);
        }
        Ok(operations)
    }

    /// Sums a shard's digest anew, without what is damaged: its recorded sum is not known.
    fn recount(&mut self, id: ShardId) {
        let (mut live, mut recorded) = (Vec::new(), Vec::new());
        let mut after = None;
        while let Ok(page) = self.keys_after(id, after.as_ref(), PAGE) {
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            for key in page {
                let hot = self.shards.get(&id).and_then(|shard| shard.hot.get(&key));
                let sums = match hot {
                    Some(hot) => Some((hot.recorded_sum, hot.entity.sum())),
                    None => self.sum_on_disk(id, &key).map(|sum| (sum, sum)),
                };
                let Some((on_disk, now)) = sums else {
                    // Damaged, and seen only now: no digest may be told without it.
                    self.shards.entry(id).or_default().quarantined.insert(key);
                    continue;
                };
                recorded.push((key.clone(), on_disk));
                live.push((key, now));
            }
        }
        let shard = self.shards.entry(id).or_default();
        (shard.digest, shard.present, shard.recorded) = (0, 0, (0, 0));
        live.iter().for_each(|(key, sum)| shard.account(key, 0, *sum));
        recorded.iter().for_each(|(key, sum)| shard.account_record(key, 0, *sum));
    }

    /// The sum in an entity's head record, 0 if it is absent; none if it is damaged.
    fn sum_on_disk(&self, id: ShardId, key: &EntityKey) -> Option<u128> {
        if self.shards.get(&id).is_some_and(|shard| shard.quarantined.contains(key)) {
            return None;
        }
        let at = entity_key(id, &key.bytes());
        match record::read(&*self.backend, &at, RecordKind::Entity).ok()? {
            Some((body, _)) => summary(&body).map(|(sum, _)| sum),
            None => Some(0),
        }
    }
}
