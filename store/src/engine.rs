//! The store of one node: shards in memory, changes staged for one durable commit.
//!
//! Invariants:
//! 1. Nothing here writes: a step's records and log entries leave by [`Engine::take`], and its
//!    caller commits them, in order, before anything of the step is seen (R1).
//! 2. (R2) An operation is applied once, in the order of its origin, after all that it names.
//! 3. (R7) The log is the truth; records are checkpoints of it, a shard at a time, atomically
//!    with the vector that they cover.
//!
//! Left out: who asks and who is told; which is replication's.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::backend::{Backend, BackendError};
use crate::checkpoint;
use crate::collect::Sweep;
use crate::command::{Change, Command, Refusal};
use crate::committer::Batch;
use crate::dot::{Dot, Hlc, Millis, Origin, VersionVector};
use crate::entity::{Draft, Entity, Image, Limits, touched};
use crate::log::{self, Log, Trimmed};
use crate::mutant::{self, Mutant};
use crate::name::EntityKey;
use crate::operation::{Effect, Operation};
use crate::record::RecordError;
use crate::retire::{Roll, Settled};
use crate::shard::{Dirty, Hot, Shard, ShardId};

/// How a store is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Hash slots of a placement. Default 64; set once, when a cluster forms.
    pub slots: u16,
    /// Memory for decoded entities, in bytes. Default 128 MiB.
    pub cache_bytes: usize,
    /// Log bytes kept although every peer has them, for subscribers that resume. Default 64 MiB.
    pub log_soft_bytes: u64,
    /// Log bytes above which it is trimmed although a peer lacks them: that peer merges state.
    /// Default 512 MiB.
    pub log_hard_bytes: u64,
    /// Log bytes between checkpoints of one shard: what a restart replays. Default 16 MiB.
    pub checkpoint_bytes: u64,
    /// Limits where a write is accepted.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            slots: 64,
            cache_bytes: 128 << 20,
            log_soft_bytes: 64 << 20,
            log_hard_bytes: 512 << 20,
            checkpoint_bytes: 16 << 20,
            limits: Limits::default(),
        }
    }
}

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A newer release wrote here, or the engine failed: see the text.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The directory was made with another number of slots.
    #[error("this data has {found} slots, the configuration asks for {asked}: set it back")]
    Slots {
        /// On disk.
        found: u16,
        /// Configured.
        asked: u16,
    },
}

/// One entity's new state, with its place in the journal.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The log position of what changed it.
    pub position: u64,
    /// The entity.
    pub key: EntityKey,
    /// Its new state.
    pub image: Arc<Image>,
    /// Who changed it; none for a merge of states.
    pub origin: Option<Origin>,
}

/// What a step leaves: to be committed first, then shown.
#[derive(Debug, Default)]
pub struct Staged {
    /// To commit.
    pub batch: Batch,
    /// To show to readers and subscribers.
    pub changes: Vec<Changed>,
    /// To forget in the readers' image: current on disk.
    pub evicted: Vec<EntityKey>,
}

/// Whether an operation can be applied now (R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is next, and everything it names was seen.
    Ready,
    /// It was applied before.
    Seen,
    /// Everything up to this dot must be seen first.
    Waits(Dot),
}

/// The stored state of an entity is damaged (R8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined;

/// The store of one node.
pub struct Engine {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) options: Options,
    pub(crate) shards: BTreeMap<ShardId, Shard>,
    pub(crate) log: Log,
    pub(crate) staged: Staged,
    pub(crate) commits: u64,
    pub(crate) durable: Arc<AtomicU64>,
    pub(crate) hot_bytes: usize,
    pub(crate) hand: (ShardId, Option<EntityKey>),
    pub(crate) expiries: BTreeSet<(Millis, EntityKey)>,
    pub(crate) starts: Vec<(Origin, u64)>,
    pub(crate) trim_at: u64,
    pub(crate) trim_from: u64,
    pub(crate) forget_before: Hlc,
    pub(crate) sweep: Sweep,
    pub(crate) facts: Vec<Bytes>,
    pub(crate) closed: BTreeMap<Origin, Hlc>,
    /// Where the log counts for a shard that was discarded before.
    pub(crate) discarded: BTreeMap<ShardId, u64>,
    /// Discarded shards whose records are not all removed yet.
    pub(crate) sweeping: BTreeSet<ShardId>,
    /// The commit of the last sweep.
    pub(crate) swept_at: u64,
    pub(crate) roll: Roll,
    /// What has settled: see [`Engine::settle`].
    pub(crate) settled: Settled,
}

impl Engine {
    /// The shard of an entity in the default placement.
    pub fn shard_of(&self, key: &EntityKey) -> ShardId {
        ShardId { placement: 0, slot: key.slot(self.options.slots) }
    }

    /// What this copy has seen of a shard.
    pub fn vector(&self, shard: ShardId) -> VersionVector {
        self.shards.get(&shard).map(|shard| shard.vector.clone()).unwrap_or_default()
    }

    /// What this copy has seen of one origin in a shard.
    pub fn sequence(&self, shard: ShardId, origin: Origin) -> u64 {
        self.shards.get(&shard).map_or(0, |shard| shard.vector.sequence(origin))
    }

    /// Hash slots of a placement.
    pub fn slots(&self) -> u16 {
        self.options.slots
    }

    /// The images of everything hot: what readers need after a start.
    pub fn images(&self) -> impl Iterator<Item = (EntityKey, Arc<Image>)> + '_ {
        let hot = self.shards.values().flat_map(|shard| &shard.hot);
        hot.map(|(key, hot)| (key.clone(), Arc::new(Image::new(hot.entity.clone()))))
    }

    /// Every shard of which something was seen.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.iter().filter(|(_, shard)| !shard.vector.is_empty()).map(|(id, _)| *id)
    }

    /// A shard's content digest and number of entities at its vector; the digest is `None` while
    /// an entity is ahead of the vector or damaged: it compares to nothing.
    pub fn digest(&self, shard: ShardId) -> (Option<u128>, u64) {
        match self.shards.get(&shard) {
            None => (Some(0), 0),
            Some(shard) if shard.beyond.is_empty() && shard.quarantined.is_empty() => {
                (Some(shard.digest), shard.present)
            }
            Some(shard) => (None, shard.present),
        }
    }

    /// The highest stamp seen in any shard.
    pub fn stamp(&self) -> Hlc {
        self.shards.values().map(|shard| shard.stamp).max().unwrap_or_default()
    }

    /// Damaged entities that wait for a peer.
    pub fn quarantined(&self) -> Vec<(ShardId, EntityKey)> {
        let each = |(id, shard): (&ShardId, &Shard)| {
            let id = *id;
            shard.quarantined.iter().map(move |key| (id, key.clone())).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(each).collect()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.options.limits
    }

    /// The position after the last change.
    pub fn journal_end(&self) -> u64 {
        self.log.next()
    }

    /// The highest stamp of each origin that was trimmed from the log.
    pub fn trimmed(&self) -> &BTreeMap<Origin, Hlc> {
        &self.log.trimmed
    }

    /// The closed clocks last staged, by an earlier start too.
    pub fn closed(&self) -> &BTreeMap<Origin, Hlc> {
        &self.closed
    }

    /// Stages the closed clocks: all that each origin stamped up to its own is in this store.
    pub fn put_closed(&mut self, closed: BTreeMap<Origin, Hlc>) {
        self.closed = closed;
        self.stage_closed();
    }

    /// Earlier starts on this directory with the positions where they began; the last is this one.
    pub fn starts(&self) -> &[(Origin, u64)] {
        &self.starts
    }

    /// The state of an entity, hot or from disk.
    pub fn entity(&mut self, key: &EntityKey) -> Result<&Entity, Quarantined> {
        let shard = self.shard_of(key);
        self.hot(shard, key).map(|hot| &hot.entity)
    }

    /// The image of an entity for readers; it becomes theirs after what was staged before.
    pub fn image(&mut self, key: &EntityKey) -> Result<Arc<Image>, Quarantined> {
        Ok(Arc::new(Image::new(self.entity(key)?.clone())))
    }

    pub(crate) fn hot(&mut self, id: ShardId, key: &EntityKey) -> Result<&mut Hot, Quarantined> {
        // What is being swept is of a copy given up: as unknown as what is damaged.
        if self.sweeping.contains(&id) {
            return Err(Quarantined);
        }
        let shard = self.shards.entry(id).or_default();
        if shard.quarantined.contains(key) {
            return Err(Quarantined);
        }
        let place = match shard.hot.entry(key.clone()) {
            Entry::Occupied(hot) => return Ok(hot.into_mut()),
            Entry::Vacant(place) => place,
        };
        match checkpoint::load(&*self.backend, id, key) {
            Ok(mut hot) => {
                self.hot_bytes += hot.bytes();
                let ahead = hot.entity.ahead().map(|ahead| (**ahead).clone());
                let ahead = ahead.filter(|ahead| !shard.vector.contains(ahead));
                if ahead.is_some() {
                    shard.ahead.insert(key.clone());
                }
                hot.entity.set_ahead(ahead.map(|mut context| {
                    context.adopt(self.roll.order());
                    Arc::new(context)
                }));
                hot.watch_closed(shard.stamp);
                Ok(place.insert(hot))
            }
            Err(_) if Mutant::ServeDamaged.is_on() => Ok(place.insert(Hot::absent())),
            Err(error) => {
                tracing::error!(entity = %key, %error, "damaged: quarantined");
                shard.quarantined.insert(key.clone());
                Err(Quarantined)
            }
        }
    }

    /// The effect of a change as seen here, to be stamped with `dot` and `stamp`. Changes nothing.
    /// What it names as seen must have been seen here: a node that lacks it could not tell it from
    /// what was superseded.
    pub fn draft(
        &mut self,
        change: &Change,
        dot: Dot,
        stamp: Hlc,
        now: Millis,
    ) -> Result<Effect, Refusal> {
        let limits = self.options.limits;
        let named = change.commands.iter().flat_map(Command::names);
        let shard = self.shards.get(&self.shard_of(&change.key));
        let seen = |dot: &&Dot| shard.is_some_and(|shard| shard.vector.covers(**dot));
        let unseen: Vec<Dot> = named.filter(|dot| !seen(dot)).copied().collect();
        let entity = self.entity(&change.key).map_err(|Quarantined| Refusal::Quarantined)?;
        let ahead = |dot: &Dot| entity.ahead().is_some_and(|context| context.covers(*dot));
        if !unseen.iter().all(ahead) {
            return Err(Refusal::Behind);
        }
        Draft::effect(entity, change, dot, stamp, now, &limits)
    }

    /// Whether an operation can be applied now (R2).
    pub fn readiness(&self, id: ShardId, operation: &Operation) -> Readiness {
        let Dot { origin, sequence } = operation.dot;
        let empty = VersionVector::default();
        let vector = self.shards.get(&id).map_or(&empty, |shard| &shard.vector);
        // Of an origin that was retired all was seen: there is no next one.
        let seen = vector.sequence(origin);
        if sequence <= seen {
            let again = Mutant::MergeTwice.is_on() && operation.counts();
            return if again { Readiness::Ready } else { Readiness::Seen };
        }
        if sequence > seen + 1 && !Mutant::ApplyOutOfOrder.is_on() {
            return Readiness::Waits(Dot { origin, sequence: sequence - 1 });
        }
        // What its author had folded is named by no dots: a copy must have seen all of it.
        let folded = operation.folded().filter(|until| !self.roll.is_covered(vector, *until));
        let missing = operation.named().find(|dot| !vector.covers(*dot));
        let missing = missing.or(folded.map(|_| operation.dot));
        missing.map_or(Readiness::Ready, Readiness::Waits)
    }

    /// Whether all parts of an operation belong to the shard it came under.
    pub fn belongs(&self, id: ShardId, operation: &Operation) -> bool {
        operation.parts.iter().all(|part| self.shard_of(&part.key) == id)
    }

    /// Applies an operation that is `Ready`; `bytes` are its author's.
    ///
    /// Answers the image of its last part; none if that entity is damaged here.
    pub fn apply(
        &mut self,
        id: ShardId,
        operation: &Operation,
        bytes: Bytes,
    ) -> Option<Arc<Image>> {
        let shown = self.staged.changes.len();
        let (position, entry) = self.log.append(&log::Entry::Operation { shard: id, bytes });
        self.staged.batch.log.push((position, entry));
        self.log.index(id, operation.dot, position);
        self.replay(id, operation, position, true);
        self.staged.changes[shown..].last().map(|changed| changed.image.clone())
    }

    /// Applies an operation that the log holds at `position`; shows it if asked.
    pub(crate) fn replay(&mut self, id: ShardId, operation: &Operation, position: u64, show: bool) {
        let lost = show && mutant::loses(operation);
        let folding = self.folding(id);
        for part in &operation.parts {
            let Ok(hot) = self.hot(id, &part.key) else { continue };
            let (old, bytes, expiry) = (hot.entity.sum(), hot.bytes(), hot.entity.expires_at());
            let dropped = !lost && hot.entity.apply(operation, part, &folding.retired);
            let was_clean = hot.dirty == Dirty::Clean;
            hot.mark(touched(part, operation.dot).filter(|_| !dropped));
            hot.tidy(operation.stamp, part, &folding);
            let image = show.then(|| Arc::new(Image::new(hot.entity.clone())));
            let now = (hot.entity.sum(), hot.bytes(), hot.entity.expires_at());
            self.hot_bytes = self.hot_bytes + now.1 - bytes;
            self.watch_expiry(&part.key, expiry, now.2);
            let shard = self.shards.entry(id).or_default();
            shard.account(&part.key, old, now.0);
            if was_clean {
                shard.dirty.insert(part.key.clone());
            }
            if let Some(image) = image {
                let (key, origin) = (part.key.clone(), Some(operation.dot.origin));
                self.staged.changes.push(Changed { position, key, image, origin });
            }
        }
        let shard = self.shards.entry(id).or_default();
        shard.vector.raise(operation.dot.origin, operation.dot.sequence);
        shard.stamp = shard.stamp.max(operation.stamp);
        shard.unsaved.get_or_insert((position, self.log.appended));
        shard.catch_up();
    }

    pub(crate) fn watch_expiry(
        &mut self,
        key: &EntityKey,
        old: Option<Millis>,
        new: Option<Millis>,
    ) {
        if old != new {
            old.map(|at| self.expiries.remove(&(at, key.clone())));
            new.map(|at| self.expiries.insert((at, key.clone())));
        }
    }

    /// When the next entity expires.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Up to `limit` entities that expired before `now`.
    pub fn expired(&self, now: Millis, limit: usize) -> Vec<EntityKey> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now);
        due.take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// Encoded operations of `origin` from `from` on, up to about `budget` bytes; none if `from`
    /// was not seen yet. `Trimmed` also where they came as state and never were in this log.
    pub fn operations(
        &self,
        shard: ShardId,
        origin: Origin,
        from: u64,
        budget: usize,
    ) -> Result<Vec<Bytes>, Trimmed> {
        self.operations_of(shard, &[(origin, from)], budget)
    }

    /// Encoded operations of several origins, each from a sequence on, up to about `budget`
    /// bytes: each after all that it names. What was never seen here is left out; `Trimmed` if
    /// anything that was seen is not in the log.
    pub fn operations_of(
        &self,
        shard: ShardId,
        wanted: &[(Origin, u64)],
        budget: usize,
    ) -> Result<Vec<Bytes>, Trimmed> {
        let seen = |(origin, from): &&(Origin, u64)| self.sequence(shard, *origin) >= *from;
        let seen: Vec<(Origin, u64)> = wanted.iter().filter(seen).copied().collect();
        if !seen.iter().all(|(origin, from)| self.log.holds(shard, *origin, *from)) {
            return Err(Trimmed);
        }
        self.log.operations(&*self.backend, shard, &seen, budget)
    }

    /// Whether the log holds the operations of `origin` from `from` on.
    pub fn holds(&self, shard: ShardId, origin: Origin, from: u64) -> bool {
        self.log.holds(shard, origin, from)
    }

    /// Takes what was staged since the last call, as the next commit.
    pub fn take(&mut self) -> Staged {
        self.commits += 1;
        std::mem::take(&mut self.staged)
    }

    /// The counter that whoever commits sets to the number of [`Engine::take`]s made durable.
    pub fn durable(&self) -> Arc<AtomicU64> {
        self.durable.clone()
    }

    pub(crate) fn durable_commits(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The engine, for readers beside the writer.
    pub fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }
}
