//! What `/metrics` shows of a node: its view of the cluster, its disk, whether it is ready.
//!
//! Each name is in `docs/metrics.md`, with its labels and what to make of it.
//!
//! Invariants:
//! 1. A value is as old as the core's last word, except what a scrape asks for: readiness and disk.
//! 2. A label is a region, a state or a version: their number does not grow with data or clients.
//!
//! Left out: requests (`http/meter.rs`), connections and frames (the transport), the core's load
//! (its driver).

use std::collections::BTreeSet;

use metrics::{counter, gauge};

use atoll_replication::core::{PeerStatus, Status};

use atoll_replication::placement::RegionPlacement;
use atoll_sharding::core::View;
use atoll_sharding::membership::State;

use super::Node;
use super::place::progress;

impl Node {
    /// Measures what changes without the core's word. Called when somebody asks for metrics.
    pub fn measure(&self) {
        let settings = &self.0.settings;
        gauge!("atoll_ready").set(f64::from(u8::from(self.not_ready().is_empty())));
        gauge!("atoll_disk_reserve_bytes").set(settings.disk_reserve as f64);
        // A disk that cannot be asked is the core's to complain about.
        if let Ok(Some(free)) = self.0.backend.free_space() {
            gauge!("atoll_disk_free_bytes").set(free as f64);
        }
        let labels = [
            ("name", settings.name.clone()),
            ("region", settings.region.clone()),
            ("zone", settings.zone.clone()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        gauge!("atoll_info", &labels).set(1.0);
        if let Some(view) = self.view() {
            cluster(&view);
        }
    }
}

/// Measures members, by state, and the council of this region.
fn cluster(view: &View) {
    for state in State::ALL.into_iter().filter(|state| *state != State::Gone) {
        let count = view.members.iter().filter(|member| member.state == state).count();
        gauge!("atoll_members", "state" => state.name()).set(count as f64);
    }
    let led = view.council.leader.is_some();
    gauge!("atoll_council_has_leader").set(f64::from(u8::from(led)));
    let troubled = view.council.trouble.is_some();
    gauge!("atoll_council_trouble").set(f64::from(u8::from(troubled)));
}

/// Measures how this region's replicas are placed.
fn placement(record: &RegionPlacement) {
    let (moving, short) = progress(record);
    gauge!("atoll_shards_moving").set(moving as f64);
    gauge!("atoll_shards_under_replicated").set(short as f64);
}

/// Measures the core's view.
pub(super) fn status(status: &Status) {
    counter!("atoll_writes_total").absolute(status.writes);
    counter!("atoll_divergences_total").absolute(status.diverged);
    counter!("atoll_journal_position").absolute(status.journal_end.saturating_sub(1));
    gauge!("atoll_entities").set(status.entities as f64);
    gauge!("atoll_quarantined_entities").set(status.quarantined as f64);
    gauge!("atoll_origins").set(status.regions.len() as f64);
    gauge!("atoll_retired_origins").set(f64::from(status.retired));
    gauge!("atoll_unserved_copies").set(status.unserved.len() as f64);
    gauge!("atoll_waiting_operations").set(status.waiting as f64);
    for (region, lag) in &status.lag {
        gauge!("atoll_lag_operations", "region" => region.clone()).set(lag.operations as f64);
        gauge!("atoll_lag_milliseconds", "region" => region.clone()).set(lag.ms as f64);
    }
    peers(status);
    if let Some(record) = status.placement.region(&status.me.region) {
        placement(record);
    }
}

/// Peers by region, and the shortest round trip to each. A region that was ever heard of stays: a
/// gauge that nobody sets any more would keep its last value.
fn peers(status: &Status) {
    let known = status.regions.values().chain(status.peers.iter().map(|peer| &peer.region));
    for region in known.chain([&status.me.region]).collect::<BTreeSet<_>>() {
        let there = || status.peers.iter().filter(|peer| peer.region == *region);
        let count = |connected| {
            there().filter(|peer: &&PeerStatus| peer.connected == connected).count() as f64
        };
        let gauge = |state| gauge!("atoll_peers", "region" => region.clone(), "state" => state);
        gauge("connected").set(count(true));
        gauge("unconnected").set(count(false));
        let nearest = there().filter(|peer| peer.connected).filter_map(|peer| peer.rtt_ms).min();
        gauge!("atoll_round_trip_milliseconds", "region" => region.clone())
            .set(nearest.map_or(f64::NAN, |ms| ms as f64));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::super::testing;
    use super::*;

    /// The lines of `/metrics` after `measure`.
    fn lines(measure: impl FnOnce()) -> Vec<String> {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, measure);
        recorder.handle().render().lines().map(str::to_owned).collect()
    }

    fn check(lines: &[String], expected: &[&str]) {
        for line in expected {
            assert!(lines.iter().any(|found| found == line), "no {line} in {lines:#?}");
        }
    }

    fn peer(of: &Status, region: &str, rtt_ms: Option<u64>) -> PeerStatus {
        PeerStatus {
            node: of.me.node,
            name: region.into(),
            region: region.into(),
            zone: "a".into(),
            address: String::new(),
            version: String::new(),
            origin: of.me.origin,
            connected: rtt_ms.is_some(),
            rtt_ms,
        }
    }

    #[tokio::test]
    async fn peers_are_counted_by_region_and_state() {
        let (node, _data) = testing::single();
        let known = node.journal().started().await.expect("a node that starts has a view");
        let mut view = Status::clone(&known);
        view.peers = [("us", Some(81)), ("us", Some(79)), ("us", None), ("eu", None)]
            .map(|(region, rtt)| peer(&view, region, rtt))
            .into();
        view.quarantined = 2;
        check(
            &lines(|| status(&view)),
            &[
                "atoll_peers{region=\"us\",state=\"connected\"} 2",
                "atoll_peers{region=\"us\",state=\"unconnected\"} 1",
                "atoll_peers{region=\"eu\",state=\"connected\"} 0",
                "atoll_round_trip_milliseconds{region=\"us\"} 79",
                "atoll_round_trip_milliseconds{region=\"eu\"} NaN",
                "atoll_quarantined_entities 2",
            ],
        );
    }

    #[tokio::test]
    async fn a_node_that_drains_is_not_ready() {
        let (node, _data) = testing::single();
        drop::<Option<Arc<Status>>>(node.journal().started().await);
        let ready = |node: &Node| lines(|| node.measure());
        let at_first = ready(&node);
        check(&at_first, &["atoll_ready 1", "atoll_disk_reserve_bytes 0"]);
        assert!(at_first.iter().any(|line| line.starts_with("atoll_disk_free_bytes ")));
        assert!(at_first.iter().any(|line| line.starts_with("atoll_info{name=\"eu-1\"")));
        node.drain();
        check(&ready(&node), &["atoll_ready 0"]);
    }
}
