//! The council: the region's small Raft group that records where shards live.
//!
//! A pure core, like membership and replication: events and the time go in, effects come out.
//! Every node of a region runs one. Some are voters; the others pass on what they have to report,
//! and learn the record from their peers. `docs/council.md` says how a move goes.
//!
//! Invariants:
//! 1. (R1) What is sent, and what is published, is durable first: see [`Effects`].
//! 2. A record that was published is never taken back, and its successors come in the order of
//!    their versions.
//! 3. Only the leader decides, and only from a state that holds all it has decided before.
//! 4. Liveness is an input: it never changes a record by itself, only a leader that was told of
//!    it for long enough does.
//! 5. (R13) This node votes and acknowledges only after its start was recognised.
//! 6. Frames of another council, epoch or group are refused; those of an older epoch are told the
//!    newer one, which they join as empty members.
//!
//! Left out: how records reach nodes that do not vote (peers tell each other), and how a node is
//! found to be down (membership does that).

mod endings;
mod ends;
mod lead;
mod message;
mod plan;
mod state;
mod talk;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod voters;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use atoll_replication::placement::{Ending, RegionPlacement, Version};
use atoll_replication::transport::NodeId;
use atoll_store::backend::{Backend, Write};
use atoll_store::dot::Millis;
use atoll_store::record::{self, RecordError, RecordKind};

use crate::raft::starts::{Clearance, Starts};
use crate::raft::{
    Applied, Effects as GroupEffects, Event as GroupEvent, Group, Name, TICK_MS, draw,
};
use endings::{Asked, Gathered};
pub use message::Identity;
use message::Report;
use plan::Life;
pub use state::Settings;
use state::State;

/// Entries after which the log begins anew after a snapshot.
const ENTRIES_KEPT: usize = 128;
/// How long a trouble is shown that is not met again.
const TROUBLE_MS: Millis = 60_000;
/// Where the council that this node belongs to is recorded.
const MEMBERSHIP_KEY: &[u8] = b"c";

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// It holds replicas.
    pub replica: bool,
    /// It may vote in the council.
    pub voter: bool,
}

impl Roles {
    /// Everything.
    pub const ALL: Roles = Roles { replica: true, voter: true };
}

/// How membership sees a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Heard of lately.
    Up,
    /// Not heard of; others are asked about it.
    Suspect,
    /// Nobody hears of it.
    Down,
    /// It is there, and wants to leave for good.
    Leaving,
}

/// A node of the region, as membership tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its failure domain in the region.
    pub zone: String,
    /// What it is for.
    pub roles: Roles,
    /// Its disk: [`Council::disk`] there.
    pub disk: u64,
    /// Drawn at its start.
    pub start: u64,
    /// How it is.
    pub liveness: Liveness,
}

/// How patient a council is. The leader's count.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A node that was down for so long is replaced. Default 30 s: longer than a restart.
    pub replace_after_ms: Millis,
    /// A node that was down for so long, and that nobody could replace, is given up, so that
    /// those who are left can be a majority. Default 600 s, as membership forgets.
    pub forget_after_ms: Millis,
    /// Replicas on their way at a time in the region. Default 4. At least 1.
    pub moves: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { replace_after_ms: 30_000, forget_after_ms: 600_000, moves: 4 }
    }
}

/// This node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its region.
    pub region: String,
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its failure domain in the region.
    pub zone: String,
    /// What it is for.
    pub roles: Roles,
    /// 64 random bits drawn at this start; the origin will do.
    pub start: u64,
    /// How patient it is when it leads.
    pub limits: Limits,
}

/// What a council is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: see [`Council::deadline`].
    Tick,
    /// A node's frame.
    Received(NodeId, Bytes),
    /// All nodes of the region that membership knows, when something about them changed.
    Members(Vec<Member>),
    /// A record of this region that peers told.
    Recorded(RegionPlacement),
    /// This node has all of a slot, whose set has this epoch in the record.
    CaughtUp {
        /// The slot.
        slot: u16,
        /// The epoch of its set.
        epoch: u64,
    },
    /// What this node asks for, of origins that ended (R9).
    Ending(Vec<Ending>),
    /// This node wants to leave for good: see [`Council::is_released`].
    Leave,
    /// An operator says that a node will not come back: see [`Council::may_evict`].
    Evict(NodeId),
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Commit these durably;
    pub writes: Vec<Write>,
    /// then send these to nodes of the region, reliably and in order while a connection lasts;
    pub sends: Vec<(NodeId, Bytes)>,
    /// then publish this record,
    pub record: Option<RegionPlacement>,
    /// and show this, if it changed.
    pub view: Option<View>,
}

/// What is to be seen of a council.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Which council, if this node has found or formed one.
    pub identity: Option<Identity>,
    /// This node's disk.
    pub disk: u64,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    /// The term, for members of the group.
    pub term: u64,
    /// Who votes, as far as is known.
    pub voters: Vec<NodeId>,
    /// Who receives the log without a vote.
    pub learners: Vec<NodeId>,
    /// Replicas on their way in the region, as far as is known.
    pub moving: usize,
    /// What an operator should know.
    pub trouble: Option<Trouble>,
}

/// What is wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Two councils were formed in one region.
    #[error(
        "two councils in one region: this node is of {mine:x}, node {node} of {theirs:x}; stop \
         the nodes of one of them, empty their data directories, and let them join the other"
    )]
    OtherCouncil {
        /// Of this node.
        mine: u64,
        /// Of the other.
        theirs: u64,
        /// The other.
        node: NodeId,
    },
    /// Two nodes re-formed the council at once.
    #[error(
        "the council was re-formed twice for epoch {epoch}, here and at node {node}; run `atoll \
         cluster recover` once more, on the node that is to be right"
    )]
    ReformedTwice {
        /// The epoch.
        epoch: u64,
        /// The other.
        node: NodeId,
    },
    /// The disk is an older copy, or its log was damaged.
    #[error(
        "this node's part of the council was an older copy, or damaged ({why}); it has given up \
         its vote and joins again as empty"
    )]
    GaveUpDisk {
        /// How that was noticed.
        why: &'static str,
    },
}

/// A council cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CouncilError {
    /// The disk cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Forming where there is a council.
    #[error("this node belongs to council {0:x} already: a region forms once, and then joins")]
    Formed(u64),
    /// Settings that make no council.
    #[error("cluster.{0} is 0: at least 1 is needed to form a region")]
    Settings(&'static str),
    /// Recovering without anything to recover from.
    #[error(
        "this node knows no record of its region: run `atoll cluster recover` on one that does"
    )]
    NothingKnown,
    /// Evicting a node that is there.
    #[error("node {0} is up: let it leave (drain it), or stop it first")]
    Alive(NodeId),
    /// Evicting a node that is not recorded.
    #[error("node {0} is not recorded in this region")]
    Unknown(NodeId),
}

/// The membership record: a group's log is worth something under the disk id that wrote it.
#[derive(Serialize, Deserialize)]
struct Membership {
    identity: Identity,
    disk: u64,
}

/// One node's part of its region's council.
pub struct Council {
    options: Options,
    starts: Starts,
    clearance: Clearance,
    /// What the log had promised when this start began.
    woke: (u64, u64),
    identity: Option<Identity>,
    group: Option<Group>,
    state: Option<State>,
    /// The newest record that peers told.
    told: Option<RegionPlacement>,
    members: BTreeMap<NodeId, Member>,
    /// Since when a node has been down.
    down: BTreeMap<NodeId, Millis>,
    /// Nodes that began something and are not recorded, and when that was told last.
    strangers: BTreeMap<NodeId, Millis>,
    /// Nodes of disks, as members of the group told.
    addresses: BTreeMap<u64, NodeId>,
    /// When each node may be greeted again.
    greeted: BTreeMap<NodeId, Millis>,
    /// Who leads and who votes, for who does not.
    notice: Option<(NodeId, Vec<NodeId>)>,
    /// When each node was told that.
    noticed: BTreeMap<NodeId, Millis>,
    /// What this node has to report, and when next.
    pending: BTreeMap<Report, Millis>,
    /// What this node asks for, of origins that ended.
    asked: Asked,
    /// What has reached this node as the leader.
    inbox: BTreeSet<Report>,
    /// The same, of origins that ended.
    gathered: Gathered,
    /// What the last decision looked at: it is not taken again for the same.
    decided: Option<(u64, BTreeMap<NodeId, Life>)>,
    /// Replicas on their way, after what was applied.
    moving: usize,
    published: Version,
    shown: View,
    stepped: Millis,
    trouble: Option<Trouble>,
    /// When the trouble was last met.
    troubled: Option<Millis>,
    out: Effects,
}

fn put_membership(membership: &Membership, writes: &mut Vec<Write>) {
    let body = postcard::to_stdvec(membership).expect("a membership encodes to memory");
    record::encode(RecordKind::Raft, MEMBERSHIP_KEY, &body, writes, 0);
}

fn accepts(state: &[u8]) -> bool {
    State::decode(state).is_some()
}

impl Council {
    /// This node's part, as its disk has it; on an empty disk, one that waits to be admitted, or
    /// to [`Council::form`]. The first effects hold the record of this start.
    pub fn open(backend: &dyn Backend, options: Options) -> Result<Council, CouncilError> {
        let mut out = Effects::default();
        let starts = Starts::open(backend, options.start, &mut out.writes)?;
        let mut council = Council {
            options,
            starts,
            clearance: Clearance::default(),
            woke: (0, 0),
            identity: None,
            group: None,
            state: None,
            told: None,
            members: BTreeMap::new(),
            down: BTreeMap::new(),
            strangers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            greeted: BTreeMap::new(),
            notice: None,
            noticed: BTreeMap::new(),
            pending: BTreeMap::new(),
            asked: Asked::default(),
            inbox: BTreeSet::new(),
            gathered: Gathered::default(),
            decided: None,
            moving: 0,
            published: Version::default(),
            shown: View::default(),
            stepped: 0,
            trouble: None,
            troubled: None,
            out,
        };
        council.read(backend)?;
        Ok(council)
    }

    fn read(&mut self, backend: &dyn Backend) -> Result<(), CouncilError> {
        let found = match record::read(backend, MEMBERSHIP_KEY, RecordKind::Raft) {
            Ok(None) => return Ok(()),
            Ok(Some((body, _))) => postcard::from_bytes::<Membership>(&body).ok(),
            Err(RecordError::Damaged(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(membership) = found else {
            // Whatever this disk promised, it cannot be found any more.
            self.alarm(Trouble::GaveUpDisk { why: "its membership is unreadable" });
            self.starts.renew(&mut self.out.writes);
            return Ok(());
        };
        self.identity = Some(membership.identity);
        let name = self.name(membership.identity);
        let loaded = match membership.disk == name.disk {
            true => Group::load(backend, name, accepts).map(Some),
            false => Ok(None),
        };
        match loaded {
            Ok(Some((group, applied))) => {
                self.woke = group.promised();
                self.group = Some(group);
                applied.into_iter().for_each(|applied| self.apply(applied));
            }
            Ok(None) | Err(RecordError::Damaged(_)) => {
                Group::forget(backend, name.group, &mut self.out.writes)?;
                self.start_over("its log does not read");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn name(&self, identity: Identity) -> Name {
        let Identity { council, epoch, group } = identity;
        let group = draw(b"group", &[council, epoch, group]);
        Name { group, disk: self.starts.disk(), chance: self.options.start }
    }

    /// Forms the region's council, `council` drawn for it, with this node as its only voter and
    /// the holder of all replicas. For the one node that is to form it; every other one waits.
    /// What is to be done is among the effects of the next step.
    pub fn form(&mut self, council: u64, settings: Settings) -> Result<(), CouncilError> {
        if let Some(identity) = self.identity {
            return Err(CouncilError::Formed(identity.council));
        }
        for (name, value) in [("replicas", settings.factor), ("slots", settings.slots)] {
            if value == 0 {
                return Err(CouncilError::Settings(name));
            }
        }
        let Options { region, node, name, zone, roles, .. } = &self.options;
        let mut state = State::new(region, council, settings);
        state.seat_founder(*node, name, zone, self.starts.disk(), *roles);
        let identity = Identity { council, epoch: state.version.epoch, group: council };
        self.found(identity, state);
        Ok(())
    }

    /// Re-forms a council that lost its majority for good, on this node, under the next epoch;
    /// `chance` is 64 random bits. For an operator: what only the lost voters knew is lost. What
    /// is to be done is among the effects of the next step.
    ///
    /// It goes on from the newest it knows: its own log to its end, or the record that peers
    /// told. Decisions at the end of the log may never have been agreed on; but had they been,
    /// replicas may have acted on them, and none of them is wrong to act on.
    pub fn recover(&mut self, chance: u64) -> Result<(), CouncilError> {
        if let (Some(state), Some(group)) = (&mut self.state, &self.group) {
            group.uncommitted().iter().for_each(|entry| state.apply(entry));
        }
        let own = self.state.take();
        let told = self.told.as_ref().filter(|told| {
            own.as_ref().is_none_or(|own| told.council == own.council && told.version > own.version)
        });
        let state = told.map(State::from_record).or(own);
        let mut state = state.ok_or(CouncilError::NothingKnown)?;
        let known = self.identity.map_or(0, |identity| identity.epoch);
        state.version.epoch = state.version.epoch.max(known);
        state.reform();
        let identity =
            Identity { council: state.council, epoch: state.version.epoch, group: chance };
        self.found(identity, state);
        Ok(())
    }

    /// Begins a group with this node as its only voter.
    fn found(&mut self, identity: Identity, state: State) {
        self.abandon();
        let name = self.name(identity);
        let encoded = state.encode().into();
        let node = self.options.node;
        let group = Group::create(name, node, encoded, accepts, &mut self.out.writes);
        self.enter(identity, group);
        self.clearance = Clearance::given();
        self.state = Some(state);
        let effects = self.group.as_mut().map(|group| group.step(0, GroupEvent::Campaign));
        self.absorb(effects.unwrap_or_default());
    }

    /// Stops being a member of a group.
    fn abandon(&mut self) {
        if let Some(group) = self.group.take() {
            self.starts.leave(group.name().group);
            group.remove(&mut self.out.writes);
        }
    }

    /// Becomes a member of a council's group.
    fn enter(&mut self, identity: Identity, group: Group) {
        self.identity = Some(identity);
        let disk = self.starts.disk();
        put_membership(&Membership { identity, disk }, &mut self.out.writes);
        self.woke = (0, 0);
        self.group = Some(group);
        self.clearance = Clearance::default();
        self.addresses.clear();
        self.greeted.clear();
        self.notice = None;
        self.decided = None;
    }

    /// Takes an event.
    pub fn step(&mut self, now: Millis, event: Event) -> Effects {
        self.stepped = now;
        match event {
            Event::Tick => {}
            Event::Received(from, frame) => self.receive(now, from, &frame),
            Event::Members(members) => {
                self.members = members.into_iter().map(|member| (member.node, member)).collect();
                self.decided = None;
            }
            Event::Recorded(record) => self.recorded(record),
            Event::CaughtUp { slot, epoch } => {
                self.report(Report::CaughtUp { node: self.options.node, slot, epoch });
            }
            Event::Ending(endings) => self.ask(now, endings),
            Event::Leave => {
                let Options { node, start, .. } = self.options;
                self.report(Report::Leave { node, start });
            }
            Event::Evict(node) => self.report(Report::Evict { node }),
        }
        self.turn(now);
        self.publish();
        std::mem::take(&mut self.out)
    }

    /// When it wants to be told the time, if nothing happens before.
    pub fn deadline(&self, now: Millis) -> Millis {
        let ticks = self.group.as_ref().filter(|_| self.clearance.is_cleared());
        ticks.map_or(self.stepped + TICK_MS, Group::deadline).max(now)
    }

    fn alarm(&mut self, trouble: Trouble) {
        self.trouble = Some(trouble);
        self.troubled = None;
    }

    /// Forgets a trouble that was not met again for a while.
    fn calm_down(&mut self, now: Millis) {
        if self.trouble.is_some() {
            let since = *self.troubled.get_or_insert(now);
            self.trouble.take_if(|_| now.saturating_sub(since) > TROUBLE_MS);
        }
    }

    fn turn(&mut self, now: Millis) {
        self.calm_down(now);
        self.awake(now);
        if let Some(group) = self.group.as_mut().filter(|_| self.clearance.is_cleared()) {
            let effects = group.step(now, GroupEvent::Tick);
            self.absorb(effects);
        }
        self.greet(now);
        self.watch(now);
        self.lead(now);
        self.speak_up(now);
    }

    fn recorded(&mut self, record: RegionPlacement) {
        let known = self.told.as_ref().is_some_and(|told| told.version >= record.version);
        if record.region == self.options.region && !known {
            self.told = Some(record);
        }
    }

    /// Does what the group asks for; what it has to say leaves with the other effects.
    fn absorb(&mut self, effects: GroupEffects) {
        self.out.writes.extend(effects.writes);
        effects.applied.into_iter().for_each(|applied| self.apply(applied));
        for (node, message) in effects.sends {
            self.send_raft(node, message);
        }
        let (Some(group), Some(state)) = (&mut self.group, &self.state) else { return };
        if group.wants_snapshot() || group.entries_kept() > ENTRIES_KEPT {
            group.compact(state.encode().into(), &mut self.out.writes);
        }
    }

    fn apply(&mut self, applied: Applied) {
        match applied {
            Applied::Command(entry) => {
                if let Some(state) = &mut self.state {
                    state.apply(&entry);
                }
            }
            Applied::State(state) => self.state = State::decode(&state).or(self.state.take()),
            Applied::Members => {}
        }
        self.moving = self.state.as_ref().map_or(0, State::moving);
    }

    fn publish(&mut self) {
        if let Some(state) = &self.state
            && state.version > self.published
        {
            self.published = state.version;
            self.out.record = Some(state.record());
        }
        let view = self.view();
        if view != self.shown {
            self.shown = view.clone();
            self.out.view = Some(view);
        }
    }

    /// What is to be seen of it.
    pub fn view(&self) -> View {
        let (leader, voters) = self.notice.clone().unzip();
        let mut view = View {
            identity: self.identity,
            disk: self.starts.disk(),
            leader,
            voters: voters.unwrap_or_default(),
            moving: self.moving,
            trouble: self.trouble.clone(),
            ..View::default()
        };
        if let Some(group) = self.group.as_ref().filter(|group| self.is_member(group)) {
            let node = |id: u64| group.peers().get(&id).copied();
            let nodes = |ids: &BTreeSet<u64>| ids.iter().filter_map(|id| node(*id)).collect();
            view.term = group.term();
            view.leader = group.leader().and_then(node).or(view.leader);
            view.voters = nodes(&group.config().voters);
            view.learners = nodes(&group.config().learners);
        }
        view
    }

    fn is_member(&self, group: &Group) -> bool {
        group.config().contains(self.starts.disk())
    }

    /// This node's disk, for what it tells membership of itself.
    pub fn disk(&self) -> u64 {
        self.starts.disk()
    }

    /// Whether this node belongs to a council; else it forms one, or waits for one.
    pub fn is_formed(&self) -> bool {
        self.identity.is_some()
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.group.as_ref().is_some_and(Group::leads)
    }

    /// The newest record that this node knows.
    pub fn record(&self) -> Option<RegionPlacement> {
        let own = self.state.as_ref().map(State::record);
        let told = self.told.clone();
        own.into_iter().chain(told).max_by_key(|record| record.version)
    }

    /// Whether a node that wanted to leave may go: the newest record does not name it.
    pub fn is_released(&self, node: NodeId) -> bool {
        self.record().is_some_and(|record| !record.nodes.contains_key(&node))
    }

    /// Whether a node may be evicted, as far as is known here.
    pub fn may_evict(&self, node: NodeId) -> Result<(), CouncilError> {
        let recorded = self.record().is_some_and(|record| record.nodes.contains_key(&node));
        let up = |member: &Member| matches!(member.liveness, Liveness::Up | Liveness::Leaving);
        match recorded {
            false => Err(CouncilError::Unknown(node)),
            true if self.members.get(&node).is_some_and(up) => Err(CouncilError::Alive(node)),
            true => Ok(()),
        }
    }
}
