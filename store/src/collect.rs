//! What retirement and deletes leave behind: folded and collected once settled (R4, R9, R10).
//!
//! ```text
//! a change ───── folds its entity's epochs of retired origins, collects what closed long ago
//! a checkpoint ─ lists an entity that is absent and not vacant: g shard, stamp, entity
//! a sweep ────── of those listed at a stamp that has settled, collects all; what is vacant goes
//! ```
//!
//! Invariants:
//! 1. What closed up to a clock that has settled is of no use: everything that its origin issued
//!    before it had seen the delete is here.
//! 2. A shard goes by what settled while its copy was whole: of a clock that settled before, it
//!    may lack what is stamped up to it.
//! 3. A sweep rewrites records of what is clean: their moment stays that of their shard (R7).
//!
//! Left out: what has settled, and which retries may be forgotten, which is replication's to know.

use std::collections::VecDeque;

use crate::backend::Write;
use crate::dot::{Hlc, Millis};
use crate::engine::{Engine, Quarantined};
use crate::entity::{ItemKey, RETRY_WINDOW_MS};
use crate::name::EntityKey;
use crate::operation::{FOLDED, Part};
use crate::record::{self, RecordKind};
use crate::retire::{Retired, Settled};
use crate::shard::{Dirty, Hot, ShardId};

/// Epochs up to which an entity is not looked at: to fold them would save nothing.
const FEW_EPOCHS: usize = 4;
/// Listed entities looked at in one call of [`Engine::maintain`].
const SWEEP_ENTRIES: usize = 256;
/// What is noted as closed is noted anew when it is more than twice what is, and so many.
const NOTED_SPARE: usize = 16;
/// An entity that could not go though its stamp had settled is looked at again that much later.
const AGAIN_MS: Millis = 60_000;

/// What is to be folded in one shard.
#[derive(Debug)]
pub(crate) struct Folding {
    pub(crate) retired: Retired,
    settled: Settled,
    foldable: u32,
}

/// Where the sweep of what deletes left stands.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// The shard that it is at, and the key after which it goes on; none between two passes.
    at: Option<(ShardId, Vec<u8>)>,
    /// The clock that had settled when the last pass began.
    upto: Hlc,
}

/// The key of an entity in the list of what deletes left.
fn listed_key(id: ShardId, stamp: Hlc, key: &EntityKey) -> Vec<u8> {
    [&left_prefix(id)[..], &stamp.0.to_be_bytes(), &key.bytes()].concat()
}

/// All entries of a shard in that list.
pub(crate) fn left_prefix(id: ShardId) -> Vec<u8> {
    [&b"g"[..], &id.bytes()].concat()
}

fn parse_listed(key: &[u8]) -> Option<(Hlc, EntityKey)> {
    let (stamp, key) = key.get(7..)?.split_first_chunk::<8>()?;
    Some((Hlc(u64::from_be_bytes(*stamp)), EntityKey::from_bytes(key)?))
}

impl Hot {
    /// Folds and collects what an operation's part, just applied, and time allow.
    pub(crate) fn tidy(&mut self, stamp: Hlc, part: &Part, folding: &Folding) {
        let (settled, retired) = (&folding.settled, &folding.retired);
        let mut touched = Vec::new();
        let mut paths: Vec<_> = part.effect.closes.iter().map(|(key, _)| &key.path).collect();
        paths.dedup();
        for path in &paths {
            touched.extend(self.entity.fold(Some(path), settled, retired));
        }
        touched.extend(self.fold_new(folding));
        let named = part.effect.closes.iter().filter(|(key, _)| key.origin != FOLDED);
        let named = named.map(|(key, _)| ItemKey::Epoch(key.clone()));
        let folded = paths.into_iter().map(|path| ItemKey::Folded(path.clone()));
        let closed = named.chain(folded).filter(|item| self.entity.is_closed(item));
        self.closed.extend(closed.map(|item| (stamp, item)));
        if self.closed.len() > NOTED_SPARE + 2 * self.entity.weight() {
            self.watch_closed(stamp);
        }
        while self.closed.front().is_some_and(|(at, _)| *at <= settled.clock) {
            let item = self.closed.pop_front().map(|(_, item)| item);
            touched.extend(item.filter(|item| self.entity.collect(item)));
        }
        if !touched.is_empty() {
            self.mark(Some(touched));
        }
    }

    /// Folds what has settled since the last look.
    fn fold_new(&mut self, folding: &Folding) -> Vec<ItemKey> {
        let seen = std::mem::replace(&mut self.folded, folding.foldable);
        if seen >= folding.foldable || self.entity.epochs_len() <= FEW_EPOCHS {
            return Vec::new();
        }
        self.entity.fold(None, &folding.settled, &folding.retired)
    }

    /// Folds what has settled in a state that was just merged; it is marked by its caller.
    pub(crate) fn tidy_merged(&mut self, stamp: Hlc, folding: &Folding) {
        self.folded = 0;
        self.fold_new(folding);
        self.watch_closed(stamp);
    }

    /// Notes what is closed in a present entity; none of it closed after `stamp`. Of an absent one
    /// the list on the disk tells.
    pub(crate) fn watch_closed(&mut self, stamp: Hlc) {
        self.closed = match self.entity.sum() {
            0 => VecDeque::new(),
            _ => self.entity.closed_items().into_iter().map(|item| (stamp, item)).collect(),
        };
    }

    /// Lists an entity that is absent and not vacant, and takes another off the list.
    pub(crate) fn save_listed(
        &mut self,
        id: ShardId,
        key: &EntityKey,
        stamp: Hlc,
        batch: &mut Vec<Write>,
    ) {
        let left = self.entity.sum() == 0 && !self.is_gone();
        let listed = left.then_some(stamp);
        if self.listed == listed {
            return;
        }
        if let Some(at) = self.listed {
            record::remove(&listed_key(id, at, key), 0, batch);
        }
        if let Some(at) = listed {
            record::encode(RecordKind::Index, &listed_key(id, at, key), &[], batch, 0);
        }
        self.listed = listed;
    }

    /// Collects all that deletes and forgotten retries left; answers when to look at the rest.
    fn collect_all(&mut self, forget_before: Hlc, clock: Hlc) -> Hlc {
        for item in self.entity.closed_items() {
            self.entity.collect(&item);
        }
        self.closed.clear();
        self.entity.forget_retries(forget_before);
        let last = self.entity.last_retry().map_or(0, |at| at.millis() + RETRY_WINDOW_MS);
        Hlc::at(last.max(clock.millis() + AGAIN_MS))
    }
}

impl Engine {
    /// What is to be folded in a shard now.
    pub(crate) fn folding(&self, id: ShardId) -> Folding {
        let (settled, foldable) = self
            .shards
            .get(&id)
            .map_or_else(Default::default, |shard| (shard.settled, shard.foldable));
        Folding { retired: self.roll.retired().clone(), settled, foldable }
    }

    /// Tells whole copies what has settled.
    pub(crate) fn settle_shards(&mut self) {
        let (settled, roll) = (self.settled, self.roll());
        let foldable = self.roll.count_settled(&settled);
        for shard in self.shards.values_mut() {
            let whole = shard.vector.covered() == roll.0;
            (shard.settled, shard.foldable) =
                if whole { (settled, foldable) } else { Default::default() };
        }
    }

    /// Retries stamped before `moment` may be forgotten: every operation stamped within 24 h of
    /// them has come (R10). Only rises.
    pub fn close_retries(&mut self, moment: Hlc) {
        self.forget_before = self.forget_before.max(moment);
    }

    /// Forgets the retries of an entity that may be; answers how many stay.
    pub fn forget_retries(&mut self, key: &EntityKey) -> Result<usize, Quarantined> {
        let (id, moment) = (self.shard_of(key), self.forget_before);
        let hot = self.hot(id, key)?;
        let (before, bytes) = (hot.entity.keys_len(), hot.bytes());
        hot.entity.forget_retries(moment);
        let after = hot.entity.keys_len();
        if after < before {
            hot.mark(None);
            let kept = hot.bytes();
            self.hot_bytes = self.hot_bytes + kept - bytes;
            let shard = self.shards.entry(id).or_default();
            shard.dirty.insert(key.clone());
        }
        Ok(after)
    }

    /// Sweeps what deletes left, a bounded number of entries; nothing if nothing settled since.
    pub(crate) fn sweep_left(&mut self) {
        if self.sweep.at.is_none() && self.settled.clock > self.sweep.upto {
            self.sweep.upto = self.settled.clock;
            self.sweep.at = self.shards.keys().next().map(|id| (*id, left_prefix(*id)));
        }
        let mut budget = SWEEP_ENTRIES;
        while let Some((id, from)) = self.sweep.at.take() {
            let clock = self.shards.get(&id).map_or(Hlc::default(), |shard| shard.settled.clock);
            let until = [left_prefix(id), clock.0.saturating_add(1).to_be_bytes().into()].concat();
            let page = self.backend.scan(&from, &until, budget).unwrap_or_else(|error| {
                tracing::warn!(shard = %id, %error, "sweeping goes on later");
                Vec::new()
            });
            for (listed, _) in &page {
                self.sweep_entry(id, listed);
            }
            budget -= page.len();
            if let Some((last, _)) = page.last().filter(|_| budget == 0) {
                self.sweep.at = Some((id, [last, &[0][..]].concat()));
                return;
            }
            let after = (std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded);
            let next = self.shards.range(after).next();
            self.sweep.at = next.map(|(id, _)| (*id, left_prefix(*id)));
        }
    }

    fn sweep_entry(&mut self, id: ShardId, listed: &[u8]) {
        let Some((stamp, key)) = parse_listed(listed) else { return };
        let (forget_before, clock) = (self.forget_before, self.settled.clock);
        let commit = self.commits + 1;
        let cold = self.shards.get(&id).is_none_or(|shard| !shard.hot.contains_key(&key));
        // What is damaged, or given up, goes in its own way.
        if self.hot(id, &key).is_err() {
            return;
        }
        let shard = self.shards.entry(id).or_default();
        let Some(hot) = shard.hot.get_mut(&key) else { return };
        let batch = &mut self.staged.batch.writes;
        if hot.listed != Some(stamp) {
            // An entry of which its entity, replaced by a peer's, knows nothing.
            record::remove(listed, 0, batch);
            return;
        }
        if hot.dirty != Dirty::Clean {
            // Its checkpoint lists it anew.
            return;
        }
        let bytes = hot.bytes();
        let again = hot.collect_all(forget_before, clock);
        hot.dirty = Dirty::All;
        hot.save(id, &key, again, batch);
        hot.clean_at = commit;
        hot.used &= !cold;
        self.hot_bytes = self.hot_bytes + hot.bytes() - bytes;
    }
}
