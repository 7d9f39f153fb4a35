//! Atoll over HTTP: the server, the command line and the demo.

pub mod http;
pub mod node;
