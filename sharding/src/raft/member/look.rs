//! What is to be seen of a member.

use std::collections::BTreeMap;

use atoll_replication::transport::NodeId;
use raft::StateRole;

use super::{Member, NEARLY};
use crate::raft::Name;
use crate::raft::wire::Config;

impl Member {
    /// The member that this is.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Who is in the group, as far as is known here.
    pub fn config(&self) -> &Config {
        &self.raw.store().roster().config
    }

    /// The index of the last change of members.
    pub fn config_index(&self) -> u64 {
        self.raw.store().roster().index
    }

    /// The nodes of members' disks, as recorded in the log.
    pub fn peers(&self) -> &BTreeMap<u64, NodeId> {
        &self.raw.store().roster().peers
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The last index.
    pub fn end(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// The last index known to be committed.
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The last entry given out.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// How far the state machine is.
    pub fn state(&self) -> u64 {
        self.raw.store().state()
    }

    /// The log begins after this index.
    pub fn base(&self) -> u64 {
        self.raw.store().base()
    }

    /// Bytes of the log in memory.
    pub fn bytes(&self) -> usize {
        self.raw.store().bytes()
    }

    /// Term and last index of its log: what it has promised, at least.
    pub fn promised(&self) -> (u64, u64) {
        (self.term(), self.end().max(self.raw.store().floor().1))
    }

    /// Who leads, if that is known.
    pub fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether this member leads, and has given out an entry of its own term: everything that
    /// earlier leaders committed came before it.
    pub fn owns(&self) -> bool {
        let own = self.raw.raft.raft_log.term(self.given);
        self.leads() && own.is_ok_and(|term| term == self.term())
    }

    /// Whether leadership is being handed over.
    pub fn is_handing_over(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Whether a change of members is under way.
    pub fn is_changing(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Whether everything in the log is committed and given out.
    pub fn is_even(&self) -> bool {
        self.end() == self.committed() && self.given == self.committed()
    }

    /// Whether the leader knows that a member has all of its log, and knows it committed.
    pub fn is_level(&self, disk: u64) -> bool {
        let end = self.end();
        let progress = self.raw.raft.prs().get(disk);
        progress.is_some_and(|p| p.matched == end && p.committed_index >= self.committed())
    }

    /// Whether the leader knows that a member has nearly all of its log.
    pub fn is_near(&self, disk: u64) -> bool {
        let progress = self.raw.raft.prs().get(disk);
        progress.is_some_and(|p| p.matched > 0 && p.matched + NEARLY >= self.end())
    }

    /// How much of its log the leader knows a member to have.
    pub fn matched(&self, disk: u64) -> u64 {
        self.raw.raft.prs().get(disk).map_or(0, |progress| progress.matched)
    }
}
