//! How copies of Atoll entities converge, over QUIC.
//!
//! `core` decides, `transport` carries, `driver` turns the one around the other.

pub mod core;
pub mod driver;
pub mod level;
pub mod placement;
pub mod transport;
