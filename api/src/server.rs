//! `atoll serve`: one node from its configuration to its end.
//!
//! Start: certificates, who forms the region, transport, store, cores, HTTP. End, in reverse:
//! readiness off, replicas handed off where that is asked for, streams told, HTTP drained, a word
//! of goodbye, checkpoints written, connections closed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use atoll_replication::driver::SystemClock;
use atoll_replication::transport::quic::{self, Inboxes, Quic};
use atoll_store::backend::BackendError;
use atoll_store::engine::Options;
use atoll_store::entity::Limits;

use crate::cluster;
use crate::config::Config;
use crate::http;
use crate::http::forward::Forwarder;
use crate::node::{Node, Settings, TestClock};
use crate::start;

/// Frames from peers that wait for the core; above it their senders wait.
const ARRIVALS: usize = 1_024;
/// Channels that peers opened for requests and that nobody serves yet; more are refused.
const REQUESTED: usize = 64;
/// The exit code after a failed commit: outcomes are unknown, the supervisor starts anew.
const COMMIT_FAILED: i32 = 70;

/// Runs a node until `shutdown` is done, then drains it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    #[cfg(feature = "mutants")]
    switch_mutant()?;
    let metrics = PrometheusBuilder::new().install_recorder().context("metrics")?;
    let identity = start::identity(&config)?;
    let node_id = identity.node_id();
    let formation = start::formation(&config, &identity)?;
    let mut shutdown = std::pin::pin!(shutdown);
    let formed = tokio::select! {
        () = &mut shutdown => return Ok(()),
        formed = start::claim(&config, &formation) => formed?,
    };
    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("http.listen {}", config.http.listen))?;
    let (arrivals, arrived) = mpsc::channel(ARRIVALS);
    let (news, told) = mpsc::channel(ARRIVALS);
    // Whom to dial, membership says: seeds, what discovery finds, and members.
    let network = quic::Config::new(config.replication.listen, identity);
    let (requests, requested) = mpsc::channel(REQUESTED);
    let inboxes = Inboxes::new(arrivals).with_cluster(news).with_requests(requests);
    let quic = Quic::start(network, inboxes)
        .with_context(|| format!("replication.listen {}", config.replication.listen))?;
    let settings = settings(&config);
    let transport = Arc::new(quic.clone());
    let clock = TestClock::or(Arc::new(SystemClock));
    let node = Node::start(settings, node_id, transport, arrived, clock, failed)?;
    let others = formed.as_ref().filter(|formed| !formed.by_me);
    let others = others.and_then(|formed| formed.record.as_ref());
    let unformed = others.is_some_and(|record| !record.formed);
    let core = cluster::start(&config, &node, &quic, told, (&formation, formed), failed).await?;
    let _discovery = start::discover(&config, node_id, core.clone())?;
    let forming = unformed
        .then(|| tokio::spawn(cluster::await_formed(formation, config.node.region.clone())));
    // Whoever asks at once is told what this node holds, not that nothing is known yet.
    node.opened().await;
    tracing::info!(
        name = config.node.name, region = config.node.region, node = %node_id,
        http = %config.http.listen, quic = %config.replication.listen, "serving"
    );
    let options = http::Options {
        limits: edge_limits(&config),
        metrics: Some(metrics),
        forwarder: Some(Forwarder::new(quic.clone())),
    };
    let limits = options.limits.clone();
    let router = http::router(node.clone(), options);
    let peers = serve_peers(requested, router.clone(), limits.clone(), node.clone());
    let peers = tokio::spawn(peers);
    let mut ended = false;
    let stop = async {
        ended = until_stopped(shutdown, &config, &node).await;
        forming.iter().for_each(tokio::task::JoinHandle::abort);
        node.drain();
    };
    http::serve_with(listener, router, &limits, stop).await.context("http")?;
    peers.await.context("requests of other nodes")?;
    core.stop().await;
    node.stop().await;
    quic.close().await;
    anyhow::ensure!(
        !ended,
        "the cluster gave this node up while it was away: start it again, it joins as new"
    );
    tracing::info!("stopped");
    Ok(())
}

/// Waits until the node is to stop, and hands over what it holds if it leaves for good. Whether
/// the cluster has given this start up.
async fn until_stopped(shutdown: impl Future<Output = ()>, config: &Config, node: &Node) -> bool {
    let ended = tokio::select! {
        () = shutdown => false,
        () = node.ended() => true,
    };
    tracing::info!("draining");
    if config.cluster.leave_on_stop && !ended {
        node.retire();
        cluster::leave(node, Duration::from_secs(config.cluster.drain_s)).await;
    }
    ended
}

/// Serves what other nodes pass on, until the node drains.
async fn serve_peers(
    requested: mpsc::Receiver<quic::Incoming>,
    router: Router,
    limits: http::Limits,
    node: Node,
) {
    http::forward::serve_peers(requested, router, &limits, node.draining()).await;
}

/// Switches on the deliberate bug that `ATOLL_MUTANT` names: builds that are shipped cannot.
#[cfg(feature = "mutants")]
fn switch_mutant() -> anyhow::Result<()> {
    use atoll_store::mutant::Mutant;
    let Some(name) = std::env::var_os("ATOLL_MUTANT") else { return Ok(()) };
    let mutant = name.to_str().and_then(Mutant::parse);
    let mutant = mutant.with_context(|| format!("ATOLL_MUTANT: no mutant {}", name.display()))?;
    Mutant::switch(Some(mutant));
    tracing::error!(mutant = mutant.name(), "A DELIBERATE BUG IS ON: this node loses data");
    Ok(())
}

/// A failed commit leaves it unknown what is on the disk: nothing more may be said or done.
fn failed(error: BackendError) {
    tracing::error!(%error, "a commit failed: this process ends");
    std::process::exit(COMMIT_FAILED);
}

fn settings(config: &Config) -> Settings {
    let megabytes = |mb: u64| mb << 20;
    let limits = Limits {
        set_members: config.limits.set_members as usize,
        map_fields: config.limits.map_fields as usize,
        ..Limits::default()
    };
    Settings {
        name: config.node.name.clone(),
        region: config.node.region.clone(),
        zone: config.node.zone.clone(),
        advertise: config.advertised(),
        data: config.node.data.join("store"),
        seeds: config.replication.seeds.len(),
        council: true,
        store: Options {
            cache_bytes: megabytes(config.store.cache_mb) as usize,
            log_soft_bytes: megabytes(config.store.log_mb),
            log_hard_bytes: megabytes(config.store.log_max_mb),
            checkpoint_bytes: megabytes(config.store.checkpoint_mb),
            limits,
            slots: u16::try_from(config.cluster.slots).expect("a checked key"),
        },
        engine_cache: megabytes(config.store.cache_mb / 4).max(16 << 20),
        disk_reserve: megabytes(config.store.disk_reserve_mb),
        subscriptions: config.limits.subscriptions as usize,
    }
}

fn edge_limits(config: &Config) -> http::limits::Limits {
    http::limits::Limits {
        body_bytes: config.limits.body_bytes as usize,
        member_bytes: config.limits.member_bytes as usize,
        json_depth: config.limits.json_depth as usize,
        batch_operations: config.limits.batch_operations as usize,
        ..http::limits::Limits::default()
    }
}
