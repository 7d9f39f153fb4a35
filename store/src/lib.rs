//! What an Atoll entity is, and how it survives: names, CRDTs, the log, checkpoints, sled.
//!
//! Synchronous; knows no network, no runtime and no clock. Time and chance are arguments.

pub mod backend;
pub mod command;
pub mod committer;
pub mod dot;
pub mod entity;
pub mod name;
pub mod operation;
pub mod record;
