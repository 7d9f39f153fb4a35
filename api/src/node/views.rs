//! What a node shows of itself and the cluster.

use std::collections::BTreeMap;

use atoll_replication::core::{PeerStatus, ShardStatus, Status};
use atoll_replication::transport::NodeId;
use atoll_sharding::core::View;
use atoll_sharding::membership::{Member, State};
use atoll_store::name::{Collection, Kind};
use atoll_store::shard::{ShardId, entity_hash};

use super::{Node, ReadError};

/// This node's view of one node (of itself too).
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Node id, hex.
    pub id: String,
    /// Its name in configuration, or the id.
    pub name: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// QUIC address.
    pub address: String,
    /// `joining`, `up`, `suspect`, `down` or `leaving`.
    pub state: &'static str,
    /// Version of the program.
    pub version: String,
    /// The origin of its current start, hex.
    pub incarnation: String,
    /// Round trip in milliseconds, if connected (none for itself).
    pub rtt_ms: Option<f64>,
}

/// How far behind an origin region this node is known to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    /// Milliseconds since the newest word heard from there.
    pub ms: u64,
    /// Operations known to exist there and not yet here.
    pub operations: u64,
}

/// `GET /v1/cluster`.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// This node's id, hex.
    pub node: String,
    /// This node's region.
    pub region: String,
    /// All known nodes.
    pub nodes: Vec<NodeView>,
    /// Lag by origin region.
    pub lag: BTreeMap<String, Lag>,
    /// Local writes accepted since start.
    pub writes: u64,
}

/// One shard's digest.
#[derive(Clone, Debug)]
pub struct ShardDigest {
    /// `<placement>/<slot>`.
    pub shard: String,
    /// The content digest, hex.
    pub digest: String,
    /// Entities present.
    pub entities: u64,
    /// The version vector, without what was retired: origin hex -> sequence.
    pub vector: BTreeMap<String, u64>,
    /// A sum over the retired origins that it covers: two vectors are equal only if these are too.
    pub retired: u64,
}

/// Entities read in one step of a digest over a part.
const PAGE: usize = 512;

impl Node {
    /// This node's view of the cluster.
    pub fn cluster(&self) -> ClusterView {
        let status = self.journal().cluster();
        let mut nodes = vec![self.own_view()];
        let (mut lag, mut writes) = (BTreeMap::new(), 0);
        if let Some(status) = status {
            match self.view() {
                Some(view) => nodes.extend(self.member_views(&view, &status)),
                None => nodes.extend(status.peers.iter().map(peer_view)),
            }
            lag = lag_view(&status);
            writes = status.writes;
        }
        let (node, region) = (self.id().to_owned(), self.region().to_owned());
        ClusterView { node, region, nodes, lag, writes }
    }

    /// The other members, of all regions.
    fn member_views(&self, view: &View, status: &Status) -> Vec<NodeView> {
        let peers: BTreeMap<NodeId, &PeerStatus> =
            status.peers.iter().map(|peer| (peer.node, peer)).collect();
        let others = view.members.iter().filter(|member| member.node != status.me.node);
        let one = |member: &Member| {
            let peer = peers.get(&member.node).copied();
            let connected = peer.filter(|peer| peer.connected);
            NodeView {
                id: member.node.to_string(),
                name: member.name.clone(),
                region: member.region.clone(),
                zone: member.zone.clone(),
                address: member.address.clone(),
                state: member.state.name(),
                version: member.version.clone(),
                incarnation: peer.map(|peer| peer.origin.to_string()).unwrap_or_default(),
                rtt_ms: connected.and_then(|peer| peer.rtt_ms).map(|ms| ms as f64),
            }
        };
        others.map(one).collect()
    }

    fn own_view(&self) -> NodeView {
        let settings = &self.0.settings;
        NodeView {
            id: self.id().to_owned(),
            name: settings.name.clone(),
            region: settings.region.clone(),
            zone: settings.zone.clone(),
            address: settings.advertise.clone(),
            state: match self.is_retiring() {
                true => State::Leaving.name(),
                false if self.not_ready().is_empty() => State::Up.name(),
                false => State::Joining.name(),
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.origin().to_string(),
            rtt_ms: None,
        }
    }

    /// Shards that are served by other nodes, `<placement>/<slot>`: what is held of them here, if
    /// anything, is being taken or given up.
    pub fn elsewhere(&self) -> Vec<String> {
        let slots = (0..self.slots()).filter(|slot| !self.journal().serves(*slot));
        slots.map(|slot| ShardId { placement: 0, slot }.to_string()).collect()
    }

    /// Digests of shards that are served here and have entities, or only of those of one kind and
    /// collection.
    pub async fn digests(
        &self,
        only: Option<(Kind, Option<Collection>)>,
    ) -> Result<Vec<ShardDigest>, ReadError> {
        let shards = self.0.replica.digests().await.map_err(|_| ReadError::Overloaded)?;
        let mut digests = Vec::new();
        for shard in shards.into_iter().filter(|each| self.journal().serves(each.shard.slot)) {
            let (digest, entities) = match &only {
                None => (shard.digest, shard.entities),
                Some((kind, collection)) => {
                    let sum = self.partial(shard.shard.slot, *kind, collection.as_ref()).await?;
                    (Some(sum.0), sum.1)
                }
            };
            if entities > 0 {
                digests.push(self.digest_view(shard, digest, entities));
            }
        }
        Ok(digests)
    }

    fn digest_view(&self, shard: ShardStatus, digest: Option<u128>, entities: u64) -> ShardDigest {
        // What compares to nothing must not look equal on two nodes.
        let incomplete = || format!("incomplete on {}", self.id());
        ShardDigest {
            shard: shard.shard.to_string(),
            digest: digest.map_or_else(incomplete, |digest| format!("{digest:032x}")),
            entities,
            vector: shard.vector.iter().map(|(origin, seq)| (origin.to_string(), seq)).collect(),
            retired: shard.vector.retired_sum(),
        }
    }

    /// The digest and number of a shard's entities of one kind, and maybe collection.
    async fn partial(
        &self,
        slot: u16,
        kind: Kind,
        collection: Option<&Collection>,
    ) -> Result<(u128, u64), ReadError> {
        let (mut sum, mut count, mut after) = (0u128, 0, None);
        loop {
            let page = self.list_slot(slot, after, PAGE).await?;
            for (key, image) in &page {
                if key.kind == kind && collection.is_none_or(|only| key.collection == *only) {
                    sum = sum.wrapping_add(entity_hash(key, image.version()));
                    count += 1;
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => return Ok((sum, count)),
            }
        }
    }
}

fn peer_view(peer: &PeerStatus) -> NodeView {
    NodeView {
        id: peer.node.to_string(),
        name: peer.name.clone(),
        region: peer.region.clone(),
        zone: peer.zone.clone(),
        address: peer.address.clone(),
        state: if peer.connected { "up" } else { "down" },
        version: peer.version.clone(),
        incarnation: peer.origin.to_string(),
        rtt_ms: peer.rtt_ms.filter(|_| peer.connected).map(|ms| ms as f64),
    }
}

fn lag_view(status: &Status) -> BTreeMap<String, Lag> {
    let one = |lag: &atoll_replication::core::Lag| Lag { ms: lag.ms, operations: lag.operations };
    status.lag.iter().map(|(region, lag)| (region.clone(), one(lag))).collect()
}
