//! The loop around a cluster core: it is told what came, commits what it decided, and acts on it.
//!
//! Invariants:
//! 1. (R1) What a step sends and tells leaves after what it wrote is durable.
//! 2. A record that replication has no room for is told again: at the next turn.
//! 3. Real nodes and simulated ones turn by the same code; a thread only waits for it.
//! 4. Timers run by time that only passes: a clock that is set back holds nothing up.
//!
//! Left out: the transport's connections, and replication's own loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use atoll_replication::driver::Clock;
use atoll_replication::placement::{Ending, RegionPlacement, Version};
use atoll_replication::transport::{Arrival, Class, NodeId, Transport};
use atoll_store::backend::{Backend, BackendError};
use atoll_store::dot::Millis;

use crate::core::{Cluster, Effects, Event, View};
use crate::council::CouncilError;

/// Commands waiting for the core.
const COMMANDS: usize = 64;
/// Arrivals taken into one turn.
const TURN_ARRIVALS: usize = 256;
/// Between looks at which peers were heard, and at what replication has to tell.
const LOOK_MS: Millis = 100;

/// Who dials.
pub trait Dialer: Send + Sync {
    /// Keeps an address connected.
    fn dial(&self, address: &str);
    /// Does not dial an address any more.
    fn forget(&self, address: &str);
    /// Closes the connection to a node.
    fn disconnect(&self, node: NodeId);
}

/// Replication on the same node.
pub trait Local: Send + Sync {
    /// Hands over what the council recorded. `false`: no room, again later.
    fn place(&self, record: RegionPlacement) -> bool;
    /// Which disk the council knows this node by. `false`: no room, again later.
    fn set_disk(&self, disk: u64) -> bool;
    /// A node is gone for good. `false`: no room, again later.
    fn forget(&self, node: NodeId) -> bool;
    /// Slots caught up with since the last call.
    fn caught_up(&self) -> Vec<(u16, u64)>;
    /// What the council is to record of origins that ended, asked for since the last call; asked
    /// again until a record shows it.
    fn endings(&self) -> Vec<Ending>;
    /// The newest record of this region that is newer than `known`.
    fn newer(&self, known: Version) -> Option<RegionPlacement>;
    /// Nodes of other regions that are needed.
    fn wanted(&self) -> BTreeSet<NodeId>;
    /// Whether it has recovered and caught up.
    fn is_ready(&self) -> bool;
    /// Notified when it has something to tell.
    fn news(&self) -> Arc<Notify>;
}

/// What an operator, or the node itself, asks of the core.
#[derive(Debug)]
enum Command {
    Discovered(BTreeSet<String>),
    Leave,
    Stop,
    Evict(NodeId, oneshot::Sender<Result<(), CouncilError>>),
    Recover(u64, oneshot::Sender<Result<(), CouncilError>>),
}

/// A handle to a running cluster core. A cheap clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<View>>,
    released: watch::Receiver<bool>,
}

/// The core has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct Ended;

impl Handle {
    /// What is to be seen of the cluster.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Whether the core runs: it ends when it is stopped, or has failed.
    pub fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Tells what discovery finds now.
    pub async fn discovered(&self, addresses: BTreeSet<String>) {
        let _ = self.commands.send(Command::Discovered(addresses)).await;
    }

    /// Hands this node's replicas off; returns when the council no longer records it.
    pub async fn leave(&self) {
        let mut released = self.released.clone();
        let _ = self.commands.send(Command::Leave).await;
        let _ = released.wait_for(|released| *released).await;
    }

    /// Says goodbye, so that others need not find out, and ends the core.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await;
        self.commands.closed().await;
    }

    /// Gives up a node that will not come back.
    pub async fn evict(&self, node: NodeId) -> Result<Result<(), CouncilError>, Ended> {
        self.ask(|to| Command::Evict(node, to)).await
    }

    /// Re-forms a council that lost its majority, on this node; `chance` is 64 random bits.
    pub async fn recover(&self, chance: u64) -> Result<Result<(), CouncilError>, Ended> {
        self.ask(|to| Command::Recover(chance, to)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Ended> {
        let (to, answer) = oneshot::channel();
        self.commands.send(command(to)).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }
}

/// What a driver runs with.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// The core, just made.
    pub cluster: Cluster,
    /// Where the council's records go.
    pub backend: Arc<dyn Backend>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Who dials.
    pub dialer: Arc<dyn Dialer>,
    /// Replication.
    pub local: Arc<dyn Local>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// A cluster core whose caller turns.
pub struct Driver {
    parts: Parts,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<Arc<View>>,
    released: watch::Sender<bool>,
    /// Connected peers, and how much the transport had received from each.
    heard: BTreeMap<NodeId, u64>,
    /// What replication had no room for.
    record: Option<RegionPlacement>,
    gone: BTreeSet<NodeId>,
    /// The disk that replication was told.
    disk: Option<u64>,
    known: Version,
    wanted: BTreeSet<NodeId>,
    ready: bool,
    leaving: bool,
    stopped: bool,
    next_look: Millis,
    /// The clock at the last turn, and time that only passes.
    clock: Millis,
    elapsed: Millis,
    /// Whether the network is still there.
    networked: bool,
}

impl Driver {
    /// A driver, and a handle to what it drives.
    pub fn new(parts: Parts) -> (Driver, Handle) {
        let (asks, commands) = mpsc::channel(COMMANDS);
        let view = watch::Sender::new(Arc::new(parts.cluster.view()));
        let released = watch::Sender::new(false);
        let now = parts.clock.now();
        let handle =
            Handle { commands: asks, view: view.subscribe(), released: released.subscribe() };
        let driver = Driver {
            parts,
            commands,
            view,
            released,
            heard: BTreeMap::new(),
            record: None,
            gone: BTreeSet::new(),
            disk: None,
            known: Version::default(),
            wanted: BTreeSet::new(),
            ready: false,
            leaving: false,
            stopped: false,
            next_look: 0,
            clock: now,
            elapsed: now,
            networked: true,
        };
        (driver, handle)
    }

    /// Whether it was told to stop, and has said goodbye.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// How long it need not be turned, if nothing comes.
    pub fn wait_ms(&self) -> Millis {
        let now = self.elapsed + self.parts.clock.now().saturating_sub(self.clock);
        self.parts.cluster.deadline(now).min(self.next_look).saturating_sub(now)
    }

    /// One turn over what arrived and what was asked for. An error: the commit failed, what is on
    /// the disk is unknown.
    pub fn turn(&mut self, arrivals: Vec<Arrival>) -> Result<(), BackendError> {
        let clock = self.parts.clock.now();
        self.elapsed += clock.saturating_sub(self.clock);
        self.clock = clock;
        let now = self.elapsed;
        let mut events: Vec<Event> = arrivals.into_iter().map(|each| self.event_of(each)).collect();
        while let Ok(command) = self.commands.try_recv() {
            self.obey(now, command, &mut events);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_MS;
            self.look(&mut events);
        }
        self.stopped |= events.iter().any(|event| matches!(event, Event::Stop));
        let effects = self.parts.cluster.step(now, events);
        self.act(effects)
    }

    fn event_of(&mut self, arrival: Arrival) -> Event {
        match arrival {
            Arrival::Connected { peer, .. } => {
                self.heard.insert(peer, 0);
                Event::Connected(peer)
            }
            Arrival::Disconnected { peer } => {
                self.heard.remove(&peer);
                Event::Disconnected(peer)
            }
            Arrival::Received { peer, frame, .. } => Event::Frame(peer, frame),
            Arrival::Datagram { peer, bytes } => Event::Datagram(peer, bytes),
        }
    }

    fn obey(&mut self, now: Millis, command: Command, events: &mut Vec<Event>) {
        match command {
            Command::Discovered(addresses) => events.push(Event::Discovered(addresses)),
            Command::Leave => {
                self.leaving = true;
                events.push(Event::Leave);
            }
            Command::Stop => events.push(Event::Stop),
            Command::Evict(node, to) => drop(to.send(self.parts.cluster.evict(now, node))),
            Command::Recover(chance, to) => drop(to.send(self.parts.cluster.recover(chance))),
        }
    }

    /// Looks at what others hold ready: any received packet is a sign of life.
    fn look(&mut self, events: &mut Vec<Event>) {
        for (peer, before) in &mut self.heard {
            let received = self.parts.transport.received(*peer).unwrap_or(*before);
            if received != *before {
                *before = received;
                events.push(Event::Heard(*peer));
            }
        }
        let local = &self.parts.local;
        if let Some(record) = local.newer(self.known) {
            self.known = record.version;
            events.push(Event::Recorded(Box::new(record)));
        }
        let caught_up = local.caught_up();
        if !caught_up.is_empty() {
            events.push(Event::CaughtUp(caught_up));
        }
        let endings = local.endings();
        if !endings.is_empty() {
            events.push(Event::Ending(endings));
        }
        let wanted = local.wanted();
        if wanted != self.wanted {
            self.wanted = wanted.clone();
            events.push(Event::Wanted(wanted));
        }
        if !self.ready && !self.leaving && local.is_ready() {
            self.ready = true;
            events.push(Event::Ready);
        }
    }

    /// Commits, then does the rest (R1).
    fn act(&mut self, effects: Effects) -> Result<(), BackendError> {
        let Parts { backend, transport, dialer, .. } = &self.parts;
        if !effects.writes.is_empty() {
            backend.commit(&effects.writes)?;
            backend.flush()?;
        }
        for (to, frame) in effects.frames {
            transport.send(to, Class::Cluster, frame);
        }
        for (to, bytes) in effects.datagrams {
            transport.datagram(to, bytes);
        }
        effects.dial.iter().for_each(|address| dialer.dial(address));
        effects.forget.iter().for_each(|address| dialer.forget(address));
        effects.disconnect.iter().for_each(|node| dialer.disconnect(*node));
        effects.reject.iter().for_each(|(peer, why)| transport.reject(*peer, why));
        if let Some(record) = effects.record {
            self.known = self.known.max(record.version);
            self.record = Some(*record);
        }
        self.gone.extend(effects.gone);
        self.hand_over();
        if effects.changed {
            self.view.send_replace(Arc::new(self.parts.cluster.view()));
        }
        if self.leaving && self.parts.cluster.is_released(self.parts.node) {
            self.released.send_replace(true);
        }
        Ok(())
    }

    /// Tells replication what is for it, as far as there is room.
    fn hand_over(&mut self) {
        let local = &self.parts.local;
        self.record = self.record.take().filter(|record| !local.place(record.clone()));
        self.gone.retain(|node| !local.forget(*node));
        let disk = self.parts.cluster.disk();
        if self.disk != Some(disk) && local.set_disk(disk) {
            self.disk = Some(disk);
        }
    }

    async fn wait(&mut self, arrivals: &mut mpsc::Receiver<Arrival>) -> Vec<Arrival> {
        let wait = self.wait_ms().min(LOOK_MS);
        let mut came = Vec::new();
        let news = self.parts.local.news();
        tokio::select! {
            () = news.notified() => self.next_look = 0,
            count = arrivals.recv_many(&mut came, TURN_ARRIVALS), if self.networked => {
                self.networked = count > 0;
            }
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
        came
    }

    /// Turns on a thread of its own, until it is stopped. `fail` is called if a commit fails: the
    /// process must end.
    pub fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Arrival>,
        runtime: tokio::runtime::Handle,
        fail: impl FnOnce(BackendError) + Send + 'static,
    ) {
        let run = move || {
            // Who dials starts tasks of its own.
            let _entered = runtime.enter();
            while !self.has_stopped() {
                let came = runtime.block_on(self.wait(&mut arrivals));
                if let Err(error) = self.turn(came) {
                    return fail(error);
                }
            }
        };
        std::thread::Builder::new()
            .name("cluster".into())
            .spawn(run)
            .expect("a process that starts can start a thread");
    }
}
