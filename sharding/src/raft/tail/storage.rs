//! The log as the consensus crate reads it.

use raft::eraftpb::{Entry as RaftEntry, Snapshot as RaftSnapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use super::Tail;
use crate::raft::wire::Snapshot;

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.roster.config.to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<RaftEntry>> {
        // Of what cannot be read a follower gets a snapshot.
        let found = self.range(low, high, max_size.into().unwrap_or(u64::MAX));
        found.ok_or(Error::Store(StorageError::Compacted))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or(Error::Store(StorageError::Compacted))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.end)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<RaftSnapshot> {
        let known = self.offered().or_else(|| Some((self.state, self.term_at(self.state)?)));
        let at = known.filter(|(index, _)| *index >= request_index && *index > 0);
        let (Some((index, term)), config) = (at, &self.roster.config) else {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        // Who is not named in it would refuse it.
        if !config.contains(to) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        self.offered.set(Some((index, term)));
        let (config, data) = (config.clone(), self.roster.encode());
        Ok(Snapshot { index, term, config, data }.into_raft())
    }
}
