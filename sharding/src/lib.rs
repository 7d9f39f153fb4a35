//! Where a shard lives, and who owns it.
//!
//! Today: [`membership`], who is there in every region and in which state; and [`placement`], the
//! pure function that proposes which nodes of each region hold a replica of each shard. It only
//! proposes; what counts is the set that was recorded.
//!
//! Left out, until owned entities exist: the council that records placements under an epoch,
//! moves between replica sets, and the Raft groups of owned entities.

pub mod membership;
pub mod placement;
