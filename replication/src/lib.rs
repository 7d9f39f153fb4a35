//! How copies of Atoll entities converge: the core, and the transport that carries its frames.

pub mod transport;
