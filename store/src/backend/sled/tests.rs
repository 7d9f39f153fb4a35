//! Tests of the sled backend on a real directory.

use super::*;
use crate::backend::memory::Memory;
use proptest::prelude::*;

const CACHE: u64 = 16 * 1024 * 1024;

fn open(dir: &Path) -> Sled {
    Sled::open(dir, CACHE).unwrap()
}

fn put(backend: &dyn Backend, key: &[u8], value: &[u8]) {
    backend.commit(&[(key.to_vec(), Some(value.to_vec()))]).unwrap();
}

fn blobs(dir: &Path) -> usize {
    dir.join("blobs").read_dir().unwrap().count()
}

#[test]
fn what_was_flushed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u8 {
        let sled = open(dir.path());
        assert_eq!(sled.scan(b"", b"\xFF", 99).unwrap().len(), usize::from(round));
        put(&sled, &[round], b"value");
        sled.flush().unwrap();
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _sled = open(dir.path());
    let error = Sled::open(dir.path(), CACHE).err().unwrap().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Sled::open(&file.join("data"), CACHE).err().unwrap().to_string();
    assert!(error.contains("cannot create the directory"), "{error}");
}

#[test]
fn a_corrupt_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    drop(open(dir.path()));
    let snapshot = dir
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .unwrap();
    let mut bytes = std::fs::read(&snapshot).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let error = Sled::open(dir.path(), CACHE).err().unwrap().to_string();
    assert!(error.contains("the database is corrupt"), "{error}");
}

/// The longest records do not spill into blobs, which sled would leave unsynced.
#[test]
fn the_longest_records_stay_in_the_synced_file() {
    let dir = tempfile::tempdir().unwrap();
    let sled = open(dir.path());
    for round in 0..3 {
        for group in 0..8_u8 {
            let batch: Vec<Write> = (0..64)
                .map(|n| (vec![b'e', n, group], Some(vec![n ^ round; crate::record::BODY_MAX + 6])))
                .collect();
            sled.commit(&batch).unwrap();
            sled.flush().unwrap();
            assert_eq!(blobs(dir.path()), 0);
        }
    }
}

#[test]
fn a_blob_is_synced_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![7; 2 * SEGMENT];
    let sled = open(dir.path());
    put(&sled, b"large", &large);
    sled.flush().unwrap();
    assert!(blobs(dir.path()) > 0);
    drop(sled);
    assert!(open(dir.path()).get(b"large").unwrap().unwrap() == large);
}

#[test]
fn free_space_is_that_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open(dir.path()).free_space().unwrap().unwrap() > 0);
}

/// Rot of the data file is refused at opening or at reading, or cuts off the newest batches.
fn check_rot(source: &Path, at: prop::sample::Index, bit: u32) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("blobs")).unwrap();
    for entry in source.read_dir().unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let data = dir.path().join("db");
    let mut bytes = std::fs::read(&data).unwrap();
    let at = at.index(ROTTEN);
    bytes[at] ^= 1 << bit;
    std::fs::write(&data, bytes).unwrap();
    let Ok(sled) = Sled::open(dir.path(), CACHE) else { return };
    let Ok(pairs) = sled.scan(b"", &[0xFF; 9], usize::MAX) else { return };
    let written = (0..BATCHES).flat_map(batch_of).map(|(key, value)| (key, value.unwrap()));
    let found = pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec()));
    assert!(found.eq(written.take(pairs.len())));
    assert_eq!(pairs.len() % PAIRS, 0);
}

const BATCHES: u16 = 60;
const PAIRS: usize = 8;
/// Bytes of the data file that the batches take, about.
const ROTTEN: usize = 100_000;

fn batch_of(number: u16) -> Vec<Write> {
    let pair = |n: u8| ([&number.to_be_bytes()[..], &[n]].concat(), Some(vec![n; 100]));
    (0..PAIRS as u8).map(pair).collect()
}

fn batch() -> impl Strategy<Value = Vec<Write>> {
    let key = prop::collection::vec(prop::sample::select(vec![0_u8, 1, 0xFF]), 1..5);
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..50));
    prop::collection::vec((key, value), 0..20)
}

fn check_same(sled: &Sled, memory: &Memory, from: &[u8], until: &[u8], limit: usize) {
    assert_eq!(sled.scan(from, until, limit).unwrap(), memory.scan(from, until, limit).unwrap());
    assert_eq!(sled.last(from, until).unwrap(), memory.last(from, until).unwrap());
    assert_eq!(sled.get(from).unwrap(), memory.get(from).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rot_never_reads_as_something_else(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let sled = open(dir.path());
        for number in 0..BATCHES {
            sled.commit(&batch_of(number)).unwrap();
            if number % 10 == 9 {
                sled.flush().unwrap();
            }
        }
        drop(sled);
        for (at, bit) in flips {
            check_rot(dir.path(), at, bit);
        }
    }

    /// sled answers as the model does, before and after reopening.
    #[test]
    fn answers_as_the_model(
        batches in prop::collection::vec(batch(), 1..20),
        looks in prop::collection::vec((batch(), 0..30_usize), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new();
        let sled = open(dir.path());
        for batch in &batches {
            sled.commit(batch).unwrap();
            memory.commit(batch).unwrap();
        }
        check_same(&sled, &memory, b"", &[0xFF; 9], usize::MAX);
        sled.flush().unwrap();
        drop(sled);
        let sled = open(dir.path());
        check_same(&sled, &memory, b"", &[0xFF; 9], usize::MAX);
        for (keys, limit) in looks {
            for pair in keys.windows(2) {
                check_same(&sled, &memory, &pair[0].0, &pair[1].0, limit);
            }
        }
    }
}
