//! Where everything is: regions, names, ports and distances. Pure.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The regions; the place in this list, from 1, is the r in a node's port.
pub const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// Most nodes of a region: its ports end in the same digit, below those of the next ten.
pub const MOST: u16 = 9;

/// Pairs of regions with their round trip in milliseconds, as between public clouds.
pub const LINKS: [(&str, &str, u64); 3] = [("eu", "us", 80), ("us", "ap", 150), ("eu", "ap", 220)];

/// One node's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// One of [`REGIONS`].
    pub region: &'static str,
    /// The how manieth node of its region, from 1.
    pub index: u16,
    /// TCP port of HTTP and UDP port of QUIC.
    pub port: u16,
}

impl Place {
    /// The place of a node; `None` if its port would be above 65535.
    pub fn new(base: u16, region: &'static str, index: u16) -> Option<Place> {
        let r = REGIONS.iter().position(|other| *other == region)? + 1;
        let offset = u16::try_from(r).ok()?.checked_add(index.checked_sub(1)?.checked_mul(10)?)?;
        Some(Place { region, index, port: base.checked_add(offset)? })
    }

    /// `eu-1`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.region, self.index)
    }

    /// The name of the node that forms this one's region.
    pub fn founder(&self) -> String {
        format!("{}-1", self.region)
    }

    /// The address, the same for TCP and UDP.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// `http://127.0.0.1:7401`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

/// All nodes at the start, region by region.
pub fn places(base: u16, nodes: u8) -> Option<Vec<Place>> {
    let indexes = 1..=u16::from(nodes);
    REGIONS.iter().flat_map(|r| indexes.clone().map(|k| Place::new(base, r, k))).collect()
}

/// Every place that a demo may have: nine nodes a region, as far as there are ports.
pub fn all(base: u16) -> Vec<Place> {
    let places = REGIONS.iter().flat_map(|r| (1..=MOST).map(move |k| Place::new(base, r, k)));
    places.flatten().collect()
}

/// The link between two regions, in the order of [`LINKS`]; `None` inside one.
pub fn link(a: &str, b: &str) -> Option<(&'static str, &'static str, u64)> {
    LINKS.into_iter().find(|(x, y, _)| (*x, *y) == (a, b) || (*x, *y) == (b, a))
}

/// How long a packet takes one way.
pub fn one_way(a: &str, b: &str) -> Duration {
    Duration::from_millis(link(a, b).map_or(0, |(_, _, rtt)| rtt / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_contract() {
        let places = places(7400, 2).expect("in range");
        let ports: Vec<_> = places.iter().map(|place| (place.name(), place.port)).collect();
        let expected = [
            ("eu-1", 7401),
            ("eu-2", 7411),
            ("us-1", 7402),
            ("us-2", 7412),
            ("ap-1", 7403),
            ("ap-2", 7413),
        ];
        assert_eq!(ports, expected.map(|(name, port)| (name.to_string(), port)));
        assert_eq!(Place::new(65_533, "ap", 1), None);
        assert_eq!(one_way("ap", "us"), Duration::from_millis(75));
        assert_eq!(one_way("us", "us"), Duration::ZERO);
    }
}
