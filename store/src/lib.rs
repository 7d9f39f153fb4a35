//! What an Atoll entity is, and how it survives: names, CRDTs, the log, checkpoints, sled.
//!
//! Synchronous; knows no network, no runtime and no clock. Time and chance are arguments.

pub mod backend;
mod checkpoint;
mod collect;
pub mod command;
pub mod committer;
pub mod discard;
pub mod dot;
pub mod engine;
pub mod entity;
pub mod log;
mod maintain;
pub mod mutant;
pub mod name;
mod notes;
pub mod operation;
pub mod owned;
pub mod reader;
pub mod record;
mod recover;
mod repair;
pub mod retire;
pub mod shard;
pub mod transfer;
