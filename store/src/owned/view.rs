//! A copy as it will be once what was staged is committed: the engine, under uncommitted writes.
//!
//! Invariant: a read here sees every write that was staged before it, and nothing else does.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::backend::{Backend, BackendError, Write};

/// Writes that are not known to be durable, each with the step that staged it.
#[derive(Debug, Default)]
pub(super) struct Staged {
    writes: BTreeMap<Vec<u8>, (u64, Option<Bytes>)>,
}

impl Staged {
    pub(super) fn put(&mut self, step: u64, write: &Write) {
        let value = write.1.as_ref().map(|value| Bytes::copy_from_slice(value));
        self.writes.insert(write.0.clone(), (step, value));
    }

    /// What was staged up to this step is in the engine.
    pub(super) fn settle(&mut self, step: u64) {
        self.writes.retain(|_, (staged, _)| *staged > step);
    }

    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }
}

/// The engine under what was staged.
pub(super) struct View<'a> {
    pub(super) backend: &'a dyn Backend,
    pub(super) staged: &'a Staged,
}

impl View<'_> {
    fn range(&self, from: &[u8], until: &[u8]) -> Vec<(&Vec<u8>, &Option<Bytes>)> {
        let bounds = (Bound::Included(from), Bound::Excluded(until.max(from)));
        let range = self.staged.writes.range::<[u8], _>(bounds);
        range.map(|(key, (_, value))| (key, value)).collect()
    }
}

impl Backend for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        match self.staged.writes.get(key) {
            Some((_, value)) => Ok(value.clone()),
            None => self.backend.get(key),
        }
    }

    fn scan(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let staged = self.range(from, until);
        // As many more as staged deletions may hide.
        let found = self.backend.scan(from, until, limit + staged.len())?;
        let mut pairs: BTreeMap<Bytes, Bytes> = found.into_iter().collect();
        for (key, value) in staged {
            match value {
                Some(value) => pairs.insert(Bytes::copy_from_slice(key), value.clone()),
                None => pairs.remove(&key[..]),
            };
        }
        Ok(pairs.into_iter().take(limit).collect())
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        let mut until = until.to_vec();
        loop {
            let found = self.backend.last(from, &until)?;
            let staged = self.range(from, &until);
            let newest = staged.iter().rev().find(|(_, value)| value.is_some());
            let newest = newest.map(|(key, value)| (Bytes::copy_from_slice(key), (*value).clone()));
            let Some((key, value)) = found else {
                return Ok(newest.and_then(|(key, value)| Some((key, value.clone()?))));
            };
            match newest {
                Some((newer, value)) if newer >= key => {
                    return Ok(value.clone().map(|value| (newer, value)));
                }
                _ if !self.staged.writes.contains_key(&key[..]) => return Ok(Some((key, value))),
                _ => until = key.to_vec(),
            }
        }
    }

    fn commit(&self, _: &[Write]) -> Result<(), BackendError> {
        Err(BackendError::Engine("a view is only read".into()))
    }

    fn flush(&self) -> Result<(), BackendError> {
        Err(BackendError::Engine("a view is only read".into()))
    }

    fn free_space(&self) -> Result<Option<u64>, BackendError> {
        self.backend.free_space()
    }
}
