//! The cluster core of one node: membership and the region's council, side by side.
//!
//! ```text
//! peers, discovery ─> membership ─ members of the region ─> council ─ record ─> replication
//!        dial, forget <─┘    └─ gone                          ^                     │
//!                                                             └── caught up, record ┘
//! ```
//!
//! Invariants:
//! 1. (R1) What the council has to say leaves after what it wrote is durable: see [`Effects`].
//! 2. Membership informs the council, and never decides: a node that is silent stays recorded
//!    until the council's leader records otherwise.
//! 3. A frame says for which of the two it is; one for neither is a breach.
//!
//! Left out: replication's own core, which runs beside this one; whoever drives both passes
//! records and needs between them.

use std::collections::BTreeSet;

use bytes::Bytes;

use atoll_replication::placement::{Ending, RegionPlacement};
use atoll_replication::transport::NodeId;
use atoll_store::backend::Write;
use atoll_store::dot::Millis;

use crate::council::{self, Council, CouncilError, Liveness, Roles, Settings};
use crate::membership::{self, Member, Membership, Region, State};

/// The role of nodes that hold replicas.
pub const REPLICA: &str = "replica";

/// The first byte of a frame: for whom it is.
const FOR_MEMBERSHIP: u8 = 0;
const FOR_COUNCIL: u8 = 1;

/// What a core is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: see [`Cluster::deadline`].
    Tick,
    /// A peer is connected.
    Connected(NodeId),
    /// A peer is not connected any more.
    Disconnected(NodeId),
    /// Something came from a connected peer, whatever it was.
    Heard(NodeId),
    /// A peer's datagram.
    Datagram(NodeId, Bytes),
    /// A peer's frame of the cluster's class.
    Frame(NodeId, Bytes),
    /// All addresses that discovery finds now.
    Discovered(BTreeSet<String>),
    /// Nodes of other regions that replication needs.
    Wanted(BTreeSet<NodeId>),
    /// The newest record of this region that replication knows.
    Recorded(Box<RegionPlacement>),
    /// Slots that this node has caught up with, and the epoch of each one's set.
    CaughtUp(Vec<(u16, u64)>),
    /// What this node asks the council to record of origins that ended (R9).
    Ending(Vec<Ending>),
    /// This node is ready for clients.
    Ready,
    /// This node hands its replicas off and leaves for good: see [`Cluster::is_released`].
    Leave,
    /// This node ends now.
    Stop,
}

/// What to do: commit first, the rest after it.
#[derive(Debug, Default)]
pub struct Effects {
    /// To commit durably.
    pub writes: Vec<Write>,
    /// Then to be sent on the cluster's stream.
    pub frames: Vec<(NodeId, Bytes)>,
    /// And past all streams.
    pub datagrams: Vec<(NodeId, Bytes)>,
    /// Addresses to keep connected from now on.
    pub dial: Vec<String>,
    /// Addresses not to dial any more.
    pub forget: Vec<String>,
    /// Connections to close.
    pub disconnect: Vec<NodeId>,
    /// Peers that broke the protocol, and how.
    pub reject: Vec<(NodeId, &'static str)>,
    /// For replication: what the council recorded.
    pub record: Option<Box<RegionPlacement>>,
    /// For replication: nodes that are forgotten.
    pub gone: Vec<NodeId>,
    /// Members, regions or the council are not as they were last shown.
    pub changed: bool,
}

/// What is to be seen of a cluster, from one node.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Every member of every region, this node too.
    pub members: Vec<Member>,
    /// The other regions.
    pub regions: Vec<Region>,
    /// The council of this region.
    pub council: council::View,
}

/// The cluster core of one node.
pub struct Cluster {
    region: String,
    membership: Membership,
    council: Council,
    disk: u64,
    out: Effects,
}

impl Cluster {
    /// A core of membership and a council that were just made, of the same node and region.
    pub fn new(region: String, membership: Membership, council: Council, now: Millis) -> Cluster {
        let disk = council.disk();
        let mut cluster = Cluster { region, membership, council, disk, out: Effects::default() };
        cluster.tell_members(now);
        cluster
    }

    /// One step: events in, effects out.
    pub fn step(&mut self, now: Millis, events: impl IntoIterator<Item = Event>) -> Effects {
        for event in events {
            self.handle(now, event);
        }
        self.membership(now, membership::Event::Tick);
        self.council(now, council::Event::Tick);
        if self.disk != self.council.disk() {
            self.disk = self.council.disk();
            self.membership(now, membership::Event::Disk(self.disk));
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self, now: Millis) -> Millis {
        let council = self.council.deadline(now);
        self.membership.deadline().map_or(council, |at| at.min(council))
    }

    fn handle(&mut self, now: Millis, event: Event) {
        use membership::Event as Member;
        match event {
            Event::Tick => {}
            Event::Connected(peer) => self.membership(now, Member::Connected(peer)),
            Event::Disconnected(peer) => self.membership(now, Member::Disconnected(peer)),
            Event::Heard(peer) => self.membership(now, Member::Heard(peer)),
            Event::Datagram(peer, bytes) => self.membership(now, Member::Datagram(peer, bytes)),
            Event::Frame(peer, frame) => self.frame(now, peer, frame),
            Event::Discovered(addresses) => self.membership(now, Member::Discovered(addresses)),
            Event::Wanted(nodes) => self.membership(now, Member::Wanted(nodes)),
            Event::Recorded(record) => self.council(now, council::Event::Recorded(*record)),
            Event::CaughtUp(slots) => {
                for (slot, epoch) in slots {
                    self.council(now, council::Event::CaughtUp { slot, epoch });
                }
            }
            Event::Ending(endings) => self.council(now, council::Event::Ending(endings)),
            Event::Ready => self.membership(now, Member::Ready),
            Event::Leave => {
                self.membership(now, Member::Leave);
                self.council(now, council::Event::Leave);
            }
            Event::Stop => self.membership(now, Member::Stop),
        }
    }

    fn frame(&mut self, now: Millis, peer: NodeId, frame: Bytes) {
        match frame.first() {
            Some(&FOR_MEMBERSHIP) => {
                self.membership(now, membership::Event::Frame(peer, frame.slice(1..)));
            }
            Some(&FOR_COUNCIL) => {
                self.council(now, council::Event::Received(peer, frame.slice(1..)));
            }
            _ => self.out.reject.push((peer, "malformed frame of the cluster")),
        }
    }

    fn membership(&mut self, now: Millis, event: membership::Event) {
        let effects = self.membership.step(now, event);
        let tagged = |(to, frame): (NodeId, Bytes)| (to, tag(FOR_MEMBERSHIP, &frame));
        self.out.frames.extend(effects.frames.into_iter().map(tagged));
        self.out.datagrams.extend(effects.datagrams);
        self.out.dial.extend(effects.dial);
        self.out.forget.extend(effects.forget);
        self.out.disconnect.extend(effects.disconnect);
        self.out.reject.extend(effects.reject);
        self.out.changed |= !effects.changes.is_empty() || !effects.regions.is_empty();
        let gone = effects.changes.iter().filter(|member| member.state == State::Gone);
        self.out.gone.extend(gone.map(|member| member.node));
        if effects.changes.iter().any(|member| member.region == self.region) {
            self.tell_members(now);
        }
    }

    /// Tells the council who is in the region.
    fn tell_members(&mut self, now: Millis) {
        let members = self.membership.members();
        let near = members.filter(|member| member.region == self.region);
        let near = near.map(member_of).collect();
        self.council(now, council::Event::Members(near));
    }

    fn council(&mut self, now: Millis, event: council::Event) {
        let effects = self.council.step(now, event);
        self.absorb(effects);
    }

    fn absorb(&mut self, effects: council::Effects) {
        self.out.writes.extend(effects.writes);
        let tagged = |(to, frame): (NodeId, Bytes)| (to, tag(FOR_COUNCIL, &frame));
        self.out.frames.extend(effects.sends.into_iter().map(tagged));
        if let Some(record) = effects.record {
            self.out.record = Some(Box::new(record));
        }
        self.out.changed |= effects.view.is_some();
    }

    /// This node's disk, as the council knows it.
    pub fn disk(&self) -> u64 {
        self.disk
    }

    /// Whether this node belongs to a council; else it forms one, or waits for one.
    pub fn is_formed(&self) -> bool {
        self.council.is_formed()
    }

    /// Forms the region's council with this node: see [`Council::form`]. Takes effect by the next
    /// step.
    pub fn form(&mut self, council: u64, settings: Settings) -> Result<(), CouncilError> {
        self.council.form(council, settings)
    }

    /// Re-forms a council that lost its majority: see [`Council::recover`]. Takes effect by the
    /// next step.
    pub fn recover(&mut self, chance: u64) -> Result<(), CouncilError> {
        self.council.recover(chance)
    }

    /// Gives up a node that will not come back, for an operator.
    pub fn evict(&mut self, now: Millis, node: NodeId) -> Result<(), CouncilError> {
        self.council.may_evict(node)?;
        self.council(now, council::Event::Evict(node));
        Ok(())
    }

    /// Whether a node that wanted to leave is no longer recorded.
    pub fn is_released(&self, node: NodeId) -> bool {
        self.council.is_released(node)
    }

    /// What is to be seen.
    pub fn view(&self) -> View {
        View {
            members: self.membership.members().cloned().collect(),
            regions: self.membership.regions().collect(),
            council: self.council.view(),
        }
    }
}

fn tag(whom: u8, frame: &[u8]) -> Bytes {
    [&[whom][..], frame].concat().into()
}

/// A member as the council sees it. Who is joining is there: it waits for replicas.
fn member_of(member: &Member) -> council::Member {
    let holds = member.roles.contains(REPLICA);
    council::Member {
        node: member.node,
        name: member.name.clone(),
        zone: member.zone.clone(),
        roles: Roles { replica: holds, voter: holds },
        disk: member.disk,
        start: member.start,
        liveness: match member.state {
            State::Joining | State::Up => Liveness::Up,
            State::Suspect => Liveness::Suspect,
            State::Down | State::Gone => Liveness::Down,
            State::Leaving => Liveness::Leaving,
        },
    }
}
