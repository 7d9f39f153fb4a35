//! Strangers at the QUIC port.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use jepsen::wait::until;
use serde_json::json;

use crate::node::{Node, PATIENCE, Site, await_equal};

/// The first byte and version of a QUIC long header: it looks like the start of a connection.
const INITIAL: [u8; 5] = [0xC3, 0, 0, 0, 1];

#[test]
fn garbage_on_the_port_harms_nobody() -> Result<()> {
    let site = Site::new("atoll")?;
    let nodes = site.two()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let mut noise = 0x9E37_79B9_7F4A_7C15u64;
    let mut byte = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (noise >> 33) as u8
    };
    for length in (0..1500).chain([4_000, 20_000, 65_000]) {
        let mut datagram: Vec<u8> = (0..length).map(|_| byte()).collect();
        if length > INITIAL.len() && length % 2 == 0 {
            datagram[..INITIAL.len()].copy_from_slice(&INITIAL);
        }
        for node in &nodes {
            // The network may refuse what is too large for it; that harms nobody, either.
            let _ = socket.send_to(&datagram, node.address());
        }
    }
    agree(&nodes)
}

#[test]
fn a_node_of_another_cluster_is_refused() -> Result<()> {
    let (site, other) = (Site::new("atoll")?, Site::new("atoll")?);
    let nodes = site.two()?;
    let mut stranger = other.node("eu-1")?;
    stranger.start(&nodes.each_ref().map(|node| node.port))?;
    stranger.done("/v1/counters/strange/a", &json!({"increment": 1}))?;
    for node in &nodes {
        let refused = || {
            let count = node.metric("atoll_transport_handshakes_refused_total").ok()?;
            (count > 0.0).then_some(())
        };
        until(PATIENCE, refused).with_context(|| format!("{} refused nobody", node.name))?;
    }
    agree(&nodes)?;
    for node in &nodes {
        ensure!(node.peers_up()? == 1, "{} took the stranger in", node.name);
        ensure!(node.ask("/v1/counters/strange/a")?.status == 404, "{} took its data", node.name);
    }
    ensure!(stranger.peers_up()? == 0, "the stranger has peers");
    ensure!(stranger.ask("/v1/counters/agree/a")?.status == 404, "the stranger has data");
    Ok(())
}

/// The nodes still live, and still exchange what is written.
fn agree(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        ensure!(node.ask("/livez")?.status == 200, "{} does not live", node.name);
        node.done("/v1/counters/agree/a", &json!({"increment": 1}))?;
    }
    await_equal(nodes)?;
    for node in nodes {
        let value = node.get("/v1/counters/agree/a")?["value"].take();
        ensure!(value == nodes.len(), "{}: {value}", node.name);
    }
    Ok(())
}
