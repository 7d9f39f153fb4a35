//! The seam to a storage engine: ordered keys and values, atomic batches, a real flush.
//!
//! Invariants:
//! 1. `commit` is atomic: after a crash all of a batch is there, or none of it.
//! 2. What was committed before a `flush` that returned is there after a crash.
//! 3. Batches become durable in the order of their commits.
//!
//! Left out: transactions, snapshots. There is one writer, and it needs neither.

pub mod memory;
pub mod sled;

use bytes::Bytes;

/// One change of a batch: a key, and its new value or `None` to delete it.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// A storage engine failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The engine reported an error; what was being written is unknown: end the process.
    #[error("storage engine: {0}")]
    Engine(String),
    /// The disk is full; nothing was written.
    #[error("disk full")]
    Full,
}

/// A storage engine.
pub trait Backend: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError>;

    /// Up to `limit` pairs with `from <= key < until`, in order of keys.
    fn scan(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackendError>;

    /// The last pair with `from <= key < until`.
    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<(Bytes, Bytes)>, BackendError>;

    /// Applies a batch atomically; durable only after a later `flush`.
    fn commit(&self, batch: &[Write]) -> Result<(), BackendError>;

    /// Makes everything committed so far durable: a real fsync.
    fn flush(&self) -> Result<(), BackendError>;

    /// Bytes free on the disk, if there is a disk.
    fn free_space(&self) -> Result<Option<u64>, BackendError>;
}
