//! A replica's copy of a shard, and what a committed entry does to it.
//!
//! Invariants:
//! 1. An index at or below the copy's is applied already, and does nothing.
//! 2. An error changes nothing: not the copy, not what is staged.
//! 3. Time in the log never goes back: an owner whose clock is behind uses the log's.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chunk::Outgoing;
use super::entry::{Append, Body, Entry, StateAt};
use super::view::{Staged, View};
use super::window::{Remembered, Window};
use super::{BehaviourHash, Name, OwnedError, Position, keys, read};
use crate::backend::{Backend, Write};
use crate::dot::Millis;
use crate::record::{self, RecordKind};
use crate::shard::ShardId;

/// The head of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The sequence of the last event.
    pub(super) revision: u64,
    /// Events up to this one were erased.
    pub(super) erased: u64,
    /// The time of the last change.
    pub(super) at: Millis,
    /// The behaviour that decided last.
    pub(super) behaviour: Option<BehaviourHash>,
    /// The snapshot: its revision, its version, its pieces.
    pub(super) snapshot: Option<(u64, u32, u16)>,
    pub(super) window: Window,
}

impl Head {
    /// The revision that clients see: 0 where there is nothing.
    pub(super) fn shown(&self) -> u64 {
        if self.revision == self.erased { 0 } else { self.revision }
    }
}

/// Why an entry changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// Its index was applied before.
    Index,
    /// It was decided on another revision than the entity has, which is this one.
    Base(u64),
    /// Its key is remembered: the command counted before, and ended at this revision.
    Remembered(u64),
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub entry: Entry,
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The time that it has in the log.
    pub at: Millis,
    /// Why it changed nothing, if so.
    pub void: Option<Void>,
    /// The entity's revision after it.
    pub revision: u64,
    /// Durable once these are committed.
    pub writes: Vec<Write>,
    /// Then to be passed to [`Copy::settle`].
    pub step: u64,
}

/// A replica's copy of a shard's owned entities.
pub struct Copy {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) shard: ShardId,
    pub(super) position: Position,
    pub(super) staged: Staged,
    pub(super) step: u64,
    pub(super) outgoing: Vec<Outgoing>,
}

impl Copy {
    /// Opens a copy as it lies on disk; an absent one is empty, at index 0.
    pub fn open(backend: Arc<dyn Backend>, shard: ShardId) -> Result<Copy, OwnedError> {
        let position = read::position(&*backend, shard)?;
        let (staged, outgoing) = (Staged::default(), Vec::new());
        Ok(Copy { backend, shard, position, staged, step: 0, outgoing })
    }

    /// Where it is.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Writes that wait for [`Copy::settle`]: all that is in memory.
    pub fn unsettled(&self) -> usize {
        self.staged.len()
    }

    /// Applies the entry at an index of the log. What was staged before may still be uncommitted;
    /// batches are committed in the order of their steps.
    pub fn apply(&mut self, index: u64, term: u64, bytes: &[u8]) -> Result<Applied, OwnedError> {
        if self.position.installing.is_some() {
            return Err(OwnedError::Installing);
        }
        let entry = Entry::decode(bytes)?;
        let mut draft = self.draft();
        if index <= self.position.index {
            let revision = draft.head(&entry.name)?.0.revision;
            let (at, void, step) = (self.position.clock, Some(Void::Index), self.step);
            return Ok(Applied { entry, index, term, at, void, revision, writes: vec![], step });
        }
        draft.position.clock = draft.position.clock.max(entry.at);
        (draft.position.index, draft.position.term) = (index, term);
        let (void, revision) = draft.apply(&entry)?;
        let (writes, position) = draft.finish();
        let at = position.clock;
        let step = self.stage(&writes, position)?;
        Ok(Applied { entry, index, term, at, void, revision, writes, step })
    }

    /// Takes note of an index that holds nothing for entities. Not worth a write of its own: it
    /// is durable with the next entry.
    pub fn skip(&mut self, index: u64, term: u64) {
        if index > self.position.index && self.position.installing.is_none() {
            (self.position.index, self.position.term) = (index, term);
        }
    }

    /// What was staged up to a step is durable.
    pub fn settle(&mut self, step: u64) {
        self.staged.settle(step);
    }

    pub(super) fn draft(&self) -> Draft<'_> {
        let view = View { backend: &*self.backend, staged: &self.staged };
        Draft { view, shard: self.shard, position: self.position.clone(), writes: Vec::new() }
    }

    pub(super) fn stage(
        &mut self,
        writes: &[Write],
        position: Position,
    ) -> Result<u64, OwnedError> {
        self.save_before(writes)?;
        self.step += 1;
        writes.iter().for_each(|write| self.staged.put(self.step, write));
        self.position = position;
        Ok(self.step)
    }
}

/// The writes of one entry in the making.
pub(super) struct Draft<'a> {
    pub(super) view: View<'a>,
    pub(super) shard: ShardId,
    pub(super) position: Position,
    pub(super) writes: Vec<Write>,
}

impl Draft<'_> {
    fn apply(&mut self, entry: &Entry) -> Result<(Option<Void>, u64), OwnedError> {
        let (mut head, pieces) = self.head(&entry.name)?;
        if let Some(void) = self.void(&head, entry)? {
            return Ok((Some(void), head.revision));
        }
        match &entry.body {
            Body::Append(append) => self.append(&mut head, entry, append)?,
            Body::Snapshot(at) => self.snapshot(&mut head, entry, at)?,
            Body::Erase => {
                if head == Head::default() {
                    return Ok((None, 0));
                }
                self.erase(&mut head, entry)?;
            }
        }
        self.put(&keys::of(self.shard, keys::HEAD, &entry.name), &head, pieces);
        Ok((None, head.revision))
    }

    fn void(&self, head: &Head, entry: &Entry) -> Result<Option<Void>, OwnedError> {
        if let Body::Append(Append { keyed: Some(keyed), .. }) = &entry.body {
            let named = (self.shard, &entry.name);
            let clock = self.position.clock;
            let found = head.window.remembered(&self.view, named, &keyed.key, clock)?;
            if let Some(before) = found {
                return Ok(Some(Void::Remembered(before.revision)));
            }
        }
        let nothing = matches!(entry.body, Body::Snapshot(_)) && head.shown() == 0;
        Ok((nothing || head.revision != entry.base).then_some(Void::Base(head.revision)))
    }

    fn append(
        &mut self,
        head: &mut Head,
        entry: &Entry,
        append: &Append,
    ) -> Result<(), OwnedError> {
        let at = self.position.clock;
        let count = append.events.len() as u64;
        if count > 0 {
            self.position.entities += u64::from(head.shown() == 0);
            self.position.events += count;
            let body = read::Appended {
                at,
                command_id: append.command_id.clone(),
                behaviour: append.behaviour,
                events: append.events.clone(),
            };
            self.put(&keys::events(self.shard, &entry.name, head.revision + 1), &body, 0);
            head.revision += count;
        }
        (head.at, head.behaviour) = (at, append.behaviour.or(head.behaviour));
        let Some(keyed) = append.keyed else { return Ok(()) };
        let answer = Remembered {
            number: head.window.next,
            request: keyed.request,
            at,
            base: entry.base,
            revision: head.revision,
            reply: append.reply.clone(),
            digest: read::digest(&append.reply, &append.events),
        };
        head.window.push(self, entry, keyed, answer)
    }

    fn snapshot(&mut self, head: &mut Head, entry: &Entry, at: &StateAt) -> Result<(), OwnedError> {
        if let Some((revision, _, pieces)) = head.snapshot.take() {
            self.remove(&keys::snapshot(self.shard, &entry.name, revision), pieces);
        }
        let key = keys::snapshot(self.shard, &entry.name, head.revision);
        let pieces = self.put(&key, at, 0);
        head.snapshot = Some((head.revision, at.version, pieces));
        Ok(())
    }

    /// An entity's head and the number of its pieces; an absent one is empty.
    pub(super) fn head(&self, name: &Name) -> Result<(Head, u16), OwnedError> {
        let found = read::body(&self.view, &keys::of(self.shard, keys::HEAD, name))?;
        Ok(found.unwrap_or_default())
    }

    /// Puts a record; returns the number of its pieces.
    pub(super) fn put(&mut self, key: &[u8], value: &impl Serialize, before: u16) -> u16 {
        let body = postcard::to_stdvec(value).expect("a record encodes to memory");
        record::encode(RecordKind::Owned, key, &body, &mut self.writes, before)
    }

    pub(super) fn remove(&mut self, key: &[u8], pieces: u16) {
        record::remove(key, pieces, &mut self.writes);
    }

    /// A record as it is after the writes of this draft.
    pub(super) fn staged<T: DeserializeOwned>(
        &self,
        key: &[u8],
    ) -> Result<Option<(T, u16)>, OwnedError> {
        let mut staged = Staged::default();
        let own = self.writes.iter().filter(|(written, _)| written.starts_with(key));
        own.for_each(|write| staged.put(0, write));
        read::body(&View { backend: &self.view, staged: &staged }, key)
    }

    pub(super) fn finish(mut self) -> (Vec<Write>, Position) {
        let position = self.position.clone();
        self.put(&keys::copy(self.shard), &position, 0);
        (self.writes, position)
    }
}
