//! What the log on disk says of entities: for subscribers behind memory's reach.
//!
//! Invariant: a page with a hole, or with an entry that cannot be read, is none: what is missing is
//! never taken for nothing.

use std::collections::BTreeMap;

use atoll_replication::core::Status;
use atoll_store::backend::Backend;
use atoll_store::dot::{Hlc, Origin};
use atoll_store::log::{self, Entry};
use atoll_store::name::EntityKey;
use atoll_store::operation::Operation;

/// Log records read in one step.
pub(super) const DISK_RECORDS: usize = 32;

/// Whether operations above the clocks are no longer in the log.
pub(super) fn is_trimmed(status: &Status, clocks: &BTreeMap<Origin, Hlc>) -> bool {
    let clock = |origin: &Origin| clocks.get(origin).copied().unwrap_or_default();
    status.trimmed.iter().any(|(origin, stamp)| *stamp > clock(origin))
}

/// Entities, and whose operation changed each last.
pub(super) type Keys = BTreeMap<EntityKey, Option<Origin>>;

/// The first and last position of a page of the log, and the entities it changed above the
/// clocks; `None` if there is nothing, or nothing readable.
pub(super) fn page_above(
    backend: &dyn Backend,
    from: u64,
    clocks: &BTreeMap<Origin, Hlc>,
) -> Option<(u64, u64, Keys)> {
    let page = log::read(backend, from, DISK_RECORDS).ok()?;
    let (first, last) = (page.first()?.0, page.last()?.0);
    if page.iter().zip(first..).any(|((position, _), next)| *position != next) {
        return None;
    }
    let mut keys = Keys::new();
    for (_, bytes) in &page {
        keys.extend(keys_above(bytes, clocks)?);
    }
    Some((first, last, keys))
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
