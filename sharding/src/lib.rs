//! Who is in a cluster, where a shard lives, and who owns it.
//!
//! [`membership`] knows who is there, in every region and in which state. [`placement`] proposes
//! which nodes of a region hold a replica of each shard; the region's [`council`] decides, by a
//! Raft group ([`raft`]), and records it: what counts is the set that was recorded. [`core`] has
//! both side by side, [`driver`] turns it. [`discovery`] finds the addresses of other nodes, and
//! says who forms a region.
//!
//! [`groups`] are the Raft groups of owned entities, one for each shard, whose leaders own it;
//! [`owner`] decides what is appended to the owned entities of a shard, by their [`behaviour`]s.
//!
//! Left out: what joins the two in a running node. Owned entities are not served yet.

pub mod behaviour;
pub mod core;
pub mod council;
pub mod discovery;
pub mod driver;
pub mod groups;
pub mod membership;
pub mod owner;
pub mod placement;
pub mod raft;
