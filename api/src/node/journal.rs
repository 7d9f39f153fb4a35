//! The journal in memory: recent durable changes, and who waits for which.
//!
//! Invariants:
//! 1. Entries are durable and in the order of positions; several may share one.
//! 2. It keeps no state alive: a state that was followed by another is read as that one.
//! 3. A subscriber is woken after the entry is there: what it then reads includes it.
//!
//! Left out: older entries, which the log on disk holds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use tokio::sync::{Notify, watch};

use atoll_replication::core::Status;
use atoll_replication::driver::Observer;
use atoll_replication::placement::{Ending, Stage};
use atoll_store::dot::{Hlc, Origin};
use atoll_store::engine::Changed;
use atoll_store::entity::Image;
use atoll_store::name::{Collection, EntityKey, Kind};

use super::meters;

/// Changes kept in memory. Default 65,536: some seconds of a busy node; older ones are on disk.
const RING: usize = 65_536;

/// One durable change.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) position: u64,
    pub(super) key: EntityKey,
    /// The state that it left, while that is the current one.
    pub(super) image: Weak<Image>,
    pub(super) origin: Option<Origin>,
}

/// What wakes a subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Entity(EntityKey),
    Collection(Kind, Collection),
    All,
}

/// Everything after a position, as far as memory holds it.
pub(super) enum Tail {
    /// Up to `limit` entries.
    Entries(Vec<Entry>),
    /// Memory starts later: read the log on disk.
    Older,
}

/// The closed clocks at a journal position.
#[derive(Clone, Debug, Default)]
pub(super) struct Closed {
    pub(super) position: u64,
    pub(super) clocks: Arc<BTreeMap<Origin, Hlc>>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// Every change after this position is in memory.
    floor: u64,
    end: u64,
}

/// The journal of a running node.
pub(super) struct Journal {
    ring: Mutex<Ring>,
    topics: Mutex<HashMap<Topic, Vec<Weak<Notify>>>>,
    listening: AtomicUsize,
    woken: AtomicU64,
    status: watch::Sender<Option<Arc<Status>>>,
    closed: RwLock<Closed>,
    caught_up: Mutex<Vec<(u16, u64)>>,
    /// The newest that was asked for of each origin at each stage.
    endings: Mutex<BTreeMap<(Origin, Stage), Ending>>,
    /// Notified when the cluster's core has something to learn.
    news: Arc<Notify>,
    /// By slot: whether the record counts this node as a replica.
    served: Box<[AtomicBool]>,
    draining: AtomicBool,
    drained: watch::Sender<bool>,
}

/// A lock is held for a few lookups; a panic under it would be a bug of this file.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under this lock")
}

impl Journal {
    /// A journal that goes on after `end`; whether all slots are served until the core says.
    pub(super) fn new(end: u64, slots: u16, served: bool) -> Journal {
        let ring = Ring { entries: VecDeque::new(), floor: end, end };
        Journal {
            ring: Mutex::new(ring),
            topics: Mutex::default(),
            listening: AtomicUsize::new(0),
            woken: AtomicU64::new(0),
            status: watch::Sender::default(),
            closed: RwLock::default(),
            caught_up: Mutex::default(),
            endings: Mutex::default(),
            news: Arc::default(),
            served: (0..slots).map(|_| AtomicBool::new(served)).collect(),
            draining: AtomicBool::new(false),
            drained: watch::Sender::new(false),
        }
    }

    /// Whether the record counts this node as a replica of a slot, and its copy is whole.
    pub(super) fn serves(&self, slot: u16) -> bool {
        self.served.get(usize::from(slot)).is_some_and(|served| served.load(Ordering::Acquire))
    }

    /// Takes over what the record says; wakes every subscriber if something is lost.
    fn serve(&self, status: &Status) {
        let mut lost = false;
        for (slot, served) in self.served.iter().enumerate() {
            let set = status.placement.replicas(&status.me.region, slot as u16);
            let whole = !status.unserved.contains(&(slot as u16));
            let now = whole && set.is_none_or(|set| set.counts(status.me.node));
            lost |= served.swap(now, Ordering::AcqRel) && !now;
        }
        if lost {
            self.wake_all();
        }
    }

    /// Notified when the cluster's core has something to learn.
    pub(super) fn news(&self) -> Arc<Notify> {
        self.news.clone()
    }

    /// Slots that this node has caught up with, as last told by its core.
    pub(super) fn caught_up(&self) -> Vec<(u16, u64)> {
        std::mem::take(&mut lock(&self.caught_up))
    }

    /// What is to be recorded of origins that ended, as last told by its core.
    pub(super) fn endings(&self) -> Vec<Ending> {
        std::mem::take(&mut *lock(&self.endings)).into_values().collect()
    }

    /// The position of the last durable change.
    pub(super) fn end(&self) -> u64 {
        lock(&self.ring).end
    }

    /// Up to `limit` changes after `position` that `wanted` takes, and the position reached.
    pub(super) fn after(
        &self,
        position: u64,
        limit: usize,
        wanted: impl Fn(&EntityKey) -> bool,
    ) -> (Tail, u64) {
        let ring = lock(&self.ring);
        if position < ring.floor {
            return (Tail::Older, position);
        }
        let from = ring.entries.partition_point(|entry| entry.position <= position);
        let mut found: Vec<Entry> = Vec::new();
        for entry in ring.entries.range(from..) {
            // Entries of one position stay together.
            if found.len() >= limit && found.last().is_some_and(|l| l.position < entry.position) {
                return (Tail::Entries(found), entry.position - 1);
            }
            if wanted(&entry.key) {
                found.push(entry.clone());
            }
        }
        (Tail::Entries(found), ring.end)
    }

    /// Whoever waits for a change up to this position has been woken.
    pub(super) fn woken(&self) -> u64 {
        self.woken.load(Ordering::Acquire)
    }

    /// Registers a subscriber; it is forgotten when the handle is dropped.
    pub(super) fn listen(&self, topics: &[Topic]) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        let mut map = lock(&self.topics);
        for topic in topics {
            let listeners = map.entry(topic.clone()).or_default();
            listeners.retain(|listener| listener.strong_count() > 0);
            listeners.push(Arc::downgrade(&notify));
        }
        self.listening.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("atoll_subscriptions").increment(1.0);
        notify
    }

    /// A subscriber is gone.
    pub(super) fn unlisten(&self, topics: &[Topic]) {
        self.listening.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("atoll_subscriptions").decrement(1.0);
        let mut map = lock(&self.topics);
        for topic in topics {
            let Some(listeners) = map.get_mut(topic) else { continue };
            listeners.retain(|listener| listener.strong_count() > 0);
            if listeners.is_empty() {
                map.remove(topic);
            }
        }
    }

    /// How many subscribe.
    pub(super) fn listening(&self) -> usize {
        self.listening.load(Ordering::Relaxed)
    }

    /// Every stream ends with `draining`.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drained.send_replace(true);
        self.wake_all();
    }

    /// Waits until it drains.
    pub(super) async fn drained(&self) {
        // The sender is a field of `self`: it outlives the wait.
        let _ = self.drained.subscribe().wait_for(|drained| *drained).await;
    }

    fn wake_all(&self) {
        for listeners in lock(&self.topics).values() {
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener.notify_one());
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The last view of the cluster.
    pub(super) fn cluster(&self) -> Option<Arc<Status>> {
        self.status.borrow().clone()
    }

    /// The view of the cluster, waited for by those who come while the node starts.
    pub(super) async fn started(&self) -> Option<Arc<Status>> {
        let mut status = self.status.subscribe();
        let known = status.wait_for(Option::is_some).await;
        known.ok().and_then(|known| known.clone())
    }

    /// Waits until the cluster has given this start up.
    pub(super) async fn ended(&self) {
        let mut status = self.status.subscribe();
        let ended = |status: &Option<Arc<Status>>| status.as_ref().is_some_and(|s| s.ended);
        // The sender is a field of `self`: it outlives the wait.
        let _ = status.wait_for(ended).await;
    }

    /// The closed clocks, and the position from which they hold.
    pub(super) fn closed(&self) -> Closed {
        self.closed.read().expect("no panic under this lock").clone()
    }

    fn wake(&self, changes: &[Changed]) {
        if self.listening() == 0 {
            return;
        }
        let mut topics = vec![Topic::All];
        for Changed { key, .. } in changes {
            topics.push(Topic::Collection(key.kind, key.collection.clone()));
            topics.push(Topic::Entity(key.clone()));
        }
        let map = lock(&self.topics);
        for listeners in topics.iter().filter_map(|topic| map.get(topic)) {
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener.notify_one());
        }
    }
}

impl Observer for Journal {
    fn committed(&self, changes: &[Changed]) {
        {
            let mut ring = lock(&self.ring);
            for Changed { position, key, image, origin } in changes {
                let (key, image) = (key.clone(), Arc::downgrade(image));
                ring.entries.push_back(Entry { position: *position, key, image, origin: *origin });
                ring.end = ring.end.max(*position);
            }
            while ring.entries.len() > RING {
                let oldest = ring.entries.pop_front().map_or(0, |entry| entry.position);
                ring.floor = ring.floor.max(oldest);
            }
        }
        self.wake(changes);
        let end = changes.last().map_or(0, |changed| changed.position);
        self.woken.fetch_max(end, Ordering::Release);
    }

    fn caught_up(&self, slots: &[(u16, u64)]) {
        lock(&self.caught_up).extend(slots);
        self.news.notify_one();
    }

    fn endings(&self, endings: Vec<Ending>) {
        lock(&self.endings).extend(endings.into_iter().map(|each| (each.subject(), each)));
        self.news.notify_one();
    }

    fn status(&self, status: Status) {
        meters::status(&status);
        metrics::gauge!("atoll_subscriptions").set(self.listening() as f64);
        self.serve(&status);
        let clocks = Arc::new(status.closed.clone());
        let closed = Closed { position: status.journal_end.saturating_sub(1), clocks };
        *self.closed.write().expect("no panic under this lock") = closed;
        self.status.send_replace(Some(Arc::new(status)));
    }
}
