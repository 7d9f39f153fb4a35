//! Retirement of origins that ended (R9): how nodes and councils agree on an end.
//!
//! ```text
//! ended ── every replica says what it has, and takes no more ── finals ── every replica has all
//!   that any region has ── reached, in every region ── retired: it leaves vectors, clocks, facts
//! ```
//!
//! The councils record each step of their regions; records reach every node. So a node learns of
//! all regions without being connected to all nodes, and any node can take the last step.
//!
//! Invariants:
//! 1. Of an origin that is recorded as ended, nothing is taken beyond the highest sequence that
//!    any region has recorded; but until their own region has, its recorded replicas fill each
//!    other's gaps, as who joins must. What they tell names the set that they took from, so what
//!    the present set has together does not change by that. What a node tells it has is durable.
//! 2. A replica that has more than that, as it was given up and came back, has all of it, too: its
//!    copy is found stale when the origin is retired (`roll`).
//! 3. An origin is retired when every region that must agree has recorded that all its replicas
//!    have all of it.
//! 4. A start that finds itself ended writes nothing any more: its node starts again.
//!
//! Left out: gathering what the nodes tell, which is the council's; what rolls are for (`roll`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use atoll_store::dot::{Dot, Hlc, Millis, Origin};
use atoll_store::mutant::Mutant;
use atoll_store::retire::Retirement;
use atoll_store::shard::ShardId;

use super::Core;
use super::roll::Limits;
use crate::placement::{End, Ending, Held};
use crate::transport::NodeId;

/// How long after its start a node says that its earlier ones ended. Default 10 s: what they wrote
/// last is on its way to the peers until then.
const ENDED_AFTER_MS: Millis = 10_000;

/// What a core keeps about ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Origins recorded as ended: the sequences up to which they are taken, by slot.
    limits: Limits,
    /// Origins of which all is here: of these slots, at this clock.
    reached: BTreeMap<Origin, (BTreeSet<u16>, Hlc)>,
    /// Shards whose copies missed something retired, and are not blank.
    pub(super) stale: BTreeSet<ShardId>,
    /// Notes of operations that only this node knew.
    pub(super) unknown: BTreeMap<String, Bytes>,
    /// When some of a shard were last handed on.
    pub(super) handed: BTreeMap<ShardId, Millis>,
}

impl Core {
    /// After a start: what is to be known of ends.
    pub(super) fn open_endings(&mut self) {
        let shards = self.engine.shards().filter(|shard| !self.engine.is_whole(*shard));
        self.ends.stale = shards.collect();
        self.read_unknown();
        self.note_endings();
    }

    /// Reads the records: which origins ended, and how much of them is taken.
    pub(super) fn note_endings(&mut self) {
        let ended = self.placement.regions().flat_map(|record| record.ended.keys().copied());
        let open = ended.filter(|origin| !self.engine.is_retired(*origin));
        let limits: Limits = open.map(|origin| (origin, self.finals(origin))).collect();
        self.ends.reached.retain(|origin, _| limits.contains_key(origin));
        self.ends.limits = limits;
    }

    fn ends_of(&self, origin: Origin) -> impl Iterator<Item = &End> {
        self.placement.regions().filter_map(move |record| record.ends.get(&origin))
    }

    /// The highest sequences that any region recorded.
    fn finals(&self, origin: Origin) -> BTreeMap<u16, u64> {
        let mut finals: BTreeMap<u16, u64> = BTreeMap::new();
        for (slot, last) in self.ends_of(origin).flat_map(|end| &end.finals) {
            let highest = finals.entry(*slot).or_default();
            *highest = (*highest).max(*last);
        }
        finals
    }

    /// Whether an operation may be taken of a peer: its origin goes on, or some region has
    /// recorded that it had not ended before it; or the peer's word counts for the end that this
    /// region is to agree on.
    pub(super) fn may_take(&self, peer: NodeId, shard: ShardId, dot: Dot) -> bool {
        let Some(limits) = self.ends.limits.get(&dot.origin) else { return true };
        let here = self.engine.sequence(shard, dot.origin);
        let region = self.peers.get(&peer).map_or("", |peer| peer.region());
        let record = self.placement.region(region).filter(|_| region == self.me.region);
        let open = record.is_some_and(|record| {
            let set = record.slots.get(usize::from(shard.slot));
            !record.ends.contains_key(&dot.origin) && set.is_some_and(|set| set.receives(peer))
        });
        open || dot.sequence <= limits.get(&shard.slot).copied().unwrap_or(0).max(here)
    }

    /// Whether the cluster has ended this start.
    pub(super) fn is_ended(&self) -> bool {
        let origin = self.me.origin;
        self.ends.limits.contains_key(&origin) || self.engine.is_retired(origin)
    }

    /// Tells the council what it is to record, and retires what all regions agree on.
    pub(super) fn tick_endings(&mut self) {
        if self.placement.region(&self.me.region).is_none() {
            return;
        }
        self.retire_agreed();
        let mut endings = self.ended_here();
        for origin in self.ends.limits.keys().copied().collect::<Vec<_>>() {
            endings.extend(self.ending(origin));
        }
        let record = self.placement.region(&self.me.region);
        let recorded = record.map(|record| record.ended.keys().chain(record.ends.keys()));
        let over: BTreeSet<Origin> = recorded.into_iter().flatten().copied().collect();
        let over = over.into_iter().filter(|origin| self.engine.is_retired(*origin));
        endings.extend(over.map(|origin| Ending::Retired { origin }));
        self.out.endings.extend(endings);
    }

    /// Origins of this region that ended and are not recorded: this node's own earlier ones, those
    /// of nodes that are gone, and maybe those of nodes that were never recorded.
    fn ended_here(&self) -> Vec<Ending> {
        let Some(record) = self.placement.region(&self.me.region) else { return Vec::new() };
        let late = self.elapsed >= self.started + ENDED_AFTER_MS;
        let me = &self.me;
        let regions: BTreeSet<String> =
            self.placement.regions().map(|record| record.region.clone()).collect();
        let mut ended: Vec<Ending> = Vec::new();
        for fact in self.facts.values().filter(|fact| fact.region == me.region) {
            let own = fact.node == me.node && fact.origin != me.origin && late;
            let (origin, node) = (fact.origin, fact.node);
            if record.ended.contains_key(&origin) {
                continue;
            }
            let regions = regions.clone();
            if own || record.gone.contains(&node) {
                ended.push(Ending::Ended { origin, regions });
            } else if node != me.node && !record.nodes.contains_key(&node) {
                ended.push(Ending::Orphan { origin, node, regions });
            }
        }
        ended
    }

    /// What this node has to tell of an origin that ended.
    fn ending(&mut self, origin: Origin) -> Option<Ending> {
        let record = self.placement.region(&self.me.region)?;
        let mine: BTreeSet<u16> = self.own_slots().into_iter().map(|slot| slot as u16).collect();
        let shard = |slot: &u16| ShardId { placement: 0, slot: *slot };
        let Some(end) = record.ends.get(&origin) else {
            let has = |slot: &u16| {
                let epoch = record.slots.get(usize::from(*slot)).map_or(0, |set| set.epoch);
                (*slot, Held { epoch, last: self.engine.sequence(shard(slot), origin) })
            };
            return Some(Ending::Holds { origin, slots: mine.iter().map(has).collect() });
        };
        let mut must = self.placement.regions().filter_map(|record| record.ended.get(&origin));
        let named = must.next()?;
        let told = |region: &String| {
            self.placement.region(region).is_some_and(|record| record.ends.contains_key(&origin))
        };
        if end.reached || !named.iter().all(told) {
            return None;
        }
        let finals = self.ends.limits.get(&origin)?;
        let all = |slot: &u16| {
            let last = finals.get(slot).copied().unwrap_or(0);
            self.engine.sequence(shard(slot), origin) >= last
        };
        if !mine.iter().all(all) {
            return None;
        }
        let now = (mine, self.hlc);
        let reached = self.ends.reached.entry(origin).or_insert_with(|| now.clone());
        if reached.0 != now.0 {
            *reached = now;
        }
        let (slots, at) = reached.clone();
        Some(Ending::Reached { origin, at, slots })
    }

    /// Retires the origins on whose ends all regions that must have agreed.
    fn retire_agreed(&mut self) {
        let ended = self.placement.regions().flat_map(|record| &record.ended);
        let open = ended.filter(|(origin, _)| !self.engine.is_retired(**origin));
        let reached = |origin: &Origin, region: &String| {
            let record = self.placement.region(region);
            record.and_then(|record| record.ends.get(origin)).is_some_and(|end| end.reached)
        };
        let agreed = open.filter(|(origin, regions)| match Mutant::RetireEarly.is_on() {
            true => regions.iter().any(|r| reached(origin, r)),
            false => regions.iter().all(|r| reached(origin, r)),
        });
        let retirement = |origin: Origin| Retirement {
            origin,
            at: self.ends_of(origin).map(|end| end.at).max().unwrap_or_default(),
            finals: Some(self.finals(origin)),
        };
        let agreed: Vec<Retirement> = agreed.map(|(origin, _)| *origin).map(retirement).collect();
        if !agreed.is_empty() {
            self.retire(agreed);
        }
    }

    /// Takes origins out of everything that is kept by origin.
    pub(super) fn retire(&mut self, entries: Vec<Retirement>) {
        let slots = self.own_slots();
        let recorded = self.placement.region(&self.me.region).is_some();
        let whole: Vec<ShardId> =
            self.engine.shards().filter(|shard| self.engine.is_whole(*shard)).collect();
        self.engine.retire(entries, |slot| !recorded || slots.contains(&usize::from(slot)));
        let engine = &self.engine;
        self.ends.stale.extend(whole.into_iter().filter(|shard| !engine.is_whole(*shard)));
        self.facts.retain(|origin, _| !engine.is_retired(*origin));
        self.closed.retain(|origin, _| !engine.is_retired(*origin));
        for waiting in self.waiting.values_mut() {
            waiting.retain(|dot, (_, bytes)| {
                let live = !engine.is_retired(dot.origin);
                self.waiting_bytes -= if live { 0 } else { bytes.len() + 256 };
                live
            });
        }
        // What is on its way was read with another roll.
        self.receiving.clear();
        for peer in self.peers.values_mut() {
            peer.sending.clear();
            peer.same_roll = false;
            peer.gaps.retain(|(_, origin), _| !engine.is_retired(*origin));
            peer.asked.retain(|(_, origin), _| !engine.is_retired(*origin));
        }
        self.begin_again();
        self.note_endings();
        self.forget_routes();
        self.changed = true;
    }
}
