//! The one committer: batches of all shards go to disk together, and what waits for them is let go.
//!
//! ```text
//! submit ─ bounded channel ─> take all that queued up ─> one commit ─> one flush ─> release
//! ```
//!
//! Invariants:
//! 1. A payload is released only when its batch and all batches submitted before it are durable;
//!    a batch without writes waits for the earlier ones like any other (R1).
//! 2. Payloads are released in the order in which they were submitted.
//! 3. After a failed commit or flush nothing is ever released: what it left on disk is unknown.
//!    `fail` is called once, and is expected to end the process.
//! 4. The log lies in records of consecutive entries: a group of 256 operations is one or two
//!    entries of the storage engine, not 256.
//!
//! ```text
//! log record  key: 'l' · position of the first entry u64 BE
//!             body: (length u32 LE · entry)*, at most 32 KiB, or one longer entry
//! ```
//!
//! Left out: retries and timers. A group is what queued up while the disk was busy.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{Buf, Bytes};

use crate::backend::{Backend, BackendError, Write};
use crate::mutant::Mutant;
use crate::record::{BODY_MAX, Damage, Damaged, RecordKind, encode};

/// Batches that may wait for the committer; at the limit, `submit` blocks its caller.
pub const QUEUE: usize = 64;
/// Bytes at which a group is closed: one flush stays in the order of 10 ms, and a group below the
/// size of a segment of the engine's log.
pub const GROUP_BYTES: usize = 1024 * 1024;

const LENGTH: usize = 4;

/// What one step wants to have on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Writes, in order: of two to one key the later wins.
    pub writes: Vec<Write>,
    /// Entries of the log with their positions, which are dense over all batches.
    pub log: Vec<(u64, Bytes)>,
}

impl Batch {
    fn bytes(&self) -> usize {
        let writes =
            self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        let log = self.log.iter().map(|(_, entry)| LENGTH + entry.len());
        writes.sum::<usize>() + log.sum::<usize>()
    }
}

/// The key of the log record whose first entry has this position.
pub fn log_key(position: u64) -> Vec<u8> {
    [&b"l"[..], &position.to_be_bytes()].concat()
}

/// The position of the first entry of the log record under `key`; `None` for any other key.
pub fn log_position(key: &[u8]) -> Option<u64> {
    let position = key.strip_prefix(b"l")?;
    Some(u64::from_be_bytes(position.try_into().ok()?))
}

/// The writes of log records that hold the entries of `batches`, as few as their size allows.
pub fn pack(batches: &[Batch]) -> Vec<Write> {
    let mut packer = Packer::default();
    for (position, entry) in batches.iter().flat_map(|batch| &batch.log) {
        packer.push(*position, entry);
    }
    packer.close();
    packer.writes
}

/// The log record being filled, and the finished ones.
#[derive(Default)]
struct Packer {
    writes: Vec<Write>,
    body: Vec<u8>,
    first: u64,
    next: u64,
}

impl Packer {
    fn push(&mut self, position: u64, entry: &Bytes) {
        // Positions are dense; were there a gap all the same, a record must not hide it.
        if position != self.next || self.body.len() + LENGTH + entry.len() > BODY_MAX {
            self.close();
        }
        if self.body.is_empty() {
            self.first = position;
        }
        let length = u32::try_from(entry.len()).expect("a log entry is shorter than 4 GiB");
        self.body.extend_from_slice(&length.to_le_bytes());
        self.body.extend_from_slice(entry);
        self.next = position + 1;
    }

    fn close(&mut self) {
        if !self.body.is_empty() {
            // Positions are written once, so there is no earlier value with pieces to delete.
            encode(RecordKind::Log, &log_key(self.first), &self.body, &mut self.writes, 0);
            self.body.clear();
        }
    }
}

/// The entries of a log record with their positions; slices of `body`, not copies.
pub fn unpack(first_position: u64, body: &Bytes) -> Result<Vec<(u64, Bytes)>, Damaged> {
    let damaged = || Damaged { key: log_key(first_position).into(), why: Damage::Body };
    let mut rest = body.clone();
    let mut entries = Vec::new();
    let mut position = first_position;
    while !rest.is_empty() {
        let length = rest.try_get_u32_le().map_err(|_| damaged())? as usize;
        if length > rest.len() {
            return Err(damaged());
        }
        entries.push((position, rest.split_to(length)));
        position = position.checked_add(1).ok_or_else(damaged)?;
    }
    Ok(entries)
}

/// The committer has stopped or failed; the batch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the committer has stopped")]
pub struct Stopped;

/// A handle to the committer's thread. Dropping it writes what is queued and waits for the end.
pub struct Committer<T: Send + 'static> {
    queue: Option<SyncSender<(Batch, T)>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Committer<T> {
    /// Starts the thread. It calls `release` with the payloads of each durable group, in order;
    /// or `fail`, once, after which it releases nothing and every `submit` is refused.
    pub fn start(
        backend: Arc<dyn Backend>,
        release: impl FnMut(Vec<T>) + Send + 'static,
        fail: impl FnOnce(BackendError) + Send + 'static,
    ) -> Self {
        let (queue, batches) = sync_channel(QUEUE);
        let run = move || {
            // A panic of the engine must not leave its waiters waiting.
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&*backend, batches, release)));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => fail(error),
                Err(_) => fail(BackendError::Engine("the committer panicked".into())),
            }
        };
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(run)
            .expect("a process that starts can start a thread");
        Self { queue: Some(queue), thread: Some(thread) }
    }

    /// Hands a batch over; `payload` is released once it is durable. Blocks while [`QUEUE`]
    /// batches wait.
    pub fn submit(&self, batch: Batch, payload: T) -> Result<(), Stopped> {
        let queue = self.queue.as_ref().ok_or(Stopped)?;
        queue.send((batch, payload)).map_err(|_| Stopped)
    }

    /// Writes and releases what is queued, and waits until that is done.
    pub fn stop(self) {
        drop(self);
    }
}

impl<T: Send + 'static> Drop for Committer<T> {
    fn drop(&mut self) {
        self.queue = None;
        let Some(thread) = self.thread.take() else { return };
        // The last handle may die in `release`, on the thread itself, which cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() {
            // It catches panics; one in `fail` has been reported by then.
            let _ = thread.join();
        }
    }
}

fn run<T>(
    backend: &dyn Backend,
    batches: Receiver<(Batch, T)>,
    mut release: impl FnMut(Vec<T>),
) -> Result<(), BackendError> {
    while let Ok(first) = batches.recv() {
        let (group, payloads) = gather(first, &batches);
        write(backend, group)?;
        release(payloads);
    }
    Ok(())
}

/// Everything that is queued, up to `GROUP_BYTES` and one batch.
fn gather<T>(first: (Batch, T), batches: &Receiver<(Batch, T)>) -> (Vec<Batch>, Vec<T>) {
    let mut bytes = first.0.bytes();
    let (mut group, mut payloads) = (vec![first.0], vec![first.1]);
    while bytes < GROUP_BYTES {
        let Ok((batch, payload)) = batches.try_recv() else { break };
        bytes += batch.bytes();
        group.push(batch);
        payloads.push(payload);
    }
    (group, payloads)
}

/// What one commit of a group writes: the batches' writes in order, then the records of its log.
pub fn writes_of(group: Vec<Batch>) -> Vec<Write> {
    let log = pack(&group);
    let mut writes: Vec<Write> = group.into_iter().flat_map(|batch| batch.writes).collect();
    writes.extend(log);
    writes
}

fn write(backend: &dyn Backend, group: Vec<Batch>) -> Result<(), BackendError> {
    let writes = writes_of(group);
    if writes.is_empty() {
        return Ok(());
    }
    backend.commit(&writes)?;
    flush(backend)
}

/// Makes durable what was committed (R1).
pub fn flush(backend: &dyn Backend) -> Result<(), BackendError> {
    if Mutant::SkipFlush.is_on() {
        return Ok(());
    }
    backend.flush()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
