//! Which messages a member may give to the consensus, and what they tell of what others believe.

use super::{At, Member};
use crate::raft::tail::Roster;
use crate::raft::wire::{Kind, Message, Snapshot};

impl Member {
    /// Whether a message makes sense in this state; what does not may make the crate panic.
    pub(super) fn is_plausible(&self, message: &Message) -> bool {
        if message.to != self.name.disk || message.from == self.name.disk || !message.is_sound() {
            return false;
        }
        let end = self.end();
        match &message.kind {
            Kind::Heartbeat { commit } | Kind::Ask { commit, .. } => {
                message.term < self.term() || *commit <= end
            }
            Kind::AppendAnswer { index, rejected: None, .. } => *index <= end,
            // What this disk knew of the log when it left the group was committed.
            Kind::Vote { index, log_term, .. } => (*log_term, *index) >= self.raw.store().floor(),
            Kind::Snapshot(snapshot) => {
                let roster = Roster::decode(&snapshot.data);
                snapshot.config.contains(self.name.disk)
                    && roster.is_some_and(|roster| roster.config == snapshot.config)
            }
            _ => true,
        }
    }

    /// Whether a leader believes that this log is longer than it is: something it had
    /// acknowledged is gone, so it must not speak under this id again.
    pub fn is_contradicted_by(&self, message: &Message) -> bool {
        self.counted(message) > self.end().max(self.raw.store().floor().1)
    }

    /// Whether a leader counts on what this disk had when it was in the group before.
    pub fn is_overrated_by(&self, message: &Message) -> bool {
        self.counted(message) > self.end()
    }

    /// How much of the log a leader's word takes for being here.
    fn counted(&self, message: &Message) -> u64 {
        let current = message.to == self.name.disk && message.term >= self.term();
        match &message.kind {
            Kind::Heartbeat { commit } | Kind::Ask { commit, .. }
                if current && message.is_sound() =>
            {
                *commit
            }
            _ => 0,
        }
    }

    /// The state that a message offers, if this log does not reach it.
    pub fn needs(&self, message: &Message) -> Option<At> {
        let Kind::Snapshot(Snapshot { index, term, .. }) = message.kind else { return None };
        let log = &self.raw.raft.raft_log;
        let has = index <= log.committed || log.match_term(index, term);
        let old = message.term < self.term();
        (self.is_plausible(message) && !has && !old).then_some(At { index, term })
    }
}
