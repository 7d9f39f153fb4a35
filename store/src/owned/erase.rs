//! Erasing an entity: its events, snapshot and remembered commands are destroyed.
//!
//! Invariants:
//! 1. With the entry's batch nothing of the entity can be read any more, here or by recovery.
//! 2. Its head stays, with the last revision: an entity under the same name goes on from there.
//! 3. What is left on disk of a large entity is swept in bounded steps; a record names it until
//!    then, and travels with snapshots.

use serde::{Deserialize, Serialize};

use super::apply::{Copy, Draft, Head};
use super::entry::Entry;
use super::window::Remembered;
use super::{Name, OwnedError, keys, read};
use crate::backend::{Backend, Write};
use crate::record::{self, RecordKind};

/// Keys that the entry itself deletes; the rest is swept.
const AT_ONCE: usize = 256;
/// Keys looked at in one step of a sweep.
const SWEEP_STEP: usize = 1_000;
/// Where an entity's records are, besides its head.
const TAGS: [u8; 3] = [keys::EVENTS, keys::ANSWER, keys::QUEUE];

/// An erasure that is not swept yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sweep {
    /// Events and snapshots up to here are dead.
    erased: u64,
    /// Remembered commands below this number are dead.
    floor: u64,
    /// Keys before this one are swept.
    from: Vec<u8>,
}

impl Draft<'_> {
    pub(super) fn erase(&mut self, head: &mut Head, entry: &Entry) -> Result<(), OwnedError> {
        self.position.entities -= u64::from(head.shown() != 0);
        head.window.close();
        let window = std::mem::take(&mut head.window);
        *head = Head {
            revision: head.revision,
            erased: head.revision,
            at: self.position.clock,
            window,
            ..Head::default()
        };
        let sweep =
            Sweep { erased: head.erased, floor: head.window.floor, from: self.start(&entry.name) };
        self.sweep(&entry.name, sweep, AT_ONCE)
    }

    fn start(&self, name: &Name) -> Vec<u8> {
        keys::of(self.shard, TAGS[0], name)
    }

    /// Deletes what is dead among the next `budget` keys, and notes what is left.
    fn sweep(&mut self, name: &Name, mut sweep: Sweep, budget: usize) -> Result<(), OwnedError> {
        let at = keys::of(self.shard, keys::SWEEP, name);
        let mut left = budget;
        for tag in TAGS {
            let beginning = keys::of(self.shard, tag, name);
            let until = keys::end(beginning.clone());
            let from = sweep.from.clone().max(beginning.clone());
            let page = match from < until {
                true => self.view.scan(&from, &until, left).map_err(record::RecordError::from)?,
                false => continue,
            };
            left -= page.len();
            for (key, _) in &page {
                if self.is_dead(tag, &beginning, key, &sweep)? {
                    self.writes.push((key.to_vec(), None));
                }
            }
            if left == 0 {
                let (last, _) = page.last().expect("a budget is not zero");
                sweep.from = [&last[..], &[0]].concat();
                self.put(&at, &sweep, 0);
                return Ok(());
            }
        }
        self.remove(&at, 0);
        Ok(())
    }

    /// Whether a key under a tag is of what was erased; a piece is dead as its head is.
    fn is_dead(
        &self,
        tag: u8,
        beginning: &[u8],
        key: &[u8],
        sweep: &Sweep,
    ) -> Result<bool, OwnedError> {
        let place = key.get(beginning.len()..).unwrap_or_default();
        let number = place.first_chunk::<8>().map(|number| u64::from_be_bytes(*number));
        Ok(match tag {
            keys::EVENTS => number.is_some_and(|sequence| sequence <= sweep.erased),
            keys::QUEUE => number.is_some_and(|number| number < sweep.floor),
            _ => {
                let head = &key[..key.len().min(beginning.len() + 16)];
                match read::body::<Remembered>(&self.view, head) {
                    Ok(answer) => answer.is_none_or(|(answer, _)| answer.number < sweep.floor),
                    // Damaged: what it held is to be destroyed if anything here is.
                    Err(OwnedError::Record(record::RecordError::Damaged(_))) => true,
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

impl Copy {
    /// The next step of sweeping what was erased: writes, and the step to settle; `None` when
    /// there is nothing left to sweep. For quiet moments.
    pub fn sweep(&mut self) -> Result<Option<(Vec<Write>, u64)>, OwnedError> {
        let mut draft = self.draft();
        let beginning = keys::tagged(self.shard, keys::SWEEP);
        let until = keys::tagged(self.shard, keys::SWEEP + 1);
        let found = record::scan(&draft.view, RecordKind::Owned, &beginning, &until, 1)?;
        let Some((key, _)) = found.into_iter().next() else { return Ok(None) };
        let sweep = read::body::<Sweep>(&draft.view, &key)?;
        match (keys::name(&key), sweep) {
            (Some(name), Some((sweep, _))) => draft.sweep(&name, sweep, SWEEP_STEP)?,
            _ => draft.remove(&key, 0),
        }
        let writes = draft.writes;
        let step = self.stage(&writes, self.position.clone())?;
        Ok(Some((writes, step)))
    }
}
