//! What the log on disk says of entities: for subscribers behind memory's reach.
//!
//! Invariant: a page with a hole, or with an entry that cannot be read, is none: what is missing is
//! never taken for nothing.

use std::collections::{BTreeMap, BTreeSet};

use atoll_replication::core::Status;
use atoll_store::backend::Backend;
use atoll_store::dot::{Hlc, Origin};
use atoll_store::log::{self, Entry, RETIRED};
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;

/// Log records read in one step.
pub(super) const DISK_RECORDS: usize = 32;

/// Entities, and whose operation changed each last.
pub(super) type Keys = BTreeMap<EntityKey, Option<Origin>>;

/// What the holder of a foreign cursor has seen.
pub(super) struct Seen {
    /// Everything of an origin up to its clock; of all retired origins, up to that of `RETIRED`.
    clocks: BTreeMap<Origin, Hlc>,
    /// Origins that are not retired.
    live: BTreeSet<Origin>,
}

impl Seen {
    /// By the clocks of a cursor. Of retired origins all was seen if the node that gave it knew
    /// the same ones, else what their own clocks tell.
    pub(super) fn new(mut clocks: BTreeMap<Origin, Hlc>, status: &Status) -> Seen {
        let theirs = clocks.remove(&RETIRED);
        if theirs.is_some() && theirs == status.closed.get(&RETIRED).copied() {
            clocks.insert(RETIRED, Hlc(u64::MAX));
        }
        Seen { clocks, live: status.regions.keys().copied().collect() }
    }

    fn clock(&self, origin: Origin) -> Hlc {
        let clock = self.clocks.get(&origin);
        let retired = || self.clocks.get(&RETIRED).filter(|_| !self.live.contains(&origin));
        clock.or_else(retired).copied().unwrap_or_default()
    }
}

/// A page of the log, for one who has seen all up to some clocks.
pub(super) enum Page {
    /// Its first and last position, and the entities that it changed above the clocks.
    Changes { first: u64, last: u64, keys: Keys },
    /// There is nothing from there on.
    End,
    /// Some of what is above the clocks is not in the log any more, or cannot be read.
    Gone,
}

/// Reads a page, and then whether a trim overtook it.
pub(super) fn page_above(backend: &dyn Backend, from: u64, seen: &Seen) -> Page {
    let Ok(page) = log::read(backend, from, DISK_RECORDS) else { return Page::Gone };
    if log::is_trimmed(backend, |origin| seen.clock(origin)).unwrap_or(true) {
        return Page::Gone;
    }
    let (Some((first, _)), Some((last, _))) = (page.first(), page.last()) else { return Page::End };
    if page.iter().zip(*first..).any(|((position, _), next)| *position != next) {
        return Page::Gone;
    }
    let mut keys = Keys::new();
    for (_, bytes) in &page {
        let Some(above) = keys_above(bytes, seen) else { return Page::Gone };
        keys.extend(above);
    }
    Page::Changes { first: *first, last: *last, keys }
}

/// The entities that a log entry changed, and whose operation it was; `None` if it is damaged.
pub(super) fn keys_of(bytes: &bytes::Bytes) -> Option<Vec<(EntityKey, Option<Origin>)>> {
    Some(match Entry::decode(bytes)? {
        Entry::Operation { bytes, .. } => {
            let operation = Operation::decode(&bytes).ok()?;
            let origin = Some(operation.dot.origin);
            operation.parts.into_iter().map(|part| (part.key, origin)).collect()
        }
        Entry::Merged { keys, .. } => keys.into_iter().map(|key| (key, None)).collect(),
    })
}

/// The entities that a log entry changed, if it is above the clocks. Merged states always are.
fn keys_above(bytes: &bytes::Bytes, seen: &Seen) -> Option<Vec<(EntityKey, Option<Origin>)>> {
    if let Entry::Operation { bytes, .. } = Entry::decode(bytes)? {
        let (dot, stamp) = Operation::peek(&bytes).ok()?;
        if stamp <= seen.clock(dot.origin) {
            return Some(Vec::new());
        }
    }
    keys_of(bytes)
}
