//! A real core around a store in memory: each step is committed before anything of it leaves (R1).
//!
//! Left out: threads. A commit to memory takes no time, so a step and its commit are one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use atoll_replication::core::{Core, Effects, Event, Identity};
use atoll_store::backend::memory::Memory;
use atoll_store::backend::{Backend, Write};
use atoll_store::committer::pack;
use atoll_store::dot::Millis;
use atoll_store::engine::{Engine, Options};

/// A core and its store.
pub(super) struct Replica {
    core: Core,
    backend: Arc<dyn Backend>,
    durable: Arc<AtomicU64>,
    steps: u64,
}

impl Replica {
    /// A replica on an empty disk.
    pub(super) fn start(identity: Identity, now: Millis) -> Result<Replica> {
        let backend: Arc<dyn Backend> = Arc::new(Memory::new());
        let engine = Engine::open(backend.clone(), Options::default(), identity.origin)
            .context("opening an empty store in memory")?;
        let durable = engine.durable();
        Ok(Replica { core: Core::new(identity, engine, now), backend, durable, steps: 0 })
    }

    /// When the next step is due, whatever happens.
    pub(super) fn deadline(&self) -> Millis {
        self.core.deadline()
    }

    /// One step. What it answers and sends is durable.
    pub(super) fn step(&mut self, now: Millis, events: Vec<Event>) -> Result<Effects> {
        let mut effects = self.core.step(now, events);
        self.steps += 1;
        let batch = std::mem::take(&mut effects.staged.batch);
        let log = pack(std::slice::from_ref(&batch));
        let writes: Vec<Write> = batch.writes.into_iter().chain(log).collect();
        if !writes.is_empty() {
            self.backend.commit(&writes).context("committing a step")?;
            self.backend.flush().context("committing a step")?;
        }
        self.durable.store(self.steps, Ordering::Release);
        Ok(effects)
    }
}
