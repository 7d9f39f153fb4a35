//! The author of a start's operations.
//!
//! Invariant: no two starts share one, so that no dot is used twice, also by a node whose disk was
//! put back to an older copy.

use atoll_replication::transport::NodeId;
use atoll_store::dot::Origin;
use atoll_store::mutant::Mutant;

/// The origin of a start: `drawn` are 64 random bits that only this start has.
pub fn origin_of(id: NodeId, drawn: u64) -> Origin {
    if Mutant::ReuseDots.is_on() {
        return Origin(u64::from_be_bytes(*id.0.first_chunk().expect("an id has 16 bytes")));
    }
    Origin(drawn)
}
