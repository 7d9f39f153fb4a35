//! Joining two copies of an entity, each under the context that it was read at (R3, R8).

use std::sync::Arc;

use super::Entity;
use crate::dot::{Dot, Origin, VersionVector};
use crate::operation::{Path, Payload};
use crate::retire::Retired;

impl Entity {
    /// Joins `other`, read where `theirs` was covered, into this copy, which has seen `ours`.
    ///
    /// A dot on one side only was removed if the other side's context covers it. Commutative,
    /// associative and idempotent on (state, context).
    pub fn merge(
        &mut self,
        ours: &VersionVector,
        other: &Entity,
        theirs: &VersionVector,
        retired: &Retired,
    ) {
        let ours = self.context(ours);
        let theirs = other.context(theirs);
        self.retain(|path, dot| {
            other.live.contains_key(&(path.clone(), dot)) || !theirs.covers(dot)
        });
        for ((path, dot), payload) in other.live.iter() {
            if !self.live.contains_key(&(path.clone(), *dot)) && !ours.covers(*dot) {
                self.insert(path.clone(), *dot, payload.clone());
            }
        }
        self.merge_epochs(&ours, other, &theirs, retired);
        for (key, stamp) in other.keys.iter() {
            self.keys.insert(*key, *stamp);
        }
        self.drop_losers();
    }

    /// The context of this copy: its own while it is ahead, joined with its shard's.
    pub fn context<'a>(&self, shard: &'a VersionVector) -> std::borrow::Cow<'a, VersionVector> {
        match &self.ahead {
            None => std::borrow::Cow::Borrowed(shard),
            Some(ahead) => {
                let mut joined = shard.clone();
                joined.join(ahead);
                std::borrow::Cow::Owned(joined)
            }
        }
    }

    /// R10 over everything remembered: the payloads of higher dots go.
    fn drop_losers(&mut self) {
        let mut losers: Vec<Dot> = Vec::new();
        let mut group: Vec<(Dot, crate::dot::Hlc)> = Vec::new();
        let mut current = None;
        for ((hash, dot), stamp) in self.keys.iter() {
            if current != Some(*hash) {
                group.clear();
                current = Some(*hash);
            }
            if group.iter().any(|(_, earlier)| super::paired(*earlier, *stamp)) {
                losers.push(*dot);
            }
            group.push((*dot, *stamp));
        }
        if !losers.is_empty() {
            losers.sort_unstable();
            self.retain(|_, dot| losers.binary_search(&dot).is_err());
        }
    }

    /// Repair of two copies with equal vectors and unequal digests: a dot survives unless it is
    /// among `removed`, the removes that a log names (R8).
    pub fn repair(&mut self, other: &Entity, removed: &[(Path, Dot)], retired: &Retired) {
        for ((path, dot), payload) in other.live.iter() {
            if !self.live.contains_key(&(path.clone(), *dot)) {
                self.insert(path.clone(), *dot, payload.clone());
            }
        }
        for (path, dot) in removed {
            self.remove(path, *dot);
        }
        self.repair_epochs(other, retired);
        for (key, stamp) in other.keys.iter() {
            self.keys.insert(*key, *stamp);
        }
        self.drop_losers();
    }

    /// The live names that `other` has and this copy lacks.
    pub fn lacks(&self, other: &Entity) -> Vec<(Path, Dot)> {
        other.live.keys().filter(|name| !self.live.contains_key(*name)).cloned().collect()
    }

    /// After a merge from a copy at `theirs`: keeps its own context until the shard's vector has
    /// risen to it.
    pub fn advance(&mut self, shard: &VersionVector, theirs: &VersionVector) {
        let mut context = self.context(shard).into_owned();
        context.join(theirs);
        self.ahead = (!shard.contains(&context)).then(|| Arc::new(context));
    }

    /// The stamps of its values.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = crate::dot::Hlc> + '_ {
        self.live.values().filter_map(|payload| match payload {
            Payload::Value { stamp, .. } => Some(*stamp),
            _ => None,
        })
    }

    /// The origins of its live payloads and epochs.
    pub fn origins(&self) -> impl Iterator<Item = Origin> + '_ {
        let live = self.live.keys().map(|(_, dot)| dot.origin);
        live.chain(self.epochs.keys().map(|key| key.origin))
    }
}
