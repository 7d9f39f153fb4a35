//! Folding: the epochs of retired origins in one counter, as one (R9). See decision 0016.
//!
//! Invariants:
//! 1. It is how a copy holds them, no change: value, sum and version are as if nothing was folded.
//! 2. What was folded was whole: nothing counts into it any more, and whatever may still come and
//!    closes one of a path's folded epochs closes them all.
//! 3. The witness is one of them. Where its epoch is closed, all are; so a copy that folded them
//!    learns from one that did not, or that is of an earlier moment, whether a delete was seen.
//!
//! Left out: what has settled, which the engine is told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Entity, Epoch, ItemKey, epoch_hash};
use crate::dot::{Dot, Hlc, Origin, VersionVector};
use crate::operation::{EpochKey, FOLDED, Path, Tally};
use crate::retire::{Retired, Settled};

/// All folded epochs of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// The clock that had settled when it was folded; it covers no origin retired later.
    pub until: Hlc,
    /// What they still show: increments.
    pub plus: u128,
    /// What they still show: decrements.
    pub minus: u128,
    /// The sum of their hashes.
    pub sum: u128,
    /// Whether a delete closed them.
    pub closed: bool,
    /// One of them.
    pub witness: Witness,
}

/// Names an epoch of a counter, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Whose increments.
    pub origin: Origin,
    /// The sequence that opened it.
    pub first: u64,
    /// Its last sequence.
    pub last: u64,
}

impl Witness {
    fn key(&self, path: &Path) -> EpochKey {
        EpochKey { path: path.clone(), origin: self.origin, first: self.first }
    }
}

impl Folded {
    /// Its share of its entity's sum.
    pub(super) fn hash(&self) -> u128 {
        if self.closed { 0 } else { self.sum }
    }

    /// None of them shows any more.
    fn shut(self) -> Folded {
        Folded { plus: 0, minus: 0, sum: 0, closed: true, ..self }
    }

    /// With one more epoch, which is open.
    fn with(self, key: &EpochKey, epoch: &Epoch) -> Folded {
        let (plus, minus) = epoch.shown();
        Folded {
            plus: self.plus.saturating_add(plus),
            minus: self.minus.saturating_add(minus),
            sum: self.sum.wrapping_add(epoch_hash(key, epoch)),
            ..self
        }
    }
}

/// What two copies make of what was folded in a path.
struct Joined {
    until: Hlc,
    /// None: all of it is in epochs of their own.
    folded: Option<Folded>,
    closed: bool,
    /// Whose epochs of their own go with it.
    theirs: bool,
}

impl Entity {
    /// How many epochs are not folded.
    pub(crate) fn epochs_len(&self) -> usize {
        self.epochs.len()
    }

    /// The epochs of one counter that are not folded.
    pub(super) fn path_epochs(&self, path: &Path) -> impl Iterator<Item = (&EpochKey, &Epoch)> {
        let bound = |origin, first| EpochKey { path: path.clone(), origin, first };
        self.epochs.range(bound(Origin(0), 0)..=bound(Origin(u64::MAX), u64::MAX))
    }

    /// What is folded in a counter, if it still shows.
    pub(super) fn folded_open(&self, path: &Path) -> Option<&Folded> {
        self.folded.get(path).filter(|folded| !folded.closed)
    }

    pub(super) fn set_folded(&mut self, path: Path, folded: Folded) {
        let old = self.folded.insert(path, folded).map_or(0, |old| old.hash());
        self.sum = self.sum.wrapping_sub(old).wrapping_add(folded.hash());
    }

    fn drop_folded(&mut self, path: &Path) {
        if let Some(old) = self.folded.remove(path) {
            self.sum = self.sum.wrapping_sub(old.hash());
        }
    }

    /// Folds what has settled, of one counter or of all; answers what it touched. Of origins that
    /// issue nothing any more, an epoch that is wholly closed is of no use: it goes.
    pub(crate) fn fold(
        &mut self,
        path: Option<&Path>,
        settled: &Settled,
        retired: &Retired,
    ) -> Vec<ItemKey> {
        let due = |(key, _): &(&EpochKey, &Epoch)| retired.is_settled(key.origin, settled);
        let own = |(key, epoch): (&EpochKey, &Epoch)| (key.clone(), *epoch);
        let due: Vec<(EpochKey, Epoch)> = match path {
            Some(path) => self.path_epochs(path).filter(due).map(own).collect(),
            None => self.epochs.iter().filter(due).map(own).collect(),
        };
        let mut touched = Vec::with_capacity(2 * due.len());
        for (key, epoch) in due {
            self.drop_epoch(&key);
            if epoch.is_open() {
                let before = self.folded_open(&key.path).copied();
                let witness =
                    Witness { origin: key.origin, first: key.first, last: epoch.total.last };
                let none = Folded {
                    until: Hlc::default(),
                    plus: 0,
                    minus: 0,
                    sum: 0,
                    closed: false,
                    witness,
                };
                let mut folded = before.unwrap_or(none).with(&key, &epoch);
                folded.until = folded.until.max(settled.clock);
                self.set_folded(key.path.clone(), folded);
                touched.push(ItemKey::Folded(key.path.clone()));
            }
            touched.push(ItemKey::Epoch(key));
        }
        touched
    }

    /// Closes what an operation names, up to the totals that its author saw.
    pub(super) fn close_all(&mut self, closes: &[(EpochKey, Tally)], retired: &Retired) {
        for (key, tally) in closes {
            if key.origin == FOLDED {
                self.close_folded(&key.path, Hlc(key.first), retired);
            } else if self.epochs.contains_key(key) {
                self.close(key, *tally);
            } else if self.has_folded(key, retired) {
                self.shut_folded(&key.path);
            }
        }
    }

    /// Whether an epoch that is not here was folded: its author saw them all.
    fn has_folded(&self, key: &EpochKey, retired: &Retired) -> bool {
        let folded = self.folded.get(&key.path);
        folded.is_some_and(|folded| is_old(retired, key.origin, folded.until))
    }

    fn shut_folded(&mut self, path: &Path) {
        if let Some(folded) = self.folded.get(path).copied() {
            self.set_folded(path.clone(), folded.shut());
        }
    }

    /// Closes what the author of a delete had folded by `until`, whether it is folded here or not.
    /// It named what it had not folded.
    fn close_folded(&mut self, path: &Path, until: Hlc, retired: &Retired) {
        self.shut_folded(path);
        let old = self.path_epochs(path).filter(|(key, _)| is_old(retired, key.origin, until));
        for (key, epoch) in old.map(|(key, epoch)| (key.clone(), *epoch)).collect::<Vec<_>>() {
            self.set_epoch(key, Epoch { closed: epoch.total, ..epoch });
        }
    }

    /// Whether an item is hidden, and waits to be collected.
    pub(crate) fn is_closed(&self, item: &ItemKey) -> bool {
        match item {
            ItemKey::Epoch(key) => self.epochs.get(key).is_some_and(|epoch| !epoch.is_open()),
            ItemKey::Folded(path) => self.folded.get(path).is_some_and(|folded| folded.closed),
            _ => false,
        }
    }

    /// All that is hidden, and waits to be collected.
    pub(crate) fn closed_items(&self) -> Vec<ItemKey> {
        let epochs = self.epochs.iter().filter(|(_, epoch)| !epoch.is_open());
        let folded = self.folded.iter().filter(|(_, folded)| folded.closed);
        let folded = folded.map(|(path, _)| ItemKey::Folded(path.clone()));
        epochs.map(|(key, _)| ItemKey::Epoch(key.clone())).chain(folded).collect()
    }

    /// Collects an item if it is hidden: all that its origin issued before it had seen the delete
    /// is here (R4). Answers whether it went.
    pub(crate) fn collect(&mut self, item: &ItemKey) -> bool {
        let closed = self.is_closed(item);
        match item {
            ItemKey::Epoch(key) if closed => self.drop_epoch(key),
            ItemKey::Folded(path) if closed => self.drop_folded(path),
            _ => {}
        }
        closed
    }

    /// Joins the epochs of another copy, read where `theirs` was covered.
    ///
    /// An epoch that one side lacks and covers the start of was closed and collected there, or it
    /// was folded.
    pub(super) fn merge_epochs(
        &mut self,
        ours: &VersionVector,
        other: &Entity,
        theirs: &VersionVector,
        retired: &Retired,
    ) {
        let joined: BTreeMap<Path, Joined> = folded_paths(self, other)
            .map(|path| {
                let joined = join_folded((self, ours), (other, theirs), &path, retired);
                (path, joined)
            })
            .collect();
        self.join_old(other, &joined, retired);
        let young = |key: &EpochKey| {
            let joined = joined.get(&key.path);
            joined.is_none_or(|joined| !is_old(retired, key.origin, joined.until))
        };
        let opened = |key: &EpochKey| Dot { origin: key.origin, sequence: key.first };
        let collected = |key: &&EpochKey| {
            young(key) && !other.epochs.contains_key(*key) && theirs.covers(opened(key))
        };
        let gone: Vec<EpochKey> = self.epochs.keys().filter(collected).cloned().collect();
        gone.iter().for_each(|key| self.drop_epoch(key));
        for (key, epoch) in other.epochs.iter().filter(|(key, _)| young(key)) {
            match self.epochs.get(key).copied() {
                Some(held) => self.set_epoch(key.clone(), join(held, *epoch)),
                None if !ours.covers(opened(key)) => self.set_epoch(key.clone(), *epoch),
                None => {}
            }
        }
    }

    /// Takes in what was decided of the paths where a side had folded.
    fn join_old(&mut self, other: &Entity, joined: &BTreeMap<Path, Joined>, retired: &Retired) {
        for (path, joined) in joined {
            let old = |key: &EpochKey| is_old(retired, key.origin, joined.until);
            let lost = |key: &&EpochKey| {
                let kept = !joined.closed && (!joined.theirs || other.epochs.contains_key(*key));
                old(key) && !kept
            };
            let gone: Vec<EpochKey> =
                self.path_epochs(path).map(|(key, _)| key).filter(lost).cloned().collect();
            gone.iter().for_each(|key| self.drop_epoch(key));
            for (key, epoch) in other.path_epochs(path).filter(|(key, _)| old(key)) {
                match self.epochs.get(key).copied() {
                    _ if joined.closed => {}
                    Some(held) => self.set_epoch(key.clone(), join(held, *epoch)),
                    None if joined.theirs => self.set_epoch(key.clone(), *epoch),
                    None => {}
                }
            }
            match joined.folded {
                Some(folded) => self.set_folded(path.clone(), folded),
                None => self.drop_folded(path),
            }
        }
    }

    /// Whether this copy, which has seen `seen`, knows that a delete closed the witness.
    fn has_closed(
        &self,
        seen: Option<&VersionVector>,
        path: &Path,
        witness: &Witness,
        retired: &Retired,
    ) -> bool {
        let key = witness.key(path);
        if let Some(epoch) = self.epochs.get(&key) {
            return epoch.closed.last >= witness.last;
        }
        if self.has_folded(&key, retired) {
            return self.folded.get(path).is_some_and(|folded| folded.closed);
        }
        // Closed and collected.
        let opened = Dot { origin: witness.origin, sequence: witness.first };
        seen.is_some_and(|seen| seen.covers(opened))
    }

    /// Repairs the epochs from a copy at an equal vector: none is lost, but that what one side
    /// knows to be closed is closed.
    pub(super) fn repair_epochs(&mut self, other: &Entity, retired: &Retired) {
        let joined: BTreeMap<Path, Joined> = folded_paths(self, other)
            .map(|path| {
                let joined = repair_folded(self, other, &path, retired);
                (path, joined)
            })
            .collect();
        self.join_old(other, &joined, retired);
        for (key, epoch) in other.epochs.iter() {
            let path = joined.get(&key.path);
            if path.is_none_or(|joined| !is_old(retired, key.origin, joined.until)) {
                let both = self.epochs.get(key).map_or(*epoch, |held| join(*held, *epoch));
                self.set_epoch(key.clone(), both);
            }
        }
    }

    /// What a path shows of origins retired by `until`, folded or not.
    fn shown_old(&self, path: &Path, until: Hlc, retired: &Retired) -> (u128, u128, u128) {
        let mut shown = self.folded_open(path).map_or((0, 0, 0), |f| (f.plus, f.minus, f.sum));
        for (key, epoch) in self.path_epochs(path).filter(|(_, epoch)| epoch.is_open()) {
            if is_old(retired, key.origin, until) {
                let (plus, minus) = epoch.shown();
                shown.0 = shown.0.saturating_add(plus);
                shown.1 = shown.1.saturating_add(minus);
                shown.2 = shown.2.wrapping_add(epoch_hash(key, epoch));
            }
        }
        shown
    }
}

/// Whether an origin was retired by a clock.
fn is_old(retired: &Retired, origin: Origin, until: Hlc) -> bool {
    retired.at(origin).is_some_and(|at| at <= until)
}

/// The counters where one side or the other has folded.
fn folded_paths(one: &Entity, other: &Entity) -> impl Iterator<Item = Path> + use<> {
    let paths: BTreeSet<Path> = one.folded.keys().chain(other.folded.keys()).cloned().collect();
    paths.into_iter()
}

/// The side that folded last is right about all that is old, but for a delete that it has not
/// seen: that one closed the witness.
fn join_folded(
    (one, ours): (&Entity, &VersionVector),
    (other, theirs): (&Entity, &VersionVector),
    path: &Path,
    retired: &Retired,
) -> Joined {
    let until = |entity: &Entity| entity.folded.get(path).map(|folded| folded.until);
    let from_theirs = until(other) > until(one);
    let (author, judge, seen) = if from_theirs { (other, one, ours) } else { (one, other, theirs) };
    let folded = *author.folded.get(path).expect("one of the two has folded");
    let closed = folded.closed || judge.has_closed(Some(seen), path, &folded.witness, retired);
    let folded = if closed { folded.shut() } else { folded };
    Joined { until: folded.until, folded: Some(folded), closed, theirs: from_theirs }
}

/// What one side lacks survives; of what both have, the greater, which is the same on both sides.
fn repair_folded(one: &Entity, other: &Entity, path: &Path, retired: &Retired) -> Joined {
    let held = [one.folded.get(path), other.folded.get(path)];
    let until = held.iter().flatten().map(|folded| folded.until).max().unwrap_or_default();
    let closed = |folded: &&Folded| {
        let by = |entity: &Entity| entity.has_closed(None, path, &folded.witness, retired);
        folded.closed || by(one) || by(other)
    };
    if let Some(folded) = held.into_iter().flatten().find(closed) {
        let folded = Folded { until, ..folded.shut() };
        return Joined { until, folded: Some(folded), closed: true, theirs: false };
    }
    let shown = |entity: &Entity| entity.shown_old(path, until, retired);
    let theirs = shown(other) > shown(one);
    let folded = held[usize::from(theirs)].map(|folded| Folded { until, ..*folded });
    Joined { until, folded, closed: false, theirs }
}

fn join(one: Epoch, other: Epoch) -> Epoch {
    // Totals that differ at one sequence are a divergence: both sides repair to the same.
    let order = |tally: &Tally| (tally.last, tally.plus, tally.minus);
    let later = |a: Tally, b: Tally| if order(&b) > order(&a) { b } else { a };
    Epoch { total: later(one.total, other.total), closed: later(one.closed, other.closed) }
}
