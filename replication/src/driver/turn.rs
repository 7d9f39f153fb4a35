//! One turn: what waits becomes events, one step of the core, and what to release with its commit.
//!
//! Invariants:
//! 1. Events of a step: the disk's free space if it is due, requests, arrivals, each in the order
//!    in which they came.
//! 2. A request is answered by the release of a step, or, when the node stops, its asker is told
//!    that the outcome is unknown.
//!
//! Left out: who waits, and who commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use atoll_store::backend::Backend;
use atoll_store::command::Change;
use atoll_store::committer::Batch;
use atoll_store::dot::Millis;
use atoll_store::engine::{Engine, Quarantined};
use atoll_store::entity::Image;
use atoll_store::name::EntityKey;

use super::Clock;
use super::release::{Released, Responder};
use crate::core::{Bounds, Core, Event, Identity, ShardStatus, Ticket, Written};
use crate::level::{Demand, Unmet};
use crate::transport::{Arrival, Class, Transport};

/// Between looks at the disk's free space.
const SPACE_EVERY_MS: Millis = 500;

/// What a handle asks.
pub(super) enum Request {
    Write(Vec<Change>, Demand, oneshot::Sender<Vec<Result<Written, Unmet>>>),
    Read(EntityKey, Demand, oneshot::Sender<Result<Arc<Image>, Unmet>>),
    Load(EntityKey, oneshot::Sender<Result<Arc<Image>, Quarantined>>),
    Digests(oneshot::Sender<Vec<ShardStatus>>),
    /// What the cluster decided: answered by nothing but its effects.
    Told(Event),
    Stop(oneshot::Sender<()>),
}

/// A core and what waits for it.
pub(super) struct Turn {
    pub(super) core: Core,
    pub(super) queue: mpsc::Receiver<Request>,
    backend: Arc<dyn Backend>,
    transport: Arc<dyn Transport>,
    reserve: u64,
    clock: Arc<dyn Clock>,
    pending: BTreeMap<Ticket, Responder>,
    next_ticket: Ticket,
    next_space: Millis,
    commits: u64,
    turned: Arc<AtomicU64>,
    /// Who is told when the last step is durable.
    stopped: Vec<oneshot::Sender<()>>,
    has_stopped: bool,
}

impl Turn {
    pub(super) fn new(
        identity: Identity,
        engine: Engine,
        bounds: Bounds,
        transport: Arc<dyn Transport>,
        reserve: u64,
        clock: Arc<dyn Clock>,
        (queue, turned): (mpsc::Receiver<Request>, Arc<AtomicU64>),
    ) -> Turn {
        let backend = engine.backend();
        let now = clock.now();
        Turn {
            core: Core::new(identity, engine, now).bounded(bounds),
            queue,
            backend,
            transport,
            reserve,
            clock,
            pending: BTreeMap::new(),
            next_ticket: 0,
            next_space: 0,
            commits: 0,
            turned,
            stopped: Vec::new(),
            has_stopped: false,
        }
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// How long the core has nothing to do by itself.
    pub(super) fn wait_ms(&self) -> Millis {
        // A clock that was set back since the last step must not hold the core up.
        self.core.deadline().saturating_sub(self.clock.now())
    }

    /// Whether it was told to stop, and has made its last step.
    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped
    }

    /// The step that commits the store's own start.
    pub(super) fn first(&mut self) -> (Batch, Released) {
        self.take(Vec::new())
    }

    /// One step over what came.
    pub(super) fn step(
        &mut self,
        requests: Vec<Request>,
        arrivals: Vec<Arrival>,
    ) -> (Batch, Released) {
        let mut events = Vec::with_capacity(requests.len() + arrivals.len() + 1);
        self.look_at_space(&mut events);
        for request in requests {
            self.accept(request, &mut events);
        }
        events.extend(arrivals.into_iter().filter_map(event_of));
        self.take(events)
    }

    fn accept(&mut self, request: Request, events: &mut Vec<Event>) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let (event, responder) = match request {
            Request::Write(changes, demand, to) => {
                (Event::Write(ticket, changes, demand), Responder::Write(to))
            }
            Request::Read(key, demand, to) => {
                (Event::Read(ticket, key, demand), Responder::Read(to))
            }
            Request::Load(key, to) => (Event::Load(ticket, key), Responder::Load(to)),
            Request::Digests(to) => (Event::Digests(ticket), Responder::Digests(to)),
            Request::Told(event) => return events.push(event),
            Request::Stop(to) => {
                self.stopped.push(to);
                self.has_stopped = true;
                return events.push(Event::Stop);
            }
        };
        events.push(event);
        self.pending.insert(ticket, responder);
    }

    /// One step of the core: what to commit, and what to release once that is durable.
    fn take(&mut self, events: Vec<Event>) -> (Batch, Released) {
        let now = self.clock.now();
        self.turned.store(now, Ordering::Relaxed);
        let mut effects = self.core.step(now, events);
        self.commits += 1;
        let batch = std::mem::take(&mut effects.staged.batch);
        let pending = &mut self.pending;
        let replies = effects.replies.into_iter();
        let mut released = Released {
            commit: self.commits,
            staged: effects.staged,
            loaded: effects.loaded,
            sends: effects.sends,
            replies: replies.filter_map(|(t, reply)| Some((pending.remove(&t)?, reply))).collect(),
            rejects: effects.rejects,
            caught_up: effects.caught_up,
            endings: effects.endings,
            status: effects.status,
            stopped: std::mem::take(&mut self.stopped),
        };
        released.leave_early(&*self.transport);
        (batch, released)
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

/// What an arrival is to the core; `None`: not for it.
fn event_of(arrival: Arrival) -> Option<Event> {
    Some(match arrival {
        Arrival::Received { class: Class::Cluster, .. } | Arrival::Datagram { .. } => return None,
        Arrival::Connected { peer, .. } => Event::Connected(peer),
        Arrival::Disconnected { peer } => Event::Disconnected(peer),
        Arrival::Received { peer, frame, .. } => Event::Received(peer, frame),
    })
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
