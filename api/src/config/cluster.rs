//! Sections `cluster` and `discovery`: how regions form, and how nodes find each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a pod finds what its service account may show and trust.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Section `cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Name of the one node that forms its region, the same on all nodes of the region. Default
    /// empty: with methods `kubernetes` and `etcd` whoever is first, which is recorded there; a
    /// node with nobody to find forms its region alone.
    pub founder: String,
    /// Replicas of a shard in a region. Default 3: one may die while another is being replaced.
    /// Regions with fewer nodes hold one on each. The same on all nodes of a region.
    pub replicas: u64,
    /// Hash slots of a placement, set once, when the cluster forms. Default 64: enough to spread
    /// over some twenty nodes a region evenly, few enough that each costs nothing while idle.
    pub slots: u64,
    /// A node that has been dead for so long has its replicas moved elsewhere, in seconds. Default
    /// 30: longer than a restart, so that one does not move data.
    pub replace_after_s: u64,
    /// A node that has been dead for so long is forgotten, in seconds. Default 600: long enough
    /// for somebody to look, short enough that replaced pods leave nothing behind.
    pub forget_after_s: u64,
    /// Whether SIGTERM hands replicas off and leaves for good. Default false: a node with a disk
    /// comes back to it. True is for pods with ephemeral disks.
    pub leave_on_stop: bool,
    /// The longest that SIGTERM waits for that, in seconds. Default 30; keep it below the grace
    /// period of whoever stops the process.
    pub drain_s: u64,
    /// Replicas that are moved at a time in a region. Default 4: moves take minutes, and clients
    /// do not notice.
    pub moves: u64,
}

/// Section `discovery`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// How other nodes of the region are found. Default `static`. What `replication.seeds` names
    /// is dialled whatever the method.
    pub method: Method,
    /// `dns`: the name of the nodes. Search domains apply unless it ends with a dot.
    pub dns_name: String,
    /// `dns`: ask for SRV records, which name ports. Default false: A and AAAA records, and
    /// `discovery.port`.
    pub dns_srv: bool,
    /// `dns`: `ip:port` of the server to ask. Default empty: the system's.
    pub dns_server: String,
    /// The UDP port of nodes whose record or pod names none. Default 7401, as in
    /// `replication.listen`.
    pub port: u16,
    /// `dns`: how often to ask, in seconds. Default 10: a new node finds the others at once, and
    /// they it, so this only bounds what was missed.
    pub interval_s: u64,
    /// `kubernetes`: URL of the API server. Default empty: `https://kubernetes.default.svc`.
    pub kubernetes_api: String,
    /// `kubernetes`: the namespace of the pods. Default empty: the pod's own.
    pub kubernetes_namespace: String,
    /// `kubernetes`: labels of the pods, as in `kubectl get pods -l`.
    pub kubernetes_selector: String,
    /// `kubernetes`: the ConfigMap `<this>-<region>` says who formed the region. Default `atoll`.
    pub kubernetes_config_map: String,
    /// `kubernetes`: file of the bearer token. Default: the mounted service account's.
    pub kubernetes_token: PathBuf,
    /// `kubernetes`: PEM file of who signed the API server's certificate. Default: the mounted
    /// service account's.
    pub kubernetes_ca: PathBuf,
    /// `etcd`: URLs of its members, any of which is asked.
    pub etcd_endpoints: Vec<String>,
    /// `etcd`: what all keys begin with. Default `/atoll`; one prefix is one cluster.
    pub etcd_prefix: String,
    /// `etcd`: PEM file of who signed the certificates of `https` endpoints.
    pub etcd_ca: PathBuf,
}

/// How other nodes are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By `replication.seeds` alone.
    #[default]
    Static,
    /// By the records of a name.
    Dns,
    /// As pods with certain labels.
    Kubernetes,
    /// Where they register.
    Etcd,
}

impl Method {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Method::Static => "static",
            Method::Dns => "dns",
            Method::Kubernetes => "kubernetes",
            Method::Etcd => "etcd",
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            founder: String::new(),
            replicas: 3,
            slots: 64,
            replace_after_s: 30,
            forget_after_s: 600,
            leave_on_stop: false,
            drain_s: 30,
            moves: 4,
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            method: Method::Static,
            dns_name: String::new(),
            dns_srv: false,
            dns_server: String::new(),
            port: 7401,
            interval_s: 10,
            kubernetes_api: String::new(),
            kubernetes_namespace: String::new(),
            kubernetes_selector: String::new(),
            kubernetes_config_map: "atoll".into(),
            kubernetes_token: format!("{MOUNTED}/token").into(),
            kubernetes_ca: format!("{MOUNTED}/ca.crt").into(),
            etcd_endpoints: Vec::new(),
            etcd_prefix: "/atoll".into(),
            etcd_ca: PathBuf::new(),
        }
    }
}
