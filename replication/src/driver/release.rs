//! What leaves a node once its commit is durable (R1).
//!
//! Invariants:
//! 1. Steps are released in order; of one step, readers see it before peers, observers and askers
//!    hear of it.
//! 2. Whoever was told of a step finds it when reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use atoll_store::engine::{Changed, Quarantined, Staged};
use atoll_store::entity::Image;
use atoll_store::mutant::Mutant;
use atoll_store::name::EntityKey;
use atoll_store::reader::Reader;

use super::Observer;
use crate::core::{Reply, ShardStatus, Status, Written};
use crate::level::Unmet;
use crate::placement::Ending;
use crate::transport::{Class, NodeId, Transport};

/// Who waits for an answer.
pub(super) enum Responder {
    Write(oneshot::Sender<Vec<Result<Written, Unmet>>>),
    Read(oneshot::Sender<Result<Arc<Image>, Unmet>>),
    Load(oneshot::Sender<Result<Arc<Image>, Quarantined>>),
    Digests(oneshot::Sender<Vec<ShardStatus>>),
}

/// What is released when a step is durable.
pub(super) struct Released {
    pub(super) commit: u64,
    pub(super) staged: Staged,
    pub(super) loaded: Vec<(EntityKey, Arc<Image>)>,
    pub(super) sends: Vec<(NodeId, Class, Bytes)>,
    pub(super) replies: Vec<(Responder, Reply)>,
    pub(super) rejects: Vec<(NodeId, &'static str)>,
    pub(super) caught_up: Vec<(u16, u64)>,
    pub(super) endings: Vec<Ending>,
    pub(super) status: Option<Status>,
    pub(super) stopped: Vec<oneshot::Sender<()>>,
}

impl Released {
    /// Lets go what must wait for the commit: deliberate bugs, and nothing without them (R1).
    pub(super) fn leave_early(&mut self, transport: &dyn Transport) {
        if Mutant::ShipEarly.is_on() {
            for (to, class, frame) in self.sends.drain(..) {
                transport.send(to, class, frame);
            }
        }
        if Mutant::AnswerEarly.is_on() {
            self.replies.drain(..).for_each(|(responder, reply)| respond(responder, reply));
        }
    }
}

/// Where it goes.
pub(super) struct Release {
    pub(super) reader: Reader,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) durable: Arc<AtomicU64>,
}

impl Release {
    pub(super) fn run(&self, done: Vec<Released>) {
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
            if !step.caught_up.is_empty() {
                self.observer.caught_up(&step.caught_up);
            }
            if !step.endings.is_empty() {
                self.observer.endings(step.endings);
            }
            if let Some(status) = step.status {
                self.observer.status(status);
            }
            for stopped in step.stopped {
                let _ = stopped.send(());
            }
        }
    }
}

/// A client that went away needs no answer.
fn respond(responder: Responder, reply: Reply) {
    match (responder, reply) {
        (Responder::Write(to), Reply::Written(written)) => drop(to.send(written)),
        (Responder::Read(to), Reply::Read(image)) => drop(to.send(image)),
        (Responder::Load(to), Reply::Loaded(image)) => drop(to.send(image)),
        (Responder::Digests(to), Reply::Digests(digests)) => drop(to.send(digests)),
        _ => {}
    }
}
