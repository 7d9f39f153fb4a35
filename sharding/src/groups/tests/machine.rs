//! A state machine that can be judged: each group's state is the list of its commands.
//!
//! ```text
//! z group index    a command that was applied
//! y group          the last index applied
//! w group index    a command of a state that is being taken
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use atoll_store::backend::memory::Memory;
use atoll_store::backend::{Backend, Write};
use atoll_store::shard::ShardId;

use crate::groups::{Chunk, Entry, State};

/// Commands in a chunk: few, so that a state takes many.
const CHUNK: usize = 4;

#[derive(Clone, Default)]
pub(super) struct Part {
    pub(super) applied: u64,
    pub(super) commands: BTreeMap<u64, Bytes>,
    staged: BTreeMap<u64, Bytes>,
}

#[derive(Default)]
pub(super) struct Machine {
    pub(super) parts: BTreeMap<ShardId, Part>,
    /// Chunks staged.
    pub(super) staged: usize,
    /// States taken or left of which no news came yet: until then news may be of before.
    pub(super) switched: BTreeMap<ShardId, usize>,
}

fn key(tag: u8, group: ShardId, index: u64) -> Vec<u8> {
    [&[tag][..], &group.bytes(), &index.to_be_bytes()].concat()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

impl Machine {
    pub(super) fn open(disk: &Memory) -> Machine {
        let mut machine = Machine::default();
        for (at, value) in disk.scan(b"w", b"{", usize::MAX).unwrap() {
            let group = ShardId::from_bytes(at[1..7].try_into().unwrap());
            let part = machine.parts.entry(group).or_default();
            match at[0] {
                b'w' => drop(part.staged.insert(number(&at[7..15]), value)),
                b'y' => part.applied = number(&value),
                b'z' => drop(part.commands.insert(number(&at[7..15]), value)),
                _ => {}
            }
        }
        machine
    }

    pub(super) fn applied(&self, group: ShardId) -> u64 {
        self.parts.get(&group).map_or(0, |part| part.applied)
    }

    /// Applies an entry: the next one, once.
    pub(super) fn apply(&mut self, group: ShardId, entry: &Entry) -> Vec<Write> {
        let part = self.parts.entry(group).or_default();
        let next = if part.applied == 0 { 2 } else { part.applied + 1 };
        if entry.index != next {
            let switched = self.switched.get(&group).is_some_and(|count| *count > 0);
            assert!(switched, "{} of {group} comes after {}", entry.index, part.applied);
            return Vec::new();
        }
        part.applied = entry.index;
        let mut writes = vec![(key(b'y', group, 0), Some(entry.index.to_be_bytes().to_vec()))];
        if !entry.bytes.is_empty() {
            part.commands.insert(entry.index, entry.bytes.clone());
            writes.push((key(b'z', group, entry.index), Some(entry.bytes.to_vec())));
        }
        writes
    }
}

impl State for Machine {
    fn chunk(&self, group: ShardId, index: u64, after: &[u8]) -> Option<Chunk> {
        let part = self.parts.get(&group)?;
        if part.applied < index {
            return None;
        }
        let from = if after.is_empty() { 0 } else { number(after) + 1 };
        let mut rest = part.commands.range(from..=index);
        let records: Vec<(u64, Bytes)> =
            rest.by_ref().take(CHUNK).map(|(at, command)| (*at, command.clone())).collect();
        let last = records.last().map(|(at, _)| at.to_be_bytes().to_vec().into());
        let next = last.filter(|_| rest.next().is_some());
        Some(Chunk { records: postcard::to_stdvec(&records).unwrap().into(), next })
    }

    fn stage(&mut self, group: ShardId, records: &[u8], writes: &mut Vec<Write>) -> bool {
        let Ok(records) = postcard::from_bytes::<Vec<(u64, Bytes)>>(records) else { return false };
        self.staged += 1;
        let part = self.parts.entry(group).or_default();
        for (at, command) in records {
            writes.push((key(b'w', group, at), Some(command.to_vec())));
            assert_eq!(part.staged.insert(at, command), None, "a chunk comes once");
        }
        true
    }

    fn discard(&mut self, group: ShardId, writes: &mut Vec<Write>) {
        let Some(part) = self.parts.get_mut(&group) else { return };
        let staged = std::mem::take(&mut part.staged);
        writes.extend(staged.into_keys().map(|at| (key(b'w', group, at), None)));
    }

    fn install(&mut self, group: ShardId, index: u64, writes: &mut Vec<Write>) {
        let part = self.parts.entry(group).or_default();
        let staged = std::mem::take(&mut part.staged);
        for at in part.commands.keys() {
            writes.push((key(b'z', group, *at), None));
        }
        for (at, command) in &staged {
            writes.push((key(b'w', group, *at), None));
            writes.push((key(b'z', group, *at), Some(command.to_vec())));
        }
        writes.push((key(b'y', group, 0), Some(index.to_be_bytes().to_vec())));
        (part.commands, part.applied) = (staged, index);
        *self.switched.entry(group).or_default() += 1;
    }

    fn leave(&mut self, group: ShardId, writes: &mut Vec<Write>) {
        *self.switched.entry(group).or_default() += 1;
        let Some(part) = self.parts.remove(&group) else { return };
        writes.push((key(b'y', group, 0), None));
        writes.extend(part.commands.into_keys().map(|at| (key(b'z', group, at), None)));
        writes.extend(part.staged.into_keys().map(|at| (key(b'w', group, at), None)));
    }
}
