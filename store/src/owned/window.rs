//! What an entity remembers of commands, so that each key counts once.
//!
//! Every remembered command has a number, dense from 0 in its entity. Its answer lies under its
//! key; the keys lie in order of numbers, 32 to a record, the last few in the entity's head.
//!
//! Invariants:
//! 1. At least the last 10,000 are remembered (up to 63 more), and none for longer than 24 h, by
//!    times in the log: every replica forgets the same at the same entry.
//! 2. An entry forgets at most `EVICT_MAX` records of 32, so that it has a bounded cost.
//! 3. Answers below the window's floor are dead, even where they still lie on disk.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::apply::Draft;
use super::entry::{Entry, Keyed};
use super::{Name, OwnedError, keys};
use crate::backend::Backend;
use crate::dot::Millis;
use crate::shard::ShardId;

/// Commands that an entity remembers, at least.
pub const WINDOW_COMMANDS: u64 = 10_000;
/// How long it remembers them, at most, in milliseconds.
pub const WINDOW_MS: Millis = 24 * 60 * 60 * 1_000;
/// Keys in one record of the queue.
const RUN: u64 = 32;
/// Records of the queue that one entry forgets.
const EVICT_MAX: usize = 2;

/// The part of an entity's head that is about remembered commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Numbers below are forgotten; a multiple of [`RUN`].
    pub(super) floor: u64,
    /// The next number.
    pub(super) next: u64,
    /// The time of the newest command in the oldest record of the queue.
    oldest: Millis,
    /// Keys that are not in a record yet.
    recent: Vec<[u8; 16]>,
}

/// A record of the queue.
#[derive(Debug, Serialize, Deserialize)]
struct Run {
    newest: Millis,
    keys: Vec<[u8; 16]>,
}

/// The answer of a remembered command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) number: u64,
    pub(super) request: [u8; 16],
    pub(super) at: Millis,
    pub(super) base: u64,
    pub(super) revision: u64,
    pub(super) reply: Bytes,
    /// Of reply and events: what is read back must be what was answered.
    pub(super) digest: [u8; 16],
}

impl Window {
    /// The answer under a key, if it is remembered at this time.
    pub(super) fn remembered(
        &self,
        backend: &dyn Backend,
        (shard, name): (ShardId, &Name),
        key: &[u8; 16],
        now: Millis,
    ) -> Result<Option<Remembered>, OwnedError> {
        let found = super::read::body(backend, &keys::answer(shard, name, key))?;
        let live = |a: &Remembered| a.number >= self.floor && a.at.saturating_add(WINDOW_MS) >= now;
        Ok(found.map(|(answer, _)| answer).filter(live))
    }

    /// Remembers a command.
    pub(super) fn push(
        &mut self,
        draft: &mut Draft<'_>,
        entry: &Entry,
        keyed: Keyed,
        answer: Remembered,
    ) -> Result<(), OwnedError> {
        let now = answer.at;
        let at = keys::answer(draft.shard, &entry.name, &keyed.key);
        // What an older command left under the key is dead, or this one would not be here.
        let before = super::read::body::<Remembered>(&draft.view, &at)?;
        draft.put(&at, &answer, before.map_or(0, |(_, pieces)| pieces));
        self.next += 1;
        self.recent.push(keyed.key);
        if self.next.is_multiple_of(RUN) {
            let first = self.next - RUN;
            if first == self.floor {
                self.oldest = now;
            }
            let run = Run { newest: now, keys: std::mem::take(&mut self.recent) };
            draft.put(&keys::queue(draft.shard, &entry.name, first), &run, 0);
        }
        self.evict(draft, &entry.name, now)
    }

    fn evict(&mut self, draft: &mut Draft<'_>, name: &Name, now: Millis) -> Result<(), OwnedError> {
        for _ in 0..EVICT_MAX {
            let full = self.next / RUN * RUN;
            let many = self.next - self.floor >= WINDOW_COMMANDS + RUN;
            let old = self.oldest.saturating_add(WINDOW_MS) < now;
            if self.floor == full || !(many || old) {
                break;
            }
            self.forget_oldest(draft, name)?;
        }
        Ok(())
    }

    fn forget_oldest(&mut self, draft: &mut Draft<'_>, name: &Name) -> Result<(), OwnedError> {
        let at = keys::queue(draft.shard, name, self.floor);
        let run = draft.staged::<Run>(&at)?;
        let keys = run.map(|(run, _)| run.keys).unwrap_or_default();
        for (number, key) in (self.floor..).zip(keys) {
            let key = keys::answer(draft.shard, name, &key);
            // The key may have been used again since, by a command of a higher number.
            let found = draft.staged::<Remembered>(&key)?.filter(|(a, _)| a.number == number);
            if let Some((_, pieces)) = found {
                draft.remove(&key, pieces);
            }
        }
        draft.remove(&at, 0);
        self.floor += RUN;
        let next = draft.staged::<Run>(&keys::queue(draft.shard, name, self.floor))?;
        self.oldest = next.map_or(0, |(run, _)| run.newest);
        Ok(())
    }

    /// Forgets everything: what lies on disk is below the floor.
    pub(super) fn close(&mut self) {
        self.next = self.next.next_multiple_of(RUN);
        self.floor = self.next;
        self.recent.clear();
        self.oldest = 0;
    }
}
