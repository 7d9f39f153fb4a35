//! The links between regions: which are cut, and the proxies that nodes dial.
//!
//! Invariant: a pair of nodes keeps its proxy, and so its address, as long as the demo runs; cuts
//! outlive restarts of nodes because they belong to the link.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::layout::{LINKS, Place, link, one_way};
use super::shaper::Proxy;

pub(super) struct Links {
    real: bool,
    /// In the order of [`LINKS`].
    cuts: [Arc<AtomicBool>; LINKS.len()],
    proxies: BTreeMap<(String, String), Proxy>,
}

impl Links {
    pub(super) fn new(real: bool) -> Links {
        Links { real, cuts: Default::default(), proxies: BTreeMap::new() }
    }

    /// Where `from` reaches `to`: through a proxy between regions, directly inside one.
    pub(super) fn address(&mut self, from: &Place, to: &Place) -> io::Result<SocketAddr> {
        let Some(cut) = self.cut(from.region, to.region) else { return Ok(to.address()) };
        let cut = cut.clone();
        let pair = (from.name(), to.name());
        if let Some(proxy) = self.proxies.get(&pair) {
            return Ok(proxy.address());
        }
        let delay = match self.real {
            true => one_way(from.region, to.region),
            false => Duration::ZERO,
        };
        let proxy = Proxy::open(to.address(), delay, cut)?;
        Ok(self.proxies.entry(pair).or_insert(proxy).address())
    }

    /// Cuts or mends the link between two regions; false if there is none.
    pub(super) fn set(&self, a: &str, b: &str, cut: bool) -> bool {
        self.cut(a, b).map(|link| link.store(cut, Ordering::Relaxed)).is_some()
    }

    /// Mends all.
    pub(super) fn heal(&self) {
        self.cuts.iter().for_each(|cut| cut.store(false, Ordering::Relaxed));
    }

    /// Every link: its regions, whether it is cut, and its round trip in milliseconds.
    pub(super) fn state(&self) -> Vec<(&'static str, &'static str, bool, u64)> {
        let rtt = |rtt| if self.real { rtt } else { 0 };
        LINKS
            .iter()
            .zip(&self.cuts)
            .map(|((a, b, ms), cut)| (*a, *b, cut.load(Ordering::Relaxed), rtt(*ms)))
            .collect()
    }

    fn cut(&self, a: &str, b: &str) -> Option<&Arc<AtomicBool>> {
        let wanted = link(a, b)?;
        LINKS.iter().position(|link| *link == wanted).map(|index| &self.cuts[index])
    }
}
