//! Who holds what: routes by the recorded placement, copies that catch up, copies given up.
//!
//! ```text
//! next ── catches up: asks replicas for their vectors at the new record ── caught up ── current
//! current ── no longer recorded ── every replica of the region has it all ── given up
//! ```
//!
//! Invariants:
//! 1. (R12) A joining replica has caught up when it covers the vectors of so many current ones
//!    that no majority of them lacks all of these, each told after its node knew of the move.
//! 2. A copy is given up only when every recorded replica of the region is known to have what it
//!    has, durably; and its author's sequences there are not issued again.
//! 3. A region without a record has no council yet: all its nodes hold everything.
//!
//! Left out: deciding, which is the council's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use atoll_store::command::Refusal;
use atoll_store::dot::VersionVector;
use atoll_store::mutant::Mutant;
use atoll_store::shard::ShardId;

use super::Core;
use super::message::Message;
use super::records::Awaited;
use crate::level::{Level, Sets};
use crate::placement::{RegionPlacement, Replicas, Version};
use crate::transport::NodeId;

/// In a cluster of so many nodes each is connected to every other; in a larger one to two
/// replicas of each of its shards in each other region.
const FULL_MESH: usize = 32;
const REMOTE_REPLICAS: usize = 2;

/// Where a shard's operations go.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    /// Connected replicas of this region.
    pub(super) inside: Vec<NodeId>,
    /// One connected replica of each other region.
    pub(super) outside: Vec<NodeId>,
    /// All other nodes that must have an operation before it is trimmed.
    pub(super) holders: Vec<NodeId>,
}

/// What a core keeps about placement.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// By shard, until a peer or a record changes.
    routes: BTreeMap<ShardId, Route>,
    /// What replicas had at the record of a move: by shard and its epoch.
    followed: BTreeMap<(ShardId, u64), BTreeMap<NodeId, VersionVector>>,
    /// Shards that this node is to hold, and the epoch of their set.
    joining: BTreeMap<ShardId, u64>,
    /// Those of them that it has caught up with.
    caught_up: BTreeSet<(ShardId, u64)>,
    /// This start's sequence in shards that were given up.
    floors: BTreeMap<ShardId, u64>,
    /// A record of this region was taken since the last tick.
    pub(super) fresh: bool,
    /// This node's disk, as the council knows it.
    pub(super) disk: Option<u64>,
    /// The record of this region since which this node receives what it receives.
    pub(super) receiving_since: Version,
    /// Records that a peer was asked for, by region.
    pub(super) awaited: BTreeMap<String, Awaited>,
}

impl Placed {
    /// For a start of a node on this disk that finds this record of its region on it: it goes on
    /// with the moves that are under way.
    pub(super) fn new(node: NodeId, disk: Option<u64>, own: Option<&RegionPlacement>) -> Placed {
        let receiving_since = own.map_or(Version::default(), |record| record.version);
        let joining = own.map(|record| joins(record, node)).unwrap_or_default();
        Placed { receiving_since, joining, disk, ..Placed::default() }
    }

    /// Where a shard's operations go, if that was looked up.
    pub(super) fn known_route(&self, shard: ShardId) -> Option<&Route> {
        self.routes.get(&shard)
    }
}

impl Core {
    /// Slots that this node receives by the record of its region.
    pub(super) fn own_slots(&self) -> BTreeSet<usize> {
        let Some(record) = self.placement.region(&self.me.region) else {
            return BTreeSet::new();
        };
        let slots = record.slots.iter().enumerate();
        slots.filter(|(_, set)| set.receives(self.me.node)).map(|(slot, _)| slot).collect()
    }

    /// Forgets what belongs to moves that are over, and begins those that are new.
    pub(super) fn keep_moves(&mut self) {
        let (me, placed) = (self.me.node, &mut self.placed);
        let Some(record) = self.placement.region(&self.me.region) else { return };
        placed.joining = joins(record, me);
        let open = |(shard, epoch): &(ShardId, u64)| placed.joining.get(shard) == Some(epoch);
        placed.followed.retain(|key, _| open(key));
        placed.caught_up.retain(open);
        self.follow();
    }

    /// Whether a peer's word on what it closed, chosen by a record of this region, counts the
    /// shards that this node receives: a newer one than it knows may have moved some elsewhere.
    pub(super) fn counts_all(&self, record: Version) -> bool {
        let known = self.placement.region(&self.me.region).map(|known| known.version);
        record >= self.placed.receiving_since && record <= known.unwrap_or_default()
    }

    /// The record of a peer's region that is known here.
    pub(super) fn record_of(&self, peer: NodeId) -> Version {
        let region = self.peers.get(&peer).map_or("", |known| known.region());
        self.placement.region(region).map_or(Version::default(), |record| record.version)
    }

    /// This start's last sequences in shards that a peer receives, where the vectors here do not
    /// tell them: they were given up.
    pub(super) fn floors_for(&self, peer: NodeId) -> Vec<(ShardId, u64)> {
        let region = self.peers.get(&peer).map_or("", |known| known.region());
        let due = |(shard, floor): &(&ShardId, &u64)| {
            let set = self.placement.replicas(region, shard.slot);
            set.is_none_or(|set| set.receives(peer))
                && self.engine.sequence(**shard, self.me.origin) < **floor
        };
        let floors = self.placed.floors.iter().filter(due);
        floors.map(|(shard, floor)| (*shard, *floor)).collect()
    }

    fn own_replicas(&self, shard: ShardId) -> Option<&Replicas> {
        self.placement.replicas(&self.me.region, shard.slot)
    }

    /// Whether this node is to receive a shard's operations.
    pub(super) fn is_received(&self, shard: ShardId) -> bool {
        let mine = self.own_replicas(shard).is_none_or(|set| set.receives(self.me.node));
        mine && self.engine.is_swept(shard)
    }

    /// Whether the record is of this node as it is. With another disk, what it held is gone.
    pub(super) fn is_recorded(&self) -> bool {
        let record = self.placement.region(&self.me.region);
        let seat = record.and_then(|record| record.nodes.get(&self.me.node));
        !self.me.council || seat.is_some_and(|seat| Some(seat.disk) == self.placed.disk)
    }

    /// Whether this node may serve a shard: it has caught up, and issues no sequence again.
    pub(super) fn serves(&self, shard: ShardId) -> Result<(), Refusal> {
        if !self.is_recorded() {
            return Err(Refusal::Elsewhere);
        }
        let Some(set) = self.own_replicas(shard) else { return Ok(()) };
        let floor = self.placed.floors.get(&shard).copied().unwrap_or(0);
        let issued = self.engine.sequence(shard, self.me.origin);
        let whole = self.engine.is_whole(shard) && !self.is_ended();
        let may = whole && set.counts(self.me.node) && issued >= floor;
        if may { Ok(()) } else { Err(Refusal::Elsewhere) }
    }

    /// The epoch of the set of which this node is a replica that counts; none if it does not (R12):
    /// it serves the shard, or joins and has caught up.
    pub(super) fn standing(&self, shard: ShardId) -> Option<u64> {
        let epoch = self.own_replicas(shard).map_or(0, |set| set.epoch);
        let joined = || {
            let caught_up = self.placed.caught_up.contains(&(shard, epoch));
            caught_up && self.is_recorded() && self.engine.is_whole(shard) && !self.is_ended()
        };
        (self.serves(shard).is_ok() || joined()).then_some(epoch)
    }

    /// The recorded replicas of a shard, region by region, as far as a level looks at them; of a
    /// region without a record all nodes that were ever heard of.
    pub(super) fn sets(&self, shard: ShardId, level: Level) -> Sets<'_> {
        let counts = |region: &str| level.is_global() || region == self.me.region;
        let mut sets = Sets::new();
        let me = std::iter::once((self.me.node, self.me.region.as_str()));
        let facts = self.facts.values().map(|fact| (fact.node, fact.region.as_str()));
        let peers = self.peers.iter().map(|(node, peer)| (*node, peer.region()));
        for (node, region) in me.chain(facts).chain(peers) {
            if !region.is_empty() && counts(region) && self.placement.region(region).is_none() {
                sets.entry(region).or_default().to_mut().current.insert(node);
            }
        }
        for record in self.placement.regions().filter(|record| counts(&record.region)) {
            if let Some(set) = record.slots.get(usize::from(shard.slot)) {
                sets.insert(&record.region, Cow::Borrowed(set));
            }
        }
        if Mutant::CountLive.is_on() {
            let is_live = |node: &NodeId| self.is_reachable(*node);
            for set in sets.values_mut() {
                set.to_mut().current.retain(is_live);
            }
            sets.retain(|_, set| !set.current.is_empty());
        }
        sets
    }

    /// Whether a node can be asked now.
    pub(super) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.me.node || self.peers.get(&node).is_some_and(|peer| peer.connected)
    }

    /// Whether a peer is to be told of a shard: it receives it, or has some of it.
    pub(super) fn is_told(&self, peer: NodeId, shard: ShardId) -> bool {
        let Some(known) = self.peers.get(&peer) else { return false };
        let set = self.placement.replicas(known.region(), shard.slot);
        set.is_none_or(|set| set.receives(peer)) || known.vectors.contains_key(&shard)
    }

    pub(super) fn forget_routes(&mut self) {
        self.placed.routes.clear();
    }

    /// Where a shard's operations go.
    pub(super) fn route(&mut self, shard: ShardId) -> &Route {
        if !self.placed.routes.contains_key(&shard) {
            let route = self.find_route(shard);
            self.placed.routes.insert(shard, route);
        }
        &self.placed.routes[&shard]
    }

    fn find_route(&self, shard: ShardId) -> Route {
        let mut route = Route::default();
        let mut outside: BTreeMap<&str, NodeId> = BTreeMap::new();
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.connected) {
            let set = self.placement.replicas(peer.region(), shard.slot);
            if !set.is_none_or(|set| set.receives(*id)) {
                continue;
            }
            if peer.region() == self.me.region {
                route.inside.push(*id);
            } else {
                let nearest = outside.entry(peer.region()).or_insert(*id);
                *nearest = self.nearer(*nearest, *id);
            }
        }
        route.outside = outside.into_values().collect();
        route.holders = self.holders(shard);
        route
    }

    /// The one of two nodes that this node prefers: others prefer others.
    fn nearer(&self, one: NodeId, other: NodeId) -> NodeId {
        std::cmp::min_by_key(one, other, |node| distance(self.me.node, *node))
    }

    /// Other nodes that are replicas of a shard, dead or alive: recorded ones, and in a region
    /// without a record every node that was ever heard of.
    fn holders(&self, shard: ShardId) -> Vec<NodeId> {
        let unrecorded = |region: &str| self.placement.region(region).is_none();
        let facts = self.facts.values().filter(|fact| unrecorded(&fact.region));
        let peers = self.peers.iter().filter(|(_, peer)| unrecorded(peer.region()));
        let recorded =
            self.placement.regions().filter_map(|record| record.slots.get(usize::from(shard.slot)));
        let mut holders: BTreeSet<NodeId> = recorded.flat_map(Replicas::all).collect();
        holders.extend(facts.map(|fact| fact.node));
        holders.extend(peers.map(|(id, _)| *id));
        holders.remove(&self.me.node);
        holders.into_iter().collect()
    }

    /// Nodes of other regions that this node should be connected to.
    pub(super) fn wanted(&self) -> BTreeSet<NodeId> {
        let nodes: usize = self.placement.regions().map(|record| record.nodes.len()).sum();
        let others = self.placement.regions().filter(|record| record.region != self.me.region);
        if nodes <= FULL_MESH {
            return others.flat_map(|record| record.nodes.keys().copied()).collect();
        }
        let mine = self.own_slots();
        let mut wanted = BTreeSet::new();
        for set in others.flat_map(|record| mine.iter().filter_map(|slot| record.slots.get(*slot)))
        {
            let mut replicas: Vec<NodeId> = set.all().collect();
            replicas.sort_by_key(|node| distance(self.me.node, *node));
            wanted.extend(replicas.into_iter().take(REMOTE_REPLICAS));
        }
        wanted
    }

    /// The epochs of the sets of the slots that this node receives.
    pub(super) fn own_epochs(&self) -> BTreeMap<u16, u64> {
        let record = self.placement.region(&self.me.region);
        let sets = record.into_iter().flat_map(|record| (0..).zip(&record.slots));
        let mine = sets.filter(|(_, set)| set.receives(self.me.node));
        mine.map(|(slot, set)| (slot, set.epoch)).collect()
    }

    /// Goes on with moves of this node's replicas; at every tick.
    pub(super) fn tick_placement(&mut self) {
        self.follow();
        self.out.caught_up.extend(self.placed.caught_up.iter().map(|(shard, e)| (shard.slot, *e)));
        // Readers are told of a record by the step that took it: only then may a copy go.
        if !std::mem::take(&mut self.placed.fresh) {
            self.give_up();
        }
    }

    /// Asks current replicas what they have, as long as that is not here.
    fn follow(&mut self) {
        let (joining, done) = (&self.placed.joining, &self.placed.caught_up);
        let behind = joining.iter().map(|(shard, epoch)| (*shard, *epoch));
        let behind: Vec<_> = behind.filter(|key| !done.contains(key)).collect();
        for (shard, epoch) in behind {
            let Some(set) = self.own_replicas(shard) else { continue };
            let connected = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.connected);
            for node in set.current.iter().copied().filter(connected).collect::<Vec<_>>() {
                self.send(node, &Message::Follow { shard, epoch });
            }
        }
    }

    /// Notices that a joining replica has caught up; at every step.
    pub(super) fn catch_up(&mut self) {
        let (joining, done) = (&self.placed.joining, &self.placed.caught_up);
        let behind = joining.iter().map(|(shard, epoch)| (*shard, *epoch));
        let behind: Vec<_> = behind.filter(|key| !done.contains(key)).collect();
        for key in behind.into_iter().filter(|key| self.has_caught_up(*key)).collect::<Vec<_>>() {
            self.placed.caught_up.insert(key);
            self.out.caught_up.push((key.0.slot, key.1));
        }
    }

    fn has_caught_up(&self, (shard, epoch): (ShardId, u64)) -> bool {
        if Mutant::JoinUncaught.is_on() {
            return true;
        }
        let Some(answers) = self.placed.followed.get(&(shard, epoch)) else { return false };
        let Some(set) = self.own_replicas(shard) else { return false };
        let here = self.engine.vector(shard);
        let covered =
            |node: &&NodeId| answers.get(*node).is_some_and(|theirs| here.contains(theirs));
        let enough = set.enough_to_join();
        self.engine.is_swept(shard) && set.current.iter().filter(covered).count() >= enough
    }

    /// A joining replica asks: what it is told covers what was accepted before the move was known
    /// here; what comes after goes to it, too.
    pub(super) fn answer_follow(&mut self, peer: NodeId, shard: ShardId, epoch: u64) {
        let known = self.own_replicas(shard).is_some_and(|set| set.epoch >= epoch);
        if known && self.serves(shard).is_ok() {
            let (vector, (_, roll)) = (self.engine.vector(shard), self.engine.roll());
            self.send(peer, &Message::Followed { shard, epoch, roll, vector });
        }
    }

    pub(super) fn followed(
        &mut self,
        peer: NodeId,
        shard: ShardId,
        epoch: u64,
        vector: VersionVector,
    ) {
        let current = self.own_replicas(shard).filter(|set| set.epoch == epoch);
        if current.is_some_and(|set| set.counts(peer)) {
            self.placed.followed.entry((shard, epoch)).or_default().insert(peer, vector);
        }
    }

    /// Gives up copies that are no longer recorded here, where the recorded replicas have it all.
    fn give_up(&mut self) {
        let gone = |shard: &ShardId| {
            let set = self.own_replicas(*shard);
            set.is_some_and(|set| !set.receives(self.me.node) && self.has_all(set, *shard))
        };
        for shard in self.engine.shards().filter(gone).collect::<Vec<_>>() {
            tracing::info!(%shard, "given up: the recorded replicas have it");
            if !self.engine.is_whole(shard) {
                self.keep_unknown(shard);
                self.ends.stale.remove(&shard);
            }
            self.drop_copy(shard);
        }
    }

    /// Drops a shard's copy. What this start issued there it does not issue again.
    pub(super) fn drop_copy(&mut self, shard: ShardId) {
        let issued = self.engine.sequence(shard, self.me.origin);
        let floor = self.placed.floors.entry(shard).or_default();
        *floor = (*floor).max(issued);
        if let Some(waiting) = self.waiting.remove(&shard) {
            let bytes: usize = waiting.values().map(|(_, bytes)| bytes.len() + 256).sum();
            self.waiting_bytes -= bytes;
        }
        self.receiving.remove(&shard);
        for peer in self.peers.values_mut() {
            peer.forget_shard(shard);
        }
        self.engine.discard(shard);
    }

    /// Whether every recorded replica has what this copy has.
    fn has_all(&self, set: &Replicas, shard: ShardId) -> bool {
        let here = self.engine.vector(shard);
        let has = |node: &NodeId| {
            let theirs = self.peers.get(node).and_then(|peer| peer.vectors.get(&shard));
            theirs.is_some_and(|theirs| theirs.contains(&here))
        };
        let all = set.current.iter().all(has) || Mutant::DropEarly.is_on();
        set.next.is_none() && !set.current.is_empty() && all
    }

    /// Why this node's place keeps it from being ready.
    pub(super) fn unplaced(&self) -> Option<String> {
        let unknown = || "the region's council has not admitted this node yet".to_owned();
        if !self.is_recorded() {
            return Some(unknown());
        }
        let record = self.placement.region(&self.me.region)?;
        if !record.nodes.contains_key(&self.me.node) {
            return Some(unknown());
        }
        let joins = |set: &&Replicas| set.receives(self.me.node) && !set.counts(self.me.node);
        match record.slots.iter().filter(joins).count() {
            0 => None,
            count => Some(format!("{count} replicas are catching up")),
        }
    }
}

/// Shards that a node is to hold, and does not count for yet, with the epochs of their sets.
fn joins(record: &RegionPlacement, node: NodeId) -> BTreeMap<ShardId, u64> {
    let sets = (0..).zip(&record.slots);
    let joins = sets.filter(|(_, set)| set.receives(node) && !set.counts(node));
    joins.map(|(slot, set)| (ShardId { placement: 0, slot }, set.epoch)).collect()
}

/// How far two nodes are apart, by their ids alone.
fn distance(one: NodeId, other: NodeId) -> [u8; 16] {
    std::array::from_fn(|at| one.0[at] ^ other.0[at])
}
