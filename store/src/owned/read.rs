//! Reading a copy, by anybody, beside the one who applies: what is durable.
//!
//! Invariants:
//! 1. Recovering an entity is one read of its head, and one scan from its snapshot on.
//! 2. What was erased is never shown, even where it still lies on disk.
//! 3. A remembered answer is what was answered, or an error: its digest says so.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::apply::Head;
use super::entry::{NewEvent, StateAt};
use super::window::Remembered;
use super::{BehaviourHash, Name, OwnedError, Position, keys};
use crate::backend::Backend;
use crate::dot::Millis;
use crate::record::{self, Damage, Damaged, RecordKind};
use crate::shard::ShardId;

/// Records fetched at a time.
const PAGE: usize = 64;
/// Bytes of events after which a page of them ends.
const PAGE_BYTES: usize = 4 << 20;

/// The events of one command, as they lie on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Appended {
    pub(super) at: Millis,
    pub(super) command_id: String,
    pub(super) behaviour: Option<BehaviourHash>,
    pub(super) events: Vec<NewEvent>,
}

/// What is known of an entity without its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The sequence of its last event, whether erased or not.
    pub revision: u64,
    /// The sequence up to which it was erased; equal to `revision`, it does not exist.
    pub erased: u64,
    /// The time of its last change.
    pub at: Millis,
    /// The behaviour that decided last.
    pub behaviour: Option<BehaviourHash>,
    /// Its snapshot: revision and version.
    pub snapshot: Option<(u64, u32)>,
}

impl Summary {
    /// The revision that clients see: 0 where there is nothing.
    pub fn shown(&self) -> u64 {
        if self.revision == self.erased { 0 } else { self.revision }
    }
}

/// One event of an entity's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its sequence.
    pub sequence: u64,
    /// Its type.
    pub kind: String,
    /// Its data, as canonical bytes.
    pub data: Bytes,
    /// Its time, from the log.
    pub at: Millis,
    /// Names the command that it is of.
    pub command_id: String,
}

/// What an entity is recovered from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Its head.
    pub summary: Summary,
    /// Its snapshot, if it has one of the version asked for, with its revision.
    pub snapshot: Option<(u64, StateAt)>,
    /// The first events after it; the rest is to be asked for by [`events`].
    pub events: Vec<Event>,
}

/// The answer of a command that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Hash of its request.
    pub request: [u8; 16],
    /// Its reply.
    pub reply: Bytes,
    /// Its events.
    pub events: Vec<Event>,
    /// The revision after it.
    pub revision: u64,
}

/// A record's value and the number of its pieces.
pub(super) fn body<T: DeserializeOwned>(
    backend: &dyn Backend,
    key: &[u8],
) -> Result<Option<(T, u16)>, OwnedError> {
    let found = record::read(backend, key, RecordKind::Owned)?;
    found.map(|(body, pieces)| Ok((decode(key, &body)?, pieces))).transpose()
}

fn decode<T: DeserializeOwned>(key: &[u8], body: &[u8]) -> Result<T, OwnedError> {
    postcard::from_bytes(body).map_err(|_| damaged(key, Damage::Body))
}

fn damaged(key: &[u8], why: Damage) -> OwnedError {
    OwnedError::Record(Damaged { key: Bytes::copy_from_slice(key), why }.into())
}

/// Where a copy is; an absent one is at index 0.
pub fn position(backend: &dyn Backend, shard: ShardId) -> Result<Position, OwnedError> {
    Ok(body(backend, &keys::copy(shard))?.map(|(position, _)| position).unwrap_or_default())
}

fn head(backend: &dyn Backend, shard: ShardId, name: &Name) -> Result<Option<Head>, OwnedError> {
    if position(backend, shard)?.installing.is_some() {
        return Err(OwnedError::Installing);
    }
    Ok(body(backend, &keys::of(shard, keys::HEAD, name))?.map(|(head, _)| head))
}

fn summarize(head: &Head) -> Summary {
    Summary {
        revision: head.revision,
        erased: head.erased,
        at: head.at,
        behaviour: head.behaviour,
        snapshot: head.snapshot.map(|(revision, version, _)| (revision, version)),
    }
}

/// What is known of an entity without its events; `None` where there never was one.
pub fn summary(
    backend: &dyn Backend,
    shard: ShardId,
    name: &Name,
) -> Result<Option<Summary>, OwnedError> {
    Ok(head(backend, shard, name)?.as_ref().map(summarize))
}

/// What an entity is recovered from by a behaviour that reads snapshots of `version`.
pub fn recover(
    backend: &dyn Backend,
    shard: ShardId,
    name: &Name,
    version: u32,
) -> Result<Recovered, OwnedError> {
    let Some(head) = head(backend, shard, name)? else { return Ok(Recovered::default()) };
    let mut out = Recovered { summary: summarize(&head), ..Recovered::default() };
    let first = match head.snapshot.filter(|(_, found, _)| *found == version) {
        Some((revision, ..)) => keys::snapshot(shard, name, revision),
        None => keys::events(shard, name, head.erased + 1),
    };
    let from = first.clone();
    let (revision, mut bytes) = (head.revision, 0);
    scan(backend, (shard, name), first, |sequence, at_snapshot, key, body| {
        if at_snapshot {
            if key == from {
                out.snapshot = Some((sequence, decode(key, body)?));
            }
        } else if sequence <= revision {
            bytes += body.len();
            out.events.extend(spread(sequence, decode(key, body)?));
        }
        Ok(bytes < PAGE_BYTES)
    })?;
    let lost = head.snapshot.is_some_and(|(_, v, _)| v == version) && out.snapshot.is_none();
    if lost { Err(damaged(&from, Damage::Body)) } else { Ok(out) }
}

/// Events from a sequence on: `limit` of them, fewer where they are large or there are no more.
pub fn events(
    backend: &dyn Backend,
    shard: ShardId,
    name: &Name,
    from: u64,
    limit: usize,
) -> Result<Vec<Event>, OwnedError> {
    let Some(head) = head(backend, shard, name)? else { return Ok(Vec::new()) };
    let from = from.max(head.erased + 1);
    let mut found: Vec<Event> = Vec::new();
    if from > head.revision || limit == 0 {
        return Ok(found);
    }
    let first = holder(backend, shard, name, from)?;
    let mut bytes = 0;
    scan(backend, (shard, name), first, |sequence, at_snapshot, key, body| {
        if !at_snapshot && sequence <= head.revision {
            bytes += body.len();
            let events = spread(sequence, decode(key, body)?);
            found.extend(events.filter(|event| event.sequence >= from));
        }
        Ok(found.len() < limit && bytes < PAGE_BYTES)
    })?;
    found.truncate(limit);
    match found.first() {
        Some(event) if event.sequence == from => Ok(found),
        _ => Err(damaged(&keys::events(shard, name, from), Damage::Body)),
    }
}

/// The answer of a remembered command.
pub fn answer(
    backend: &dyn Backend,
    shard: ShardId,
    name: &Name,
    key: &[u8; 16],
    now: Millis,
) -> Result<Option<Answer>, OwnedError> {
    let Some(head) = head(backend, shard, name)? else { return Ok(None) };
    let found = head.window.remembered(backend, (shard, name), key, now)?;
    let Some(found) = found else { return Ok(None) };
    let count = usize::try_from(found.revision - found.base).unwrap_or(usize::MAX);
    let events = events(backend, shard, name, found.base + 1, count)?;
    let plain: Vec<NewEvent> =
        events.iter().map(|e| NewEvent { kind: e.kind.clone(), data: e.data.clone() }).collect();
    if digest(&found.reply, &plain) != found.digest {
        return Err(damaged(&keys::answer(shard, name, key), Damage::Body));
    }
    let Remembered { request, reply, revision, .. } = found;
    Ok(Some(Answer { request, reply, events, revision }))
}

/// The key of the record that holds an event.
fn holder(
    backend: &dyn Backend,
    shard: ShardId,
    name: &Name,
    sequence: u64,
) -> Result<Vec<u8>, OwnedError> {
    let beginning = keys::of(shard, keys::EVENTS, name);
    let mut until = keys::snapshot(shard, name, sequence);
    loop {
        let found = backend.last(&beginning, &until).map_err(record::RecordError::from)?;
        let place = found.and_then(|(key, _)| keys::sequence(&beginning, &key));
        match place {
            Some((first, false)) => return Ok(keys::events(shard, name, first)),
            Some((revision, true)) => until = keys::snapshot(shard, name, revision),
            None => return Err(damaged(&until, Damage::Body)),
        }
    }
}

/// Records of an entity's events from a key on, until `each` has enough.
fn scan(
    backend: &dyn Backend,
    (shard, name): (ShardId, &Name),
    mut from: Vec<u8>,
    mut each: impl FnMut(u64, bool, &[u8], &[u8]) -> Result<bool, OwnedError>,
) -> Result<(), OwnedError> {
    let beginning = keys::of(shard, keys::EVENTS, name);
    let until = keys::end(beginning.clone());
    loop {
        let page = record::scan(backend, RecordKind::Owned, &from, &until, PAGE)?;
        let full = page.len() == PAGE;
        for (key, body) in page {
            let body = body.map_err(record::RecordError::from)?;
            let place = keys::sequence(&beginning, &key);
            let (sequence, at_snapshot) = place.ok_or_else(|| damaged(&key, Damage::Body))?;
            if !each(sequence, at_snapshot, &key, &body)? {
                return Ok(());
            }
            from = [&key[..], &[0]].concat();
        }
        if !full {
            return Ok(());
        }
    }
}

fn spread(first: u64, appended: Appended) -> impl Iterator<Item = Event> {
    let Appended { at, command_id, events, .. } = appended;
    (first..).zip(events).map(move |(sequence, event)| {
        let command_id = command_id.clone();
        Event { sequence, kind: event.kind, data: event.data, at, command_id }
    })
}

/// Digest of an answer.
pub(super) fn digest(reply: &[u8], events: &[NewEvent]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("atoll owned answer 1");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    add(reply);
    events.iter().for_each(|event| {
        add(event.kind.as_bytes());
        add(&event.data);
    });
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}
