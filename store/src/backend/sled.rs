//! The sled storage engine. No other file names it.
//!
//! Invariants:
//! 1. The three of [`super`].
//! 2. A `flush` that returned has fsynced: sled's own flush only starts the writing (it calls
//!    `sync_file_range`), so the file `db` is synced after it.
//! 3. No file but `db` holds what `flush` answers for. sled moves a page of more than a quarter of
//!    a segment to a file of its own under `blobs/`, which it never syncs; a leaf of 16 records of
//!    32 KiB stays below that with segments of 4 MiB (with sled's 512 KiB it would not). Where a
//!    blob appears all the same, `flush` syncs it before `db`.
//! 4. One process at a time: the directory is locked.
//!
//! Left out: sled's background flusher (the committer flushes), compression, several trees.
//! Quarantine of a damaged page, too: sled checks its pages itself, and what it finds is an
//! `Engine` error of every read and write that touches the page. On opening it cuts its log off at
//! a torn end, as it must after a crash, so damage just there can look like an older disk.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::io::Errno;

use super::{Backend, BackendError, Write};

/// Bytes of a segment of sled's log, a part of the format of a directory; see invariant 3.
const SEGMENT: usize = 4 * 1024 * 1024;
/// Bytes of page cache where nothing else is known. It bounds sled's decoded pages, not the
/// process: a million records of 100 bytes with a cache of 64 MiB took 170 to 290 MB.
pub const CACHE_DEFAULT: u64 = 256 * 1024 * 1024;

/// How long an earlier database of this process may take to let go of its directory: 5 s.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A directory opened with sled.
pub struct Sled {
    // Field order is drop order: the lock goes last.
    db: ::sled::Db,
    data: File,
    blobs: Blobs,
    dir: PathBuf,
    _lock: File,
}

impl Sled {
    /// Opens or creates the database in `dir`, with a page cache of about `cache` bytes.
    ///
    /// Errors name the directory and say whether it is in use, corrupt, or cannot be accessed.
    pub fn open(dir: &Path, cache: u64) -> Result<Self, BackendError> {
        let explain = |what: &str| {
            let context = format!("{}: {what}", dir.display());
            move |error: io::Error| BackendError::Engine(format!("{context}: {error}"))
        };
        std::fs::create_dir_all(dir).map_err(explain("cannot create the directory"))?;
        let lock = lock(dir)?;
        let db = open_engine(dir, cache)?;
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.join("db"))
            .map_err(explain("cannot open the data file"))?;
        let blobs = Blobs::new(dir.join("blobs"));
        let sled = Self { db, data, blobs, dir: dir.to_owned(), _lock: lock };
        sled.flush()?;
        sync_names(dir).map_err(explain("cannot sync the directory"))?;
        Ok(sled)
    }
}

/// Takes the lock of a directory; it lasts as long as the file stays open.
fn lock(dir: &Path) -> Result<File, BackendError> {
    let path = dir.join("lock");
    let failed = |why: String| BackendError::Engine(format!("{}: {why}", path.display()));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| failed(format!("cannot open the lock file: {error}")))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(failed("the data directory is in use by another process".into()))
        }
        Err(error) => Err(failed(format!("cannot lock the data directory: {error}"))),
    }
}

/// Whether sled's own lock is still held. Ours was just taken, so it is by the last threads of a
/// database that this process has closed.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("acquire lock")
}

/// Opens the database; sled panics on some kinds of damage, which counts as damage, too.
fn open_engine(dir: &Path, cache: u64) -> Result<::sled::Db, BackendError> {
    let config = ::sled::Config::new()
        .path(dir)
        .cache_capacity(cache)
        .segment_size(SEGMENT)
        .flush_every_ms(None);
    let corrupt = |what: &str| {
        let dir = dir.display();
        BackendError::Engine(format!("{dir}: the database is corrupt ({what}); replace the disk"))
    };
    let mut opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    for _ in 0..LOCK_TRIES {
        match &opened {
            Ok(Err(::sled::Error::Io(error))) if is_locked(error) => {
                std::thread::sleep(LOCK_PAUSE);
                opened = catch_unwind(AssertUnwindSafe(|| config.open()));
            }
            _ => break,
        }
    }
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error @ ::sled::Error::Corruption { .. })) => Err(corrupt(&error.to_string())),
        Ok(Err(error)) => {
            Err(BackendError::Engine(format!("{}: cannot open: {error}", dir.display())))
        }
        Err(_) => Err(corrupt("sled panicked")),
    }
}

/// Makes the names of a new database durable: its settings, which sled leaves unsynced, the
/// directory, and its entry in the directory above.
fn sync_names(dir: &Path) -> io::Result<()> {
    File::open(dir.join("conf"))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The directory of blobs; in normal use it stays empty.
struct Blobs {
    dir: PathBuf,
    /// The names of those that were synced. A blob is written once, and its name never used again.
    synced: Mutex<BTreeSet<OsString>>,
}

impl Blobs {
    fn new(dir: PathBuf) -> Self {
        Self { dir, synced: Mutex::default() }
    }

    fn sync(&self) -> io::Result<()> {
        let mut synced = self.synced.lock().expect("nothing panics while it holds the lock");
        let names = self.dir.read_dir()?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<BTreeSet<OsString>>>()?;
        if names.is_subset(&synced) {
            return Ok(());
        }
        for name in names.difference(&synced) {
            match File::open(self.dir.join(name)) {
                Ok(blob) => blob.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        File::open(&self.dir)?.sync_all()?;
        *synced = names;
        Ok(())
    }
}

fn engine(error: ::sled::Error) -> BackendError {
    BackendError::Engine(match error {
        ::sled::Error::Corruption { .. } => "a page of the database is corrupt".into(),
        error => error.to_string(),
    })
}

fn system(error: impl std::fmt::Display) -> BackendError {
    BackendError::Engine(error.to_string())
}

/// Copies out of sled's page, so that a small value held for long does not pin a large page.
fn copied((key, value): (::sled::IVec, ::sled::IVec)) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))
}

impl Backend for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        let value = self.db.get(key).map_err(engine)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let range = self.db.range(from..until).take(limit);
        range.map(|pair| pair.map(copied).map_err(engine)).collect()
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        if from >= until {
            return Ok(None);
        }
        self.db
            .range(from..until)
            .next_back()
            .transpose()
            .map(|pair| pair.map(copied))
            .map_err(engine)
    }

    fn commit(&self, batch: &[Write]) -> Result<(), BackendError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut writes = ::sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(&key[..], &value[..]),
                None => writes.remove(&key[..]),
            }
        }
        self.db.apply_batch(writes).map_err(engine)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.db.flush().map_err(engine)?;
        self.blobs.sync().map_err(system)?;
        self.data.sync_data().map_err(system)
    }

    fn free_space(&self) -> Result<Option<u64>, BackendError> {
        let disk = statvfs(&self.dir).map_err(system)?;
        Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
