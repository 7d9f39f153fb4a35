//! A region of nodes in one process, over real QUIC: what one does not hold, another answers.

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod entities;
mod hostile;
mod lists;
mod merged;
mod region;
mod streams;
