//! The links between nodes: a UDP proxy for every ordered pair, and what happens on them.
//!
//! Invariants:
//! 1. A pair keeps its proxy, and so its address, as long as the run.
//! 2. Faults lie over each other in layers: a link suffers the worst of all of them, and loses
//!    a fault exactly when that fault's layer is lifted.
//! 3. A packet from a to b meets the sky of (a, b), whichever of both dialled.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use atoll::demo::shaper::{Proxy, Sky, Weather};
use tokio::runtime::Runtime;

use super::shapes::all;
use crate::random::Random;

/// What a fault does to ordered pairs of nodes.
pub(crate) type Layer = BTreeMap<(usize, usize), Sky>;

/// One pair's proxy: who dials through it, whom, and its weather.
struct Link {
    from: usize,
    to: usize,
    /// Where the other one listens.
    target: SocketAddr,
    weather: Arc<Weather>,
    proxy: Proxy,
}

/// All links of a run.
pub(crate) struct Links {
    links: Vec<Link>,
    layers: Mutex<BTreeMap<usize, Layer>>,
    /// Runs the proxies; ends with us.
    _runtime: Runtime,
}

impl Links {
    /// Opens a proxy for every ordered pair of nodes that listen at these ports.
    pub(crate) fn open(ports: &[u16], random: &mut Random) -> io::Result<Links> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build()?;
        let guard = runtime.enter();
        let mut links = Vec::new();
        for (from, to) in all(ports.len()) {
            let weather = Arc::new(Weather::default());
            let mut chance = Random::new(random.bits());
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[to]));
            let proxy = Proxy::under(target, weather.clone(), Box::new(move || chance.bits()))?;
            links.push(Link { from, to, target, weather, proxy });
        }
        drop(guard);
        Ok(Links { links, layers: Mutex::default(), _runtime: runtime })
    }

    /// The ports of the others.
    pub(crate) fn seeds(&self, node: usize) -> Vec<u16> {
        let dialled = self.links.iter().filter(|link| link.from == node);
        dialled.map(|link| link.target.port()).collect()
    }

    /// Where a node reaches each of them: a setting of its configuration.
    pub(crate) fn translations(&self, node: usize) -> (String, String) {
        let dialled = self.links.iter().filter(|link| link.from == node);
        let pairs = dialled.map(|link| format!("{}={}", link.target, link.proxy.address()));
        let pairs: Vec<String> = pairs.collect();
        ("ATOLL__REPLICATION__TRANSLATE".to_owned(), pairs.join(","))
    }

    /// Lays a fault over the links, in place of what the same one did before.
    pub(crate) fn lay(&self, fault: usize, layer: Layer) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.insert(fault, layer);
        self.apply(&layers);
    }

    /// Lifts a fault.
    pub(crate) fn lift(&self, fault: usize) {
        self.lay(fault, Layer::new());
    }

    /// Lifts all.
    pub(crate) fn heal(&self) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.clear();
        self.apply(&layers);
    }

    fn apply(&self, layers: &BTreeMap<usize, Layer>) {
        for Link { from, to, weather, .. } in &self.links {
            weather.set(true, worst(layers.values(), (*from, *to)));
            weather.set(false, worst(layers.values(), (*to, *from)));
        }
    }
}

/// The worst of all layers, for packets of this pair.
fn worst<'a>(layers: impl Iterator<Item = &'a Layer>, pair: (usize, usize)) -> Sky {
    let skies = layers.filter_map(|layer| layer.get(&pair));
    skies.fold(Sky::default(), |all, sky| Sky {
        cut: all.cut || sky.cut,
        delay: all.delay.max(sky.delay),
        jitter: all.jitter.max(sky.jitter),
        loss: all.loss.max(sky.loss),
        twice: all.twice.max(sky.twice),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_link_suffers_the_worst_of_all_faults() {
        let cut = Sky { cut: true, ..Sky::default() };
        let slow = Sky { delay: Duration::from_millis(100), loss: 50, ..Sky::default() };
        let lossy = Sky { loss: 90, ..Sky::default() };
        let layers = [
            Layer::from([((0, 1), cut), ((1, 0), slow)]),
            Layer::from([((0, 1), lossy), ((1, 0), lossy)]),
        ];
        let pair = |a, b| worst(layers.iter(), (a, b));
        assert_eq!(pair(0, 1), Sky { cut: true, loss: 90, ..Sky::default() });
        assert_eq!(pair(1, 0), Sky { loss: 90, ..slow });
        assert_eq!(pair(1, 2), Sky::default());
    }

    #[test]
    fn both_proxies_of_a_pair_obey() {
        let links = Links::open(&[1, 2, 3], &mut Random::new(1)).unwrap();
        assert_eq!((links.seeds(0).len(), links.links.len()), (2, 6));
        links.lay(7, Layer::from([((0, 1), Sky { cut: true, ..Sky::default() })]));
        let cut = |links: &Links| -> Vec<(usize, usize, bool)> {
            let sides = links.links.iter().flat_map(|link| {
                [true, false].map(|forward| (link, forward, link.weather.sky(forward).cut))
            });
            sides
                .filter(|side| side.2)
                .map(|(link, forward, _)| (link.from, link.to, forward))
                .collect()
        };
        assert_eq!(cut(&links), [(0, 1, true), (1, 0, false)]);
        links.lift(7);
        assert_eq!(cut(&links), []);
    }
}
