//! Where a shard lives, and who owns it.
//!
//! Today: [`membership`], who is there in every region and in which state; and [`placement`], the
//! pure function that proposes which nodes of each region hold a replica of each shard. It only
//! proposes; what counts is the set that was recorded.
//! [`placement`] proposes which nodes of a region hold a replica of each shard; [`council`]
//! decides, by a Raft group ([`raft`]), and records it; what counts is the set that was recorded.
//!
//! Left out, until owned entities exist: owners of shards, and their Raft groups.

pub mod membership;
pub mod council;
pub mod placement;
pub mod raft;
