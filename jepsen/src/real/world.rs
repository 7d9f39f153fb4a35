//! What the threads of a run share: nodes, links, the history, the clock of the run.
//!
//! Invariants:
//! 1. Whoever holds a node's lock decides over its process and its disk; nobody else touches them.
//! 2. Several nodes are locked in the order of their places, and disks before nodes.
//! 3. Times of lines are nanoseconds since the run began.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::excuse::{Loss, Sample};
use super::fault::Fault;
use super::links::Links;
use super::node::{Node, Site};
use crate::history::{History, Recorder, Type};
use crate::random::Random;

/// Pause between two looks at whether something is over.
const PAUSE: Duration = Duration::from_millis(10);
/// How long clients of a node that are held back may take to end what they began.
const HOLD: Duration = Duration::from_secs(6);

/// Where a node is, and whether clients may ask it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) address: SocketAddr,
    held: AtomicBool,
    asking: AtomicUsize,
    /// A node is there, or comes back.
    member: AtomicBool,
}

/// All that a run's threads share.
pub(crate) struct World {
    pub(crate) places: Vec<Place>,
    pub(crate) links: Links,
    nodes: Vec<Mutex<Node>>,
    /// Makes keys.
    pub(crate) site: Site,
    regions: Vec<String>,
    /// By region: held while it changes who is there; true once that went wrong.
    pub(crate) turns: Vec<Mutex<bool>>,
    /// A node that is stopped hands off first.
    pub(crate) leaves_on_stop: bool,
    /// Who is there changes: clients go on to another node of the region.
    pub(crate) roams: bool,
    /// Every process ends by itself: what it has begun it answers, and streams are told the end.
    pub(crate) is_gentle: bool,
    /// What one node did not answer and another one did, by the reason.
    pub(crate) cured: Mutex<BTreeMap<String, u64>>,
    /// How streams ended that clients had open: by the code that they were told.
    pub(crate) ends: Mutex<BTreeMap<String, u64>>,
    /// Held while a disk is lost, until its node has come back: one at a time.
    pub(crate) disks: Mutex<()>,
    pub(crate) samples: Mutex<Vec<Sample>>,
    pub(crate) losses: Mutex<Vec<Loss>>,
    /// What went wrong beside all histories: nodes that died or did not come back.
    pub(crate) complaints: Mutex<Vec<String>>,
    /// Names of the faults that were made.
    made: Mutex<BTreeSet<String>>,
    history: Mutex<Recorder>,
    log: Mutex<File>,
    began: Instant,
    faults_over: AtomicBool,
    clients_over: AtomicBool,
    all_over: AtomicBool,
}

/// A lock, whatever became of the thread that held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(
        site: Site,
        nodes: Vec<Node>,
        links: Links,
        faults: &[Fault],
        directory: &Path,
    ) -> Result<World> {
        let place = |node: &Node| Place {
            name: node.name.clone(),
            region: region(&node.name).to_owned(),
            address: node.address(),
            held: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
            member: AtomicBool::new(true),
        };
        let places: Vec<Place> = nodes.iter().map(place).collect();
        let regions: BTreeSet<&String> = places.iter().map(|place| &place.region).collect();
        let regions: Vec<String> = regions.into_iter().cloned().collect();
        Ok(World {
            places,
            links,
            nodes: nodes.into_iter().map(Mutex::new).collect(),
            site,
            turns: regions.iter().map(|_| Mutex::default()).collect(),
            regions,
            leaves_on_stop: !faults.contains(&Fault::Rolling),
            roams: faults.iter().any(|fault| fault.roams()),
            is_gentle: !faults.contains(&Fault::ReplaceNode),
            cured: Mutex::default(),
            ends: Mutex::default(),
            disks: Mutex::default(),
            samples: Mutex::default(),
            losses: Mutex::default(),
            complaints: Mutex::default(),
            made: Mutex::default(),
            history: Mutex::default(),
            log: Mutex::new(File::create(directory.join("nemesis.log"))?),
            began: Instant::now(),
            faults_over: AtomicBool::new(false),
            clients_over: AtomicBool::new(false),
            all_over: AtomicBool::new(false),
        })
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A moment of the run.
    pub(crate) fn at(&self, since: Duration) -> Instant {
        self.began + since
    }

    pub(crate) fn names(&self, nodes: &[usize]) -> Vec<&str> {
        nodes.iter().map(|node| self.places[*node].name.as_str()).collect()
    }

    /// Waits until a moment; false if faults are over before.
    pub(crate) fn wait_for_fault(&self, until: Instant) -> bool {
        wait(until, &self.faults_over)
    }

    /// Waits until a moment; false if clients are over before.
    pub(crate) fn wait_for_client(&self, until: Instant) -> bool {
        wait(until, &self.clients_over)
    }

    /// Waits until a moment; false if all is over before.
    pub(crate) fn wait_for_all(&self, until: Instant) -> bool {
        wait(until, &self.all_over)
    }

    pub(crate) fn end_faults(&self) {
        self.faults_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn end_clients(&self) {
        self.clients_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn end_all(&self) {
        self.all_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_all_over(&self) -> bool {
        self.all_over.load(Ordering::SeqCst)
    }

    /// A node, as soon as nobody else holds it.
    pub(crate) fn node(&self, node: usize) -> MutexGuard<'_, Node> {
        lock(&self.nodes[node])
    }

    /// A node, if nobody holds it.
    pub(crate) fn free_node(&self, node: usize) -> Option<MutexGuard<'_, Node>> {
        match self.nodes[node].try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// One of the nodes that nobody holds and that run, as soon as there is one.
    pub(crate) fn any_node(&self, random: &mut Random) -> Option<(usize, MutexGuard<'_, Node>)> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        random.shuffle(&mut order);
        loop {
            for node in &order {
                if let Some(mut guard) = self.free_node(*node)
                    && guard.is_running()
                {
                    return Some((*node, guard));
                }
            }
            if !self.wait_for_fault(Instant::now() + PAUSE) {
                return None;
            }
        }
    }

    /// Starts a process with the links of its place, and waits until it is ready.
    pub(crate) fn start(&self, place: usize, node: &mut Node) -> Result<()> {
        node.start(&self.links.seeds(place))
    }

    /// Places where a node is, or comes back.
    pub(crate) fn members(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.is_member(*place)).collect()
    }

    pub(crate) fn is_member(&self, place: usize) -> bool {
        self.places[place].member.load(Ordering::SeqCst)
    }

    pub(crate) fn set_member(&self, place: usize, is: bool) {
        self.places[place].member.store(is, Ordering::SeqCst);
    }

    /// The number of a place's region.
    pub(crate) fn region_of(&self, place: usize) -> usize {
        let own = |region: &String| *region == self.places[place].region;
        self.regions.iter().position(own).unwrap_or_default()
    }

    /// The place itself if a node is there, else another of its region.
    pub(crate) fn stand_in(&self, place: usize) -> usize {
        match self.is_member(place) {
            true => place,
            false => self.another(place).unwrap_or(place),
        }
    }

    /// Another place of the same region where a node is: the next one.
    pub(crate) fn another(&self, place: usize) -> Option<usize> {
        let all = self.places.len();
        let others = (1..all).map(|step| (place + step) % all);
        let near = |other: &usize| self.region_of(*other) == self.region_of(place);
        others.filter(near).find(|other| self.is_member(*other))
    }

    /// Keeps clients from asking a node, and waits until none does.
    pub(crate) fn hold(&self, place: usize) {
        let place = &self.places[place];
        place.held.store(true, Ordering::SeqCst);
        let end = Instant::now() + HOLD;
        while place.asking.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
    }

    /// Lets them ask again.
    pub(crate) fn release(&self, place: usize) {
        self.places[place].held.store(false, Ordering::SeqCst);
    }

    /// Waits while clients of a node are held back, and asks then.
    pub(crate) fn asking<T>(&self, place: usize, ask: impl FnOnce() -> T) -> T {
        let place = &self.places[place];
        loop {
            place.asking.fetch_add(1, Ordering::SeqCst);
            // Counted before the look: who holds and then sees nobody has us waiting.
            if !place.held.load(Ordering::SeqCst) {
                break;
            }
            place.asking.fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(PAUSE);
        }
        let answer = ask();
        place.asking.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    /// The process number of a client now.
    pub(crate) fn process(&self, client: u64) -> u64 {
        lock(&self.history).process(client)
    }

    pub(crate) fn invoke(&self, client: u64, f: &str, value: Value, node: &str) {
        lock(&self.history).invoke(self.now(), client, f, value, Some(node));
    }

    pub(crate) fn end(
        &self,
        client: u64,
        kind: Type,
        (f, value): (&str, Value),
        error: Option<String>,
        node: &str,
    ) {
        let error = error.map(Value::from);
        lock(&self.history).end(self.now(), client, kind, f, value, error, Some(node));
    }

    /// Records what is no client's.
    pub(crate) fn note(&self, f: &str, value: Value) {
        lock(&self.history).nemesis(self.now(), f, value);
    }

    /// Records that a fault begins or ends.
    pub(crate) fn fault(&self, f: &str, phase: &str, mut details: Value) {
        details["phase"] = phase.into();
        lock(&self.made).insert(details["kind"].as_str().unwrap_or(f).to_owned());
        self.say(&format!("{f} {details}"));
        self.note(f, details);
    }

    /// Whether a fault of that name was made, or is being made.
    pub(crate) fn has_made(&self, fault: &str) -> bool {
        lock(&self.made).contains(fault)
    }

    /// Writes a line to the log of the nemesis.
    pub(crate) fn say(&self, line: &str) {
        let time = self.began.elapsed().as_secs_f64();
        // The log is for people: without room for it, the run goes on.
        drop(writeln!(lock(&self.log), "{time:9.3} {line}"));
    }

    /// Something is wrong that no history shows.
    pub(crate) fn complain(&self, what: String) {
        self.say(&format!("WRONG: {what}"));
        lock(&self.complaints).push(what);
    }

    /// Everything recorded so far.
    pub(crate) fn history(&self) -> History {
        lock(&self.history).history()
    }

    /// Details of a fault at nodes.
    pub(crate) fn details(&self, nodes: &[usize]) -> Value {
        json!({ "nodes": self.names(nodes) })
    }
}

/// The region in a node's name.
pub(crate) fn region(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(region, _)| region)
}

fn wait(until: Instant, over: &AtomicBool) -> bool {
    loop {
        if over.load(Ordering::SeqCst) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(PAUSE));
    }
}
