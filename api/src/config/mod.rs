//! The configuration of a node: every key with its unit, its default and its reason.
//!
//! Invariants:
//! 1. Every key has a default; an empty file starts a node that only this machine can reach.
//! 2. A key that is not in [`keys::KEYS`] is an error, never ignored.
//! 3. What [`Config::load`] returns has passed every check; nobody checks a second time.
//!
//! Left out: changing values while a node runs. A node is restarted instead, which costs its
//! clients one reconnect.

mod check;
mod cluster;
mod keys;
mod load;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use cluster::{Cluster, Discovery, Method};
pub use keys::{KEYS, Key, Shape};
pub use load::ConfigError;

/// Everything a node is told before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// Where clients reach it.
    pub http: Http,
    /// Where other nodes reach it.
    pub replication: Replication,
    /// How its region forms, heals and moves.
    pub cluster: Cluster,
    /// How it finds other nodes.
    pub discovery: Discovery,
    /// How it uses memory and disk.
    pub store: Store,
    /// What it refuses.
    pub limits: Limits,
    /// What it writes to standard error.
    pub log: Log,
}

/// Section `node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Name of the node, unique in the cluster. Default `atoll-1`. Shown to people; identity is
    /// the certificate's.
    pub name: String,
    /// Region: the set of nodes with low latency between them. Default `local`.
    pub region: String,
    /// Failure domain inside the region, over which replicas are spread. Default `a`.
    pub zone: String,
    /// Directory of the data. Default `data`. One node a directory: a second one is refused.
    pub data: PathBuf,
    /// What the node does. Default both: a small cluster needs every node for everything.
    pub roles: Vec<Role>,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds replicas of shards.
    Replica,
    /// Carries membership between regions.
    Relay,
}

/// Section `http`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// TCP address for clients. Default `127.0.0.1:7401`: loopback only, since without keys anyone
    /// who reaches the port may write.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address that others reach. Default false, since clients have no
    /// keys yet; true says that whoever can reach it may read and write everything.
    pub anonymous: bool,
}

/// Section `replication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replication {
    /// UDP address for QUIC between nodes. Default `127.0.0.1:7401`; it shares the number with
    /// HTTP because TCP and UDP ports are apart.
    pub listen: SocketAddr,
    /// `host:port` under which other nodes reach this one. Default empty: the address of `listen`.
    pub advertise: String,
    /// `host:port` of nodes to dial at start. Default none: a node alone.
    pub seeds: Vec<String>,
    /// `advertised=address` for nodes that are reached from here under another address than they
    /// advertise: through a gateway, or a translated network. Default none.
    pub translate: Vec<String>,
    /// Directory with `ca.pem`, `node.pem` and `node.key`. Default empty: `certificates` in the
    /// data directory.
    pub certificates: PathBuf,
    /// Directory with `ca.pem` and `ca.key` of the cluster. Default empty. If given, a node that
    /// has no certificate makes itself one at start: for pods, whose disks come and go. Who reads
    /// it can add nodes.
    pub authority: PathBuf,
}

/// Section `store`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Memory for decoded hot entities, in MiB. Default 256: leaves a 1 GiB container room for
    /// the engine's own cache.
    pub cache_mb: u64,
    /// Operation log that is kept for peers that lag, in MiB. Default 64: minutes of writes at
    /// full speed, hours at a usual one.
    pub log_mb: u64,
    /// Operation log above which it is trimmed even if a replica lacks it, in MiB. Default 512;
    /// such a replica then gets whole states, which is slower and always possible.
    pub log_max_mb: u64,
    /// Free disk below which writes are refused with 507, in MiB. Default 256: enough to finish
    /// every write that was accepted and to start again.
    pub disk_reserve_mb: u64,
    /// Log since the last checkpoint that starts the next one, in MiB. Default 16: bounds what a
    /// restart replays to about a second.
    pub checkpoint_mb: u64,
}

/// Section `limits`: checked where a write is accepted; merges are never refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Request body, in bytes. Default 1 MiB; above it 413.
    pub body_bytes: u64,
    /// Members of a set. Default 100,000; above it 413.
    pub set_members: u64,
    /// One set member or multi-register value, in bytes. Default 64 KiB; above it 413.
    pub member_bytes: u64,
    /// Fields of a map. Default 10,000; above it 413.
    pub map_fields: u64,
    /// A document, in bytes. Default 8 MiB; above it 413.
    pub document_bytes: u64,
    /// Nesting of JSON. Default 64; deeper is 400. Bounds the stack a request can use.
    pub json_depth: u64,
    /// Operations of one batch. Default 1000; above it 413.
    pub batch_operations: u64,
    /// Open subscriptions. Default 10,000; above it 429.
    pub subscriptions: u64,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,quinn=warn`.
    /// Default `info`.
    pub level: String,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "atoll-1".into(),
            region: "local".into(),
            zone: "a".into(),
            data: "data".into(),
            roles: vec![Role::Replica, Role::Relay],
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7401)), anonymous: false }
    }
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            advertise: String::new(),
            seeds: Vec::new(),
            translate: Vec::new(),
            certificates: PathBuf::new(),
            authority: PathBuf::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { cache_mb: 256, log_mb: 64, log_max_mb: 512, disk_reserve_mb: 256, checkpoint_mb: 16 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            set_members: 100_000,
            member_bytes: 64 << 10,
            map_fields: 10_000,
            document_bytes: 8 << 20,
            json_depth: 64,
            batch_operations: 1000,
            subscriptions: 10_000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into() }
    }
}

impl Config {
    /// The effective configuration: defaults, then `file` if given, then the environment
    /// (`ATOLL__SECTION__KEY`; lists are separated by commas).
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        load::load(file, None)
    }

    /// As [`Config::load`], with `environment` in place of the process's own.
    pub fn load_with(
        file: Option<&Path>,
        environment: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let pairs = environment.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string()));
        load::load(file, Some(pairs.collect()))
    }

    /// The directory of certificates, its default filled in.
    pub fn certificates(&self) -> PathBuf {
        if self.replication.certificates.as_os_str().is_empty() {
            self.node.data.join("certificates")
        } else {
            self.replication.certificates.clone()
        }
    }

    /// `host:port` under which other nodes reach this one.
    pub fn advertised(&self) -> String {
        match self.replication.advertise.as_str() {
            "" => self.replication.listen.to_string(),
            given => given.to_owned(),
        }
    }

    /// The configuration as TOML, in the form that [`Config::load`] reads.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration has only tables, lists and scalars")
    }
}
