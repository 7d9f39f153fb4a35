//! What the log on disk says of entities: for subscribers behind memory's reach.
//!
//! Invariant: a page with a hole, or with an entry that cannot be read, is none: what is missing is
//! never taken for nothing.

use std::collections::BTreeMap;

use atoll_store::backend::Backend;
use atoll_store::dot::{Hlc, Origin};
use atoll_store::log::{self, Entry};
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;

/// Log records read in one step.
pub(super) const DISK_RECORDS: usize = 32;

/// Entities, and whose operation changed each last.
pub(super) type Keys = BTreeMap<EntityKey, Option<Origin>>;

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
pub(super) fn page_above(backend: &dyn Backend, from: u64, clocks: &BTreeMap<Origin, Hlc>) -> Page {
    let Ok(page) = log::read(backend, from, DISK_RECORDS) else { return Page::Gone };
    if log::is_trimmed(backend, clocks).unwrap_or(true) {
        return Page::Gone;
    }
    let (Some((first, _)), Some((last, _))) = (page.first(), page.last()) else { return Page::End };
    if page.iter().zip(*first..).any(|((position, _), next)| *position != next) {
        return Page::Gone;
    }
    let mut keys = Keys::new();
    for (_, bytes) in &page {
        let Some(above) = keys_above(bytes, clocks) else { return Page::Gone };
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
fn keys_above(
    bytes: &bytes::Bytes,
    clocks: &BTreeMap<Origin, Hlc>,
) -> Option<Vec<(EntityKey, Option<Origin>)>> {
    if let Entry::Operation { bytes, .. } = Entry::decode(bytes)? {
        let (dot, stamp) = Operation::peek(&bytes).ok()?;
        if stamp <= clocks.get(&dot.origin).copied().unwrap_or_default() {
            return Some(Vec::new());
        }
    }
    keys_of(bytes)
}
