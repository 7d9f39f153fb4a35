//! What a node settles before it serves: who it is, who forms its region, where others are.
//!
//! Invariants:
//! 1. A node makes a certificate only where it has none; the authority's key never enters the
//!    node's own directory.
//! 2. A node whose region's record contradicts its configuration does not start.
//! 3. A node that has data starts without the record's place, if that cannot be reached: its
//!    council is on its disk. An empty one waits for it, for [`PATIENCE`] at most.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use atoll_replication::transport::NodeId;
use atoll_replication::transport::certificates::{Authority, Identity};
use atoll_sharding::discovery::etcd::Etcd;
use atoll_sharding::discovery::formation::{Claim, Formation, FormationError, Formed, Place};
use atoll_sharding::discovery::kubernetes::{Api, Pods};
use atoll_sharding::discovery::{self, Dns, Registration};
use atoll_sharding::driver::Handle;

use crate::config::{Config, Method};

/// The record of a region that this node is named to form, in its data directory.
const RECORD: &str = "region.json";
/// Where the API server is for every pod.
const API_SERVER: &str = "https://kubernetes.default.svc";
/// How long an empty node waits for the place of the record: a supervisor that starts it again
/// shows the reason sooner than a node that waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a node with data, which can do without.
const PATIENCE_WITH_DATA: Duration = Duration::from_secs(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// The node's certificate: the one it has, else one that it makes. A node that is to be alone
/// makes an authority of its own.
pub(crate) fn identity(config: &Config) -> anyhow::Result<Identity> {
    let directory = config.certificates();
    let path = directory.display();
    if !directory.join("node.pem").exists() {
        let given = &config.replication.authority;
        if !given.as_os_str().is_empty() {
            issue(given, &directory, &config.node.name)?;
        } else if is_alone(config) {
            let authority = Authority::create("atoll")?;
            std::fs::create_dir_all(&directory).with_context(|| path.to_string())?;
            authority.save(&directory)?;
            authority.issue(&config.node.name)?.save(&directory)?;
        }
    }
    Identity::open(&directory).with_context(|| {
        format!(
            "replication.certificates {path}: make them with `atoll cert --node NAME`, or name \
             the cluster's authority in replication.authority"
        )
    })
}

/// A new key with a certificate of the cluster's authority.
fn issue(authority: &Path, directory: &Path, name: &str) -> anyhow::Result<()> {
    let opened = Authority::open(authority).with_context(|| {
        format!(
            "replication.authority {}: it must hold ca.pem and ca.key of the cluster, as \
             `atoll cert` makes them",
            authority.display()
        )
    })?;
    let identity = opened.issue(name)?;
    let save = || {
        std::fs::create_dir_all(directory)?;
        anyhow::Ok(identity.save(directory)?)
    };
    save().with_context(|| {
        format!(
            "replication.certificates {}: the new certificate cannot be written there",
            directory.display()
        )
    })?;
    let (node, cluster) = (identity.node_id(), identity.cluster());
    tracing::info!(%node, cluster, "made a key and a certificate");
    Ok(())
}

/// Nobody to find, and nobody who finds it.
fn is_alone(config: &Config) -> bool {
    config.discovery.method == Method::Static && config.replication.seeds.is_empty()
}

/// What this node was told about its region, and the region's record is compared with.
pub(crate) fn formation(config: &Config, identity: &Identity) -> anyhow::Result<Formation> {
    let claim = Claim {
        cluster: identity.cluster().to_owned(),
        region: config.node.region.clone(),
        node: identity.node_id(),
        council: getrandom::u64().context("no random bits from the system")?,
        slots: u16::try_from(config.cluster.slots).context("cluster.slots")?,
        replicas: u16::try_from(config.cluster.replicas).context("cluster.replicas")?,
    };
    let (region, discovery) = (&config.node.region, &config.discovery);
    let place = match discovery.method {
        Method::Kubernetes => {
            Place::config_map(kubernetes(config)?, &discovery.kubernetes_config_map, region)
        }
        Method::Etcd => Place::etcd(etcd(config)?, region),
        Method::Static | Method::Dns => {
            let founder = &config.cluster.founder;
            let alone = founder.is_empty() && is_alone(config);
            match alone || *founder == config.node.name {
                true => Place::file(config.node.data.join(RECORD)),
                false => Place::elsewhere(),
            }
        }
    };
    Ok(Formation::new(place, claim))
}

/// Claims the region. `None`: the place of its record cannot be reached, and this node has data.
pub(crate) async fn claim(
    config: &Config,
    formation: &Formation,
) -> anyhow::Result<Option<Formed>> {
    let has_data = config.node.data.join("store").exists();
    let patience = if has_data { PATIENCE_WITH_DATA } else { PATIENCE };
    let (started, mut told) = (Instant::now(), false);
    loop {
        match formation.claim().await {
            Ok(formed) => {
                tell(&config.node.region, &formed);
                return Ok(Some(formed));
            }
            Err(FormationError::Failure(failure)) if started.elapsed() < patience => {
                if !told {
                    tracing::warn!(%failure, "cannot read who formed the region; tries again");
                    told = true;
                }
                sleep(PAUSE).await;
            }
            Err(FormationError::Failure(failure)) if has_data => {
                tracing::warn!(%failure, "starts without knowing who formed the region");
                return Ok(None);
            }
            Err(FormationError::Failure(failure)) => bail!(
                "who formed region {} cannot be read: {failure} (discovery.method is \"{}\")",
                config.node.region,
                config.discovery.method.name()
            ),
            Err(error) => return Err(error.into()),
        }
    }
}

fn tell(region: &str, formed: &Formed) {
    match &formed.record {
        None => tracing::info!(region, "another node is named to form the region"),
        Some(record) if formed.by_me => {
            tracing::info!(region, council = format_args!("{:016x}", record.council), "forms it");
        }
        Some(record) => tracing::info!(
            region, council = format_args!("{:016x}", record.council), founder = %record.founder,
            formed = record.formed, "joins the region"
        ),
    }
}

/// The tasks that find other nodes; they end with it.
pub(crate) struct Discovery {
    _tasks: JoinSet<()>,
}

/// Looks for other nodes from now on, and has them dialled.
pub(crate) fn discover(
    config: &Config,
    node: NodeId,
    cluster: Handle,
) -> anyhow::Result<Discovery> {
    let me = Registration {
        node,
        name: config.node.name.clone(),
        region: config.node.region.clone(),
        address: config.advertised(),
    };
    let method = method(config)?;
    let (out, found) = watch::channel(BTreeSet::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { discovery::watch(method, &me, out).await });
    tasks.spawn(pass_on(found, cluster));
    Ok(Discovery { _tasks: tasks })
}

async fn pass_on(mut found: watch::Receiver<BTreeSet<String>>, cluster: Handle) {
    while found.changed().await.is_ok() {
        let addresses = found.borrow_and_update().clone();
        cluster.discovered(addresses).await;
    }
}

fn method(config: &Config) -> anyhow::Result<discovery::Method> {
    let given = &config.discovery;
    Ok(match given.method {
        Method::Static => discovery::Method::Static,
        Method::Dns => discovery::Method::Dns(Dns {
            name: given.dns_name.clone(),
            srv: given.dns_srv,
            port: given.port,
            // It was checked: what does not parse is empty.
            server: given.dns_server.parse().ok(),
            interval: Duration::from_secs(given.interval_s),
        }),
        Method::Kubernetes => discovery::Method::Kubernetes(Pods {
            api: kubernetes(config)?,
            selector: given.kubernetes_selector.clone(),
            port: given.port,
        }),
        Method::Etcd => discovery::Method::Etcd(etcd(config)?),
    })
}

fn kubernetes(config: &Config) -> anyhow::Result<Api> {
    let given = &config.discovery;
    let url = match given.kubernetes_api.as_str() {
        "" => API_SERVER,
        url => url,
    };
    let (token, authority) = (given.kubernetes_token.clone(), given.kubernetes_ca.clone());
    Api::new(url, &given.kubernetes_namespace, token, authority).context(
        "discovery.method is \"kubernetes\" (outside a pod set discovery.kubernetes_api, \
         discovery.kubernetes_namespace, discovery.kubernetes_token and discovery.kubernetes_ca)",
    )
}

fn etcd(config: &Config) -> anyhow::Result<Etcd> {
    let given = &config.discovery;
    let authority = Some(given.etcd_ca.clone());
    Etcd::new(&given.etcd_endpoints, &given.etcd_prefix, authority)
        .context("discovery.etcd_endpoints")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        let mut config = Config::default();
        config.node.data = directory.join("data");
        config.node.name = "eu-1".into();
        config
    }

    #[test]
    fn a_node_without_certificate_makes_one_of_the_clusters_authority() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = directory.path().join("authority");
        std::fs::create_dir(&authority).expect("created");
        let mut config = config(directory.path());
        config.replication.seeds = vec!["elsewhere:1".into()];
        config.replication.authority = authority.clone();
        let error = format!("{:#}", identity(&config).expect_err("nothing is there"));
        let start = format!("replication.authority {}: it must hold", authority.display());
        assert!(error.starts_with(&start) && error.contains("ca.pem: No such file"), "{error}");
        Authority::create("reef").expect("good").save(&authority).expect("saved");
        let made = identity(&config).expect("made");
        assert_eq!(made.cluster(), "reef");
        assert!(!config.certificates().join("ca.key").exists(), "the authority's key is nowhere");
        let again = identity(&config).expect("there");
        assert_eq!(again.node_id(), made.node_id(), "a node with a disk stays who it is");
    }

    #[test]
    fn only_a_node_that_is_alone_makes_an_authority() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = config(directory.path());
        config.discovery.method = Method::Dns;
        let error = format!("{:#}", identity(&config).expect_err("none is there"));
        assert!(error.contains("make them with `atoll cert --node NAME`, or name"), "{error}");
        config.discovery.method = Method::Static;
        assert_eq!(identity(&config).expect("made").cluster(), "atoll");
    }

    #[tokio::test]
    async fn the_named_node_forms_and_others_join() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = config(directory.path());
        let identity = identity(&config).expect("made");
        config.cluster.founder = "eu-2".into();
        config.replication.seeds = vec!["elsewhere:1".into()];
        let other = formation(&config, &identity).expect("good");
        assert_eq!(claim(&config, &other).await.expect("read").expect("there").record, None);
        config.cluster.founder = "eu-1".into();
        let named = formation(&config, &identity).expect("good");
        assert!(claim(&config, &named).await.expect("read").expect("there").by_me);
        config.cluster.slots = 32;
        let changed = formation(&config, &identity).expect("good");
        let error = claim(&config, &changed).await.expect_err("refused").to_string();
        assert!(error.starts_with("`cluster.slots` is 32, but region local has 64"), "{error}");
    }
}
