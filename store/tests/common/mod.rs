//! A node as the tests drive it: an engine, its readers, and commits as the committer makes them.
//!
//! Left out: threads, time and the network; what is delivered when is an argument.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

pub mod cluster;
pub mod random;
pub mod retire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atoll_store::backend::memory::Memory;
use atoll_store::backend::{Backend, Write};
use atoll_store::command::{Change, Command, Refusal, Value, View};
use atoll_store::committer::pack;
use atoll_store::dot::{Dot, Hlc, Millis, Origin, VersionVector};
use atoll_store::engine::{Engine, Options, Readiness, Staged};
use atoll_store::entity::Limits;
use atoll_store::name::{EntityKey, Kind};
use atoll_store::operation::{Operation, Part};
use atoll_store::reader::Reader;
use atoll_store::shard::{ShardId, entity_hash};
use atoll_store::transfer::{Chunk, Incoming, Outgoing};

/// The one shard of a store with one slot.
pub const SHARD: ShardId = ShardId { placement: 0, slot: 0 };

pub fn key(kind: Kind, id: &str) -> EntityKey {
    EntityKey::parse(kind, "c", id).unwrap()
}

pub fn value(text: &str) -> Value {
    Value::copy_from_slice(format!("\"{text}\"").as_bytes())
}

pub fn change(key: &EntityKey, commands: Vec<Command>) -> Change {
    Change { key: key.clone(), commands, hash: None, ttl_ms: None }
}

pub fn add(members: &[&str]) -> Command {
    Command::Members { add: members.iter().map(|m| value(m)).collect(), remove: Vec::new() }
}

pub fn remove(members: &[&str]) -> Command {
    Command::Members { add: Vec::new(), remove: members.iter().map(|m| value(m)).collect() }
}

pub fn count(by: i128) -> Command {
    let size = by.unsigned_abs();
    if by < 0 {
        Command::Count { plus: 0, minus: size }
    } else {
        Command::Count { plus: size, minus: 0 }
    }
}

pub fn set(text: &str) -> Command {
    Command::Set(value(text))
}

/// One slot, so that every key shares a vector; nothing is evicted, trimmed or checkpointed.
pub fn options() -> Options {
    Options { slots: 1, limits: Limits::default(), ..Options::default() }
}

pub struct Node {
    pub backend: Arc<dyn Backend>,
    pub engine: Engine,
    pub reader: Reader,
    pub origin: Origin,
    pub options: Options,
    pub now: Millis,
    taken: u64,
}

/// A commit that is written and not yet flushed.
pub struct Pending {
    staged: Staged,
    number: u64,
    /// Bytes written.
    pub bytes: usize,
}

pub fn writes_of(staged: &Staged) -> Vec<Write> {
    let mut writes = staged.batch.writes.clone();
    writes.extend(pack(std::slice::from_ref(&staged.batch)));
    writes
}

impl Node {
    pub fn new(origin: u64) -> Node {
        Node::open(Arc::new(Memory::new()), options(), origin)
    }

    pub fn on(memory: &Memory, options: Options, origin: u64) -> Node {
        Node::open(Arc::new(memory.clone()), options, origin)
    }

    pub fn open(backend: Arc<dyn Backend>, options: Options, origin: u64) -> Node {
        let origin = Origin(origin);
        let engine = Engine::open(backend.clone(), options, origin).unwrap();
        let reader = Reader::new(backend.clone(), options.slots);
        let mut node = Node { backend, engine, reader, origin, options, now: 1_000_000, taken: 0 };
        node.commit();
        node
    }

    /// The same directory under a new start.
    pub fn restart(self, origin: u64) -> Node {
        let Node { backend, engine, options, now, .. } = self;
        drop(engine);
        let mut node = Node::open(backend, options, origin);
        node.now = now;
        node
    }

    /// Commits what was staged, without a flush.
    pub fn write_out(&mut self) -> Pending {
        let staged = self.engine.take();
        self.taken += 1;
        let writes = writes_of(&staged);
        let size = |(key, value): &Write| key.len() + value.as_ref().map_or(0, Vec::len);
        let bytes = writes.iter().map(size).sum();
        if !writes.is_empty() {
            self.backend.commit(&writes).unwrap();
        }
        Pending { staged, number: self.taken, bytes }
    }

    /// Flushes; then shows what was pending.
    pub fn flush(&mut self, pending: Vec<Pending>) {
        self.backend.flush().unwrap();
        for commit in pending {
            self.engine.durable().store(commit.number, Ordering::Release);
            self.reader.release(&commit.staged);
        }
    }

    /// A whole commit; answers the bytes written.
    pub fn commit(&mut self) -> usize {
        let pending = self.write_out();
        let bytes = pending.bytes;
        self.flush(vec![pending]);
        bytes
    }

    /// Checkpoints and commits everything; answers the bytes written.
    pub fn checkpoint(&mut self) -> usize {
        self.engine.checkpoint_all();
        self.commit()
    }

    /// Stamps and applies an operation on one shard; the caller commits.
    pub fn stage(&mut self, changes: &[Change]) -> Result<(Operation, bytes::Bytes), Refusal> {
        let shard = self.engine.shard_of(&changes[0].key);
        let sequence = self.engine.vector(shard).sequence(self.origin) + 1;
        let dot = Dot { origin: self.origin, sequence };
        let stamp = self.engine.stamp().tick(self.now);
        let mut parts = Vec::new();
        for change in changes {
            let effect = self.engine.draft(change, dot, stamp, self.now)?;
            parts.push(Part { key: change.key.clone(), hash: change.hash, effect });
        }
        let operation = Operation { dot, stamp, parts };
        let bytes = operation.encode();
        self.engine.apply(shard, &operation, bytes.clone());
        Ok((operation, bytes))
    }

    /// One committed write.
    pub fn write(&mut self, key: &EntityKey, command: Command) -> bytes::Bytes {
        let (_, bytes) = self.stage(&[change(key, vec![command])]).unwrap();
        self.commit();
        bytes
    }

    /// Delivers and commits one operation.
    pub fn receive(&mut self, bytes: &bytes::Bytes) -> Readiness {
        let operation = Operation::decode(bytes).unwrap();
        let shard = self.engine.shard_of(&operation.parts[0].key);
        assert!(self.engine.belongs(shard, &operation));
        let readiness = self.engine.readiness(shard, &operation);
        if readiness == Readiness::Ready {
            self.engine.apply(shard, &operation, bytes.clone());
            self.commit();
        }
        readiness
    }

    /// Everything that `from` has in its log and this node lacks, in rounds until nothing moves.
    pub fn sync(&mut self, from: &Node) {
        loop {
            let before = self.engine.vector(SHARD);
            for (origin, upto) in from.engine.vector(SHARD).iter() {
                let next = self.engine.vector(SHARD).sequence(origin) + 1;
                if next > upto {
                    continue;
                }
                let found = from.engine.operations(SHARD, origin, next, 1 << 20);
                for bytes in found.unwrap_or_default() {
                    self.receive(&bytes);
                }
            }
            if self.engine.vector(SHARD) == before {
                return;
            }
        }
    }

    /// A whole transfer of state.
    pub fn merge_from(&mut self, from: &mut Node, budget: usize) {
        let mut incoming = Incoming::default();
        for chunk in chunks(from, budget) {
            incoming.push(chunk);
        }
        self.engine.switch(SHARD, incoming).unwrap();
        self.commit();
    }

    pub fn view(&mut self, key: &EntityKey) -> Option<View> {
        self.engine.entity(key).unwrap().view(key.kind)
    }

    pub fn sum(&mut self, key: &EntityKey) -> u128 {
        self.engine.entity(key).unwrap().sum()
    }

    pub fn vector(&self) -> VersionVector {
        self.engine.vector(SHARD)
    }

    /// The digest and number of entities of a shard, summed anew over `keys`.
    pub fn digest_anew(&mut self, shard: ShardId, keys: &[EntityKey]) -> (u128, u64) {
        let mut sums = BTreeMap::new();
        for key in keys {
            if self.engine.shard_of(key) == shard {
                sums.insert(key.clone(), self.engine.entity(key).unwrap().sum());
            }
        }
        let hashes = sums.iter().map(|(key, sum)| entity_hash(key, *sum));
        let digest = hashes.fold(0u128, |sum, hash| sum.wrapping_add(hash));
        (digest, sums.values().filter(|sum| **sum != 0).count() as u64)
    }

    /// Sets the time of the node's next writes.
    pub fn at(&mut self, now: Millis) -> &mut Node {
        self.now = now;
        self
    }

    pub fn stamp(&self) -> Hlc {
        self.engine.stamp()
    }
}

pub fn chunks(from: &mut Node, budget: usize) -> Vec<Chunk> {
    let mut out = Outgoing::new(SHARD);
    let mut chunks = Vec::new();
    while !out.is_done() {
        chunks.push(from.engine.chunk(&mut out, budget).unwrap());
    }
    chunks
}

/// Makes two or more nodes hold the same, by their logs.
pub fn sync_all(nodes: &mut [Node]) {
    for _ in 0..nodes.len() {
        for to in 0..nodes.len() {
            for from in 0..nodes.len() {
                if from != to {
                    let [one, other] = nodes.get_disjoint_mut([to, from]).unwrap();
                    one.sync(other);
                }
            }
        }
    }
}

/// Equal vectors, digests that compare, and equal views of `keys`.
pub fn assert_equal(nodes: &mut [Node], keys: &[EntityKey], what: &str) {
    let vector = nodes[0].vector();
    let digest = nodes[0].engine.digest(SHARD);
    assert!(digest.0.is_some(), "{what}: the first digest compares to nothing");
    for at in 0..nodes.len() {
        assert_eq!(nodes[at].vector(), vector, "{what}: vector of {at}");
        for key in keys {
            let here = (nodes[at].view(key), nodes[at].sum(key));
            let there = (nodes[0].view(key), nodes[0].sum(key));
            assert_eq!(here, there, "{what}: {key} at {at}");
        }
        assert_eq!(nodes[at].engine.digest(SHARD), digest, "{what}: digest of {at}");
    }
}

/// Names the seed of a run that panics.
pub struct Seed(pub u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: {}", self.0);
        }
    }
}

/// The bytes of what travels.
pub fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

pub fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}
