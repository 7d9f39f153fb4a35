//! Origins that ended and were retired (R9): they leave vectors, clocks and facts, and count as
//! covered.
//!
//! ```text
//! roll       every retired origin, in the order in which this node learned of them; only grows
//! vector     covers the first n of the roll: it had seen all of each when it took it in
//! ```
//!
//! Invariants:
//! 1. A copy covers a retired origin only once it has seen all that any recorded replica had of
//!    it; until then it is not *whole*, and keeps the sequences that it has.
//! 2. The roll is durable before anything that leans on it is sent.
//! 3. Vectors of two copies compare only where both nodes have the same roll: what it says of
//!    retired origins, a vector does not spell out.
//!
//! Left out: who decides that an origin is retired, which is replication's.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dot::{Hlc, Order, Origin, VersionVector};
use crate::engine::{Engine, StoreError};
use crate::record::{Damage, Damaged, RecordError};
use crate::shard::ShardId;

/// Notes that hold the pages of the roll, and their copies.
const PREFIXES: [&str; 2] = ["retired/", "retired-copy/"];
/// Entries of the roll in one record on the disk.
const PAGE: usize = 32;
/// Pages of the roll, from its end, that keep the last sequences: a copy that missed more of the
/// roll cannot tell any more what it lacks, and takes whole states.
const FINAL_PAGES: usize = 32;
/// Retired origins, the last ones, of which it is still known apart what was trimmed.
const TRIMS_KEPT: usize = 64;
/// Origins retired since a shard's last checkpoint at which it is due another one.
const LAG: u32 = 256;

/// An origin that was retired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// The origin.
    pub origin: Origin,
    /// No replica's clock was higher when it had all of it.
    pub at: Hlc,
    /// Its last sequences by hash slot, those above 0; none once they are forgotten.
    pub finals: Option<BTreeMap<u16, u64>>,
}

/// When origins were retired, and how many before each. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Retired(Arc<BTreeMap<Origin, (Hlc, u32)>>);

impl Retired {
    /// When an origin was retired.
    pub fn at(&self, origin: Origin) -> Option<Hlc> {
        self.0.get(&origin).map(|(at, _)| *at)
    }

    /// Whether every node knows that an origin was retired, and all that had not seen all of it
    /// when it was written is here.
    pub(crate) fn is_settled(&self, origin: Origin, settled: &Settled) -> bool {
        let known = |(at, place): &(Hlc, u32)| *at <= settled.clock && *place < settled.known;
        self.0.get(&origin).is_some_and(known)
    }
}

/// All retired origins.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    entries: Vec<Retirement>,
    order: Order,
    retired: Retired,
    digest: u64,
}

/// What nothing that is still on its way can touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Every operation stamped up to here has been applied by every node, and everything that a
    /// node had issued before it had applied them is here.
    pub clock: Hlc,
    /// So many of this roll every node is known to have in its own.
    pub known: u32,
}

impl Roll {
    fn push(&mut self, retirement: Retirement) {
        let place = u32::try_from(self.entries.len()).expect("a cluster outlives no 2^32 starts");
        self.digest ^= retirement.origin.0;
        Arc::make_mut(&mut self.order).insert(retirement.origin, place);
        Arc::make_mut(&mut self.retired.0).insert(retirement.origin, (retirement.at, place));
        self.entries.push(retirement);
    }

    fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("a cluster outlives no 2^32 starts")
    }

    pub(crate) fn order(&self) -> &Order {
        &self.order
    }

    pub(crate) fn retired(&self) -> &Retired {
        &self.retired
    }

    /// How many origins have settled.
    pub(crate) fn count_settled(&self, settled: &Settled) -> u32 {
        let known = self.entries.iter().take(settled.known as usize);
        known.filter(|entry| entry.at <= settled.clock).count() as u32
    }

    /// Whether a vector covers all that was retired up to a clock.
    pub(crate) fn is_covered(&self, vector: &VersionVector, until: Hlc) -> bool {
        let rest = self.entries.get(vector.covered() as usize..).unwrap_or_default();
        rest.iter().all(|entry| entry.at > until)
    }
}

impl Engine {
    /// Whether an origin was retired.
    pub fn is_retired(&self, origin: Origin) -> bool {
        self.roll.order.contains_key(&origin)
    }

    /// How many origins were retired, and a sum over them: equal for equal rolls.
    pub fn roll(&self) -> (u32, u64) {
        (self.roll.len(), self.roll.digest)
    }

    /// The last of the roll, up to `count`.
    pub fn retired(&self, count: usize) -> &[Retirement] {
        let from = self.roll.entries.len().saturating_sub(count);
        &self.roll.entries[from..]
    }

    /// When an origin was retired: the clock above which every operation has seen all of it.
    pub fn retired_at(&self, origin: Origin) -> Option<Hlc> {
        self.roll.retired.at(origin)
    }

    /// When each was.
    pub fn retirements(&self) -> Retired {
        self.roll.retired.clone()
    }

    /// Whether a copy covers all that was retired. One that does not is behind, or was away: it
    /// takes a whole state before it tells anyone what it has.
    pub fn is_whole(&self, shard: ShardId) -> bool {
        let covered = self.shards.get(&shard).map_or(0, |shard| shard.vector.covered());
        covered == self.roll.len()
    }

    /// The last sequence of a retired origin in a slot; none if it is not known any more.
    pub fn retired_last(&self, origin: Origin, slot: u16) -> Option<u64> {
        let place = self.roll.order.get(&origin)?;
        let finals = self.roll.entries[*place as usize].finals.as_ref()?;
        Some(finals.get(&slot).copied().unwrap_or(0))
    }

    /// Notes what has settled, as far as is known now: less than before if nodes have come.
    pub fn settle(&mut self, settled: Settled) {
        if self.settled != settled {
            self.settled = settled;
            self.settle_shards();
        }
    }

    /// What has settled.
    pub fn settled(&self) -> Settled {
        self.settled
    }

    /// Takes in a vector of a peer with the same roll. One that does not cover all of it covers
    /// what it spells out: the order of a roll is its node's own.
    pub fn adopt(&self, vector: &mut VersionVector) {
        if vector.covered() != self.roll.len() {
            vector.uncover();
        }
        vector.adopt(&self.roll.order);
    }

    /// Retires origins: stages that they leave the vectors of the shards whose copies have all of
    /// them, the clocks and the facts. `held` tells which slots this node holds.
    pub fn retire(&mut self, retirements: Vec<Retirement>, held: impl Fn(u16) -> bool) {
        let before = self.roll.entries.len();
        for retirement in retirements {
            let origin = retirement.origin;
            if !self.is_retired(origin) {
                self.roll.push(retirement);
                self.drop_fact(origin);
                self.closed.remove(&origin);
            }
        }
        if self.roll.entries.len() == before {
            return;
        }
        self.stage_roll(before);
        // Whoever replays the log at the moment asks for what was trimmed by origin.
        let late = |length: usize| length.saturating_sub(TRIMS_KEPT);
        for entry in &self.roll.entries[late(before)..late(self.roll.entries.len())] {
            self.log.retire(entry.origin);
        }
        for slot in (0..self.options.slots).filter(|slot| held(*slot)) {
            self.cover(ShardId { placement: 0, slot });
        }
        self.stage_closed();
        self.stage_directory();
    }

    /// Covers, in a shard, what was retired and was wholly seen, in the order of the roll.
    pub(crate) fn cover(&mut self, id: ShardId) {
        if !self.is_swept(id) {
            return;
        }
        let (entries, order) = (&self.roll.entries, &self.roll.order);
        let shard = self.shards.entry(id).or_default();
        let before = shard.vector.covered();
        for retirement in &entries[before as usize..] {
            let Some(finals) = &retirement.finals else { break };
            let last = finals.get(&id.slot).copied().unwrap_or(0);
            if !shard.vector.retire(retirement.origin, last) {
                break;
            }
        }
        shard.vector.adopt(order);
        let now = shard.vector.covered();
        // A copy of which nothing else is to be written costs little to record; of another the
        // log still says what it had seen of the origin.
        let due = shard.unsaved.is_none() || now - shard.recorded_cover > LAG;
        if now > before && due {
            self.checkpoint(id);
        }
    }

    fn stage_roll(&mut self, before: usize) {
        for page in before / PAGE..=(self.roll.entries.len() - 1) / PAGE {
            self.stage_roll_page(page);
            let Some(old) = page.checked_sub(FINAL_PAGES).filter(|_| page * PAGE >= before) else {
                continue;
            };
            for entry in self.roll.entries.iter_mut().skip(old * PAGE).take(PAGE) {
                entry.finals = None;
            }
            self.stage_roll_page(old);
        }
    }

    /// A page lies twice: without it, what vectors cover is not known.
    fn stage_roll_page(&mut self, page: usize) {
        let entries: Vec<&Retirement> =
            self.roll.entries.iter().skip(page * PAGE).take(PAGE).collect();
        let body = postcard::to_stdvec(&entries).expect("a page of the roll encodes to memory");
        for prefix in PREFIXES {
            self.put_note(&format!("{prefix}{page:08}"), &body);
        }
    }

    /// Reads the roll.
    pub(crate) fn read_roll(&mut self) -> Result<(), StoreError> {
        let [first, twin] = PREFIXES.map(|prefix| self.notes(prefix));
        let by_page = |notes: Vec<(String, bytes::Bytes)>, prefix: &'static str| {
            let page = move |name: &str| name.strip_prefix(prefix)?.parse::<usize>().ok();
            notes.into_iter().filter_map(move |(name, body)| Some((page(&name)?, body)))
        };
        let mut pages: BTreeMap<usize, bytes::Bytes> = by_page(twin?, PREFIXES[1]).collect();
        pages.extend(by_page(first?, PREFIXES[0]));
        for (at, (page, body)) in pages.into_iter().enumerate() {
            let entries: Vec<Retirement> = postcard::from_bytes(&body).unwrap_or_default();
            if page != at || self.roll.entries.len() != at * PAGE || entries.is_empty() {
                return Err(lost_roll());
            }
            entries.into_iter().for_each(|entry| self.roll.push(entry));
        }
        let order = self.roll.order.clone();
        for shard in self.shards.values_mut() {
            if shard.vector.covered() > self.roll.len() {
                return Err(lost_roll());
            }
            shard.vector.adopt(&order);
            shard.beyond.adopt(&order);
        }
        Ok(())
    }

    /// Covers what the log had not been replayed for when the shards were read.
    pub(crate) fn cover_replayed(&mut self) {
        let ids: Vec<ShardId> = self.shards.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cover(id));
    }
}

/// Both copies of a page are gone: what the shards cover is unknown, and cannot be found out.
fn lost_roll() -> StoreError {
    let key = bytes::Bytes::from_static(PREFIXES[0].as_bytes());
    RecordError::Damaged(Damaged { key, why: Damage::Body }).into()
}
