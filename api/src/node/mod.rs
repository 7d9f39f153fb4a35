//! One running node, as the surfaces see it: write, read, list, watch, status.
//!
//! The facade hides the driver, the committer and the transport. Handles are cheap clones.
//!
//! A node runs on threads of its own ([`Node::start`]), or in its caller's hands, by the same code
//! and without a runtime ([`Node::stepped`]).

mod cluster;
mod cursor;
mod journal;
mod meters;
mod origin;
mod place;
mod replay;
mod selection;
mod start;
mod subscription;
mod test_clock;
pub mod testing;
mod views;

pub use cursor::Cursor;
pub use origin::origin_of;
pub use place::{Holders, Part, ShardView, ShardsView};
pub use selection::Selection;
pub use start::{Settings, StartError};
pub use subscription::Subscription;
pub use test_clock::TestClock;
pub use views::{ClusterView, Lag, NodeView, ShardDigest};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::stream::{self, StreamExt, TryStreamExt};

use atoll_replication::driver::{Clock, Replica, Unanswered};
pub use atoll_replication::level::{Demand, Level, Unmet};
use atoll_sharding::driver::Handle;
use atoll_store::backend::Backend;
use atoll_store::command::{Change, Refusal};
use atoll_store::dot::Origin;
use atoll_store::entity::Image;
use atoll_store::name::{Collection, EntityKey, Kind};
use atoll_store::reader::{Range, Reader, Unreadable};

use journal::Journal;
use selection::Scope;

/// `/livez` fails when the core has not turned for this long, in milliseconds.
const STALLED_MS: u64 = 10_000;
/// Entities that one reader of many asks for at a time.
const READS: usize = 16;

struct Inner {
    settings: Settings,
    id: String,
    origin: Origin,
    replica: Replica,
    reader: Reader,
    backend: Arc<dyn Backend>,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
    /// The core of membership and council, once it runs.
    cluster: OnceLock<Handle>,
    retiring: AtomicBool,
    /// Whether the caller steps it: then nothing here may need a runtime or another clock.
    stepped: bool,
}

/// A running node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

/// The answer to a change.
#[derive(Clone, Debug)]
pub struct Written {
    /// The entity after the change, durable.
    pub image: Arc<Image>,
    /// Whether the entity was there before (for `DELETE`).
    pub existed: bool,
    /// The request had been applied before; this is its first answer, or the state now.
    pub replayed: bool,
}

/// Why a change got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// Refused; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node's lane is full: 503 `overloaded`, retry after a second.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The node is stopping: 503 `draining`.
    #[error("this node is stopping")]
    Draining,
    /// The node stopped before it answered: outcome unknown.
    #[error("the node stopped before it answered")]
    Unknown,
    /// Its level cannot be met, or was not met in time: 503 `not-enough-replicas`, with nothing
    /// changed, and 504 `consistency-timeout`, applied.
    #[error("{0}")]
    Unmet(Unmet),
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Damaged, waits for repair from a peer: 503 `quarantined`.
    #[error("the stored state is damaged and waits for repair from a peer")]
    Quarantined,
    /// 503 `not-a-replica`: see [`Node::holders`].
    #[error("this node holds no replica of the entity's shard")]
    Elsewhere,
    /// 503 `overloaded`.
    #[error("too many requests are waiting")]
    Overloaded,
    /// 503 `draining`.
    #[error("this node is stopping")]
    Draining,
    /// Its level cannot be met, or was not met in time: 503 `not-enough-replicas` and 504
    /// `consistency-timeout`.
    #[error("{0}")]
    Unmet(Unmet),
}

/// One page of a list.
pub struct Page {
    /// Ids in byte order with their images, absent and expired ones left out.
    pub items: Vec<(EntityKey, Arc<Image>)>,
    /// Whether there is more behind the last item.
    pub more: bool,
}

/// Where a subscription starts.
#[derive(Clone, Debug)]
pub enum Start {
    /// Everything selected first, then changes.
    Snapshot,
    /// Changes from now on.
    Now,
    /// After a cursor that a node gave before.
    After(Cursor),
}

/// What a subscriber receives. The facade never ends a stream without `Ended`.
#[derive(Clone, Debug)]
pub enum Record {
    /// Current state, before `Ready`.
    Snapshot(Changed),
    /// The subscriber has all of the snapshot.
    Ready,
    /// New state (absent or expired entity: a delete).
    Changed(Changed),
    /// Nothing happened, the cursor moved.
    Progress,
    /// The cursor was too old or foreign beyond replay: a snapshot follows.
    Reset,
    /// The stream ends: `draining`, `moved`, `overloaded`, `quarantined`.
    Ended(&'static str),
}

/// One entity's new state.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The entity.
    pub key: EntityKey,
    /// Its durable state.
    pub image: Arc<Image>,
    /// The region where the change was made; empty if unknown.
    pub origin_region: Arc<str>,
}

impl Node {
    /// Applies changes as one durable group commit; answers in the same order, once each is on as
    /// many replicas as its level asks for.
    pub async fn write(
        &self,
        changes: Vec<Change>,
        demand: Demand,
    ) -> Vec<Result<Written, WriteError>> {
        let count = changes.len();
        if self.0.journal.is_draining() {
            return vec![Err(WriteError::Draining); count];
        }
        match self.0.replica.write(changes, demand).await {
            Ok(written) => written.into_iter().map(written_of).collect(),
            Err(Unanswered::Overloaded) => vec![Err(WriteError::Overloaded); count],
            Err(Unanswered::Stopping) => vec![Err(WriteError::Draining); count],
            Err(Unanswered::Unknown) => vec![Err(WriteError::Unknown); count],
        }
    }

    /// The image if it is hot, without any wait; `None` means: ask `read`.
    pub fn peek(&self, key: &EntityKey) -> Option<Arc<Image>> {
        let serves = self.journal().serves(key.slot(self.slots()));
        self.0.reader.peek(key).filter(|_| serves)
    }

    /// The entity's last durable image; an absent entity's image says so.
    pub async fn read(&self, key: &EntityKey) -> Result<Arc<Image>, ReadError> {
        if !self.journal().serves(key.slot(self.slots())) {
            return Err(ReadError::Elsewhere);
        }
        if let Some(image) = self.peek(key) {
            return Ok(image);
        }
        match self.0.replica.load(key.clone()).await {
            // What was given up meanwhile is not absent, it is elsewhere.
            Ok(_) if !self.journal().serves(self.slot(key)) => Err(ReadError::Elsewhere),
            Ok(image) => image.map_err(|_| ReadError::Quarantined),
            Err(Unanswered::Overloaded) => Err(ReadError::Overloaded),
            Err(_) => Err(ReadError::Draining),
        }
    }

    /// The entity as enough replicas have it, durable on as many when this returns.
    pub async fn read_at(&self, key: &EntityKey, demand: Demand) -> Result<Arc<Image>, ReadError> {
        if demand.level == Level::One {
            return self.read(key).await;
        }
        match self.0.replica.read(key.clone(), demand).await {
            Ok(Ok(image)) => Ok(image),
            Ok(Err(Unmet::Refused(Refusal::Elsewhere))) => Err(ReadError::Elsewhere),
            Ok(Err(Unmet::Refused(_))) => Err(ReadError::Quarantined),
            Ok(Err(Unmet::Overloaded)) | Err(Unanswered::Overloaded) => Err(ReadError::Overloaded),
            Ok(Err(unmet)) => Err(ReadError::Unmet(unmet)),
            Err(_) => Err(ReadError::Draining),
        }
    }

    /// The states of several entities, in their order; a few at a time are asked for, so that what
    /// is not in memory does not cost a turn of the core each.
    async fn read_all(&self, keys: Vec<EntityKey>) -> Result<Vec<Arc<Image>>, ReadError> {
        let read = |key| {
            let node = self.clone();
            async move { node.read(&key).await }
        };
        stream::iter(keys).map(read).buffered(READS).try_collect().await
    }

    /// Up to `limit` present entities of a collection whose id starts with `prefix` and comes
    /// after `after`, in byte order of ids; `Elsewhere` where this node does not serve every shard:
    /// see [`Node::cover`].
    pub async fn list(
        &self,
        kind: Kind,
        collection: &Collection,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let all = self.all_slots();
        self.list_part(kind, collection, prefix, after, limit, &all).await
    }

    /// The same, of what is in these hash slots.
    pub async fn list_part(
        &self,
        kind: Kind,
        collection: &Collection,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        slots: &[u16],
    ) -> Result<Page, ReadError> {
        if !self.serves_all(slots.iter().copied()) {
            return Err(ReadError::Elsewhere);
        }
        let range = Range {
            kind,
            collection: collection.clone(),
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
        };
        let mut items = self.list_range(range, limit + 1, slots).await?;
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, more })
    }

    async fn list_range(
        &self,
        range: Range,
        limit: usize,
        slots: &[u16],
    ) -> Result<Vec<(EntityKey, Arc<Image>)>, ReadError> {
        let (reader, now) = (self.0.reader.clone(), self.now());
        let asked = slots.to_vec();
        let list = move || reader.list(&range, &asked, now, limit);
        let listed = self.listed(self.blocking(list).await?).await?;
        // The same here.
        let served = self.serves_all(slots.iter().copied());
        if served { Ok(listed) } else { Err(ReadError::Elsewhere) }
    }

    async fn list_slot(
        &self,
        slot: u16,
        after: Option<EntityKey>,
        limit: usize,
    ) -> Result<Vec<(EntityKey, Arc<Image>)>, ReadError> {
        let (reader, now) = (self.0.reader.clone(), self.now());
        let list = move || reader.list_all(slot, after.as_ref(), now, limit);
        self.listed(self.blocking(list).await?).await
    }

    /// What a list met damaged is read by the core, which then asks the peers for it.
    async fn listed<T>(&self, list: Result<T, Unreadable>) -> Result<T, ReadError> {
        if let Err(Unreadable(Some(key))) = &list {
            self.read(key).await?;
        }
        list.map_err(|_| ReadError::Quarantined)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        if self.is_stepped() {
            return Ok(work());
        }
        tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::Draining)
    }

    /// Starts a subscription; refused above the limit with `Overloaded`, and with `Elsewhere` where
    /// this node does not serve every shard of it: see [`Node::cover`].
    pub async fn subscribe(
        &self,
        what: Selection,
        start: Start,
    ) -> Result<Subscription, ReadError> {
        self.subscribe_in(Scope::new(what, None, self.slots()), start)
    }

    /// Starts a subscription to what of a selection is in these hash slots, in ascending order.
    pub async fn subscribe_part(
        &self,
        what: Selection,
        slots: &[u16],
        start: Start,
    ) -> Result<Subscription, ReadError> {
        self.subscribe_in(Scope::new(what, Some(slots), self.slots()), start)
    }

    fn subscribe_in(&self, scope: Scope, start: Start) -> Result<Subscription, ReadError> {
        if self.0.journal.is_draining() {
            return Err(ReadError::Draining);
        }
        if !self.serves_all(scope.slots()) {
            return Err(ReadError::Elsewhere);
        }
        if self.0.journal.listening() >= self.0.settings.subscriptions {
            return Err(ReadError::Overloaded);
        }
        Ok(Subscription::new(self.clone(), scope, start))
    }

    /// Takes no more writes; readiness is off, and streams end with `draining`.
    pub fn drain(&self) {
        self.0.journal.drain();
    }

    /// Waits until the node drains.
    pub async fn draining(&self) {
        self.0.journal.drained().await;
    }

    /// Waits for the core's first word.
    pub async fn opened(&self) {
        let _ = self.0.journal.started().await;
    }

    /// Waits until the cluster has given this start up: the node must start again.
    pub async fn ended(&self) {
        self.0.journal.ended().await;
    }

    /// Readiness is off, and the node serves on what it holds: its replicas are being handed off.
    pub fn retire(&self) {
        self.0.retiring.store(true, Ordering::Release);
    }

    fn is_retiring(&self) -> bool {
        self.0.retiring.load(Ordering::Acquire)
    }

    /// Ends streams, writes checkpoints, stops the core. Durable when it returns.
    pub async fn stop(&self) {
        self.0.journal.drain();
        self.0.replica.stop().await;
    }

    /// Why the node is not ready; empty when it is.
    pub fn not_ready(&self) -> Vec<String> {
        if self.0.journal.is_draining() {
            return vec!["draining".to_owned()];
        }
        if self.is_retiring() {
            return vec!["handing replicas off".to_owned()];
        }
        match self.0.journal.cluster() {
            Some(status) => status.not_ready.clone(),
            None => vec!["recovering".to_owned()],
        }
    }

    /// Whether the core's loop turned lately, and that of the cluster has not ended (`/livez`).
    pub fn is_live(&self) -> bool {
        let beside = self.membership().is_none_or(Handle::is_running);
        beside && self.now().saturating_sub(self.0.replica.turned()) < STALLED_MS
    }

    /// Physical time for reads: milliseconds since the epoch.
    pub fn now(&self) -> u64 {
        self.0.clock.now()
    }

    /// This node's region.
    pub fn region(&self) -> &str {
        &self.0.settings.region
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    /// This node's id, hex.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    fn journal(&self) -> &Journal {
        &self.0.journal
    }

    fn origin(&self) -> Origin {
        self.0.origin
    }

    fn is_stepped(&self) -> bool {
        self.0.stepped
    }

    /// Hash slots of the cluster.
    pub fn slots(&self) -> u16 {
        self.0.settings.store.slots
    }

    fn backend(&self) -> Arc<dyn Backend> {
        self.0.backend.clone()
    }

    fn region_of(&self, origin: Option<Origin>) -> Arc<str> {
        let status = self.0.journal.cluster();
        let region = status.as_ref().zip(origin).and_then(|(s, origin)| s.regions.get(&origin));
        region.map_or("", String::as_str).into()
    }
}

fn written_of(
    written: Result<atoll_replication::core::Written, Unmet>,
) -> Result<Written, WriteError> {
    let written = written.map_err(|unmet| match unmet {
        Unmet::Refused(refusal) => WriteError::Refused(refusal),
        Unmet::Overloaded => WriteError::Overloaded,
        unmet => WriteError::Unmet(unmet),
    })?;
    let (existed, replayed) = (written.existed, written.replayed);
    Ok(Written { image: written.image, existed, replayed })
}

#[cfg(test)]
mod tests;
