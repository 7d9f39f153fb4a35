//! A core in its caller's hands: no threads, no runtime, no time of its own.
//!
//! ```text
//! step ─> queued ─> commit: one write of all ─> written ─> flush ─> released
//! ```
//!
//! Invariants:
//! 1. What is committed together, and released after which flush, is what the committer's thread
//!    could have done: its caller chooses when.
//! 2. After a failed commit or flush nothing is ever released.
//! 3. Dropping it is a crash: what was not released is not known to anyone.
//!
//! Left out: limits of a group's size, and the wait at a full queue.

use bytes::Bytes;

use atoll_store::backend::BackendError;
use atoll_store::committer::{Batch, flush, writes_of};
use atoll_store::dot::Millis;

use super::release::{Release, Released};
use super::turn::Turn;
use super::{Parts, Replica};
use crate::core::{Bounds, Core};
use crate::transport::Arrival;

/// A core whose caller steps, commits and flushes.
pub struct Stepped {
    turn: Turn,
    release: Release,
    queued: Vec<(Batch, Released)>,
    written: Vec<Released>,
    /// Something was committed since the last flush.
    unflushed: bool,
    failed: bool,
    /// Logged by the first step, which nobody called.
    unseen: Vec<(u64, Bytes)>,
}

/// What a step did, before it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// The step's number, from 1, without gaps. [`Stepped::flush`] releases them in this order.
    pub number: u64,
    /// Positions and encoded entries (`atoll_store::log::Entry`) that it logged.
    pub logged: Vec<(u64, Bytes)>,
}

impl Stepped {
    /// Takes a core over; `bounds` are the core's. Its first step, which commits the store's own
    /// start, is queued: what that logged is told by the next one.
    pub fn new(parts: Parts, bounds: Bounds) -> (Stepped, Replica) {
        let (mut turn, release, replica) = parts.assemble(bounds);
        let (batch, released) = turn.first();
        let unseen = batch.log.clone();
        let queued = vec![(batch, released)];
        let written = Vec::new();
        let (unflushed, failed) = (false, false);
        (Stepped { turn, release, queued, written, unflushed, failed, unseen }, replica)
    }

    /// The core.
    pub fn core(&self) -> &Core {
        &self.turn.core
    }

    /// When the core wants to be stepped though nothing came, by the clock of [`Parts`]. After
    /// that clock was set back it may be far: the threaded driver steps every second anyhow.
    pub fn deadline(&self) -> Millis {
        self.core().deadline()
    }

    /// Whether a handle asked for something.
    pub fn has_requests(&self) -> bool {
        !self.turn.queue.is_empty()
    }

    /// One step over all that waits: requests, these arrivals, free space if it is due. It is
    /// queued for the commit. After a stop nothing is done any more.
    pub fn step(&mut self, arrivals: Vec<Arrival>) -> Turned {
        if self.turn.has_stopped() {
            return Turned::default();
        }
        let mut requests = Vec::new();
        while let Ok(request) = self.turn.queue.try_recv() {
            requests.push(request);
        }
        let (batch, released) = self.turn.step(requests, arrivals);
        if self.turn.has_stopped() {
            self.turn.queue.close();
        }
        let mut logged = std::mem::take(&mut self.unseen);
        logged.extend(batch.log.iter().cloned());
        let turned = Turned { number: released.commit, logged };
        self.queued.push((batch, released));
        turned
    }

    /// Whether steps wait for a commit.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Whether committed steps wait for a flush.
    pub fn has_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// Whether a handle stopped it: the last step was made. It is over when that is flushed.
    pub fn has_stopped(&self) -> bool {
        self.turn.has_stopped()
    }

    /// The committer's commit of all that queued up: one write, or none if there is nothing to
    /// write.
    pub fn commit(&mut self) -> Result<(), BackendError> {
        let (group, released): (Vec<Batch>, Vec<Released>) = self.queued.drain(..).unzip();
        let writes = writes_of(group);
        self.attempt(|stepped| match &writes[..] {
            [] => Ok(()),
            writes => {
                stepped.unflushed = true;
                stepped.turn.backend().commit(writes)
            }
        })?;
        self.written.extend(released);
        Ok(())
    }

    /// The committer's flush, then the release of all that was committed, in order. The number of
    /// steps released.
    pub fn flush(&mut self) -> Result<usize, BackendError> {
        self.attempt(|stepped| match std::mem::take(&mut stepped.unflushed) {
            false => Ok(()),
            true => flush(stepped.turn.backend()),
        })?;
        let done = std::mem::take(&mut self.written);
        let steps = done.len();
        self.release.run(done);
        Ok(steps)
    }

    /// After a failure it is unknown what is on the disk: nothing is tried again, and whoever
    /// waits is told so.
    fn attempt(
        &mut self,
        act: impl FnOnce(&mut Stepped) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        if self.failed {
            return Err(BackendError::Engine("an earlier commit or flush failed".into()));
        }
        let done = act(self);
        if done.is_err() {
            self.failed = true;
            self.queued.clear();
            self.written.clear();
        }
        done
    }
}

#[cfg(test)]
mod tests;
