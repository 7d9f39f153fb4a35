//! States that members take from their leader, chunk by chunk, when its log begins too late.
//!
//! ```text
//! leader                                   member
//! snapshot: index, term, members  ──────>  holds it back
//!                                 <──────  want what comes after a cursor
//! chunk: records, next cursor     ──────>  stages it durably, with the cursor
//!          ...                             gives the snapshot to the consensus after the last one
//! ```
//!
//! Invariants:
//! 1. The consensus hears of a snapshot only when all of its state is staged; log and state then
//!    switch over in one batch.
//! 2. A cursor is durable with the records before it, so a member that starts again goes on.
//! 3. One chunk is under way for each state, and [`TAKING_MAX`] states at a time at a member.

use bytes::Bytes;

use atoll_replication::transport::NodeId;

use super::message::{Chunk, Part};
use super::slot::Taking;
use super::{Groups, MemberMessage, State};
use crate::raft::At;

/// States that a node takes at a time; others are offered again.
const TAKING_MAX: usize = 8;
/// Ticks after which a chunk is asked for again, and after which nothing more is expected.
const AGAIN_TICKS: u32 = 6;
const HOPELESS_TICKS: u32 = 100;

impl Groups {
    /// The leader offers a state that this member lacks.
    pub(super) fn offered(
        &mut self,
        from: NodeId,
        group: u64,
        at: At,
        message: MemberMessage,
        state: &mut dyn State,
    ) {
        let busy = self.slots.values().filter(|slot| slot.taking.is_some()).count();
        let Some(slot) = self.slots.get_mut(&group) else { return };
        if let Some(taking) = slot.taking.as_mut().filter(|taking| taking.at == at) {
            (taking.message, taking.from) = (message, from);
            return;
        }
        if slot.taking.is_none() && busy >= TAKING_MAX {
            return;
        }
        let staged = slot.member.staged(at);
        if staged.is_none() {
            state.discard(slot.shard, &mut self.out.writes);
            slot.member.stage(None, &mut self.out.writes);
        }
        let after = staged.unwrap_or_default();
        slot.taking = Some(Taking { at, message, from, after: after.clone(), idle: 0 });
        self.send(from, Part::Want { group, at, after });
    }

    /// A member wants a part of a state that it was offered.
    pub(super) fn wanted(
        &mut self,
        from: NodeId,
        disk: u64,
        group: u64,
        at: At,
        after: Bytes,
        state: &dyn State,
    ) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let offered = slot.member.offered() == Some(at);
        let chunk = offered.then(|| state.chunk(slot.shard, at.index, &after)).flatten();
        match chunk {
            Some(_) => slot.member.takes_snapshot(disk),
            None => slot.member.withdraw(disk),
        }
        let part = Part::Chunk { group, at, after, chunk };
        self.bulk.entry(from).or_default().push(part);
    }

    /// A part of a state has come.
    pub(super) fn take(
        &mut self,
        group: u64,
        at: At,
        after: &Bytes,
        chunk: Option<Chunk>,
        state: &mut dyn State,
    ) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let expected = |taking: &&mut Taking| taking.at == at && taking.after == *after;
        let Some(taking) = slot.taking.as_mut().filter(expected) else { return };
        let Some(Chunk { records, next }) = chunk else {
            // Not to be had any more: the leader will offer a newer one.
            slot.taking = None;
            return;
        };
        if !state.stage(slot.shard, &records, &mut self.out.writes) {
            slot.taking = None;
            return self.unstage(group, state);
        }
        taking.idle = 0;
        if let Some(next) = next {
            taking.after = next.clone();
            let from = taking.from;
            slot.member.stage(Some((at, next.clone())), &mut self.out.writes);
            return self.send(from, Part::Want { group, at, after: next });
        }
        self.complete(group, at, state);
    }

    /// All of a state is here.
    fn complete(&mut self, group: u64, at: At, state: &mut dyn State) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let Some(taking) = slot.taking.take() else { return };
        slot.member.receive(taking.message);
        self.drain(group, state);
        // A leader of another term offers its own.
        if self.slots.get(&group).is_some_and(|slot| slot.member.base() != at.index) {
            self.unstage(group, state);
        }
    }

    fn unstage(&mut self, group: u64, state: &mut dyn State) {
        if let Some(slot) = self.slots.get_mut(&group) {
            state.discard(slot.shard, &mut self.out.writes);
            slot.member.stage(None, &mut self.out.writes);
        }
    }

    /// Asks again for what did not come.
    pub(super) fn go_on_taking(&mut self, group: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        let Some(taking) = &mut slot.taking else { return };
        taking.idle += 1;
        let (idle, at, after, from) = (taking.idle, taking.at, taking.after.clone(), taking.from);
        if idle > HOPELESS_TICKS {
            slot.taking = None;
        } else if idle.is_multiple_of(AGAIN_TICKS) {
            self.send(from, Part::Want { group, at, after });
        }
    }
}
