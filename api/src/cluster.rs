//! The cluster core of a running node: membership and its region's council, beside replication.
//!
//! Invariants:
//! 1. A council is formed only by the node that the region's record names, and only on a disk that
//!    belongs to none; it is durable, and the record says so, before it speaks.
//! 2. A node that leaves serves what it holds until the council has moved it, or its time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::time::timeout;

use atoll_replication::driver::{Clock, SystemClock};
use atoll_replication::transport::quic::Quic;
use atoll_replication::transport::{Arrival, NodeId};
use atoll_sharding::core::{Cluster, REPLICA};
use atoll_sharding::council::{Council, Limits, Options, Roles, Settings};
use atoll_sharding::discovery::formation::{Formation, FormationError, Formed, Record};
use atoll_sharding::driver::{Dialer, Driver, Handle, Parts};
use atoll_sharding::membership::{self, Membership, RELAY, State, Timing};
use atoll_store::backend::BackendError;

use crate::config::{Config, Role};
use crate::node::Node;

/// Relays of a region: one may die.
const RELAYS: usize = 2;
/// Members known at a time; more are refused.
const MEMBERS: usize = 4_096;
/// Tries to record that the council was formed, and the pause between two: within the patience of
/// those who would take over.
const CONFIRM_TRIES: u32 = 20;
const CONFIRM_AGAIN: Duration = Duration::from_secs(1);
/// How long a founder may take from its claim until its council is recorded.
const FOUNDER_PATIENCE: Duration = Duration::from_secs(30);
/// The exit code of a node that is to form its region at its next start.
const TAKES_OVER: i32 = 75;

/// Starts the cluster core beside a node, and joins the two. A council that this node forms is on
/// its disk, and then confirmed to be the region's, before it says a word.
pub(crate) async fn start(
    config: &Config,
    node: &Node,
    quic: &Quic,
    arrivals: mpsc::Receiver<Arrival>,
    (formation, formed): (&Formation, Option<Formed>),
    fail: impl FnOnce(BackendError) + Send + 'static,
) -> anyhow::Result<Handle> {
    let backend = node.disk();
    let council = Council::open(&*backend, options(config, node, quic)).context("the council")?;
    let membership = Membership::new(described(config, node, quic, council.disk())?)?;
    let now = SystemClock.now();
    let mut cluster = Cluster::new(config.node.region.clone(), membership, council, now);
    let named = formed.filter(|formed| formed.by_me).and_then(|formed| formed.record);
    if let Some(record) = named.as_ref().filter(|_| !cluster.is_formed()) {
        let settings = Settings { factor: record.replicas, slots: record.slots };
        cluster.form(record.council, settings).context("forming the region's council")?;
    }
    let parts = Parts {
        node: quic.node_id(),
        cluster,
        backend,
        transport: Arc::new(quic.clone()),
        dialer: Arc::new(Translated::new(config, quic.clone())),
        local: Arc::new(node.clone()),
        clock: Arc::new(SystemClock),
    };
    let (mut driver, handle) = Driver::new(parts);
    if let Some(record) = named.filter(|record| !record.formed) {
        driver.turn(Vec::new()).context("forming the region's council")?;
        confirm(formation, &record).await?;
    }
    driver.run(arrivals, tokio::runtime::Handle::current(), fail);
    node.join(handle.clone());
    Ok(handle)
}

/// Records that the council was formed.
async fn confirm(formation: &Formation, record: &Record) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        match formation.confirm(record).await {
            Ok(confirmed) if confirmed.by_me => return Ok(()),
            Ok(_) => bail!(
                "another node has formed region {} meanwhile: empty this node's data directory, \
                 and let it join",
                record.region
            ),
            Err(FormationError::Failure(failure)) if tries < CONFIRM_TRIES => {
                tracing::warn!(%failure, "cannot record that the region was formed; tries again");
                tries += 1;
                tokio::time::sleep(CONFIRM_AGAIN).await;
            }
            Err(error) => return Err(error).context("recording that the region was formed"),
        }
    }
}

/// Waits for the region to be formed by whom its record names; should that never happen, takes its
/// place: the process ends, and its next start forms the region.
pub(crate) async fn await_formed(formation: Formation, region: String) {
    match formation.settled(FOUNDER_PATIENCE).await {
        Ok(formed) if formed.by_me => {
            tracing::warn!(region, "its founder never formed it: starting again to do so");
            std::process::exit(TAKES_OVER);
        }
        Ok(_) => tracing::debug!(region, "it is formed"),
        Err(error) => tracing::error!(%error, "the region's record"),
    }
}

/// Dials under translated addresses. Two addresses may be reached under one: it is dialled until
/// neither is wanted.
struct Translated {
    quic: Quic,
    addresses: BTreeMap<String, String>,
    /// Advertised addresses that are dialled.
    dialled: Mutex<BTreeSet<String>>,
}

impl Translated {
    fn new(config: &Config, quic: Quic) -> Translated {
        let pairs = config.replication.translate.iter().filter_map(|pair| pair.split_once('='));
        let addresses = pairs.map(|(from, to)| (from.to_owned(), to.to_owned())).collect();
        Translated { quic, addresses, dialled: Mutex::default() }
    }

    fn reached(&self, address: &str) -> String {
        self.addresses.get(address).map_or(address, String::as_str).to_owned()
    }

    fn dialled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.dialled.lock().expect("nothing panics while it holds the set")
    }
}

impl Dialer for Translated {
    fn dial(&self, address: &str) {
        self.dialled().insert(address.to_owned());
        self.quic.add_peer(self.reached(address));
    }

    fn forget(&self, address: &str) {
        let reached = self.reached(address);
        let mut dialled = self.dialled();
        dialled.remove(address);
        if !dialled.iter().any(|other| self.reached(other) == reached) {
            self.quic.remove_peer(&reached);
        }
    }

    fn disconnect(&self, node: NodeId) {
        self.quic.disconnect(node);
    }
}

fn options(config: &Config, node: &Node, quic: &Quic) -> Options {
    let holds = config.node.roles.contains(&Role::Replica);
    let milliseconds = |seconds: u64| seconds.saturating_mul(1_000);
    Options {
        region: config.node.region.clone(),
        node: quic.node_id(),
        name: config.node.name.clone(),
        zone: config.node.zone.clone(),
        roles: Roles { replica: holds, voter: holds },
        start: node.start_number(),
        limits: Limits {
            replace_after_ms: milliseconds(config.cluster.replace_after_s),
            forget_after_ms: milliseconds(config.cluster.forget_after_s),
            moves: usize::try_from(config.cluster.moves).unwrap_or(usize::MAX),
        },
    }
}

/// This node, as others are told of it.
fn described(
    config: &Config,
    node: &Node,
    quic: &Quic,
    disk: u64,
) -> anyhow::Result<membership::Config> {
    let role = |role: &Role| match role {
        Role::Replica => REPLICA.to_owned(),
        Role::Relay => RELAY.to_owned(),
    };
    Ok(membership::Config {
        node: quic.node_id(),
        name: config.node.name.clone(),
        region: config.node.region.clone(),
        zone: config.node.zone.clone(),
        address: config.advertised(),
        roles: config.node.roles.iter().map(role).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        disk,
        start: node.start_number(),
        incarnation: SystemClock.now(),
        seed: getrandom::u64().context("no random bits from the system")?,
        seeds: config.replication.seeds.iter().cloned().collect(),
        relays: RELAYS,
        members_max: MEMBERS,
        timing: Timing {
            forget_after_ms: config.cluster.forget_after_s.saturating_mul(1_000),
            ..Timing::default()
        },
    })
}

/// Hands this node's replicas off and leaves, if others are there to take them; within a deadline.
pub(crate) async fn leave(node: &Node, deadline: Duration) {
    let Some(handle) = node.membership() else { return };
    let view = handle.view();
    let others = view
        .members
        .iter()
        .filter(|member| member.region == node.region() && member.node.to_string() != node.id());
    if !others.into_iter().any(|member| matches!(member.state, State::Up)) {
        tracing::info!("nobody is there to take this node's replicas");
        return;
    }
    tracing::info!("handing replicas off");
    match timeout(deadline, handle.leave()).await {
        Ok(()) => tracing::info!("handed off"),
        Err(_) => tracing::warn!(
            "not handed off within cluster.drain_s: its replicas are moved \
                                  when it has been gone for cluster.replace_after_s"
        ),
    }
}
