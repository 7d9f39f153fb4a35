//! States instead of operations: chunks of a shard (R3). Repair of single entities is in `repair`.
//!
//! Invariants:
//! 1. A chunk is a key range with the vector of its own read. What is merged becomes visible
//!    with the batch that holds all of it and the shard's record: readers keep the old image.
//! 2. The shard's vector rises to the first chunk's; an entity of a later one keeps its own
//!    context until the vector has caught up.
//! 3. A damaged entity is never read here: it is unknown, not absent.
//!
//! Left out: staging on disk. A transfer in the making is held in memory, one shard at a time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::checkpoint::entity_key;
use crate::dot::{Hlc, Origin, VersionVector};
use crate::engine::{Changed, Engine, Quarantined};
use crate::entity::{Entity, Item, ItemKey};
use crate::log::{Entry, RETIRED};
use crate::mutant::Mutant;
use crate::name::EntityKey;
use crate::record::{self, RecordKind};
use crate::shard::ShardId;

/// Keys looked at in one step of a scan.
pub(crate) const PAGE: usize = 256;

/// A run of an entity's items, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The entity.
    pub key: EntityKey,
    /// Its own context, if it is ahead of the chunk's vector.
    pub ahead: Option<VersionVector>,
    /// Items.
    pub items: Vec<Item>,
    /// Its next items follow in the next chunk.
    pub more: bool,
}

impl State {
    /// A whole entity.
    pub fn whole(key: EntityKey, entity: &Entity) -> State {
        let ahead = entity.ahead().map(|context| (**context).clone());
        State { key, ahead, items: entity.items(None, None).collect(), more: false }
    }

    /// The entity, of a whole state.
    pub fn into_entity(self) -> (EntityKey, Entity) {
        let mut entity = Entity::from_items(self.items);
        entity.set_ahead(self.ahead.map(Arc::new));
        (self.key, entity)
    }
}

/// A range of a shard's keys, read at one vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The vector of the read.
    pub vector: VersionVector,
    /// The range starts after this key.
    pub after: Option<EntityKey>,
    /// The range ends with this key; `None`: with the shard.
    pub until: Option<EntityKey>,
    /// The entities in it.
    pub states: Vec<State>,
    /// The highest stamp that its sender had applied to the shard.
    pub stamp: Hlc,
}

/// A transfer as its sender keeps it.
#[derive(Debug)]
pub struct Outgoing {
    shard: ShardId,
    after: Option<EntityKey>,
    split: Option<(EntityKey, Entity, ItemKey, VersionVector)>,
    done: bool,
}

impl Outgoing {
    /// A transfer of a shard from its first key.
    pub fn new(shard: ShardId) -> Outgoing {
        Outgoing { shard, after: None, split: None, done: false }
    }

    /// Whether the last chunk was read.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// A transfer as its receiver gathers it.
#[derive(Debug, Default)]
pub struct Incoming {
    chunks: Vec<Chunk>,
}

impl Incoming {
    /// Takes in the next chunk; answers whether it was the last.
    pub fn push(&mut self, chunk: Chunk) -> bool {
        let split = chunk.states.last().is_some_and(|state| state.more);
        let last = chunk.until.is_none() && !split;
        let continues = self.chunks.last_mut().and_then(|chunk| chunk.states.last_mut());
        let mut chunk = chunk;
        if let Some(state) = continues.filter(|state| state.more)
            && chunk.states.first().is_some_and(|next| next.key == state.key)
        {
            let next = chunk.states.remove(0);
            state.items.extend(next.items);
            state.more = next.more;
        }
        // A chunk that only continued an entity adds no range; kept, it would part the next one
        // from its beginning.
        if !(chunk.states.is_empty() && chunk.after.is_some() && chunk.after == chunk.until) {
            self.chunks.push(chunk);
        }
        last
    }
}

impl Engine {
    /// The next chunk of a transfer, of about `budget` bytes.
    pub fn chunk(&mut self, out: &mut Outgoing, budget: usize) -> Result<Chunk, Quarantined> {
        let stamp = self.shards.get(&out.shard).map(|shard| shard.stamp).unwrap_or_default();
        if let Some((key, entity, from, vector)) = out.split.take() {
            let state = self.split(out, key, entity, Some(from), &vector, budget);
            let after = out.after.clone();
            let until = after.clone();
            return Ok(Chunk { vector, until, after, states: vec![state], stamp });
        }
        let vector = self.vector(out.shard);
        let after = out.after.clone();
        let (mut states, mut size) = (Vec::new(), 0);
        while size < budget {
            let Some(key) = self.keys_after(out.shard, out.after.as_ref(), 1)?.pop() else {
                out.done = true;
                break;
            };
            let entity = self.entity_in(out.shard, &key)?.clone();
            out.after = Some(key.clone());
            let state = self.split(out, key, entity, None, &vector, budget);
            size += 64 + 48 * state.items.len();
            states.push(state);
            if out.split.is_some() {
                break;
            }
        }
        let until = if out.done { None } else { out.after.clone() };
        Ok(Chunk { vector, after, until, states, stamp })
    }

    /// As much of an entity as the budget allows; the rest is remembered.
    fn split(
        &self,
        out: &mut Outgoing,
        key: EntityKey,
        entity: Entity,
        from: Option<ItemKey>,
        vector: &VersionVector,
        budget: usize,
    ) -> State {
        let ahead = entity.ahead().map(|context| (**context).clone());
        let (mut items, mut size, mut rest) = (Vec::new(), 0, None);
        for item in entity.items(from.as_ref(), None) {
            if size >= budget {
                rest = Some(item.key());
                break;
            }
            size += postcard::to_stdvec(&item).map_or(0, |bytes| bytes.len());
            items.push(item);
        }
        let more = rest.is_some();
        out.split = rest.map(|rest| (key.clone(), entity, rest, vector.clone()));
        State { key, ahead, items, more }
    }

    pub(crate) fn entity_in(
        &mut self,
        shard: ShardId,
        key: &EntityKey,
    ) -> Result<&Entity, Quarantined> {
        self.hot(shard, key).map(|hot| &hot.entity)
    }

    /// Up to `limit` keys of a shard after `after`: hot ones and those on disk.
    pub(crate) fn keys_after(
        &self,
        id: ShardId,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<EntityKey>, Quarantined> {
        let bytes = after.map(EntityKey::bytes).unwrap_or_default();
        let mut start = entity_key(id, &bytes);
        if after.is_some() {
            start.push(0);
        }
        let end = [entity_key(id, &[]), vec![0xFF]].concat();
        let disk = record::scan(&*self.backend, RecordKind::Entity, &start, &end, limit);
        let disk = disk.map_err(|_| Quarantined)?;
        let disk = disk.iter().filter_map(|(key, _)| EntityKey::from_bytes(key.get(7..)?));
        let mut keys: Vec<EntityKey> = disk.collect();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        if let Some(shard) = self.shards.get(&id) {
            let hot = shard.hot.range::<EntityKey, _>((from, std::ops::Bound::Unbounded));
            keys.extend(hot.take(limit).map(|(key, _)| key.clone()));
        }
        keys.sort();
        keys.dedup();
        keys.truncate(limit);
        Ok(keys)
    }

    /// This copy's keys in a chunk's range.
    fn keys_of(&self, id: ShardId, chunk: &Chunk) -> Result<Vec<EntityKey>, Quarantined> {
        let within = |key: &EntityKey| chunk.until.as_ref().is_none_or(|until| key <= until);
        let mut keys = Vec::new();
        let mut after = chunk.after.clone();
        loop {
            let page = self.keys_after(id, after.as_ref(), PAGE)?;
            let Some(last) = page.last().cloned() else { return Ok(keys) };
            keys.extend(page.into_iter().filter(within));
            if !within(&last) {
                return Ok(keys);
            }
            after = Some(last);
        }
    }

    /// Merges a whole transfer, visible at once with the batch that this stages (R3).
    ///
    /// A damaged entity stays as unknown as it was, and holds up nothing (R8). An error changes
    /// nothing.
    pub fn switch(&mut self, id: ShardId, incoming: Incoming) -> Result<(), Quarantined> {
        let before = self.vector(id);
        let chunks = &incoming.chunks;
        let covered = if Mutant::ChunkVector.is_on() { chunks.last() } else { chunks.first() };
        let Some(rise) = covered.map(|chunk| chunk.vector.clone()) else { return Ok(()) };
        let stamp = chunks.iter().map(|chunk| chunk.stamp).max().unwrap_or_default();
        let mut risen = before.clone();
        risen.join(&rise);
        // All that can fail comes before the first merge: half a transfer is no state.
        let keys: Result<Vec<_>, _> =
            incoming.chunks.iter().map(|chunk| self.keys_of(id, chunk)).collect();
        let shard = self.shards.entry(id).or_default();
        shard.stamp = shard.stamp.max(stamp);
        let mut changed = Vec::new();
        for (chunk, keys) in incoming.chunks.into_iter().zip(keys?) {
            changed.extend(self.merge_chunk(id, chunk, keys, &before, &risen));
        }
        let shard = self.shards.entry(id).or_default();
        shard.vector = risen;
        shard.catch_up();
        // Operations that it stands for never were in this log: a delete leaves nothing to see.
        let origins: Vec<Origin> = rise.iter().map(|(origin, _)| origin).collect();
        let retired = (rise.covered() > 0).then_some(RETIRED);
        origins.into_iter().chain(retired).for_each(|origin| self.log.trims(origin, stamp));
        self.stage_directory();
        self.show_merged(id, changed);
        Ok(())
    }

    fn merge_chunk(
        &mut self,
        id: ShardId,
        chunk: Chunk,
        keys: Vec<EntityKey>,
        before: &VersionVector,
        risen: &VersionVector,
    ) -> Vec<EntityKey> {
        let mut theirs: std::collections::BTreeMap<EntityKey, Entity> =
            chunk.states.into_iter().map(State::into_entity).collect();
        for key in keys {
            theirs.entry(key).or_default();
        }
        let (mut changed, retired) = (Vec::new(), self.retirements());
        for (key, other) in theirs {
            let vector = other.context(&chunk.vector).into_owned();
            let merge = |entity: &mut Entity| {
                entity.merge(before, &other, &chunk.vector, &retired);
                entity.advance(before, &vector);
                let caught_up = entity.ahead().is_some_and(|context| risen.contains(context));
                if caught_up {
                    entity.set_ahead(None);
                }
            };
            let stamp = stamp_of(&other);
            // A damaged entity stays unknown. To stop here would leave what was merged before it
            // without the vector that it was merged under.
            if self.alter(id, &key, merge).unwrap_or(false) {
                changed.push(key);
            }
            let shard = self.shards.entry(id).or_default();
            shard.stamp = shard.stamp.max(stamp);
        }
        changed
    }

    /// Changes an entity outside the log; answers whether what it shows changed.
    pub(crate) fn alter(
        &mut self,
        id: ShardId,
        key: &EntityKey,
        change: impl FnOnce(&mut Entity),
    ) -> Result<bool, Quarantined> {
        let (folding, stamp) = (self.folding(id), self.shards.get(&id).map(|shard| shard.stamp));
        let hot = self.hot(id, key)?;
        let (old, bytes, expiry) = (hot.entity.clone(), hot.bytes(), hot.entity.expires_at());
        change(&mut hot.entity);
        hot.tidy_merged(stamp.unwrap_or_default(), &folding);
        if hot.entity == old {
            return Ok(false);
        }
        hot.mark(None);
        let (sum, grown, until) = (hot.entity.sum(), hot.bytes(), hot.entity.expires_at());
        let ahead = hot.entity.ahead().cloned();
        self.hot_bytes = self.hot_bytes + grown - bytes;
        self.watch_expiry(key, expiry, until);
        let shard = self.shards.entry(id).or_default();
        shard.account(key, old.sum(), sum);
        shard.dirty.insert(key.clone());
        shard.note_ahead(key, ahead.as_deref());
        Ok(sum != old.sum())
    }

    /// Journals merged entities, and stages the checkpoint that makes the merge durable.
    pub(crate) fn show_merged(&mut self, id: ShardId, keys: Vec<EntityKey>) {
        let (position, entry) = self.log.append(&Entry::Merged { shard: id, keys: keys.clone() });
        self.staged.batch.log.push((position, entry));
        for key in keys {
            if let Ok(image) = self.image(&key) {
                self.staged.changes.push(Changed { position, key, image, origin: None });
            }
        }
        self.checkpoint(id);
    }
}

/// The highest stamp in an entity's values: the clock must pass it.
fn stamp_of(entity: &Entity) -> crate::dot::Hlc {
    entity.stamps().max().unwrap_or_default()
}
