//! Atoll over HTTP: the server, the command line and the demo.

pub mod bench;
pub mod cli;
pub mod client;
mod cluster;
pub mod config;
pub mod demo;
pub mod http;
pub mod node;
pub mod server;
mod start;
