//! Owned records: what entries do, and what is read back.

mod model;
mod transfer;

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::backend::memory::Memory;
use crate::backend::{Backend, BackendError, Write};
use crate::shard::ShardId;

const SHARD: ShardId = ShardId { placement: 0, slot: 7 };
const HOUR: Millis = 3_600_000;
type Pairs = Vec<(Bytes, Bytes)>;

fn name(id: &str) -> Name {
    Name::parse("carts", id).unwrap()
}

fn event(text: &str) -> NewEvent {
    NewEvent { kind: "added".into(), data: Bytes::copy_from_slice(text.as_bytes()) }
}

fn hash(text: &str) -> [u8; 16] {
    *blake3::hash(text.as_bytes()).as_bytes().first_chunk().unwrap()
}

fn append(id: &str, base: u64, key: Option<&str>, events: &[&str]) -> Entry {
    let body = Body::Append(Append {
        command_id: key.unwrap_or("none").into(),
        keyed: key.map(|key| Keyed { key: hash(key), request: hash(key) }),
        behaviour: None,
        events: events.iter().map(|text| event(text)).collect(),
        reply: Bytes::from(format!("reply to {key:?}")),
    });
    Entry { number: 0, at: 1_000, name: name(id), base, body }
}

fn snapshot(id: &str, base: u64, state: &str) -> Entry {
    let state = Bytes::copy_from_slice(state.as_bytes());
    let body = Body::Snapshot(StateAt { behaviour: [1; 32], version: 1, state });
    Entry { number: 0, at: 1_000, name: name(id), base, body }
}

fn erase(id: &str, base: u64) -> Entry {
    Entry { number: 0, at: 1_000, name: name(id), base, body: Body::Erase }
}

/// A replica on a disk of its own, which commits each entry at once.
struct Replica {
    memory: Memory,
    copy: Copy,
}

impl Replica {
    fn new() -> Replica {
        Replica::on(Memory::new())
    }

    fn on(memory: Memory) -> Replica {
        let copy = Copy::open(std::sync::Arc::new(memory.clone()), SHARD).unwrap();
        Replica { memory, copy }
    }

    fn commit(&mut self, writes: &[Write], step: u64) {
        self.memory.commit(writes).unwrap();
        self.memory.flush().unwrap();
        self.copy.settle(step);
    }

    fn apply(&mut self, entry: &Entry) -> Applied {
        let index = self.copy.position().index + 1;
        let applied = self.copy.apply(index, 1, &entry.encode().unwrap()).unwrap();
        self.commit(&applied.writes, applied.step);
        applied
    }

    fn raw(&self) -> Pairs {
        self.memory.scan(b"", b"\xFF", usize::MAX).unwrap()
    }

    fn sweep(&mut self) {
        while let Some((writes, step)) = self.copy.sweep().unwrap() {
            self.commit(&writes, step);
        }
    }

    fn texts(&self, id: &str, from: u64, limit: usize) -> Vec<String> {
        let found = events(&self.memory, SHARD, &name(id), from, limit).unwrap();
        let text = |e: &Event| format!("{}:{}", e.sequence, String::from_utf8_lossy(&e.data));
        found.iter().map(text).collect()
    }

    fn answer(&self, id: &str, key: &str, now: Millis) -> Option<Answer> {
        answer(&self.memory, SHARD, &name(id), &hash(key), now).unwrap()
    }

    fn summary(&self, id: &str) -> Summary {
        summary(&self.memory, SHARD, &name(id)).unwrap().unwrap_or_default()
    }
}

#[test]
fn events_are_dense_and_read_from_any_sequence() {
    let mut replica = Replica::new();
    replica.apply(&append("a", 0, None, &["1", "2", "3"]));
    replica.apply(&append("a", 3, None, &[]));
    replica.apply(&append("a", 3, None, &["4"]));
    replica.apply(&snapshot("a", 4, "state"));
    replica.apply(&append("a", 4, None, &["5", "6"]));
    replica.apply(&append("ab", 0, None, &["other"]));
    for from in 1..=6 {
        let expected: Vec<String> = (from..=6).map(|n| format!("{n}:{n}")).collect();
        assert_eq!(replica.texts("a", from, 99), expected);
        assert_eq!(replica.texts("a", from, 1), expected[..1]);
    }
    assert!(replica.texts("a", 7, 99).is_empty());
    assert!(replica.texts("b", 1, 99).is_empty());
    assert_eq!(replica.texts("a", 0, 2), ["1:1", "2:2"]);
    assert_eq!(replica.summary("a").snapshot, Some((4, 1)));
    assert_eq!((replica.copy.position().entities, replica.copy.position().events), (2, 7));
}

#[test]
fn an_index_is_applied_once() {
    let mut replica = Replica::new();
    let entry = append("a", 0, None, &["1"]);
    replica.apply(&entry);
    let before = replica.raw();
    let again = replica.copy.apply(1, 1, &entry.encode().unwrap()).unwrap();
    assert_eq!((again.void, again.writes.len()), (Some(Void::Index), 0));
    assert_eq!(replica.raw(), before);
}

#[test]
fn another_base_changes_nothing() {
    let mut replica = Replica::new();
    replica.apply(&append("a", 0, None, &["1"]));
    for entry in [append("a", 0, None, &["x"]), snapshot("a", 2, "x"), erase("a", 0)] {
        let applied = replica.apply(&entry);
        assert_eq!((applied.void, applied.writes.len()), (Some(Void::Base(1)), 1));
    }
    assert_eq!(replica.texts("a", 1, 9), ["1:1"]);
    assert_eq!(replica.apply(&snapshot("b", 0, "x")).void, Some(Void::Base(0)));
}

#[test]
fn a_key_counts_once_and_its_answer_is_read_back() {
    let mut replica = Replica::new();
    replica.apply(&append("a", 0, Some("k"), &["1", "2"]));
    replica.apply(&append("a", 2, None, &["3"]));
    let again = replica.apply(&append("a", 3, Some("k"), &["1", "2"]));
    assert_eq!(again.void, Some(Void::Remembered(2)));
    let answer = replica.answer("a", "k", 1_000).unwrap();
    assert_eq!((answer.revision, answer.request, answer.events.len()), (2, hash("k"), 2));
    assert_eq!(answer.reply, "reply to Some(\"k\")");
    assert_eq!(replica.answer("b", "k", 1_000), None);
    // Without events it is remembered all the same.
    replica.apply(&append("a", 3, Some("none"), &[]));
    let answer = replica.answer("a", "none", 1_000).unwrap();
    assert_eq!((answer.revision, answer.events.len()), (3, 0));
}

#[test]
fn an_answer_that_is_not_the_one_given_is_an_error() {
    let mut replica = Replica::new();
    replica.apply(&append("a", 0, Some("k"), &["1"]));
    let mut writes = Vec::new();
    let wrong = read::Appended {
        at: 0,
        command_id: String::new(),
        behaviour: None,
        events: vec![event("2")],
    };
    let body = postcard::to_stdvec(&wrong).unwrap();
    let key = keys::events(SHARD, &name("a"), 1);
    crate::record::encode(crate::record::RecordKind::Owned, &key, &body, &mut writes, 0);
    replica.memory.commit(&writes).unwrap();
    assert!(answer(&replica.memory, SHARD, &name("a"), &hash("k"), 0).is_err());
}

#[test]
fn keys_are_forgotten_by_times_in_the_log() {
    let mut replica = Replica::new();
    for n in 0..40 {
        replica.apply(&append("a", n, Some(&format!("k{n}")), &["x"]));
    }
    let keys = |replica: &Replica| {
        let key = keys::of(SHARD, keys::ANSWER, &name("a"));
        replica.memory.scan(&key, &keys::end(key.clone()), 99).unwrap().len()
    };
    assert_eq!(keys(&replica), 40);
    assert!(replica.answer("a", "k0", 1_000 + 24 * HOUR).is_some());
    assert!(replica.answer("a", "k0", 1_001 + 24 * HOUR).is_none());
    // The key counts again, and what is forgotten leaves the disk: one record of 32.
    let mut entry = append("a", 40, Some("k0"), &["y"]);
    entry.at = 1_001 + 24 * HOUR;
    assert_eq!(replica.apply(&entry).void, None);
    assert_eq!(keys(&replica), 9);
    let answer = replica.answer("a", "k0", entry.at).unwrap();
    assert_eq!(answer.revision, 41);
    // An owner with a clock that is behind does not bring time back.
    entry.at = 5;
    entry.base = 41;
    assert_eq!(replica.apply(&entry).void, Some(Void::Remembered(41)));
    assert_eq!(replica.copy.position().clock, 1_001 + 24 * HOUR);
}

#[test]
fn ten_thousand_commands_are_remembered_and_few_more() {
    let mut replica = Replica::new();
    for n in 0..10_200 {
        replica.apply(&append("a", 0, Some(&format!("k{n}")), &[]));
    }
    assert!(replica.answer("a", "k200", 1_000).is_some());
    assert!(replica.answer("a", "k136", 1_000).is_none());
    let (_, records) = replica.memory.holds();
    assert!(records[&b'w'] < 10_063 + 10_063 / 32 + 4, "{records:?}");
}

#[test]
fn erasing_destroys_all_but_the_head() {
    let mut replica = Replica::new();
    let long = "x".repeat(100_000);
    replica.apply(&append("a", 0, Some("k"), &["1", &long]));
    replica.apply(&snapshot("a", 2, &long));
    replica.apply(&append("ab", 0, None, &["kept"]));
    let applied = replica.apply(&erase("a", 2));
    assert_eq!((applied.void, applied.revision), (None, 2));
    let (_, records) = replica.memory.holds();
    assert_eq!(records[&b'w'], 4, "two heads, one event, the copy: {records:?}");
    assert_eq!(replica.answer("a", "k", 1_000), None);
    assert_eq!((replica.summary("a").revision, replica.summary("a").shown()), (2, 0));
    assert_eq!(replica.copy.position().entities, 1);
    // It goes on from its last revision, with nothing of before.
    replica.apply(&append("a", 2, Some("k"), &["new"]));
    assert_eq!(replica.texts("a", 1, 9), ["3:new"]);
    let recovered = recover(&replica.memory, SHARD, &name("a"), 1).unwrap();
    assert_eq!((recovered.snapshot, recovered.events.len()), (None, 1));
    assert_eq!(replica.texts("ab", 1, 9), ["1:kept"]);
    assert_eq!(replica.apply(&erase("never", 0)).void, None);
    assert!(summary(&replica.memory, SHARD, &name("never")).unwrap().is_none());
}

#[test]
fn a_large_entity_is_swept_in_steps_and_shows_nothing_meanwhile() {
    let mut replica = Replica::new();
    for n in 0..1_500 {
        replica.apply(&append("a", n, Some(&format!("k{n}")), &["x"]));
    }
    let applied = replica.apply(&erase("a", 1_500));
    assert!(applied.writes.len() < 300, "bounded: {}", applied.writes.len());
    replica.apply(&append("a", 1_500, Some("k1499"), &["new"]));
    assert_eq!(replica.texts("a", 1, 9), ["1501:new"]);
    assert_eq!(replica.answer("a", "k1499", 1_000).unwrap().revision, 1_501);
    assert_eq!(replica.answer("a", "k1400", 1_000), None);
    replica.sweep();
    let (_, records) = replica.memory.holds();
    assert_eq!(records[&b'w'], 4, "head, event, answer, the copy: {records:?}");
    assert_eq!(replica.answer("a", "k1499", 1_000).unwrap().revision, 1_501);
}

/// Counts what is read.
struct Counting(Memory, AtomicUsize, AtomicUsize);

impl Backend for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Pairs, BackendError> {
        let found = self.0.scan(from, until, limit)?;
        self.2.fetch_add(found.len(), Ordering::Relaxed);
        Ok(found)
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        self.0.last(from, until)
    }

    fn commit(&self, batch: &[Write]) -> Result<(), BackendError> {
        self.0.commit(batch)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.0.flush()
    }

    fn free_space(&self) -> Result<Option<u64>, BackendError> {
        self.0.free_space()
    }
}

#[test]
fn recovery_reads_the_snapshot_and_what_follows() {
    let mut replica = Replica::new();
    for n in 0..5_000 {
        replica.apply(&append("a", n, Some(&format!("k{n}")), &["x"]));
    }
    replica.apply(&snapshot("a", 5_000, "state"));
    replica.apply(&append("a", 5_000, None, &["y"]));
    replica.apply(&append("a", 5_001, None, &["z"]));
    replica.apply(&append("a0", 0, None, &["neighbour"]));
    let counting = Counting(replica.memory.clone(), AtomicUsize::new(0), AtomicUsize::new(0));
    let found = recover(&counting, SHARD, &name("a"), 1).unwrap();
    assert_eq!(
        found.snapshot.as_ref().map(|(at, s)| (*at, &s.state[..])),
        Some((5_000, &b"state"[..]))
    );
    assert_eq!(found.events.iter().map(|e| e.sequence).collect::<Vec<_>>(), [5_001, 5_002]);
    let (gets, scanned) = (counting.1.into_inner(), counting.2.into_inner());
    assert_eq!((gets, scanned), (2, 3), "copy and head; snapshot and two events");
    // A behaviour that cannot read the snapshot begins at the first event, in pages.
    let all = recover(&replica.memory, SHARD, &name("a"), 2).unwrap();
    assert_eq!((all.snapshot, all.events.len()), (None, 5_002));
}

#[test]
fn a_newer_entry_stops_the_copy_and_garbage_is_refused() {
    let mut replica = Replica::new();
    let mut bytes = append("a", 0, None, &["1"]).encode().unwrap().to_vec();
    bytes[0] = 2;
    let error = replica.copy.apply(1, 1, &bytes).unwrap_err();
    assert!(matches!(error, OwnedError::Entry(EntryError::Newer(2))));
    assert!(replica.copy.apply(1, 1, b"\x01\xFF").is_err());
    assert!(replica.copy.apply(1, 1, b"").is_err());
    assert_eq!(*replica.copy.position(), Position::default());
}

#[test]
fn what_is_beyond_a_limit_is_not_proposed() {
    let big = "x".repeat(EVENTS_BYTES_MAX);
    assert!(append("a", 0, None, &[&big]).encode().is_err());
    assert!(append("a", 0, None, &vec!["x"; EVENTS_MAX + 1]).encode().is_err());
    assert!(append("a", 0, None, &vec!["x"; EVENTS_MAX]).encode().is_ok());
    assert!(snapshot("a", 0, &"x".repeat(STATE_MAX + 1)).encode().is_err());
}

/// The bytes of format 1. If this fails, the format has changed: raise `FORMAT`.
#[test]
fn the_format_of_entries_is_stable() {
    let hex = |entry: &Entry| {
        entry.encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let golden = "0100e80705636172747301610500016b015cbcb0cee824b91866cd67f57a6643dd\
                  5cbcb0cee824b91866cd67f57a6643dd00010561646465640131\
                  127265706c7920746f20536f6d6528226b2229";
    assert_eq!(hex(&append("a", 5, Some("k"), &["1"])), golden);
    assert_eq!(hex(&erase("a", 5)), "0100e807056361727473016105".to_string() + "02");
}

#[test]
fn a_damaged_head_is_an_error_and_changes_nothing() {
    let mut replica = Replica::new();
    replica.apply(&append("a", 0, None, &["1"]));
    replica.memory.corrupt(&keys::of(SHARD, keys::HEAD, &name("a")), 20);
    let before = replica.raw();
    let entry = append("a", 1, None, &["2"]).encode().unwrap();
    assert!(matches!(replica.copy.apply(2, 1, &entry), Err(OwnedError::Record(_))));
    assert_eq!((replica.copy.position().index, replica.copy.unsettled()), (1, 0));
    assert_eq!(replica.raw(), before);
}
