//! The loop around a core: it is told what came, and what it decided is committed, then released.
//!
//! ```text
//! start     one thread turns, one commits and releases: real nodes
//! Stepped   the caller turns, commits and flushes: a simulator
//! ```
//!
//! Invariants:
//! 1. (R1) What a step sends, shows and answers is released after the commit that holds the step,
//!    in the order of steps.
//! 2. Every queue here has a bound: requests are refused above it, peers' frames are held back.
//! 3. Both ways turn and release by the same code.
//!
//! Left out: what the core decides, and what the surfaces do with changes.

mod load;
mod release;
mod stepped;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use atoll_store::backend::BackendError;
use atoll_store::command::Change;
use atoll_store::committer::Committer;
use atoll_store::dot::Millis;
use atoll_store::engine::{Changed, Engine, Quarantined};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::reader::Reader;

use crate::core::{Bounds, Event, Identity, ShardStatus, Status, Written};
use crate::level::{Demand, Unmet};
use crate::placement::{Ending, RegionPlacement};
use crate::transport::{Arrival, NodeId, Transport};
use load::Load;
use release::{Release, Released};
pub use stepped::{Stepped, Turned};
use turn::{Request, Turn};

/// Requests waiting for the core. Above it a client is told to come back: 503.
const REQUESTS: usize = 8_192;
/// Events taken into one step.
const STEP_EVENTS: usize = 1_024;
/// The longest wait for something to do.
const WAIT_MS: Millis = 1_000;

/// Physical time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> Millis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as Millis)
    }
}

/// Who is told of what became durable. Called by whoever releases: be quick.
pub trait Observer: Send + Sync {
    /// Changes, in the order of the journal.
    fn committed(&self, changes: &[Changed]);
    /// Hash slots that this node has caught up with, with the epoch of each one's set; told again
    /// until a record answers it.
    fn caught_up(&self, slots: &[(u16, u64)]);
    /// What this node asks its council to record of origins that ended; told again until a record
    /// answers it.
    fn endings(&self, endings: Vec<Ending>);
    /// The node's view of the cluster.
    fn status(&self, status: Status);
}

/// Why a request was not taken, or not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Too many wait: come back.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The node is stopping; nothing was done.
    #[error("the node is stopping")]
    Stopping,
    /// The node stopped meanwhile; whether it was done is unknown.
    #[error("the node stopped before it answered")]
    Unknown,
}

/// A handle to a running core. A cheap clone.
#[derive(Clone)]
pub struct Replica {
    requests: mpsc::Sender<Request>,
    turned: Arc<AtomicU64>,
}

impl Replica {
    /// Applies changes as one group commit; each is answered once its level is met.
    pub async fn write(
        &self,
        changes: Vec<Change>,
        demand: Demand,
    ) -> Result<Vec<Result<Written, Unmet>>, Unanswered> {
        self.ask(|answer| Request::Write(changes, demand, answer)).await
    }

    /// Reads an entity from as many replicas as its level asks for; it is hot afterwards.
    pub async fn read(
        &self,
        key: EntityKey,
        demand: Demand,
    ) -> Result<Result<Arc<Image>, Unmet>, Unanswered> {
        self.ask(|answer| Request::Read(key, demand, answer)).await
    }

    /// Reads an entity, from disk if need be; it is hot afterwards.
    pub async fn load(
        &self,
        key: EntityKey,
    ) -> Result<Result<Arc<Image>, Quarantined>, Unanswered> {
        self.ask(|answer| Request::Load(key, answer)).await
    }

    /// The digests of all shards.
    pub async fn digests(&self) -> Result<Vec<ShardStatus>, Unanswered> {
        self.ask(Request::Digests).await
    }

    /// Writes checkpoints and ends the loop; returns when all is durable.
    pub async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        if self.requests.send(Request::Stop(answer)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Tells the core what a region's council recorded. `false`: too much waits, tell it again.
    pub fn place(&self, record: RegionPlacement) -> bool {
        self.requests.try_send(Request::Told(Event::Placed(Box::new(record)))).is_ok()
    }

    /// Tells the core which disk the council knows it by. `false`: too much waits, tell it again.
    pub fn set_disk(&self, disk: u64) -> bool {
        self.requests.try_send(Request::Told(Event::Disk(disk))).is_ok()
    }

    /// Tells the core that a node is gone for good. `false`: too much waits, tell it again.
    pub fn forget(&self, node: NodeId) -> bool {
        self.requests.try_send(Request::Told(Event::Forgotten(node))).is_ok()
    }

    /// When the loop last turned, by the driver's clock.
    pub fn turned(&self) -> Millis {
        self.turned.load(Ordering::Relaxed)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(request(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unanswered::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unanswered::Stopping,
        })?;
        answered.await.map_err(|_| Unanswered::Unknown)
    }
}

/// What a driver runs with.
pub struct Parts {
    /// Who this node is.
    pub identity: Identity,
    /// The store, opened for this start.
    pub engine: Engine,
    /// Its readers.
    pub reader: Reader,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
    /// Bytes kept free on the disk.
    pub reserve: u64,
}

impl Parts {
    /// A core that has not turned yet, what releases its steps, and a handle to it. Readers see
    /// what the store held.
    fn assemble(self, bounds: Bounds) -> (Turn, Release, Replica) {
        let (requests, queue) = mpsc::channel(REQUESTS);
        let turned = Arc::new(AtomicU64::new(self.clock.now()));
        let replica = Replica { requests, turned: turned.clone() };
        for (key, image) in self.engine.images() {
            self.reader.publish(&Changed { position: 0, key, image, origin: None });
        }
        let release = Release {
            reader: self.reader,
            transport: self.transport.clone(),
            observer: self.observer,
            durable: self.engine.durable(),
        };
        let asked = (queue, turned);
        let turn = Turn::new(
            self.identity,
            self.engine,
            bounds,
            self.transport,
            self.reserve,
            self.clock,
            asked,
        );
        (turn, release, replica)
    }
}

/// Starts the threads of a core. `fail` is called if a commit fails: the process must end.
pub fn start(
    parts: Parts,
    arrivals: mpsc::Receiver<Arrival>,
    runtime: tokio::runtime::Handle,
    fail: impl FnOnce(BackendError) + Send + 'static,
) -> Replica {
    let backend = parts.engine.backend();
    let (turn, release, replica) = parts.assemble(Bounds::default());
    let committer = Committer::start(backend, move |done| release.run(done), fail);
    let driver = Driver { turn, committer, arrivals, networked: true, load: Load::new() };
    std::thread::Builder::new()
        .name("core".into())
        .spawn(move || driver.run(&runtime))
        .expect("a process that starts can start a thread");
    replica
}

/// The thread that turns.
struct Driver {
    turn: Turn,
    committer: Committer<Released>,
    arrivals: mpsc::Receiver<Arrival>,
    /// Whether the network is still there.
    networked: bool,
    load: Load,
}

impl Driver {
    fn run(mut self, runtime: &tokio::runtime::Handle) {
        // The store's own start is committed first.
        let (batch, released) = self.turn.first();
        let mut ok = self.committer.submit(batch, released).is_ok();
        while ok && !self.turn.has_stopped() {
            let (requests, arrivals) = runtime.block_on(self.wait());
            self.load.wake();
            let (batch, released) = self.turn.step(requests, arrivals);
            ok = self.committer.submit(batch, released).is_ok();
            self.load.rest();
        }
    }

    /// Waits for something to do: requests, frames, or the core's deadline.
    async fn wait(&mut self) -> (Vec<Request>, Vec<Arrival>) {
        let wait = self.turn.wait_ms().min(WAIT_MS);
        let (mut requests, mut arrivals) = (Vec::new(), Vec::new());
        tokio::select! {
            _ = self.turn.queue.recv_many(&mut requests, STEP_EVENTS) => {}
            count = self.arrivals.recv_many(&mut arrivals, STEP_EVENTS), if self.networked => {
                self.networked = count > 0;
            }
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
        (requests, arrivals)
    }
}
