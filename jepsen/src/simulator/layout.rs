//! How a simulated cluster is made up: regions, machines, clients.

use atoll_replication::transport::memory::Network;

use crate::random::Random;

/// What kind of world it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Regions with councils, that record who holds what; nodes come and go.
    Councils,
    /// No councils, no membership: every node is connected to every other, and holds everything.
    Plain,
}

impl Kind {
    pub(super) fn network(self, seed: u64) -> Network {
        match self {
            Kind::Councils => Network::dialled(seed),
            Kind::Plain => Network::new(seed),
        }
    }
}

/// Nodes of a region of a world with councils: more than hold a shard, or fewer.
const SIZES: [usize; 8] = [1, 1, 2, 2, 3, 3, 4, 5];

/// The region of each node.
pub(super) fn regions(kind: Kind, random: &mut Random) -> Vec<&'static str> {
    if kind == Kind::Councils {
        let names = ["eu", "us", "ap"];
        let sizes = names.map(|name| (name, *random.pick(&SIZES)));
        return sizes.iter().flat_map(|(name, size)| std::iter::repeat_n(*name, *size)).collect();
    }
    match random.below(8) {
        0..=2 => vec!["eu", "eu", "us", "us"],
        3 => vec!["eu", "us", "ap", "eu", "us"],
        _ => vec!["eu", "us", "ap"],
    }
}

/// How many clients there are.
pub(super) fn clients(kind: Kind, nodes: usize) -> u64 {
    let nodes = nodes as u64;
    match kind {
        Kind::Councils => (2 * nodes).clamp(6, 12),
        Kind::Plain => 2 * nodes,
    }
}
