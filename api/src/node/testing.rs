//! A node without a network, for tests of the surfaces.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

use atoll_replication::driver::SystemClock;
use atoll_replication::transport::{Class, NodeId, Transport};

use super::{Node, Settings, StartError};

/// A network that reaches nobody.
pub(super) struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: NodeId, _: Class, _: Bytes) -> bool {
        false
    }

    fn datagram(&self, _: NodeId, _: Bytes) -> bool {
        false
    }

    fn received(&self, _: NodeId) -> Option<u64> {
        None
    }

    fn reject(&self, _: NodeId, _: &'static str) {}

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }
}

/// Settings of a lone node in `region`, with its data in a directory.
pub fn settings(dir: &Path, region: &str) -> Settings {
    Settings {
        name: format!("{region}-1"),
        region: region.to_owned(),
        zone: "a".to_owned(),
        advertise: "127.0.0.1:0".to_owned(),
        data: dir.join("data"),
        seeds: 0,
        council: false,
        store: Default::default(),
        engine_cache: 16 << 20,
        disk_reserve: 0,
        subscriptions: 100,
    }
}

/// A lone node on a new directory. Needs a running tokio runtime.
///
/// # Panics
///
/// If it cannot start.
pub fn single() -> (Node, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = open(&dir);
    (node, dir)
}

/// A lone node on a directory that may hold an earlier one's data.
///
/// # Panics
///
/// If it cannot start.
pub fn open(dir: &TempDir) -> Node {
    try_open(dir).expect("a node starts on a new directory")
}

/// As `open`, but an error if it cannot start: a stopped node's threads let go of its directory a
/// moment after they have answered.
pub fn try_open(dir: &TempDir) -> Result<Node, StartError> {
    open_as(dir, NodeId([1; 16]))
}

/// As `try_open`, but as the node with this id.
pub fn open_as(dir: &TempDir, id: NodeId) -> Result<Node, StartError> {
    let (sender, arrivals) = mpsc::channel(1);
    // Held for the life of the process: a network that ends would end the node.
    std::mem::forget(sender);
    let fail = |error| panic!("commit failed: {error}");
    let (transport, clock) = (Arc::new(Nowhere), Arc::new(SystemClock));
    Node::start(settings(dir.path(), "eu"), id, transport, arrivals, clock, fail)
}
