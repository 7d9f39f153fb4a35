//! Keys of owned entities' records.
//!
//! ```text
//! w shard a                         the copy: index, term, clock
//! w shard e name sequence 0         events of one command, from this sequence
//! w shard e name revision 1         the snapshot at this revision
//! w shard h name                    head of an entity
//! w shard k name key                answer of a remembered command
//! w shard q name number             keys of 32 consecutive remembered commands
//! w shard z name                    an erasure that is not swept yet
//! ```
//!
//! Shard six bytes; sequence, revision and number eight, big-endian; key 16. A name is its type, a
//! zero byte, its id with a 02 after every zero byte, and 00 01: no name is the beginning of
//! another, and names sort as their ids do.
//!
//! Invariants:
//! 1. From a snapshot's key to the end of its entity's events is what recovery reads.
//! 2. No key is another key followed by FF FF and two bytes, which is a piece of that one: after a
//!    name, keys under one tag have one length.

use super::Name;
use crate::shard::ShardId;

/// The first byte of all of them.
const FIRST: u8 = b'w';
/// Tags, in the order of keys.
pub(super) const COPY: u8 = b'a';
pub(super) const EVENTS: u8 = b'e';
pub(super) const HEAD: u8 = b'h';
pub(super) const ANSWER: u8 = b'k';
pub(super) const QUEUE: u8 = b'q';
pub(super) const SWEEP: u8 = b'z';
/// Bytes before the tag.
pub(super) const PREFIX: usize = 7;

pub(super) fn prefix(shard: ShardId) -> [u8; PREFIX] {
    let mut out = [FIRST; PREFIX];
    out[1..].copy_from_slice(&shard.bytes());
    out
}

pub(super) fn copy(shard: ShardId) -> Vec<u8> {
    tagged(shard, COPY)
}

/// The beginning of all keys under a tag.
pub(super) fn tagged(shard: ShardId, tag: u8) -> Vec<u8> {
    [&prefix(shard)[..], &[tag]].concat()
}

/// The beginning of an entity's keys under a tag; for heads and sweeps the whole key.
pub(super) fn of(shard: ShardId, tag: u8, name: &Name) -> Vec<u8> {
    let (collection, id) = (name.collection.as_str().as_bytes(), name.id.as_str().as_bytes());
    let mut out = Vec::with_capacity(PREFIX + collection.len() + id.len() + 32);
    out.extend_from_slice(&prefix(shard));
    out.push(tag);
    out.extend_from_slice(collection);
    out.push(0);
    for byte in id {
        out.push(*byte);
        if *byte == 0 {
            out.push(2);
        }
    }
    out.extend_from_slice(&[0, 1]);
    out
}

/// What is under an entity's tag ends before this.
pub(super) fn end(mut beginning: Vec<u8>) -> Vec<u8> {
    // A name ends with 00 01, and nothing in another begins there but 00 02.
    let last = beginning.last_mut().expect("a key is not empty");
    *last += 1;
    beginning
}

pub(super) fn events(shard: ShardId, name: &Name, first: u64) -> Vec<u8> {
    numbered(of(shard, EVENTS, name), first, Some(0))
}

pub(super) fn snapshot(shard: ShardId, name: &Name, revision: u64) -> Vec<u8> {
    numbered(of(shard, EVENTS, name), revision, Some(1))
}

pub(super) fn answer(shard: ShardId, name: &Name, key: &[u8; 16]) -> Vec<u8> {
    [&of(shard, ANSWER, name)[..], key].concat()
}

pub(super) fn queue(shard: ShardId, name: &Name, number: u64) -> Vec<u8> {
    numbered(of(shard, QUEUE, name), number, None)
}

fn numbered(mut key: Vec<u8>, number: u64, what: Option<u8>) -> Vec<u8> {
    key.extend_from_slice(&number.to_be_bytes());
    key.extend(what);
    key
}

/// The sequence of a key under `beginning`, and whether it is a snapshot's; a piece's key reads as
/// its head's.
pub(super) fn sequence(beginning: &[u8], key: &[u8]) -> Option<(u64, bool)> {
    let (number, rest) = key.strip_prefix(beginning)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), *rest.first()? == 1))
}

/// The name in a head's or a sweep's key.
pub(super) fn name(key: &[u8]) -> Option<Name> {
    let rest = key.get(PREFIX + 1..)?;
    let split = rest.iter().position(|byte| *byte == 0)?;
    let (collection, rest) = rest.split_at(split);
    let id = rest[1..].strip_suffix(&[0, 1])?;
    let mut plain = Vec::with_capacity(id.len());
    let mut bytes = id.iter();
    while let Some(byte) = bytes.next() {
        plain.push(*byte);
        if *byte == 0 {
            bytes.next().filter(|escape| **escape == 2)?;
        }
    }
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Name::parse(text(collection)?, text(&plain)?).ok()
}
