//! What nodes hold, as lines of the history: whoever asks them for digests can judge convergence.
//!
//! Left out: damaged shards, of which a node tells no digest; and samples while a copy was made to
//! differ, which is no fault of the product.

use serde_json::{Map, Value, json};

use super::clients::FINAL_CLIENTS;
use super::machine::Machine;
use super::world::World;
use crate::checkers::convergence::{FINAL_DIGEST, SAMPLE};
use crate::history::Type;

/// Between two samples of all nodes.
const EVERY_MS: u64 = 500;
/// Clients with this number and above read final digests.
const FIRST_CLIENT: u64 = 2 * FINAL_CLIENTS;

impl World {
    /// Records what every node holds now, if that is due.
    pub(super) fn record_samples(&mut self) {
        if self.next_record > self.time || self.is_repairing() {
            return;
        }
        self.next_record = self.time + EVERY_MS;
        for at in 0..self.machines.len() {
            if let Some(value) = digests(&self.machines[at]) {
                self.recorder.nemesis(self.nanos(), SAMPLE, value);
            }
        }
    }

    /// Records what every node holds in the end.
    pub(super) fn record_final_samples(&mut self) {
        let time = self.nanos();
        let living = self.machines.iter().filter(|machine| !machine.gone);
        for (client, machine) in (FIRST_CLIENT..).zip(living) {
            let (name, held) = (machine.name(), digests(machine));
            self.recorder.invoke(time, client, FINAL_DIGEST, Value::Null, Some(&name));
            let (kind, value) = match held {
                Some(value) => (Type::Ok, value),
                None => (Type::Fail, Value::Null),
            };
            self.recorder.end(time, client, kind, FINAL_DIGEST, value, None, Some(&name));
        }
    }
}

/// What a node holds, shard by shard, and what it is not recorded for; none while it is down.
fn digests(machine: &Machine) -> Option<Value> {
    let engine = machine.running.as_ref()?.driver.core().engine();
    let shards = engine.shards().filter_map(|shard| {
        let digest = format!("{:032x}", engine.digest(shard).0?);
        let vector = engine.vector(shard);
        let seen = vector.iter().map(|(origin, last)| (format!("{:016x}", origin.0), json!(last)));
        let mut seen: Map<String, Value> = seen.collect();
        // It covers retired origins, which it does not spell out: some of its node's own roll.
        let roll = match engine.is_whole(shard) {
            true => json!(engine.roll().1),
            false => json!([machine.name(), vector.covered()]),
        };
        seen.insert("retired".into(), roll);
        let state = json!({ "digest": digest, "vector": seen });
        Some((shard.to_string(), state))
    });
    let mut held = Map::new();
    held.insert("node".into(), machine.name().into());
    held.insert("shards".into(), Value::Object(shards.collect()));
    let elsewhere = machine.unrecorded();
    if !elsewhere.is_empty() {
        held.insert("elsewhere".into(), elsewhere.iter().map(ToString::to_string).collect());
    }
    Some(Value::Object(held))
}
