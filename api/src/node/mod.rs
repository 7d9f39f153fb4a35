//! One running node, as the surfaces see it: write, read, list, watch, status.
//!
//! The facade hides the driver, the committer and the transport. Handles are cheap clones.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_store::command::{Change, Refusal};
use atoll_store::entity::Image;
use atoll_store::name::{Collection, EntityKey, Kind};

/// A running node.
#[derive(Clone)]
pub struct Node(Arc<()>);

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
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Damaged, waits for repair from a peer: 503 `quarantined`.
    #[error("the stored state is damaged and waits for repair from a peer")]
    Quarantined,
    /// 503 `overloaded`.
    #[error("too many requests are waiting")]
    Overloaded,
    /// 503 `draining`.
    #[error("this node is stopping")]
    Draining,
}

/// One page of a list.
pub struct Page {
    /// Ids in byte order with their images, absent and expired ones left out.
    pub items: Vec<(EntityKey, Arc<Image>)>,
    /// Whether there is more behind the last item.
    pub more: bool,
}

/// What a subscriber wants.
#[derive(Clone, Debug)]
pub enum Selection {
    /// One entity.
    Entity(EntityKey),
    /// A collection, or the ids in it that start with a prefix.
    Prefix {
        /// The kind.
        kind: Kind,
        /// The collection.
        collection: Collection,
        /// The prefix, maybe empty.
        prefix: String,
    },
    /// Everything, or only these kinds and collections (empty: all).
    All {
        /// Kinds; empty for all.
        kinds: Vec<Kind>,
        /// Collections; empty for all.
        collections: Vec<Collection>,
    },
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

/// A place in a node's journal, opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// Parses what a client sent back; `None` if it is no cursor.
    pub fn parse(text: &str) -> Option<Cursor> {
        Some(Cursor(text.into()))
    }
    /// The text for clients: printable ASCII, under 1 KiB.
    pub fn as_str(&self) -> &str {
        &self.0
    }
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
    /// The stream ends: `slow-consumer`, `draining`.
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

/// A running subscription: a reader of the journal, not a queue.
pub struct Subscription(());

impl Subscription {
    /// The next record with the cursor after it; waits. Cancel-safe.
    pub async fn next(&mut self) -> (Record, Cursor) {
        todo!()
    }
}

/// This node's view of one node (of itself too).
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Node id, hex.
    pub id: String,
    /// Its name in configuration, or the id.
    pub name: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// QUIC address.
    pub address: String,
    /// `up`, `down` or `joining`.
    pub state: &'static str,
    /// Version of the program.
    pub version: String,
    /// The origin of its current start, hex.
    pub incarnation: String,
    /// Round trip in milliseconds, if connected (none for itself).
    pub rtt_ms: Option<f64>,
}

/// How far behind an origin region this node is known to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    /// Milliseconds since the newest closed clock heard from there.
    pub ms: u64,
    /// Operations known to exist there and not yet here.
    pub operations: u64,
}

/// `GET /v1/cluster`.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// This node's id, hex.
    pub node: String,
    /// This node's region.
    pub region: String,
    /// All known nodes.
    pub nodes: Vec<NodeView>,
    /// Lag by origin region.
    pub lag: BTreeMap<String, Lag>,
    /// Local writes accepted since start.
    pub writes: u64,
}

/// One shard's digest.
#[derive(Clone, Debug)]
pub struct ShardDigest {
    /// `<placement>/<slot>`.
    pub shard: String,
    /// The content digest, hex.
    pub digest: String,
    /// Entities present.
    pub entities: u64,
    /// The version vector: origin hex -> sequence.
    pub vector: BTreeMap<String, u64>,
}

impl Node {
    /// Applies changes as one durable group commit; answers in the same order.
    pub async fn write(&self, _changes: Vec<Change>) -> Vec<Result<Written, WriteError>> {
        todo!()
    }
    /// The image if it is hot, without any wait; `None` means: ask `read`.
    pub fn peek(&self, _key: &EntityKey) -> Option<Arc<Image>> {
        todo!()
    }
    /// The entity's last durable image; an absent entity's image says so.
    pub async fn read(&self, _key: &EntityKey) -> Result<Arc<Image>, ReadError> {
        todo!()
    }
    /// Up to `limit` present entities of a collection whose id starts with `prefix` and comes
    /// after `after`, in byte order of ids.
    pub async fn list(
        &self,
        _kind: Kind,
        _collection: &Collection,
        _prefix: &str,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Page, ReadError> {
        todo!()
    }
    /// Starts a subscription; refused above the limit with `Overloaded`.
    pub async fn subscribe(
        &self,
        _what: Selection,
        _start: Start,
    ) -> Result<Subscription, ReadError> {
        todo!()
    }
    /// This node's view of the cluster.
    pub fn cluster(&self) -> ClusterView {
        todo!()
    }
    /// Digests of shards that have entities, or only of those of one kind and collection.
    pub async fn digests(
        &self,
        _only: Option<(Kind, Option<Collection>)>,
    ) -> Result<Vec<ShardDigest>, ReadError> {
        todo!()
    }
    /// Why the node is not ready; empty when it is.
    pub fn not_ready(&self) -> Vec<String> {
        todo!()
    }
    /// Whether the core's loop turned lately (`/livez`).
    pub fn is_live(&self) -> bool {
        todo!()
    }
    /// Physical time for reads: milliseconds since the epoch, never behind what was stamped.
    pub fn now(&self) -> u64 {
        todo!()
    }
    /// This node's region.
    pub fn region(&self) -> &str {
        todo!()
    }
    /// This node's id, hex.
    pub fn id(&self) -> &str {
        todo!()
    }
}
