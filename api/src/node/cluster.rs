//! A node's replication, as the cluster core beside it sees it; and that core, as surfaces see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Notify;

use atoll_replication::placement::{Ending, RegionPlacement, Version};
use atoll_replication::transport::NodeId;
use atoll_sharding::core::View;
use atoll_sharding::driver::{Handle, Local};
use atoll_store::backend::Backend;

use super::Node;

impl Local for Node {
    fn place(&self, record: RegionPlacement) -> bool {
        self.0.replica.place(record)
    }

    fn set_disk(&self, disk: u64) -> bool {
        self.0.replica.set_disk(disk)
    }

    fn forget(&self, node: NodeId) -> bool {
        self.0.replica.forget(node)
    }

    fn caught_up(&self) -> Vec<(u16, u64)> {
        self.journal().caught_up()
    }

    fn endings(&self) -> Vec<Ending> {
        self.journal().endings()
    }

    fn newer(&self, known: Version) -> Option<RegionPlacement> {
        let status = self.journal().cluster()?;
        status.placement.region(self.region()).filter(|record| record.version > known).cloned()
    }

    fn wanted(&self) -> BTreeSet<NodeId> {
        self.journal().cluster().map(|status| status.wanted.clone()).unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        self.not_ready().is_empty()
    }

    fn news(&self) -> Arc<Notify> {
        self.journal().news()
    }
}

impl Node {
    /// Joins the node with the cluster core that runs beside it. Once; a node without one is a
    /// node of a region without a council, which holds everything.
    pub fn join(&self, cluster: Handle) {
        let _ = self.0.cluster.set(cluster);
    }

    /// The cluster core beside it, if it runs.
    pub fn membership(&self) -> Option<&Handle> {
        self.0.cluster.get()
    }

    /// What is to be seen of the cluster.
    pub fn view(&self) -> Option<Arc<View>> {
        self.membership().map(Handle::view)
    }

    /// The newest record of this region.
    pub fn record(&self) -> Option<RegionPlacement> {
        self.newer(Version::default())
    }

    /// What was drawn at this start.
    pub fn start_number(&self) -> u64 {
        self.origin().0
    }

    /// Where the council keeps its part: beside the data.
    pub fn disk(&self) -> Arc<dyn Backend> {
        self.backend()
    }
}
