//! Finds the addresses of other nodes, and who forms a region.
//!
//! [`watch()`] keeps a set of `host:port` QUIC addresses up to date, by one of four methods: a
//! static list (which is the configuration's, so there is nothing to find), DNS, the pods of a
//! Kubernetes namespace, or an etcd where nodes register. [`formation`] says which node creates
//! the region's council.
//!
//! Invariants:
//! 1. What is published is the whole set; it is published when it differs from the last one.
//! 2. A failure changes nothing: the last good set stays. It is logged once per kind of failure
//!    until a try succeeds, and tried again after a growing pause.
//! 3. A node's own address, as far as it is known, is left out. (The dialling side recognises
//!    this node by its certificate in any case.)
//! 4. An address is a hint, never an identity: who answers there proves by certificate who it is
//!    and of which cluster.
//!
//! Left out: dialling, and knowing who is alive. An address that is found may be dead, and one
//! that is lost may be alive and connected.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod dns;
pub mod etcd;
pub mod formation;
mod http;
pub mod kubernetes;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use atoll_replication::transport::NodeId;
use tokio::sync::watch;
use tokio::time::sleep;

/// The shortest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest: a node that is started after an outage of what it asks is found this late.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How other nodes are found.
#[derive(Clone, Debug)]
pub enum Method {
    /// Nothing is looked for: the configuration names all nodes.
    Static,
    /// The records of a name, asked for anew every interval.
    Dns(Dns),
    /// The pods of a namespace, by label.
    Kubernetes(kubernetes::Pods),
    /// Nodes that register in an etcd.
    Etcd(etcd::Etcd),
}

/// What to ask the DNS.
#[derive(Clone, Debug)]
pub struct Dns {
    /// The name; the system's search domains apply unless it ends with a dot.
    pub name: String,
    /// Ask for SRV records, which name ports; otherwise for A and AAAA records.
    pub srv: bool,
    /// The port of the nodes where records name none.
    pub port: u16,
    /// Ask this server; `None`: those of the system (`/etc/resolv.conf`).
    pub server: Option<SocketAddr>,
    /// How often.
    pub interval: Duration,
}

/// What others are told of this node, where nodes register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its region, for people.
    pub region: String,
    /// `host:port` under which other nodes reach it.
    pub address: String,
}

/// Why a try did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Check the path and its permissions.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Mend the configured URL.
    #[error("{url:?} cannot be used: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody listens there, or the network is in between.
    #[error("{url}: cannot connect: {why}")]
    Connect {
        /// Whom.
        url: String,
        /// What the system said.
        why: String,
    },
    /// The server's certificate is not signed by the configured authority, or not for its name.
    #[error("{url}: TLS: {why}")]
    Tls {
        /// Whom.
        url: String,
        /// Which part failed.
        why: String,
    },
    /// No answer in time.
    #[error("{url}: no answer in time")]
    Slow {
        /// Who.
        url: String,
    },
    /// The connection ended before the answer did.
    #[error("{url}: the answer broke off: {why}")]
    Broken {
        /// Who.
        url: String,
        /// How.
        why: String,
    },
    /// The server says no: 401 and 403 are a matter of its permissions.
    #[error("{url}: status {status}: {why}")]
    Refused {
        /// Who.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// In the server's words.
        why: String,
    },
    /// The answer is not what the API promises: is this the right server?
    #[error("{url}: not understood: {why}")]
    Odd {
        /// Who.
        url: String,
        /// What was expected.
        why: String,
    },
    /// The name has no such records, or no server of names answers.
    #[error("{name}: {why}")]
    Name {
        /// The name asked for.
        name: String,
        /// What the resolver said.
        why: String,
    },
}

impl Failure {
    /// The server answered, and the same question would get the same answer: a watch must not
    /// resume, the list must be read anew.
    fn is_final(&self) -> bool {
        matches!(self, Failure::Refused { .. } | Failure::Odd { .. })
    }

    /// Failures of one kind are logged once.
    fn kind(&self) -> (&'static str, u16) {
        match self {
            Failure::File { .. } => ("file", 0),
            Failure::Url { .. } => ("url", 0),
            Failure::Connect { .. } => ("connect", 0),
            Failure::Tls { .. } => ("tls", 0),
            Failure::Slow { .. } => ("slow", 0),
            Failure::Broken { .. } => ("broken", 0),
            Failure::Refused { status, .. } => ("refused", *status),
            Failure::Odd { .. } => ("odd", 0),
            Failure::Name { .. } => ("name", 0),
        }
    }
}

/// Publishes, for ever, where other nodes are.
pub async fn watch(method: Method, me: &Registration, out: watch::Sender<BTreeSet<String>>) {
    let mut found = Found { out, own: me.address.clone(), tries: Tries::new("discovery") };
    match method {
        Method::Static => std::future::pending().await,
        Method::Dns(dns) => dns::watch(&dns, &mut found).await,
        Method::Kubernetes(pods) => pods.watch(&mut found).await,
        Method::Etcd(etcd) => {
            tokio::join!(etcd.watch(&mut found), etcd.register(me));
        }
    }
}

/// Where what was found goes.
struct Found {
    out: watch::Sender<BTreeSet<String>>,
    own: String,
    tries: Tries,
}

impl Found {
    /// A try succeeded: this is the whole set.
    fn set(&mut self, mut addresses: BTreeSet<String>) {
        self.tries.succeeded();
        addresses.remove(&self.own);
        self.out.send_if_modified(|current| {
            let differs = *current != addresses;
            if differs {
                tracing::info!(count = addresses.len(), "addresses of other nodes");
                tracing::debug!(?addresses, "addresses of other nodes");
                *current = addresses;
            }
            differs
        });
    }
}

/// Logs failures once per kind, and says how long to wait.
pub(crate) struct Tries {
    what: &'static str,
    failed: BTreeSet<(&'static str, u16)>,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, failed: BTreeSet::new(), pause: PAUSE_MIN }
    }

    fn succeeded(&mut self) {
        if !self.failed.is_empty() {
            tracing::info!(what = self.what, "works again");
        }
        self.failed.clear();
        self.pause = PAUSE_MIN;
    }

    /// Notes a failure: whether it is the first of its kind, and how long to wait.
    fn failed(&mut self, failure: &Failure) -> (bool, Duration) {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        (self.failed.insert(failure.kind()), pause)
    }

    /// Logs a failure, if it is the first of its kind, and waits.
    pub(crate) async fn after(&mut self, failure: &Failure) {
        let (first, pause) = self.failed(failure);
        if first {
            tracing::warn!(what = self.what, %failure, "failed; goes on trying");
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_failure_is_told_once_and_pauses_grow() {
        let refused =
            |status| Failure::Refused { url: "a".into(), status, why: status.to_string() };
        let slow = Failure::Slow { url: "a".into() };
        let mut tries = Tries::new("test");
        let told = [refused(401), refused(401), slow, refused(403), refused(401)];
        let told: Vec<_> = told.iter().map(|failure| tries.failed(failure)).collect();
        assert_eq!(
            told.iter().map(|(first, _)| *first).collect::<Vec<_>>(),
            [true, false, true, true, false]
        );
        assert!(told.windows(2).all(|pair| pair[0].1 < pair[1].1));
        for _ in 0..9 {
            tries.failed(&refused(401));
        }
        assert_eq!(tries.failed(&refused(401)), (false, PAUSE_MAX));
        tries.succeeded();
        assert_eq!(tries.failed(&refused(401)), (true, PAUSE_MIN));
    }

    #[test]
    fn the_set_is_published_when_it_differs_and_without_this_node() {
        let set = |of: &[&str]| of.iter().map(|a| (*a).to_owned()).collect::<BTreeSet<_>>();
        let (out, mut seen) = watch::channel(BTreeSet::new());
        let mut found = Found { out, own: "me:1".into(), tries: Tries::new("test") };
        found.set(set(&["me:1"]));
        assert!(!seen.has_changed().unwrap(), "nobody but this node");
        found.set(set(&["me:1", "a:1"]));
        assert_eq!(*seen.borrow_and_update(), set(&["a:1"]));
        found.set(set(&["a:1"]));
        assert!(!seen.has_changed().unwrap());
    }
}
