//! Who is there, in every region, and in which state: a pure core.
//!
//! Inside a region nodes watch each other by SWIM, over datagrams. What they are (names, addresses,
//! roles) goes over streams, to everyone in the region as it changes, and by comparing hashes now
//! and then. Between regions a few relays do the same, so that every node knows every member of
//! all regions; `docs/membership.md` has the states, the timings and what it costs.
//!
//! Invariants:
//! 1. The same seed, configuration and events give the same effects.
//! 2. Only its own region takes a node for dead. A region that is cut off keeps its last known
//!    states, and is shown as not reachable.
//! 3. Whatever arrives, nothing panics, and what is kept stays within `members_max`.
//! 4. A node that itself was paused condemns nobody for it: its time stood still.
//! 5. After `Stop` nothing is done any more.
//!
//! Left out: quorums and placement, which no state here decides; forgetting a region that went
//! away whole (its nodes are to leave, or stay listed).

mod config;
mod dial;
mod doubt;
mod member;
mod message;
mod news;
mod random;
mod swim;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use atoll_replication::transport::NodeId;
use atoll_store::dot::Millis;

pub use config::{Config, ConfigError, Timing};
use dial::Dialling;
use member::{Facts, Life, Record, Verdict};
pub use member::{Member, RELAY, State};
use random::Random;
use swim::{Id, Swim};
use table::Table;

/// Between looks at what time alone changes.
const REVIEW_MS: Millis = 1_000;
/// After a pause, time for what arrived meanwhile.
const HOLD_MS: Millis = 100;

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: see [`Membership::deadline`].
    Tick,
    /// A peer is connected.
    Connected(NodeId),
    /// A peer is not connected any more: a hint, never a verdict.
    Disconnected(NodeId),
    /// Something came from a connected peer, whatever it was.
    Heard(NodeId),
    /// A connected peer's datagram.
    Datagram(NodeId, Bytes),
    /// A connected peer's frame, meant for membership.
    Frame(NodeId, Bytes),
    /// All addresses that discovery finds now.
    Discovered(BTreeSet<String>),
    /// This peer answered at this address. Saves connections where addresses of seeds are not
    /// what members call their own; otherwise it is not needed.
    Answered {
        /// As it was dialled.
        address: String,
        /// Who answered.
        peer: NodeId,
    },
    /// Nodes of other regions that replication needs.
    Wanted(BTreeSet<NodeId>),
    /// This node's disk has another id from now on.
    Disk(u64),
    /// This node is ready.
    Ready,
    /// This node hands off and will not come back.
    Leave,
    /// This node ends now. Others need not find out: it is gone if it left, else down.
    Stop,
}

/// What is to be done, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To connected peers, past all streams.
    pub datagrams: Vec<(NodeId, Bytes)>,
    /// To connected peers, on the cluster's stream.
    pub frames: Vec<(NodeId, Bytes)>,
    /// Addresses to keep connected from now on.
    pub dial: Vec<String>,
    /// Addresses not to dial any more; connections made stay.
    pub forget: Vec<String>,
    /// Connections to close.
    pub disconnect: Vec<NodeId>,
    /// Peers that broke the protocol, and how.
    pub reject: Vec<(NodeId, &'static str)>,
    /// Members that are new or not as before.
    pub changes: Vec<Member>,
    /// Other regions that are new or not as before.
    pub regions: Vec<Region>,
}

/// Another region, from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Whether a relay of the own region, or this node, hears it. If not, its members are shown
    /// as they were last known.
    pub reachable: bool,
}

/// A connected peer.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Useless since.
    spare_at: Option<Millis>,
}

/// Membership as one node runs it.
pub struct Membership {
    timing: Timing,
    relays: usize,
    random: Random,
    swim: Swim,
    table: Table,
    peers: BTreeMap<NodeId, Peer>,
    /// By suspect: who told this node of the suspicion.
    accusers: BTreeMap<NodeId, BTreeSet<NodeId>>,
    dialling: Dialling,
    /// When something was last heard of another region, by this node.
    heard: BTreeMap<String, Millis>,
    /// When another region was last within reach of a relay of this one, or of this node.
    reached: BTreeMap<String, Millis>,
    /// Other regions, as last told.
    regions: BTreeMap<String, bool>,
    /// How far the own time is behind.
    paused_ms: Millis,
    /// The own time of the last step.
    lived_to: Millis,
    /// After a pause: until when time stands still.
    hold_until: Option<Millis>,
    review_at: Option<Millis>,
    exchange_at: Option<Millis>,
    stopped: bool,
    out: Effects,
}

impl Membership {
    /// A node that knows only itself, and is not ready.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.timing.check()?;
        let facts = Facts {
            name: config.name,
            region: config.region,
            zone: config.zone,
            address: config.address,
            roles: config.roles,
            version: config.version,
            disk: config.disk,
            start: config.start,
            reaches: BTreeSet::new(),
        };
        let own = Record {
            node: config.node,
            incarnation: config.incarnation,
            revision: 0,
            life: Life::Joining,
            facts,
            verdict: Verdict::Alive,
            suspicion: 0,
        };
        own.check().map_err(ConfigError::Own)?;
        let mut random = Random::new(config.seed);
        let id = Id { node: config.node, incarnation: config.incarnation };
        let chance = Random::new(random.next());
        Ok(Self {
            swim: Swim::new(id, &config.timing, config.members_max, chance),
            table: Table::new(own, config.members_max, &config.timing),
            timing: config.timing,
            relays: config.relays,
            random,
            peers: BTreeMap::new(),
            accusers: BTreeMap::new(),
            dialling: Dialling::new(config.seeds),
            heard: BTreeMap::new(),
            reached: BTreeMap::new(),
            regions: BTreeMap::new(),
            paused_ms: 0,
            lived_to: 0,
            hold_until: None,
            review_at: None,
            exchange_at: None,
            stopped: false,
            out: Effects::default(),
        })
    }

    /// Takes an event at a time; times never go back.
    pub fn step(&mut self, now: Millis, event: Event) -> Effects {
        if self.stopped {
            return Effects::default();
        }
        let now = self.own_time(now);
        // What arrived counts before time does.
        self.handle(now, event);
        self.swim.due(now);
        self.review(now);
        self.settle(now);
        std::mem::take(&mut self.out)
    }

    /// When to call [`Membership::step`] again, at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        if self.stopped {
            return None;
        }
        if self.hold_until.is_some() {
            return self.hold_until;
        }
        let due = self.own_deadline();
        // Before the first step there is nothing but the wish for one.
        Some(due.map_or(0, |due| due.saturating_add(self.paused_ms)))
    }

    fn own_deadline(&self) -> Option<Millis> {
        let review = self.review_at?;
        let others = [self.exchange_at, self.swim.deadline(), self.table.deadline()];
        others.into_iter().flatten().chain([review]).min()
    }

    /// Time as this node lived it: it stands still while the node is paused, and a moment longer,
    /// so that what arrived meanwhile is read before timers run.
    fn own_time(&mut self, now: Millis) -> Millis {
        if let Some(hold) = self.hold_until {
            if now >= hold {
                self.hold_until = None;
                self.paused_ms = now.saturating_sub(self.lived_to);
            }
            return self.lived_to;
        }
        let lived = now.saturating_sub(self.paused_ms).max(self.lived_to);
        let late = self.own_deadline().map_or(0, |due| lived.saturating_sub(due));
        if late >= self.timing.late_ms {
            tracing::info!(late_ms = late, "this node was paused");
            self.hold_until = Some(now.saturating_add(HOLD_MS));
        } else {
            self.lived_to = lived;
        }
        self.lived_to
    }

    /// Every member known, of all regions, in order of ids; this node too.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.table.members()
    }

    /// A member.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.table.member(node)
    }

    /// How many members are in each state; every state is named, but `Gone`.
    pub fn counts(&self) -> BTreeMap<State, usize> {
        let shown = State::ALL.into_iter().filter(|state| *state != State::Gone);
        let mut counts: BTreeMap<State, usize> = shown.map(|state| (state, 0)).collect();
        for member in self.members() {
            *counts.entry(member.state).or_default() += 1;
        }
        counts
    }

    /// The other regions.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        let region = |(name, reachable): (&String, &bool)| Region {
            name: name.clone(),
            reachable: *reachable,
        };
        self.regions.iter().map(region)
    }

    fn handle(&mut self, now: Millis, event: Event) {
        match event {
            Event::Tick => {}
            Event::Connected(peer) => self.connected(now, peer),
            Event::Disconnected(peer) => self.disconnected(now, peer),
            Event::Heard(peer) => self.heard(now, peer),
            Event::Datagram(peer, bytes) => self.datagram(now, peer, &bytes),
            Event::Frame(peer, frame) => self.frame(now, peer, &frame),
            Event::Discovered(addresses) => self.dialling.discovered(addresses),
            Event::Answered { address, peer } => self.dialling.answered(address, peer),
            Event::Wanted(nodes) => self.dialling.wanted(nodes),
            Event::Disk(disk) => self.table.change_own(|own| {
                own.facts.disk = disk;
                own.revision += 1;
            }),
            Event::Ready => self.live_on(Life::Up),
            Event::Leave => self.live_on(Life::Leaving),
            Event::Stop => self.stop(now),
        }
    }

    fn connected(&mut self, now: Millis, peer: NodeId) {
        self.peers.insert(peer, Peer { spare_at: None });
        self.heard(now, peer);
        self.greet(peer);
    }

    fn disconnected(&mut self, now: Millis, peer: NodeId) {
        self.peers.remove(&peer);
        let helpers: Vec<NodeId> =
            self.peers.keys().filter(|node| self.table.is_near(**node)).copied().collect();
        let first = self.random.below(helpers.len() as u64) as usize;
        let turned: Vec<NodeId> =
            helpers.iter().cycle().skip(first).take(helpers.len()).copied().collect();
        self.swim.check(now, peer, &turned);
    }

    fn heard(&mut self, now: Millis, peer: NodeId) {
        self.swim.heard(now, peer);
        let region = self.table.record(peer).map(|record| record.facts.region.clone());
        if let Some(region) = region.filter(|region| *region != self.table.own().facts.region) {
            self.heard.insert(region, now);
        }
    }

    fn datagram(&mut self, now: Millis, peer: NodeId, bytes: &[u8]) {
        // Lives are watched inside a region, and facts come first.
        if !self.table.is_near(peer) {
            return;
        }
        if let Err(why) = self.swim.datagram(now, peer, bytes) {
            tracing::debug!(%peer, why, "dropped");
        }
    }

    fn live_on(&mut self, life: Life) {
        let own = self.table.own();
        let back = own.life == Life::Leaving;
        if own.life != life && !back {
            self.table.change_own(|own| {
                own.life = life;
                own.revision += 1;
            });
        }
    }

    fn stop(&mut self, now: Millis) {
        self.swim.leave(now);
        self.table.change_own(|own| own.verdict = Verdict::Down);
        self.tell_everyone_of_own();
        let datagrams = self.swim.datagrams();
        self.out.datagrams.extend(datagrams);
        self.stopped = true;
    }
}
