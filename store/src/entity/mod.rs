//! The state of one replicated entity: a dot store, one shape for all kinds.
//!
//! Invariants:
//! 1. It holds live payloads only, each named (path, dot). What one copy lacks and its context
//!    covers has been removed: no tombstones, no clocks of its own (except while `ahead`, R3).
//! 2. `sum` is the 128-bit sum of the hashes of its live payloads and open epochs: equal states
//!    have equal sums, and a change costs by what it changes.
//! 3. Clones share structure: a copy for readers costs a few reference counts.
//! 4. (R10) Of two operations with one hash, stamped within 24 h, the lower dot's payloads stay.
//!
//! Left out: what a value means; JSON.

mod draft;
mod fold;
mod image;
mod items;
mod merge;
mod ordered;
mod view;

pub use draft::{Draft, Limits};
pub use fold::{Folded, Witness};
pub use image::Image;
pub(crate) use items::touched;
pub use items::{Item, ItemKey};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use ordered::Ordered;

use crate::command::RequestHash;
use crate::dot::{Dot, Hlc, Millis, Origin, VersionVector};
use crate::mutant::Mutant;
use crate::operation::{EpochKey, Leaf, Operation, Part, Path, Payload, Tally};
use crate::retire::Retired;

/// How long a safe retry is remembered, and how far apart two stamps may pair (R10).
pub const RETRY_WINDOW_MS: Millis = 24 * 60 * 60 * 1000;

/// One epoch of a counter (R4): all that an origin counted since it last saw a delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Everything counted.
    pub total: Tally,
    /// What deletes have seen of it.
    pub closed: Tally,
}

impl Epoch {
    /// Whether something in it was counted after every delete known here.
    pub fn is_open(&self) -> bool {
        self.total.last > self.closed.last
    }

    /// Increments and decrements that no delete has seen.
    fn shown(&self) -> (u128, u128) {
        let (total, closed) = (&self.total, &self.closed);
        (total.plus.saturating_sub(closed.plus), total.minus.saturating_sub(closed.minus))
    }
}

/// The state of one entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entity {
    live: Ordered<(Path, Dot), Payload>,
    epochs: Ordered<EpochKey, Epoch>,
    folded: Ordered<Path, Folded>,
    keys: Ordered<(RequestHash, Dot), Hlc>,
    sum: u128,
    /// How many of the live payloads are expiries.
    expiries: usize,
    bytes: usize,
    ahead: Option<Arc<VersionVector>>,
}

impl Entity {
    /// The sum over live payloads and open epochs; 0 for an absent entity.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// Its own context, while it is ahead of the shard's vector (R3).
    pub fn ahead(&self) -> Option<&Arc<VersionVector>> {
        self.ahead.as_ref()
    }

    /// Sets or drops its own context.
    pub fn set_ahead(&mut self, context: Option<Arc<VersionVector>>) {
        self.ahead = context;
    }

    /// Whether nothing is left of it, not even what deletes and retries leave behind.
    pub fn is_vacant(&self) -> bool {
        self.live.is_empty()
            && self.epochs.is_empty()
            && self.folded.is_empty()
            && self.keys.is_empty()
    }

    /// Whether anything is shown, expired or not.
    pub fn is_present(&self) -> bool {
        self.live.len() > self.expiries
            || self.epochs.values().any(Epoch::is_open)
            || self.folded.values().any(|folded| !folded.closed)
    }

    /// When it expires: the longest of concurrent times to live (R11).
    pub fn expires_at(&self) -> Option<Millis> {
        if self.expiries == 0 {
            return None;
        }
        let until = |(_, payload): (&(Path, Dot), &Payload)| match payload {
            Payload::Until(at) => Some(*at),
            _ => None,
        };
        self.at(&Path { field: None, leaf: Leaf::Expiry }).filter_map(until).max()
    }

    /// Who set the expiry that holds.
    pub fn expiry_origin(&self) -> Option<Origin> {
        let expiries = self.at(&Path { field: None, leaf: Leaf::Expiry });
        let until = |((_, dot), payload): (&(Path, Dot), &Payload)| match payload {
            Payload::Until(at) => Some((*at, dot.origin)),
            _ => None,
        };
        expiries.filter_map(until).max().map(|(_, origin)| origin)
    }

    /// The live payloads of one path, by dot.
    pub(crate) fn at<'a>(
        &'a self,
        path: &Path,
    ) -> impl Iterator<Item = (&'a (Path, Dot), &'a Payload)> + 'a {
        self.live.range((path.clone(), Dot::MIN)..=(path.clone(), Dot::MAX))
    }

    /// How many items it holds: a measure of its memory.
    pub fn weight(&self) -> usize {
        self.live.len() + self.epochs.len() + self.folded.len() + self.keys.len()
    }

    /// Bytes of the values in it, of whatever size each may be.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Applies an operation's part. The caller has checked order and named dots (R2).
    ///
    /// Answers whether a payload of another operation lost to it by R10.
    pub fn apply(&mut self, operation: &Operation, part: &Part, retired: &Retired) -> bool {
        let dot = operation.dot;
        if self.ahead.as_ref().is_some_and(|context| context.covers(dot)) {
            return false;
        }
        if let Some(context) = &mut self.ahead {
            Arc::make_mut(context).raise(dot.origin, dot.sequence);
        }
        self.apply_removes(part, retired);
        let (lost, dropped) = match part.hash {
            Some(hash) => self.remember(hash, dot, operation.stamp),
            None => (false, false),
        };
        if !lost {
            for (path, payload) in &part.effect.adds {
                self.insert(path.clone(), dot, payload.clone());
            }
            for (path, first, plus, minus) in &part.effect.counts {
                self.count(path, dot, *first, *plus, *minus);
            }
        }
        dropped
    }

    fn apply_removes(&mut self, part: &Part, retired: &Retired) {
        let effect = &part.effect;
        if let Some(seen) = &effect.deletes {
            let seen: VersionVector = seen.iter().map(|dot| (dot.origin, dot.sequence)).collect();
            self.retain(|_, dot| !seen.covers(dot));
        }
        for (path, dots) in &effect.removes {
            if Mutant::SplitUpdate.is_on() {
                self.retain(|_, dot| !dots.contains(&dot));
            }
            for dot in dots {
                self.remove(path, *dot);
            }
        }
        self.close_all(&effect.closes, retired);
    }

    /// Remembers a retry's hash; answers (this operation lost, another one lost).
    fn remember(&mut self, hash: RequestHash, dot: Dot, stamp: Hlc) -> (bool, bool) {
        let rivals: Vec<(Dot, Hlc)> = self
            .keys
            .range((hash, Dot::MIN)..=(hash, Dot::MAX))
            .map(|((_, dot), stamp)| (*dot, *stamp))
            .filter(|(rival, at)| *rival != dot && paired(*at, stamp))
            .collect();
        self.keys.insert((hash, dot), stamp);
        let lost = rivals.iter().any(|(rival, _)| *rival < dot);
        let losers: Vec<Dot> =
            rivals.iter().map(|(rival, _)| *rival).filter(|rival| *rival > dot).collect();
        if !losers.is_empty() {
            self.retain(|_, dot| !losers.contains(&dot));
        }
        (lost, !losers.is_empty())
    }

    /// The request remembered under a client's key at `now`: (its request hash, its stamp).
    pub fn remembered(&self, key: u128, now: Millis) -> impl Iterator<Item = RequestHash> + '_ {
        let low = RequestHash { key, request: 0 };
        let high = RequestHash { key, request: u64::MAX };
        self.keys
            .range((low, Dot::MIN)..=(high, Dot::MAX))
            .filter(move |(_, stamp)| stamp.millis() + RETRY_WINDOW_MS > now)
            .map(|((hash, _), _)| *hash)
    }

    /// Forgets retries stamped before `moment`: no operation that could pair with them is missing.
    pub(crate) fn forget_retries(&mut self, moment: Hlc) {
        let gone: Vec<(RequestHash, Dot)> =
            self.keys.iter().filter(|(_, at)| **at < moment).map(|(key, _)| *key).collect();
        for key in gone {
            self.keys.remove(&key);
        }
    }

    /// When the last of the remembered retries was stamped.
    pub(crate) fn last_retry(&self) -> Option<Hlc> {
        self.keys.values().copied().max()
    }

    /// How many retries are remembered.
    pub fn keys_len(&self) -> usize {
        self.keys.len()
    }

    fn insert(&mut self, path: Path, dot: Dot, payload: Payload) {
        let hash = payload_hash(&path, dot, &payload);
        self.bytes += value_bytes(&path, &payload);
        match self.live.insert((path.clone(), dot), payload) {
            Some(old) => {
                self.bytes -= value_bytes(&path, &old);
                self.sum = self.sum.wrapping_sub(payload_hash(&path, dot, &old));
            }
            None => self.expiries += usize::from(path.leaf == Leaf::Expiry),
        }
        self.sum = self.sum.wrapping_add(hash);
    }

    fn remove(&mut self, path: &Path, dot: Dot) {
        if let Some(old) = self.live.remove(&(path.clone(), dot)) {
            self.bytes -= value_bytes(path, &old);
            self.sum = self.sum.wrapping_sub(payload_hash(path, dot, &old));
            self.expiries -= usize::from(path.leaf == Leaf::Expiry);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Path, Dot) -> bool) {
        let gone: Vec<(Path, Dot)> =
            self.live.keys().filter(|(path, dot)| !keep(path, *dot)).cloned().collect();
        for (path, dot) in gone {
            self.remove(&path, dot);
        }
    }

    fn set_epoch(&mut self, key: EpochKey, epoch: Epoch) {
        let new = epoch_hash(&key, &epoch);
        let old = self.epochs.get(&key).map_or(0, |old| epoch_hash(&key, old));
        self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
        self.epochs.insert(key, epoch);
    }

    fn drop_epoch(&mut self, key: &EpochKey) {
        if let Some(old) = self.epochs.remove(key) {
            self.sum = self.sum.wrapping_sub(epoch_hash(key, &old));
        }
    }

    /// Counts into the author's epoch. An epoch that opens here tells that its origin has seen
    /// the deletes of earlier ones: those wholly closed are covered, and go (R4).
    fn count(&mut self, path: &Path, dot: Dot, first: u64, plus: u128, minus: u128) {
        let key = EpochKey { path: path.clone(), origin: dot.origin, first };
        let mut epoch = self.epochs.get(&key).copied().unwrap_or_default();
        if dot.sequence == first {
            for old in self.closed_epochs(path, dot.origin) {
                self.drop_epoch(&old);
            }
        }
        epoch.total.last = dot.sequence;
        epoch.total.plus = epoch.total.plus.saturating_add(plus);
        epoch.total.minus = epoch.total.minus.saturating_add(minus);
        self.set_epoch(key, epoch);
    }

    fn closed_epochs(&self, path: &Path, origin: Origin) -> Vec<EpochKey> {
        self.epochs_of(path, origin)
            .filter(|(_, epoch)| !epoch.is_open())
            .map(|(key, _)| key.clone())
            .collect()
    }

    pub(crate) fn epochs_of(
        &self,
        path: &Path,
        origin: Origin,
    ) -> impl Iterator<Item = (&EpochKey, &Epoch)> {
        let bound = |first| EpochKey { path: path.clone(), origin, first };
        self.epochs.range(bound(0)..=bound(u64::MAX))
    }

    /// An epoch that is not here was wholly closed, and collected: its opening was seen, as all
    /// that is named was. Were it made anew, a stale copy's totals would open it again.
    fn close(&mut self, key: &EpochKey, tally: Tally) {
        let Some(mut epoch) = self.epochs.get(key).copied() else { return };
        if tally.last > epoch.closed.last {
            epoch.closed = tally;
        }
        if epoch.total.last < epoch.closed.last {
            epoch.total = epoch.closed;
        }
        if Mutant::CollectEarly.is_on() && !epoch.is_open() {
            return self.drop_epoch(key);
        }
        self.set_epoch(key.clone(), epoch);
    }
}

/// Whether two stamps are near enough for their operations to be one request (R10).
fn paired(one: Hlc, other: Hlc) -> bool {
    !Mutant::CountRetries.is_on() && one.millis().abs_diff(other.millis()) <= RETRY_WINDOW_MS
}

/// Bytes of a payload that are as long as a client made them.
fn value_bytes(path: &Path, payload: &Payload) -> usize {
    let name = path.field.as_ref().map_or(0, |field| field.name.len());
    let member = if let Leaf::Member(member) = &path.leaf { member.len() } else { 0 };
    let value = if let Payload::Value { value, .. } = payload { value.len() } else { 0 };
    name + member + value
}

fn hash128(value: &impl Serialize) -> u128 {
    let bytes = postcard::to_stdvec(value).expect("state encodes to memory");
    let hash = blake3::hash(&bytes);
    u128::from_be_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

fn payload_hash(path: &Path, dot: Dot, payload: &Payload) -> u128 {
    hash128(&(0u8, path, dot, payload))
}

/// A wholly closed epoch is outside digests (R4).
fn epoch_hash(key: &EpochKey, epoch: &Epoch) -> u128 {
    if epoch.is_open() { hash128(&(1u8, key, epoch)) } else { 0 }
}

#[cfg(test)]
mod tests;
