//! The replication core of one node: a pure state machine around the store.
//!
//! It takes events and gives effects; its driver owns sockets, disk and clock. Effects leave in
//! the order of their fields: commit, then show, send and reply (R1).
//!
//! Invariants:
//! 1. An operation is shipped, acknowledged and answered only in effects whose commit, or an
//!    earlier one, holds it.
//! 2. Broadcast is an optimisation; comparing vectors is the correctness: whatever is lost,
//!    dropped or late, some later `Vectors` tells of it and it is asked for.
//! 3. Everything kept for a peer is bounded; what overflows is dropped and asked for again.
//!
//! Left out: membership (whoever is connected is a peer).

mod answer;
mod bounds;
mod clocks;
mod confirm;
mod gather;
pub mod message;
mod peer;
mod placed;
mod records;
mod repair;
mod retire;
mod roll;
mod state;
mod status;
mod sync;
mod unknown;
mod wait;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use atoll_store::command::{Change, Refusal};
use atoll_store::dot::{Dot, Hlc, Millis, Origin};
use atoll_store::engine::{Engine, Quarantined, Staged};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;
use atoll_store::shard::ShardId;

use crate::level::{Demand, Unmet};
use crate::placement::{Ending, Placement, RegionPlacement};
use crate::transport::{Class, NodeId};
pub use bounds::Bounds;
use message::{Fact, Message};
use peer::Peer;
use placed::Placed;
use retire::Ends;
use state::Receiving;
pub use status::{Lag, PeerStatus, ShardStatus, Status};
use wait::Waits;

/// Between comparisons of vectors with each peer. Default 500 ms: a lost message is asked for
/// after at most two of them.
const TICK_MS: Millis = 500;
/// So many peers are told at every tick that there is no news; twice as many at every second.
const QUIET_PEERS: u64 = 32;
/// Between measurements of the peers' clocks.
const PING_MS: Millis = 5_000;
/// How long a start waits for peers to give back what they hold of earlier starts.
const RECALL_MS: Millis = 2_000;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id: the hash of its key.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Where peers reach it.
    pub address: String,
    /// The version of the program.
    pub version: String,
    /// Drawn for this start.
    pub origin: Origin,
    /// Peers named by the configuration: a start waits for them, but not long.
    pub seeds: usize,
    /// Its region has a council: it serves nothing but what that has recorded for its disk.
    pub council: bool,
    /// Its disk, as the council knew it at its last start.
    pub disk: Option<u64>,
}

/// Names a request until it is answered; the driver's choice.
pub type Ticket = u64;

/// What a core is told.
#[derive(Debug)]
pub enum Event {
    /// Changes by a client, one group commit, each answered once it is on so many replicas.
    Write(Ticket, Vec<Change>, Demand),
    /// A read of an entity from so many replicas.
    Read(Ticket, EntityKey, Demand),
    /// A read of an entity that is not hot.
    Load(Ticket, EntityKey),
    /// What are the digests?
    Digests(Ticket),
    /// A peer is connected.
    Connected(NodeId),
    /// A peer is gone.
    Disconnected(NodeId),
    /// A peer's frame.
    Received(NodeId, Bytes),
    /// Bytes free on the disk and kept in reserve: below it, writes are refused.
    Space {
        /// Free.
        free: u64,
        /// Reserve.
        reserve: u64,
    },
    /// Time passed: see [`Core::deadline`].
    Tick,
    /// This node's disk, as the council knows it.
    Disk(u64),
    /// A region's council recorded a placement.
    Placed(Box<RegionPlacement>),
    /// A node is gone for good: nothing is kept for it.
    Forgotten(NodeId),
    /// The node stops: write checkpoints.
    Stop,
}

/// The answer to a change.
#[derive(Clone, Debug)]
pub struct Written {
    /// The entity after it.
    pub image: Arc<Image>,
    /// Whether the entity was there before.
    pub existed: bool,
    /// It had been applied before, by an earlier try.
    pub replayed: bool,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// To [`Event::Write`], in the order of its changes.
    Written(Vec<Result<Written, Unmet>>),
    /// To [`Event::Read`].
    Read(Result<Arc<Image>, Unmet>),
    /// To [`Event::Load`].
    Loaded(Result<Arc<Image>, Quarantined>),
    /// To [`Event::Digests`].
    Digests(Vec<ShardStatus>),
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Commit this durably; then show it.
    pub staged: Staged,
    /// Images of entities that were read from disk, for readers.
    pub loaded: Vec<(EntityKey, Arc<Image>)>,
    /// Then send these.
    pub sends: Vec<(NodeId, Class, Bytes)>,
    /// Then answer these.
    pub replies: Vec<(Ticket, Reply)>,
    /// Close these connections: the peer broke the protocol.
    pub rejects: Vec<(NodeId, &'static str)>,
    /// Hash slots that this node has caught up with, as a joining replica, and the epoch of each
    /// one's set. Told again until a record answers it.
    pub caught_up: Vec<(u16, u64)>,
    /// What this node asks its council to record of origins that ended (R9). Told again until a
    /// record answers it: who no longer says it no longer wants it.
    pub endings: Vec<Ending>,
    /// The node's view of the cluster, when it changed.
    pub status: Option<Status>,
}

/// The replication core of one node.
pub struct Core {
    me: Identity,
    bounds: Bounds,
    engine: Engine,
    hlc: Hlc,
    peers: BTreeMap<NodeId, Peer>,
    placement: Placement,
    placed: Placed,
    facts: BTreeMap<Origin, Fact>,
    /// Operations behind a gap, bounded.
    waiting: BTreeMap<ShardId, BTreeMap<Dot, (Operation, Bytes)>>,
    waiting_bytes: usize,
    receiving: BTreeMap<ShardId, Receiving>,
    /// Transfers asked for: names the next one.
    transfers: u64,
    closed: BTreeMap<Origin, Hlc>,
    /// Everything that any node stamped up to here is applied here.
    lowest: Hlc,
    /// Where the journal ended when the closed clocks were last kept.
    kept_closed: u64,
    ends: Ends,
    /// Applied in this step, to acknowledge: by the peer that sent it.
    seen: BTreeMap<NodeId, BTreeMap<ShardId, BTreeSet<Origin>>>,
    /// Stamped or to be passed on in this step.
    push: BTreeMap<ShardId, Vec<Bytes>>,
    waits: Waits,
    pass_on: BTreeMap<ShardId, Vec<Bytes>>,
    out: Effects,
    space: Option<(u64, u64)>,
    /// The clock at the last step, and time that only passes: what timers are set by. A clock
    /// that was set back would hold them up until it has caught up.
    clock: Millis,
    elapsed: Millis,
    started: Millis,
    next_tick: Millis,
    next_ping: Millis,
    swept: Millis,
    ready: bool,
    writes: u64,
    diverged: u64,
    changed: bool,
}

impl Core {
    /// A core around a store that was just opened for `me.origin`.
    pub fn new(me: Identity, mut engine: Engine, now: Millis) -> Core {
        let own = Fact { origin: me.origin, node: me.node, region: me.region.clone() };
        let mut facts: BTreeMap<Origin, Fact> = engine
            .facts()
            .iter()
            .filter_map(|body| postcard::from_bytes::<Fact>(body).ok())
            .map(|fact| (fact.origin, fact))
            .collect();
        engine.put_fact(me.origin, &postcard::to_stdvec(&own).expect("a fact encodes"));
        facts.insert(me.origin, own);
        let mut placement = Placement::default();
        // A record that cannot be read is told again by the peers.
        let notes = engine.notes("placement/").unwrap_or_default();
        let records = notes.iter().filter_map(|(_, body)| postcard::from_bytes(body).ok());
        records.for_each(|record: RegionPlacement| {
            placement.take(record);
        });
        let hlc = engine.stamp();
        let closed = engine.closed().clone();
        let mut core = Core {
            hlc,
            facts,
            peers: BTreeMap::new(),
            placed: Placed::new(me.node, me.disk, placement.region(&me.region)),
            placement,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            receiving: BTreeMap::new(),
            transfers: 0,
            closed,
            lowest: Hlc::default(),
            kept_closed: 0,
            ends: Ends::default(),
            seen: BTreeMap::new(),
            push: BTreeMap::new(),
            waits: Waits::new(me.origin),
            pass_on: BTreeMap::new(),
            out: Effects::default(),
            space: None,
            clock: now,
            elapsed: now,
            started: now,
            next_tick: now,
            next_ping: now,
            swept: 0,
            ready: me.seeds == 0,
            writes: 0,
            diverged: 0,
            changed: true,
            bounds: Bounds::default(),
            me,
            engine,
        };
        core.open_endings();
        core
    }

    /// With other bounds than the default ones.
    pub fn bounded(mut self, bounds: Bounds) -> Core {
        self.bounds = bounds;
        self
    }

    /// The store, for reading.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Millis {
        // What had expired at the last sweep, and stayed, is looked at again by the tick.
        let expiry = self.engine.next_expiry().filter(|at| *at > self.swept);
        let tick = self.clock + self.next_tick.saturating_sub(self.elapsed);
        let late = self.waits.deadline();
        let late = late.map(|at| self.clock + at.saturating_sub(self.elapsed));
        expiry.into_iter().chain(late).fold(tick, Millis::min)
    }

    /// One step: events in, effects out. Several events share one commit.
    pub fn step(&mut self, now: Millis, events: impl IntoIterator<Item = Event>) -> Effects {
        self.elapsed += now.saturating_sub(self.clock);
        self.clock = now;
        for event in events {
            self.handle(now, event);
        }
        self.sweep(now);
        if self.elapsed >= self.next_tick {
            self.tick(now);
        }
        self.catch_up();
        self.send_operations();
        self.settle_waits();
        self.acknowledge();
        self.maintain();
        let mut effects = std::mem::take(&mut self.out);
        effects.staged = self.engine.take();
        if std::mem::take(&mut self.changed) {
            effects.status = Some(self.status());
        }
        effects
    }

    fn handle(&mut self, now: Millis, event: Event) {
        match event {
            Event::Write(ticket, changes, demand) => self.write(now, ticket, changes, demand),
            Event::Read(ticket, key, demand) => self.read(ticket, key, demand),
            Event::Load(ticket, key) => self.load(ticket, key),
            Event::Digests(ticket) => {
                let digests = self.shard_statuses();
                self.out.replies.push((ticket, Reply::Digests(digests)));
            }
            Event::Connected(peer) => self.connected(now, peer),
            Event::Disconnected(peer) => self.disconnected(peer),
            Event::Received(peer, frame) => match Message::decode(&frame) {
                Ok(message) => self.received(now, peer, message),
                Err(_) => self.out.rejects.push((peer, "malformed message")),
            },
            Event::Space { free, reserve } => self.space = Some((free, reserve)),
            Event::Disk(disk) => {
                self.placed.disk = Some(disk);
                self.changed = true;
            }
            Event::Placed(record) => self.take_record(*record),
            Event::Forgotten(peer) => self.forget_peer(peer),
            Event::Tick => {}
            Event::Stop => {
                self.end_waits();
                self.engine.checkpoint_all();
                self.kept_closed = 0;
                self.keep_closed();
            }
        }
    }

    fn load(&mut self, ticket: Ticket, key: EntityKey) {
        let image = self.engine.image(&key);
        if let Ok(image) = &image {
            self.out.loaded.push((key, image.clone()));
        }
        self.out.replies.push((ticket, Reply::Loaded(image)));
    }

    fn send(&mut self, peer: NodeId, message: &Message) {
        self.out.sends.push((peer, message.class(), message.encode()));
    }

    /// The log is trimmed where every known replica has an operation: those of earlier starts
    /// too, of which nothing was heard yet.
    fn maintain(&mut self) {
        if self.engine.is_trim_due() {
            for shard in self.engine.shards().collect::<Vec<_>>() {
                self.route(shard);
            }
        }
        let (peers, placed) = (&self.peers, &self.placed);
        let unheard = self.placement.region(&self.me.region).is_none();
        let has = |node, shard, dot| peers.get(node).is_some_and(|peer| peer.has(shard, dot));
        let seeds = if unheard { self.me.seeds } else { 0 };
        self.engine.maintain(|shard, dot| {
            let Some(route) = placed.known_route(shard) else { return true };
            route.holders.len() >= seeds && route.holders.iter().all(|node| has(node, shard, dot))
        });
    }

    fn forget_peer(&mut self, peer: NodeId) {
        if self.peers.get(&peer).is_some_and(|known| !known.connected) {
            self.peers.remove(&peer);
            self.forget_routes();
            self.changed = true;
        }
    }

    /// Whether the disk is below its reserve.
    fn disk_full(&self) -> Option<Refusal> {
        let (free, reserve) = self.space?;
        (free < reserve).then_some(Refusal::DiskFull { free, reserve })
    }
}
