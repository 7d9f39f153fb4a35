//! Who is in a cluster, where a shard lives, and who owns it.
//!
//! [`membership`] knows who is there, in every region and in which state. [`placement`] proposes
//! which nodes of a region hold a replica of each shard; the region's [`council`] decides, by a
//! Raft group ([`raft`]), and records it: what counts is the set that was recorded. [`core`] has
//! both side by side, [`driver`] turns it. [`discovery`] finds the addresses of other nodes, and
//! says who forms a region.
//!
//! [`groups`] are the Raft groups of owned entities, one for each shard, whose leaders own it.
//!
//! Left out: what owners do with what their groups agree on.

pub mod core;
pub mod council;
pub mod discovery;
pub mod driver;
pub mod groups;
pub mod membership;
pub mod placement;
pub mod raft;
