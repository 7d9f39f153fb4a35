//! Faults at real processes: what was acknowledged survives them, and regions agree afterwards.
//!
//! Each test starts nodes with `atoll serve`, each in a region of its own, over real QUIC and HTTP
//! on loopback. Which peers a node knows is decided at its start, so a cut is a start with others.

mod crash;
mod damage;
mod drain;
mod found;
mod full;
mod hostile;
mod load;
mod node;
mod restored;
