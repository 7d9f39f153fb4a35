//! One shard's copy in memory: its vector, its digest, and the entities that are hot.
//!
//! Invariants:
//! 1. The vector is the causal context of every entity that is not `ahead`.
//! 2. `digest` is the sum of the hashes of (key, sum) of all its entities, hot or not.
//! 3. An entity that is not hot is on disk, current and durable; a dirty one is hot.
//!
//! Left out: order and gaps of operations (the engine checks them), bytes on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dot::{Hlc, Millis, VersionVector};
use crate::entity::{Entity, ItemKey};
use crate::name::EntityKey;
use crate::retire::Settled;

/// Names a shard: a placement and a hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// The placement; 0 is the default one.
    pub placement: u32,
    /// The hash slot.
    pub slot: u16,
}

impl ShardId {
    /// Six bytes whose order is the order of ids.
    pub fn bytes(self) -> [u8; 6] {
        let mut out = [0; 6];
        out[..4].copy_from_slice(&self.placement.to_be_bytes());
        out[4..].copy_from_slice(&self.slot.to_be_bytes());
        out
    }

    /// Reads what [`ShardId::bytes`] wrote.
    pub fn from_bytes(bytes: [u8; 6]) -> ShardId {
        let [a, b, c, d, e, f] = bytes;
        let placement = u32::from_be_bytes([a, b, c, d]);
        ShardId { placement, slot: u16::from_be_bytes([e, f]) }
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.placement, self.slot)
    }
}

/// What differs from the records on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dirty {
    Clean,
    Pieces(BTreeSet<usize>),
    All,
}

/// A run of items stored as one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its first item when it was written; the run goes to the next piece's first.
    pub(crate) first: ItemKey,
    /// Its number in its entity.
    pub(crate) id: u32,
    /// Records that hold it, beyond the first.
    pub(crate) parts: u16,
}

/// An entity in memory, and what of it is on disk.
#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) entity: Entity,
    pub(crate) dirty: Dirty,
    /// Pieces on disk; empty while all of it fits the head record.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) next_piece: u32,
    /// Records that hold the head beyond the first; `None` if there is no head on disk.
    pub(crate) head_parts: Option<u16>,
    /// The sum that the head on disk holds.
    pub(crate) recorded_sum: u128,
    /// The moment under which the expiry index on disk lists it.
    pub(crate) indexed: Option<Millis>,
    /// The stamp under which the list of what deletes left holds it.
    pub(crate) listed: Option<Hlc>,
    /// What closed while it was present, with when: to be collected once that has settled.
    pub(crate) closed: VecDeque<(Hlc, ItemKey)>,
    /// How much was foldable when it was last looked at.
    pub(crate) folded: u32,
    /// The commit that made it clean.
    pub(crate) clean_at: u64,
    /// Touched since the eviction hand passed.
    pub(crate) used: bool,
}

impl Hot {
    pub(crate) fn absent() -> Hot {
        Hot {
            entity: Entity::default(),
            dirty: Dirty::Clean,
            pieces: Vec::new(),
            next_piece: 0,
            head_parts: None,
            recorded_sum: 0,
            indexed: None,
            listed: None,
            closed: VecDeque::new(),
            folded: 0,
            clean_at: 0,
            used: true,
        }
    }

    /// Marks what a change touched; `None` means any item.
    pub(crate) fn mark(&mut self, touched: Option<Vec<ItemKey>>) {
        self.used = true;
        let Some(touched) = touched.filter(|_| !self.pieces.is_empty()) else {
            self.dirty = Dirty::All;
            return;
        };
        let places = touched
            .iter()
            .map(|key| self.pieces.partition_point(|piece| piece.first <= *key).saturating_sub(1));
        match &mut self.dirty {
            Dirty::All => {}
            Dirty::Pieces(dirty) => dirty.extend(places),
            Dirty::Clean => self.dirty = Dirty::Pieces(places.collect()),
        }
    }

    /// Whether nothing is left of it that a record must hold.
    pub(crate) fn is_gone(&self) -> bool {
        self.entity.is_vacant() && self.entity.ahead().is_none()
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        512 + 160 * self.entity.weight() + self.entity.bytes()
    }
}

/// One shard's copy.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub(crate) vector: VersionVector,
    pub(crate) hot: BTreeMap<EntityKey, Hot>,
    pub(crate) dirty: BTreeSet<EntityKey>,
    /// Hot entities that are ahead.
    pub(crate) ahead: BTreeSet<EntityKey>,
    /// What the contexts of all entities ahead cover together, hot or not; empty once the vector
    /// has caught up.
    pub(crate) beyond: VersionVector,
    pub(crate) quarantined: BTreeSet<EntityKey>,
    /// Pieces of the record that lists these; none without a record.
    pub(crate) damaged_parts: Option<u16>,
    pub(crate) digest: u128,
    pub(crate) present: u64,
    /// The digest and number of entities as recorded on disk.
    pub(crate) recorded: (u128, u64),
    /// How many retired origins the record on disk covers.
    pub(crate) recorded_cover: u32,
    /// What had settled when this copy was last told, and was whole.
    pub(crate) settled: Settled,
    /// How many retired origins may be folded.
    pub(crate) foldable: u32,
    /// The highest stamp applied.
    pub(crate) stamp: Hlc,
    /// The log position of the first change that no checkpoint holds, and the bytes appended
    /// before it.
    pub(crate) unsaved: Option<(u64, u64)>,
}

impl Shard {
    /// Accounts for an entity whose sum went from `old` to `new`.
    pub(crate) fn account(&mut self, key: &EntityKey, old: u128, new: u128) {
        account(&mut self.digest, &mut self.present, key, old, new);
    }

    /// Accounts for a record on disk whose sum went from `old` to `new`.
    pub(crate) fn account_record(&mut self, key: &EntityKey, old: u128, new: u128) {
        account(&mut self.recorded.0, &mut self.recorded.1, key, old, new);
    }

    /// Notes whether an entity that just changed is ahead.
    pub(crate) fn note_ahead(&mut self, key: &EntityKey, context: Option<&VersionVector>) {
        match context {
            Some(context) => {
                self.beyond.join(context);
                self.ahead.insert(key.clone());
            }
            None => drop(self.ahead.remove(key)),
        }
    }

    /// Drops the own contexts once the vector has caught up with all of them: until then nothing
    /// compares anyway, and a look at each would cost every operation. Records keep theirs, which
    /// says nothing any more: it is dropped when they are loaded.
    pub(crate) fn catch_up(&mut self) {
        if self.beyond.is_empty() || !self.vector.contains(&self.beyond) {
            return;
        }
        self.beyond = VersionVector::default();
        for key in std::mem::take(&mut self.ahead) {
            if let Some(hot) = self.hot.get_mut(&key) {
                hot.entity.set_ahead(None);
            }
        }
    }
}

fn account(digest: &mut u128, present: &mut u64, key: &EntityKey, old: u128, new: u128) {
    *digest = digest.wrapping_sub(entity_hash(key, old)).wrapping_add(entity_hash(key, new));
    *present = *present + u64::from(new != 0) - u64::from(old != 0);
}

/// An entity's share of its shard's digest; 0 if it is absent.
pub fn entity_hash(key: &EntityKey, sum: u128) -> u128 {
    if sum == 0 {
        return 0;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.bytes()).update(&[0]).update(&sum.to_be_bytes());
    u128::from_be_bytes(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes"))
}
