//! A backend in memory, which can lose power, rot, fill up, fail and be put back to an older copy.
//!
//! Invariants:
//! 1. The three of [`super`]: it is the model that other backends are tested against.
//! 2. Nothing here depends on time or chance: which unflushed batches survive is an argument.
//!
//! Left out: torn batches. The trait promises that there are none; an engine is tested for it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{Backend, BackendError, Write};

type Image = BTreeMap<Bytes, Bytes>;

/// A cheap handle to one such backend; clones share it.
#[derive(Clone, Default)]
pub struct Memory {
    // Held for one operation, never across a call out.
    disk: Arc<Mutex<Disk>>,
}

/// A copy of what a crash would have left.
#[derive(Clone)]
pub struct Snapshot(Image);

#[derive(Default)]
struct Disk {
    /// What reads see: everything committed.
    live: Image,
    /// What a crash leaves: everything flushed.
    durable: Image,
    unflushed: Vec<Vec<(Bytes, Option<Bytes>)>>,
    free_space: Option<u64>,
    fail_commit: bool,
    fail_flush: bool,
    commits: u64,
    flushes: u64,
}

impl Disk {
    fn harden(&mut self, batches: usize) {
        let batches = batches.min(self.unflushed.len());
        for batch in self.unflushed.drain(..batches) {
            apply(&mut self.durable, &batch);
        }
    }
}

fn apply(image: &mut Image, batch: &[(Bytes, Option<Bytes>)]) {
    for (key, value) in batch {
        match value {
            Some(value) => image.insert(key.clone(), value.clone()),
            None => image.remove(key),
        };
    }
}

impl Memory {
    /// An empty backend without a limit of space.
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no operation panics while it holds the disk")
    }

    /// Loses everything committed after the last flush.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Loses what was committed after the last flush, but for the first `batches` batches of it:
    /// an engine may write earlier than it must, in order.
    pub fn crash_keeping(&self, batches: usize) {
        let mut disk = self.disk();
        disk.harden(batches);
        disk.unflushed.clear();
        disk.live = disk.durable.clone();
        (disk.fail_commit, disk.fail_flush) = (false, false);
    }

    /// The number of batches committed since the last flush.
    pub fn unflushed(&self) -> usize {
        self.disk().unflushed.len()
    }

    /// Flips one bit of the value of `key`, on disk and for readers; `bit` counts from the lowest
    /// bit of the first byte and wraps. False if there is no such value, or it is empty.
    pub fn corrupt(&self, key: &[u8], bit: usize) -> bool {
        let mut guard = self.disk();
        let disk = &mut *guard;
        let mut flipped = false;
        for image in [&mut disk.live, &mut disk.durable] {
            if let Some(value) = image.get_mut(key).filter(|value| !value.is_empty()) {
                let mut bytes = value.to_vec();
                let at = bit % (bytes.len() * 8);
                bytes[at / 8] ^= 1 << (at % 8);
                *value = bytes.into();
                flipped = true;
            }
        }
        flipped
    }

    /// Bytes that are durable, keys and values; and how many keys start with each byte.
    pub fn holds(&self) -> (u64, BTreeMap<u8, u64>) {
        let (mut bytes, mut records) = (0, BTreeMap::new());
        for (key, value) in &self.disk().durable {
            bytes += (key.len() + value.len()) as u64;
            *records.entry(key.first().copied().unwrap_or(0)).or_default() += 1;
        }
        (bytes, records)
    }

    /// A copy of the disk as a crash would leave it now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.disk().durable.clone())
    }

    /// Puts the disk back to a copy; what was not flushed is gone, too.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut disk = self.disk();
        disk.unflushed.clear();
        disk.durable = snapshot.0.clone();
        disk.live = snapshot.0.clone();
    }

    /// Sets the free space in bytes, which commits do not use up; a batch with more bytes than
    /// that is refused as `Full`. `None`: no limit.
    pub fn set_free_space(&self, bytes: Option<u64>) {
        self.disk().free_space = bytes;
    }

    /// Makes the next commit fail; nothing of it is written.
    pub fn fail_next_commit(&self) {
        self.disk().fail_commit = true;
    }

    /// Makes the next flush fail; what it should have made durable stays unflushed.
    pub fn fail_next_flush(&self) {
        self.disk().fail_flush = true;
    }

    /// The number of commits that succeeded.
    pub fn commits(&self) -> u64 {
        self.disk().commits
    }

    /// The number of flushes that succeeded.
    pub fn flushes(&self) -> u64 {
        self.disk().flushes
    }
}

fn bounds<'a>(from: &'a [u8], until: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    // A range that ends before it starts is empty here, where BTreeMap panics.
    (Bound::Included(from), Bound::Excluded(until.max(from)))
}

fn owned((key, value): (&Bytes, &Bytes)) -> (Bytes, Bytes) {
    (key.clone(), value.clone())
}

impl Backend for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.disk().live.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let disk = self.disk();
        let range = disk.live.range::<[u8], _>(bounds(from, until));
        Ok(range.take(limit).map(owned).collect())
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        let disk = self.disk();
        Ok(disk.live.range::<[u8], _>(bounds(from, until)).next_back().map(owned))
    }

    fn commit(&self, batch: &[Write]) -> Result<(), BackendError> {
        let mut guard = self.disk();
        let disk = &mut *guard;
        if std::mem::take(&mut disk.fail_commit) {
            return Err(BackendError::Engine("commit made to fail".into()));
        }
        let bytes = batch.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        if disk.free_space.is_some_and(|free| free < bytes.sum::<usize>() as u64) {
            return Err(BackendError::Full);
        }
        let copy = |bytes: &Vec<u8>| Bytes::copy_from_slice(bytes);
        let batch: Vec<_> =
            batch.iter().map(|(key, value)| (copy(key), value.as_ref().map(copy))).collect();
        apply(&mut disk.live, &batch);
        disk.unflushed.push(batch);
        disk.commits += 1;
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        let mut disk = self.disk();
        if std::mem::take(&mut disk.fail_flush) {
            return Err(BackendError::Engine("flush made to fail".into()));
        }
        disk.harden(usize::MAX);
        disk.flushes += 1;
        Ok(())
    }

    fn free_space(&self) -> Result<Option<u64>, BackendError> {
        Ok(self.disk().free_space)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn put(memory: &Memory, key: &str, value: &str) {
        memory.commit(&[(key.into(), Some(value.into()))]).unwrap();
    }

    fn keys(memory: &Memory) -> Vec<Bytes> {
        memory.scan(b"", b"\xFF", 99).unwrap().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_crash_loses_what_was_not_flushed() {
        let memory = Memory::new();
        put(&memory, "a", "1");
        memory.flush().unwrap();
        put(&memory, "b", "2");
        put(&memory, "c", "3");
        assert_eq!(keys(&memory), ["a", "b", "c"]);
        memory.crash_keeping(1);
        assert_eq!(keys(&memory), ["a", "b"]);
        put(&memory, "c", "3");
        memory.crash();
        assert_eq!(keys(&memory), ["a", "b"]);
        assert_eq!((memory.commits(), memory.flushes()), (4, 1));
    }

    #[test]
    fn a_restored_disk_is_as_old_as_its_copy() {
        let memory = Memory::new();
        put(&memory, "a", "1");
        memory.flush().unwrap();
        let copy = memory.snapshot();
        put(&memory, "b", "2");
        memory.flush().unwrap();
        memory.restore(&copy);
        assert_eq!(keys(&memory), ["a"]);
        memory.crash();
        assert_eq!(keys(&memory), ["a"]);
    }

    #[test]
    fn faults_are_reported_and_write_nothing() {
        let memory = Memory::new();
        memory.set_free_space(Some(1));
        let batch = [(b"a".to_vec(), Some(b"1".to_vec()))];
        assert!(matches!(memory.commit(&batch), Err(BackendError::Full)));
        memory.set_free_space(None);
        memory.fail_next_commit();
        assert!(matches!(memory.commit(&batch), Err(BackendError::Engine(_))));
        assert!(keys(&memory).is_empty());
        memory.commit(&batch).unwrap();
        memory.fail_next_flush();
        assert!(memory.flush().is_err());
        memory.crash();
        assert!(keys(&memory).is_empty());
    }

    #[test]
    fn rot_flips_one_bit() {
        let memory = Memory::new();
        put(&memory, "a", "0");
        assert!(memory.corrupt(b"a", 0));
        assert!(!memory.corrupt(b"b", 0));
        assert_eq!(memory.get(b"a").unwrap().unwrap(), "1");
    }

    #[test]
    fn an_inverted_range_is_empty() {
        let memory = Memory::new();
        put(&memory, "b", "1");
        assert!(memory.scan(b"c", b"a", 9).unwrap().is_empty());
        assert!(memory.last(b"c", b"a").unwrap().is_none());
    }
}
