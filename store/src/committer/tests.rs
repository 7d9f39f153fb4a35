//! Tests of the committer: order, durability, failure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::*;
use crate::backend::memory::Memory;
use crate::record::scan;
use proptest::prelude::*;

fn entry(position: u64) -> Bytes {
    format!("entry {position}").into()
}

fn log_batch(position: u64) -> Batch {
    Batch { writes: Vec::new(), log: vec![(position, entry(position))] }
}

fn write_batch(key: &[u8]) -> Batch {
    Batch { writes: vec![(key.to_vec(), Some(b"v".to_vec()))], log: Vec::new() }
}

fn log_of(backend: &dyn Backend) -> Vec<(u64, Bytes)> {
    let records = scan(backend, RecordKind::Log, b"l", b"m", usize::MAX).unwrap();
    let unpacked = records
        .into_iter()
        .map(|(key, body)| unpack(log_position(&key).unwrap(), &body.unwrap()).unwrap());
    unpacked.flatten().collect()
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Commit(usize),
    Flush,
    Release(Vec<u32>),
    Fail,
}

/// A memory backend that records what happens, and whose commits wait for permission.
struct Recorded {
    memory: Memory,
    events: Arc<Mutex<Vec<Event>>>,
    gate: Mutex<Receiver<()>>,
    waiting: Sender<()>,
    /// Commits and flushes until the power fails.
    power: Arc<AtomicUsize>,
}

impl Recorded {
    fn draw_power(&self) -> Result<(), BackendError> {
        let drawn =
            self.power.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        drawn.map(|_| ()).map_err(|_| BackendError::Engine("no power".into()))
    }
}

impl Backend for Recorded {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        self.memory.get(key)
    }
    fn scan(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        self.memory.scan(from, until, limit)
    }
    fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        self.memory.last(from, until)
    }
    fn commit(&self, batch: &[Write]) -> Result<(), BackendError> {
        self.waiting.send(()).unwrap();
        self.gate.lock().unwrap().recv().unwrap();
        self.draw_power()?;
        self.events.lock().unwrap().push(Event::Commit(batch.len()));
        self.memory.commit(batch)
    }
    fn flush(&self) -> Result<(), BackendError> {
        self.draw_power()?;
        self.memory.flush()?;
        self.events.lock().unwrap().push(Event::Flush);
        Ok(())
    }
    fn free_space(&self) -> Result<Option<u64>, BackendError> {
        self.memory.free_space()
    }
}

/// A committer over such a backend, and the two ends of its gate.
struct Bench {
    memory: Memory,
    events: Arc<Mutex<Vec<Event>>>,
    open: Sender<()>,
    waiting: Receiver<()>,
    power: Arc<AtomicUsize>,
    committer: Committer<u32>,
}

fn bench() -> Bench {
    let (open, gate) = channel();
    let (wait, waiting) = channel();
    let (memory, events) = (Memory::new(), Arc::new(Mutex::new(Vec::new())));
    let power = Arc::new(AtomicUsize::new(usize::MAX));
    let backend = Recorded {
        memory: memory.clone(),
        events: events.clone(),
        gate: Mutex::new(gate),
        waiting: wait,
        power: power.clone(),
    };
    let (released, failed) = (events.clone(), events.clone());
    let committer = Committer::start(
        Arc::new(backend),
        move |payloads| released.lock().unwrap().push(Event::Release(payloads)),
        move |_| failed.lock().unwrap().push(Event::Fail),
    );
    Bench { memory, events, open, waiting, power, committer }
}

#[test]
fn r1_nothing_is_released_before_it_is_durable() {
    let bench = bench();
    bench.committer.submit(write_batch(b"a"), 1).unwrap();
    bench.waiting.recv().unwrap();
    // While the first commit is under way the others queue up; the third writes nothing.
    bench.committer.submit(write_batch(b"b"), 2).unwrap();
    bench.committer.submit(Batch::default(), 3).unwrap();
    bench.committer.submit(write_batch(b"c"), 4).unwrap();
    assert!(bench.events.lock().unwrap().is_empty());
    bench.open.send(()).unwrap();
    bench.open.send(()).unwrap();
    bench.committer.stop();
    use Event::*;
    assert_eq!(
        *bench.events.lock().unwrap(),
        [Commit(1), Flush, Release(vec![1]), Commit(2), Flush, Release(vec![2, 3, 4])]
    );
}

#[test]
fn a_batch_without_writes_costs_no_flush() {
    let bench = bench();
    bench.committer.submit(Batch::default(), 1).unwrap();
    bench.committer.stop();
    assert_eq!(*bench.events.lock().unwrap(), [Event::Release(vec![1])]);
}

fn check_failure(arrange: impl FnOnce(&Memory), events: &[Event]) {
    let bench = bench();
    arrange(&bench.memory);
    bench.committer.submit(write_batch(b"a"), 1).unwrap();
    bench.waiting.recv().unwrap();
    bench.committer.submit(write_batch(b"b"), 2).unwrap();
    bench.committer.submit(Batch::default(), 3).unwrap();
    bench.open.send(()).unwrap();
    // Nobody waits for it if the committer has failed by now.
    let _ = bench.open.send(());
    bench.committer.stop();
    assert_eq!(*bench.events.lock().unwrap(), events);
}

#[test]
fn after_a_failure_nothing_is_released() {
    use Event::*;
    check_failure(Memory::fail_next_commit, &[Commit(1), Fail]);
    check_failure(Memory::fail_next_flush, &[Commit(1), Fail]);
    check_failure(|memory| memory.set_free_space(Some(0)), &[Commit(1), Fail]);
}

#[test]
fn after_a_failure_batches_are_refused() {
    let memory = Memory::new();
    memory.fail_next_commit();
    let (failed, failure) = channel();
    let committer = Committer::start(
        Arc::new(memory),
        |_: Vec<()>| panic!("released"),
        move |error| failed.send(error).unwrap(),
    );
    committer.submit(log_batch(0), ()).unwrap();
    failure.recv().unwrap();
    assert_eq!(committer.submit(log_batch(1), ()), Err(Stopped));
}

#[test]
fn a_panic_is_a_failure() {
    let (failed, failure) = channel();
    let committer = Committer::start(
        Arc::new(Memory::new()),
        |_: Vec<()>| panic!("in release, for the test"),
        move |error| failed.send(error.to_string()).unwrap(),
    );
    committer.submit(Batch::default(), ()).unwrap();
    assert_eq!(failure.recv().unwrap(), "storage engine: the committer panicked");
}

fn check_crash(length: u64, operations: usize, ahead: usize) {
    let bench = bench();
    bench.power.store(operations, Ordering::SeqCst);
    for position in 0..length {
        // Both are refused once the power is gone.
        let _ = bench.open.send(());
        let _ = bench.committer.submit(log_batch(position), position as u32);
    }
    bench.committer.stop();
    let released: Vec<u32> = bench
        .events
        .lock()
        .unwrap()
        .iter()
        .flat_map(|event| match event {
            Event::Release(payloads) => payloads.clone(),
            _ => Vec::new(),
        })
        .collect();
    bench.memory.crash_keeping(ahead);
    let survived = log_of(&bench.memory);
    let log: Vec<_> = (0..length).map(|position| (position, entry(position))).collect();
    assert!(log.starts_with(&survived), "what survives is a prefix of the log");
    assert!(survived.len() >= released.len(), "what was released survives");
    assert!(released.iter().copied().eq(0..released.len() as u32));
}

/// A crash at every commit and at every flush of a run, whether or not the engine wrote ahead of
/// the flush.
#[test]
fn what_was_released_survives_a_crash_at_any_point() {
    for length in 1..=12 {
        for operations in 0..=2 * length as usize {
            for ahead in 0..=1 {
                check_crash(length, operations, ahead);
            }
        }
    }
}

#[test]
fn a_group_of_operations_is_one_record() {
    let batches: Vec<Batch> = (0..256)
        .map(|position| Batch { writes: Vec::new(), log: vec![(position, vec![7; 100].into())] })
        .collect();
    let writes = pack(&batches);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].0, b"l\0\0\0\0\0\0\0\0");
}

#[test]
fn a_gap_starts_a_record() {
    let memory = Memory::new();
    memory.commit(&pack(&[log_batch(3), log_batch(4), log_batch(9)])).unwrap();
    assert_eq!(log_of(&memory), [3, 4, 9].map(|position| (position, entry(position))));
}

#[test]
fn the_log_format_is_stable() {
    let log = vec![(258, Bytes::from("ab")), (259, Bytes::new())];
    let writes = pack(&[Batch { writes: Vec::new(), log }]);
    assert_eq!(writes[0].0, b"l\0\0\0\0\0\0\x01\x02");
    let value = writes[0].1.as_ref().unwrap();
    assert_eq!(value[..value.len() - 4], *b"\x01\x02\x02\0\0\0ab\0\0\0\0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_log_round_trips(
        first in 0..u64::MAX / 2,
        lengths in prop::collection::vec(
            prop_oneof![4 => 0..300_usize, 1 => BODY_MAX - 5..BODY_MAX + 5, 1 => 0..100_000_usize],
            0..40,
        ),
    ) {
        let log: Vec<(u64, Bytes)> = (first..)
            .zip(lengths)
            .map(|(position, length)| (position, vec![position as u8; length].into()))
            .collect();
        let batches: Vec<Batch> =
            log.chunks(3).map(|log| Batch { writes: Vec::new(), log: log.to_vec() }).collect();
        let memory = Memory::new();
        memory.commit(&pack(&batches)).unwrap();
        prop_assert!(log_of(&memory) == log);
    }

    #[test]
    fn unpacking_garbage_never_panics(first: u64, body: Vec<u8>) {
        let _ = unpack(first, &body.into());
    }
}
