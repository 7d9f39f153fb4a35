//! Membership as whole regions live it: kills, pauses, saturated links, partitions, restarts,
//! leaving, five regions, and what it costs. All from seeds, in simulated time.
#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod golden;
mod hostile;
mod region;
mod regions;
mod world;
