//! Whom a voter may believe: disks, their starts, and who has recognised them (rule R13).
//!
//! A voter's promises are worth what its disk remembers. A disk that was put back to an older
//! copy has forgotten some, and would vote twice or lose what it acknowledged. So a member of a
//! group is a *disk*, with an id drawn when its directory is created, and each start adds a nonce
//! to a list on it. Peers remember the newest nonce of each disk that they have seen; a list that
//! lacks it is an older copy's. A copy of the same start is told by its promises: it knows an
//! older term, or has a shorter log, than it has shown.
//!
//! ```text
//! n             this disk: id, nonces of its starts
//! nm disk       the newest nonce seen of a disk, and its node, by the council
//! v disk        the same, by the groups of owners
//! ```
//!
//! Invariants:
//! 1. (R13) Who recognises a start remembers it durably before it says so.
//! 2. Messages count only from starts that were recognised by whoever reads them.
//! 3. Who is found stale draws a new id; what was promised under the old one is never undone,
//!    since nobody speaks under it again.
//! 4. A member speaks once a majority of its group has recognised its start, itself counted, and
//!    all others have, or have had [`GRACE_MS`] to say what they know.
//!
//! Left out: an older copy that shows itself only to those who never saw the later start. With
//! everybody else away for longer than the grace, it is believed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use atoll_replication::transport::NodeId;
use atoll_store::backend::{Backend, Write};
use atoll_store::dot::Millis;
use atoll_store::record::{self, RecordError, RecordKind};

use super::{Config, draw};

/// How long a start waits for members who do not answer, once a majority has.
pub const GRACE_MS: Millis = 3_000;
/// Starts of a disk that it tells. A peer that missed as many takes it for a stale one, which
/// costs the disk its id, and nothing else.
const STARTS_KEPT: usize = 256;
/// Disks remembered: far more than members of a region at any time.
const DISKS_KEPT: usize = 1024;

const OWN_KEY: &[u8] = b"n";
/// What the keys of disks begin with that a council has seen, and of those that groups have.
const COUNCIL_MEMORY: &[u8] = b"nm";
const GROUPS_MEMORY: &[u8] = b"v";

/// What a start tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The disk.
    pub disk: u64,
    /// Nonces of its starts, the newest last.
    pub starts: Vec<u64>,
    /// By group: the term, and the last index of the log, that it woke up with.
    pub promised: BTreeMap<u64, (u64, u64)>,
}

impl Hello {
    /// This start's nonce.
    pub fn nonce(&self) -> Option<u64> {
        self.starts.last().copied()
    }
}

/// A disk that has started: its id, and the nonces of its starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    id: u64,
    starts: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    nonce: u64,
    node: NodeId,
    /// Orders what was seen; the oldest is forgotten first.
    order: u64,
}

/// This disk, and what is remembered of others.
#[derive(Clone, Debug)]
pub struct Starts {
    own: Disk,
    /// What keys of the memory begin with.
    memory: &'static [u8],
    chance: u64,
    seen: BTreeMap<u64, Seen>,
    /// The most that each disk has promised in each group, as far as was noticed here since this
    /// start: by disk and group.
    promises: BTreeMap<(u64, u64), (u64, u64)>,
}

fn seen_key(memory: &[u8], disk: u64) -> Vec<u8> {
    [memory, &disk.to_be_bytes()].concat()
}

fn put(key: &[u8], value: &impl Serialize, writes: &mut Vec<Write>) {
    let body = postcard::to_stdvec(value).expect("a start encodes to memory");
    record::encode(RecordKind::Raft, key, &body, writes, 0);
}

impl Disk {
    fn read(backend: &dyn Backend) -> Result<Option<Disk>, RecordError> {
        match record::read(backend, OWN_KEY, RecordKind::Raft) {
            Ok(found) => Ok(found.and_then(|(body, _)| postcard::from_bytes(&body).ok())),
            Err(RecordError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The id that a disk had at its last start; none if it is an empty one.
pub fn disk_of(backend: &dyn Backend) -> Result<Option<u64>, RecordError> {
    Ok(Disk::read(backend)?.map(|disk| disk.id))
}

impl Starts {
    /// Starts this disk, or a new one, with `chance` drawn for this start. A damaged record of
    /// its own makes it a new disk; a damaged memory of another is forgotten.
    pub fn open(
        backend: &dyn Backend,
        chance: u64,
        writes: &mut Vec<Write>,
    ) -> Result<Starts, RecordError> {
        let own = Disk::read(backend)?;
        let new = Disk { id: draw(b"disk", &[chance, 0]).max(1), starts: Vec::new() };
        let mut starts = Starts::with(backend, own.unwrap_or(new), chance, COUNCIL_MEMORY)?;
        starts.own.starts.push(draw(b"start", &[chance, starts.own.id]));
        let excess = starts.own.starts.len().saturating_sub(STARTS_KEPT);
        starts.own.starts.drain(..excess);
        put(OWN_KEY, &starts.own, writes);
        Ok(starts)
    }

    /// The start of a disk as the groups of owners see it, beside the council: the same disk, and
    /// a memory of their own. Who gives up the disk's id tells the other: [`Starts::adopt`].
    pub fn beside(backend: &dyn Backend, own: Disk, chance: u64) -> Result<Starts, RecordError> {
        Starts::with(backend, own, chance, GROUPS_MEMORY)
    }

    fn with(
        backend: &dyn Backend,
        own: Disk,
        chance: u64,
        memory: &'static [u8],
    ) -> Result<Starts, RecordError> {
        let promises = BTreeMap::new();
        let mut starts = Starts { own, memory, chance, seen: BTreeMap::new(), promises };
        let until = [memory, &[u8::MAX; 9]].concat();
        for (key, body) in record::scan(backend, RecordKind::Raft, memory, &until, DISKS_KEPT)? {
            let disk = key.get(memory.len()..).and_then(|disk| disk.try_into().ok());
            let seen = body.ok().and_then(|body| postcard::from_bytes(&body).ok());
            if let (Some(disk), Some(seen)) = (disk, seen) {
                starts.seen.insert(u64::from_be_bytes(disk), seen);
            }
        }
        Ok(starts)
    }

    /// This disk and its starts, for [`Starts::beside`].
    pub fn own(&self) -> Disk {
        self.own.clone()
    }

    /// The disk has another id from now on, and is in no group.
    pub fn adopt(&mut self, own: Disk) {
        self.own = own;
        self.promises.clear();
    }

    /// This disk.
    pub fn disk(&self) -> u64 {
        self.own.id
    }

    /// This start.
    pub fn nonce(&self) -> u64 {
        *self.own.starts.last().expect("opening adds one")
    }

    /// What this start tells, having woken up with these promises.
    pub fn hello(&self, promised: BTreeMap<u64, (u64, u64)>) -> Hello {
        Hello { disk: self.own.id, starts: self.own.starts.clone(), promised }
    }

    /// Gives up the id: this is an empty disk from now on.
    pub fn renew(&mut self, writes: &mut Vec<Write>) {
        let id = draw(b"disk", &[self.chance, self.own.id]).max(1);
        self.own = Disk { id, starts: vec![draw(b"start", &[self.chance, id])] };
        put(OWN_KEY, &self.own, writes);
    }

    /// Takes another disk's start. False if it is stale: its list lacks a start that was seen
    /// here, or it has forgotten a promise that was noticed here.
    pub fn recognise(&mut self, from: NodeId, hello: &Hello, writes: &mut Vec<Write>) -> bool {
        let Some(nonce) = hello.nonce() else { return false };
        let order = self.seen.values().map(|seen| seen.order + 1).max().unwrap_or(0);
        if let Some(seen) = self.seen.get(&hello.disk) {
            if seen.nonce == nonce && seen.node == from {
                return true;
            }
            if !hello.starts.contains(&seen.nonce) || seen.nonce != nonce && self.forgot(hello) {
                return false;
            }
        }
        self.seen.insert(hello.disk, Seen { nonce, node: from, order });
        put(&seen_key(self.memory, hello.disk), &self.seen[&hello.disk], writes);
        true
    }

    /// Forgets the disks seen longest ago, beyond a bound, but for those in use.
    pub fn prune(&mut self, in_use: impl Fn(u64) -> bool, writes: &mut Vec<Write>) {
        while self.seen.len() > DISKS_KEPT / 2 {
            let idle = self.seen.iter().filter(|(disk, _)| !in_use(**disk));
            let Some((disk, _)) = idle.min_by_key(|(_, seen)| seen.order) else { return };
            let disk = *disk;
            self.seen.remove(&disk);
            self.promises.retain(|(of, _), _| *of != disk);
            record::remove(&seen_key(self.memory, disk), 0, writes);
        }
    }

    /// Whether this start of a disk, on this node, was recognised here.
    pub fn knows(&self, node: NodeId, disk: u64, nonce: u64) -> bool {
        self.seen.get(&disk).is_some_and(|seen| seen.nonce == nonce && seen.node == node)
    }

    /// Whether a disk woke up with less than it had promised in some group.
    fn forgot(&self, hello: &Hello) -> bool {
        let mut promises = self.promises.range((hello.disk, 0)..=(hello.disk, u64::MAX));
        let woke = |group| hello.promised.get(group).copied().unwrap_or_default();
        promises.any(|((_, group), promise)| woke(group) < *promise)
    }

    /// Notices what a disk has promised in a group.
    pub fn notice(&mut self, disk: u64, group: u64, promise: (u64, u64)) {
        let promises = self.promises.entry((disk, group)).or_default();
        *promises = promise.max(*promises);
    }

    /// Forgets what a disk has promised in a group that it is no member of any more.
    pub fn release(&mut self, disk: u64, group: u64) {
        self.promises.remove(&(disk, group));
    }

    /// Forgets the promises of a group that this disk is no member of any more: nor need others be.
    pub fn leave(&mut self, group: u64) {
        self.promises.retain(|(_, of), _| *of != group);
    }
}

/// Whether a start may speak in a group: invariant 4.
#[derive(Clone, Debug, Default)]
pub struct Clearance {
    answered: BTreeSet<u64>,
    /// The newest configuration that is known, and the index that it was applied at.
    config: Option<(u64, Config)>,
    since: Option<Millis>,
    cleared: bool,
}

impl Clearance {
    /// For who has just made the group, and promised nothing.
    pub fn given() -> Clearance {
        Clearance { cleared: true, ..Clearance::default() }
    }

    /// Whether it may speak.
    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// A disk has recognised this start.
    pub fn answer(&mut self, disk: u64) {
        self.answered.insert(disk);
    }

    /// Whether a disk has.
    pub fn has_answered(&self, disk: u64) -> bool {
        self.answered.contains(&disk)
    }

    /// Somebody's configuration, of the index where it was applied.
    pub fn learn(&mut self, index: u64, config: &Config) {
        if self.config.as_ref().is_none_or(|(known, _)| *known < index) {
            self.config = Some((index, config.clone()));
        }
    }

    /// Looks at the clock, and at who has answered. True once it may speak, and ever after.
    pub fn check(&mut self, now: Millis, me: u64) -> bool {
        let Some((_, config)) = self.config.as_ref().filter(|_| !self.cleared) else {
            return self.cleared;
        };
        let since = *self.since.get_or_insert(now);
        let knows = |id: u64| id == me || self.answered.contains(&id);
        let waited = now.saturating_sub(since) >= GRACE_MS || config.members().all(knows);
        self.cleared = config.is_majority(knows) && waited;
        self.cleared
    }
}
