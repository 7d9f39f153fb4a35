//! What a node says is on its disk (R1), and what was on it is found again (R7).
//!
//! Clients would notice few of these bugs: what was told too early is mostly told again.

use atoll_replication::core::message::Message;
use atoll_replication::transport::NodeId;
use atoll_store::dot::{Dot, VersionVector};
use atoll_store::operation::Operation;
use atoll_store::shard::ShardId;

use super::ledger::Place;
use super::machine::covers;
use super::world::World;

impl World {
    /// Nobody hears of what a crash could take back.
    pub(super) fn check_sent(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let Some(machine) = self.machines.iter().find(|machine| machine.id() == from) else {
            return;
        };
        let early = claims(message).into_iter().find(|place| !covers(&machine.told, *place));
        if let Some(place) = early {
            let name = machine.name();
            self.ledger.complain(format!(
                "told of what is not durable: {name}, {place:?} at {} to {to}: {message:?}",
                self.time
            ));
        }
    }

    /// A start holds what the last one knew to be durable.
    pub(super) fn check_start(&mut self, at: usize) {
        let (machine, found) = (&self.machines[at], self.machines[at].vectors());
        let held = |(shard, vector): (&ShardId, &VersionVector)| {
            found.get(shard).is_some_and(|found| found.contains(vector))
        };
        if let Some((shard, vector)) = machine.durable.iter().find(|one| !held(*one)) {
            let (name, found) = (machine.name(), found.get(shard));
            self.ledger.complain(format!(
                "started with less than was durable: {name}, {shard}, {found:?} of {vector:?}"
            ));
        }
    }
}

/// What a message says that its sender has: the last of each origin.
fn claims(message: &Message) -> Vec<Place> {
    let all = |shard: ShardId, vector: &VersionVector| {
        let places = vector.iter().map(|(origin, sequence)| (shard, Dot { origin, sequence }));
        places.collect::<Vec<_>>()
    };
    match message {
        Message::Operations { batches, .. } => {
            let each = batches.iter().flat_map(|(shard, operations)| {
                operations.iter().map(|bytes| (*shard, Operation::peek(bytes)))
            });
            each.filter_map(|(shard, head)| Some((shard, head.ok()?.0))).collect()
        }
        Message::Acknowledge(seen) => {
            let vector = |sequences: &[_]| sequences.iter().copied().collect();
            seen.iter().flat_map(|seen| all(seen.shard, &vector(&seen.sequences))).collect()
        }
        Message::Vectors(told) => {
            told.shards.iter().flat_map(|state| all(state.shard, &state.vector)).collect()
        }
        Message::StateChunk { shard, chunk, .. } => all(*shard, &chunk.vector),
        _ => Vec::new(),
    }
}
