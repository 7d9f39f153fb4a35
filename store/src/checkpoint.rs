//! Records of entities and shards: how a checkpoint is written and read.
//!
//! Keys, all big-endian: `s` shard, and `t` its copy; `d` shard, for what is damaged in it;
//! `e` shard, entity; `p` shard, entity, 0, piece number; `x` time, entity (the expiry index);
//! `g` shard, stamp, entity (what deletes left); `m` for what concerns the directory; `n` name, for
//! notes.
//!
//! Invariants:
//! 1. (R7) One batch holds all dirty entities of a shard and the shard's record, which names the
//!    vector that they cover: records of a shard are of one moment.
//! 2. A change rewrites the head and the pieces it touched, not the entity.
//! 3. (R8) Records that do not add up to the sum in their head are damaged.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Write};
use crate::dot::{Hlc, Millis, VersionVector};
use crate::engine::Engine;
use crate::entity::{Entity, Item, ItemKey};
use crate::name::EntityKey;
use crate::record::{self, RecordError, RecordKind};
use crate::shard::{Dirty, Hot, Piece, Shard, ShardId};

/// A piece is closed when it has this many bytes, so that most fit one record of 32 KiB.
const PIECE_BYTES: usize = 24 << 10;

/// A shard's record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    pub(crate) vector: VersionVector,
    pub(crate) digest: u128,
    pub(crate) present: u64,
    pub(crate) stamp: Hlc,
    pub(crate) beyond: VersionVector,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    sum: u128,
    ahead: Option<VersionVector>,
    expires_at: Option<Millis>,
    next_piece: u32,
    pieces: Vec<(ItemKey, u32)>,
    items: Vec<Item>,
    listed: Option<Hlc>,
}

/// Why an entity could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A record is damaged or cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The records are sound each, and do not add up.
    #[error("records of {0} do not add up to their sum")]
    Sum(String),
}

pub(crate) fn shard_key(id: ShardId) -> Vec<u8> {
    [&b"s"[..], &id.bytes()].concat()
}

/// The second copy: nothing else names the vector that all records of the shard are at.
pub(crate) fn shard_twin_key(id: ShardId) -> Vec<u8> {
    [&b"t"[..], &id.bytes()].concat()
}

pub(crate) fn damaged_key(id: ShardId) -> Vec<u8> {
    [&b"d"[..], &id.bytes()].concat()
}

pub(crate) fn entity_key(id: ShardId, key: &[u8]) -> Vec<u8> {
    [&b"e"[..], &id.bytes(), key].concat()
}

fn piece_key(id: ShardId, key: &EntityKey, piece: u32) -> Vec<u8> {
    [&b"p"[..], &id.bytes(), &key.bytes(), &[0], &piece.to_be_bytes()].concat()
}

pub(crate) fn piece_prefix(id: ShardId) -> Vec<u8> {
    [&b"p"[..], &id.bytes()].concat()
}

/// Stages the end of an entry of the expiry index.
pub(crate) fn drop_expiry(at: Millis, key: &EntityKey, batch: &mut Vec<Write>) {
    record::remove(&index_key(at, key), 0, batch);
}

fn index_key(at: Millis, key: &EntityKey) -> Vec<u8> {
    [&b"x"[..], &at.to_be_bytes(), &key.bytes()].concat()
}

/// The entities that the index lists, with when they expire.
pub(crate) fn indexed(backend: &dyn Backend) -> Result<Vec<(Millis, EntityKey)>, LoadError> {
    let mut found = Vec::new();
    let mut from = b"x".to_vec();
    loop {
        let page = record::scan(backend, RecordKind::Index, &from, b"y", 1000)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        from = [last, &[0][..]].concat();
        for (key, _) in page {
            let rest = key.get(1..).unwrap_or_default();
            if let Some((at, key)) = rest.split_first_chunk::<8>()
                && let Some(key) = EntityKey::from_bytes(key)
            {
                found.push((u64::from_be_bytes(*at), key));
            }
        }
    }
}

/// Reads an entity from its records; an absent one is empty.
pub(crate) fn load(backend: &dyn Backend, id: ShardId, key: &EntityKey) -> Result<Hot, LoadError> {
    let damaged = |key: &[u8]| {
        LoadError::Record(
            record::Damaged { key: key.to_vec().into(), why: record::Damage::Body }.into(),
        )
    };
    let head_key = entity_key(id, &key.bytes());
    let Some((body, parts)) = record::read(backend, &head_key, RecordKind::Entity)? else {
        return Ok(Hot::absent());
    };
    let head: Head = postcard::from_bytes(&body).map_err(|_| damaged(&head_key))?;
    let mut entity = Entity::from_items(head.items);
    let mut pieces = Vec::with_capacity(head.pieces.len());
    for (first, number) in head.pieces {
        let at = piece_key(id, key, number);
        let found = record::read(backend, &at, RecordKind::Entity)?;
        let (body, parts) = found.ok_or_else(|| damaged(&at))?;
        let items: Vec<Item> = postcard::from_bytes(&body).map_err(|_| damaged(&at))?;
        items.into_iter().for_each(|item| entity.restore(item));
        pieces.push(Piece { first, id: number, parts });
    }
    if entity.sum() != head.sum {
        return Err(LoadError::Sum(key.to_string()));
    }
    entity.set_ahead(head.ahead.map(std::sync::Arc::new));
    Ok(Hot {
        dirty: Dirty::Clean,
        pieces,
        next_piece: head.next_piece,
        head_parts: Some(parts),
        recorded_sum: head.sum,
        indexed: head.expires_at,
        listed: head.listed,
        entity,
        ..Hot::absent()
    })
}

/// The sum and expiry in an entity's head record, for lists that need no value.
pub(crate) fn summary(body: &[u8]) -> Option<(u128, Option<Millis>)> {
    let head: (u128, Option<VersionVector>, Option<Millis>) =
        postcard::take_from_bytes(body).ok()?.0;
    Some((head.0, head.2))
}

impl Hot {
    /// Writes what is dirty, and is clean; nothing in it is later than `stamp`.
    pub(crate) fn save(
        &mut self,
        id: ShardId,
        key: &EntityKey,
        stamp: Hlc,
        batch: &mut Vec<Write>,
    ) {
        self.save_expiry(key, batch);
        self.save_listed(id, key, stamp, batch);
        if self.is_gone() {
            self.remove(id, key, batch);
        } else {
            self.save_pieces(id, key, batch);
            self.save_head(id, key, batch);
        }
        self.recorded_sum = self.entity.sum();
        self.dirty = Dirty::Clean;
    }

    fn save_expiry(&mut self, key: &EntityKey, batch: &mut Vec<Write>) {
        let expires_at = self.entity.expires_at();
        if self.indexed != expires_at {
            if let Some(at) = self.indexed {
                record::remove(&index_key(at, key), 0, batch);
            }
            if let Some(at) = expires_at {
                record::encode(RecordKind::Index, &index_key(at, key), &[], batch, 0);
            }
            self.indexed = expires_at;
        }
    }

    fn remove(&mut self, id: ShardId, key: &EntityKey, batch: &mut Vec<Write>) {
        for piece in self.pieces.drain(..) {
            record::remove(&piece_key(id, key, piece.id), piece.parts, batch);
        }
        if let Some(parts) = self.head_parts.take() {
            record::remove(&entity_key(id, &key.bytes()), parts, batch);
        }
    }

    fn save_pieces(&mut self, id: ShardId, key: &EntityKey, batch: &mut Vec<Write>) {
        match std::mem::replace(&mut self.dirty, Dirty::Clean) {
            Dirty::Clean => {}
            Dirty::All => {
                let mut runs = runs(self.entity.items(None, None));
                for piece in std::mem::take(&mut self.pieces) {
                    record::remove(&piece_key(id, key, piece.id), piece.parts, batch);
                }
                if runs.len() > 1 {
                    self.pieces =
                        runs.drain(..).map(|run| self.piece(id, key, run, batch)).collect();
                }
            }
            Dirty::Pieces(dirty) => {
                for place in dirty.into_iter().rev() {
                    self.save_piece(place, id, key, batch);
                }
            }
        }
    }

    /// Rewrites one piece, which may become none or several.
    fn save_piece(&mut self, place: usize, id: ShardId, key: &EntityKey, batch: &mut Vec<Write>) {
        let from = (place > 0).then(|| self.pieces[place].first.clone());
        let until = self.pieces.get(place + 1).map(|piece| piece.first.clone());
        let runs = runs(self.entity.items(from.as_ref(), until.as_ref()));
        let old = self.pieces[place].clone();
        record::remove(&piece_key(id, key, old.id), old.parts, batch);
        let fresh: Vec<Piece> =
            runs.into_iter().map(|run| self.piece(id, key, run, batch)).collect();
        self.pieces.splice(place..=place, fresh);
    }

    fn piece(
        &mut self,
        id: ShardId,
        key: &EntityKey,
        run: Vec<Item>,
        batch: &mut Vec<Write>,
    ) -> Piece {
        let number = self.next_piece;
        self.next_piece += 1;
        let body = postcard::to_stdvec(&run).expect("items encode to memory");
        let at = piece_key(id, key, number);
        let parts = record::encode(RecordKind::Entity, &at, &body, batch, 0);
        Piece { first: run[0].key(), id: number, parts }
    }

    fn save_head(&mut self, id: ShardId, key: &EntityKey, batch: &mut Vec<Write>) {
        let inline = self.pieces.is_empty();
        let head = Head {
            sum: self.entity.sum(),
            ahead: self.entity.ahead().map(|context| (**context).clone()),
            expires_at: self.indexed,
            next_piece: self.next_piece,
            pieces: self.pieces.iter().map(|piece| (piece.first.clone(), piece.id)).collect(),
            items: if inline { self.entity.items(None, None).collect() } else { Vec::new() },
            listed: self.listed,
        };
        let body = postcard::to_stdvec(&head).expect("a head encodes to memory");
        let at = entity_key(id, &key.bytes());
        let before = self.head_parts.unwrap_or(0);
        self.head_parts = Some(record::encode(RecordKind::Entity, &at, &body, batch, before));
    }
}

/// Splits items into runs of about [`PIECE_BYTES`].
fn runs(items: impl Iterator<Item = Item>) -> Vec<Vec<Item>> {
    let mut runs: Vec<Vec<Item>> = Vec::new();
    let mut size = PIECE_BYTES;
    for item in items {
        if size >= PIECE_BYTES {
            runs.push(Vec::new());
            size = 0;
        }
        size += size_of_item(&item);
        runs.last_mut().expect("one was pushed").push(item);
    }
    runs
}

impl Shard {
    /// Stages which entities are damaged, as they have no share in the digest that a record names:
    /// the next start must know it before it tells a digest.
    fn list_damaged(&mut self, id: ShardId, batch: &mut Vec<Write>) {
        if !self.quarantined.is_empty() {
            let body = postcard::to_stdvec(&self.quarantined).expect("names encode to memory");
            let key = damaged_key(id);
            let before = self.damaged_parts.unwrap_or(0);
            let parts = record::encode(RecordKind::Shard, &key, &body, batch, before);
            self.damaged_parts = Some(parts);
        } else if let Some(parts) = self.damaged_parts.take() {
            record::remove(&damaged_key(id), parts, batch);
        }
    }

    /// Reads what the last checkpoint listed. A list that is damaged itself is an empty one: the
    /// digest is wrong then, and a comparison of sums finds what is damaged.
    pub(crate) fn read_damaged(
        &mut self,
        backend: &dyn Backend,
        id: ShardId,
    ) -> Result<(), RecordError> {
        let (body, parts) = match record::read(backend, &damaged_key(id), RecordKind::Shard) {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
            Err(RecordError::Damaged(damaged)) => {
                tracing::error!(shard = %id, %damaged, "the list of what is damaged is lost");
                // The next checkpoint replaces or removes it.
                self.damaged_parts = Some(0);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.quarantined = postcard::from_bytes(&body).unwrap_or_else(|error| {
            tracing::error!(shard = %id, %error, "the list of what is damaged is of no known form");
            BTreeSet::new()
        });
        self.damaged_parts = Some(parts);
        Ok(())
    }
}

impl Engine {
    /// Stages a checkpoint of a shard: all that is dirty, and its record (R7).
    pub(crate) fn checkpoint(&mut self, id: ShardId) {
        let commit = self.commits + 1;
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let batch = &mut self.staged.batch.writes;
        for key in std::mem::take(&mut shard.dirty) {
            let Some(hot) = shard.hot.get_mut(&key) else { continue };
            let before = hot.recorded_sum;
            hot.save(id, &key, shard.stamp, batch);
            hot.clean_at = commit;
            let after = hot.recorded_sum;
            shard.account_record(&key, before, after);
        }
        let (digest, present) = shard.recorded;
        let (vector, beyond) = (shard.vector.clone(), shard.beyond.clone());
        let shard_record = ShardRecord { vector, digest, present, stamp: shard.stamp, beyond };
        let body = postcard::to_stdvec(&shard_record).expect("a shard record encodes to memory");
        record::encode(RecordKind::Shard, &shard_key(id), &body, batch, 0);
        record::encode(RecordKind::Shard, &shard_twin_key(id), &body, batch, 0);
        shard.list_damaged(id, batch);
        shard.unsaved = None;
        shard.recorded_cover = shard.vector.covered();
    }

    /// Stages a checkpoint of every shard that changed: the end of a clean run.
    pub fn checkpoint_all(&mut self) {
        let changed = |(id, shard): (&ShardId, &crate::shard::Shard)| shard.unsaved.map(|_| *id);
        let ids: Vec<ShardId> = self.shards.iter().filter_map(changed).collect();
        ids.into_iter().for_each(|id| self.checkpoint(id));
    }
}

/// About how many bytes an item takes on disk.
fn size_of_item(item: &Item) -> usize {
    postcard::experimental::serialized_size(item).expect("an item has a size")
}
