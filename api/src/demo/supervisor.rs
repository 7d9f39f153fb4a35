//! The demo itself: its nodes, its links, and what may be done to them.
//!
//! Invariants:
//! 1. Changes of nodes (start, kill, add, end) happen one at a time.
//! 2. `demo.json` is written when all nodes are ready, and again whenever a process number
//!    changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, Notify, watch};

use super::files::Directory;
use super::layout::{self, Place, REGIONS};
use super::links::Links;
use super::member::{Child, ready};
use super::observe::{Observer, equal};
use crate::cli::Failure;

/// A handle of the demo. Clones are the same demo.
#[derive(Clone)]
pub(super) struct Supervisor(Arc<Inner>);

struct Inner {
    base: u16,
    program: PathBuf,
    directory: Directory,
    /// A std mutex: held for look-ups and changes in memory only.
    state: Mutex<State>,
    turn: Turn<()>,
    ended: watch::Sender<bool>,
    answered: Notify,
}

struct State {
    nodes: Vec<Node>,
    links: Links,
    /// All nodes were ready once: from then on `demo.json` is there.
    begun: bool,
    /// A `stop` waits for its answer.
    asked: bool,
}

#[derive(Clone)]
struct Node {
    place: Place,
    child: Option<Child>,
    ready: bool,
}

impl Node {
    fn state(&self) -> &'static str {
        match &self.child {
            Some(child) if child.is_running() && self.ready => "up",
            Some(child) if child.is_running() => "starting",
            _ => "down",
        }
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().filter(|child| child.is_running()).map(Child::pid)
    }
}

impl Supervisor {
    pub(super) fn new(base: u16, program: PathBuf, directory: Directory, real: bool) -> Self {
        let links = Links::new(real);
        let state = Mutex::new(State { nodes: Vec::new(), links, begun: false, asked: false });
        let (turn, answered) = (Turn::new(()), Notify::new());
        let ended = watch::channel(false).0;
        Self(Arc::new(Inner { base, program, directory, state, turn, ended, answered }))
    }

    pub(super) fn base(&self) -> u16 {
        self.0.base
    }

    /// Starts all nodes and waits until they are ready.
    pub(super) async fn begin(&self, places: Vec<Place>) -> Result<(), Failure> {
        let _turn = self.0.turn.lock().await;
        let node = |place: &Place| Node { place: place.clone(), child: None, ready: false };
        self.state().nodes = places.iter().map(node).collect();
        for place in &places {
            self.spawn(place)?;
        }
        let waiting = places.iter().map(|place| self.wait(place));
        futures_util::future::try_join_all(waiting).await?;
        self.state().begun = true;
        self.publish()
    }

    /// Cuts or mends the link between two regions.
    pub(super) fn link(&self, a: &str, b: &str, cut: bool) -> Result<(), Failure> {
        match self.state().links.set(a, b, cut) {
            true => Ok(()),
            false => Err(Failure::Usage(format!("there is no link between {a} and {b}"))),
        }
    }

    /// Mends all links.
    pub(super) fn heal(&self) {
        self.state().links.heal();
    }

    /// Kills a node at once.
    pub(super) async fn kill(&self, name: &str) -> Result<(), Failure> {
        let _turn = self.0.turn.lock().await;
        match self.node(name)?.child.filter(Child::is_running) {
            Some(child) => child.kill().await,
            None => return Err(Failure::failed(format!("{name} is not running"))),
        }
        self.publish()
    }

    /// Starts a node that is down.
    pub(super) async fn start(&self, name: &str) -> Result<(), Failure> {
        let _turn = self.0.turn.lock().await;
        let node = self.node(name)?;
        if node.pid().is_some() {
            return Err(Failure::failed(format!("{name} is running already")));
        }
        self.spawn(&node.place)?;
        self.publish()?;
        self.wait(&node.place).await
    }

    /// Starts one more node in a region, and says its name.
    pub(super) async fn add(&self, region: &'static str) -> Result<String, Failure> {
        let _turn = self.0.turn.lock().await;
        let indexes: Vec<u16> = {
            let state = self.state();
            let nodes = state.nodes.iter().filter(|node| node.place.region == region);
            nodes.map(|node| node.place.index).collect()
        };
        let index = indexes.into_iter().max().unwrap_or(0) + 1;
        if index > layout::MOST {
            let most = layout::MOST;
            return Err(Failure::failed(format!("{region} has {most} nodes, as many as it may")));
        }
        let place = Place::new(self.0.base, region, index)
            .ok_or_else(|| Failure::failed("there is no port left above the base port"))?;
        let taken = super::taken_of(&place);
        if !taken.is_empty() {
            return Err(Failure::failed(format!("ports in use: {}", taken.join(", "))));
        }
        self.state().nodes.push(Node { place: place.clone(), child: None, ready: false });
        self.spawn(&place)?;
        self.publish()?;
        self.wait(&place).await?;
        Ok(place.name())
    }

    /// Ends all nodes, in order. What comes after it finds nothing to start.
    pub(super) async fn end(&self) {
        let _turn = self.0.turn.lock().await;
        let children: Vec<Child> =
            self.state().nodes.iter().filter_map(|node| node.child.clone()).collect();
        let ending = children.iter().map(Child::terminate);
        futures_util::future::join_all(ending).await;
        self.0.ended.send_replace(true);
    }

    /// As [`Supervisor::end`], for somebody who is told when it is done.
    pub(super) async fn stop(&self) {
        self.state().asked = true;
        self.end().await;
    }

    /// The answer to `stop` is on its way.
    pub(super) fn answer(&self) {
        self.0.answered.notify_one();
    }

    /// Done once an answer to `stop`, if one is awaited, is on its way.
    pub(super) async fn answered(&self) {
        let asked = self.state().asked;
        if asked {
            self.0.answered.notified().await;
        }
    }

    /// Done once the demo has ended.
    pub(super) async fn ended(&self) {
        // The sender lives in ourselves.
        drop(self.0.ended.subscribe().wait_for(|ended| *ended).await);
    }

    /// Every node with its state.
    pub(super) fn nodes(&self) -> Vec<(Place, &'static str)> {
        self.state().nodes.iter().map(|node| (node.place.clone(), node.state())).collect()
    }

    /// Every link: its regions, whether it is cut, and its round trip in milliseconds.
    pub(super) fn links(&self) -> Vec<(&'static str, &'static str, bool, u64)> {
        self.state().links.state()
    }

    /// What `status` answers.
    pub(super) async fn status(&self) -> Value {
        let nodes = self.0.nodes_json(|node| {
            json!({"name": node.place.name(), "region": node.place.region, "state": node.state(),
                "http": node.place.url(), "pid": node.pid()})
        });
        let up: Vec<Place> =
            self.nodes().into_iter().filter(|(_, s)| *s == "up").map(|(place, _)| place).collect();
        let seen = Observer::default().ask(&up).await;
        let link = |(a, b, cut, rtt)| json!({"between": [a, b], "cut": cut, "rtt_ms": rtt});
        let links: Vec<Value> = self.links().into_iter().map(link).collect();
        json!({"nodes": nodes, "links": links, "digests_equal": equal(&seen)})
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }

    fn node(&self, name: &str) -> Result<Node, Failure> {
        let state = self.state();
        if let Some(node) = state.nodes.iter().find(|node| node.place.name() == name) {
            return Ok(node.clone());
        }
        let names: Vec<_> = state.nodes.iter().map(|node| node.place.name()).collect();
        Err(Failure::Usage(format!("no node {name:?}; the nodes are {}", names.join(", "))))
    }

    fn spawn(&self, place: &Place) -> Result<(), Failure> {
        if *self.0.ended.borrow() {
            return Err(Failure::failed("the demo has ended"));
        }
        let mut state = self.state();
        let others: Vec<Place> = state.nodes.iter().map(|node| node.place.clone()).collect();
        let others = others.iter().filter(|other| *other != place);
        let seeds = others.map(|other| other.address().to_string()).collect();
        // Also those that are added later: their packets cross the same links.
        let mut translate = Vec::new();
        for other in layout::all(self.0.base).iter().filter(|o| o.region != place.region) {
            let link = state.links.address(place, other).map_err(Failure::of("link"))?;
            translate.push(format!("{}={link}", other.address()));
        }
        std::fs::create_dir_all(self.0.directory.data(place)).map_err(Failure::of("data"))?;
        let config = self.0.directory.prepare(place, seeds, translate)?;
        let config = config.display().to_string();
        let arguments = ["serve", "--config", &config, "--exit-with-stdin"];
        let log = self.0.directory.log(place);
        let child = Child::start(&self.0.program, &arguments, &log)?;
        for node in state.nodes.iter_mut().filter(|node| node.place == *place) {
            node.ready = false;
            node.child = Some(child.clone());
        }
        drop(state);
        let this = self.clone();
        tokio::spawn(async move {
            child.ended().await;
            // The directory may be gone when the demo itself ends.
            drop(this.publish());
        });
        Ok(())
    }

    async fn wait(&self, place: &Place) -> Result<(), Failure> {
        let Some(child) = self.node(&place.name())?.child else { return Ok(()) };
        ready(&child, &place.url(), &self.0.directory.log(place)).await?;
        for node in self.state().nodes.iter_mut().filter(|node| node.place == *place) {
            node.ready = true;
        }
        Ok(())
    }

    fn publish(&self) -> Result<(), Failure> {
        if !self.state().begun {
            return Ok(());
        }
        let nodes = self.0.nodes_json(|node| {
            json!({"name": node.place.name(), "region": node.place.region,
                "http": node.place.url(), "pid": node.pid(),
                "data": self.0.directory.data(&node.place)})
        });
        self.0.directory.publish(&json!({"nodes": nodes}))
    }

    /// Region names in the order of the screen.
    pub(super) fn regions(&self) -> [&'static str; 3] {
        REGIONS
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }

    fn nodes_json(&self, form: impl Fn(&Node) -> Value) -> Vec<Value> {
        self.state().nodes.iter().map(form).collect()
    }
}
