//! How a node starts: on threads of its own, or in its caller's hands.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use atoll_replication::core::{Bounds, Identity};
use atoll_replication::driver::{self, Clock, Parts, Replica, Stepped};
use atoll_replication::transport::{Arrival, NodeId, Transport};
use atoll_sharding::raft::starts::disk_of;
use atoll_store::backend::sled::Sled;
use atoll_store::backend::{Backend, BackendError};
use atoll_store::dot::Origin;
use atoll_store::engine::{Engine, Options, StoreError};
use atoll_store::reader::Reader;

use super::journal::Journal;
use super::{Inner, Node, origin_of};

/// How a node runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, for people.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Where peers reach it.
    pub advertise: String,
    /// The data directory.
    pub data: PathBuf,
    /// Peers named by the configuration.
    pub seeds: usize,
    /// The region has a council: nothing is served but what it has recorded.
    pub council: bool,
    /// How the store is kept.
    pub store: Options,
    /// Bytes of cache of the storage engine.
    pub engine_cache: u64,
    /// Bytes kept free on the disk.
    pub disk_reserve: u64,
    /// Subscriptions at a time.
    pub subscriptions: usize,
}

/// A node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory: see the text.
    #[error("data directory {0}: {1}")]
    Directory(PathBuf, BackendError),
    /// The store in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random bits.
    #[error("no random bits from the system: {0}")]
    Random(getrandom::Error),
}

impl Node {
    /// Opens the data directory and starts the core. Blocks while it recovers.
    ///
    /// `fail` is called if a commit fails: end the process, outcomes are unknown.
    pub fn start(
        settings: Settings,
        id: NodeId,
        transport: Arc<dyn Transport>,
        arrivals: mpsc::Receiver<Arrival>,
        clock: Arc<dyn Clock>,
        fail: impl FnOnce(BackendError) + Send + 'static,
    ) -> Result<Node, StartError> {
        let opened = Sled::open(&settings.data, settings.engine_cache);
        let backend: Arc<dyn Backend> = match opened {
            Ok(sled) => Arc::new(sled),
            Err(error) => return Err(StartError::Directory(settings.data, error)),
        };
        let origin = origin_of(id, getrandom::u64().map_err(StartError::Random)?);
        let around = Around { id, transport, backend, clock, origin };
        let (parts, rest) = around.open(&settings)?;
        let replica = driver::start(parts, arrivals, tokio::runtime::Handle::current(), fail);
        Ok(rest.node(settings, replica, false))
    }

    /// A node in its caller's hands: nothing happens but in calls of [`Stepped`], and what is
    /// asked of the node waits for them. Its futures need no runtime, and tell nobody when to poll
    /// them: poll again after a flush, and when `clock` has moved.
    ///
    /// `settings.data` and `settings.engine_cache` are not used.
    pub fn stepped(
        settings: Settings,
        id: NodeId,
        transport: Arc<dyn Transport>,
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        origin: Origin,
        bounds: Bounds,
    ) -> Result<(Node, Stepped), StartError> {
        let around = Around { id, transport, backend, clock, origin };
        let (parts, rest) = around.open(&settings)?;
        let (stepped, replica) = Stepped::new(parts, bounds);
        Ok((rest.node(settings, replica, true), stepped))
    }
}

/// What a node stands on.
struct Around {
    id: NodeId,
    transport: Arc<dyn Transport>,
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    origin: Origin,
}

/// What the facade keeps of an opened store.
struct Kept {
    id: NodeId,
    origin: Origin,
    reader: Reader,
    backend: Arc<dyn Backend>,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
}

impl Around {
    /// Opens the store: what the driver runs with, and what the facade keeps.
    fn open(self, settings: &Settings) -> Result<(Parts, Kept), StartError> {
        let Around { id, transport, backend, clock, origin } = self;
        let engine = Engine::open(backend.clone(), settings.store, origin)?;
        let reader = Reader::new(backend.clone(), settings.store.slots);
        let journal = Arc::new(Journal::new(
            engine.journal_end() - 1,
            settings.store.slots,
            !settings.council,
        ));
        let parts = Parts {
            identity: Identity {
                node: id,
                name: settings.name.clone(),
                region: settings.region.clone(),
                zone: settings.zone.clone(),
                address: settings.advertise.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                origin,
                seeds: settings.seeds,
                council: settings.council,
                disk: disk_of(&*backend).map_err(StoreError::from)?,
            },
            engine,
            reader: reader.clone(),
            transport,
            clock: clock.clone(),
            observer: journal.clone(),
            reserve: settings.disk_reserve,
        };
        Ok((parts, Kept { id, origin, reader, backend, journal, clock }))
    }
}

impl Kept {
    fn node(self, settings: Settings, replica: Replica, stepped: bool) -> Node {
        let Kept { id, origin, reader, backend, journal, clock } = self;
        let id = id.to_string();
        let (cluster, retiring) = (OnceLock::new(), AtomicBool::new(false));
        let inner = Inner {
            settings,
            id,
            origin,
            replica,
            reader,
            backend,
            journal,
            clock,
            cluster,
            retiring,
            stepped,
        };
        Node(Arc::new(inner))
    }
}
