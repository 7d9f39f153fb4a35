//! Histories, judges and tools that check Atoll from outside.
//!
//! Invariant: what judges ([`checkers`]) reads histories ([`history`]) and nothing else: no crate
//! of the product, so that a mistake there is not repeated here.

pub mod checkers;
pub mod cli;
pub mod history;
pub mod http;
pub mod maelstrom;
pub mod matrix;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod random;
pub mod real;
pub mod report;
pub mod simulator;
pub mod wait;
pub mod workloads;
