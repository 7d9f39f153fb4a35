//! The loop around a core: one thread steps, one commits, and what was committed is released.
//!
//! Invariants:
//! 1. (R1) What a step sends, shows and answers leaves the committer's thread, after the commit
//!    that holds the step, in the order of steps.
//! 2. Every queue here has a bound: requests are refused above it, peers' frames are held back.
//!
//! Left out: what the core decides, and what the surfaces do with changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use atoll_store::backend::{Backend, BackendError};
use atoll_store::command::{Change, Refusal};
use atoll_store::committer::Committer;
use atoll_store::dot::Millis;
use atoll_store::engine::{Changed, Engine, Quarantined, Staged};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;
use atoll_store::reader::Reader;

use crate::core::{Core, Effects, Event, Identity, Reply, ShardStatus, Status, Ticket, Written};
use crate::transport::{Arrival, Class, NodeId, Transport};

/// Requests waiting for the core. Above it a client is told to come back: 503.
const REQUESTS: usize = 8_192;
/// Events taken into one step.
const STEP_EVENTS: usize = 1_024;
/// The longest wait for something to do.
const WAIT_MS: Millis = 1_000;
/// Between looks at the disk's free space.
const SPACE_EVERY_MS: Millis = 500;

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

/// Who is told of what became durable. Called on the committer's thread: be quick.
pub trait Observer: Send + Sync {
    /// Changes, in the order of the journal.
    fn committed(&self, changes: &[Changed]);
    /// The node's view of the cluster.
    fn status(&self, status: Status);
}

enum Request {
    Write(Vec<Change>, oneshot::Sender<Vec<Result<Written, Refusal>>>),
    Load(EntityKey, oneshot::Sender<Result<Arc<Image>, Quarantined>>),
    Digests(oneshot::Sender<Vec<ShardStatus>>),
    Stop(oneshot::Sender<()>),
}

enum Responder {
    Write(oneshot::Sender<Vec<Result<Written, Refusal>>>),
    Load(oneshot::Sender<Result<Arc<Image>, Quarantined>>),
    Digests(oneshot::Sender<Vec<ShardStatus>>),
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
    /// Applies changes as one group commit.
    pub async fn write(
        &self,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<Written, Refusal>>, Unanswered> {
        self.ask(|answer| Request::Write(changes, answer)).await
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
    /// What comes from the network.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
    /// Bytes kept free on the disk.
    pub reserve: u64,
}

/// Starts the threads of a core. `fail` is called if a commit fails: the process must end.
pub fn start(
    parts: Parts,
    runtime: tokio::runtime::Handle,
    fail: impl FnOnce(BackendError) + Send + 'static,
) -> Replica {
    let (requests, queue) = mpsc::channel(REQUESTS);
    let turned = Arc::new(AtomicU64::new(parts.clock.now()));
    let replica = Replica { requests, turned: turned.clone() };
    for (key, image) in parts.engine.images() {
        parts.reader.publish(&Changed { position: 0, key, image, origin: None });
    }
    let release = Release {
        reader: parts.reader,
        transport: parts.transport,
        observer: parts.observer,
        durable: parts.engine.durable(),
    };
    let backend = parts.engine.backend();
    let committer = Committer::start(backend.clone(), move |done| release.run(done), fail);
    let now = parts.clock.now();
    let driver = Driver {
        core: Core::new(parts.identity, parts.engine, now),
        backend,
        reserve: parts.reserve,
        clock: parts.clock,
        committer,
        queue,
        arrivals: parts.arrivals,
        pending: BTreeMap::new(),
        next_ticket: 0,
        next_space: 0,
        commits: 0,
        turned,
        networked: true,
    };
    std::thread::Builder::new()
        .name("core".into())
        .spawn(move || driver.run(&runtime))
        .expect("a process that starts can start a thread");
    replica
}

struct Driver {
    core: Core,
    backend: Arc<dyn Backend>,
    reserve: u64,
    clock: Arc<dyn Clock>,
    committer: Committer<Released>,
    queue: mpsc::Receiver<Request>,
    arrivals: mpsc::Receiver<Arrival>,
    pending: BTreeMap<Ticket, Responder>,
    next_ticket: Ticket,
    next_space: Millis,
    commits: u64,
    turned: Arc<AtomicU64>,
    /// Whether the network is still there.
    networked: bool,
}

/// What is released when a step is durable.
struct Released {
    commit: u64,
    staged: Staged,
    loaded: Vec<(EntityKey, Arc<Image>)>,
    sends: Vec<(NodeId, Class, Bytes)>,
    replies: Vec<(Responder, Reply)>,
    rejects: Vec<(NodeId, &'static str)>,
    status: Option<Status>,
    stopped: Option<oneshot::Sender<()>>,
}

impl Driver {
    fn run(mut self, runtime: &tokio::runtime::Handle) {
        let mut stopped = None;
        // The store's own start is committed first.
        self.turn(Vec::new(), &mut stopped);
        while stopped.is_none() {
            let (requests, arrivals) = runtime.block_on(self.wait());
            let mut events = Vec::with_capacity(requests.len() + arrivals.len() + 1);
            self.look_at_space(&mut events);
            for request in requests {
                self.accept(request, &mut events, &mut stopped);
            }
            events.extend(arrivals.into_iter().map(event_of));
            if !self.turn(events, &mut stopped) {
                return;
            }
        }
    }

    /// Waits for something to do: requests, frames, or the core's deadline.
    async fn wait(&mut self) -> (Vec<Request>, Vec<Arrival>) {
        // A clock that was set back since the last step must not hold the core up.
        let wait = self.core.deadline().saturating_sub(self.clock.now()).min(WAIT_MS);
        let (mut requests, mut arrivals) = (Vec::new(), Vec::new());
        tokio::select! {
            _ = self.queue.recv_many(&mut requests, STEP_EVENTS) => {}
            count = self.arrivals.recv_many(&mut arrivals, STEP_EVENTS), if self.networked => {
                self.networked = count > 0;
            }
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
        (requests, arrivals)
    }

    fn accept(
        &mut self,
        request: Request,
        events: &mut Vec<Event>,
        stopped: &mut Option<oneshot::Sender<()>>,
    ) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let (event, responder) = match request {
            Request::Write(changes, to) => (Event::Write(ticket, changes), Responder::Write(to)),
            Request::Load(key, to) => (Event::Load(ticket, key), Responder::Load(to)),
            Request::Digests(to) => (Event::Digests(ticket), Responder::Digests(to)),
            Request::Stop(to) => {
                *stopped = Some(to);
                return events.push(Event::Stop);
            }
        };
        events.push(event);
        self.pending.insert(ticket, responder);
    }

    /// One step, handed to the committer; `false` when that has failed.
    fn turn(&mut self, events: Vec<Event>, stopped: &mut Option<oneshot::Sender<()>>) -> bool {
        let now = self.clock.now();
        self.turned.store(now, Ordering::Relaxed);
        let mut effects: Effects = self.core.step(now, events);
        self.commits += 1;
        let batch = std::mem::take(&mut effects.staged.batch);
        let pending = &mut self.pending;
        let replies = effects.replies.into_iter();
        let released = Released {
            commit: self.commits,
            staged: effects.staged,
            loaded: effects.loaded,
            sends: effects.sends,
            replies: replies.filter_map(|(t, reply)| Some((pending.remove(&t)?, reply))).collect(),
            rejects: effects.rejects,
            status: effects.status,
            stopped: None,
        };
        let ok = self.committer.submit(batch, released).is_ok();
        if let Some(stopped) = stopped.take() {
            return self.finish(stopped);
        }
        ok
    }

    /// The last step's release tells that everything is durable.
    fn finish(&mut self, stopped: oneshot::Sender<()>) -> bool {
        let last = Released {
            commit: self.commits,
            staged: Staged::default(),
            loaded: Vec::new(),
            sends: Vec::new(),
            replies: Vec::new(),
            rejects: Vec::new(),
            status: None,
            stopped: Some(stopped),
        };
        let _ = self.committer.submit(Default::default(), last);
        false
    }

    fn look_at_space(&mut self, events: &mut Vec<Event>) {
        let now = self.clock.now();
        if is_due(now, self.next_space) {
            self.next_space = now + SPACE_EVERY_MS;
            if let Ok(Some(free)) = self.backend.free_space() {
                events.push(Event::Space { free, reserve: self.reserve });
            }
        }
    }
}

/// Whether the disk is to be looked at: also after the clock was set back behind the last look.
fn is_due(now: Millis, next: Millis) -> bool {
    now >= next || next - now > SPACE_EVERY_MS
}

fn event_of(arrival: Arrival) -> Event {
    match arrival {
        Arrival::Connected { peer, .. } => Event::Connected(peer),
        Arrival::Disconnected { peer } => Event::Disconnected(peer),
        Arrival::Received { peer, frame, .. } => Event::Received(peer, frame),
    }
}

struct Release {
    reader: Reader,
    transport: Arc<dyn Transport>,
    observer: Arc<dyn Observer>,
    durable: Arc<AtomicU64>,
}

impl Release {
    fn run(&self, done: Vec<Released>) {
        for step in done {
            self.durable.store(step.commit, Ordering::Release);
            // A load may be older than a change of the same step: the change is shown last.
            for (key, image) in step.loaded {
                self.reader.publish(&Changed { position: 0, key, image, origin: None });
            }
            self.reader.release(&step.staged);
            for (to, class, frame) in step.sends {
                self.transport.send(to, class, frame);
            }
            for (peer, why) in step.rejects {
                self.transport.reject(peer, why);
            }
            if !step.staged.changes.is_empty() {
                self.observer.committed(&step.staged.changes);
            }
            for (responder, reply) in step.replies {
                respond(responder, reply);
            }
            if let Some(status) = step.status {
                self.observer.status(status);
            }
            if let Some(stopped) = step.stopped {
                let _ = stopped.send(());
            }
        }
    }
}

/// A client that went away needs no answer.
fn respond(responder: Responder, reply: Reply) {
    match (responder, reply) {
        (Responder::Write(to), Reply::Written(written)) => drop(to.send(written)),
        (Responder::Load(to), Reply::Loaded(image)) => drop(to.send(image)),
        (Responder::Digests(to), Reply::Digests(digests)) => drop(to.send(digests)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_does_not_hide_a_full_disk() {
        assert!(is_due(10_000, 10_000) && is_due(1_000, 10_000));
        assert!(!is_due(9_999, 10_000));
    }
}
